"""What happens to a conversation: sound servers that die, signals, full disks. `chat` itself, as a process."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile
from jack_room import MISSING, JackServer, Room

from moshi_mlx.live.echo import available

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

CHAT = [sys.executable, "-m", "moshi_mlx.cli.main", "chat", "--model", "tiny", "--json"]
RATE = 24_000
TIMEOUT_S = 90


@pytest.fixture
def server() -> Iterator[JackServer]:
    server = JackServer()
    server.start()
    yield server
    server.stop()


@contextmanager
def chat(server: JackServer, *arguments: str, before: Callable[[], None] | None = None) -> Iterator[Chat]:
    quiet: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*CHAT, *arguments], env=server.environment, preexec_fn=before, **quiet) as process:
        try:
            yield Chat(process)
        finally:
            process.kill()


class Chat:
    """A conversation that runs, and what it prints."""

    def __init__(self, process: subprocess.Popen[str]):
        self.process = process
        self.frames: list[dict[str, Any]] = []

    @property
    def stdout(self) -> IO[str]:
        assert self.process.stdout is not None
        return self.process.stdout

    def go_on(self, frames: int) -> None:
        """Wait for so many more answers."""
        for _ in range(frames):
            line = self.stdout.readline()
            assert line, self.process.communicate()[1]
            self.frames.append(json.loads(line))

    def end(self, number: signal.Signals = signal.SIGINT) -> tuple[dict[str, Any], str]:
        """Send a signal; returns the last line of stdout, and stderr."""
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=TIMEOUT_S)
        lines = [json.loads(line) for line in out.splitlines() if line.endswith("}")]
        return lines[-1] if lines else {}, errors


def recorded(folder: Path) -> np.ndarray:
    """The recording in `folder`, float32 [n, 2]; its files are whole."""
    [record] = folder.iterdir()
    for line in (record / "transcript.jsonl").read_text().splitlines():
        assert json.loads(line)["text"]
    trace = (record / "trace.json").read_text().rstrip().rstrip(",")
    spans = json.loads(trace if trace.endswith("]") else trace + "]")
    assert {"encode", "lm", "decode"} <= {span["name"] for span in spans}
    samples, rate = soundfile.read(record / "audio.wav", dtype="float32")
    assert rate == RATE
    assert np.isfinite(samples).all()
    return samples


@pytest.mark.parametrize("crash", [False, True])
def test_the_sound_server_dies_and_comes_back(server: JackServer, tmp_path: Path, crash: bool) -> None:
    with chat(server, "--record", str(tmp_path)) as talk:
        talk.go_on(10)
        began, heard = time.monotonic(), talk.frames[-1]["time"]
        server.stop(crash)
        time.sleep(1.5)
        server.start()
        talk.go_on(25)
        away = talk.frames[-1]["time"] - heard
        assert abs(away - (time.monotonic() - began)) < 1.0  # the clock went on
        summary, errors = talk.end()
    assert talk.process.returncode == 0
    assert errors.count("has gone; looking for another device") == 1
    assert errors.count("It goes on with system") == 1
    assert "Traceback" not in errors
    assert summary["devices_reopened"] == 1
    lost = summary["dropped"]["no device was open"]
    assert lost * 0.08 >= 1.3  # of the 1.5 s and more
    indices = [frame["frame"] for frame in talk.frames]
    skipped = indices[-1] + 1 - len(indices)
    assert lost <= skipped <= summary["dropped_total"]
    samples = recorded(tmp_path)
    assert len(samples) / RATE == pytest.approx(summary["seconds"], abs=1.0)
    assert len(samples) >= 1920 * (indices[-1] + 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(server: JackServer, tmp_path: Path, number: signal.Signals) -> None:
    with chat(server, "--record", str(tmp_path)) as talk:
        talk.go_on(15)
        sent = time.monotonic()
        summary, errors = talk.end(number)
    assert time.monotonic() - sent < 5.0  # and at once: most of it is the end of Python
    assert talk.process.returncode == 0
    assert "Traceback" not in errors
    assert summary["frames"] >= 15
    assert recorded(tmp_path).shape[0] >= 1920 * (talk.frames[-1]["frame"] + 1)


def test_killed_outright_it_loses_the_last_second_at_most(server: JackServer, tmp_path: Path) -> None:
    with chat(server, "--record", str(tmp_path)) as talk:
        talk.go_on(30)
        talk.end(signal.SIGKILL)
    assert talk.process.returncode == -signal.SIGKILL
    assert recorded(tmp_path).shape[0] >= 1920 * (talk.frames[-1]["frame"] + 1) - RATE


def test_a_full_disk_ends_the_recording_and_not_the_conversation(server: JackServer, tmp_path: Path) -> None:
    limit = 300_000

    def little_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    with chat(server, "--record", str(tmp_path), before=little_disk) as talk:
        talk.go_on(60)
        summary, errors = talk.end()
    assert talk.process.returncode == 0
    assert summary["frames"] >= 60
    told = [line for line in errors.splitlines() if "recording stopped" in line]
    assert len(told) == 1
    assert str(tmp_path) in told[0]
    samples = recorded(tmp_path)
    assert 0 <= limit - samples.nbytes < 3 * 1920 * 8


def test_a_device_that_does_not_exist_is_one_sentence(server: JackServer, tmp_path: Path) -> None:
    with chat(server, "-i", "kitchen", "--record", str(tmp_path)) as talk:
        out, errors = talk.process.communicate(timeout=TIMEOUT_S)
    assert talk.process.returncode == 2
    assert out == ""
    [error] = [line for line in errors.splitlines() if "error" in line]
    assert "'kitchen'" in error
    assert "system" in error  # the one there is
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


def test_two_at_once_both_go_on_and_record(server: JackServer, tmp_path: Path) -> None:
    with chat(server, "--record", str(tmp_path / "one")) as one, chat(server, "--record", str(tmp_path / "two")) as two:
        one.go_on(12)
        two.go_on(12)
        one.go_on(12)
        ends = [talk.end() for talk in (one, two)]
    for talk, (summary, errors), folder in zip((one, two), ends, ("one", "two"), strict=True):
        assert talk.process.returncode == 0, errors
        assert summary["frames"] >= 12
        assert recorded(tmp_path / folder).shape[0] >= 1920 * 12


@pytest.mark.skipif(not available(), reason="livekit is not installed (pip install livekit)")
def test_airpods_that_are_taken_out_switch_echo_cancellation_on(server: JackServer) -> None:
    airpods = Room(server, "AirPods")
    with chat(server, "-i", "system", "-o", "AirPods") as talk:
        talk.go_on(5)
        airpods.close()
        server.stop()
        server.start()
        talk.go_on(10)
        _, errors = talk.end()
    first, *later = [line for line in errors.splitlines() if "cho cancellation is" in line]
    assert "echo cancellation is off: AirPods is worn on the ears" in first
    assert [line for line in later if "is on: system is heard by the microphone" in line] == later
    assert len(later) == 1
