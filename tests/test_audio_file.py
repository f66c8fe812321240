from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from moshi_mlx.audio_file import AudioReader, WavWriter
from moshi_mlx.errors import AudioError


def tone(seconds: float, rate: int, frequency: float = 440.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def encoded(kind: str, sound: np.ndarray, rate: int = 24000) -> bytes:
    memory = io.BytesIO()
    soundfile.write(memory, sound, rate, format=kind)
    return memory.getvalue()


def test_blocks_are_the_file(tmp_path):
    sound = tone(1.03, 24000)
    soundfile.write(tmp_path / "a.wav", sound, 24000, subtype="FLOAT")
    reader = AudioReader(tmp_path / "a.wav")
    assert reader.duration == pytest.approx(1.03)
    blocks = list(reader)
    assert [len(block) for block in blocks] == [1920] * 12 + [1680]
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), sound)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
def test_every_rate_becomes_24_khz(tmp_path, rate, kind):
    sound = tone(3.3, rate)
    (tmp_path / "a").write_bytes(encoded(kind, sound, rate))
    read = np.concatenate(list(AudioReader(tmp_path / "a")))
    assert abs(len(read) - 3.3 * 24000) <= 1
    at_once = soxr.resample(sound, rate, 24000)  # streamed by blocks, no seam between them
    assert np.abs(read - at_once[: len(read)])[:-64].max() < 1e-3


def test_channels_are_averaged(tmp_path):
    left, right = tone(0.5, 24000), tone(0.5, 24000, 700)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 24000, subtype="FLOAT")
    read = np.concatenate(list(AudioReader(tmp_path / "a.wav")))
    np.testing.assert_allclose(read, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("kind", ["OGG", "MP3", "AIFF", "AU", "W64", "CAF"])
def test_other_formats_are_read(tmp_path, kind):
    (tmp_path / "a").write_bytes(encoded(kind, tone(2, 24000)))
    read = np.concatenate(list(AudioReader(tmp_path / "a")))
    assert len(read) == pytest.approx(48000, abs=2500)  # mp3 pads
    assert read.std() == pytest.approx(0.3 / 2**0.5, rel=0.1)


def test_samples_that_are_no_number_are_mended_before_they_spread(tmp_path):
    sound = tone(1, 48000)
    sound[1000:1003] = np.nan, np.inf, -np.inf
    soundfile.write(tmp_path / "a.wav", sound, 48000, subtype="FLOAT")
    reader = AudioReader(tmp_path / "a.wav")
    read = np.concatenate(list(reader))
    assert np.isfinite(read).all()
    assert reader.mended_samples == 3


def test_a_wav_written_to_a_pipe_is_whole(tmp_path):
    """Such files say 2 GB in their header, because their writer could not come back."""
    whole = bytearray(encoded("WAV", tone(1, 24000)))
    data = whole.index(b"data")
    for place, size in ((4, 0x7FFFF024), (data + 4, 0x7FFFF000)):
        whole[place : place + 4] = size.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(whole)
    assert sum(map(len, AudioReader(tmp_path / "a.wav"))) == 24000


def broken_files() -> Iterator[tuple[str, bytes]]:
    """Fifty and more that are no whole sound file: cut at random places, garbage, text, and nothing at all."""
    rng = np.random.default_rng(0)
    sound = (tone(3, 24000) + 0.1 * rng.standard_normal(72000)).astype(np.float32)
    for kind, suffix in (("WAV", "wav"), ("FLAC", "flac"), ("OGG", "ogg")):
        whole = encoded(kind, sound)
        for length in sorted(rng.integers(1, len(whole) - 1, 12)):
            yield f"cut{length}.{suffix}", whole[:length]
        yield f"last-byte.{suffix}", whole[:-1]
        yield f"no-samples.{suffix}", encoded(kind, sound[:0])
        yield f"garbage.{suffix}", rng.bytes(5000)
        yield f"empty.{suffix}", b""
    for suffix in ("txt", "wav", "raw", "vox", "mp3"):
        yield f"text.{suffix}", b"This is not the sound that you are looking for.\n" * 40
    flac = bytearray(encoded("FLAC", sound))
    flac[len(flac) // 2 : len(flac) // 2 + 4000] = rng.bytes(4000)
    yield "hurt.flac", bytes(flac)


BROKEN = dict(broken_files())


def test_there_are_fifty_broken_files():
    assert len(BROKEN) >= 50


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_end_in_one_sentence(tmp_path, name, capfd):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(AudioError) as caught:
        list(AudioReader(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert not message.endswith(".")
    assert capfd.readouterr() == ("", "")


def test_places_that_are_no_files_end_in_one_sentence(tmp_path):
    with pytest.raises(AudioError, match="is a folder"):
        AudioReader(tmp_path)
    with pytest.raises(AudioError, match="no such file"):
        AudioReader(tmp_path / "a.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_ends_in_one_sentence(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(encoded("WAV", tone(1, 24000)))
    path.chmod(0)
    with pytest.raises(AudioError, match="permissions"):
        AudioReader(path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path):
    left, right = tone(1, 24000), tone(1, 24000, 700)
    with WavWriter(tmp_path / "a.wav", channels=2) as wav:
        for start in range(0, 24000, 1920):
            wav.write(np.stack([left, right], axis=1)[start : start + 1920])
        assert names(tmp_path) != ["a.wav"]  # not before all is there
    assert names(tmp_path) == ["a.wav"]
    read, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert rate == 24000
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert np.abs(read - np.stack([left, right], axis=1)).max() <= 2**-15


def test_what_is_too_loud_is_cut_and_does_not_wrap(tmp_path):
    with WavWriter(tmp_path / "a.wav") as wav:
        wav.write(np.array([1.5, -1.5, 0.0], np.float32))
    read, _ = soundfile.read(tmp_path / "a.wav")
    np.testing.assert_allclose(read, [1, -1, 0], atol=1e-4)


def test_what_breaks_off_leaves_nothing_and_keeps_what_was(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"before")

    def broken():
        with WavWriter(tmp_path / "a.wav") as wav:
            wav.write(tone(1, 24000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    assert names(tmp_path) == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == b"before"


def test_places_that_cannot_be_written_end_in_one_sentence(tmp_path):
    with pytest.raises(AudioError, match="cannot be written"):
        WavWriter(tmp_path / "nowhere" / "a.wav")
    with pytest.raises(AudioError, match="is a folder"):
        WavWriter(tmp_path)
