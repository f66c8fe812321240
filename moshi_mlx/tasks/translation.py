"""Translating: the source speaks as Moshi's user does, and the model says it in another language.

Hibiki (arXiv 2502.03382) has Moshi's streams, a word of condition for the quality, and an end: the source's is told
by a frame of codes of its own, the translation's by the end-of-text token. The stages are those of any conversation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..config import TEXT_PADDING, LMConfig
from ..errors import ConfigError, MoshiError
from ..generator import Generator
from ..moshi import Moshi
from ..pipeline import OnTime, Reply, Stages, converse, untold
from ..rates import FRAME_RATE, FRAME_SIZE
from ..sampling import AUDIO_SAMPLING, TEXT_SAMPLING, Sampling
from ..sound import level
from ..text import WordStream
from .lag import Lag, LagMeter

END_OF_TEXT = 2
"""The text token after the last word. Before the source has ended it is a slip, and read as padding (as in Kyutai's
loaders.py, which gives the two tokens one embedding)."""
QUALITY, BEST, WORST = "description", "very_good", "very_bad"
"""The condition, what a translation is asked to be, and what guidance leads away from (moshi.run_inference)."""
QUIET_SECONDS = 10.0
"""After the source has ended, a translation that says nothing for so long has ended, too."""


def usual_sampling(config: LMConfig) -> tuple[Sampling, Sampling]:
    """How text and audio are drawn where nobody says: as config.json has it, else as Moshi draws them.

    Raises:
        ConfigError: `lm_gen_config` makes no sense.
    """
    given = config.raw.get("lm_gen_config") or {}
    if not isinstance(given, Mapping):
        raise ConfigError("config.json: 'lm_gen_config' must be an object")
    text, audio = TEXT_SAMPLING, AUDIO_SAMPLING
    try:
        return (
            Sampling(given.get("temp_text", text.temp), given.get("top_k_text", text.top_k)),
            Sampling(given.get("temp", audio.temp), given.get("top_k", audio.top_k)),
        )
    except (MoshiError, TypeError) as error:
        raise ConfigError(f"config.json: 'lm_gen_config' is not usable: {error}") from None


def translator(
    moshi: Moshi,
    text_sampling: Sampling,
    audio_sampling: Sampling,
    seed: int = 0,
    quality: str = BEST,
    guidance: float = 1.0,
) -> Generator:
    """A generator that translates.

    Args:
        moshi: a model that translates.
        text_sampling: how its text is drawn.
        audio_sampling: how its voice is drawn.
        seed: for both.
        quality: a word that the model knows, very_bad to very_good.
        guidance: 1 for none; 3 is usual, brings the voice nearer to the speaker's, and takes twice the work.

    Raises:
        MoshiError: the model does not know the word, or takes no guidance.
    """
    conditions = None
    if moshi.config.conditioners:
        words = [quality] if guidance == 1 else [quality, WORST]
        conditions = moshi.lm.conditions([{QUALITY: word} for word in words])
    return Generator(
        moshi.lm,
        text_sampling,
        audio_sampling,
        seed,
        conditions=conditions,
        guidance=guidance,
        text_read_as={END_OF_TEXT: TEXT_PADDING},
    )


class Translating(Stages):
    """The stages of a translation; they also measure how far it is behind.

    Args:
        moshi: a model that translates.
        generator: see `translator`.
        on_time: see `pipeline.OnTime`.
    """

    def __init__(self, moshi: Moshi, generator: Generator, on_time: OnTime = untold):
        super().__init__(moshi.encoder(), generator, moshi.decoder(), on_time=on_time)
        self._meter, self._text, self._words = LagMeter(), moshi.text, WordStream(moshi.text)
        self._behind = moshi.config.max_delay - moshi.config.delays[0]  # frames from a text token to its sound
        self._encoded = self._thought = 0
        self._source_end = self._last = math.inf  # frames: of the source, and of the translation
        self._spoke = 0  # the latest frame with text

    @property
    def lag(self) -> Lag:
        """How far the translation is behind, as far as can be told."""
        return self._meter.lag()

    @property
    def ended(self) -> bool:
        """Whether the translation has ended, after the source."""
        return self._last < math.inf

    def encode(self, samples: np.ndarray) -> np.ndarray:
        """Samples float32 [1920] -> codes int32 [user codebooks]; the frame after the source tells its end."""
        self._meter.source.append(level(samples))
        self._encoded += 1
        if self._encoded == self._source_end + 1:
            config = self.generator.config
            return np.full(config.user_codebooks, config.audio_initial, np.int32)
        return super().encode(samples)

    def think(self, codes: np.ndarray) -> tuple[int, np.ndarray | None]:
        """Codes of the source's frame -> text token, and the translation's codes if a frame is complete."""
        token, audio = super().think(codes)
        frame = self._thought
        self._thought += 1
        self._meter.words += [word.start_frame + self._behind for word in self._words.push(token, frame)]
        if self._text.surface(token):
            self._spoke = frame
        if frame >= self._source_end and not self.ended:
            quiet = frame - max(self._spoke, self._source_end) > QUIET_SECONDS * FRAME_RATE
            if token == END_OF_TEXT or quiet:
                self._last = frame + self._behind
        return token, audio

    def begin_anew(self) -> None:
        """Forget what was heard and said; how far the translation is behind is measured on."""
        super().begin_anew()
        self._words = WordStream(self._text)

    def decode(self, codes: np.ndarray | None) -> np.ndarray:
        """The translation's codes -> samples float32 [1920]; silence for None."""
        samples = super().decode(codes)
        self._meter.translation.append(level(samples))
        return samples

    def translate(self, blocks: Iterable[np.ndarray], most: float) -> Iterator[Reply]:
        """Translate recorded sound to the end of its translation.

        Args:
            blocks: the source, float32 mono at 24 kHz in blocks of 1,920 samples; the last one may be shorter.
            most: seconds that the translation may go on after the source.

        Yields:
            one Reply per frame, source and translation beside each other; silence as source after its end.
        """
        for number, reply in enumerate(converse(self, self._to_the_end(blocks, most))):
            yield reply
            if number >= self._last:
                return

    def _to_the_end(self, blocks: Iterable[np.ndarray], most: float) -> Iterator[np.ndarray]:
        frames = 0
        for block in blocks:
            frames += 1
            yield block
        self._source_end = frames
        for _ in range(1 + math.ceil(most * FRAME_RATE)):
            yield np.zeros(FRAME_SIZE, np.float32)
