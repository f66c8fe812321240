"""Microphones and speakers: listing them, choosing one by name or number, and which microphone to prefer.

Opens no stream but the level meter's. Speaks to PortAudio through `live/portaudio.py`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from moshi_mlx.errors import DeviceError
from moshi_mlx.live import core_audio
from moshi_mlx.live.portaudio import close_stream, portaudio
from moshi_mlx.live.rings import SampleRing, Wake
from moshi_mlx.rates import FRAME_S
from moshi_mlx.sound import level

Direction = Literal["input", "output"]
KIND_NAMES = {"input": "microphone", "output": "speaker"}

# Names by which headsets on Bluetooth are known, for where CoreAudio does not tell.
HEADSETS = ("airpods", "beats", "bluetooth", "headset", "buds", "hands-free", "wh-1000", "wf-1000", "bose")
HEADPHONES = (
    "headphone", "headset", "airpods", "earpods", "earphone", "earbuds", "buds", "wh-1000", "wf-1000",
    "kopfhörer", "casque", "écouteurs", "auriculares", "cuffie", "fones", "koptelefoon", "hörlurar", "ヘッドフォン",
    "耳机", "耳機", "헤드폰",
)  # fmt: skip
"""Parts of the names of what is worn on the ears, also as macOS translates "External Headphones": nothing of it
reaches the microphone."""
BUILT_IN = ("built-in", "macbook", "imac")
"""Parts of the names of microphones that a Mac has itself."""
CALL_RATE = 24_000  # Bluetooth's call profiles record at 8, 16 or 24 kHz

SILENT_MICROPHONE = (
    "The microphone delivers digital silence: it is muted, the lid over it is closed, or access to it is denied."
    + (
        " Allow it for your terminal in System Settings > Privacy & Security > Microphone, then quit the terminal and "
        "start again."
        if sys.platform == "darwin"
        else ""
    )
)
"""What to tell a user whose microphone delivers zeros and nothing else."""


@dataclass(frozen=True)
class Device:
    """One device as PortAudio lists it."""

    index: int
    name: str
    host: str
    inputs: int
    outputs: int
    rate: int
    default_input: bool
    default_output: bool

    def channels(self, kind: Direction) -> int:
        """How many channels it has in one direction."""
        return self.inputs if kind == "input" else self.outputs

    def is_default(self, kind: Direction) -> bool:
        """Whether the system would choose it."""
        return self.default_input if kind == "input" else self.default_output


def list_devices() -> list[Device]:
    """Every device, as of the last time PortAudio was initialised.

    Raises:
        DeviceError: PortAudio is missing.
    """
    sounddevice = portaudio()
    hosts = [host["name"] for host in sounddevice.query_hostapis()]
    default_input, default_output = sounddevice.default.device
    return [
        Device(
            index=index,
            name=entry["name"],
            host=hosts[entry["hostapi"]],
            inputs=entry["max_input_channels"],
            outputs=entry["max_output_channels"],
            rate=round(entry["default_samplerate"]),
            default_input=index == default_input,
            default_output=index == default_output,
        )
        for index, entry in enumerate(sounddevice.query_devices())
    ]


def choose(wanted: str | int | None, kind: Direction, devices: Sequence[Device] | None = None) -> Device:
    """Find the device that the user means.

    Args:
        wanted: a number from `list_devices`, a name or a part of one in any case, or None for the system's
            default.
        kind: whether it shall record or play.
        devices: what to choose from; by default what PortAudio lists.

    Raises:
        DeviceError: no such device, more than one, or none at all.
    """
    devices = list_devices() if devices is None else devices
    able = [device for device in devices if device.channels(kind) > 0]
    what = KIND_NAMES[kind]
    if not able:
        raise DeviceError(f"No {what} was found; connect one, then try again.")
    if wanted is None:
        return next((device for device in able if device.is_default(kind)), able[0])
    text = str(wanted).strip()
    if text.isdigit():
        found = [device for device in able if device.index == int(text)]
    else:
        found = _by_name(text, kind, able)
    if len(found) == 1:
        return found[0]
    problem = f"{text!r} could be several {what}s" if found else f"There is no {what} {text!r}"
    names = ", ".join(f"{device.index} {device.name!r}" for device in found or able)
    raise DeviceError(f"{problem}; choose by number or full name from: {names}.")


def lasting_name(wanted: str | int | None, kind: Direction) -> str | int | None:
    """What to ask for another time: the name of the device of a number, where only one is called so.

    Raises:
        DeviceError: no such device.
    """
    if not str(wanted).strip().isdigit():
        return wanted
    name = choose(wanted, kind).name
    namesakes = [device for device in list_devices() if device.channels(kind) and device.name == name]
    return name if len(namesakes) == 1 else wanted


def _by_name(text: str, kind: Direction, able: list[Device]) -> list[Device]:
    """Devices called `text`, else those whose names contain it; of one name, the default system's device."""
    lowered = text.lower()
    found = [device for device in able if device.name.lower() == lowered]
    found = found or [device for device in able if lowered in device.name.lower()]
    if len({device.name for device in found}) == 1:
        hosts = {device.host for device in able if device.is_default(kind)}
        found = [device for device in found if device.host in hosts] or found
    return found


def default_input(devices: Sequence[Device] | None = None, platform: str | None = None) -> tuple[Device, str | None]:
    """The microphone to take when the user named none, and why when it is not the system's default.

    A Bluetooth headset that records falls to call quality in both directions, so on a Mac its place is taken
    by the built-in microphone.

    Raises:
        DeviceError: there is no microphone.
    """
    devices = list_devices() if devices is None else devices
    default = choose(None, "input", devices)
    built_in = next((device for device in devices if device.inputs and _is_built_in(device)), None)
    if (platform or sys.platform) != "darwin" or built_in is None or _is_built_in(default) or not _is_headset(default):
        return default, None
    return built_in, (
        f"{built_in.name} is the microphone: with {default.name} recording, Bluetooth would fall to call "
        f"quality in both directions (to use it all the same: -i '{default.name}')."
    )


def is_worn(speaker: Device) -> bool:
    """Whether a speaker's name tells that it is worn on the ears."""
    return any(word in speaker.name.lower() for word in HEADPHONES)


def _is_built_in(device: Device) -> bool:
    name = device.name.lower()  # macOS tells it in the user's language: "MacBook Air-Mikrofon"
    return any(word in name for word in BUILT_IN)


def _is_headset(default: Device) -> bool:
    """Whether the system's default microphone is connected by Bluetooth, by its name and rate where that is unknown."""
    bluetooth = core_audio.is_bluetooth(core_audio.default_device("input"))
    return _sounds_like_headset(default) if bluetooth is None else bluetooth


def _sounds_like_headset(device: Device) -> bool:
    return any(word in device.name.lower() for word in HEADSETS) or device.rate <= CALL_RATE


def levels(device: Device, seconds: float, every: float = FRAME_S) -> Iterator[tuple[float, float]]:
    """Measure a microphone: (RMS, peak) in 0…1 of each `every` seconds, for `seconds` seconds.

    Raises:
        DeviceError: it cannot be opened, or delivers nothing.
    """
    sounddevice = portaudio()
    ring, wake = SampleRing(4 * device.rate), Wake()

    def callback(indata: Any, _frames: int, _time: object, _status: object) -> None:
        ring.write(np.frombuffer(indata, np.float32))
        wake.set()

    try:
        stream = sounddevice.RawInputStream(
            device=device.index, channels=1, dtype="float32", samplerate=device.rate, callback=callback
        )
        stream.start()
    except sounddevice.PortAudioError as error:
        raise cannot_open(device, "input", error) from error
    try:
        block = round(every * device.rate)
        remaining = round(seconds / every)
        heard = time.monotonic()
        while remaining:
            if len(ring) >= block:
                samples = ring.read(block)
                yield level(samples), float(np.abs(samples).max())
                remaining, heard = remaining - 1, time.monotonic()
            elif not wake.wait(0.5) and time.monotonic() - heard > 2.0:
                raise DeviceError(f"{device.name} delivers no sound; see that it is connected.")
    finally:
        close_stream(stream)


def cannot_open(device: Device, kind: Direction, error: Exception) -> DeviceError:
    """The sentence for a device that PortAudio refuses to open."""
    return DeviceError(
        f"The {KIND_NAMES[kind]} {device.name!r} cannot be opened: {error}; "
        "see that no other program holds it, or choose another one (`moshi-mlx devices` lists them)."
    )
