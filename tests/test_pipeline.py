"""The stages by themselves: what a conversation begins with, and begins with again."""

from __future__ import annotations

import numpy as np

import moshi_mlx
from moshi_mlx.pipeline import Stages
from moshi_mlx.sampling import Sampling
from moshi_mlx.text import greeting_tokens

GREEDY = Sampling(temp=0)


def test_a_new_conversation_begins_as_the_first_did_greeting_included() -> None:
    moshi = moshi_mlx.load("tiny")
    generator = moshi_mlx.Generator(moshi.lm, text_sampling=GREEDY, audio_sampling=GREEDY)
    stages = Stages.of(moshi, generator, greeting="Hello there")
    greeting = greeting_tokens("Hello there", moshi.text)
    codes = np.random.default_rng(0).integers(0, 2048, (len(greeting) + 4, moshi.config.user_codebooks))

    def answers(frames: int) -> list[tuple[int, list[int]]]:
        said = [stages.think(column) for column in codes[:frames]]
        return [(token, [] if audio is None else audio.tolist()) for token, audio in said]

    whole = answers(len(codes))
    assert [token for token, _ in whole[: len(greeting)]] == greeting
    for frames in (2, len(codes)):  # in the midst of the greeting, and long after it
        stages.begin_anew()
        assert answers(frames) == whole[:frames]
