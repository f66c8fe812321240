from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from moshi_mlx.live import defaults
from moshi_mlx.live.defaults import STEADY_LOOKS, DefaultDevices, system_default

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


@pytest.mark.parametrize(("status", "number", "expected"), [(0, 83, 83), (0, 0, None), (560227702, 83, None)])
def test_core_audio_is_asked_as_its_header_says(
    monkeypatch: pytest.MonkeyPatch, status: int, number: int, expected: int | None
) -> None:
    asked: list[Any] = []

    @GET
    def get(thing: int, address: int, qualifiers: int, qualifier: int | None, size: int, out: int) -> int:
        where = list((ctypes.c_uint32 * 3).from_address(address))
        asked.append((thing, where, qualifiers, qualifier, ctypes.c_uint32.from_address(size).value))
        ctypes.c_uint32.from_address(out).value = number
        return status

    monkeypatch.setattr(defaults, "_core_audio", lambda: SimpleNamespace(AudioObjectGetPropertyData=get))
    assert system_default("output") == expected
    assert system_default("input") == expected
    output, input_, scope = 0x644F7574, 0x64496E20, 0x676C6F62  # 'dOut', 'dIn ', 'glob'
    assert asked == [(1, [output, scope, 0], 0, None, 4), (1, [input_, scope, 0], 0, None, 4)]


def watch(monkeypatch: pytest.MonkeyPatch, numbers: list[int | None], looks: list[int]) -> list[bool]:
    """What is told of a speaker that has each of these numbers for so many looks."""
    seen = iter([number for number, count in zip(numbers, looks, strict=True) for _ in range(count)])
    monkeypatch.setattr(defaults, "system_default", lambda _kind: next(seen))
    devices = DefaultDevices(["output"])
    return [devices.moved() for _ in range(sum(looks) - 1)]


def test_a_change_is_told_once_when_it_has_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    told = watch(monkeypatch, [5, 6, 5], [3, 3 * STEADY_LOOKS, 3 * STEADY_LOOKS])
    assert sum(told) == 2
    assert told.index(True) == 2 + STEADY_LOOKS - 1


@pytest.mark.parametrize("other", [6, None])
def test_a_change_that_does_not_last_is_none(monkeypatch: pytest.MonkeyPatch, other: int | None) -> None:
    assert not any(watch(monkeypatch, [5, other, 5], [3, STEADY_LOOKS - 1, 3 * STEADY_LOOKS]))


def test_where_there_is_nobody_to_ask_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(watch(monkeypatch, [5, None], [3, 3 * STEADY_LOOKS]))
    assert not DefaultDevices([]).moved()
