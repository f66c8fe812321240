"""Random weights in memory: as large as the files would be, finite, and no larger while they are made."""

from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from moshi_mlx import Generator, MoshiError
from moshi_mlx.bench.floor import read_bytes
from moshi_mlx.bench.random_model import SIZES, random_conditions, random_lm
from moshi_mlx.checkpoint.sizes import frame_bytes, model_bytes
from moshi_mlx.checkpoint.tiny import TTS
from moshi_mlx.config import LMConfig

TINY = LMConfig.from_dict(SIZES["tiny"])
SMALL: dict[str, Any] = {**SIZES["tiny"], "num_layers": 1}
DEEP = LMConfig.from_dict(SIZES["narrow"])  # no tensor is a large part of it, as in Moshi
VARIANTS: dict[str, dict[str, Any]] = {
    "tiny": SMALL,
    "schedule": {**SMALL, "depformer_weights_per_step_schedule": [0, 1, 2, 2, 3, 3, 3, 3]},
    "low rank": {**SMALL, "depformer_low_rank_embeddings": 64},
    "shared input": {**SMALL, "depformer_multi_linear": False},
    "two text streams": {**SMALL, "demux_second_stream": True, "depformer_low_rank_embeddings": 64},
    "told": {**SMALL, **{key: TTS[key] for key in ("conditioners", "fuser", "cross_attention")}},
    "no sound": {**SMALL, "n_q": 0, "dep_q": 0, "delays": [0]},
}


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_network_reads_what_its_configuration_says(name: str, bits: int) -> None:
    config = LMConfig.from_dict(VARIANTS[name])
    lm = random_lm(config, bits)
    for position in (0, 100, None):
        assert read_bytes(lm, position) == pytest.approx(frame_bytes(config, bits, position), rel=1e-3)


@pytest.mark.parametrize("bits", [32, 16, 4])
def test_making_it_takes_no_more_memory_than_it_has(bits: int) -> None:
    gc.collect()
    mx.clear_cache()
    base = mx.get_active_memory()
    mx.reset_peak_memory()
    lm = random_lm(DEEP, bits)
    size = model_bytes(DEEP, min(bits, 16)) * (2 if bits == 32 else 1)
    assert mx.get_active_memory() - base == pytest.approx(size, rel=0.02)
    assert mx.get_peak_memory() - base < 1.02 * size
    assert lm.dtype == (mx.float32 if bits == 32 else mx.bfloat16)


@pytest.mark.parametrize("bits", [32, 16, 8, 4])
def test_it_runs_and_its_numbers_are_finite(bits: int) -> None:
    generator = Generator(random_lm(TINY, bits))
    for _ in range(3):
        frame = generator.step(np.zeros(8, np.int32), logits=True)
    assert frame.logits is not None
    assert frame.logits.audio is not None
    for logits in (frame.logits.text, frame.logits.audio):
        assert np.isfinite(logits).all()
        assert 0.1 < logits.std() < 10


def test_a_seed_gives_the_same_weights_and_another_does_not() -> None:
    one, same, other = (random_lm(TINY, 4, seed).text_linear.weight for seed in (1, 1, 2))
    assert mx.array_equal(one, same)
    assert not mx.array_equal(one, other)


def test_widths_that_make_no_groups_are_refused() -> None:
    with pytest.raises(MoshiError, match="groups of 64: choose other bits"):
        random_lm(LMConfig.from_dict(SIZES["narrow"]), 8)


def test_a_model_that_must_be_told_something_is_told_as_much_as_in_earnest() -> None:
    lm = random_lm(LMConfig.from_dict(VARIANTS["told"]), 16)
    generator = Generator(lm, conditions=random_conditions(lm))
    assert generator.step(np.zeros(8, np.int32)).audio is not None
    assert random_conditions(random_lm(TINY, 16)) is None


@pytest.mark.parametrize("size", ["moshi", "middle", "tiny", "narrow"])
def test_every_size_is_one_that_kyutais_port_can_run(size: str) -> None:
    config = LMConfig.from_dict(SIZES[size])
    assert config.transformer.hidden_dim == 11 * config.transformer.dim // 4  # its only width
    assert config.depth is not None
    assert config.dep_q == 8
