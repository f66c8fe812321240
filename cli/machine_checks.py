"""What `moshi-mlx doctor` looks at before any model: the machine, its system, MLX, and the sound.

Each check is a function that returns what was found. Shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from moshi_mlx.errors import DeviceError

if TYPE_CHECKING:
    from moshi_mlx.bench.machine import Machine
    from moshi_mlx.live.devices import Device

OLDEST_MACOS = (14,)
PYTHONS = ((3, 10), (3, 13))

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """What one look has found."""

    name: str
    state: State
    finding: str
    advice: str = ""
    """What to do, in a sentence, where all is not well."""


def check_chip(machine: Machine) -> Check:
    """MLX's GPU code runs on Apple Silicon."""
    from moshi_mlx.memory import total_memory

    told = f"{machine.chip}, {total_memory() / 2**30:.0f} GB of memory"  # as memory is sold, not as disks are
    if machine.macos and not machine.chip.startswith("Apple") and not machine.rosetta:
        return Check(
            "chip", "problem", f"{told}: Moshi needs the GPU of Apple Silicon", "use a Mac with an M1 or newer"
        )
    return Check("chip", "ok", told)


def check_system(machine: Machine) -> Check:
    """Current MLX needs macOS 14."""
    if machine.macos and machine.macos < OLDEST_MACOS:
        return Check(
            "system",
            "warning",
            f"{machine.system}: current MLX is made for macOS {OLDEST_MACOS[0]} and newer",
            "update macOS in System Settings > General > Software Update",
        )
    return Check("system", "ok", machine.system)


def check_python(machine: Machine) -> Check:
    """A version that all parts are made for, and not one for Intel on Apple Silicon."""
    told = f"Python {'.'.join(map(str, machine.python))}, {machine.architecture}"
    if machine.rosetta:
        return Check(
            "python",
            "problem",
            f"{told}: it is made for Intel and runs under Rosetta, where MLX has no GPU",
            "in moshi-mac's folder, with a Python for Apple Silicon: "
            "uv tool install --python cpython-3.12-macos-aarch64 '.[aec]'",
        )
    (least, most), version = PYTHONS, machine.python[:2]
    if not least <= version <= most:
        return Check(
            "python",
            "warning",
            f"{told}: the codec is made for {_dotted(least)} to {_dotted(most)}",
            "in moshi-mac's folder, with another Python: uv tool install --python 3.12 '.[aec]'",
        )
    return Check("python", "ok", told)


def check_mlx(machine: Machine) -> tuple[Check, bool]:
    """The version and what it computes on; also whether that is a GPU."""
    from importlib import metadata

    try:
        import mlx.core as mx

        from moshi_mlx.model.kernels import on_gpu
    except ImportError as error:
        return Check("mlx", "problem", f"MLX does not load: {error}", "install moshi-mac again"), False
    gpu = on_gpu()
    backend = ("Metal" if mx.metal.is_available() else "CUDA") if gpu else "the CPU"
    told = f"MLX {metadata.version('mlx')} on {backend}"
    if machine.macos and not mx.metal.is_available():
        return Check("mlx", "problem", f"{told}: Metal is not available", "see what the lines above say"), gpu
    return Check("mlx", "ok", told), gpu


def check_power(low: bool) -> Check:
    """Low Power Mode halves what the GPU does."""
    if not low:
        return Check("power", "ok", "Low Power Mode is off")
    return Check(
        "power",
        "warning",
        "Low Power Mode is on, and slows every frame down",
        "turn it off in System Settings > Battery",
    )


def check_heat(throttled: bool) -> Check:
    """Heat slows frames down as well."""
    if not throttled:
        return Check("heat", "ok", "no throttling")
    return Check(
        "heat", "warning", "the machine is hot and holds itself back", "let it cool, and close what keeps it busy"
    )


def check_sound() -> Iterator[Check]:
    """PortAudio, a microphone, a speaker."""
    from moshi_mlx.live.devices import KIND_NAMES, choose, default_input, list_devices
    from moshi_mlx.live.portaudio import portaudio

    try:
        version = portaudio().get_portaudio_version()[1].split(",")[0]
        devices = list_devices()
    except DeviceError as error:
        yield Check("sound", "problem", str(error))
        return
    yield Check("sound", "ok", f"{version}, {count_of(len(devices), 'device')}")
    takes: tuple[tuple[Literal["input", "output"], Callable[[], tuple[Device, str | None]]], ...] = (
        ("input", lambda: default_input(devices)),
        ("output", lambda: (choose(None, "output", devices), None)),
    )
    for kind, take in takes:
        try:
            device, reason = take()
        except DeviceError as error:
            yield Check(KIND_NAMES[kind], "problem", str(error))
            continue
        yield Check(
            KIND_NAMES[kind], "ok", f"{device.name}, {device.rate / 1000:g} kHz" + (f". {reason}" * bool(reason))
        )


def check_echo() -> Check:
    """The canceller is an extra."""
    from moshi_mlx.live.echo import REMEDY, available

    if available():
        return Check("echo", "ok", "livekit is installed: no headphones needed")
    return Check(
        "echo",
        "warning",
        "livekit is not installed: without headphones Moshi hears itself",
        f"{REMEDY}, or wear headphones",
    )


def count_of(number: int, what: str) -> str:
    """1, device -> '1 device'; 2, device -> '2 devices'."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
