from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors import safe_open

from moshi_mlx.mimi import Mimi
from moshi_mlx.rates import FRAME_SIZE


def codec(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moshi_mlx.cli.main", "codec", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def speech(tmp_path_factory, speechlike) -> Path:
    path = tmp_path_factory.mktemp("speech") / "speech.flac"
    soundfile.write(path, speechlike(10)[: 9 * FRAME_SIZE + 100], 24_000)
    return path


@pytest.fixture(scope="module")
def codes(speech, tiny_mimi) -> Path:
    path = speech.with_name("speech.codes")
    done = codec("encode", speech, path, "--codebooks", 32, "--mimi", tiny_mimi, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "output": str(path),
        "seconds": 0.724,
        "samples": 9 * FRAME_SIZE + 100,
        "frames": 10,
        "codebooks": 32,
        "codec_restarts": 0,
        "bits_per_second": 4400,
        "bytes": path.stat().st_size,
        "clipped_samples": 0,
        "mended_samples": 0,
    }
    return path


def test_codes_are_the_codecs_and_the_last_frame_is_filled_with_silence(codes, speech, tiny_mimi):
    sound, _ = soundfile.read(speech, dtype="float32")
    frames = np.pad(sound, (0, 10 * FRAME_SIZE - len(sound))).reshape(-1, FRAME_SIZE)
    encoder = Mimi(tiny_mimi, 32).encoder()
    with safe_open(codes, framework="numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("codes").T, [encoder.encode(frame) for frame in frames])


@pytest.mark.parametrize("codebooks", [1, 8, 32])
def test_thirty_two_codebooks_decode_at_any_smaller_number(codes, tiny_mimi, tmp_path, codebooks):
    out = tmp_path / "out.wav"
    done = codec("decode", codes, out, "--codebooks", codebooks, "--mimi", tiny_mimi)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"10 frames of {codebooks} codebooks, {137.5 * codebooks / 1000:.4g} kbps" in done.stdout
    sound, rate = soundfile.read(out, dtype="float32")
    assert (len(sound), rate) == (9 * FRAME_SIZE + 100, 24_000)
    with safe_open(codes, framework="numpy") as file:
        columns = file.get_tensor("codes")[:codebooks].T
    decoder = Mimi(tiny_mimi, codebooks).decoder()
    expected = np.concatenate([decoder.decode(column) for column in columns])[: len(sound)]
    assert np.abs(sound - expected).max() <= 2**-15


def test_broken_samples_are_counted(tiny_mimi, tmp_path, speechlike):
    sound = speechlike(2)
    sound[100], sound[200:202], sound[300] = np.nan, 2.0, np.inf
    soundfile.write(tmp_path / "a.wav", sound, 24_000, subtype="FLOAT")
    done = codec("encode", tmp_path / "a.wav", tmp_path / "a.codes", "--mimi", tiny_mimi)
    assert done.returncode == 0
    assert "2 mended samples in the input" in done.stdout
    assert "2 clipped samples in the input" in done.stdout
    assert "1.1 kbps" in done.stdout


def test_the_built_in_codec_is_found_by_name(speech, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = codec("encode", speech, tmp_path / "a.codes", "--model", "tiny", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 10


def failures(speech: Path, codes: Path, weights: Path, folder: Path) -> dict[str, list[object]]:
    (folder / "cut.wav").write_bytes(speech.read_bytes()[:3000])
    (folder / "cut.codes").write_bytes(codes.read_bytes()[:300])
    (folder / "cut.safetensors").write_bytes(weights.read_bytes()[:5000])
    mimi, out = ["--mimi", weights], folder / "out"
    return {
        "no input": ["encode", folder / "none.wav", out, *mimi],
        "folder as input": ["encode", folder, out, *mimi],
        "cut sound": ["encode", folder / "cut.wav", out, *mimi],
        "codes as sound": ["encode", codes, out, *mimi],
        "sound as codes": ["decode", speech, out, *mimi],
        "cut codes": ["decode", folder / "cut.codes", out, *mimi],
        "cut weights": ["encode", speech, out, "--mimi", folder / "cut.safetensors"],
        "33 codebooks": ["encode", speech, out, "--codebooks", 33, *mimi],
        "no codebooks": ["decode", codes, out, "--codebooks", 0, *mimi],
        "40 of 32 codebooks": ["decode", codes, out, "--codebooks", 40, *mimi],
        "no such folder": ["encode", speech, folder / "nowhere" / "out", *mimi],
        "output is the input": ["encode", speech, speech, *mimi],
    }


def test_failures_end_in_one_sentence_and_leave_nothing(speech, codes, tiny_mimi, tmp_path):
    before = speech.read_bytes()
    for name, arguments in failures(speech, codes, tiny_mimi, tmp_path).items():
        done = codec(*arguments)
        assert done.returncode == 2, name
        assert done.stdout == "", name
        assert done.stderr.startswith("moshi-mlx: error: "), name
        assert done.stderr.count("\n") == 1, name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut.codes", "cut.safetensors", "cut.wav"]
    assert speech.read_bytes() == before
