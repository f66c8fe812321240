"""How soon one is answered: from a click in the microphone to the first sample that it changes at the speaker.

Both are captured signals of a virtual sound card (JACK's dummy driver; apt-get install jackd2 libportaudio2). Two
conversations of one seed, with and without the click, say the same until the click is heard.

    python scripts/answer_time.py

Two minutes on a machine that has nothing else to do; four times that where it stalls every time. Beside each time
stands its floor: the rest of the frame that the click falls into (80 ms for a click at its beginning) + the stages +
the wait for the next callback + what the sound card adds, which is measured without a model. The stages are the
slowest of the last two seconds, as sound without gaps waits for the slowest.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from jack_room import jack_rooms
from talk import FRAME, RATE, Take, answers, places, slow_down, stages_of, talk

from moshi_mlx.live.duplex import Duplex
from moshi_mlx.moshi import Moshi, load

SILENCE = 3 * RATE
CLICK = np.random.default_rng(0).uniform(-0.5, 0.5, 240).astype(np.float32)
AFTER = RATE // 2
WINDOW = 25  # frames that the speaker looks back before it takes back delay
MARGIN_S = 0.010
SLOWED_MS = (None, 20, 60, 79)


@dataclass(frozen=True)
class AnswerTime:
    """One measurement; all in milliseconds."""

    measured: float
    capture: float
    """From the click to the end of its frame, or of the next where the codec needs that."""
    stages: dict[str, float]
    """What encoder, language model and decoder took for the answer."""
    slowest: float
    """The three, and what they had to wait for one another, at most in the last two seconds."""
    added: float
    """What the loop added to that: the median of all frames."""
    device: float
    block: float

    @property
    def floor(self) -> float:
        """The soonest that is possible."""
        return self._with(self.slowest)

    @property
    def within(self) -> bool:
        """Whether the loop adds ten milliseconds at most. An answer can only begin with a callback."""
        return self.measured <= self._with(self.slowest + 1000 * MARGIN_S)

    def _with(self, path: float) -> float:
        return self.capture + math.ceil(path / self.block) * self.block + self.device


def sound_card_adds(period: int) -> float:
    """Milliseconds that a click takes without a model, less the frame that is captured and one block."""
    found = []
    for _ in range(3):
        with jack_rooms("room", period=period) as [room], Duplex("room", "room", period) as duplex:
            room.play(np.concatenate([np.zeros(RATE // 2, np.float32), CLICK, np.zeros(RATE // 2, np.float32)]))
            while not room.finished():
                frame = duplex.read_frame()
                if frame is not None:
                    duplex.write_frame(frame.mic)
            found.append(int(np.flatnonzero(room.heard())[0]) - RATE // 2 - FRAME - period)
    return 1000 * statistics.median(found) / RATE


def converse_with(moshi: Moshi, click: bool, period: int, slowed: int | None, seed: int) -> Take:
    sound = np.zeros(SILENCE + AFTER, np.float32)
    if click:
        sound[SILENCE : SILENCE + len(CLICK)] = CLICK
    stages = stages_of(moshi, seed)
    if slowed is not None:
        slow_down(stages, "lm", lambda: slowed / 1000)
    with tempfile.TemporaryDirectory() as folder:
        return talk(stages, moshi, sound, Path(folder), period)


def answer_time(moshi: Moshi, period: int, slowed: int | None, device: float, seed: int = 0) -> AnswerTime | None:
    """Measure once; None where this machine stalled, so that frames were dropped or the answer was torn."""
    plain, clicked = (converse_with(moshi, click, period, slowed, seed) for click in (False, True))
    if plain.missing or clicked.missing:
        return None
    offset = int(np.flatnonzero(clicked.mic)[0])
    at = [places(answers(moshi, take.frames(), seed), take.heard) for take in (plain, clicked)]
    frames = [_whole(take.heard, starts) for take, starts in zip((plain, clicked), at, strict=True)]
    for frame in (offset // FRAME, offset // FRAME + 1):  # the codec may not hear the end of a frame at once
        before, after = frames[0][frame], frames[1][frame]
        if frame < WINDOW or before is None or after is None:
            return None
        changed = np.flatnonzero(before != after)
        if len(changed):
            break
    else:
        return None
    added = np.concatenate([[0.0], clicked.added()])
    recent = range(frame - WINDOW, frame + 1)
    return AnswerTime(
        measured=1000 * (_place(at[1], frame) + int(changed[0]) - SILENCE) / RATE,
        capture=1000 * ((frame + 1) * FRAME - offset) / RATE,
        stages={stage: 1000 * seconds for stage, seconds in clicked.events[frame].seconds.items()},
        slowest=1000 * max(clicked.events[i].lag - added[i] for i in recent),
        added=1000 * float(np.median(added)),
        device=device,
        block=1000 * period / RATE,
    )


def _whole(heard: np.ndarray, starts: list[int | None]) -> list[np.ndarray | None]:
    """The frames as they were heard; None for one that may have faded in after a gap."""
    before = [None if at is None else at + FRAME for at in starts[:-1]]
    whole = [at is not None and at == end for at, end in zip(starts, [None, *before], strict=True)]
    return [heard[at : at + FRAME] if at is not None and ok else None for at, ok in zip(starts, whole, strict=True)]


def _place(starts: list[int | None], frame: int) -> int:
    start = starts[frame]
    if start is None:
        raise ValueError(f"frame {frame} was not heard")
    return start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=4, help="for each line, where the machine stalls")
    parser.add_argument("--model", default="tiny")
    args = parser.parse_args()
    moshi, began = load(args.model), time.monotonic()
    print("block  LM slowed | measured    floor = capture + stages + wait + card | loop adds | encode   LM  decode")
    missed = 0
    for period in (1920, 480):
        device = sound_card_adds(period)
        for slowed in SLOWED_MS:
            for _ in range(args.attempts):
                answer = answer_time(moshi, period, slowed, device)
                verdict = "stalled" if answer is None else _line(answer) + ("" if answer.within else "  late")
                print(f"{period:5}  {slowed or '-':>9} | {verdict}", flush=True)
                if answer is not None and answer.within:
                    break
            else:
                missed += 1
    lines = 2 * len(SLOWED_MS)
    print(f"{lines - missed} of {lines} within {1000 * MARGIN_S:.0f} ms; measured in {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


def _line(t: AnswerTime) -> str:
    wait = t.floor - t.capture - t.slowest - t.device
    parts = f"{t.floor:8.1f} = {t.capture:7.1f} + {t.slowest:6.1f} + {wait:4.1f} + {t.device:4.1f}"
    stages = "".join(f"{t.stages[stage]:7.1f}" for stage in ("encode", "lm", "decode"))
    return f"{t.measured:8.1f} {parts} | {t.added:9.2f} |{stages}"


if __name__ == "__main__":
    sys.exit(main())
