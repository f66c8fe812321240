from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from jack_room import MISSING, jack_rooms

RATE, FRAME = 24_000, 1920
COMMAND = [sys.executable, "-m", "moshi_mlx.cli.main", "translate"]
TINY = ("--model", "tiny-hibiki")


def translate(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def source(tmp_path_factory, speechlike) -> Path:
    path = tmp_path_factory.mktemp("source") / "source.flac"
    soundfile.write(path, speechlike(8)[:-500], RATE)
    return path


def test_source_and_translation_stand_beside_each_other_and_the_lag_is_told(source, tmp_path):
    out, words = tmp_path / "out.wav", tmp_path / "words.tsv"
    done = translate(source, "-o", out, "--transcript", words, "--tail", 0.4, "--temp", 0, "--text-temp", 0, *TINY)
    assert done.returncode == 0, done.stderr
    assert "behind the speaker: " in done.stderr
    both, rate = soundfile.read(out, dtype="float32")
    assert (both.shape, rate) == (((8 + 1 + 5) * FRAME, 2), RATE)  # a frame for the end of the source
    sound, _ = soundfile.read(source, dtype="float32")
    assert np.abs(both[: len(sound), 0] - sound).max() <= 2**-15
    assert not both[len(sound) :, 0].any()
    assert both[:, 1].any()
    assert "".join(line.split("\t")[2] for line in words.read_text().splitlines()) == "".join(done.stdout.split())
    mono = tmp_path / "mono.wav"
    told = translate(source, "-o", mono, "--mono", "--json", "--tail", 0.4, "--temp", 0, "--text-temp", 0, *TINY)
    report = json.loads(told.stdout)
    np.testing.assert_array_equal(soundfile.read(mono)[0], soundfile.read(out)[0][:, 1])
    assert (report["frames"], report["seconds"], report["ended"]) == (14, 1.12, False)
    assert set(report["lag"]) == {"start", "mean", "end"}
    assert (report["quality"], report["guidance"]) == ("very_good", 1.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mono.wav", "out.wav", "words.tsv"]


def failures(source: Path, folder: Path) -> dict[str, tuple[list[object], str]]:
    return {
        "nothing there": ([folder / "none.wav", *TINY], "no such file"),
        "no wav": ([source, "-o", folder / "out.mp3", *TINY], "ends in .wav"),
        "no folder": ([source, "-o", folder / "nowhere" / "out.wav", *TINY], "its folder does not exist"),
        "over itself": ([source, "-o", source, *TINY], "is the input itself"),
        "file without a source": (["-o", folder / "out.wav", *TINY], "--record keeps both sides"),
        "record of a file": ([source, "--record", folder, *TINY], "--record goes with the microphone"),
        "file and a device": ([source, "--speaker", "0", *TINY], "go with a live translation"),
        "quality": ([source, "--quality", "splendid", *TINY], "very_bad, bad, neutral, good, very_good"),
        "guidance": ([source, "--guidance", "nan", *TINY], "guidance"),
        "temperature": ([source, "--text-temp", -1, *TINY], "temp"),
        "tail": ([source, "--tail", -1, *TINY], "--tail"),
        "another kind": ([source, "--model", "tiny"], "tiny converses; use `moshi-mlx chat --model tiny`"),
    }


def test_failures_end_in_one_sentence_and_leave_nothing(source, tmp_path):
    for name, (arguments, sentence) in failures(source, tmp_path).items():
        done = translate(*arguments)
        assert (done.returncode, done.stdout) == (2, ""), name
        errors = [line for line in done.stderr.splitlines() if "built-in model" not in line]
        assert len(errors) == 1, name
        assert errors[0].startswith("moshi-mlx: error: "), name
        assert sentence in errors[0], name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
def test_the_microphone_is_translated_through_the_speaker_and_both_sides_are_kept(speechlike, tmp_path):
    arguments = ["-i", "room", "--speaker", "room", "--json", "--record", str(tmp_path), *TINY]
    with jack_rooms("room") as [room]:
        room.play(speechlike(1000))
        process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        frames = [json.loads(process.stdout.readline()) for _ in range(25)]
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
        out = process.stdout.read()
        assert room.heard().any()
    summary = json.loads(out.splitlines()[-1])
    assert set(summary["lag"]) == {"start", "mean", "end"}
    assert summary["lag"]["start"] is not None
    assert "".join(frame["text"] for frame in frames)
    both, _ = soundfile.read(Path(summary["recording"]) / "audio.wav")
    assert both.shape[1] == 2
    assert both[:, 0].any()
    assert both[:, 1].any()
