from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from jack_room import MISSING, jack_rooms

from moshi_mlx.cli import devices as command
from moshi_mlx.errors import DeviceError
from moshi_mlx.live.devices import Device, choose, default_input, is_worn, levels, list_devices

needs_jack = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def device(index: int, name: str, inputs: int = 0, outputs: int = 0, **more: object) -> Device:
    fields = {"host": "Core Audio", "rate": 48_000, "default_input": False, "default_output": False, **more}
    return Device(index, name, inputs=inputs, outputs=outputs, **fields)  # pyright: ignore[reportArgumentType]


MACBOOK = [
    device(0, "Studio Display Microphone", inputs=1),
    device(1, "Studio Display Speakers", outputs=8),
    device(2, "MacBook Pro Microphone", inputs=1, default_input=True),
    device(3, "MacBook Pro Speakers", outputs=2, default_output=True),
    device(4, "Anna's AirPods Pro", inputs=1, rate=24_000),
    device(5, "Anna's AirPods Pro", outputs=2),
]


@pytest.mark.parametrize(
    ("wanted", "kind", "index"),
    [
        (None, "input", 2),
        (None, "output", 3),
        ("airpods", "input", 4),
        ("AIRPODS", "output", 5),
        (0, "input", 0),
        ("1", "output", 1),
        ("macbook pro microphone", "input", 2),
    ],
)
def test_a_device_is_found_by_number_or_part_of_its_name(wanted: str | int | None, kind: str, index: int) -> None:
    assert choose(wanted, kind, MACBOOK).index == index  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("wanted", "kind", "sentence"),
    [
        ("kitchen", "input", "There is no microphone 'kitchen'; choose by number or full name from: 0 'Studio"),
        ("microphone", "input", "'microphone' could be several microphones; .* 0 'Studio .* 2 'MacBook"),
        (3, "input", "There is no microphone '3'"),
        ("99", "output", "There is no speaker '99'"),
    ],
)
def test_what_is_not_there_or_not_clear_is_said(wanted: str | int, kind: str, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        choose(wanted, kind, MACBOOK)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("name", "worn"),
    [
        ("MacBook Pro Speakers", False),
        ("Studio Display Speakers", False),
        ("Bose SoundLink", False),
        ("Anna's AirPods Pro", True),
        ("External Headphones", True),
        ("Jabra Evolve2 Headset", True),
        ("WH-1000XM5", True),
    ],
)
def test_headphones_are_known_by_name(name: str, worn: bool) -> None:
    assert is_worn(device(3, name, outputs=2)) is worn


def test_a_full_name_wins_over_longer_ones() -> None:
    pair = [device(0, "USB Audio 2", inputs=1), device(1, "USB Audio", inputs=1)]
    assert choose("usb audio", "input", pair).index == 1


def test_of_one_device_under_two_systems_the_default_system_wins() -> None:
    pair = [device(0, "Mic", inputs=1, host="ALSA"), device(1, "Mic", inputs=1, host="JACK", default_input=True)]
    assert choose("mic", "input", pair).index == 1


def test_without_devices_the_user_is_told_to_connect_one() -> None:
    with pytest.raises(DeviceError, match="No speaker was found; connect one"):
        choose(None, "output", [device(0, "Mic", inputs=1)])


def test_airpods_do_not_become_the_microphone_of_a_mac() -> None:
    chosen, reason = default_input(with_default(4), "darwin")
    assert chosen.name == "MacBook Pro Microphone"
    assert reason is not None
    assert "Anna's AirPods Pro" in reason
    assert "-i" in reason


@pytest.mark.parametrize(("default", "platform"), [(0, "darwin"), (2, "darwin"), (4, "linux")])
def test_any_other_default_is_kept(default: int, platform: str) -> None:
    chosen, reason = default_input(with_default(default), platform)
    assert (chosen.index, reason) == (default, None)


def test_airpods_are_taken_where_there_is_no_other_microphone() -> None:
    mac_mini = [device(0, "AirPods Pro", inputs=1, rate=24_000, default_input=True), device(1, "Mac mini", outputs=2)]
    chosen, reason = default_input(mac_mini, "darwin")
    assert (chosen.index, reason) == (0, None)


def with_default(index: int) -> list[Device]:
    return [
        device(
            entry.index, entry.name, entry.inputs, entry.outputs, rate=entry.rate, default_input=entry.index == index
        )
        for entry in MACBOOK
    ]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


@needs_jack
def test_the_command_lists_what_portaudio_sees(capsys: pytest.CaptureFixture[str]) -> None:
    with jack_rooms("kitchen"):
        assert run() == 0
        table = capsys.readouterr().out.splitlines()
        assert run("--json") == 0
        listed = json.loads(capsys.readouterr().out)
        assert [entry["name"] for entry in listed] == [entry.name for entry in list_devices()]
    assert any("kitchen" in line and "24 kHz" in line and "JACK" in line for line in table)
    kitchen = next(entry for entry in listed if entry["name"] == "kitchen")
    assert (kitchen["inputs"], kitchen["outputs"], kitchen["rate"]) == (1, 1, 24_000)
    assert sum(entry["default_input"] for entry in listed) == 1


@needs_jack
def test_the_meter_shows_the_level_of_a_tone() -> None:
    with jack_rooms("kitchen") as [room]:
        room.play(0.5 * np.sin(2 * np.pi * 1000 / 24_000 * np.arange(10 * 24_000)))
        *_, (rms, peak) = levels(choose("kitchen", "input"), 0.8)
    assert rms == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)
    assert peak == pytest.approx(0.5, rel=1e-3)


@needs_jack
def test_a_silent_microphone_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    with jack_rooms("kitchen"):
        assert run("--test", "-i", "kitchen", "--seconds", "0.3") == 0
        assert "digital silence" in capsys.readouterr().out
        assert run("-i", "kitchen", "--seconds", "0.3", "--json") == 0
        objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert objects == [{"rms_db": None, "peak_db": None}] * 4
        with pytest.raises(DeviceError, match="no microphone 'attic'"):
            run("--test", "-i", "attic")


@pytest.mark.parametrize(
    ("loudest", "words"), [(0.0, "digital silence"), (0.001, "very quiet"), (0.3, "works"), (1.0, "clips")]
)
def test_the_verdict_fits_the_loudest_sample(loudest: float, words: str) -> None:
    assert words in command._verdict(loudest)


def test_the_meter_is_as_wide_as_it_says() -> None:
    assert command._meter(1.0, 1.0).count("█") == command.METER_WIDTH - 1
    assert command._meter(0.0, 0.0).startswith("·" * command.METER_WIDTH)
    assert "-20.0 dB" in command._meter(0.05, 0.1)
