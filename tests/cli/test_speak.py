"""`speak` as the shell sees it: into a file, through a speaker without hardware, and what is wrong in one sentence."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from jack_room import MISSING, jack_rooms
from safetensors.numpy import save_file

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import TTS, random_weights, tiny_folder
from moshi_mlx.cli.main import main
from moshi_mlx.config import LMConfig

QUICK = ["--temp", "0", "--max-padding", "3"]
SPEAK = [sys.executable, "-m", "moshi_mlx.cli.main", "speak", "--model", "tiny-tts", *QUICK]
TIMEOUT_S = 120
LONG = "We could talk about music, about books, or about the weather. " * 50


def speak(*arguments: str, text: str | None = None) -> dict[str, Any]:
    done = subprocess.run([*SPEAK, "--json", *arguments], input=text, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def begin(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SPEAK, "--json", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The sentence for what is wrong."""
    assert main(["speak", *arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if "built-in" not in line]
    assert captured.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("moshi-mlx: error: ")
    return lines[0].removeprefix("moshi-mlx: error: ")


def test_a_text_becomes_a_wav(tmp_path: Path) -> None:
    out = tmp_path / "hello.wav"
    report = speak("Hello, how are you?", "-o", str(out))
    sound, rate = soundfile.read(out)
    assert rate == 24_000
    assert sound.std() > 0.001
    assert len(sound) / rate == pytest.approx(report["seconds"])
    assert report["complete"]
    assert report["text"] == "Hello, how are you?"
    starts = [word["start"] for word in report["words"]]
    assert [word["text"] for word in report["words"]] == ["Hello,", "how", "are", "you?"]
    assert starts == sorted(starts)
    assert 0 < starts[0] < starts[-1] < report["seconds"]
    assert report["voices"] == ["anna.wav"]


def test_two_voices_talk_to_each_other_out_of_a_pipe(tmp_path: Path) -> None:
    out = tmp_path / "two.wav"
    lines = "2: Good morning!\n1: I am fine.\n"
    report = speak("-", "-o", str(out), "--voice", "anna", "--voice", "ben", "--codebooks", "4", text=lines)
    assert report["text"] == "Good morning! I am fine."
    assert report["voices"] == ["anna", "ben"]
    assert soundfile.info(out).duration == pytest.approx(report["seconds"])


def test_a_recording_is_a_voice_where_the_model_goes_on_from_one(
    tmp_path: Path, speechlike: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tiny = tmp_path / "model", tiny_folder("tiny-tts")
    folder.mkdir()
    plain = ("conditioners", "fuser", "cross_attention", "demux_second_stream")
    config = {key: value for key, value in TTS.items() if key not in plain} | {"tts_config": {"audio_delay": 0.64}}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_weights(LMConfig.from_dict(config)), folder / "model.safetensors", {"format": "mlx"})
    for name in (MIMI, TOKENIZER):
        (folder / name).symlink_to(tiny / name)
    recording, out = tmp_path / "me.wav", tmp_path / "out.wav"
    soundfile.write(recording, speechlike(8), 24_000)
    arguments = ["Hello.", "--model", str(folder), "--voice", str(recording), "-o", str(out), "--codebooks", "4"]
    assert main(["speak", *arguments, "--json", *QUICK]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["complete"]
    assert report["steps"] == round(report["seconds"] * 12.5) + 8 + 6 + 2  # delay, recording, acoustic delay
    assert report["words"] == [{"text": "Hello.", "start": 0.16}]
    assert soundfile.info(out).duration == pytest.approx(report["seconds"])


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_a_slow_pipe_is_heard_before_it_ends() -> None:
    with jack_rooms("room") as [room]:
        room.play(np.zeros(1))
        process = begin("--speaker", "room")
        assert process.stdin is not None
        process.stdin.write("Hello, how are you\n")
        process.stdin.flush()
        deadline = time.monotonic() + TIMEOUT_S
        while not room.heard().any():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        before = np.count_nonzero(room.heard())
        out, errors = process.communicate(" doing today?", timeout=TIMEOUT_S)
        heard = room.heard()
    assert process.returncode == 0, errors
    report = json.loads(out)
    assert report["text"] == "Hello, how are you doing today?"
    assert report["complete"]
    assert 0 < before < np.count_nonzero(heard) / 2
    whole = np.flatnonzero(heard)
    assert (whole[-1] - whole[0]) / 24_000 > report["seconds"] - 0.2


@pytest.mark.parametrize("interruptions", [1, 2])
def test_interrupted_it_keeps_what_was_said(interruptions: int, tmp_path: Path) -> None:
    out = tmp_path / "long.wav"
    process = begin(LONG, "-o", str(out), "--codebooks", "2")
    partial = None
    while partial is None or partial.stat().st_size < 100_000:
        assert process.poll() is None, process.communicate()
        partial = next(tmp_path.glob(".long.wav.*"), None)
        time.sleep(0.01)
    for _ in range(interruptions):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    told, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    report = json.loads(told)
    sound, rate = soundfile.read(out)
    assert not report["complete"]
    assert len(sound) / rate == pytest.approx(report["seconds"])
    assert len(sound) >= 50_000
    assert LONG.startswith(report["text"])
    assert list(tmp_path.iterdir()) == [out]


def test_nothing_to_say_leaves_no_file(tmp_path: Path) -> None:
    done = subprocess.run([*SPEAK, "-o", str(tmp_path / "x.wav")], input=" : \n", capture_output=True, text=True)
    assert done.returncode == 2
    assert "nothing to say" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_wrong_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny, out = ("--model", "tiny-tts"), ("-o", str(tmp_path / "x.wav"))
    assert "no voice 'hanna'; near to it: anna.wav" in refusal(capsys, "Hi.", *tiny, *out, "--voice", "hanna")
    assert "nothing to say" in refusal(capsys, " ", *tiny, *out)
    assert "use `moshi-mlx chat --model tiny`" in refusal(capsys, "Hi.", "--model", "tiny", *out)
    assert "no-such.txt cannot be read" in refusal(capsys, "-f", "no-such.txt", *tiny, *out)
    assert "not both" in refusal(capsys, "Hi.", "-f", "text.txt", *tiny, *out)
    assert "not both" in refusal(capsys, "Hi.", *tiny, *out, "--speaker", "0")
    assert "ends in .wav" in refusal(capsys, "Hi.", *tiny, "-o", str(tmp_path / "x.mp3"))
    assert "is a folder" in refusal(capsys, "Hi.", *tiny, "-o", str(tmp_path))
    assert "between 0 and 100" in refusal(capsys, "Hi.", *tiny, *out, "--padding-between", "-1")
    assert "1, 1.5, 2, 2.5, 3, 3.5, 4, not 2.2" in refusal(capsys, "Hi.", *tiny, *out, "--guidance", "2.2")
    three = [flag for name in ("anna", "ben", "anna") for flag in ("--voice", name)]
    assert "2 voices at most" in refusal(capsys, "Hi.", *tiny, *out, *three)
    assert "1 to 16 codebooks" in refusal(capsys, "Hi.", *tiny, *out, "--codebooks", "17")
    assert not list(tmp_path.iterdir())


def test_voices_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["speak", "--list-voices", "--model", "tiny-tts"]) == 0
    assert capsys.readouterr().out == "anna.wav\nben.wav\n"
    assert main(["speak", "--list-voices", "--model", "tiny-tts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["voices"] == ["anna.wav", "ben.wav"]
