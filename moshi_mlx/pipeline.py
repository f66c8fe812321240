"""Sound in, sound out, without a clock: the stages that a live conversation runs, as fast as they go.

Encoder and decoder run in threads of their own beside the language model, which stays in the caller's.
Whatever the threads do, the samples are those of one stage after the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from .errors import MoshiError
from .generator import SAMPLE, Frame, Generator
from .mimi import MimiDecoder, MimiEncoder
from .moshi import Moshi
from .rates import FRAME_SIZE
from .sound import whole_frame
from .text import greeting_tokens

AHEAD = 4
"""Frames that the encoder may be ahead of the language model."""

OnTime = Callable[[str, float, float], None]
"""Is told what a frame took: the stage (encode, lm or decode), `time.perf_counter()` at its start, seconds."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def untold(stage: str, start: float, seconds: float) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Reply:
    """What came of one frame of 80 ms."""

    heard: np.ndarray
    """The user's samples, float32 [1920]."""
    said: np.ndarray
    """Moshi's samples beside them, float32 [1920]; silence while there is no audio yet."""
    token: int
    """The inner monologue's token."""


@dataclass
class Stages:
    """The three stages of one conversation.

    Each method belongs to one thread: `encode` and `decode` to any, `think` and `begin_anew` to the one that loaded
    the model.
    """

    encoder: MimiEncoder
    generator: Generator
    decoder: MimiDecoder | None
    """None where nothing is said."""
    greeting: Sequence[int] = ()
    """Text tokens that every conversation begins with."""
    on_time: OnTime = untold

    def __post_init__(self) -> None:
        self._script = deque(self.greeting)  # what is still to be forced

    @staticmethod
    def of(moshi: Moshi, generator: Generator, greeting: str | None = None, on_time: OnTime = untold) -> Stages:
        """Stages for a model that converses.

        Raises:
            MoshiError: the model does not speak, or the greeting has no words.
        """
        if moshi.config.dep_q == 0 or moshi.config.user_codebooks == 0:
            raise MoshiError(
                f"{moshi.checkpoint.folder} does not converse: it has no codebooks to hear or to speak with"
            )
        tokens = greeting_tokens(greeting, moshi.text) if greeting is not None else []
        return Stages(moshi.encoder(), generator, moshi.decoder(), tokens, on_time)

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Samples float32 [1920] -> codes int32 [user codebooks]."""
        return self._timed("encode", lambda: self.encoder.encode(samples))

    def think(self, codes: np.ndarray) -> tuple[int, np.ndarray | None]:
        """Codes of the user's frame -> text token, and Moshi's codes [codebooks] if a frame is complete."""
        forced = self._script.popleft() if self._script else SAMPLE
        frame = self._timed("lm", lambda: self.generator.step(codes, text=forced))
        return int(frame.text), frame.audio

    def decode(self, codes: np.ndarray | None) -> np.ndarray:
        """Moshi's codes -> samples float32 [1920]; silence for None."""
        decoder = self.decoder
        if codes is None or decoder is None:
            return np.zeros(FRAME_SIZE, np.float32)
        return self._timed("decode", lambda: decoder.decode(codes))

    @property
    def codec_restarts(self) -> int:
        """How often a process of the codec was lost and another one went on, each time after a short break."""
        return self.encoder.restarts + (self.decoder.restarts if self.decoder is not None else 0)

    def never_wait(self) -> None:
        """Live: let no frame wait until one process of the codec can relieve another."""
        self.encoder.never_wait()
        if self.decoder is not None:
            self.decoder.never_wait()

    def begin_anew(self) -> None:
        """Forget the conversation: the next frame to `think` of is the first of a new one. Sound just goes on."""
        self.generator.reset()
        self._script = deque(self.greeting)

    def warm_up(self) -> None:
        """Whatever must happen before the first sound. Codec and language model are ready when they are made."""

    def _timed(self, stage: str, work: Callable[[], Result]) -> Result:
        start = time.perf_counter()
        result = work()
        self.on_time(stage, start, time.perf_counter() - start)
        return result


def converse(stages: Stages, blocks: Iterable[np.ndarray]) -> Iterator[Reply]:
    """Run a conversation over recorded sound.

    Args:
        stages: see `Stages.of`.
        blocks: float32 mono at 24 kHz in blocks of 1,920 samples; a shorter last one is filled with silence.

    Yields:
        one Reply per block, in order.
    """
    with ThreadPoolExecutor(1) as encoding, ThreadPoolExecutor(1) as decoding:
        encoded = ((samples, encoding.submit(stages.encode, samples)) for samples in map(whole_frame, blocks))
        pending: deque[tuple[np.ndarray, int, Future[np.ndarray]]] = deque()
        for samples, codes in _ahead(encoded):
            token, audio = stages.think(codes.result())
            pending.append((samples, token, decoding.submit(stages.decode, audio)))
            while pending and (pending[0][2].done() or len(pending) > AHEAD):
                yield _reply(*pending.popleft())
        for waiting in pending:
            yield _reply(*waiting)


def listen(encoders: Sequence[MimiEncoder], generator: Generator, frames: Iterable[np.ndarray]) -> Iterator[Frame]:
    """Give a model what to hear, in one batch, and take what it makes of it.

    Args:
        encoders: each takes an equal share of the rows, in a thread of its own.
        generator: of as many rows.
        frames: float32 [B, 1920].
    """
    with ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in encoders]

        def encode(frame: np.ndarray) -> list[Future[np.ndarray]]:
            shares = np.array_split(frame, len(encoders))
            jobs = zip(threads, encoders, shares, strict=True)
            return [thread.submit(encoder.encode_rows, share) for thread, encoder, share in jobs]

        for parts in _ahead(map(encode, frames)):
            yield generator.step(np.concatenate([part.result() for part in parts]))


def _ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Take AHEAD items in advance, so that what they have started gets done meanwhile."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def _reply(heard: np.ndarray, token: int, said: Future[np.ndarray]) -> Reply:
    return Reply(heard, said.result(), token)
