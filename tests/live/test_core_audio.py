from __future__ import annotations

import ctypes
import sys

import pytest

from moshi_mlx.live import core_audio

GET = ctypes.CFUNCTYPE(
    ctypes.c_int32,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.c_uint32,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_void_p,
)
"""AudioObjectGetPropertyData of <CoreAudio/AudioHardware.h>."""


class CoreAudio:
    """Answers as CoreAudio does, and writes down what it was asked."""

    def __init__(self, status: int, numbers: list[int]) -> None:
        self.asked: list[tuple[int, bytes, bytes, int, int, int | None]] = []

        @GET
        def get(thing: int, address: int, qualifiers: int, qualifier: int | None, size: int, out: int) -> int:
            selector, scope, element = (ctypes.c_uint32 * 3).from_address(address)
            names = selector.to_bytes(4, "big"), scope.to_bytes(4, "big")
            self.asked.append((thing, *names, element, qualifiers, qualifier))
            room = ctypes.c_uint32.from_address(size)
            assert room.value >= 4 * len(numbers)
            room.value = 4 * len(numbers)
            (ctypes.c_uint32 * len(numbers)).from_address(out)[:] = numbers
            return status

        self.AudioObjectGetPropertyData = get


def answering(monkeypatch: pytest.MonkeyPatch, status: int, *numbers: int) -> CoreAudio:
    library = CoreAudio(status, list(numbers))
    monkeypatch.setattr(core_audio, "_core_audio", lambda: library)
    return library


@pytest.mark.parametrize(("status", "number", "expected"), [(0, 83, 83), (0, 0, None), (560227702, 83, None)])
def test_the_default_device_is_asked_for_as_the_header_says(
    monkeypatch: pytest.MonkeyPatch, status: int, number: int, expected: int | None
) -> None:
    library = answering(monkeypatch, status, number)
    assert core_audio.default_device("output") == expected
    assert core_audio.default_device("input") == expected
    assert library.asked == [(1, b"dOut", b"glob", 0, 0, None), (1, b"dIn ", b"glob", 0, 0, None)]


def test_all_devices_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    library = answering(monkeypatch, 0, 40, 41, 77)
    assert core_audio.devices() == {40, 41, 77}
    assert library.asked == [(1, b"dev#", b"glob", 0, 0, None)]
    answering(monkeypatch, 1, 40)
    assert core_audio.devices() is None


@pytest.mark.parametrize(("name", "expected"), [(b"blue", True), (b"blea", True), (b"usb ", False), (b"bltn", False)])
def test_how_a_device_is_connected(monkeypatch: pytest.MonkeyPatch, name: bytes, expected: bool) -> None:
    library = answering(monkeypatch, 0, int.from_bytes(name, "big"))
    assert core_audio.is_bluetooth(77) is expected
    assert library.asked == [(77, b"tran", b"glob", 0, 0, None)]
    assert core_audio.is_bluetooth(None) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="here CoreAudio answers")
def test_elsewhere_there_is_nobody_to_ask() -> None:
    assert core_audio.default_device("input") is None
    assert core_audio.devices() is None
    assert core_audio.is_bluetooth(1) is None


@pytest.mark.skipif(sys.platform != "darwin", reason="needs CoreAudio")
def test_core_audio_answers() -> None:
    found = core_audio.devices()
    assert found is not None
    assert core_audio.default_device("output") in {None, *found}
