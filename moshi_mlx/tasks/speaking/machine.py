"""When the next word is fed: the machine between a text and a model that speaks.

Step by step the model proposes that a word begins or that nothing does; which word it is, and when its tokens
stand in the text stream, is decided here (Delayed Streams Modeling, Zeghidour et al., 2025, section 3). Words may
still be arriving while others are said. Pure Python: no model, no clock, no tokenizer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ...config import END_OF_TEXT_PADDING, TEXT_PADDING, ZERO_TOKEN

NEW_WORD = END_OF_TEXT_PADDING
"""Announces a word: what ends the padding in Moshi's monologue begins a word here."""
SPEAKERS = (1, 2)
"""Tokens before the first word of a turn: the main speaker's and the other's."""


@dataclass(frozen=True)
class Entry:
    """A word, or a break where it has no tokens."""

    tokens: tuple[int, ...]
    text: str = ""
    padding: int = 0
    """Steps for which no word may begin: counted with the word's tokens, so only what they leave is a pause."""


@dataclass(frozen=True)
class Pace:
    """What a model was trained for, and how fast it shall go; all in steps of 80 ms."""

    ahead: int = 0
    """The word so many words ahead is shown on a second text stream; 0 where there is none."""
    max_padding: int = 8
    """Steps without a word after which one begins, whatever the model proposes."""
    initial_padding: int = 2
    """Steps before the first word, so that it is not cut."""


class WordFeeder:
    """Decides the text token of every step, for one text.

    Args:
        pace: see `Pace`.
        text_card: the model's; two streams go into one token as `(second + 1) * (text_card + 1) + first`.
    """

    def __init__(self, pace: Pace, text_card: int):
        self.pace = pace
        self.spoken: list[tuple[str, int]] = []
        """Words fed so far, each with the step at which it began: its time in the sound, as frames."""
        self.end_step: int | None = None
        """The step at which a word was wanted and none was left; None until then."""
        self._card = text_card + 1
        self._entries: deque[Entry] = deque()
        self._closed = False
        self._due = 0  # entries, from the front, that do not wait for the words after them
        self._words = 0  # entries that are words
        self._queued: deque[int] = deque()  # the word's tokens still to be fed
        self._shown: deque[int] = deque()  # tokens still to be shown on the second stream
        self._may_pad = self._must_pad = pace.initial_padding

    def push(self, entry: Entry) -> None:
        """Add a word or a break at the end of the text."""
        self._entries.append(entry)
        self._words += bool(entry.tokens)

    def flush(self) -> None:
        """Say what is there without waiting for the words that it would be said in sight of."""
        self._due = len(self._entries)

    def close(self) -> None:
        """The text is complete."""
        self._closed = True

    @property
    def waiting(self) -> int:
        """Words and breaks still to begin."""
        return len(self._entries)

    @property
    def closed(self) -> bool:
        """Whether the text is complete."""
        return self._closed

    def starves(self, proposed: int) -> bool:
        """Whether `next(step, proposed)` would want a word that is not there yet."""
        return self._wants_word(proposed) and not self._ready()

    def next(self, step: int, proposed: int) -> int:
        """Take what the model proposes in a step, give the token that it reads in the next one.

        Where it wants a word that has not arrived, it pads. So the model sees what it sees within a pause: PAD in
        the text stream and nothing on the second. That is what it was trained on for seconds, not for minutes, and
        a caller who can wait should (`starves`). Once the word is there it begins at once, for by then no more
        padding is allowed. Nor does a word begin before those ahead of it are known, unless `flush` or `close`
        said that none come: an empty second stream means the end of the text, and it would be said as an ending.
        """
        begins = self._wants_word(proposed) and self._take(step)
        if begins:
            first = NEW_WORD
        else:
            self._may_pad = max(0, self._may_pad - 1)
            self._must_pad = max(0, self._must_pad - 1)
            first = self._pop_token()
        return self._with_second(first) if self.pace.ahead else first

    def _wants_word(self, proposed: int) -> bool:
        if self._queued or self._must_pad:
            return False
        return proposed == NEW_WORD or self._may_pad == 0

    def _ready(self) -> bool:
        if self._closed or self._due:
            return True
        return bool(self._entries) and self._words >= (self.pace.ahead + 1 if self._entries[0].tokens else 0)

    def _take(self, step: int) -> bool:
        """Begin the next entry; False where that means padding: a break, no more text, or none yet."""
        if not self._ready():
            return False
        if not self._entries:
            return self._end(step)
        entry = self._entries.popleft()
        self._due = max(0, self._due - 1)
        self._must_pad = entry.padding
        if not entry.tokens:
            return False
        self._words -= 1
        self._may_pad = self.pace.max_padding
        self.spoken.append((entry.text, step))
        self._queued.extend(entry.tokens)
        self._shown.extend(self._tokens_ahead())
        return True

    def _end(self, step: int) -> bool:
        """A word past the last one: the model has said all. The second stream announces it, once."""
        if self.end_step is not None:
            return False
        self.end_step = step
        return self.pace.ahead > 0

    def _tokens_ahead(self) -> tuple[int, ...]:
        words = (entry.tokens for entry in self._entries if entry.tokens)
        return next((tokens for i, tokens in enumerate(words, 1) if i == self.pace.ahead), ())

    def _with_second(self, first: int) -> int:
        """Put a token of the second stream beside: the announcement of a word, else one of a word ahead."""
        second = ZERO_TOKEN
        if first == NEW_WORD:
            second, first = NEW_WORD, self._pop_token()
        elif self._shown:
            second = self._shown.popleft()
        return (second + 1) * self._card + first

    def _pop_token(self) -> int:
        return self._queued.popleft() if self._queued else TEXT_PADDING
