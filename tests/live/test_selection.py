from __future__ import annotations

import os
from pathlib import Path

import pytest

from moshi_mlx.errors import DeviceError
from moshi_mlx.live import core_audio, devices
from moshi_mlx.live.devices import Device
from moshi_mlx.live.selection import DEAF, MOVED, STEADY_LOOKS, Selection, Watched

BUILT_IN = ("MacBook Pro Microphone", 1, 0)
SPEAKERS = ("MacBook Pro Speakers", 0, 2)
AIRPODS = ("AirPods Pro", 1, 2)
SCARLETT = ("Scarlett 2i2", 2, 2)


class Mac:
    """The devices that are plugged in, as PortAudio and CoreAudio tell of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plugged = [BUILT_IN, SPEAKERS]
        self.default = {"input": BUILT_IN, "output": SPEAKERS}
        self.bluetooth: bool | None = None
        monkeypatch.setattr(devices, "list_devices", self.listed)
        monkeypatch.setattr(devices.sys, "platform", "darwin")
        monkeypatch.setattr(core_audio, "default_device", lambda kind: hash(self.default[kind]))
        monkeypatch.setattr(core_audio, "devices", lambda: frozenset(map(hash, self.plugged)))
        monkeypatch.setattr(core_audio, "is_bluetooth", lambda _device: self.bluetooth)

    def listed(self) -> list[Device]:
        default_input, default_output = self.default["input"], self.default["output"]
        return [
            Device(number, entry[0], "Core Audio", *entry[1:], 48_000, entry == default_input, entry == default_output)
            for number, entry in enumerate(self.plugged)
        ]


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Mac:
    return Mac(monkeypatch)


def names(selection: Selection, patient: bool = False) -> tuple[str, str]:
    chosen, _ = selection.choose(patient)
    return chosen["input"].name, chosen["output"].name


def settles(selection: Selection) -> str | None:
    """What is said within two seconds."""
    told = [selection.outdated(silent=False) for _ in range(2 * STEADY_LOOKS)]
    return next((sentence for sentence in told if sentence), None)


def test_headphones_that_are_put_in_are_followed_and_the_microphone_is_not_theirs(mac: Mac) -> None:
    selection = Selection({"input": None, "output": None})
    assert names(selection) == (BUILT_IN[0], SPEAKERS[0])
    assert settles(selection) is None
    mac.plugged, mac.default = [BUILT_IN, SPEAKERS, AIRPODS], {"input": AIRPODS, "output": AIRPODS}
    assert settles(selection) == MOVED
    chosen, [reason] = selection.choose(patient=False)
    assert (chosen["input"].name, chosen["output"].name) == (BUILT_IN[0], AIRPODS[0])
    assert "Bluetooth would fall to call quality" in reason
    assert settles(selection) is None


def test_with_the_lid_closed_the_headsets_microphone_is_taken_until_devices_change(
    mac: Mac, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tell_the_lid("Yes", monkeypatch, tmp_path)
    mac.plugged, mac.default = [BUILT_IN, SPEAKERS, AIRPODS], {"input": AIRPODS, "output": AIRPODS}
    selection = Selection({"input": None, "output": None})
    assert names(selection) == (BUILT_IN[0], AIRPODS[0])
    assert selection.outdated(silent=True) == DEAF
    assert names(selection) == (AIRPODS[0], AIRPODS[0])
    assert selection.outdated(silent=True) is None
    mac.default = {"input": BUILT_IN, "output": SPEAKERS}
    assert settles(selection) == MOVED
    assert names(selection) == (BUILT_IN[0], SPEAKERS[0])
    mac.default = {"input": AIRPODS, "output": AIRPODS}
    assert settles(selection) == MOVED
    assert names(selection) == (BUILT_IN[0], AIRPODS[0])


@pytest.mark.parametrize("state", ["No", None])
def test_while_macos_asks_for_permission_the_built_in_microphone_is_kept(
    mac: Mac, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str | None
) -> None:
    tell_the_lid(state, monkeypatch, tmp_path)
    mac.plugged, mac.default = [BUILT_IN, SPEAKERS, AIRPODS], {"input": AIRPODS, "output": AIRPODS}
    selection = Selection({"input": None, "output": None})
    selection.choose(patient=False)
    assert [selection.outdated(silent=True) for _ in range(3 * STEADY_LOOKS)] == [None] * 3 * STEADY_LOOKS


def tell_the_lid(state: str | None, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a program in the place of macOS's ioreg that answers as it does on a MacBook, or on a Mac without a lid."""
    program = folder / "ioreg"
    answer = "" if state is None else f'    "AppleClamshellState" = {state}'
    program.write_text(f"""#!/bin/sh
[ "$*" = "-r -k AppleClamshellState -d 1" ] && echo '{answer}'
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    "name", ["MacBook Air-Mikrofon", "Micro MacBook Pro", "MacBook Proのマイク", "Built-in Microphone"]
)
def test_the_built_in_microphone_is_known_in_every_language(mac: Mac, name: str) -> None:
    mac.plugged, mac.default = [AIRPODS, (name, 1, 0)], {"input": AIRPODS, "output": AIRPODS}
    assert names(Selection({"input": None, "output": None})) == (name, AIRPODS[0])


def test_a_silent_microphone_that_stands_in_for_none_is_kept(mac: Mac) -> None:
    selection = Selection({"input": None, "output": None})
    selection.choose(patient=False)
    assert selection.outdated(silent=True) is None


@pytest.mark.parametrize(("bluetooth", "chosen"), [(False, "Logitech USB Headset"), (True, BUILT_IN[0])])
def test_a_headset_on_a_wire_is_taken(mac: Mac, bluetooth: bool, chosen: str) -> None:
    headset = ("Logitech USB Headset", 1, 2)
    mac.plugged, mac.default = [BUILT_IN, SPEAKERS, headset], {"input": headset, "output": headset}
    mac.bluetooth = bluetooth
    assert names(Selection({"input": None, "output": None}))[0] == chosen


def test_a_named_device_is_waited_for_then_replaced_and_taken_again_when_it_is_back(mac: Mac) -> None:
    mac.plugged.append(SCARLETT)
    selection = Selection({"input": "scarlett", "output": None})
    assert names(selection, patient=True) == (SCARLETT[0], SPEAKERS[0])
    mac.plugged.remove(SCARLETT)
    assert settles(selection) is None  # the stream itself ends
    with pytest.raises(DeviceError, match="There is no microphone 'scarlett'"):
        selection.choose(patient=True)
    assert names(selection) == (BUILT_IN[0], SPEAKERS[0])
    assert settles(selection) is None
    mac.plugged.append(SCARLETT)
    assert settles(selection) == MOVED
    assert names(selection) == (SCARLETT[0], SPEAKERS[0])
    mac.default["input"] = SCARLETT
    assert settles(selection) is None  # as it was named, the system's choice is nothing to it


def test_a_number_means_the_device_that_it_was_given_for(mac: Mac) -> None:
    mac.plugged = [SPEAKERS, SCARLETT, BUILT_IN]
    selection = Selection({"input": 1, "output": "0"})
    assert names(selection, patient=True) == (SCARLETT[0], SPEAKERS[0])
    selection.keep_names()
    mac.plugged = [AIRPODS, BUILT_IN, SCARLETT, SPEAKERS]
    assert names(selection, patient=True) == (SCARLETT[0], SPEAKERS[0])


def test_of_two_devices_with_one_name_the_number_still_tells(mac: Mac) -> None:
    mac.plugged = [SPEAKERS, SCARLETT, SCARLETT]
    selection = Selection({"input": 2, "output": None})
    selection.keep_names()
    assert selection.choose(patient=True)[0]["input"].index == 2


def watch(monkeypatch: pytest.MonkeyPatch, numbers: list[int | None], looks: list[int]) -> list[bool]:
    """What is told of a speaker that has each of these numbers for so many looks."""
    seen = iter([number for number, count in zip(numbers, looks, strict=True) for _ in range(count)])
    monkeypatch.setattr(core_audio, "default_device", lambda _kind: next(seen))
    watched = Watched(["output"])
    return [watched.moved() for _ in range(sum(looks) - 1)]


def test_a_change_is_told_once_when_it_has_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    told = watch(monkeypatch, [5, 6, 5], [3, 3 * STEADY_LOOKS, 3 * STEADY_LOOKS])
    assert sum(told) == 2
    assert told.index(True) == 2 + STEADY_LOOKS - 1


@pytest.mark.parametrize("other", [6, None])
def test_a_change_that_does_not_last_is_none(monkeypatch: pytest.MonkeyPatch, other: int | None) -> None:
    assert not any(watch(monkeypatch, [5, other, 5], [3, STEADY_LOOKS - 1, 3 * STEADY_LOOKS]))


def test_where_there_is_nobody_to_ask_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(watch(monkeypatch, [5, None], [3, 3 * STEADY_LOOKS]))
    assert not Watched(()).moved()
