"""The stages of a frame, measured on a small model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_lm import small_lm

from moshi_mlx import Generator
from moshi_mlx.bench.pieces import PIECES, Pieces
from moshi_mlx.bench.stages import ROUNDS, STAGES, measure
from moshi_mlx.mimi import Mimi


def test_every_stage_runs_as_often_as_asked_in_turns(tiny_mimi: Path) -> None:
    position, frames = 1000, 7
    lm = small_lm(card=2048, context=100)
    told: list[str] = []
    measured = measure(lambda: Generator(lm), Mimi(tiny_mimi), position, frames, tell=told.append)
    assert list(measured.timings) == [*STAGES, "answer"]
    for timing in measured.timings.values():
        assert len(timing.seconds) == frames
        assert len(timing.rounds) == ROUNDS
        assert min(timing.seconds) > 0
    assert len(measured.memory) == frames
    for held in measured.memory:
        assert min(held.encode, held.decode) > 300_000_000
        assert held.processes > held.own + 600_000_000
    assert measured.count.waits == 1
    assert measured.position > position
    assert measured.first_frame_s > 0
    turns = [line for line in told if line.startswith("lm,")]
    assert turns == [f"lm, round {i + 1} of {ROUNDS}" for i in range(ROUNDS)]
    # The pieces do less than the whole, and the frame in all stages takes longer than in one of them.
    medians = {stage: timing.median for stage, timing in measured.timings.items()}
    assert all(medians[piece] < 3 * medians["lm"] for piece in PIECES)
    assert medians["answer"] > medians["lm"]


def test_few_frames_are_those_of_the_first_rounds_and_only_what_is_asked_for_runs(tiny_mimi: Path) -> None:
    lm = small_lm(card=2048)
    measured = measure(lambda: Generator(lm), Mimi(tiny_mimi), 10, 2, stages=["depth", "lm"])
    assert {stage: timing.rounds and len(timing.rounds) for stage, timing in measured.timings.items()} == {
        "lm": 2,
        "depth": 2,
    }


def test_timing_parts_of_the_network_leaves_the_rings_in_their_memory(tiny_mimi: Path) -> None:
    import mlx.core as mx

    lm = small_lm(card=2048, context=2000)
    generator = Generator(lm)
    generator.skip_to(3000)
    mx.clear_cache()
    mx.reset_peak_memory()
    active = mx.get_active_memory()
    measure(lambda: generator, Mimi(tiny_mimi), 3000, 5, stages=["temporal", "lm"])
    assert generator.cache_bytes > 1_000_000
    assert mx.get_peak_memory() - active < 1.5 * generator.cache_bytes  # made anew once by skip_to, never copied


@pytest.mark.parametrize("cut", [False, True])
def test_timing_parts_of_the_network_writes_where_the_rings_have_room(cut: bool) -> None:
    """MLX does not check the place: a step past the end of a ring would write into somebody else's memory."""
    generator = Generator(small_lm(context=200), cut=cut)
    generator.skip_to(127)  # of 128
    if cut:
        generator.begin(np.zeros(8, np.int32))
        generator.finish(3)
    Pieces(generator).of("temporal")()
    keys = np.array(generator.rings[0][0])
    assert np.flatnonzero(np.abs(keys).sum(axis=(0, 1, 3))).tolist() == ([127, 128] if cut else [127])
