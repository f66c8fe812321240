"""Which devices the system itself would choose at this moment.

PortAudio knows what it was when the library started, and keeps a stream where it is. On a Mac CoreAudio is asked;
elsewhere the sound server moves the streams itself, and there is nothing to ask.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from moshi_mlx.live.devices import Kind

STEADY_LOOKS = 10
"""Looks that must agree before a change counts: a headset that is put in moves one direction after the other."""

_CORE_AUDIO = "/System/Library/Frameworks/CoreAudio.framework/CoreAudio"
_SYSTEM = 1  # kAudioObjectSystemObject
_SELECTORS: dict[Kind, bytes] = {"input": b"dIn ", "output": b"dOut"}  # kAudioHardwarePropertyDefault…Device
_SCOPE, _ELEMENT = b"glob", 0


class DefaultDevices:
    """Tells once when the system's default devices have become others.

    Args:
        kinds: the directions that follow the system; none where the user named the devices.
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = tuple(kinds)
        self._known = self._seen = self._look()
        self._steady = 0

    def moved(self) -> bool:
        """Whether they are others than at first, and have been the same for `STEADY_LOOKS` calls."""
        seen = self._look()
        self._steady = self._steady + 1 if seen == self._seen else 1
        self._seen = seen
        if seen == self._known or None in seen or self._steady < STEADY_LOOKS:
            return False
        self._known = seen
        return True

    def _look(self) -> tuple[int | None, ...]:
        return tuple(system_default(kind) for kind in self._kinds)


def system_default(kind: Kind) -> int | None:
    """CoreAudio's number of the default microphone or speaker; None where there is none, or nobody to ask."""
    library = _core_audio()
    if library is None:
        return None
    address = _Address(int.from_bytes(_SELECTORS[kind], "big"), int.from_bytes(_SCOPE, "big"), _ELEMENT)
    number, size = ctypes.c_uint32(0), ctypes.c_uint32(ctypes.sizeof(ctypes.c_uint32))
    status = library.AudioObjectGetPropertyData(
        ctypes.c_uint32(_SYSTEM),
        ctypes.byref(address),
        ctypes.c_uint32(0),
        None,
        ctypes.byref(size),
        ctypes.byref(number),
    )
    return number.value or None if status == 0 else None


class _Address(ctypes.Structure):
    """AudioObjectPropertyAddress of <CoreAudio/AudioHardwareBase.h>."""

    _fields_ = (("selector", ctypes.c_uint32), ("scope", ctypes.c_uint32), ("element", ctypes.c_uint32))


@cache
def _core_audio() -> Any:
    if sys.platform != "darwin":
        return None
    try:
        return ctypes.CDLL(_CORE_AUDIO)
    except OSError:
        return None
