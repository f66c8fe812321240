"""Keys and values in 8 bits: the same window, the same ring in place, and little said otherwise."""

from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import mlx.utils
import numpy as np
import pytest
from tiny_lm import SMALL, small_lm

from moshi_mlx import LM, Generator, MoshiError, Sampling
from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.checkpoint.load import load_checkpoint, memory_needed, window_bytes
from moshi_mlx.checkpoint.tiny import tiny_folder
from moshi_mlx.config import LMConfig
from moshi_mlx.economy import Economy
from moshi_mlx.model.kernels import attention, quantized_attention

WIDE = {"dim": 128, "num_heads": 2, "context": 40}  # heads of 64
GREEDY = {"text_sampling": Sampling(temp=0), "audio_sampling": Sampling(temp=0)}


def in_8_bits(lm: LM) -> LM:
    """The same weights, with keys and values in 8 bits."""
    other = LM(Economy(kv_bits=8).of(lm.config))
    other.update(lm.parameters())
    other.set_dtype(lm.dtype)
    return other


def codes(steps: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, SMALL["card"], (steps, 8)).astype(np.int32)


def text_logits(lm: LM, spoken: np.ndarray) -> np.ndarray:
    """[steps, vocabulary], the model's own tokens being the same whatever it computes."""
    generator = Generator(lm, **GREEDY)
    finish = generator._grid.finish
    generator._grid.finish = lambda step, generated: finish(step, np.full_like(generated, 5))  # type: ignore[method-assign]
    frames = [generator.step(column, text=5, logits=True) for column in spoken]
    return np.stack([frame.logits.text for frame in frames if frame.logits])


@pytest.mark.parametrize("changes", [{}, {"kv_repeat": 2, "num_heads": 4}], ids=["heads of 64", "grouped, of 32"])
def test_logits_differ_little_far_past_the_window(changes: dict[str, Any]) -> None:
    lm = small_lm(**{**WIDE, **changes})
    spoken = codes(130)
    exact, stored = text_logits(lm, spoken), text_logits(in_8_bits(lm), spoken)
    spread = exact.std()
    difference = np.abs(stored - exact)
    assert 1e-5 * spread < difference.max() < 0.05 * spread
    log_p, log_q = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in (exact, stored))
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)
    assert divergence[: WIDE["context"]].max() < 1e-4
    assert divergence[WIDE["context"] :].max() < 1e-4


def test_the_window_is_exactly_the_context() -> None:
    lm = in_8_bits(small_lm(num_layers=1, **WIDE))
    context, steps = WIDE["context"], 3 * WIDE["context"] + 7
    spoken = codes(steps)
    last = text_logits(lm, spoken)[-1]
    inside, outside = spoken.copy(), spoken.copy()
    inside[steps - context, 0] = (inside[steps - context, 0] + 1) % SMALL["card"]
    outside[: steps - context - 1] = (outside[: steps - context - 1] + 1) % SMALL["card"]
    outside[steps - context - 1, 0] = (outside[steps - context - 1, 0] + 1) % SMALL["card"]
    assert np.abs(text_logits(lm, inside)[-1] - last).max() > 1e-4
    assert np.abs(text_logits(lm, outside)[-1] - last).max() < 1e-5


@pytest.mark.parametrize("masked", [False, True])
def test_reading_stored_numbers_is_attention_to_what_they_stand_for(masked: bool) -> None:
    mx.random.seed(0)
    q = mx.random.normal((2, 6, 1, 64))
    stored = [mx.quantize(mx.random.normal((2, 3, 32, 64)), group_size=64, bits=8) for _ in range(2)]
    keys, values = (mx.dequantize(*one, group_size=64, bits=8) for one in stored)
    mask = mx.arange(32) < 20 if masked else None
    expected = attention(q, keys, values, mask)
    assert mx.allclose(quantized_attention(q, *stored, mask, group_size=64, bits=8), expected, atol=1e-5).item()


def test_rings_take_just_over_half_and_are_updated_in_place() -> None:
    lm = small_lm(dtype=mx.bfloat16, **{**WIDE, "dim": 256, "context": 4096})
    stored = in_8_bits(lm)
    gc.collect()
    before = mx.get_active_memory()
    generator = Generator(stored)
    generator.skip_to(4000)
    mx.reset_peak_memory()
    for column in codes(4):
        generator.step(column)
    assert mx.get_peak_memory() - before < 1.15 * generator.cache_bytes
    plain = Generator(lm)
    plain.skip_to(4000)
    assert generator.cache_bytes / plain.cache_bytes == 8.5 / 16


def test_a_beginning_that_is_given_at_once_reads_what_the_rings_keep() -> None:
    text = {"n_q": 0, "dep_q": 0, "delays": [0], "dim": 128, "num_heads": 2, "context": 40}
    lm = in_8_bits(small_lm(**text))
    tokens = np.random.default_rng(0).integers(0, SMALL["text_card"], 70).tolist()
    at_once, one_by_one = Generator(lm, **GREEDY), Generator(lm, **GREEDY, cut=True)
    for token in tokens:
        one_by_one.begin()
        one_by_one.finish(token)
    prefilled, stepped = at_once.prefill(tokens, logits=True).logits, one_by_one.step(logits=True).logits
    assert prefilled is not None
    assert stepped is not None
    assert np.abs(prefilled.text - stepped.text).max() < 0.05 * stepped.text.std()


@pytest.mark.parametrize(
    ("changes", "asked", "message"),
    [
        (WIDE, {"kv_bits": 3}, "8 bits or as they are computed, not in 3"),
        ({}, {"kv_bits": 8}, "heads of 16 do not divide into groups of 32"),
        (WIDE, {"dtype": "float64"}, "in bfloat16 or float16, not in 'float64'"),
        (WIDE, {"context": 0}, "between 1 and 40 frames, not 0"),
        (WIDE, {"context": 41}, "between 1 and 40 frames, not 41"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], asked: dict[str, Any], message: str) -> None:
    with pytest.raises(MoshiError, match=message):
        Economy(**asked).of(LMConfig.from_dict({**SMALL, **changes}))


def test_a_shorter_window_is_the_model_configured_with_it() -> None:
    lm = small_lm(**WIDE)
    shorter = LM(Economy(context=24).of(lm.config))
    shorter.update(lm.parameters())
    assert shorter.config == small_lm(**{**WIDE, "context": 24}).config
    np.testing.assert_array_equal(
        text_logits(shorter, codes(60)), text_logits(small_lm(**{**WIDE, "context": 24}), codes(60))
    )


def test_a_checkpoint_runs_in_another_type_and_less_memory() -> None:
    folder = tiny_folder()
    plain, checkpoint = inspect(folder), inspect(folder).run_as(Economy(context=64, kv_bits=8, dtype="float16"))
    lm = load_checkpoint(checkpoint)
    assert {p.dtype for _, p in mlx.utils.tree_flatten(lm.parameters())} == {mx.float16}
    generator = Generator(lm)
    for column in codes(70) % lm.config.card:
        frame = generator.step(column, logits=True)
    assert frame.logits is not None
    assert np.isfinite(frame.logits.text).all()
    assert generator.cache_bytes == window_bytes(checkpoint) == window_bytes(plain) // 4 * 9 // 32
    assert memory_needed(plain) - memory_needed(checkpoint) == window_bytes(plain) - window_bytes(checkpoint)
    batch = Generator(lm, batch_size=3)
    batch.skip_to(70)
    assert memory_needed(checkpoint, 3) - memory_needed(checkpoint) == batch.cache_bytes - generator.cache_bytes
