"""A model as one thing: the language model, the codec if it knows sound, the text tokenizer of one checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .checkpoint.companions import CODEC, TEXT, companion
from .checkpoint.hub import locate
from .checkpoint.inspect import Checkpoint, inspect
from .checkpoint.load import load_checkpoint
from .config import LMConfig
from .economy import AS_IT_IS, Economy
from .errors import CheckpointError, MoshiError
from .mimi import Mimi, MimiDecoder, MimiEncoder
from .model.lm import LM
from .text import TextTokenizer
from .tokenizer_json import open_tokenizer


@dataclass(frozen=True)
class Moshi:
    """What `load` returns, of whatever kind. The language model belongs to the thread that loaded it."""

    lm: LM
    mimi: Mimi | None
    """None where the model knows no sound."""
    text: TextTokenizer
    checkpoint: Checkpoint

    @property
    def codec(self) -> Mimi:
        """The codec; `encoder` and `decoder` have the codebooks of the model's two sides.

        Raises:
            MoshiError: the model knows no sound.
        """
        if self.mimi is None:
            raise MoshiError(f"{self.checkpoint.folder} writes text, and has no codec to hear or to speak with")
        return self.mimi

    def encoder(self) -> MimiEncoder:
        """A new stream of sound to the codes that the model hears; raises MoshiError where it hears nothing."""
        return self.codec.encoder(self._codebooks(self.config.user_codebooks, "hears nothing"))

    def decoder(self) -> MimiDecoder:
        """A new stream of the codes that the model generates to sound; raises MoshiError where it makes none."""
        return self.codec.decoder(self._codebooks(self.config.dep_q, "makes no sound"))

    def _codebooks(self, count: int, otherwise: str) -> int:
        if count == 0:
            raise MoshiError(f"{self.checkpoint.folder} {otherwise}")
        return count

    @property
    def config(self) -> LMConfig:
        """The language model's configuration."""
        return self.checkpoint.config


def load(
    model: str | Path,
    bits: int | None = None,
    *,
    economy: Economy = AS_IT_IS,
    notify: Callable[[str], None] = lambda message: None,
) -> Moshi:
    """Load a model with its codec and tokenizer, downloading it first if need be.

    Args:
        model: `tiny` (built in), `moshiko`, `moshika`, a Hugging Face repository, or a local folder.
        bits: 4, 8 or 16, for the short names; None chooses what this machine can run in real time.
        economy: a shorter window, keys and values in 8 bits, another type.
        notify: is told, in a sentence, what was chosen.

    Raises:
        CheckpointError: it cannot be found, is not whole, or does not fit in memory.
        ConfigError: its config.json asks for what this version cannot run.
    """
    return load_folder(locate(str(model), bits, notify=notify, economy=economy), economy)


def load_folder(folder: Path, economy: Economy = AS_IT_IS, *, codec_ahead: bool = False) -> Moshi:
    """Load a local checkpoint; see `load`. The small files are read first: their faults show at once.

    With `codec_ahead` an encoder and a decoder load beside the model, for the first that are asked for.
    """
    checkpoint = inspect(folder).run_as(economy)
    config = checkpoint.config
    text = open_tokenizer(companion(folder, *TEXT))
    if text.vocabulary_size > config.text_card:
        raise CheckpointError(
            f"{text.path} has {text.vocabulary_size} pieces, and the model knows {config.text_card}: "
            "they do not belong together"
        )
    codebooks = max(config.dep_q, config.user_codebooks)
    mimi = Mimi(companion(folder, *CODEC), codebooks) if codebooks else None
    if mimi and codec_ahead:
        mimi.prepare(encoder=config.user_codebooks or None, decoder=config.dep_q or None)
    return Moshi(load_checkpoint(checkpoint), mimi, text, checkpoint)
