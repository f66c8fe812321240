"""Transcribing: sound in, words with their times out, any number of recordings at once on one model.

The text stands `audio_delay_seconds` behind the sound (Delayed Streams Modeling, section 3); silence goes before
and after the sound so that the first words are heard and the last ones told. Knows no file and no terminal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from ..config import END_OF_TEXT_PADDING, LMConfig
from ..errors import ConfigError
from ..generator import Frame, Generator
from ..mimi import MimiEncoder, codec_bytes
from ..moshi import Moshi
from ..pipeline import listen
from ..rates import FRAME_RATE, FRAME_SIZE, SAMPLE_RATE
from ..sampling import Sampling
from ..sound import whole_frame
from ..text import TextStream, TextTokenizer, Word, WordStream

GREEDY = Sampling(temp=0)
"""How transcripts are drawn: the likeliest token, always."""

PAUSE_HEAD = 2
"""Which extra head is read: the four look 0.5, 1, 2 and 3 s ahead, and column 0 is the probability of no speech
(kyutai-labs/delayed-streams-modeling, stt-rs and stt_from_mic_mlx.py, which take a value above 0.5 for an end)."""

PAUSE = 0.5
"""Above this probability nobody is expected to speak on."""

_FLUSH_SECONDS = 1.0  # beyond the delay, as in the reference's run_inference
_LONGEST_WORD = int(FRAME_RATE)  # a word without an end lasts a second at most, as in stt_from_file_pytorch.py
_ROWS_PER_ENCODER = 4


@dataclass(frozen=True)
class SttTiming:
    """How a model's text stands to its sound, in frames of 80 ms and in seconds."""

    prefix: int
    """Frames of silence before the sound."""
    delay: float
    """Seconds that the text is behind."""

    @staticmethod
    def of(config: LMConfig) -> SttTiming:
        """What `stt_config` says; nothing of either without it.

        Raises:
            ConfigError: its entries are not seconds.
        """
        given = config.raw.get("stt_config") or {}
        keys = ("audio_silence_prefix_seconds", "audio_delay_seconds")
        values = [given.get(key, 0.0) for key in keys] if isinstance(given, Mapping) else []
        seconds = [float(value) for value in values if isinstance(value, (int, float)) and 0 <= value <= 60]
        if len(seconds) != len(keys):
            raise ConfigError(f"config.json: 'stt_config' must give {' and '.join(keys)} between 0 and 60")
        prefix, delay = seconds
        return SttTiming(math.ceil(prefix * FRAME_RATE), delay)

    @property
    def flush(self) -> int:
        """Frames of silence after the sound, until its last word has been told."""
        return math.ceil((self.delay + _FLUSH_SECONDS) * FRAME_RATE)

    def seconds(self, frame: int) -> float:
        """Seconds into the sound that the text of a frame belongs to; frames count from the prefix on."""
        return max(0.0, round((frame - self.prefix) / FRAME_RATE - self.delay, 3))


@dataclass(frozen=True)
class TimedWord:
    """A word and when it was said, in seconds from the beginning of the sound."""

    text: str
    start: float
    end: float


@dataclass
class Transcript:
    """What was said in one recording."""

    text: str = ""
    words: list[TimedWord] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    """For each frame of sound the probability of a pause; empty where the model has no heads for it."""
    seconds: float = 0.0
    """How long the sound is."""


@dataclass(frozen=True)
class Heard:
    """What one frame brought to a transcript."""

    text: str
    """To append to the text."""
    words: list[TimedWord]
    """That are now complete."""
    pause: float | None = None
    """The probability that nobody speaks on."""


class Scribe:
    """One recording's tokens as a transcript.

    Token 0 stands between words: it ends the one before it, as the next word's first piece does. Nothing tells
    the end of a word before a pause, so it lasts a second at most, or as long as its pieces take.
    """

    def __init__(self, tokenizer: TextTokenizer, timing: SttTiming):
        self.transcript = Transcript()
        self._text, self._words, self._timing = TextStream(tokenizer), WordStream(tokenizer), timing
        self._samples = math.inf

    def push(self, token: int, frame: int, pause: float | None = None) -> Heard:
        """Take a frame's token; frames count from the silence before the sound on, and some may be left out."""
        words = self._words.push(token, frame)
        if token == END_OF_TEXT_PADDING:
            words += self._words.flush()
        position, pauses = frame - self._timing.prefix, self.transcript.pauses
        if pause is not None and 0 <= FRAME_SIZE * position < self._samples:
            pauses += [pause] * (position + 1 - len(pauses))
        return self._keep(self._text.push(token), words, frame, pause)

    def end(self, samples: int) -> None:
        """Tell how long the sound is: what comes now is heard in the silence after it."""
        self._samples = samples
        self.transcript.seconds = round(samples / SAMPLE_RATE, 3)

    def flush(self, frame: int) -> Heard:
        """The last word, at the end of `frame` frames."""
        return self._keep(self._text.flush(), self._words.flush(), frame, None)

    def _keep(self, text: str, words: list[Word], frame: int, pause: float | None) -> Heard:
        heard = Heard(text, [self._timed(word, frame) for word in words], pause)
        self.transcript.text += heard.text
        self.transcript.words += heard.words
        return heard

    def _timed(self, word: Word, frame: int) -> TimedWord:
        last = max(word.end_frame, min(frame, word.start_frame + _LONGEST_WORD))
        duration = round(self._samples / SAMPLE_RATE, 3)
        start, end = (min(self._timing.seconds(at), duration) for at in (word.start_frame, last))
        return TimedWord(word.text, start, end)


class Transcription:
    """Recordings transcribed in step, as one batch; each comes out as it would alone. Iterate over it once.

    Args:
        moshi: a model that listens.
        recordings: each as float32 mono blocks at 24 kHz of 1,920 samples; the last one may be shorter. Of about
            the same length, or the shorter ones wait in silence for the longest.
        sampling: how the words are drawn.
        seed: for the sampling.

    Yields:
        for every frame of 80 ms what it brought, one entry per recording; None for those that have ended.

    Raises:
        MoshiError: a recording cannot be read on, or config.json makes no sense.
    """

    def __init__(
        self, moshi: Moshi, recordings: Sequence[Iterable[np.ndarray]], sampling: Sampling = GREEDY, seed: int = 0
    ):
        timing = SttTiming.of(moshi.config)
        self._rows = [_Row(blocks, moshi.text, timing) for blocks in recordings]
        self._generator = Generator(moshi.lm, text_sampling=sampling, seed=seed, batch_size=len(self._rows))
        self._encoders = encoders(moshi, len(self._rows))
        self.beside = timing.prefix + timing.flush
        """Frames of silence that are heard before and after the sound."""

    @property
    def transcripts(self) -> list[Transcript]:
        """What has been made of each recording so far."""
        return [row.scribe.transcript for row in self._rows]

    def __iter__(self) -> Iterator[list[Heard | None]]:
        with ExitStack() as stack:
            for encoder in self._encoders:
                stack.enter_context(encoder)
            for frame in listen(self._encoders, self._generator, _in_step(self._rows)):
                yield [row.hear(*heard) for row, heard in zip(self._rows, _split(frame, len(self._rows)), strict=True)]


def encoders(moshi: Moshi, rows: int) -> list[MimiEncoder]:
    """Encoders for so many streams, a few in each: one has a process of its own, of 420 MB before it hears."""
    return [moshi.encoder() for _ in range(math.ceil(rows / _ROWS_PER_ENCODER))]


def encoder_bytes(rows: int, seconds: float) -> int:
    """Bytes of memory that the encoders of so many recordings of this length take at most."""
    processes, frames = math.ceil(rows / _ROWS_PER_ENCODER), math.ceil(seconds * FRAME_RATE)
    return processes * codec_bytes(min(rows, _ROWS_PER_ENCODER), frames)


def pause_of(extra: np.ndarray | None) -> float | None:
    """The probability of a pause from the extra heads [heads, 6]; None without them."""
    return None if extra is None or len(extra) <= PAUSE_HEAD else float(extra[PAUSE_HEAD, 0])


class _Row:
    """One recording of a batch: its sound with silence around it, and what has been made of it."""

    def __init__(self, blocks: Iterable[np.ndarray], tokenizer: TextTokenizer, timing: SttTiming):
        self.scribe = Scribe(tokenizer, timing)
        self._timing, self._frames = timing, self._with_silence(blocks)
        self._heard = 0
        self._total = math.inf  # frames; known when the sound has ended

    def next(self) -> np.ndarray | None:
        """The next frame [1920], or None once all are given."""
        return next(self._frames, None)

    def hear(self, token: int, pause: float | None) -> Heard | None:
        """Take what the model made of the oldest frame that was given; None where all have been heard."""
        if self._heard == self._total:
            return None
        heard = self.scribe.push(token, self._heard, pause)
        self._heard += 1
        if self._heard < self._total:
            return heard
        last = self.scribe.flush(self._heard)
        return Heard(heard.text + last.text, heard.words + last.words, pause)

    def _with_silence(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        timing, silence, samples = self._timing, np.zeros(FRAME_SIZE, np.float32), 0
        for _ in range(timing.prefix):
            yield silence
        for block in blocks:
            samples += len(block)
            yield whole_frame(block)
        self.scribe.end(samples)
        self._total = timing.prefix + math.ceil(samples / FRAME_SIZE) + timing.flush
        for _ in range(timing.flush):
            yield silence


def _in_step(rows: Sequence[_Row]) -> Iterator[np.ndarray]:
    """Frames [B, 1920] until the last row has ended; those that ended before hear silence."""
    silence = np.zeros(FRAME_SIZE, np.float32)
    while True:
        frames = [row.next() for row in rows]
        if all(frame is None for frame in frames):
            return
        yield np.stack([silence if frame is None else frame for frame in frames])


def _split(frame: Frame, rows: int) -> Iterator[tuple[int, float | None]]:
    """Each row's token and probability of a pause."""
    for row, token in enumerate(np.reshape(frame.text, rows).tolist()):
        extra = frame.extra if frame.extra is None or rows == 1 else frame.extra[row]
        yield token, pause_of(extra)
