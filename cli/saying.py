"""Where a speech goes, into a file or through the speaker, and what is shown and known of it meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .common import note
from .display import Answering
from .live import stopped_by_signals

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.tasks.speaking.feed import TextFeed
    from moshi_mlx.tasks.speaking.speech import Said, Speech

PATIENCE = 0.5
"""Seconds that a listener waits for a word before anything was heard."""
MARGIN = 0.24
"""Seconds of sound that shall be left when the model goes on without a word."""


class FileSink:
    """A wav file. Nobody listens, so the model waits for words as long as they take."""

    patience = None

    def __init__(self, path: Path):
        from moshi_mlx.audio_file import WavWriter

        self._writer = WavWriter(path)
        self.write = self._writer.write

    def __enter__(self) -> FileSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def end(self) -> None:
        """The file is ended with the block."""


class LiveSink:
    """The speaker, a second ahead at most."""

    def __init__(self, device: str | None):
        from moshi_mlx.live.duplex import Duplex

        self._duplex, self._stack, self._began = Duplex(output=device, only="output"), ExitStack(), False

    def __enter__(self) -> LiveSink:
        from moshi_mlx.live.system import kept_awake

        self._stack.enter_context(kept_awake())
        self._stack.enter_context(self._duplex)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def patience(self) -> float:
        """Until what is queued is nearly played; before the first sound a moment, as nothing breaks off."""
        return max(0.0, self._duplex.queued_seconds - MARGIN) if self._began else PATIENCE

    def write(self, frame: np.ndarray) -> None:
        """Queue a frame, waiting for room; tell what became of the device."""
        self._began = True
        self._duplex.write_frame(frame)
        while not self._duplex.notices.empty():
            note(self._duplex.notices.get())

    def end(self) -> None:
        """Wait until all is played."""
        self._duplex.drain()


class Saying:
    """A speech on its way out.

    Args:
        speech: what `say` speaks.
        feed: its text.
        show_text: show words as they are said.
        quiet: show nothing at all, for the text is being typed there.
    """

    def __init__(self, speech: Speech, feed: TextFeed, show_text: bool, quiet: bool):
        self._speech, self._feed = speech, feed
        self._answering, self._quiet = Answering(show_text and not quiet), quiet
        self._began, self._frames = time.perf_counter(), 0
        self._first_sound: float | None = None

    def run(self, saying: Iterable[Said], sink: FileSink | LiveSink) -> None:
        """Put out all that is said and show its words; Ctrl-C ends it, and what was said until then is kept."""
        try:
            with stopped_by_signals(self._feed.stop):
                shown = saying if self._quiet else self._answering.progress(saying, None, "speaking")
                for said in shown:
                    self._mark()
                    sink.write(said.samples)
                    self._answering.say("".join(f"{word} " for word in said.words))
                    if self._feed.stopped:
                        break
                else:
                    sink.end()
        except KeyboardInterrupt:  # a second Ctrl-C: what is there is kept all the same
            self._feed.stop()
        self._answering.end()

    def report(self) -> dict[str, Any]:
        """The figures. Times are seconds of the sound; `first_sound_seconds` counts from the first word's arrival."""
        from moshi_mlx.rates import FRAME_RATE

        before = self._speech.prefix_frames
        words = [(word, (step - before) / FRAME_RATE) for word, step in self._speech.feeder.spoken]
        return {
            "seconds": round(self._frames / FRAME_RATE, 3),
            "steps": self._speech.step,
            "wall_seconds": round(time.perf_counter() - self._began, 3),
            "first_sound_seconds": None if self._first_sound is None else round(self._first_sound, 3),
            "complete": self._speech.finished,
            "text": " ".join(word for word, _ in words),
            "words": [{"text": word, "start": round(start, 2)} for word, start in words],
        }

    def _mark(self) -> None:
        self._frames += 1
        if self._first_sound is None and self._feed.first_word_at is not None:
            self._first_sound = time.perf_counter() - self._feed.first_word_at
