"""For minutes in real time: no gap, no drift, memory flat, and every frame that was dropped explained.

    pytest -m long tests/live/test_long_conversation.py -s -k eight      (or thirty)

Wants a machine that has little else to do. Where it has, what that cost is listed: at each stall how long the
threads of this process waited for a processor, as Linux tells, and which stage was late.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from jack_room import MISSING
from talk import FRAME, RATE, Take, stages_of, talk

from moshi_mlx.live.conversation import Conversation
from moshi_mlx.live.metrics import resident_size
from moshi_mlx.moshi import load

pytestmark = [pytest.mark.long, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

BUDGET_S = 0.08
EXPLAINED_S = 0.04
"""Less than this without a processor within two seconds does not excuse a dropped frame."""
CODEC_BYTES = 2 * 2 * 8 * 2 * 512 * 4
"""A frame's keys and values in both directions (two positions, eight layers): rustymimi keeps them until the next
object takes over, see mimi.py. With them goes what this test collects, 4 bytes a sample."""
GROWTH_BYTES = 20_000_000


@pytest.mark.parametrize("minutes", [pytest.param(8, id="eight"), pytest.param(30, id="thirty")])
def test_it_goes_on_for_minutes(minutes: int, tmp_path: Path) -> None:
    moshi, memory = load("tiny"), []

    def during(conversation: Conversation, seconds: float) -> None:
        if seconds > 60 and seconds - (memory[-1][0] if memory else 50) >= 10:
            known = 4 * RATE * seconds + CODEC_BYTES * conversation.duplex.stats.frames_out
            memory.append((seconds, resident_size() - known, mx.get_active_memory()))

    noise = np.random.default_rng(0).normal(0, 0.05, minutes * 60 * RATE).astype(np.float32)
    take = talk(stages_of(moshi), moshi, noise, tmp_path, during=during)
    stalls = find_stalls(take)
    tell(take, stalls, memory)
    check_memory(np.array(memory))
    check_counts(take)
    check_drift(take)
    assert take.events[-1].index * BUDGET_S > minutes * 60 - 5
    for at, frames, waited, _late in stalls:
        assert waited >= EXPLAINED_S, f"{frames} frames dropped at {at:.1f} s, and the machine was free"
    assert take.played[-RATE:].any()


def find_stalls(take: Take) -> list[tuple[float, int, float, str]]:
    """Runs of dropped frames: (when, how many, seconds that threads waited for a processor, the latest stage)."""
    missing, stalls = np.array(take.missing), []
    for run in np.split(missing, np.flatnonzero(np.diff(missing) > 12) + 1) if len(missing) else []:
        begin, end = run[0] * BUDGET_S - 2.0, run[-1] * BUDGET_S + 0.5
        late = [event for event in take.events if begin <= event.time <= end]
        slowest = max(((event.seconds[s], s) for event in late for s in event.seconds), default=(0.0, "none"))
        waited = np.interp([begin, end], *np.array(take.waits).T)
        stalls.append((run[0] * BUDGET_S, len(run), float(waited[1] - waited[0]), f"{slowest[1]} {slowest[0]:.3f} s"))
    return stalls


def tell(take: Take, stalls: list[tuple[float, int, float, str]], memory: list[tuple[float, float, int]]) -> None:
    summary = take.summary
    print(f"\n{summary['seconds']:.1f} s, {summary['frames']} frames, {summary['dropped_total']} dropped")
    print(f"underruns {summary['underruns']}, discarded samples {summary['discarded_samples']}")
    for stage, times in summary["stages"].items():
        print(f"{stage:>7}: " + ", ".join(f"{p} {times[f'{p}_ms']:.1f}" for p in ("p50", "p95", "p99", "max")) + " ms")
    added = 1000 * take.added()
    print(
        f"the loop added: median {np.median(added):.2f}, p99 {np.percentile(added, 99):.2f}, max {added.max():.1f} ms"
    )
    print(f"memory less what codec and test collect: {[round(rss / 1e6) for _, rss, _ in memory[::6]]} MB each minute")
    print(f"all threads waited {take.waits[-1][1] - take.waits[0][1]:.1f} s for a processor")
    for at, frames, waited, late in stalls:
        print(f"stall at {at:7.1f} s: {frames:3} frames dropped; threads waited {waited:.2f} s; slowest: {late}")


def check_memory(memory: np.ndarray) -> None:
    """Nothing else grows after the first minute."""
    _, resident, arrays = memory.T
    assert resident.max() - resident[0] < GROWTH_BYTES
    assert arrays.max() - arrays[0] < 1_000_000


def check_counts(take: Take) -> None:
    assert take.counted
    assert len(take.mic) - FRAME * (take.answered[-1] + 1) <= 9 * FRAME
    assert take.summary["frames"] == len(take.events)


def check_drift(take: Take) -> None:
    """The microphone's frames come by the clock, and the last minute's answers are no later than the stages say."""
    first, last = take.events[0], take.events[-1]
    behind = (last.time - first.time) - (last.index - first.index) * BUDGET_S
    print(f"the virtual sound card's clock against this machine's: {1000 * behind:.0f} ms behind")
    lags = np.array([event.lag for event in take.events])
    paths = np.array([sum(event.seconds.values()) for event in take.events])
    minute = 750
    assert np.median((lags - paths)[-minute:]) <= np.median((lags - paths)[:minute]) + 0.08
    assert (lags <= BUDGET_S + 3 * slowest_near(take) + np.concatenate([[0.0], take.added()]) + 0.005).all()


def slowest_near(take: Take) -> np.ndarray:
    """For each answer the longest time of a stage with it and the two before, in seconds."""
    each = np.array([max(event.seconds.values()) for event in take.events])
    return np.max([each, np.roll(each, 1), np.roll(each, 2)], axis=0)
