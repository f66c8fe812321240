"""What is drawn on a terminal by all: progress bars, text with one below it, tables. Elsewhere it is plain lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress

Item = TypeVar("Item")

MARKS = {"ok": ("✓", "green"), "warning": ("!", "bold yellow"), "problem": ("✗", "bold red")}


def progress(items: Iterable[Item], total: float | None, title: str) -> Iterator[Item]:
    """Pass the items through, with a bar on stderr where that is a terminal; None where nobody knows how many come."""
    if not sys.stderr.isatty():
        yield from items
        return
    with _bar() as bar:
        yield from bar.track(items, total=total, description=title)


class Answering:
    """Text as it comes, with a bar below it where stderr is a terminal.

    On a terminal the text is part of what is drawn, and stands there for good at the end; elsewhere it goes to
    stdout at once.
    """

    def __init__(self, show_text: bool) -> None:
        self._show_text = show_text
        self._drawn = show_text and sys.stdout.isatty() and sys.stderr.isatty()
        self._text = ""

    def progress(self, items: Iterable[Item], total: float | None, title: str) -> Iterator[Item]:
        """Pass the items through, with the bar."""
        if not self._drawn:
            yield from progress(items, total, title)
            return
        try:
            with _bar(lambda: self._text) as bar:
                yield from bar.track(items, total=total, description=title)
        finally:
            print(self._text)

    def say(self, text: str) -> None:
        """Show what was said."""
        self._text += text
        if self._show_text and not self._drawn:
            print(text, end="", flush=True)

    def end(self) -> None:
        """Finish the line, where text went to stdout piece by piece."""
        if self._show_text and not self._drawn and self._text:
            print()


def _bar(text: Callable[[], str] = lambda: "") -> Progress:
    """A progress bar on stderr, with the last lines of `text` above it. It leaves stdout alone."""
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

    class Bar(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            if said := text():
                lines = Text(said).wrap(self.console, self.console.width)
                yield Text("\n").join(lines[-(self.console.height - 2) :])
            yield self.make_tasks_table(self.tasks)

    return Bar(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)


@contextmanager
def steps_bar() -> Iterator[Callable[[str, float, float], None]]:
    """A bar on stderr for the task at hand, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda title, done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("reading", total=None)
        yield lambda title, done, total: shown.update(task, description=title, completed=done, total=total)


@contextmanager
def bytes_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with bytes, speed and time left on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def print_table(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """A table of names and values on stdout; plain lines where it is not a terminal."""
    if not sys.stdout.isatty():
        for name, value in rows:
            print(f"{name}: {value}")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, show_header=False, title_justify="left")
    for name, value in rows:
        table.add_row(name, value)
    Console().print(table)


@contextmanager
def status(message: str) -> Iterator[None]:
    """Say what takes a while, as long as it lasts, on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield


def print_checks(checks: Iterable[tuple[str, str, str, str]]) -> None:
    """Checks on stdout, each as (state, name, finding, advice): marked on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        for state, name, finding, advice in checks:
            print(f"{state:<8} {name}: {finding}" + (f" -> {advice}" if advice else ""))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for state, name, finding, advice in checks:
        mark, colour = MARKS[state]
        text = Text.assemble(finding, *([("\n→ ", colour), advice] if advice else []))
        grid.add_row(Text(f" {mark}", colour), Text(name, "bold"), text)
    Console().print(grid)
