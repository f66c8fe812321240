"""Transcribing from the microphone: the live half of `moshi-mlx transcribe`, and what it shows."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from moshi_mlx.live.record_files import PAUSE_S
from moshi_mlx.tasks.kinds import Kind

from .common import check_kind, check_target, load_model, note, write_text
from .follow import News, follow, put
from .live import settle_devices, stopped_by_signals
from .transcripts import in_format, words_lines

if TYPE_CHECKING:
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.listening import Listening
    from moshi_mlx.tasks.transcription import Heard


def transcribe_live(args: argparse.Namespace, sampling: Sampling) -> None:
    """Listen until Ctrl-C, which also has the last words told; what was said is kept whatever ends it."""
    from moshi_mlx.live.conversation import Conversation
    from moshi_mlx.tasks.listening import Listening

    from .display import status

    if args.output is not None:
        check_target(args.output)
    check_kind(args, Kind.TRANSCRIBE)
    _, args.input = settle_devices({"input": args.input})["input"]
    note(f"loading {args.model}")
    moshi = load_model(args, Kind.TRANSCRIBE)
    with status("warming up"):
        listening = Listening(moshi, sampling, args.seed)
    conversation = Conversation(moshi, listening, input=args.input, only="input")
    stats = conversation.duplex.stats
    listening.missed = lambda: stats.frames_dropped + stats.frames_lost
    about = {"model": args.model, "precision": moshi.checkpoint.precision}
    note("listening; Ctrl-C ends it")
    try:
        with stopped_by_signals(conversation.stop), follow(conversation, ListeningView(listening, args.format)):
            conversation.run()
            listening.finish()
    finally:
        if conversation.seconds:  # else no device could be opened: what an earlier one has left stays
            about["dropped_total"] = listening.missed()
            whole = in_format(listening.transcript, args.format, about)
            if args.output is not None:
                write_text(args.output, whole)
            elif args.format not in ("text", "words"):
                put(whole)


class ListeningView:
    """Words on stdout as they come; where the model expects a pause, a new line."""

    actions: Mapping[str, Callable[[], None]] = {}

    def __init__(self, listening: Listening, form: str):
        from moshi_mlx.rates import FRAME_RATE

        self._listening = listening
        self._show = {"text": self._text, "words": self._words, "json": self._json}.get(form, lambda heard: None)
        self._behind = math.ceil(listening.delay * FRAME_RATE)
        self._quiet = 0
        """Frames since the last text; a pause is seen before its last word is told."""
        self._line_begun = False

    def __enter__(self) -> ListeningView:
        return self

    def __exit__(self, *exception: object) -> None:
        with suppress(BrokenPipeError):
            self._end_line()

    def update(self, news: News) -> None:
        """Print what was heard since the last look."""
        heard = self._listening.heard
        for _ in range(len(heard)):
            part = heard.popleft()
            self._quiet = 0 if part.text else self._quiet + 1
            self._show(part)
        for sentence in news.notices:
            note(sentence)

    def _text(self, heard: Heard) -> None:
        text = heard.text if self._line_begun else heard.text.lstrip(" ")
        if text:
            self._line_begun = True
            put(text)
        elif self._pausing(heard):
            self._end_line()

    def _words(self, heard: Heard) -> None:
        if heard.words:
            put(words_lines(heard.words))

    def _json(self, heard: Heard) -> None:
        described: dict[str, Any] = {"text": heard.text, "words": [vars(word) for word in heard.words]}
        described["pause"] = None if heard.pause is None else round(heard.pause, 4)
        put(json.dumps(described, ensure_ascii=False) + "\n")

    def _pausing(self, heard: Heard) -> bool:
        from moshi_mlx.rates import FRAME_RATE
        from moshi_mlx.tasks.transcription import PAUSE

        if heard.pause is None:  # a model without heads for it
            return self._quiet > PAUSE_S * FRAME_RATE
        return heard.pause > PAUSE and self._quiet > self._behind

    def _end_line(self) -> None:
        if self._line_begun:
            self._line_begun = False
            put("\n")
