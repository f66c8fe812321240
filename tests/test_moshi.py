"""What loading gives each kind of model: the codec with the codebooks of its two sides, or why there is none."""

from __future__ import annotations

import numpy as np
import pytest

import moshi_mlx
from moshi_mlx.checkpoint.hub import locate
from moshi_mlx.codec.process import living
from moshi_mlx.errors import MoshiError
from moshi_mlx.moshi import load_folder
from moshi_mlx.rates import FRAME_SIZE


def test_each_direction_of_the_codec_has_the_model_s_own_codebooks() -> None:
    moshi = moshi_mlx.load("tiny")
    assert moshi.encoder().encode(np.zeros(FRAME_SIZE, np.float32)).shape == (8,)
    assert moshi.decoder().decode(np.zeros(8, np.int32)).shape == (FRAME_SIZE,)


def test_the_codec_loads_ahead_where_it_is_wanted() -> None:
    moshi = load_folder(locate("tiny"), codec_ahead=True)
    ahead = {process.pid for process in living() if process.task.path == moshi.codec.path}
    assert len(ahead) == 2
    with moshi.encoder(), moshi.decoder():
        assert {process.pid for process in living() if process.task.path == moshi.codec.path} == ahead


def test_a_listener_hears_with_32_codebooks_and_makes_no_sound() -> None:
    listener = moshi_mlx.load("tiny-stt")
    assert listener.encoder().encode(np.zeros(FRAME_SIZE, np.float32)).shape == (32,)
    with pytest.raises(MoshiError, match="makes no sound"):
        listener.decoder()
