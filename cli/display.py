"""All that is drawn on a terminal: progress bars and tables. Nothing is drawn where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

MARKS = {"ok": ("✓", "green"), "warning": ("!", "bold yellow"), "problem": ("✗", "bold red")}


def progress(items: Iterable[Item], total: float, title: str) -> Iterator[Item]:
    """Pass the items through, with a bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    yield from track(items, title, total=total, console=Console(stderr=True), transient=True)


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
