from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

from moshi_mlx.checkpoint.tiny_mimi import write_tiny_mimi
from moshi_mlx.mimi import Mimi
from moshi_mlx.rates import FRAME_SIZE


def encode(path, sound, codebooks=8):
    encoder = Mimi(path, codebooks).encoder()
    return np.stack([encoder.encode(frame) for frame in sound.reshape(-1, FRAME_SIZE)], axis=1)


def test_equal_seeds_give_equal_bytes_and_nothing_else_is_left(tiny_mimi, tmp_path):
    again = write_tiny_mimi(tmp_path / "new" / "mimi.safetensors")
    assert again.read_bytes() == tiny_mimi.read_bytes()
    assert [path.name for path in again.parent.iterdir()] == ["mimi.safetensors"]


def test_another_seed_gives_other_weights(tiny_mimi, tmp_path):
    other = load_file(write_tiny_mimi(tmp_path / "mimi.safetensors", seed=1))
    for name, values in load_file(tiny_mimi).items():
        assert other[name].shape == values.shape
        if np.ptp(values):
            assert (other[name] != values).mean() > 0.9, name


def test_codes_follow_the_sound(tiny_mimi, speechlike):
    one, two = encode(tiny_mimi, speechlike(30, seed=1)), encode(tiny_mimi, speechlike(30, seed=2))
    silence = encode(tiny_mimi, np.zeros(30 * FRAME_SIZE, np.float32))
    for codebook in range(8):
        assert len(set(one[codebook])) >= 15, codebook  # of 30
    assert (one == two).mean() < 0.1
    assert (one == silence).mean() < 0.1


def test_a_change_in_a_frame_changes_its_codes_and_none_before(tiny_mimi, speechlike):
    sound = speechlike(10)
    changed = sound.copy()
    changed[6 * FRAME_SIZE : 7 * FRAME_SIZE] *= -0.5
    codes, other = encode(tiny_mimi, sound), encode(tiny_mimi, changed)
    np.testing.assert_array_equal(codes[:, :6], other[:, :6])
    assert (codes[:, 6] != other[:, 6]).any()


@pytest.mark.parametrize("codebooks", [1, 8, 32])
def test_any_codes_decode_to_quiet_noise(tiny_mimi, codebooks):
    decoder = Mimi(tiny_mimi, codebooks).decoder()
    columns = np.random.default_rng(0).integers(0, 2048, (40, codebooks))
    sound = np.concatenate([decoder.decode(column) for column in columns])
    assert 0.02 < sound.std() < 0.3
    assert np.abs(sound).max() < 0.9
    assert abs(sound.mean()) < 0.01
