"""What a checkpoint is, from its configuration alone, and the sentence that a wrong command ends in."""

from __future__ import annotations

from typing import Any

import pytest

from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.kinds import Kind, kind_of, require

STRUCTURES: dict[Kind, dict[str, Any]] = {
    Kind.CONVERSE: {},
    Kind.TRANSCRIBE: {"dep_q": 0},
    Kind.SPEAK: {"n_q": 8, "delays": [0] * 9},
    Kind.WRITE: {"n_q": 0, "dep_q": 0, "delays": [0]},
}
WORDS = {"moshi": Kind.CONVERSE, "stt": Kind.TRANSCRIBE, "tts": Kind.SPEAK, "hibiki": Kind.TRANSLATE,
         "helium": Kind.WRITE}  # fmt: skip


def config_with(**keys: Any) -> LMConfig:
    return LMConfig.from_dict({**MOSHI_7B, **keys})


@pytest.mark.parametrize("kind", STRUCTURES)
def test_streams_tell_the_kind_where_nothing_else_does(kind: Kind) -> None:
    assert kind_of(config_with(**STRUCTURES[kind])) is kind


@pytest.mark.parametrize("word", WORDS)
def test_model_type_tells_it_first(word: str) -> None:
    for keys in STRUCTURES.values():
        assert kind_of(config_with(**keys, model_type=word)) is WORDS[word]


def test_an_unknown_word_leaves_it_to_the_streams() -> None:
    assert kind_of(config_with(model_type="lagoon")) is Kind.CONVERSE
    assert kind_of(config_with(model_type="lagoon", dep_q=0)) is Kind.TRANSCRIBE


def test_the_wrong_command_names_the_right_one() -> None:
    listener = config_with(dep_q=0)
    require(Kind.TRANSCRIBE, listener, "kyutai/stt-1b-en_fr-mlx")
    for kind in set(Kind) - {Kind.TRANSCRIBE}:
        with pytest.raises(MoshiError, match=r"^kyutai/stt-1b-en_fr-mlx listens; use `moshi-mlx transcribe --model "):
            require(kind, listener, "kyutai/stt-1b-en_fr-mlx")


def test_every_kind_has_a_command_of_its_own() -> None:
    assert len({kind.command for kind in Kind}) == len(Kind)
    assert [kind for kind in Kind if not kind.needs_codec] == [Kind.WRITE]
