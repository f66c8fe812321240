"""How a text is said, and the speech that is made of it: pace, guidance, sampling and voices put into a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config import TEXT_PADDING, LMConfig
from ...errors import MoshiError
from ...generator import Generator
from ...guidance import Guidance
from ...model.conditions import Conditions
from ...model.lm import LM
from ...moshi import Moshi
from ...sampling import Sampling
from .machine import SPEAKERS, Pace, WordFeeder
from .speech import Speech, TtsTiming
from .voice_file import attributes, distilled_guidance, read_prefix, read_vectors
from .voices import SPEAKER

TEXT_SAMPLING = Sampling(0.6, 25)
AUDIO_SAMPLING = Sampling(0.6, 250)


@dataclass(frozen=True)
class Manner:
    """How a text is said. The defaults are those of the PyTorch reference.

    Raises:
        MoshiError: a value is out of its range.
    """

    guidance: float = 2.0
    """How closely the voice and the text are followed, 1 for no more than the model does by itself."""
    padding_between: int = 1
    """Steps at least between words; more speaks slower and more clearly."""
    padding_bonus: float = 0.0
    """Added to the logit of padding: above 0 slows down, below hurries; -2 to 2 is sensible."""
    max_padding: int = 8
    """Steps after which the next word begins anyway."""
    text_sampling: Sampling = TEXT_SAMPLING
    audio_sampling: Sampling = AUDIO_SAMPLING
    seed: int = 0
    codebooks: int | None = None
    """Fewer codebooks than the model has: faster, and coarser."""

    def __post_init__(self) -> None:
        if not 0 <= self.padding_between <= 100:
            raise MoshiError(f"the padding between words must lie between 0 and 100 steps, not {self.padding_between}")
        if not 1 <= self.max_padding <= 1000:
            raise MoshiError(f"the most padding must lie between 1 and 1000 steps, not {self.max_padding}")
        if not math.isfinite(self.padding_bonus):
            raise MoshiError(f"the padding bonus must be a finite number, not {self.padding_bonus}")


def make_speech(moshi: Moshi, voices: Sequence[Path], manner: Manner) -> Speech:
    """A speech in these voices, ready to be given its words.

    Args:
        moshi: a model that speaks.
        voices: files, see `VoiceBook.find`: one speaker, or two who talk to each other.
        manner: how.

    Raises:
        MoshiError: too many voices for this model, or what `Generator`, `read_vectors` and `read_prefix` refuse.
    """
    config, timing = moshi.config, TtsTiming.of(moshi.config)
    most = len(SPEAKERS) if SPEAKER in config.conditioners else 1
    if len(voices) > most:
        raise MoshiError(f"this model speaks in {most} voice{'s' * (most > 1)} at most, not {len(voices)}")
    vectors, prefix = [], None
    if SPEAKER in config.conditioners:
        vectors = [read_vectors(voice, config) for voice in voices]
    elif voices:
        prefix = read_prefix(voices[0], moshi.codec, config)[: manner.codebooks]
    generator = make_generator(moshi.lm, vectors, prefix, timing.delay, manner)
    pace = Pace(timing.ahead, manner.max_padding)
    return Speech(generator, WordFeeder(pace, config.text_card), timing.delay, prefix)


def make_generator(
    lm: LM, voices: Sequence[np.ndarray], prefix: np.ndarray | None, delay: int, manner: Manner
) -> Generator:
    """The generator of a speech.

    A model that has not learnt guidance is run twice, the second time without voice, text and prefix.

    Args:
        lm: the model.
        voices: vectors of the speakers [T, width].
        prefix: codes [codebooks, T] that the speech begins with.
        delay: steps from text to sound.
        manner: see `Manner`.
    """
    guidance = Guidance()
    if not distilled_guidance(lm.config):
        masked = None if prefix is None else [prefix.shape[1] + delay]
        guidance = Guidance(manner.guidance, without_text=True, masked_until=masked)
    return Generator(
        lm,
        manner.text_sampling,
        manner.audio_sampling,
        manner.seed,
        conditions=_conditions(lm, voices, manner.guidance, bool(guidance)),
        guidance=guidance,
        text_bonus={TEXT_PADDING: manner.padding_bonus} if manner.padding_bonus else None,
        codebooks=manner.codebooks,
        cut=True,
    )


def _conditions(lm: LM, voices: Sequence[np.ndarray], guidance: float, null: bool) -> Conditions | None:
    config: LMConfig = lm.config
    if not config.fuser:
        return None
    given = attributes(config, voices, guidance)
    return lm.conditions([given, dict.fromkeys(config.conditioners)] if null else [given])
