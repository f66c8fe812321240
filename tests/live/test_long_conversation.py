"""For minutes in real time: no gap, no drift, memory flat, and every frame that was lost explained.

    pytest -m long tests/live/test_long_conversation.py -s -k eight      (or one, or thirty)

Wants a machine that has little else to do. What that costs is measured by a watcher that has no part in the
conversation: a frame may be dropped, and the speaker may fall silent, only where the watcher itself was held up,
others had the processors, or rustymimi, whose work is the same each frame, took longer. Each such place is listed,
and so is each callback that was late for the sound server, which costs the virtual sound card time and no sound.

A machine on which both directions of the codec do not fit into a frame side by side can run it with its clock slowed
down, as if it were twice as fast (scripts/slow_clock.c says how):

    LD_PRELOAD=$PWD/slow_clock.so SLOW_CLOCK=0.5 pytest -m long tests/live/test_long_conversation.py -s -k eight
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from jack_room import MISSING
from talk import FRAME, RATE, Take, stages_of, talk
from watcher import Watcher

from moshi_mlx.live.conversation import Conversation
from moshi_mlx.live.metrics import codec_size, resident_size
from moshi_mlx.mimi import MAX_FRAMES, OVERLAP
from moshi_mlx.moshi import load

pytestmark = [pytest.mark.long, pytest.mark.skipif(MISSING is not None, reason=str(MISSING))]

FRAME_S = 0.08
BEFORE_S, AFTER_S = 0.24, 0.1
"""Around a stall, where its cause is looked for: the frame that is missed at the speaker was heard two before."""
BACKLOG_S = 1.5
"""Before dropped frames: how long it may take until one cannot wait any more."""
LATE_S, TAKEN_S = 0.04, 0.2
"""Half a frame that the watcher was late, or two and a half of processor time that others had: a cause."""
PERIOD_S, LEAST_LATE_S = 0.02, 0.005
"""A callback, and what the codec must have been late to explain that one found nothing."""
BUSY = 0.2
"""Share of a processor that others may have before nothing can be said of the sound card's clock."""
GAP = 240
"""Samples (10 ms) of exact silence that count as a gap: random weights are never silent."""

CODEC_BYTES = 2 * 8 * 2 * 512 * 4
"""What a codec process keeps of a frame: keys and values of two positions in eight layers."""
GROWTH_BYTES = 20_000_000
SAMPLE_EVERY_S = 5.0


@dataclass(frozen=True)
class Stall:
    """Where frames were dropped or the speaker fell silent."""

    what: str
    at: float
    """Seconds since the conversation began."""
    late: float
    """What the watcher measured near it: its own delay at worst, and processor time of others; seconds."""
    taken: float
    codec: float
    """By how much both directions of the codec took longer near it than they mostly do, at worst; seconds."""
    needs: float
    """How much of that explains it."""

    @property
    def explained(self) -> bool:
        return self.late >= LATE_S or self.taken >= TAKEN_S or self.codec >= self.needs


@dataclass(frozen=True)
class Memory:
    """Bytes at one moment."""

    at: float
    frames: int
    own: int
    encode: int
    decode: int
    arrays: int


@pytest.mark.parametrize(
    "minutes", [pytest.param(1, id="one"), pytest.param(8, id="eight"), pytest.param(30, id="thirty")]
)
def test_it_goes_on_for_minutes(minutes: int, tmp_path: Path) -> None:
    moshi, memory, began = load("tiny"), list[Memory](), list[float]()

    def during(conversation: Conversation, seconds: float) -> None:
        began[:] = [time.perf_counter() - seconds]
        if not memory or seconds - memory[-1].at >= SAMPLE_EVERY_S:
            frames, arrays = conversation.duplex.stats.frames_out, mx.get_active_memory()
            memory.append(Memory(seconds, frames, resident_size(), arrays=arrays, **codec_size()))

    noise = np.random.default_rng(0).normal(0, 0.05, minutes * 60 * RATE).astype(np.float32)
    with Watcher() as watcher:
        take = talk(stages_of(moshi), moshi, noise, tmp_path, during=during)
    stalls = [stall for find in (find_drops, find_gaps) for stall in find(take, watcher, began[0])]
    tell(take, [*stalls, *find_pauses(take, watcher, began[0])], memory, watcher)
    check_memory([sample for sample in memory if sample.at >= min(60, 20 * minutes)])
    check_samples(take, noise)
    check_times(take)
    check_clock(take, watcher)
    check_callbacks(take)
    unexplained = [stall for stall in stalls if not stall.explained]
    assert not unexplained, "the machine was free"


def find_drops(take: Take, watcher: Watcher, began: float) -> Iterator[Stall]:
    """Runs of dropped frames."""
    missing = np.array(take.missing, int)
    if len(missing):
        for run in np.split(missing, np.flatnonzero(np.diff(missing) > 6) + 1):
            at, until = moments(take, run[[0, -1]])
            yield explain(take, watcher, began, f"{len(run)} frames dropped", at, until, LATE_S, BACKLOG_S)


def find_gaps(take: Take, watcher: Watcher, began: float) -> Iterator[Stall]:
    """Silence at the speaker between its first sound and its last."""
    sounding = np.flatnonzero(take.played)
    for index in np.flatnonzero(np.diff(sounding) > GAP):
        first, silent = sounding[index] / FRAME, (sounding[index + 1] - sounding[index]) / RATE
        needs = min(LATE_S, max(LEAST_LATE_S, silent - PERIOD_S))
        what = f"{1000 * silent:.0f} ms of silence"
        at, until = moments(take, np.array([first, first + silent / FRAME_S]))
        yield explain(take, watcher, began, what, at, until, needs)


def find_pauses(take: Take, watcher: Watcher, began: float) -> Iterator[Stall]:
    """Callbacks that came too late for the sound server, whose clock then stood still."""
    for moment in take.xruns:
        at = moment - began
        yield explain(take, watcher, began, "the sound server was late", at, at, LEAST_LATE_S)


def moments(take: Take, frames: np.ndarray) -> tuple[float, float]:
    """When two frames of the microphone had been heard, in seconds since the conversation began."""
    at, until = np.interp(frames, take.answered, [event.time for event in take.events])
    return float(at), float(until)


def explain(
    take: Take,
    watcher: Watcher,
    began: float,
    what: str,
    at: float,
    until: float,
    needs: float,
    before: float = BEFORE_S,
) -> Stall:
    """A stall from one moment to another, with what the watcher saw around it."""
    begin, end = at - before, until + AFTER_S
    stages = {stage: take.summary["stages"][stage]["p50_ms"] / 1000 for stage in ("encode", "decode")}
    near = [sum(event.seconds[stage] for stage in stages) for event in take.events if begin <= event.time <= end]
    return Stall(
        what,
        at,
        watcher.late(began + begin, began + end),
        watcher.taken(began + begin, began + end),
        max(near, default=0.0) - sum(stages.values()),
        needs,
    )


def tell(take: Take, stalls: list[Stall], memory: list[Memory], watcher: Watcher) -> None:
    summary, (begin, end) = take.summary, watcher.rows[[0, -1], 0]
    print(f"\n{summary['seconds']:.1f} s, {summary['frames']} frames, {summary['dropped_total']} dropped")
    print(f"underruns {summary['underruns']}, discarded samples {summary['discarded_samples']}, {summary['sound']}")
    print(f"the sound server was late {len(take.xruns)} times")
    for stage, times in summary["stages"].items():
        print(f"{stage:>7}: " + ", ".join(f"{p} {times[f'{p}_ms']:.1f}" for p in ("p50", "p95", "p99", "max")) + " ms")
    added = 1000 * take.added()
    print(
        f"the loop added: median {np.median(added):.2f}, p99 {np.percentile(added, 99):.2f}, max {added.max():.1f} ms"
    )
    print("MB each minute: " + ", ".join(map(megabytes, memory[:: round(60 / 5)])))
    print(f"others had {100 * watcher.taken(begin, end) / (end - begin):.0f}% of a processor, the watcher was late")
    print(f"{1000 * watcher.late(begin, end):.0f} ms at worst")
    for stall in sorted(stalls, key=lambda stall: stall.at):
        print(
            f"{stall.at:7.1f} s: {stall.what:<25} watcher late {1000 * stall.late:4.0f} ms, others had "
            f"{1000 * stall.taken:5.0f} ms, codec late {1000 * stall.codec:4.0f} ms"
            f"{'' if stall.explained else '  UNEXPLAINED'}"
        )


def megabytes(sample: Memory) -> str:
    return " + ".join(str(round(size / 1e6)) for size in (sample.own, sample.encode, sample.decode))


def check_memory(memory: list[Memory]) -> None:
    """The process itself stays as it is. The codec's grow with what they keep of every frame, up to the last frame
    that one serves, with a successor beside it for a while: bounded, and no higher each time."""
    own = np.array([sample.own for sample in memory])
    arrays = np.array([sample.arrays for sample in memory])
    assert own.max() - own[0] < GROWTH_BYTES
    assert arrays.max() - arrays[0] < 1_000_000
    frames = np.array([sample.frames for sample in memory])
    for direction in ("encode", "decode"):
        sizes = np.array([getattr(sample, direction) for sample in memory])
        weights = sizes[0] - CODEC_BYTES * frames[0]
        both = 2 * weights + CODEC_BYTES * (MAX_FRAMES + OVERLAP)
        assert sizes.max() < both + 2 * GROWTH_BYTES, direction
        period = MAX_FRAMES - OVERLAP
        later = [
            sizes[(frames >= start) & (frames < start + period)] for start in range(MAX_FRAMES, frames[-1], period)
        ]
        whole = [part for part in later if len(part) * SAMPLE_EVERY_S >= 0.9 * period * FRAME_S]
        for extreme in (np.min, np.max):
            levels = [int(extreme(part)) for part in whole]
            assert not levels or levels[-1] < levels[0] + 2 * GROWTH_BYTES, (direction, levels)


def check_samples(take: Take, noise: np.ndarray) -> None:
    """What was heard is what was said into the microphone, sample for sample to the end, and each frame counted."""
    start = int(np.flatnonzero(take.mic)[0]) if take.mic.any() else 0
    heard = take.mic[start:][: len(noise)]
    assert len(noise) - len(heard) < RATE
    np.testing.assert_array_equal(heard, noise[np.flatnonzero(noise)[0] :][: len(heard)])
    assert take.counted
    assert take.summary["frames"] == len(take.events)
    assert take.played[-RATE:].any()


def check_times(take: Take) -> None:
    """The last minute's answers are no later than its stages say, and never later than the policy allows."""
    lags = np.array([event.lag for event in take.events])
    paths = np.array([sum(event.seconds.values()) for event in take.events])
    minute = min(750, len(lags) // 2)
    assert np.median((lags - paths)[-minute:]) <= np.median((lags - paths)[:minute]) + 0.08
    assert (lags <= FRAME_S + 3 * slowest_near(take) + np.concatenate([[0.0], take.added()]) + 0.005).all()


def check_clock(take: Take, watcher: Watcher) -> None:
    """Frames come by this machine's clock, less what the virtual sound card has waited for a machine that was busy."""
    first, last = take.events[0], take.events[-1]
    behind = (last.time - first.time) - (last.index - first.index) * FRAME_S
    print(f"the virtual sound card's clock against this machine's: {1000 * behind:.0f} ms behind")
    begin, end = watcher.rows[[0, -1], 0]
    if watcher.taken(begin, end) < BUSY * (end - begin):
        assert abs(behind) < 0.1 + PERIOD_S * len(take.xruns)


def check_callbacks(take: Take) -> None:
    """Next to none was late: two in a thousand, the room's own in the same process included."""
    assert len(take.xruns) <= 0.002 * len(take.mic) / (RATE * PERIOD_S)


def slowest_near(take: Take) -> np.ndarray:
    """For each answer the longest time of a stage with it and the two before, in seconds."""
    each = np.array([max(event.seconds.values()) for event in take.events])
    return np.max([each, np.roll(each, 1), np.roll(each, 2)], axis=0)
