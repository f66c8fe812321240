"""The live screen: Moshi's words, two meters, a frame's time against 80 ms, what went wrong, and the keys.

It takes the whole terminal and gives it back as it was. Each look draws all lines anew for whatever size the
terminal has then, so that a resize needs no care.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moshi_mlx.sound import decibels

from .follow import News, Pauses
from .keyboard import has_keys

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

    from moshi_mlx.live.conversation import Conversation, FrameEvent

FRAME_MS = 80.0
FLOOR_DB = -60.0
"""Left end of the meters."""
CLIPS_DB = -1.0
FALL_DB = 3.0
"""By which a meter falls from one look to the next: fast enough to follow, slow enough to read."""
LABEL, FIGURE = 9, 22
"""Columns left and right of a bar."""
RECENT = 12
"""Frames (a second) over which times are told."""
PARAGRAPHS = 100
LEFT_BEHIND = 5
"""Paragraphs that stay on the terminal when the screen goes."""
LONG_PARAGRAPH = 600
NOTICE_SECONDS = 20.0
KEYS = (("m", "mute"), ("p", "pause"), ("n", "new conversation"), ("q", "quit"))
FILLED, EMPTY = "▆", "·"
"""Of a bar. Three quarters high, so that one bar does not run into the next."""
ASCII = str.maketrans("▆·─→–", "#-->-")
"""For terminals that know no more."""


@dataclass
class Paragraph:
    """Words of Moshi's without a pause between them."""

    time: float
    text: str
    _wrapped: tuple[int, str, list[str]] = field(default=(0, "", []), repr=False)

    def lines(self, console: Console, width: int) -> list[str]:
        """The text in lines of `width` columns at most."""
        from rich.text import Text

        if self._wrapped[:2] != (width, self.text):
            lines = [line.plain.rstrip() for line in Text(self.text).wrap(console, width)]
            self._wrapped = width, self.text, lines
        return self._wrapped[2]


class Screen:
    """A conversation on a terminal.

    Args:
        conversation: what is shown and steered.
        model: its name and precision.
        console: the terminal.
    """

    def __init__(self, conversation: Conversation, model: str, console: Console):
        from rich.live import Live

        self._conversation, self._model = conversation, model
        self._live = Live(console=console, screen=True, auto_refresh=False, get_renderable=lambda: self)
        self._keys = has_keys()
        self._pauses = Pauses()
        self._paragraphs: deque[Paragraph] = deque(maxlen=PARAGRAPHS)
        self._recent: deque[FrameEvent] = deque(maxlen=RECENT)
        self._notices: deque[tuple[float, str]] = deque(maxlen=3)
        self._standing: list[str] = []
        self._levels = {"you": FLOOR_DB, "Moshi": FLOOR_DB}
        self._memory, self._memory_due = 0, 0.0

    @property
    def actions(self) -> Mapping[str, Callable[[], None]]:
        """What the keys do."""
        return {"m": self._mute, "p": self._pause, "n": self._begin_anew, "q": self._conversation.stop}

    def __enter__(self) -> Screen:
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()
        for paragraph in list(self._paragraphs)[-LEFT_BEHIND:]:
            print(paragraph.text)

    def update(self, news: News) -> None:
        """Take in what is new, and draw."""
        for event in news.frames:
            self._recent.append(event)
            if event.text:
                self._write(event)
        self._standing = news.standing
        passing = [sentence for sentence in news.notices if sentence not in news.standing]
        self._notices.extend((time.monotonic(), sentence) for sentence in passing)
        self._follow_levels(news.frames)
        self._measure_memory()
        self._live.refresh()

    def _mute(self) -> None:
        self._conversation.muted = not self._conversation.muted

    def _pause(self) -> None:
        self._conversation.paused = not self._conversation.paused

    def _begin_anew(self) -> None:
        self._conversation.begin_anew()
        self._notices.append((time.monotonic(), "A new conversation: Moshi has forgotten what was said."))

    def _write(self, event: FrameEvent) -> None:
        paused = self._pauses.before(event)
        if paused or (len(self._paragraphs[-1].text) > LONG_PARAGRAPH and event.text.startswith(" ")):
            self._paragraphs.append(Paragraph(event.time, event.text.lstrip(" ")))
        else:
            self._paragraphs[-1].text += event.text

    def _follow_levels(self, frames: list[FrameEvent]) -> None:
        heard = {
            "you": max((event.microphone for event in frames), default=0.0),
            "Moshi": max((event.speaker for event in frames), default=0.0),
        }
        for side, level in heard.items():
            now = decibels(level)
            fallen = max(self._levels[side] - FALL_DB, FLOOR_DB)
            self._levels[side] = fallen if now is None else max(now, fallen)

    def _measure_memory(self) -> None:
        if time.monotonic() >= self._memory_due:
            from moshi_mlx.live.metrics import memory

            now = memory()
            # On a GPU of its own the model is not in the process's size, on a Mac it is.
            self._memory = max(now["rss"], now["mlx_active"]) + now["codec_rss"]
            self._memory_due = time.monotonic() + 1.0

    # Drawing: everything below makes lines of text, from the top down.

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width, height = options.max_width, options.height or console.height
        above, below = [*self._header(width)], [*self._notice_lines(console, width), *self._figures(width)]
        room = max(0, height - len(above) - len(below))
        words = self._word_lines(console, width, room)
        for line in (*above, *words, *below):
            line.no_wrap, line.overflow = True, "ellipsis"
            if options.ascii_only:
                line.plain, line.overflow = line.plain.translate(ASCII), "crop"
            yield line

    def _header(self, width: int) -> Iterator[Text]:
        from rich.text import Text

        from moshi_mlx.memory import human_bytes

        state = "paused  " if self._conversation.paused else ""
        yield _ends(
            Text.assemble((" Moshi", "bold"), f"  {self._model}, {human_bytes(self._memory)}"),
            Text.assemble((state, "yellow"), (f"{clock(self._conversation.seconds)} ", "bold")),
            width,
        )
        devices = self._conversation.duplex.devices
        if devices:
            told = " → ".join(dict.fromkeys(device.name for device in devices.values()))
        else:
            told = "looking for a microphone and a speaker" if self._conversation.seconds else "warming up"
        yield Text(f" {told}", style="dim")
        yield Text("─" * width, style="dim")

    def _word_lines(self, console: Console, width: int, room: int) -> list[Text]:
        """The last lines that fit, each paragraph after its time; then empty lines down to the figures."""
        from rich.text import Text

        lines: list[Text] = []
        for paragraph in reversed(self._paragraphs):
            if len(lines) >= room:
                break
            when = f"{clock(paragraph.time):>{LABEL - 2}}  "
            wrapped = paragraph.lines(console, max(10, width - LABEL - 1)) or [""]
            stamps = [when] + [" " * LABEL] * (len(wrapped) - 1)
            lines[:0] = [Text.assemble((stamp, "dim"), line) for stamp, line in zip(stamps, wrapped, strict=True)]
        lines = lines[-room:] if room else []
        if not lines and room:
            lines = [Text(" Say something. Moshi listens all the time, and you may interrupt it.", style="dim")]
        return lines + [Text() for _ in range(room - len(lines))]

    def _notice_lines(self, console: Console, width: int) -> Iterator[Text]:
        from rich.text import Text

        recent = [sentence for told, sentence in list(self._notices) if time.monotonic() - told < NOTICE_SECONDS]
        for sentence in (*recent, *self._standing):
            for number, line in enumerate(Text(sentence).wrap(console, max(10, width - 4))):
                yield Text.assemble(("   " if number else " ! ", "bold yellow"), (line.plain.rstrip(), "yellow"))

    def _figures(self, width: int) -> Iterator[Text]:
        from rich.text import Text

        yield Text("─" * width, style="dim")
        for side in ("you", "Moshi"):
            yield self._meter(side, width)
        yield self._frame_bar(width)
        yield self._counters()
        yield Text("─" * width, style="dim")
        yield self._key_line()

    def _meter(self, side: str, width: int) -> Text:
        level = self._levels[side]
        figure = "silent" if level <= FLOOR_DB else f"{level:.0f} dB"
        colour = "red" if level > CLIPS_DB else "green" if side == "you" else "cyan"
        if side == "you" and self._conversation.muted:
            level, figure = FLOOR_DB, "muted"
        return _bar(side, 1 - level / FLOOR_DB, colour, figure, width)

    def _frame_bar(self, width: int) -> Text:
        """The slowest frame of the last second in its slowest stage: stages run side by side."""
        times = [(seconds, stage) for event in self._recent for stage, seconds in event.seconds.items()]
        seconds, stage = max(times, default=(0.0, ""))
        share = 1000 * seconds / FRAME_MS
        colour = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
        return _bar("frame", share, colour, f"{1000 * seconds:.0f} of {FRAME_MS:.0f} ms {stage}", width)

    def _counters(self) -> Text:
        from rich.text import Text

        stats, switch = self._conversation.duplex.stats, self._conversation.echo
        lags = sorted(event.lag for event in self._recent)
        answer = f"{1000 * lags[len(lags) // 2]:.0f} ms" if lags else "–"
        reduction = None if switch is None else switch.reduction_db
        echo = "on" if switch is not None and switch.on else "off"
        echo = echo if reduction is None else f"{-reduction:.0f} dB"
        dropped, underruns = stats.frames_dropped + stats.frames_lost, stats.speaker.underruns
        line = Text(" " * LABEL)
        for name, value, bad in (
            ("answer", answer, False),
            ("dropped", str(dropped), dropped > 0),
            ("underruns", str(underruns), underruns > 0),
            ("echo", echo, False),
        ):
            line.append(f"{name} ", "dim").append(value, "yellow" if bad else "bold").append("   ")
        return line

    def _key_line(self) -> Text:
        from rich.text import Text

        if not self._keys:
            return Text(" Ctrl-C quits", style="dim")
        names = dict(KEYS)
        if self._conversation.muted:
            names["m"] = "unmute"
        if self._conversation.paused:
            names["p"] = "go on"
        line = Text(" ")
        for key, does in names.items():
            line.append(f" {key} ", "bold reverse").append(f" {does}   ", "dim" if does == dict(KEYS)[key] else "bold")
        return line


def clock(seconds: float) -> str:
    """75 -> '1:15', 3675 -> '1:01:15'."""
    whole = max(0, int(seconds))
    hours = f"{whole // 3600}:" if whole >= 3600 else ""
    return f"{hours}{whole // 60 % 60:{'02d' if hours else 'd'}}:{whole % 60:02d}"


def _ends(left: Text, right: Text, width: int) -> Text:
    """Two pieces at the two ends of a line; the right one stays whole."""
    left.truncate(max(0, width - right.cell_len - 1), overflow="ellipsis")
    left.pad_right(max(0, width - left.cell_len - right.cell_len))
    return left.append_text(right)


def _bar(label: str, share: float, colour: str, figure: str, width: int) -> Text:
    """A label, a bar of `share` (0…1) in what width there is, and a figure."""
    from rich.text import Text

    cells = max(4, width - LABEL - FIGURE - 2)
    filled = round(cells * min(max(share, 0.0), 1.0))
    bar = (FILLED * filled, colour), (EMPTY * (cells - filled), "dim")
    return Text.assemble((f" {label:<{LABEL - 1}}", "bold"), *bar, f"  {figure}")
