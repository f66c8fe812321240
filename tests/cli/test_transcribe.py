from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from moshi_mlx.checkpoint.hub import locate
from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.cli.transcribe import check_batch
from moshi_mlx.errors import MoshiError

RATE = 24_000


def transcribe(*arguments: object, model: str = "tiny-stt") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moshi_mlx.cli.main", "transcribe", "--model", model, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory, speechlike) -> list[Path]:
    folder = tmp_path_factory.mktemp("sounds")
    for name, seed in (("a.wav", 1), ("b.flac", 2), ("c.wav", 3)):
        soundfile.write(folder / name, speechlike(6 * seed, seed), RATE)
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def told(sounds) -> dict[str, dict]:
    """What each file alone is transcribed to, as JSON."""
    return {sound.name: json.loads(transcribe(sound, "--json").stdout) for sound in sounds[:2]}


def test_json_tells_words_times_and_the_probability_of_a_pause(told):
    report = told["a.wav"]
    assert report["seconds"] == 0.48
    assert len(report["pauses"]) == 6
    assert all(0 <= pause <= 1 for pause in report["pauses"])
    assert report["words"]
    assert all(0 <= word["start"] <= word["end"] <= 0.48 for word in report["words"])
    assert "".join(word["text"] for word in report["words"]) == "".join(report["text"].split())
    assert (report["model"], report["precision"], report["files_at_once"]) == ("tiny-stt", "float32", 1)


def test_text_and_words_go_to_stdout_as_they_come(sounds, told):
    done = transcribe(sounds[0])
    assert (done.returncode, done.stdout.split()) == (0, told["a.wav"]["text"].split())
    assert "what it says is noise" in done.stderr
    words = transcribe(sounds[0], "--format", "words").stdout.strip().split("\n")
    assert words == [f"{word['start']:.2f}\t{word['end']:.2f}\t{word['text']}" for word in told["a.wav"]["words"]]


def test_several_files_in_one_batch_give_what_each_gives_alone(sounds, told, tmp_path):
    done = transcribe(*sounds, "--json", "-o", tmp_path, "--batch", 3)
    assert (done.returncode, done.stdout) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "c.json"]
    for sound in sounds[:2]:
        report = json.loads((tmp_path / f"{sound.stem}.json").read_text())
        assert report["files_at_once"] == 3
        assert (report["text"], report["words"]) == (told[sound.name]["text"], told[sound.name]["words"])


def test_subtitles_to_a_file(sounds, tmp_path):
    done = transcribe(sounds[0], "--format", "srt", "-o", tmp_path / "a.srt")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:00,000 --> 00:00:")
    assert [path.name for path in tmp_path.iterdir()] == ["a.srt"]


def failures(sounds: list[Path], folder: Path) -> dict[str, tuple[list[object], str]]:
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.wav").write_text("these are words")
    soundfile.write(folder / "no-samples.wav", np.zeros(0, np.float32), RATE)
    (folder / "other").mkdir()
    soundfile.write(folder / "other" / "a.wav", np.zeros(10, np.float32), RATE)
    one = sounds[0]
    return {
        "empty": ([folder / "empty.wav"], "is empty"),
        "no samples": ([one, folder / "no-samples.wav"], "holds no samples"),
        "no sound": ([folder / "words.wav"], "not a sound file"),
        "nothing there": ([folder / "nothing.wav"], "no such file"),
        "no folder": ([one, "-o", folder / "nowhere" / "a.txt"], "its folder does not exist"),
        "a file and a microphone": ([one, "-i", "0"], "not both"),
        "one name for two": ([one, sounds[1], "-o", folder / "a.txt"], "must be a folder"),
        "two of one name": ([one, folder / "other" / "a.wav", "-o", folder], "two of the files would be written to"),
        "over itself": ([one, "-o", one], "is the input itself"),
        "temperature": ([one, "--temp", -1], "temp"),
        "batch": ([one, "--batch", 0], "--batch must lie between"),
    }


def test_failures_end_in_one_sentence_and_leave_nothing(sounds, tmp_path):
    cases = failures(sounds, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for name, (arguments, sentence) in cases.items():
        done = transcribe(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), name
        assert done.stderr.startswith("moshi-mlx: error: "), name
        assert sentence in done.stderr, name
        assert done.stderr.count("\n") == 1, name
    assert sorted(tmp_path.rglob("*")) == before


def test_more_files_at_once_than_memory_has_room_for_are_refused(monkeypatch):
    checkpoint = inspect(locate("tiny-stt"))
    there = 3_000_000_000 + checkpoint.nbytes
    monkeypatch.setattr("moshi_mlx.memory.available_memory", lambda held: there - held)
    check_batch(checkpoint, 4, seconds=3_600)
    with pytest.raises(MoshiError, match=r"^16 files at once need 8\.\d GB of memory .* use --batch 4$"):
        check_batch(checkpoint, 16, seconds=3_600)
    check_batch(checkpoint, 16, seconds=10)


def test_a_file_that_is_broken_further_on_does_not_take_the_others_with_it(sounds, tmp_path):
    data = bytearray(sounds[1].read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    (tmp_path / "broken.flac").write_bytes(data)
    done = transcribe(tmp_path / "broken.flac", sounds[0], "--json", "-o", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    *_, told = done.stderr.splitlines()
    assert told.startswith(f"moshi-mlx: error: {tmp_path / 'broken.flac'} is broken after ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "broken.flac"]
    assert json.loads((tmp_path / "a.json").read_text())["seconds"] == 0.48


def test_a_model_that_converses_is_sent_to_the_right_command(sounds):
    done = transcribe(sounds[0], model="tiny")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "moshi-mlx: error: tiny converses; use `moshi-mlx chat --model tiny`\n"
