from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny_lm import SMALL, small_lm

import moshi_mlx.generator
from moshi_mlx import Frame, Generator, MoshiError, Sampling
from moshi_mlx.bench.counting import counting
from moshi_mlx.model import kernels
from moshi_mlx.model.kv_cache import capacities

GREEDY: dict[str, Any] = {"text_sampling": Sampling(temp=0), "audio_sampling": Sampling(temp=0)}


def user_codes(steps: int, seed: int = 0, batch: int | None = None) -> np.ndarray:
    shape = (steps, 8) if batch is None else (steps, batch, 8)
    return np.random.default_rng(seed).integers(0, SMALL["card"], shape).astype(np.int32)


def run(generator: Generator, codes: np.ndarray, **options: Any) -> list[Frame]:
    return [generator.step(column, **options) for column in codes]


def tokens(frames: list[Frame]) -> list[list[int]]:
    return [[int(f.text), *([] if f.audio is None else f.audio.tolist())] for f in frames]


def test_one_wait_on_the_device_per_frame_and_two_where_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every way in which Python can wait for MLX, counted over ten frames."""
    generator, codes = Generator(small_lm()), user_codes(10)
    generator.finish(generator.begin(codes[0]))  # the halves are traced when they are first used
    waits: list[str] = []
    real_eval = mx.eval

    class Output:
        """Stands for an array that has not been waited for: reading it would be another wait."""

        def __init__(self, array: mx.array):
            self.array = array
            self.ready = False

        def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
            if not self.ready:
                waits.append("read")
            return np.array(self.array)

    def counted_eval(outputs: dict[str, Output]) -> None:
        waits.append("eval")
        for output in outputs.values():
            output.ready = True
            real_eval(output.array)

    for half in ("whole", "hear", "speak"):
        graph = getattr(generator._graphs, half)
        monkeypatch.setattr(generator._graphs, half, _watched(graph, Output))
    for name in ("synchronize", "async_eval"):
        monkeypatch.setattr(mx, name, lambda *args, name=name: waits.append(name))
    monkeypatch.setattr(moshi_mlx.generator.mx, "eval", counted_eval)
    run(generator, codes)
    assert waits == ["eval"] * 10
    for column in codes:
        generator.finish(generator.begin(column))
    assert waits == ["eval"] * 30


def _watched(graph: Any, output: type) -> Any:
    """A graph of FrameGraphs whose outputs tell when they are read; arrays among its arguments are as they were."""

    def compiled(*key: bool) -> Any:
        def call(*args: Any) -> Any:
            result = graph(*key)(*(x.array if isinstance(x, output) else x for x in args))
            outputs, *rings = result if isinstance(result, tuple) else (result,)
            wrapped = {name: output(x) for name, x in outputs.items()}
            return (wrapped, *rings) if rings else wrapped

        return call

    return compiled


def test_one_compiled_graph_per_size_of_the_ring_and_none_traced_in_a_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = small_lm(context=160)
    traced = 0
    hear = type(lm).hear

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal traced
        traced += 1
        return hear(*args, **kwargs)

    monkeypatch.setattr(type(lm), "hear", counting)
    generator = Generator(lm)
    ahead = traced
    assert ahead == len(capacities(160)) + 1
    run(generator, user_codes(200))
    assert traced == ahead


def test_rings_are_updated_in_place() -> None:
    """At no moment is there room for more than one copy of the rings."""
    lm = small_lm(dim=256, num_heads=4, context=4096)
    gc.collect()
    before = mx.get_active_memory()
    generator = Generator(lm)
    generator._cache.layers = generator._cache.blank(4096)
    mx.reset_peak_memory()
    run(generator, user_codes(4))
    assert mx.get_peak_memory() - before < 1.15 * generator.cache_bytes


def test_rings_grow_within_the_one_wait_of_a_frame_and_in_the_memory_of_two_layers_more() -> None:
    lm = small_lm(dim=256, num_heads=4, num_layers=12, context=4096)
    gc.collect()
    before = mx.get_active_memory()
    generator = Generator(lm)
    generator.skip_to(3583)
    mx.clear_cache()
    mx.reset_peak_memory()
    with counting() as count:
        run(generator, user_codes(2))
    assert count.waits == 2
    assert mx.get_peak_memory() - before < 1.2 * generator.cache_bytes


@pytest.mark.parametrize("context", [24, 150])
def test_the_window_is_exactly_the_context_for_ever(context: int) -> None:
    """The last step's logits depend on the column `context - 1` back, and not on the one before it.

    The user's semantic code stands in the column of its step, the acoustic ones in the next. One layer only:
    deeper ones see further back through the layers below.
    """
    lm = small_lm(num_layers=1, context=context)
    for steps in (context + 5, 3 * context + 7):
        codes = user_codes(steps)
        last = _last_logits(lm, codes)
        inside, outside = codes.copy(), codes.copy()
        inside[steps - context, 0] = (inside[steps - context, 0] + 1) % SMALL["card"]
        outside[: steps - context - 1] = (outside[: steps - context - 1] + 1) % SMALL["card"]
        outside[steps - context - 1, 0] = (outside[steps - context - 1, 0] + 1) % SMALL["card"]
        assert np.abs(_last_logits(lm, inside) - last).max() > 1e-4
        assert np.abs(_last_logits(lm, outside) - last).max() < 1e-5


def _last_logits(lm: Any, codes: np.ndarray) -> np.ndarray:
    """Text logits of the last step, Moshi's own tokens being the same whatever the user says."""
    generator = Generator(lm, **GREEDY)
    finish = generator._grid.finish
    generator._grid.finish = lambda step, generated: finish(step, np.full_like(generated, 5))  # type: ignore[method-assign]
    frames = run(generator, codes[:-1])
    assert frames
    final = generator.step(codes[-1], logits=True)
    assert final.logits is not None
    return final.logits.text


def test_a_seed_repeats_a_conversation_and_another_does_not() -> None:
    lm, codes = small_lm(), user_codes(40)
    generator = Generator(lm, seed=7)
    first = tokens(run(generator, codes))
    generator.reset()
    assert tokens(run(generator, codes)) == first
    assert tokens(run(Generator(lm, seed=7), codes)) == first
    assert tokens(run(Generator(lm, seed=8), codes)) != first


@pytest.mark.parametrize("position", [0, 100, 200, 1000])
def test_a_conversation_can_be_taken_up_far_from_its_beginning(position: int) -> None:
    lm, codes = small_lm(context=200), user_codes(3)
    walked, skipped = Generator(lm, **GREEDY), Generator(lm, **GREEDY)
    for _ in range(position):
        walked.step(codes[0])
    skipped.skip_to(position)
    assert (skipped.position, skipped.cache_bytes) == (walked.position, walked.cache_bytes)
    run(skipped, codes)
    assert skipped.position == position + 3
    assert skipped.step(codes[0]).audio is not None
    skipped.reset()
    assert tokens(run(skipped, codes)) == tokens(run(Generator(lm, **GREEDY), codes))


def test_a_conversation_has_no_negative_frames() -> None:
    with pytest.raises(MoshiError, match="frame -1"):
        Generator(small_lm()).skip_to(-1)


def test_a_generators_memory_returns_when_nobody_holds_it() -> None:
    """Without the garbage collector, which a conversation keeps from running."""
    gc.collect()
    before = mx.get_active_memory()
    gc.disable()
    try:
        generator = Generator(small_lm(dim=256, context=4096))
        generator.skip_to(4000)
        run(generator, user_codes(2), logits=True)
        assert mx.get_active_memory() - before > generator.cache_bytes
        del generator
        assert mx.get_active_memory() - before < 100_000
    finally:
        gc.enable()


def test_two_generators_on_one_model_do_not_disturb_each_other() -> None:
    lm, codes = small_lm(), user_codes(30)
    alone = tokens(run(Generator(lm, seed=1), codes))
    one, other = Generator(lm, seed=1), Generator(lm, seed=2)
    together = []
    for column in codes:
        together.append(one.step(column))
        other.step((column + 3) % SMALL["card"])
    assert tokens(together) == alone


def test_a_batch_is_its_conversations() -> None:
    lm, codes = small_lm(), user_codes(40, batch=3)
    batch = run(Generator(lm, batch_size=3, **GREEDY), codes)
    for i in range(3):
        alone = run(Generator(lm, **GREEDY), codes[:, i])
        assert [int(f.text[i]) for f in batch] == [f.text for f in alone]
        for together, single in zip(batch, alone, strict=True):
            np.testing.assert_array_equal(together.audio[i], single.audio)


def test_forced_text_is_taken_and_steers_what_follows() -> None:
    lm, codes = small_lm(), user_codes(10)
    free = run(Generator(lm, **GREEDY), codes)
    other = (int(free[2].text) + 1) % SMALL["text_card"]
    generator = Generator(lm, **GREEDY)
    forced = [generator.step(column, text=other if i == 2 else -1) for i, column in enumerate(codes)]
    assert forced[2].text == other
    assert tokens(forced)[:2] == tokens(free)[:2]
    assert tokens(forced)[3:] != tokens(free)[3:]


def test_chance_differs_between_steps_codebooks_and_conversations() -> None:
    """With nothing to choose by, tokens that repeat would show noise that repeats."""
    lm = small_lm()
    lm.text_linear.weight = mx.zeros_like(lm.text_linear.weight)
    for head in lm.depformer.linear_outs:
        head.weight = mx.zeros_like(head.weight)
    even = Sampling(temp=1.0)
    frames = run(Generator(lm, even, even, batch_size=2), user_codes(40, batch=2))
    drawn = np.stack([np.concatenate([f.text[:, None] % SMALL["card"], f.audio], axis=1) for f in frames])
    series = drawn.reshape(40, -1).T  # text and codebooks of both conversations, over time
    assert len({tuple(one) for one in series}) == 2 * 9
    assert all(len(set(one)) > 15 for one in series.tolist())


def test_frames_before_the_first_complete_one_have_no_audio() -> None:
    delays = [0, *[0, *[2] * 7] * 2]
    frames = run(Generator(small_lm(delays=delays)), user_codes(4))
    assert [f.audio is None for f in frames] == [True, False, False, False]


def test_both_ways_of_rotation_and_attention_give_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, codes = small_lm(), user_codes(60)
    ours = run(Generator(lm, **GREEDY), codes, logits=True)
    monkeypatch.setattr(kernels, "on_gpu", lambda: True)
    fused = run(Generator(lm, **GREEDY), codes, logits=True)
    for a, b in zip(ours, fused, strict=True):
        assert a.logits is not None
        assert b.logits is not None
        np.testing.assert_allclose(a.logits.text, b.logits.text, atol=1e-4)
        np.testing.assert_allclose(a.logits.audio, b.logits.audio, atol=1e-4)


def test_grouped_attention_has_fewer_keys() -> None:
    lm = small_lm(kv_repeat=2)
    assert Generator(lm).cache_bytes * 2 == Generator(small_lm()).cache_bytes


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (np.full(8, 5000), "between 0 and 47"),
        (np.full(8, -7), "between 0 and 47"),
        (np.full(8, 1.0), "whole numbers"),
        (np.full(7, 1), "shape"),
        ("hello", "whole numbers"),
    ],
)
def test_codes_that_cannot_be_are_refused(codes: object, said: str) -> None:
    generator = Generator(small_lm())
    with pytest.raises(MoshiError, match=said):
        generator.step(codes)
    generator.step(user_codes(1)[0])


@pytest.mark.parametrize("text", [96, -2, 1.5, [1, 2]])
def test_forced_text_that_cannot_be_is_refused(text: object) -> None:
    with pytest.raises(MoshiError, match="forced text"):
        Generator(small_lm()).step(user_codes(1)[0], text=text)


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**32}, {"batch_size": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MoshiError):
        Generator(small_lm(), **wrong)
