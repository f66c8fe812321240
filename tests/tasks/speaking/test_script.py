"""How a text is read: the words and breaks that the PyTorch reference reads, in whatever pieces it arrives."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer
from moshi_mlx.tasks.speaking.machine import Entry
from moshi_mlx.tasks.speaking.script import ScriptReader
from moshi_mlx.text import TextTokenizer

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "word_feeding.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return TextTokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("text") / "spm.model", GOLDEN["vocabulary"]))


def read(tokenizer: TextTokenizer, pieces: list[str], **how: Any) -> list[Entry]:
    reader = ScriptReader(tokenizer, **how)
    return [*(entry for piece in pieces for entry in reader.push(piece)), *reader.close()]


def words(tokenizer: TextTokenizer, text: str, **how: Any) -> list[str]:
    """The words, each after the number of its speaker where that is announced."""
    return [
        f"{entry.tokens[0]}:{entry.text}" if entry.tokens[0] in (1, 2) else entry.text
        for entry in read(tokenizer, [text], **how)
    ]


@pytest.mark.parametrize("script", GOLDEN["scripts"], ids=lambda script: script["turns"][-1][:12])
def test_a_script_is_read_as_by_the_reference(script: dict[str, Any], tokenizer: TextTokenizer) -> None:
    turns = [turn.replace("\n", " ") for turn in script["turns"]]
    named = "\n".join(f"{1 + i % 2}:{turn}" for i, turn in enumerate(turns))
    how = {"speakers": script.get("speakers", True), "padding_between": script["padding_between"]}
    wanted = [Entry(tuple(tokens), text, padding) for tokens, text, padding in script["entries"]]
    assert read(tokenizer, [named], dialogue=True, **how) == wanted
    for seed in range(20):  # and cut anywhere
        rng = random.Random(seed)
        cuts = sorted(rng.sample(range(1, len(named)), 8))
        pieces = [named[a:b] for a, b in zip([0, *cuts], [*cuts, len(named)], strict=True)]
        assert read(tokenizer, pieces, dialogue=True, **how) == wanted
    if len(turns) == 1:
        for text in (script["turns"][0], script["turns"][0].replace(" ", "\n")):
            assert read(tokenizer, list(text), **how) == wanted


def test_words_come_out_as_soon_as_they_are_whole(tokenizer: TextTokenizer) -> None:
    reader = ScriptReader(tokenizer)
    assert [entry.text for entry in reader.push("Hel")] == []
    assert [entry.text for entry in reader.push("lo, my fri")] == ["Hello,", "my"]
    assert [entry.text for entry in reader.push("end<")] == []  # it may become a break
    assert [(entry.text, entry.padding) for entry in reader.push('break time="2s"/>and')] == [("friend", 4), ("", 25)]
    assert [entry.text for entry in reader.close()] == ["and"]


def test_lines_of_a_monologue_are_one_turn(tokenizer: TextTokenizer) -> None:
    assert words(tokenizer, "one\ntwo\n\n1: three") == ["1:one", "two", "1", "three"]


def test_in_a_dialogue_lines_take_turns(tokenizer: TextTokenizer) -> None:
    assert words(tokenizer, "one one\ntwo\n\nthree", dialogue=True) == ["1:one", "one", "2:two", "1:three"]


def test_or_name_their_speaker(tokenizer: TextTokenizer) -> None:
    text = "2: one\n and on\n 1 :two\n2:\n2: three: 1: four"
    assert words(tokenizer, text, dialogue=True) == ["2:one", "and", "on", "1:two", "2:three", "1", "four"]


def test_a_number_in_a_line_of_one_who_takes_turns_names_nobody(tokenizer: TextTokenizer) -> None:
    assert words(tokenizer, "one\n1: two", dialogue=True) == ["1:one", "2:1", "two"]


def test_a_break_has_a_limit(tokenizer: TextTokenizer) -> None:
    assert read(tokenizer, ['<break time="99999s"/>']) == [Entry((), "", 750)]


def test_control_characters_are_left_out(tokenizer: TextTokenizer) -> None:
    assert words(tokenizer, "\ufeffone \x1b[2J two\x00\x85three") == ["1:one", "[2J", "two", "three"]


def test_nothing_to_say_is_no_words(tokenizer: TextTokenizer) -> None:
    assert read(tokenizer, [" \n\t ", "(", ":", ")\n"]) == []


def test_time_does_not_grow_with_what_was_read(tokenizer: TextTokenizer) -> None:
    reader = ScriptReader(tokenizer)
    for _ in range(2000):
        list(reader.push("word " * 5))
    assert reader._line == ""
