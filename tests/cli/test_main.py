"""The command line as the shell sees it: help at once, one sentence for what went wrong, and the right exit code."""

from __future__ import annotations

import importlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

import moshi_mlx
from moshi_mlx.cli.main import COMMANDS, build_parser, main

MOSHI_MLX = [sys.executable, "-m", "moshi_mlx.cli.main"]
RUN_TINY = ["run", "--model", "tiny"]
TIMEOUT_S = 120


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MOSHI_MLX, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)


@pytest.fixture
def minute(tmp_path: Path) -> Path:
    """A wav of a minute of faint noise: long enough to be interrupted."""
    path = tmp_path / "minute.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.01, 60 * 24_000).astype(np.float32), 24_000)
    return path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_ends_in_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: moshi-mlx {command} " in text
    assert f"moshi-mlx {command}" in text.split("example:\n", 1)[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_example_is_a_command_line_that_parses(command: str) -> None:
    lines = importlib.import_module(f"moshi_mlx.cli.{command}").EXAMPLE.splitlines()
    assert lines
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "moshi-mlx"
        assert build_parser().parse_args(arguments).command == command


def test_help_lists_every_command_with_what_it_does() -> None:
    text = " ".join(run("--help").stdout.split())
    for command in COMMANDS:
        assert f" {command} {importlib.import_module(f'moshi_mlx.cli.{command}').HELP} " in text


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_help_imports_nothing_but_the_standard_library(arguments: list[str]) -> None:
    script = f"""
import sys
before = set(sys.modules)  # what the environment itself imports at start
from moshi_mlx.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
imported = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print("imported:", sorted(imported - sys.stdlib_module_names))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "imported: ['moshi_mlx']"


def test_without_a_command_it_prints_the_help() -> None:
    result = run()
    assert result.returncode == 0
    assert result.stdout == run("--help").stdout


def test_version_is_the_librarys() -> None:
    result = run("--version")
    assert (result.returncode, result.stdout) == (0, f"moshi-mlx {moshi_mlx.__version__}\n")


@pytest.mark.parametrize("arguments", [["converse"], ["--no-such-flag"], ["codec", "encode", "--codebooks", "many"]])
def test_a_wrong_command_line_is_one_line_under_the_usage(arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert not result.stdout
    usage, _, error = result.stderr.rstrip("\n").rpartition("\n")
    assert usage.startswith("usage: moshi-mlx")
    assert error.startswith("moshi-mlx")
    assert ": error: " in error


@pytest.mark.parametrize(
    "arguments",
    [
        [*RUN_TINY, "no-such-file.wav", "reply.wav"],
        ["run", "--model", "./no-such-folder", "in.wav", "reply.wav"],
        ["info", "./no-such-folder"],
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_exit_code_2(arguments: list[str], tmp_path: Path) -> None:
    result = subprocess.run([*MOSHI_MLX, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=TIMEOUT_S)
    assert result.returncode == 2
    assert not result.stdout
    (line,) = result.stderr.splitlines()
    assert line.startswith("moshi-mlx: error: ")
    assert not any(tmp_path.iterdir())


def test_an_interrupt_ends_it_with_130_and_leaves_no_half_written_reply(minute: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*MOSHI_MLX, *RUN_TINY, "--json", str(minute), str(tmp_path / "reply.wav")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_heed_interrupts,
    ) as process:
        _wait_for_work(process, tmp_path)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "moshi-mlx: interrupted"
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["minute.wav"]


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell lets what it starts with & ignore them


def _wait_for_work(process: subprocess.Popen[str], folder: Path) -> None:
    """Until a frame of the reply has been written, under whatever temporary name."""
    deadline = time.monotonic() + TIMEOUT_S
    while not any(path.stat().st_size > 44 for path in folder.glob(".*")):
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["info", "tiny"], ["info", "--help"], ["--help"], ["--version"], []])
def test_a_reader_that_has_gone_is_no_fault(arguments: list[str], unbuffered: str) -> None:
    ours, theirs = os.pipe()
    os.close(ours)  # nobody reads, as after `| true`
    with os.fdopen(theirs, "w") as stdout:
        result = subprocess.run(
            [*MOSHI_MLX, *arguments],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["info tiny", "--help"])
def test_standard_files_may_be_closed(arguments: str, closed: str) -> None:
    command = f"{shlex.join(MOSHI_MLX)} {arguments} {closed}"
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [["info", "tiny"], ["info", "tiny", "--json"]])
def test_output_that_does_not_fit_is_told_in_one_sentence(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [*MOSHI_MLX, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S
        )
    assert result.returncode == 2
    assert result.stderr == "moshi-mlx: error: output: No space left on device; make room, then again\n"
