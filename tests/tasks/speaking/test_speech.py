"""Speaking, word by word: with real weights in miniature and the real codec, from text that comes as it likes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_lm import small_lm

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer
from moshi_mlx.config import LMConfig
from moshi_mlx.errors import ConfigError, MoshiError
from moshi_mlx.generator import Generator
from moshi_mlx.mimi import Mimi
from moshi_mlx.model.lm import LM
from moshi_mlx.rates import FRAME_SIZE
from moshi_mlx.tasks.speaking.feed import MOST_CHARACTERS, TextFeed, read_pipe
from moshi_mlx.tasks.speaking.machine import Pace, WordFeeder
from moshi_mlx.tasks.speaking.script import ScriptReader
from moshi_mlx.tasks.speaking.speech import Said, Speech, TtsTiming, say
from moshi_mlx.text import TextTokenizer

DELAY, CODEBOOKS = 6, 4
TEXT = "Hello, how are you?"
SPOKEN = ["Hello,", "how", "are", "you?"]

Begin = Callable[..., tuple[Speech, TextFeed]]


@pytest.fixture(scope="module")
def lm() -> LM:
    return small_lm(
        n_q=CODEBOOKS, dep_q=CODEBOOKS, delays=[0, 0, 2, 2, 2], text_card=512, demux_second_stream=True, card=2048,
        text_card_out=5,
    )  # fmt: skip


@pytest.fixture(scope="module")
def codec(tiny_mimi: Path) -> Mimi:
    return Mimi(tiny_mimi, CODEBOOKS)


@pytest.fixture(scope="module")
def begin(lm: LM, tmp_path_factory: pytest.TempPathFactory) -> Begin:
    tokenizer = TextTokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("text") / "spm.model", 512))

    def begin(
        pieces: Iterable[str], by_line: bool = False, prefix: np.ndarray | None = None
    ) -> tuple[Speech, TextFeed]:
        feeder = WordFeeder(Pace(ahead=2, max_padding=4), 512)
        feed = TextFeed(pieces, ScriptReader(tokenizer, speakers=False), feeder, by_line)
        return Speech(Generator(lm, seed=3, cut=True), feeder, DELAY, prefix), feed

    return begin


def samples(said: Iterable[Said]) -> np.ndarray:
    return np.concatenate([frame.samples for frame in said])


def slowly(text: str) -> Iterator[str]:
    for character in text:
        time.sleep(0.002)
        yield character


def test_what_is_said_does_not_depend_on_how_fast_the_text_came(begin: Begin, codec: Mimi) -> None:
    at_once = samples(say(*begin([TEXT]), codec.decoder()))
    speech, feed = begin(slowly(TEXT))
    np.testing.assert_array_equal(samples(say(speech, feed, codec.decoder())), at_once)
    assert [word for word, _ in speech.feeder.spoken] == SPOKEN
    assert feed.words == 4


def test_the_sound_begins_with_the_delay_and_ends_with_the_text(begin: Begin, codec: Mimi) -> None:
    speech, feed = begin([TEXT])
    said = list(say(speech, feed, codec.decoder()))
    assert all(frame.samples.shape == (FRAME_SIZE,) for frame in said)
    end = speech.feeder.end_step
    assert end is not None
    assert speech.finished
    # Steps of delay give nothing to hear, nor do the last two: their acoustic codes are never written.
    assert len(said) == speech.step - DELAY - 2 == end + 4 - 2
    begins = {word: frame for frame, at in enumerate(said) for word in at.words}
    assert begins == dict(speech.feeder.spoken)


def test_a_prefix_is_read_and_not_heard(begin: Begin, codec: Mimi) -> None:
    prefix = np.random.default_rng(0).integers(2048, size=(CODEBOOKS, 9)).astype(np.int32)
    speech, feed = begin([TEXT], prefix=prefix)
    said = list(say(speech, feed, codec.decoder()))
    first_word, step = speech.feeder.spoken[0]
    assert step >= 9
    assert len(said) == speech.step - DELAY - 9 - 2
    assert said[step - 9].words == [first_word]


def test_it_sounds_before_the_pipe_ends_and_waits_when_all_is_out(begin: Begin, codec: Mimi) -> None:
    heard, ended = threading.Event(), threading.Event()

    def pipe() -> Iterator[str]:
        yield "Hello, how are\n"
        assert heard.wait(60)
        time.sleep(0.3)
        ended.set()
        yield "you?"

    speech, feed = begin(pipe(), by_line=True)
    before = 0
    for frames, _ in enumerate(say(speech, feed, codec.decoder(), patience=lambda: 0.0), 1):
        before += not ended.is_set()
        word, begun = speech.feeder.spoken[-1]
        if word == "are" and frames >= begun + 3:
            heard.set()
    assert [word for word, _ in speech.feeder.spoken] == ["Hello,", "how", "are", "you?"]
    # The sound of "are" was out, and no more than a moment's padding was made while the pipe said nothing.
    begun = dict(speech.feeder.spoken)["are"]
    assert begun + 3 <= before <= begun + 12
    assert speech.feeder.spoken[-1][1] >= begun + DELAY


def test_told_to_stop_it_stops_in_a_pipe_that_says_nothing(begin: Begin, codec: Mimi) -> None:
    stuck = threading.Event()

    def pipe() -> Iterator[str]:
        yield TEXT
        stuck.wait(60)

    speech, feed = begin(pipe())

    def patience() -> float:
        threading.Timer(0.2, feed.stop).start()
        return 60.0

    said = list(say(speech, feed, codec.decoder(), patience))
    stuck.set()
    assert not speech.finished
    assert len(said) == max(0, speech.step - DELAY - 2)
    assert [word for word, _ in speech.feeder.spoken] == SPOKEN[
        :1
    ]  # "you?" may go on, and words are said in sight of two


def test_a_text_without_end_is_left_in_its_pipe(begin: Begin, codec: Mimi) -> None:
    read = 0

    def pipe() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "and so on " * 100

    speech, feed = begin(pipe())
    saying = say(speech, feed, codec.decoder())
    for _ in range(5):
        next(saying)
    time.sleep(0.2)
    feed.stop()
    assert len(speech.feeder.spoken) > 0
    assert read * 900 < 3 * MOST_CHARACTERS  # taken once, waiting once


def test_a_text_without_words_is_refused(begin: Begin, codec: Mimi) -> None:
    decoder = codec.decoder()
    for text in ("", " \n ", "( : )"):
        with pytest.raises(MoshiError, match="nothing to say"):
            list(say(*begin([text]), decoder))


def test_what_cannot_be_read_is_one_sentence(begin: Begin, codec: Mimi, tmp_path: Path) -> None:
    speech, feed = begin(read_pipe(os.open(tmp_path, os.O_RDONLY)))
    with pytest.raises(MoshiError, match="cannot be read: Is a directory"):
        list(say(speech, feed, codec.decoder()))


def test_a_character_cut_in_two_is_one_character(tmp_path: Path) -> None:
    file = tmp_path / "text"
    text = "a" * 4095 + "é" + "b" * 10
    file.write_bytes(text.encode() + b"\xff")
    pieces = list(read_pipe(os.open(file, os.O_RDONLY)))
    assert len(pieces) > 2
    assert "".join(pieces) == text + "\ufffd"


def test_a_timing_that_cannot_be_is_refused() -> None:
    def timing(demux: bool = True, **told: object) -> TtsTiming:
        raw = {**small_lm().config.raw, "demux_second_stream": demux, "tts_config": told}
        return TtsTiming.of(LMConfig.from_dict(raw))

    assert timing(audio_delay=1.28, second_stream_ahead=2) == TtsTiming(16, 2)
    assert timing(demux=False, audio_delay=0.64) == TtsTiming(8, 0)
    assert timing(audio_delay=0.64) == TtsTiming(8, 0)
    wrong: list[dict[str, Any]] = [{}, {"audio_delay": "1"}, {"audio_delay": 1, "second_stream_ahead": 1.5}]
    for told in [*wrong, {"audio_delay": 1, "second_stream_ahead": 2, "demux": False}]:
        with pytest.raises(ConfigError, match=r"config\.json"):
            timing(**told)
    with pytest.raises(ConfigError, match="multistream"):
        timing(audio_delay=1.28, second_stream_ahead=2, multistream=True)
