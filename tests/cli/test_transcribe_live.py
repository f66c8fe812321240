"""`transcribe` without a file: a real microphone stream over JACK's dummy device, with the built-in model."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from jack_room import MISSING, Room, jack_rooms

from moshi_mlx.cli.live import HELD_SECONDS

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

COMMAND = [sys.executable, "-m", "moshi_mlx.cli.main", "transcribe", "--model", "tiny-stt", "-i", "room"]
TIMEOUT_S = 90


@pytest.fixture
def room(speechlike) -> Iterator[Room]:
    """A room in which somebody talks for minutes."""
    with jack_rooms("room") as [room]:
        room.play(speechlike(1500))
        yield room


def begin(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def rest(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What it still prints to its end; `communicate` would forget what has been read ahead."""
    assert process.stdout is not None
    assert process.stderr is not None
    out, notes = process.stdout.read(), process.stderr.read()
    process.wait(TIMEOUT_S)
    return out, notes


def test_the_microphone_is_transcribed_until_ctrl_c_and_the_last_words_are_told(room, tmp_path):
    process = begin("--json")
    assert process.stdout is not None
    frames = [json.loads(process.stdout.readline()) for _ in range(25)]
    assert not room.heard().any()  # no speaker was opened
    process.send_signal(signal.SIGINT)
    out, notes = rest(process)
    assert process.returncode == 0, notes
    *more, whole = map(json.loads, out.splitlines())
    frames += more
    assert "listening; Ctrl-C ends it" in notes
    assert "".join(frame["text"] for frame in frames).strip() == whole["text"] != ""
    assert [word for frame in frames for word in frame["words"]] == whole["words"]
    assert len(frames) == round(whole["seconds"] * 12.5) - whole["dropped_total"] + 19 + 1  # 1.5 s of silence after it
    heard = [frame["pause"] for frame in frames if frame["pause"] is not None]
    assert whole["dropped_total"] or whole["pauses"] == heard[:-19]


def test_a_second_ctrl_c_ends_it_at_once_and_loses_nothing(room, tmp_path):
    process = begin("-o", tmp_path / "said.txt")
    assert process.stdout is not None
    begun = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    time.sleep(HELD_SECONDS)
    process.send_signal(signal.SIGINT)
    out, notes = rest(process)
    assert process.returncode in (0, 130), notes
    assert "Traceback" not in notes
    written = (tmp_path / "said.txt").read_text()
    assert "".join(written.split()).startswith("".join((begun + out).split()))


def test_what_an_earlier_one_has_left_stays_where_no_microphone_can_be_opened(tmp_path):
    (tmp_path / "said.txt").write_text("earlier")
    with jack_rooms("room"):
        process = begin("-o", tmp_path / "said.txt")
        assert process.stderr is not None
        while "loading" not in process.stderr.readline():
            assert process.poll() is None
    out, notes = rest(process)  # the sound server has gone
    assert (process.returncode, out) == (2, "")
    assert "Traceback" not in notes
    assert [path.name for path in tmp_path.iterdir()] == ["said.txt"]
    assert (tmp_path / "said.txt").read_text() == "earlier"
