"""From a text, as it arrives, to the words and breaks that are fed.

A monologue is one turn, whatever its lines. In a dialogue every line is a turn: the two speakers take turns line by
line, or each line names its speaker, `1: …` or `2: …`, and one that does not goes on with the last one named; the
first line decides which of the two it is. `<break time="0.5s"/>` is a pause. No model, no files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...rates import FRAME_RATE
from ...text import TextTokenizer
from .machine import SPEAKERS, Entry

MAX_BREAK_SECONDS = 60.0
"""A longer break is as long as this: no model was trained on minutes of silence."""

# Control characters could also drive the terminal that shows the words; U+FEFF marks the beginning of a file.
_SILENT = {code: None for code in (*range(0x20), *range(0x7F, 0xA0), 0xFEFF) if not chr(code).isspace()}
_REPLACED = _SILENT | {ord("’"): "'", ord(":"): " ", ord("("): None, ord(")"): None}
"""What these models were trained without, as the reference replaces it."""
_EVENT = re.compile(r'<break\s+time="([0-9]+(?:\.[0-9]*)?)s"\s*/?>|\s+')
_NAMED = re.compile(r"[ \t]*([12])[ \t]*:")
_MAY_BE_NAMED = re.compile(r"[ \t]*(?:[12][ \t]*)?\Z")


def _beginnings(parts: list[str]) -> re.Pattern[str]:
    """Matches, at the end of a text, whatever the sequence of `parts` may begin with."""
    pattern = ""
    for part in reversed(parts):
        pattern = f"{part}(?:{pattern})?"
    return re.compile(pattern + r"\Z")


_MAY_BE_BREAK = _beginnings([*"<break", r"\s+", *'time="', "[0-9]+", r"\.?", "[0-9]*", "s", '"', r"\s*", "/?"])


class ScriptReader:
    """Text in, in pieces cut anywhere; words and breaks out, each as soon as it is whole.

    Args:
        tokenizer: the model's. A word of which it knows nothing is left out.
        dialogue: read lines as turns of two speakers.
        speakers: the model knows speakers, so that their turns are announced.
        padding_between: steps at least between the end of a word's tokens and the next word; 1 articulates better.
    """

    def __init__(
        self, tokenizer: TextTokenizer, dialogue: bool = False, speakers: bool = True, padding_between: int = 1
    ):
        self._tokenizer = tokenizer
        self._dialogue, self._speakers, self._padding = dialogue, speakers, padding_between
        self._line = ""  # what came and is not read yet
        self._fresh = True  # nothing of this line has been read
        self._named: bool | None = None  # whether lines name their speaker; unknown before the first
        self._speaker = -1 if dialogue else 0
        self._announced: int | None = None

    def push(self, text: str) -> Iterator[Entry]:
        """Read on; give what is whole now."""
        *lines, rest = text.split("\n")
        for line in lines:
            # A line end is a space in a monologue; in a dialogue it ends whatever was open.
            self._line += line if self._dialogue else line + "\n"
            yield from self._read(ended=self._dialogue)
        self._line += rest
        yield from self._read(ended=False)

    def close(self) -> Iterator[Entry]:
        """Read what is left as the end of the text."""
        yield from self._read(ended=True)

    def _read(self, ended: bool) -> Iterator[Entry]:
        if self._dialogue and self._fresh and not self._begin_turn(ended):
            return
        text = self._line.translate(_REPLACED) + ("\n" if ended else "")
        held = None if ended else _MAY_BE_BREAK.search(text)
        end = held.start() if held else len(text)
        done = 0
        for event in _EVENT.finditer(text, 0, end):
            yield from self._word(text[done : event.start()])
            yield from _pause(event[1])
            done = event.end()
        self._line, self._fresh = text[done:], ended

    def _begin_turn(self, ended: bool) -> bool:
        """Find out whose line this is; False while more of it must come first."""
        if not self._line.strip() or (not ended and _MAY_BE_NAMED.match(self._line)):
            return ended and bool(self._line.strip())
        name = _NAMED.match(self._line)
        if self._named is None:
            self._named = name is not None
        if self._named and name:
            self._speaker = int(name[1]) - 1
            self._line = self._line[name.end() :]
        elif not self._named:
            self._speaker = (self._speaker + 1) % len(SPEAKERS)
        self._fresh = False
        return True

    def _word(self, word: str) -> Iterator[Entry]:
        # Token 0 is "unknown" to the tokenizer, and "a word begins" to the model.
        tokens = [token for token in self._tokenizer.encode(word) if token] if word else []
        if not tokens:
            return
        if self._speakers and self._announced != self._speaker:
            tokens.insert(0, SPEAKERS[self._speaker])
            self._announced = self._speaker
        padding = self._padding + len(tokens) - 1 if self._padding > 0 else 0
        yield Entry(tuple(tokens), word, padding)


def _pause(seconds: str | None) -> Iterator[Entry]:
    if seconds is not None:
        yield Entry((), padding=round(min(float(seconds), MAX_BREAK_SECONDS) * FRAME_RATE))
