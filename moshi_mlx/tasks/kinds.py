"""What a checkpoint is for, told from its configuration, and which command that is.

Kyutai's whole family is one network: text behind audio listens, audio behind text speaks, two languages
translate, no audio at all writes. Everything else asks here instead of looking at a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..config import LMConfig
from ..errors import MoshiError


@dataclass(frozen=True)
class Traits:
    """What goes with a kind: how it is told to people, and what a model of it needs beside its weights."""

    does: str
    """A verb for a sentence: the model `does`."""
    commands: tuple[str, ...]
    """The `moshi-mlx` commands that run it, the first one live."""
    default: str
    """The model that the command takes when none is named."""
    built_in: str
    """The small one that is always there."""
    model_types: tuple[str, ...]
    """Kyutai's words for it: `model_type` in config.json."""
    hears: bool
    """Needs the codec's encoder."""
    sounds: bool
    """Needs the codec's decoder."""


class Kind(Enum):
    """The five things that a model of this family does."""

    CONVERSE = Traits("converses", ("chat", "run"), "moshiko", "tiny", ("moshi",), hears=True, sounds=True)
    TRANSCRIBE = Traits(
        "listens",
        ("transcribe",),
        "kyutai/stt-1b-en_fr-mlx",
        "tiny-stt",
        ("stt",),
        hears=True,
        sounds=False,
    )
    SPEAK = Traits("speaks", ("speak",), "kyutai/tts-1.6b-en_fr", "tiny-tts", ("tts",), hears=False, sounds=True)
    TRANSLATE = Traits(
        "translates",
        ("translate",),
        "kyutai/hibiki-1b-mlx-bf16",
        "tiny-hibiki",
        ("hibiki",),
        hears=True,
        sounds=True,
    )
    WRITE = Traits(
        "writes",
        ("write",),
        "kyutai/helium-1-preview-2b",
        "tiny-helium",
        ("helium",),
        hears=False,
        sounds=False,
    )

    @property
    def commands(self) -> tuple[str, ...]:
        """The commands that run it."""
        return self.value.commands

    @property
    def command(self) -> str:
        """The command to name first: 'transcribe'."""
        return self.commands[0]

    @property
    def default_model(self) -> str:
        """What the command runs when no model is named."""
        return self.value.default

    @property
    def built_in(self) -> str:
        """The small model that runs without a download, and makes noise."""
        return self.value.built_in

    @property
    def needs_codec(self) -> bool:
        """Whether sound goes in or comes out."""
        return self.value.hears or self.value.sounds


_BY_TYPE = {word: kind for kind in Kind for word in kind.value.model_types}


def kind_of(config: LMConfig) -> Kind:
    """What a model does: by its `model_type` where config.json tells it, else by its streams."""
    if "model_type" in config.raw and config.model_type in _BY_TYPE:
        return _BY_TYPE[config.model_type]
    if config.n_q == 0:
        return Kind.WRITE
    if config.depth is None:
        return Kind.TRANSCRIBE
    return Kind.CONVERSE if config.user_codebooks else Kind.SPEAK


def require(kind: Kind, config: LMConfig, name: str) -> None:
    """Refuse a model of another kind than a command is for.

    Args:
        kind: what the command does.
        config: the model's.
        name: what the user called it.

    Raises:
        MoshiError: what the model does, and the command for that.
    """
    found = kind_of(config)
    if found is not kind:
        raise MoshiError(f"{name} {found.value.does}; use `moshi-mlx {found.command} --model {name}`")
