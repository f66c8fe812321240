"""What CoreAudio knows and PortAudio does not tell: the system's devices at this moment, and how one is connected.

Nothing but the numbers that macOS gives to devices; everywhere else, and where CoreAudio does not answer, None.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any, Literal

_LIBRARY = "/System/Library/Frameworks/CoreAudio.framework/CoreAudio"
_SYSTEM = 1  # kAudioObjectSystemObject
_DEFAULTS = {"input": b"dIn ", "output": b"dOut"}  # kAudioHardwarePropertyDefaultInputDevice, …OutputDevice
_DEVICES = b"dev#"  # kAudioHardwarePropertyDevices
_TRANSPORT = b"tran"  # kAudioDevicePropertyTransportType
_BLUETOOTH = (b"blue", b"blea")  # kAudioDeviceTransportTypeBluetooth, …BluetoothLE
_SCOPE, _ELEMENT = b"glob", 0
_MOST_DEVICES = 256


def default_device(kind: Literal["input", "output"]) -> int | None:
    """The number of the default microphone or speaker."""
    found = _ask(_SYSTEM, _DEFAULTS[kind], 1)
    return found[0] or None if found else None


def devices() -> frozenset[int] | None:
    """The numbers of all devices."""
    found = _ask(_SYSTEM, _DEVICES, _MOST_DEVICES)
    return None if found is None else frozenset(found)


def is_bluetooth(device: int | None) -> bool | None:
    """Whether a device is connected by Bluetooth."""
    found = None if device is None else _ask(device, _TRANSPORT, 1)
    return found[0].to_bytes(4, "big") in _BLUETOOTH if found else None


class _Address(ctypes.Structure):
    """AudioObjectPropertyAddress of <CoreAudio/AudioHardwareBase.h>."""

    _fields_ = (("selector", ctypes.c_uint32), ("scope", ctypes.c_uint32), ("element", ctypes.c_uint32))


def _ask(thing: int, selector: bytes, most: int) -> list[int] | None:
    """A property of an object: up to `most` 32-bit numbers."""
    library = _core_audio()
    if library is None:
        return None
    address = _Address(int.from_bytes(selector, "big"), int.from_bytes(_SCOPE, "big"), _ELEMENT)
    numbers = (ctypes.c_uint32 * most)()
    size = ctypes.c_uint32(ctypes.sizeof(numbers))
    where = ctypes.byref(address), ctypes.c_uint32(0), None
    status = library.AudioObjectGetPropertyData(
        ctypes.c_uint32(thing), *where, ctypes.byref(size), ctypes.byref(numbers)
    )
    return list(numbers)[: size.value // ctypes.sizeof(ctypes.c_uint32)] if status == 0 else None


@cache
def _core_audio() -> Any:
    if sys.platform != "darwin":
        return None
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
