"""The loop that speaks: words in, frames of 80 ms out, the language model one step ahead of the codec.

The sound of a word comes `delay` steps after its tokens, so the first steps, and the first ones after a prefix, give
nothing to hear. The language model stays in the caller's thread; the decoder has one of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ...config import ZERO_TOKEN, LMConfig
from ...errors import ConfigError, MoshiError
from ...generator import Generator
from ...mimi import MimiDecoder
from ...rates import FRAME_RATE
from ...streams import KEEP
from .feed import TextFeed
from .machine import WordFeeder

FINAL_PADDING = 4
"""Steps after the model has said all."""
AHEAD = 4
"""Frames that may wait for the decoder."""


@dataclass(frozen=True)
class TtsTiming:
    """What config.json tells of a model that speaks (`tts_config`)."""

    delay: int
    """Steps from a word's tokens to its sound."""
    ahead: int
    """Words that the second text stream is ahead; 0 without one."""

    @staticmethod
    def of(config: LMConfig) -> TtsTiming:
        """The timing of a model.

        Raises:
            ConfigError: config.json does not tell it, or asks for what this version cannot run.
        """
        told = config.raw.get("tts_config")
        told = told if isinstance(told, Mapping) else {}
        delay, ahead = told.get("audio_delay"), told.get("second_stream_ahead", 0)
        if told.get("multistream"):
            raise ConfigError(
                "config.json: 'tts_config.multistream' is true, and this version runs one voice at a time"
            )
        if isinstance(delay, bool) or not isinstance(delay, (int, float)) or not 0 <= delay <= 60:
            raise ConfigError(
                "config.json: 'tts_config.audio_delay' must be the seconds that the sound is behind its text"
            )
        if isinstance(ahead, bool) or not isinstance(ahead, int) or not 0 <= ahead <= 100:
            raise ConfigError("config.json: 'tts_config.second_stream_ahead' must be a number of words")
        if ahead and not config.demux_second_stream:
            raise ConfigError("config.json: 'tts_config.second_stream_ahead' needs 'demux_second_stream'")
        return TtsTiming(int(delay * FRAME_RATE), ahead)


class Speech:
    """One text being spoken.

    Args:
        generator: made with `cut=True`, of batch size 1, and never used before.
        feeder: the words.
        delay: see `TtsTiming`.
        prefix: codes [codebooks, T] of a recording that goes before, in whose voice the text is said.
    """

    def __init__(self, generator: Generator, feeder: WordFeeder, delay: int, prefix: np.ndarray | None = None):
        self.generator, self.feeder = generator, feeder
        self.step = 0
        """Steps taken."""
        codebooks = generator.codebooks
        self._delay = delay
        self._starts = delay + np.array(generator.config.delays[1 : 1 + codebooks])  # [codebooks]
        self._prefix = np.zeros((codebooks, 0), np.int32) if prefix is None else prefix
        self._proposed: int | None = None
        self._skip = delay + self.prefix_frames
        self._hungry_since: int | None = None  # the step in which a word was first wanted in vain

    @property
    def prefix_frames(self) -> int:
        """Frames of the prefix, which the listener has heard already."""
        return self._prefix.shape[1]

    @property
    def finished(self) -> bool:
        """Whether all has been said."""
        end = self.feeder.end_step
        return end is not None and self.step >= end + self._delay + FINAL_PADDING

    @property
    def drained(self) -> bool:
        """Whether all words fed have been heard, as at the end: going on without a word would give silence."""
        if not self.feeder.spoken:
            return True
        return self._hungry_since is not None and self.step >= self._hungry_since + self._delay + FINAL_PADDING

    def starves(self) -> bool:
        """Take the first half of the next step: whether it wants a word that is not there yet."""
        starves = self.step >= self.prefix_frames and self.feeder.starves(self._propose())
        if starves and self._hungry_since is None:
            self._hungry_since = self.step
        return starves

    def _propose(self) -> int:
        if self._proposed is None:
            self._proposed = int(self.generator.begin())
        return self._proposed

    def advance(self) -> np.ndarray | None:
        """Take the next step; the codes [codebooks] of a frame to be heard, or None while there is none."""
        text, proposed = ZERO_TOKEN, self._propose()
        if self.step >= self.prefix_frames:  # the words of the recording before are not known
            said = len(self.feeder.spoken)
            text = self.feeder.next(self.step, proposed)
            self._hungry_since = self._hungry_since if len(self.feeder.spoken) == said else None
        frame = self.generator.finish(text, self._forced())
        self.step, self._proposed = self.step + 1, None
        if frame.audio is None:
            return None
        if self._skip:
            self._skip -= 1
            return None
        return frame.audio

    def _forced(self) -> np.ndarray:
        """What stands in place of the model's codes in this step: nothing at first, then the prefix."""
        at = self.step - self._starts  # the frame that each codebook is at
        codes = np.where(at < 0, ZERO_TOKEN, KEEP)
        for codebook in np.flatnonzero((at >= 0) & (at < self.prefix_frames)):
            codes[codebook] = self._prefix[codebook, at[codebook]]
        return codes


@dataclass(frozen=True)
class Said:
    """80 ms of speech."""

    samples: np.ndarray
    """float32 [1920]."""
    words: list[str]
    """Words that begin in it."""


def say(
    speech: Speech, feed: TextFeed, decoder: MimiDecoder, patience: Callable[[], float] | None = None
) -> Iterator[Said]:
    """Speak until the text has ended and all of it is said, or nobody takes any more.

    Where the next word is wanted and has not arrived, the model waits for it: what it says then does not depend on
    how fast the text came. A listener cannot be kept waiting in the middle of a word, whose sound is `delay` steps
    behind: once his patience ends the model goes on without the word, until all that it was given is out.

    Args:
        speech: the text.
        feed: what fills its feeder.
        decoder: for as many codebooks as the generator writes.
        patience: seconds that the listener can still wait, asked whenever that matters; None for as long as it takes.

    Raises:
        MoshiError: the text has no words.
    """
    with ThreadPoolExecutor(1, "decoder") as decoding:
        pending: deque[Future[np.ndarray]] = deque()
        words = _WordsInTime(speech)
        feed.take()
        while not speech.finished:
            while speech.starves():
                while pending:
                    yield words.beside(pending.popleft().result())
                seconds = None if patience is None or speech.drained else patience()
                if not feed.wait(seconds):
                    break
            if feed.stopped:
                break
            feed.take()
            if speech.feeder.closed and not feed.words:
                raise MoshiError("there is nothing to say: the text has no words")
            codes = speech.advance()
            if codes is not None:
                pending.append(decoding.submit(decoder.decode, codes))
            while pending and (pending[0].done() or len(pending) > AHEAD):
                yield words.beside(pending.popleft().result())
        while pending:
            yield words.beside(pending.popleft().result())


class _WordsInTime:
    """Puts words beside the frames in which they begin."""

    def __init__(self, speech: Speech):
        self._speech, self._frame, self._told = speech, 0, 0

    def beside(self, samples: np.ndarray) -> Said:
        """The next frame with its words."""
        spoken, first = self._speech.feeder.spoken, self._told
        while self._told < len(spoken) and spoken[self._told][1] - self._speech.prefix_frames <= self._frame:
            self._told += 1
        self._frame += 1
        return Said(samples, [word for word, _ in spoken[first : self._told]])
