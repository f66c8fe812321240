"""What a voice's file holds: vectors as the model takes them, and recordings as codes to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from moshi_mlx.checkpoint.tiny import TTS
from moshi_mlx.config import LMConfig
from moshi_mlx.errors import AudioError, CheckpointError, MoshiError
from moshi_mlx.mimi import Mimi
from moshi_mlx.model.conditions import TensorCondition
from moshi_mlx.rates import FRAME_SIZE
from moshi_mlx.tasks.speaking import voice_file
from moshi_mlx.tasks.speaking.voice_file import attributes, distilled_guidance, read_prefix, read_vectors

CONFIG = LMConfig.from_dict(TTS)
WIDTH = 64


def without(*names: str, **changes: Any) -> LMConfig:
    """tiny-tts with fewer conditions."""
    conditioners = {name: entry for name, entry in TTS["conditioners"].items() if name not in names}
    fuser = {way: [n for n in TTS["fuser"][way] if n not in names] for way in ("sum", "cross")}
    return LMConfig.from_dict({**TTS, "conditioners": conditioners, "fuser": fuser, **changes})


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_voice_is_read_in_whatever_precision(dtype: mx.Dtype, tmp_path: Path) -> None:
    stored = mx.random.normal((1, WIDTH, 5)).astype(dtype)
    mx.save_safetensors(str(tmp_path / "a.safetensors"), {"speaker_wavs": stored})
    vectors = read_vectors(tmp_path / "a.safetensors", CONFIG)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.array(stored[0].T.astype(mx.float32)))


@pytest.mark.parametrize("shape", [(1, WIDTH + 1, 5), (WIDTH, 5), (2, WIDTH, 5), (1, WIDTH, 0)])
def test_a_voice_of_another_model_is_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    save_file({"speaker_wavs": np.zeros(shape, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="a voice for another model"):
        read_vectors(tmp_path / "a.safetensors", CONFIG)


def test_what_is_no_voice_is_refused(tmp_path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    for name in ("a", "b"):
        with pytest.raises(CheckpointError, match="holds no voice"):
            read_vectors(tmp_path / f"{name}.safetensors", CONFIG)


def test_speakers_stand_side_by_side_and_what_is_free_is_masked() -> None:
    one, two = np.ones((3, 4), np.float32), np.full((3, 4), 2, np.float32)
    placed = voice_file.speakers([one, two])
    assert placed.mask is not None
    np.testing.assert_array_equal(placed.tensor, np.concatenate([one, two, np.zeros((9, 4))]))
    np.testing.assert_array_equal(placed.mask, [True] * 6 + [False] * 9)
    with pytest.raises(MoshiError, match="different lengths"):
        voice_file.speakers([one, two[:2]])
    with pytest.raises(MoshiError, match="6 voices"):
        voice_file.speakers([one] * 6)


def test_distilled_guidance_is_one_of_those_learnt() -> None:
    assert distilled_guidance(CONFIG) == {1 + i / 2: f"{1 + i / 2:.1f}" for i in range(7)}
    given = attributes(CONFIG, [np.ones((3, WIDTH), np.float32)], 2)
    assert isinstance(given.pop("speaker_wavs"), TensorCondition)
    assert given == {"cfg": "2.0", "control": "ok"}
    with pytest.raises(MoshiError, match=r"guidance of 1, 1\.5, 2, 2\.5, 3, 3\.5, 4, not 2\.2"):
        attributes(CONFIG, [], 2.2)


def test_a_model_is_told_what_it_has_conditions_for_and_no_more() -> None:
    assert attributes(CONFIG, [], 1) == {"speaker_wavs": None, "cfg": "1.0", "control": "ok"}
    plain = without("cfg", "speaker_wavs", cross_attention=False)
    assert attributes(plain, [], 2.2) == {"control": "ok"}
    assert distilled_guidance(plain) == {}


def test_a_recording_is_codes_without_the_last(tmp_path: Path, tiny_mimi: Path, speechlike: Any) -> None:
    sound, codec = speechlike(6), Mimi(tiny_mimi, 16)
    soundfile.write(tmp_path / "me.wav", sound[: 5 * FRAME_SIZE + 100], 24_000, subtype="FLOAT")
    encoder = codec.encoder(16)
    wanted = [encoder.encode(frame) for frame in sound.reshape(-1, FRAME_SIZE)[:4]]
    np.testing.assert_array_equal(read_prefix(tmp_path / "me.wav", codec, CONFIG), np.stack(wanted, axis=1))


def test_a_recording_too_short_or_too_long_is_refused(tmp_path: Path, tiny_mimi: Path) -> None:
    codec, narrow = Mimi(tiny_mimi, 16), without(context=4)
    soundfile.write(tmp_path / "me.wav", np.zeros(2 * FRAME_SIZE), 24_000)
    with pytest.raises(AudioError, match="too short for a voice"):
        read_prefix(tmp_path / "me.wav", codec, CONFIG)
    soundfile.write(tmp_path / "me.wav", np.zeros(5 * FRAME_SIZE), 24_000)
    with pytest.raises(AudioError, match="too long for a voice"):
        read_prefix(tmp_path / "me.wav", codec, narrow)
