"""`chat` as a person meets it: in a real terminal, through real PortAudio streams, with the built-in model."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import terminal
from jack_room import MISSING, Room, jack_rooms
from terminal import Terminal

from moshi_mlx.cli import chat, live
from moshi_mlx.errors import MoshiError
from moshi_mlx.live.devices import SILENT_MICROPHONE, Device
from moshi_mlx.live.echo import available

needs_jack = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
needs_terminal = pytest.mark.skipif((MISSING or terminal.MISSING) is not None, reason=str(MISSING or terminal.MISSING))

CHAT = [sys.executable, "-m", "moshi_mlx.cli.main", "chat", "--model", "tiny", "-i", "room", "-o", "room"]
TIMEOUT_S = 90


@pytest.fixture
def room() -> Iterator[Room]:
    """A room in which somebody talks without end."""
    with jack_rooms("room") as [room]:
        room.play(np.random.default_rng(0).normal(0, 0.05, 300 * 24_000))
        yield room


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*CHAT, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    process.send_signal(number)
    return process.communicate(timeout=TIMEOUT_S)


def frames(process: subprocess.Popen[str], count: int) -> list[dict[str, object]]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def open_chat(window: Terminal, *arguments: str) -> list[str]:
    window.type(shlex.join([*CHAT, *arguments]), "Enter")
    return window.wait_until(lambda lines: any(line.startswith(" you ") and "dB" in line for line in lines))


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def line_of(lines: list[str], start: str) -> str:
    return next((line for line in lines if line.startswith(start)), "")


def fits(lines: list[str], columns: int, rows: int) -> bool:
    """Whether the whole screen stands in its place; a look may also catch it half drawn."""
    patterns = {
        0: r" Moshi  tiny float32, .* \d:\d\d",
        1: r" room",
        2: "─" * columns,
        -7: "─" * columns,
        -6: r" you     [▆·]+  (-\d+ dB|silent)",
        -5: r" Moshi   [▆·]+  (-\d+ dB|silent)",
        -4: r" frame   [▆·]+  \d+ of 80 ms (encode|lm|decode)",
        -3: r" +answer \d+ ms   dropped \d+   .*",
        -2: "─" * columns,
        -1: r"  m  mute    p  pause    n  new conversation    q  quit",
    }
    return len(lines) == rows and all(re.fullmatch(pattern, lines[row]) for row, pattern in patterns.items())


@needs_terminal
@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40)])
def test_the_screen_fits_and_follows_the_window(room: Room, width: int, height: int) -> None:
    with Terminal(width, height) as window:
        open_chat(window)
        for columns, rows in [(width, height), (width - 17, height - 5), (width + 20, height + 10), (width, height)]:
            window.resize(columns, rows)
            window.wait_until(lambda lines, size=(columns, rows): fits(lines, *size))
        window.wait_until(lambda lines: any(re.match(r"   \d:\d\d  \S", line) for line in lines[3:-7]))  # words
        window.type("q")
        window.wait_for_prompt()


@needs_terminal
def test_keys_mute_pause_begin_anew_and_quit(room: Room) -> None:
    with Terminal() as window:
        before = window.run("stty -a")
        open_chat(window)
        window.type("m")
        lines = window.wait_until(lambda lines: "unmute" in lines[-1])
        assert "muted" in line_of(lines, " you ")
        window.type("m", "Down", "p")  # the arrow is no key of ours
        window.wait_until(lambda lines: "paused" in lines[0] and "go on" in lines[-1])
        window.wait_until(lambda lines: "silent" in line_of(lines, " you "))
        window.type("p")
        window.wait_until(lambda lines: "dB" in line_of(lines, " you ") and "paused" not in lines[0])
        window.type("n")
        window.wait_for("Moshi has forgotten")
        window.type("q")
        text = "\n".join(window.wait_for_prompt())
        window.type("code=$?", "Enter")
        assert re.search(r"0:\d\d of conversation, [\d,]+ frames of 80 ms", text)
        for stage in ("encode", "lm", "decode", "answer"):
            assert re.search(rf" {stage}( +\d+\.\d){{4}}", text)
        assert re.search(r"dropped +\d+ frames", text)
        assert window.run("echo code $code; stty -a") == ["code 0", *before]


FAULTY = """
import sys
from moshi_mlx.cli.main import main
from moshi_mlx.errors import MoshiError
from moshi_mlx.pipeline import Stages

think, frames = Stages.think, []

def fall_over(self, codes):
    frames.append(codes)
    if len(frames) > 20:
        raise MoshiError("the model fell over")
    return think(self, codes)

Stages.think = fall_over
sys.exit(main(sys.argv[1:]))
"""


@needs_terminal
@pytest.mark.parametrize(
    ("way", "code", "told"),
    [
        ("Ctrl-C", 0, "of conversation"),
        ("Ctrl-C held down", 0, "of conversation"),
        ("SIGTERM", 0, "of conversation"),
        ("fault", 2, "moshi-mlx: error: the model fell over"),
    ],
)
def test_every_end_gives_the_terminal_back(room: Room, way: str, code: int, told: str, tmp_path: Path) -> None:
    with Terminal() as window:
        before = window.run("stty -a")
        if way == "fault":
            (tmp_path / "faulty.py").write_text(FAULTY)
            window.type(shlex.join([sys.executable, str(tmp_path / "faulty.py"), *CHAT[3:]]), "Enter")
            window.wait_until(lambda lines: lines[0].startswith(" Moshi"))
        else:
            open_chat(window)
        assert window.state() == "0 1"
        if way.startswith("Ctrl-C"):
            for _ in range(20 if "held" in way else 1):
                window.type("C-c")
        elif way == "SIGTERM":
            os.kill(window.child(), signal.SIGTERM)
        assert any(told in line for line in window.wait_for_prompt())
        window.type("code=$?", "Enter")
        assert window.state() == "1 0"
        assert not any(line.startswith(" you ") for line in window.lines())
        assert window.run("echo code $code; stty -a") == [f"code {code}", *before]


@needs_jack
def test_piped_it_is_words_on_stdout_and_notes_on_stderr(room: Room) -> None:
    process = begin("--greeting", "hello there friend")
    assert process.stdout is not None
    first = process.stdout.read(5)  # comes while the conversation runs
    out, errors = end(process, signal.SIGINT)
    assert process.returncode == 0
    assert first == "hello"
    assert "\x1b" not in out + errors
    notes = [line for line in errors.splitlines() if line.startswith("moshi-mlx: ")]
    assert any("tiny is a built-in model" in line and "noise" in line for line in notes)
    assert any("loading tiny" in line for line in notes)
    assert any("echo cancellation is " in line for line in notes)
    assert "of conversation" in errors
    assert "of conversation" not in out
    assert "Traceback" not in errors


@needs_jack
def test_json_is_an_object_for_each_frame_and_the_summary_last(room: Room, tmp_path: Path) -> None:
    process = begin("--json", "--no-echo-cancellation", "--record", str(tmp_path))
    before = frames(process, 20)
    out, errors = end(process, signal.SIGTERM)
    assert process.returncode == 0
    *after, summary = map(json.loads, out.splitlines())
    indices = [frame["frame"] for frame in (*before, *after)]
    assert indices == sorted(set(indices))
    assert all(frame["microphone_db"] == pytest.approx(-26.0, abs=3.0) for frame in before[5:])
    assert summary["frames"] >= len(indices)
    assert set(summary["stages"]) == {"encode", "lm", "decode", "answer"}
    assert summary["dropped_total"] == sum(summary["dropped"].values())
    (recording,) = tmp_path.iterdir()
    assert summary["recording"] == str(recording)
    assert summary["sound"]["drift_ppm"] == 0.0  # one device, one clock
    assert {"cut_samples", "input_overflows", "output_underflows", "overrun_samples"} <= set(summary["sound"])
    assert (recording / "audio.wav").stat().st_size > 0
    assert "Traceback" not in errors


@needs_jack
def test_a_silent_microphone_is_told_once_and_the_conversation_goes_on() -> None:
    with jack_rooms("room"):
        process = begin("--json")
        frames(process, 40)  # more than three seconds
        _, errors = end(process, signal.SIGINT)
    assert process.returncode == 0
    assert errors.count(SILENT_MICROPHONE) == 1


@needs_jack
def test_two_conversations_at_once_both_go_on(room: Room) -> None:
    both = [begin("--json"), begin("--json")]
    for process in both:
        assert [frame["underruns"] for frame in frames(process, 10)]
    for process in both:
        _, errors = end(process, signal.SIGINT)
        assert process.returncode == 0
        assert "Traceback" not in errors


@needs_jack
def test_a_reader_that_goes_ends_it_quietly(room: Room) -> None:
    command = f"{shlex.join([*CHAT, '--json'])} | head -n 2; exit ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 2
    assert "of conversation" not in result.stdout
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr


@needs_jack
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_behind_stdout_is_one_sentence(room: Room) -> None:
    with open("/dev/full", "w") as full:
        result = subprocess.run([*CHAT, "--json"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("moshi-mlx: error: stdout cannot be written: No space left")
    assert "Traceback" not in result.stderr


@needs_terminal
def test_a_window_that_is_closed_ends_it_with_the_recording_whole(room: Room, tmp_path: Path) -> None:
    with Terminal() as window:
        open_chat(window, "--record", str(tmp_path))
        process = window.child()
    deadline = time.monotonic() + TIMEOUT_S
    while runs(process):
        assert time.monotonic() < deadline, "it goes on without its terminal"
        time.sleep(0.05)
    (recording,) = tmp_path.iterdir()
    assert json.loads((recording / "trace.json").read_text())  # its last bracket is written when all is closed


@needs_jack
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-i", "attic"], "There is no microphone 'attic'"),
        (["-o", "attic"], "There is no speaker 'attic'"),
        (["--block-size", "0"], "--block-size must lie between"),
        (["--record", "/dev/null/here"], "cannot record into /dev/null/here"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(room: Room, arguments: list[str], sentence: str) -> None:
    result = subprocess.run([*CHAT, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 2
    assert not result.stdout
    *notes, error = result.stderr.splitlines()
    assert error.startswith(f"moshi-mlx: error: {sentence}")
    assert all(line.startswith("moshi-mlx: ") for line in notes)


def speaker(name: str) -> Device:
    return Device(3, name, "Core Audio", 0, 2, 48_000, False, True)


@pytest.mark.skipif(not available(), reason="livekit is not installed (pip install livekit)")
@pytest.mark.parametrize(
    ("wanted", "name", "on", "words"),
    [
        (None, "MacBook Pro Speakers", True, "heard by the microphone"),
        (None, "AirPods", False, "worn on the ears"),
        (True, "AirPods", True, "as you asked"),
        (False, "MacBook Pro Speakers", False, "as you asked"),
    ],
)
def test_echo_cancellation_is_on_unless_headphones_are_worn(
    wanted: bool | None, name: str, on: bool, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    echo = live.choose_echo(wanted, speaker(name))
    assert (echo is not None and echo.on) is on
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"moshi-mlx: echo cancellation is {'on' if on else 'off'}")
    assert words in note


def test_without_livekit_echo_cancellation_is_off_and_asking_for_it_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("moshi_mlx.live.echo.available", lambda: False)
    assert live.choose_echo(None, speaker("MacBook Pro Speakers")) is None
    assert "uv tool install '.[aec]'" in capsys.readouterr().err
    with pytest.raises(MoshiError, match="livekit, which is not installed"):
        live.choose_echo(True, speaker("MacBook Pro Speakers"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_interrupts_at_once(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_DFL)  # under nohup, or in a shell's background, it is ignored
    before, stopped = signal.getsignal(number), []

    def twice() -> None:
        with live.stopped_by_signals(lambda: stopped.append(number)):
            os.kill(os.getpid(), number)
            for _ in range(10):  # a key that is held down
                os.kill(os.getpid(), number)
                time.sleep(0.03)
            assert stopped == [number]
            time.sleep(live.HELD_SECONDS)
            os.kill(os.getpid(), number)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert stopped == [number]
    assert signal.getsignal(number) is before


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with live.stopped_by_signals(pytest.fail):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_help_names_every_flag() -> None:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    told = parser.format_help()
    for flag in ("--input", "--output", "--block-size", "--no-echo-cancellation", "--record", "--seed", "--json"):
        assert flag in told
