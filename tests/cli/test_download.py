"""`moshi-mlx download` as a script and as a person at a terminal meet it, against a Hub on 127.0.0.1."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import Hub, serving

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import CONFIG

MAIN = [sys.executable, "-m", "moshi_mlx.cli.main", "download"]


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"config.json": json.dumps(CONFIG).encode(), MIMI: b"codec", TOKENIZER: b"text", "README.md": b"#"}
    large = {**files, "model.safetensors": os.urandom(60_000_000)}
    small = {**files, "model.safetensors": os.urandom(100)}
    with serving(Hub(repos={"kyutai/large": large, "kyutai/small": small})) as hub:
        yield hub


@pytest.fixture
def environment(hub: Hub, tmp_path: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    return {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}


def script(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MAIN, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip


def at_terminal(environment: dict[str, str], answer: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr with a real terminal at stdin, on which `answer` has been typed."""
    typed, stdin = pty.openpty()
    try:
        os.write(typed, answer.encode())
        done = subprocess.run(
            [*MAIN, *arguments], env=environment, stdin=stdin, capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        os.close(typed)
        os.close(stdin)
    return done.returncode, done.stdout, done.stderr


def test_a_script_says_yes_and_gets_the_path_alone(hub: Hub, environment: dict[str, str]) -> None:
    done = script(environment, "kyutai/large", "--yes")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.rstrip("\n"))
    assert (folder / "model.safetensors").read_bytes() == hub.repos["kyutai/large"]["model.safetensors"]
    assert "kyutai/large: 60 MB in 3 files; " in done.stderr
    assert f"free in {environment['HF_HOME']}/hub" in done.stderr


def test_a_script_that_does_not_say_yes_is_told_to_and_downloads_nothing(hub: Hub, environment: dict[str, str]) -> None:
    done = script(environment, "kyutai/large")
    assert (done.returncode, done.stdout) == (2, "")
    assert "run `moshi-mlx download kyutai/large --yes`" in done.stderr.splitlines()[-1]
    assert hub.downloads() == []


def test_a_person_is_asked_once(hub: Hub, environment: dict[str, str]) -> None:
    code, out, err = at_terminal(environment, "n\n", "kyutai/large")
    assert (code, out) == (2, "")
    assert err.count("download it? [Y/n]") == 1
    assert hub.downloads() == []
    code, out, err = at_terminal(environment, "\n", "kyutai/large")
    assert code == 0, err
    assert err.count("download it? [Y/n]") == 1
    assert (Path(out.strip()) / "model.safetensors").stat().st_size == 60_000_000
    code, again, err = at_terminal(environment, "", "kyutai/large")
    assert (code, again) == (0, out)
    assert "download it?" not in err


def test_small_models_come_without_a_question_and_json_tells_what_came(environment: dict[str, str]) -> None:
    done = script(environment, "kyutai/small", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["model"] == "kyutai/small"
    assert told["bytes"] == sum(path.stat().st_size for path in Path(told["path"]).iterdir())


def test_what_cannot_be_had_is_one_sentence_and_exit_code_2(environment: dict[str, str]) -> None:
    done = script(environment, "moshyko")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("moshi-mlx: error: there is no model 'moshyko' (did you mean moshiko?)")
    assert done.stderr.count("\n") == 1
