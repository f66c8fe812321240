"""Results as data: read back, compared, and refused where they are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moshi_mlx import MoshiError
from moshi_mlx.bench.report import (
    FORM,
    compact,
    compare,
    differing_settings,
    is_moshi,
    predictions,
    read_result,
    standing,
)
from moshi_mlx.checkpoint.sizes import frame_bytes
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.speed import predict

MOSHI = LMConfig.from_dict(MOSHI_7B)


def result(p50: float, spread: float | None = 1.0, **machine: Any) -> dict[str, Any]:
    times = {"p50_ms": p50, "p95_ms": 2 * p50, "spread_ms": spread}
    run = {"name": "q4", "stages": {"lm": times, "encode": times}, "series": {"lm_ms": [p50] * 9}}
    return {"form": FORM, "machine": machine, "runs": [run], "predictions": [1]}


def test_a_difference_within_both_spreads_is_none() -> None:
    (row, _) = compare(result(50), result(52))
    assert (row["before_ms"], row["after_ms"], row["spread_ms"], row["differs"]) == (50, 52, 2, False)
    (row, _) = compare(result(50), result(48, spread=0.5))
    assert row["differs"]
    assert row["ratio"] == 0.96
    (row, _) = compare(result(50, None), result(50, None))
    assert not row["differs"]


def test_only_what_both_have_is_compared() -> None:
    other = result(50)
    other["runs"][0]["name"] = "q8"
    assert compare(result(50), other) == []
    del other["runs"][0]["stages"]["encode"]
    other["runs"][0]["name"] = "q4"
    assert [row["stage"] for row in compare(result(50), other)] == ["lm"]


def test_what_was_not_the_same_is_told() -> None:
    assert differing_settings(result(1, chip="M1"), result(1, chip="M2")) == ["chip: M1, M2"]
    assert differing_settings(result(1, chip="M1"), result(1, chip="M1")) == []


def test_a_result_is_read_as_a_whole_or_by_its_last_line(tmp_path: Path) -> None:
    whole, table = tmp_path / "a.json", tmp_path / "b.txt"
    whole.write_text(json.dumps(result(50), indent=2))
    table.write_text(f"a table\n\nq4 keeps up.\n{compact(result(50))}\n")
    assert read_result(whole) == result(50)
    read = read_result(table)
    assert "series" not in read["runs"][0]
    assert compare(read, result(50))[0]["ratio"] == 1
    assert "\n" not in compact(result(50))


@pytest.mark.parametrize(
    "text", ["", "no JSON", "[]", "{}", '{"form": "moshi-mac bench 99", "runs": []}', f'{{"form": "{FORM}"}}', "\xff"]
)
def test_what_is_no_result_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(MoshiError, match=r"a\.json (is no result|cannot be read)"):
        read_result(path)
    with pytest.raises(MoshiError, match=r"cannot be read"):
        read_result(tmp_path / "missing.json")


def test_predictions_are_those_of_the_floor_for_every_chip_and_precision() -> None:
    rows = {row["chip"]: row for row in predictions(MOSHI)}
    assert rows["M1 Pro"]["predicted"]["q4"]["likely_ms"] == round(
        1000 * predict(frame_bytes(MOSHI, 4), 200e9).likely_s, 3
    )
    assert all(set(row["predicted"]) == {"q4", "q8", "bf16"} for row in rows.values())
    assert is_moshi(MOSHI)
    assert not is_moshi(LMConfig.from_dict({**MOSHI_7B, "num_layers": 4}))


def test_a_machine_stands_as_its_slow_frames_do() -> None:
    run = result(30)["runs"][0]
    assert standing(run) is not None
    assert getattr(standing(run), "seconds", None) == 0.06
    run["stages"]["pipeline"] = {"p95_ms": 70.0}
    assert getattr(standing(run), "seconds", None) == 0.07
    assert standing({"name": "q4", "stages": {}}) is None
