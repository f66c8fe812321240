"""Single keys from the terminal, read in a thread without Return; afterwards the terminal is as it was.

Knows nothing of what the keys do.
"""

from __future__ import annotations

import os
import re
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|O.)?")
"""What arrow and function keys send (ECMA-48, section 5.4)."""


def has_keys() -> bool:
    """Whether stdin is a terminal that listens to this process: a job in the background would be stopped by it."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no stdin at all, closed, or a terminal that is not ours
        return False


@contextmanager
def keys(actions: Mapping[str, Callable[[], None]]) -> Iterator[None]:
    """While the context lasts, call `actions[key]` for each such key; does nothing where there are no keys."""
    if not has_keys():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    end, ended = os.pipe()  # the thread waits for either a key or this
    reader = threading.Thread(target=_read, args=(terminal, end, actions), name="keyboard", daemon=True)
    try:
        termios.tcsetattr(terminal, termios.TCSANOW, _one_by_one(terminal))
        reader.start()
        yield
    finally:
        with suppress(termios.error):  # the terminal has been closed
            termios.tcsetattr(terminal, termios.TCSANOW, before)
        os.close(ended)
        if reader.is_alive():
            reader.join(1.0)
        os.close(end)
        with suppress(termios.error):
            termios.tcflush(terminal, termios.TCIFLUSH)


def _one_by_one(terminal: int) -> list[Any]:
    """The terminal's settings without echo and without waiting for Return. Ctrl-C still interrupts.

    Ctrl-Z and Ctrl-Y do nothing: they would leave the screen as it is, and a conversation that stands still is no use.
    """
    settings = termios.tcgetattr(terminal)
    settings[3] &= ~(termios.ECHO | termios.ICANON)
    special = list(settings[6])
    special[termios.VMIN], special[termios.VTIME] = 1, 0
    nothing = bytes([os.fpathconf(terminal, "PC_VDISABLE") & 0xFF])
    for name in ("VSUSP", "VDSUSP"):  # the second is Ctrl-Y, of macOS
        if hasattr(termios, name):
            special[getattr(termios, name)] = nothing
    settings[6] = special
    return settings


def _read(terminal: int, end: int, actions: Mapping[str, Callable[[], None]]) -> None:
    while True:
        ready, _, _ = select.select([terminal, end], [], [])
        if end in ready:
            return
        try:
            pressed = os.read(terminal, 64)
        except OSError:  # the terminal has been closed
            return
        if not pressed:
            return
        for key in ESCAPES.sub("", pressed.decode("utf-8", "ignore")).lower():
            actions.get(key, _nothing)()


def _nothing() -> None:
    pass
