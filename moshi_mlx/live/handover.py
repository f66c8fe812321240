"""From one stage's thread to the next: the giver waits until what it gives has been taken, so nothing queues up.

Knows nothing of what it hands over.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Handover(Generic[Item]):
    """One item at a time, from one giving thread to one taking thread, until it is closed."""

    def __init__(self) -> None:
        self._item: Item | None = None
        self._closed = False
        self._changed = threading.Condition()

    def give(self, item: Item) -> None:
        """Offer `item` and wait until it is taken, or nobody will take it any more."""
        with self._changed:
            self._item = item
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._item is None or self._closed)

    def take(self, timeout: float | None = None) -> Item | None:
        """Wait for an item; None when none came within `timeout` seconds, or after `close`."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None or self._closed, timeout)
            item, self._item = self._item, None
            self._changed.notify_all()
        return None if self._closed else item

    def close(self) -> None:
        """Release whoever waits, now and later. Not from a signal handler: its own thread may hold the lock."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
