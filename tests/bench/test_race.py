"""The race. Against Kyutai's port where MOSHI_PEER_PYTHON names the Python of its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moshi_mlx import MoshiError
from moshi_mlx.bench import race as race_module
from moshi_mlx.bench.race import race, random_checkpoint
from moshi_mlx.bench.random_model import SIZES

PEER = os.environ.get("MOSHI_PEER_PYTHON")


@pytest.fixture(scope="module")
def checkpoint():
    with random_checkpoint(SIZES["tiny"]) as folder:
        yield folder


def test_our_side_answers_line_by_line(checkpoint: Path) -> None:
    asked = [{"skip_to": 3000}, {"frames": 2}, {"count": True}, {"skip_to": 0}, {"frames": 1}]
    done = subprocess.run(
        [sys.executable, str(race_module._WORKER), "ours", json.dumps({"folder": str(checkpoint)})],
        input="".join(json.dumps(question) + "\n" for question in asked),
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONSAFEPATH": "1"},
    )
    hello, skipped, seconds, count, again, one = map(json.loads, done.stdout.splitlines())
    assert hello["name"].startswith("moshi-mac")
    assert skipped is again is True
    assert len(seconds) == 2
    assert len(one) == 1
    assert count["waits"] == 1


@pytest.mark.parametrize(
    ("python", "said"), [(sys.executable, "does not run in the race"), ("./none", "cannot be started")]
)
def test_an_environment_without_the_peer_is_told_in_a_sentence(python: str, said: str, checkpoint: Path) -> None:
    with pytest.raises(MoshiError, match=said) as refused:
        race(checkpoint, python, [0], frames=1, turns=1)
    assert "\n" not in str(refused.value)


def test_both_sides_must_fit_in_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race_module, "available_memory", lambda: 10**9)
    with pytest.raises(MoshiError, match="holds both sides in memory"):
        race(checkpoint, "python", [0])


@pytest.mark.skipif(PEER is None, reason="MOSHI_PEER_PYTHON names no environment with Kyutai's moshi_mlx")
def test_against_kyutais_port_at_the_start_and_with_a_full_window(checkpoint: Path) -> None:
    assert PEER is not None
    result = race(checkpoint, PEER, [0, 3000], frames=10, turns=3)
    assert [row["position"] for row in result["positions"]] == [0, 3000]
    assert all(len(row["turns"]) == 3 for row in result["positions"])
    assert result["sides"]["ours"]["waits"] == 1
    assert result["sides"]["peer"]["waits"] >= 18
    assert result["sides"]["ours"]["nodes"] < result["sides"]["peer"]["nodes"]
