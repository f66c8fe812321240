"""Following a conversation from a thread of its own: on the screen, as plain text, or as JSON.

Only reads what the conversation tells, and never makes it wait: a terminal that is slow or stopped holds up
nothing but itself.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from moshi_mlx.errors import MoshiError
from moshi_mlx.live.record_files import PAUSE_S
from moshi_mlx.sound import decibels

from .common import note
from .keyboard import keys

if TYPE_CHECKING:
    from moshi_mlx.live.conversation import Conversation, FrameEvent

LOOKS_PER_SECOND = 12
CLOSE_SECONDS = 2.0
"""For the last look: a terminal that takes nothing more is not waited for."""
SLOW = (
    "This machine does not keep up, and frames are dropped: close other programs, or end this and start again with "
    "--kv-bits 8 and a shorter --context, or with a model of fewer bits."
)
SLOW_FRAMES, SLOW_SHARE = 125, 0.1
"""Frames (ten seconds), and the share of them that may be dropped before it is said."""
SLOW_AGAIN = 750
"""Frames (a minute) without that before it is said again."""


@dataclass
class News:
    """What has happened since the last look."""

    frames: list[FrameEvent] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    """Sentences for the user, each told once."""
    standing: list[str] = field(default_factory=list)
    """Those that are true now, for whoever can take them back."""


class View(AbstractContextManager[Any], Protocol):
    """Where a conversation is shown; all calls but enter and exit come from the thread that follows."""

    @property
    def actions(self) -> Mapping[str, Callable[[], None]]:
        """What keys do."""
        ...

    def update(self, news: News) -> None:
        """Show what is new."""
        ...


@contextmanager
def follow(conversation: Conversation, view: View) -> Iterator[None]:
    """Show a conversation while the context lasts.

    A reader of stdout that has gone (`| head`) ends the conversation as a key would.

    Raises:
        MoshiError: stdout takes nothing more; the conversation was stopped for that.
    """
    ended, faults = threading.Event(), []
    watch = Watch(conversation)

    def look_on() -> None:
        try:
            while not ended.wait(1 / LOOKS_PER_SECOND):
                view.update(watch.look())
            view.update(watch.look())
        except BaseException as fault:  # raised again where the context ends
            faults.append(fault)
            conversation.stop()

    thread = threading.Thread(target=look_on, name="view", daemon=True)
    with view, keys(view.actions):
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(CLOSE_SECONDS)
    if faults and not isinstance(faults[0], BrokenPipeError):
        raise faults[0]


class Watch:
    """Takes what is new out of a conversation."""

    def __init__(self, conversation: Conversation):
        self._conversation = conversation
        self._told: set[str] = set()
        self._slow = Slowness()

    def look(self) -> News:
        """Everything since the last look."""
        events, waiting = self._conversation.events, self._conversation.duplex.notices
        frames = [events.popleft() for _ in range(len(events))]
        notices = [waiting.get() for _ in range(waiting.qsize())]
        standing = list(self._standing())
        news = [sentence for sentence in standing if sentence not in self._told]
        self._told.update(news)
        return News(frames, notices + news, standing)

    def _standing(self) -> Iterator[str]:
        """What is true from some moment on, and is told at that moment only."""
        from moshi_mlx.live.devices import SILENT_MICROPHONE

        stats = self._conversation.duplex.stats
        if stats.silent_microphone:
            yield SILENT_MICROPHONE
        else:
            self._told.discard(SILENT_MICROPHONE)
        now = self._slow.look(stats.frames_in, stats.frames_dropped)
        if now:
            yield SLOW
        elif now is None:
            self._told.discard(SLOW)
        recording = self._conversation.recording
        if recording is not None and recording.problem is not None:
            yield recording.problem


class Slowness:
    """Whether the last ten seconds lost frames, however long a conversation went well before."""

    def __init__(self) -> None:
        self._looks: deque[tuple[int, int]] = deque()  # (frames heard, frames dropped), the latest last
        self._last = 0  # frames heard when it was last true

    def look(self, read: int, dropped: int) -> bool | None:
        """From the counts so far: True where it is slow, None where it has not been for a minute."""
        heard = read + dropped
        if not self._looks or heard > self._looks[-1][0]:  # it stands still while no device is open
            self._looks.append((heard, dropped))
        while len(self._looks) > 1 and heard - self._looks[1][0] >= SLOW_FRAMES:
            self._looks.popleft()
        before, dropped_before = self._looks[0]
        if heard - before >= SLOW_FRAMES and dropped - dropped_before > SLOW_SHARE * (heard - before):
            self._last = heard
            return True
        return None if heard - self._last >= SLOW_AGAIN else False


class Pauses:
    """Where Moshi's words begin a new line: after a pause."""

    def __init__(self) -> None:
        self._last: float | None = None

    def before(self, event: FrameEvent) -> bool:
        """Whether a pause, or nothing at all, came before this event's text."""
        first = self._last is None or event.time - self._last >= PAUSE_S
        self._last = event.time
        return first


class PlainView:
    """Moshi's words on stdout as they come, a line for each stretch of speech; notices on stderr."""

    actions: Mapping[str, Callable[[], None]] = {}

    def __init__(self) -> None:
        self._pauses = Pauses()
        self._begun = False

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._begun:
            with suppress(BrokenPipeError):
                put("\n")

    def update(self, news: News) -> None:
        """Print the words."""
        for event in news.frames:
            if event.text:
                self._print(event)
        for sentence in news.notices:
            note(sentence)

    def _print(self, event: FrameEvent) -> None:
        text = event.text
        if self._pauses.before(event):
            text = text.lstrip(" ")
            text = f"\n{text}" if self._begun else text
        self._begun = True
        put(text)


class JsonView:
    """One object per frame on stdout; notices on stderr."""

    actions: Mapping[str, Callable[[], None]] = {}

    def __init__(self, conversation: Conversation):
        self._conversation = conversation

    def __enter__(self) -> JsonView:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, news: News) -> None:
        """Print the frames."""
        for event in news.frames:
            put(json.dumps(self._describe(event), ensure_ascii=False) + "\n")
        for sentence in news.notices:
            note(sentence)

    def _describe(self, event: FrameEvent) -> dict[str, Any]:
        stats = self._conversation.duplex.stats
        return {
            "frame": event.index,
            "time": round(event.time, 3),
            "token": event.token,
            "text": event.text,
            "microphone_db": decibels(event.microphone),
            "speaker_db": decibels(event.speaker),
            "stages_ms": {stage: round(1000 * seconds, 2) for stage, seconds in event.seconds.items()},
            "answer_ms": round(1000 * event.lag, 2),
            "dropped_total": stats.frames_dropped + stats.frames_lost,
            "underruns": stats.speaker.underruns,
        }


def put(text: str) -> None:
    """Write to stdout at once. What fails is met once only: stdout leads nowhere afterwards.

    Raises:
        BrokenPipeError: the reader has gone.
        MoshiError: a full disk, or another fault.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise MoshiError(f"stdout cannot be written: {error.strerror}; free space, or name another place") from None
