"""Tables with columns, and a line that says what is being done: how `bench` is drawn, on a terminal and elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

Row = Sequence[str]


def print_columns(title: str, columns: Row, rows: Sequence[Row], note: str = "") -> None:
    """A table on stdout, words to the left and figures to the right; aligned text where it is no terminal.

    A line break in a column's name saves width on a terminal.
    """
    if not rows:
        return
    if not sys.stdout.isatty():
        _print_plain(title, columns, rows, note)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if _is_figures(rows, i) else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(title, style="bold")
    console.print(table, end="")
    console.print(note, style="dim")
    console.print()


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Give a function that shows what is being done, on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda message: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda message: status.update(message)


def _print_plain(title: str, columns: Row, rows: Sequence[Row], note: str) -> None:
    columns = [column.replace("\n", " ") for column in columns]
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    print(title)
    for row in [columns, *rows]:
        cells = [
            cell.rjust(width) if _is_figures(rows, i) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  " + "  ".join(cells).rstrip())
    if note:
        print(f"  {note}")
    print()


def _is_figures(rows: Sequence[Row], column: int) -> bool:
    return all(row[column][:1].isdigit() or row[column][:1] in "-–±<+" for row in rows if row[column])
