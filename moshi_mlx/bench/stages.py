"""Times each stage of a frame, and the pipeline of them as a conversation runs it.

Stages take turns in rounds. The language model's parts are timed as well, from pieces compiled on their own: they
tell where the time goes, not what it adds up to. Sound is noise and codes are random: timing depends on neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from ..config import TEXT_PADDING, LMConfig
from ..errors import MoshiError
from ..generator import Generator
from ..live.metrics import codec_size, resident_size
from ..live.system import collected_by_hand
from ..mimi import Mimi
from ..pipeline import Stages, converse
from ..rates import FRAME_SIZE
from .counting import Count, counting
from .pieces import PIECES, Pieces
from .timing import FrameTimes

STAGES = ("encode", "lm", "temporal", "depth", "sampling", "decode", "pipeline")
ROUNDS = 5
FRAMES = 100
BUDGET_S = 20.0
"""What a stage may take where nobody says how many frames it shall run."""
WARM_UP = 3
"""Frames before those that count, or one where frames take long."""

Tell = Callable[[str], None]
"""Is told what is going on, for a line on the screen."""


class Held(NamedTuple):
    """Bytes at one moment: MLX's active memory, and the sizes of this process and of the codec's."""

    arrays: int
    own: int
    encode: int
    decode: int

    @staticmethod
    def now() -> Held:
        """Ask MLX and the system."""
        return Held(mx.get_active_memory(), resident_size(), **codec_size())

    @property
    def processes(self) -> int:
        """All of them together."""
        return self.own + self.encode + self.decode


@dataclass
class Measured:
    """What came of one model."""

    timings: dict[str, FrameTimes]
    """By stage; `answer` is what a frame spends in all three stages of the pipeline."""
    first_frame_s: float
    """From loaded weights to the first frame of sound."""
    position: int
    """The frame in the middle of those timed."""
    cache_bytes: int
    """Keys and values held at the end."""
    told_bytes: int
    """What frames read of conditions: a vector, and the keys and values of cross-attention."""
    count: Count
    """Of one frame of the language model."""
    memory: list[Held] = field(default_factory=list)
    """After each frame of the language model."""


def stages_of(config: LMConfig) -> list[str]:
    """The stages that a model has: only one that hears and speaks has a pipeline."""
    absent = set()
    if not config.user_codebooks:
        absent |= {"encode", "pipeline"}
    if not config.dep_q:
        absent |= {"depth", "decode", "pipeline"}
    return [stage for stage in STAGES if stage not in absent]


def is_cut(config: LMConfig) -> bool:
    """Whether the host chooses every text token: what is spoken is given, and nobody is heard."""
    return config.dep_q > 0 and not config.user_codebooks


def measure(
    generator_of: Callable[[], Generator],
    codec: Mimi | None,
    position: int,
    frames: int | None = None,
    stages: Iterable[str] = STAGES,
    tell: Tell = lambda message: None,
) -> Measured:
    """Time a model.

    Args:
        generator_of: makes the conversation; what that takes is part of the time to the first frame.
        codec: encodes and decodes, for a model that hears or speaks.
        position: the frame of the conversation at which it begins.
        frames: of each stage; None is FRAMES, or as many as BUDGET_S allows.
        stages: some of STAGES.
        tell: is told what is being done.

    Raises:
        MoshiError: the model has none of these stages.
    """
    tell("the first frame")
    began = time.perf_counter()
    generator = generator_of()
    wanted = [stage for stage in stages_of(generator.config) if stage in set(stages)]
    if not wanted:
        raise MoshiError(f"this model has only these stages: {', '.join(stages_of(generator.config))}")
    line = _Line(generator, codec)
    line.first_frame()
    first_frame_s = time.perf_counter() - began
    line.generator.skip_to(position)
    bench = {stage: line.block(stage) for stage in wanted}
    timings = {stage: FrameTimes() for stage in wanted}
    counts = {}
    for stage in wanted:
        tell(f"warming up {stage}")
        counts[stage] = _warm_up(bench[stage], frames)
    begin = line.generator.position
    line.answers.clear()
    line.memory.clear()
    with collected_by_hand():
        for round_ in range(ROUNDS):
            for stage in wanted:
                share = _share(counts[stage], round_)
                if share:
                    tell(f"{stage}, round {round_ + 1} of {ROUNDS}")
                    timings[stage].rounds.append(bench[stage](share))
    if "pipeline" in wanted:
        timings["answer"] = FrameTimes(line.answers)
    with counting() as count:
        line.step()
    middle = (begin + line.generator.position) // 2
    memory = line.memory or [Held.now()]
    return Measured(timings, first_frame_s, middle, line.generator.cache_bytes, line.told_bytes, count, memory)


def _warm_up(block: Callable[[int], Sequence[float]], frames: int | None) -> int:
    """Run what does not count; return how many frames shall."""
    seconds = block(1)[0]
    if seconds < 1:
        seconds = min(block(WARM_UP))
    return frames or max(1, min(FRAMES, int(BUDGET_S / seconds)))


def _share(frames: int, round_: int) -> int:
    """A round's part of all frames; the first rounds take what does not divide."""
    return frames // ROUNDS + (round_ < frames % ROUNDS)


class _Line:
    """The stages of one conversation, each as a function that runs so many frames and returns their seconds."""

    def __init__(self, generator: Generator, codec: Mimi | None):
        self.generator = generator
        told = cast("list[tuple[str, mx.array | None]]", tree_flatten(generator.told))
        self.told_bytes = sum(array.nbytes for _, array in told if array is not None)
        self.answers: list[list[float]] = []
        self.memory: list[Held] = []
        self._random = np.random.default_rng(0)
        config = generator.config
        if codec:
            codec.prepare(encoder=config.user_codebooks or None, decoder=config.dep_q or None)
        self._encoder = codec.encoder(config.user_codebooks) if codec and config.user_codebooks else None
        self._decoder = codec.decoder(config.dep_q) if codec and config.dep_q else None
        self._starts: list[float] = []
        self._spent: dict[str, list[float]] = {"encode": [], "lm": [], "decode": []}

    def block(self, stage: str) -> Callable[[int], list[float]]:
        """The function of a stage."""
        if stage == "pipeline":
            return self._pipeline
        if stage == "lm":
            return self._lm
        if stage in PIECES:
            return _timed(Pieces(self.generator).of(stage))
        return _timed({"encode": self._encode, "decode": self._decode}[stage])

    def codes(self) -> np.ndarray | None:
        """A user's frame, int32 [user codebooks]; None where there is no user."""
        config = self.generator.config
        if not config.user_codebooks:
            return None
        return self._random.integers(0, config.card, config.user_codebooks).astype(np.int32)

    def step(self) -> None:
        """A frame of the language model, in two halves where the host chooses the text in between."""
        self._frame(self.codes())

    def first_frame(self) -> None:
        """Sound in, sound out, as far as the model knows sound."""
        self._frame(self._encode())
        self._decode()

    def _frame(self, codes: np.ndarray | None) -> None:
        if is_cut(self.generator.config):
            self.generator.begin(codes)
            self.generator.finish(TEXT_PADDING)
        else:
            self.generator.step(codes)

    def _encode(self) -> np.ndarray | None:
        return self._encoder.encode(self._samples()) if self._encoder else None

    def _samples(self) -> np.ndarray:
        return self._random.normal(0, 0.05, FRAME_SIZE).astype(np.float32)

    def _decode(self) -> None:
        config = self.generator.config
        if self._decoder:
            self._decoder.decode(self._random.integers(0, config.card, config.dep_q))

    def _lm(self, frames: int) -> list[float]:
        seconds = []
        for _ in range(frames):
            codes = self.codes()
            start = time.perf_counter()
            self._frame(codes)
            seconds.append(time.perf_counter() - start)
            self.memory.append(Held.now())
        return seconds

    def _pipeline(self, frames: int) -> list[float]:
        """Flat out, all stages side by side: a frame is what passes between two begins of the language model."""
        self._starts.clear()
        for spent in self._spent.values():
            spent.clear()
        assert self._encoder is not None
        stages = Stages(self._encoder, self.generator, self._decoder, on_time=self._on_time)
        for _ in converse(stages, [self._samples() for _ in range(frames + 1)]):
            pass
        self.answers.append([math.fsum(stages) for stages in zip(*self._spent.values(), strict=False)][1:])
        return [later - earlier for earlier, later in zip(self._starts, self._starts[1:], strict=False)]

    def _on_time(self, stage: str, start: float, seconds: float) -> None:
        self._spent[stage].append(seconds)
        if stage == "lm":
            self._starts.append(start)


def _timed(work: Callable[[], object]) -> Callable[[int], list[float]]:
    def block(frames: int) -> list[float]:
        seconds = []
        for _ in range(frames):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return seconds

    return block
