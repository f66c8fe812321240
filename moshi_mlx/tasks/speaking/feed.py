"""The text as it arrives: from a string at once, or from a pipe that is read in a thread while it is spoken.

Puts what comes into the `WordFeeder`, and waits for more where the speaker cannot go on. Knows no model and no sound.
"""

from __future__ import annotations

import codecs
import os
import threading
import time
from collections.abc import Iterable, Iterator

from ...errors import MoshiError
from .machine import Entry, WordFeeder
from .script import ScriptReader

READ_SIZE = 4096
LINE_SECONDS = 0.1
"""After the end of a line, so long for the next one before it is said without it."""
MOST_CHARACTERS, MOST_WORDS = 65_536, 1_000
"""What may wait to be read, and to be said: a longer text is left in its pipe, or its file, until then."""


class TextFeed:
    """Text on its way to be spoken. All but the reading belongs to the thread that speaks.

    Args:
        pieces: the text, cut anywhere; it is iterated over in a thread of its own, and may block there.
        reader: what makes words of it.
        feeder: where they go.
        by_line: where a line has ended and nothing follows, say it before what follows is known: right for a listener
            who waits, as the next line may be long in coming.
    """

    def __init__(self, pieces: Iterable[str], reader: ScriptReader, feeder: WordFeeder, by_line: bool = False):
        self.words = 0
        """Words taken in so far."""
        self.first_word_at: float | None = None
        """`time.perf_counter()` when the first of them came."""
        self.stopped = False
        """Whether `stop` was called."""
        self._pieces, self._reader, self._feeder, self._by_line = pieces, reader, feeder, by_line
        self._news = threading.Condition()
        self._waiting = ""
        self._ended = self._line_ended = False
        self._fault: Exception | None = None
        threading.Thread(target=self._run, name="text", daemon=True).start()

    def take(self) -> bool:
        """Put what has arrived into the feeder; whether there was anything, the end included. Never waits.

        Raises:
            Exception: what iterating over the pieces raised.
        """
        if self._feeder.waiting > MOST_WORDS:
            return False
        with self._news:
            text, self._waiting = self._waiting, ""
            ended = self._ended
            self._news.notify_all()
        if self._fault is not None:
            raise self._fault
        if self._feeder.closed:
            return False
        for entry in self._reader.push(text):
            self._push(entry)
        if ended:
            for entry in self._reader.close():
                self._push(entry)
            self._feeder.close()
        self._line_ended = text.endswith("\n") if text else self._line_ended
        return ended or bool(text)

    def wait(self, seconds: float | None) -> bool:
        """Wait for something to say; False when nothing came in time, or after `stop`."""
        if self._by_line and self._line_ended:
            if not self._news_within(LINE_SECONDS if seconds is None else min(seconds, LINE_SECONDS)):
                self._line_ended = False
                self._feeder.flush()
                return True
        else:
            self._news_within(seconds)
        return self.take() and not self.stopped

    def _news_within(self, seconds: float | None) -> bool:
        with self._news:
            return bool(self._news.wait_for(lambda: self._waiting or self._ended or self.stopped, seconds))

    def stop(self) -> None:
        """Let nobody wait any longer."""
        self.stopped = True
        with self._news:
            self._news.notify_all()

    def _push(self, entry: Entry) -> None:
        if entry.tokens:
            self.words += 1
            self.first_word_at = self.first_word_at or time.perf_counter()
        self._feeder.push(entry)

    def _run(self) -> None:
        try:
            for piece in self._pieces:
                with self._news:
                    self._news.wait_for(lambda: len(self._waiting) < MOST_CHARACTERS or self.stopped)
                    if self.stopped:
                        return
                    self._waiting += piece
                    self._news.notify_all()
        except Exception as error:  # the speaker's to handle: this thread has nobody to tell
            self._fault = error
        with self._news:
            self._ended = True
            self._news.notify_all()


def read_pipe(descriptor: int) -> Iterator[str]:
    """The text of an open file as it arrives; what is no UTF-8 becomes U+FFFD.

    Raises:
        MoshiError: it cannot be read.
    """
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    try:
        while block := os.read(descriptor, READ_SIZE):
            yield characters.decode(block)
    except OSError as error:
        raise MoshiError(f"the text cannot be read: {error.strerror or error}") from None
    yield characters.decode(b"", final=True)
