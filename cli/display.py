"""All that is drawn on a terminal: progress bars and tables. Nothing is drawn where stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


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
