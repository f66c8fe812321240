"""Every command with every built-in model: it works, or one sentence says which command does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.checkpoint.tiny import BUILT_IN, tiny_folder
from moshi_mlx.cli.main import COMMANDS, main
from moshi_mlx.tasks.kinds import Kind, kind_of

TAKE_ALL = ("bench", "download", "info", "quantize", "doctor", "compare")
"""Commands that take a model of every kind."""
WITHOUT_A_MODEL = ("devices", "demo", "codec")
RUNS_ONE = {command: kind for kind in Kind for command in kind.commands}

every_model = pytest.mark.parametrize("model", BUILT_IN)


def kind(model: str) -> Kind:
    return kind_of(inspect(tiny_folder(model)).config)


def arguments(command: str, model: str, folder: Path) -> list[str]:
    sound = str(folder / "in.wav")
    return {
        "chat": ["chat", "--model", model],
        "run": ["run", "--model", model, sound, str(folder / "out.wav")],
        "transcribe": ["transcribe", "--model", model, sound],
        "speak": ["speak", "--model", model, "Hello.", "-o", str(folder / "out.wav")],
        "translate": ["translate", "--model", model, sound],
        "write": ["write", "--model", model, "Once"],
    }[command]


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "in.wav", np.zeros(24_000, np.float32), 24_000)
    return tmp_path


def test_every_command_is_in_the_matrix() -> None:
    assert set(COMMANDS) <= {*TAKE_ALL, *WITHOUT_A_MODEL, *RUNS_ONE}


@every_model
@pytest.mark.parametrize("command", [command for command in COMMANDS if command in RUNS_ONE])
def test_a_model_of_another_kind_is_told_its_command(
    command: str, model: str, sound: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    its = kind(model)
    if RUNS_ONE[command] is its:
        return  # what it does with its own kind is tested where the command is
    assert main(arguments(command, model, sound)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    told = said.err.splitlines()[-1]
    assert told == (f"moshi-mlx: error: {model} {its.value.does}; use `moshi-mlx {its.command} --model {model}`")


@every_model
def test_info_tells_the_command(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["command"] == f"moshi-mlx {kind(model).command} --model {model}"


@every_model
def test_download_is_done_at_once(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", model]) == 0
    assert Path(capsys.readouterr().out.strip()) == tiny_folder(model)


@every_model
def test_doctor_looks_at_it(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--model", model, "--json"])
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["model"]["state"] == "ok"
    assert {"memory", "speed"} <= set(checks)


@every_model
def test_it_is_quantized_and_what_that_cost_is_compared(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, quantized = str(tiny_folder(model)), str(tmp_path / "q8")
    assert main(["quantize", source, quantized, "--q-bits", "8", "--q-group-size", "32"]) == 0
    assert inspect(quantized).precision == "q8"
    assert ("--audio SPEECH.wav" in capsys.readouterr().out) == kind(model).value.hears
    assert main(["info", quantized, "--check"]) == 0
    capsys.readouterr()
    assert main(["compare", source, quantized, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["models"][0]["nbytes"] < report["nbytes"]


@every_model
def test_bench_times_the_stages_that_it_has(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--model", model, "--frames", "2", "--from-frame", "0", "--json"]) == 0
    config = inspect(tiny_folder(model)).config
    stages = json.loads(capsys.readouterr().out)["runs"][0]["stages"]
    assert ("encode" in stages) == bool(config.user_codebooks)
    assert ("decode" in stages) == ("depth" in stages) == bool(config.dep_q)
    assert "lm" in stages


def test_doctor_names_the_command_of_a_model_at_the_end() -> None:
    from argparse import Namespace

    from moshi_mlx.cli.doctor import command_of

    assert command_of(Namespace(model="tiny", bits=None)) == "chat"
    assert command_of(Namespace(model="tiny-stt", bits=None)) == "transcribe --model tiny-stt"
