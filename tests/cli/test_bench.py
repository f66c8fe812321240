"""`moshi-mlx bench`: tables, JSON, a picture, comparisons, and refusals in one sentence."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from moshi_mlx.bench import stages, subjects
from moshi_mlx.cli import bench
from moshi_mlx.cli.main import main

TINY = ["bench", "--size", "tiny", "--frames", "3", "--from-frame", "10"]
LM = [*TINY, "--stages", "lm"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True, scope="module")
def _short_window():
    """A window of 64 frames: fewer sizes of the ring to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(subjects.SIZES, "tiny", {**subjects.SIZES["tiny"], "context": 64})
        yield


@pytest.fixture(scope="module")
def whole(_short_window: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Path]:
    """Output of a run of all stages, its picture, and the file with the output."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("bench")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([*TINY, "--plot", str(folder / "bench.png")]) == 0
    (folder / "bench.txt").write_text(output.getvalue())
    return output.getvalue(), folder / "bench.png", folder / "bench.txt"


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that says why."""
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert line.startswith("moshi-mlx: error: ")
    return line


def test_flags_offer_what_the_library_has() -> None:
    from moshi_mlx.bench import race, random_model

    assert set(bench.SIZES) == set(random_model.SIZES)
    assert bench.STAGES == stages.STAGES
    assert bench.PEERS == race.PEERS


def test_tables_then_the_verdict_then_a_line_of_json(whole: tuple[str, Path, Path]) -> None:
    text, _, _ = whole
    *lines, last = text.splitlines()
    result = json.loads(last)
    (run,) = result["runs"]
    assert list(run["stages"]) == [*stages.STAGES, "answer"]
    assert all(times["frames"] == 3 for times in run["stages"].values())
    assert run["graph"]["waits"] == 1
    assert run["real_time_factor"] > 0
    assert run["memory"]["peak"] >= run["memory"]["weights"]
    assert run["memory"]["over_weights_keys_and_values"] < 0.05
    assert result["bandwidth"] > 1e8
    assert result["verdict"] in lines
    assert result["settings"]["from_frame"] == 10
    assert {"mlx", "python", "rustymimi"} <= result["versions"].keys()
    assert all(any(stage in line for line in lines) for stage in stages.STAGES)


def test_the_documented_form_names_every_key(whole: tuple[str, Path, Path]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "results.md").read_text(encoding="utf-8")
    result = json.loads(whole[0].splitlines()[-1])
    run = result["runs"][0]
    for key in (*result, *(key for key in run if key != "name"), *run["stages"]["lm"]):
        assert re.search(rf"`[^`\n]*\b{key}\b", page), key


def test_a_result_becomes_a_row_of_the_page(whole: tuple[str, Path, Path], tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "scripts" / "make_results_table.py"
    (tmp_path / "m9.json").write_text(whole[0].splitlines()[-1])
    spec = importlib.util.spec_from_file_location("make_results_table", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (row,) = module.result_rows(tmp_path)
    assert len(row) == len(module.COLUMNS)
    assert row[2:5] == ("tiny, random weights", "float32", "10")
    assert row[-1] == "[m9](results/m9.json)"


def test_the_picture_is_one(whole: tuple[str, Path, Path]) -> None:
    _, picture, _ = whole
    assert picture.read_bytes().startswith(PNG)
    assert picture.stat().st_size > 20_000
    assert [path.name for path in picture.parent.iterdir() if path.suffix == ".png"] == ["bench.png"]


def test_json_alone_has_every_frame_and_compares_with_the_tables_last_line(
    whole: tuple[str, Path, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*LM, "--json"]) == 0
    output = capsys.readouterr()
    result = json.loads(output.out)
    assert len(result["runs"][0]["series"]["lm_ms"]) == 3
    (tmp_path / "a.json").write_text(output.out)
    assert main(["bench", "compare", str(tmp_path / "a.json"), str(whole[2]), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert [row["stage"] for row in compared["stages"]] == ["lm"]
    assert any(line.startswith("stages: ") for line in compared["settings"])
    assert main(["bench", "compare", str(whole[2]), str(whole[2])]) == 0
    table = capsys.readouterr().out
    assert "no difference seen" in table
    assert "faster" not in table


def test_a_checkpoint_is_measured_with_its_own_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", "tiny", "--frames", "2", "--stages", "lm,encode", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["settings"]["model"] == "tiny"
    assert result["settings"]["from_frame"] == 256
    assert result["runs"][0]["memory"]["keys_and_values"] == 2 * 4 * 4 * 256 * 128
    assert result["predictions"] == []


def test_what_small_macs_give_up_is_told_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--context", "40", "--kv-bits", "8", "--dtype", "float16"]
    assert main(["bench", "--size", "tiny", "-q", "16", "--frames", "2", "--stages", "lm", *flags, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [result["settings"][key] for key in ("from_frame", "context", "kv_bits", "dtype")] == [40, 40, 8, "float16"]
    (run,) = result["runs"]
    numbers = 2 * 4 * 256 * 40  # keys and values, layers, width, frames
    assert run["memory"]["keys_and_values"] == run["floor"]["key_and_value_bytes"] == numbers * 17 // 16


def test_a_second_load_runs_beside_it_and_ends_with_it(capsys: pytest.CaptureFixture[str]) -> None:
    from moshi_mlx.bench.contention import contended

    with contended():
        children = _children()
        assert len(children) == 1
    assert _children() == []
    assert main([*LM, "--contend", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["contend"] is True


def _children() -> list[str]:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("this system does not list a process's children in /proc")
    return " ".join((task / "children").read_text() for task in tasks.iterdir()).split()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames", "0"], "--frames must be at least 1"),
        (["--from-frame", "-1"], "--from-frame must be 0 or more"),
        (["--stages", "lm,nap"], "does not know 'nap'"),
        (["--plot", "a.jpeg"], "must end in .png"),
        (["--plot", "no-such-folder/a.png"], "its folder does not exist"),
        (["--peer", "moshi_mlx"], "--peer-python"),
        (["--peer-python", "python"], "--peer moshi_mlx"),
        (["--peer", "moshi_mlx", "--peer-python", "python"], "give --model, or --size"),
        (["--model", "tiny", "-q", "4", "8"], "a checkpoint has one precision"),
        (["--size", "tiny", "--context", "65"], "between 1 and 64 frames, not 65"),
        (["--size", "tiny", "--peer", "moshi_mlx", "--peer-python", "python", "--kv-bits", "8"], "leave --context"),
        (["--model", "./no-such-folder"], "no-such-folder"),
        (["--size", "narrow", "-q", "8"], "groups of 64"),
        (["compare", "no-such-file.json", "other.json"], "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(["bench", *arguments], capsys)


@pytest.mark.parametrize("bits", [["-q", "16"], ["-q", "4", "16"]])
def test_a_precision_that_does_not_fit_is_refused_before_anything_is_made(
    bits: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subjects, "available_memory", lambda: 10_000_000_000)
    monkeypatch.setattr(subjects, "random_lm", lambda *_, **__: pytest.fail("it was made"))
    line = refused(["bench", *bits], capsys)
    assert "moshi in bf16 needs 18.9 GB of memory and 10.0 GB can be had; -q 4 fits" in line


def test_what_does_not_fit_is_left_out_where_nobody_asked_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "available_memory", lambda: 12_000_000_000)
    found, unfit = subjects.random_subjects("moshi", None, None)
    assert ([subject.name for subject in found], unfit) == (["q4", "q8"], ["bf16"])
    monkeypatch.setattr(subjects, "available_memory", lambda: 1_000_000_000)
    with pytest.raises(subjects.MoshiError, match=r"moshi in q4 needs 8\.4 GB .* no precision fits"):
        subjects.random_subjects("moshi", None, None)


def test_the_verdict_tells_what_did_not_fit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = subjects.random_subjects("tiny", None, 0)[0]
    monkeypatch.setattr(subjects, "random_subjects", lambda *_: (some, ["q8"]))
    assert main(LM) == 0
    assert "; q8 does not fit in memory." in capsys.readouterr().out


def test_race_tables_tell_both_sides(capsys: pytest.CaptureFixture[str]) -> None:
    from moshi_mlx.cli.figures import _print_race

    side = {"name": "moshi-mac 0.1.0", "mlx": "0.32.4", "nodes": 640, "waits": 1}
    row = {"position": 3000, "ours_ms": 10.0, "peer_ms": 15.0, "ratio": 1.5, "least_ratio": 1.4, "greatest_ratio": 1.6}
    peer: dict[str, Any] = {"folder": "tiny", "sides": {"ours": side, "peer": side | {"name": "moshi_mlx 0.3.0"}}}
    _print_race(peer | {"positions": [row]})
    text = capsys.readouterr().out
    assert "moshi-mac 0.1.0 and moshi_mlx 0.3.0, both on MLX 0.32.4" in text
    assert text.splitlines()[2].split() == ["3,000", "10.00", "15.00", "1.50", "1.40", "1.60"]
