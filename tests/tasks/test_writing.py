"""Writing on the built-in Helium: what it adds is its tokens, one wait each, until a limit or the token that ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import moshi_mlx
from moshi_mlx import Generator, MoshiError, Sampling
from moshi_mlx.bench.counting import counting
from moshi_mlx.economy import Economy
from moshi_mlx.moshi import Moshi
from moshi_mlx.tasks.writing import Writing
from moshi_mlx.text import TextStream

GREEDY = Sampling(temp=0)
PROMPT = "Hello, how are"


@pytest.fixture(scope="module")
def moshi() -> Moshi:
    return moshi_mlx.load("tiny-helium")


def ending_with(moshi: Moshi, token: object) -> Moshi:
    """The same model whose config.json calls other tokens the end."""
    config = replace(moshi.config, raw={**moshi.config.raw, "eos_token_id": token})
    return replace(moshi, checkpoint=replace(moshi.checkpoint, config=config))


def test_what_is_written_are_the_tokens_after_the_prompt(moshi: Moshi) -> None:
    writing = Writing(moshi, PROMPT, GREEDY, max_tokens=30)
    pieces = list(writing)
    generator = Generator(moshi.lm, text_sampling=GREEDY)
    tokens = [generator.prefill(moshi.text.encode(PROMPT)).text, *(generator.step().text for _ in range(29))]
    assert writing.tokens == tokens
    assert len(pieces) == 30
    stream = TextStream(moshi.text, started=True)
    assert "".join(pieces) == writing.text == "".join(stream.push(token) for token in writing.tokens)
    assert not writing.ended


def test_the_space_between_prompt_and_text_is_kept(moshi: Moshi) -> None:
    pieces = {moshi.text.surface(token): token for token in range(moshi.text.vocabulary_size)}
    word = next(surface for surface in pieces if surface.startswith(b" ") and len(surface) > 2)
    assert TextStream(moshi.text, started=True).push(pieces[word]) == word.decode()


def test_a_token_that_ends_the_text_is_not_shown_and_ends_it(moshi: Moshi) -> None:
    free = Writing(moshi, PROMPT, GREEDY, max_tokens=30)
    list(free)
    end = free.tokens[8]
    first = free.tokens.index(end)
    for told in (end, [511, end]):
        writing = Writing(ending_with(moshi, told), PROMPT, GREEDY, max_tokens=30)
        list(writing)
        assert writing.ended
        assert writing.tokens == free.tokens[:first]


def test_the_same_seed_writes_the_same(moshi: Moshi) -> None:
    def text(seed: int) -> str:
        writing = Writing(moshi, PROMPT, seed=seed, max_tokens=25)
        list(writing)
        return writing.text

    assert text(0) == text(0) != text(1)


def test_a_prompt_longer_than_the_window_and_a_text_that_passes_it(moshi: Moshi) -> None:
    """The window is 256 tokens; `prefill` is held against whole attention elsewhere, here it only has to go on."""
    prompt = "one two three four five six seven " * 60
    writing = Writing(moshi, prompt, GREEDY, max_tokens=300)
    assert len(writing.prompt_tokens) > 2 * moshi.config.transformer.context
    list(writing)
    assert len(writing.tokens) == 300


def test_keys_and_values_in_8_bits_are_read_in_one_pass_too(moshi: Moshi) -> None:
    """The prompt passes the window; what is lost is rounding, and not positions."""
    prompt = moshi.text.encode("one two three four five six seven " * 20)
    exact, rounded = (
        Generator(moshi_mlx.load("tiny-helium", economy=Economy(context=96, kv_bits=bits)).lm, text_sampling=GREEDY)
        for bits in (None, 8)
    )
    assert len(prompt) > 200
    frames = [generator.prefill(prompt, logits=True) for generator in (exact, rounded)]
    expected, found = (frame.logits.text for frame in frames if frame.logits)
    lost = np.abs(found - expected).max()
    assert 0 < lost < 0.1
    assert rounded.cache_bytes < 0.4 * exact.cache_bytes  # of 32 bits
    stepped = Generator(rounded.lm, text_sampling=GREEDY, cut=True)
    for token in prompt:
        stepped.begin()
        stepped.finish(token)
    frame = stepped.step(logits=True)
    assert frame.logits is not None
    assert np.abs(found - frame.logits.text).max() < lost / 5  # the last bit of some may be rounded otherwise


def test_a_token_is_one_wait(moshi: Moshi) -> None:
    writing = iter(Writing(moshi, PROMPT, GREEDY))
    next(writing)
    with counting() as count:
        for _ in range(10):
            next(writing)
    assert count.waits == 10


def test_what_cannot_be_written_is_refused(moshi: Moshi) -> None:
    with pytest.raises(MoshiError, match="prompt is empty"):
        Writing(moshi, " \n")
    with pytest.raises(MoshiError, match="at least one token"):
        Writing(moshi, PROMPT, max_tokens=0)
