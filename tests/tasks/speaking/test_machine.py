"""Which word is fed when: as the PyTorch reference decides, and while words are still arriving."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moshi_mlx.config import TEXT_PADDING
from moshi_mlx.tasks.speaking.machine import NEW_WORD, Entry, Pace, WordFeeder

GOLDEN = json.loads((Path(__file__).parents[2] / "goldens" / "word_feeding.json").read_text(encoding="utf-8"))
CASES = [pytest.param(case, id="-".join(map(str, case["pace"].values()))) for case in GOLDEN["feeding"]]

A, B, C, D = (Entry((token,), chr(token)) for token in range(65, 69))


def feeder(case: dict[str, Any]) -> WordFeeder:
    return WordFeeder(Pace(**case["pace"]), GOLDEN["text_card"])


def entries(case: dict[str, Any]) -> list[Entry]:
    return [Entry(tuple(tokens), text, padding) for tokens, text, padding in case["entries"]]


def feed(machine: WordFeeder, proposed: list[int], start: int = 0) -> list[int]:
    return [machine.next(step, token) for step, token in enumerate(proposed, start)]


@pytest.mark.parametrize("case", CASES)
def test_every_decision_is_the_references(case: dict[str, Any]) -> None:
    machine = feeder(case)
    for entry in entries(case):
        machine.push(entry)
    machine.close()
    assert feed(machine, case["proposed"]) == case["fed"]
    assert [list(word) for word in machine.spoken] == case["spoken"]
    assert machine.end_step == case["end_step"]


@pytest.mark.parametrize("case", CASES)
def test_words_that_arrive_when_they_are_wanted_are_fed_as_if_all_had_been_there(case: dict[str, Any]) -> None:
    machine, coming, fed, waited = feeder(case), iter(entries(case)), [], 0
    for step, token in enumerate(case["proposed"]):
        while machine.starves(token):
            waited += 1
            entry = next(coming, None)
            machine.close() if entry is None else machine.push(entry)
        fed.append(machine.next(step, token))
    assert waited > len(case["entries"])
    assert fed == case["fed"]
    assert machine.end_step == case["end_step"]


def test_without_a_word_it_pads_and_does_not_end() -> None:
    machine = WordFeeder(Pace(initial_padding=0), 512)
    machine.push(A)
    machine.flush()
    assert feed(machine, [NEW_WORD] * 20) == [NEW_WORD, 65, *[TEXT_PADDING] * 18]
    assert machine.end_step is None
    machine.push(B)
    # The padding it may do was used up long ago: the word begins, whatever the model proposes.
    assert feed(machine, [TEXT_PADDING] * 2, 20) == [NEW_WORD, 66]
    machine.close()
    assert feed(machine, [NEW_WORD], 22) == [TEXT_PADDING]
    assert machine.end_step == 22
    assert machine.spoken == [("A", 0), ("B", 20)]


def test_a_word_waits_for_those_it_is_said_in_sight_of() -> None:
    machine = WordFeeder(Pace(ahead=2, initial_padding=0), 512)
    machine.push(A)
    machine.push(B)
    assert machine.starves(NEW_WORD)
    machine.push(C)
    assert not machine.starves(NEW_WORD)
    assert machine.next(0, NEW_WORD) == (NEW_WORD + 1) * 513 + 65  # announced on the second stream, A on the first
    assert machine.next(1, TEXT_PADDING) == (67 + 1) * 513 + TEXT_PADDING  # C is in sight
    assert machine.starves(NEW_WORD)
    assert not machine.starves(TEXT_PADDING)


@pytest.mark.parametrize("end", ["flush", "close"])
def test_told_that_none_come_it_says_what_is_there(end: str) -> None:
    machine = WordFeeder(Pace(ahead=2, initial_padding=0), 512)
    machine.push(A)
    getattr(machine, end)()
    assert not machine.starves(NEW_WORD)
    assert machine.next(0, NEW_WORD) == (NEW_WORD + 1) * 513 + 65
    assert machine.next(1, TEXT_PADDING) == TEXT_PADDING
    machine.push(B)  # flushed words do not take later ones with them
    assert machine.starves(NEW_WORD) is (end == "flush")


def test_a_break_waits_for_no_word() -> None:
    machine = WordFeeder(Pace(ahead=1, initial_padding=0), 512)
    machine.push(Entry((), padding=3))
    assert not machine.starves(NEW_WORD)
    assert feed(machine, [NEW_WORD] * 3) == [TEXT_PADDING] * 3
    machine.push(D)
    machine.close()
    assert machine.next(3, NEW_WORD) == (NEW_WORD + 1) * 513 + 68
