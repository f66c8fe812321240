"""`moshi-mlx doctor`: whether this machine can hold a conversation, and what to do where it cannot.

Each check is a function that returns what was found; printing happens at the end. Loads no model and downloads
none.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moshi_mlx.economy import AS_IT_IS, Economy
from moshi_mlx.errors import DeviceError, MoshiError

from .common import add_model_arguments
from .economy import add_economy_arguments, economy_of

if TYPE_CHECKING:
    from moshi_mlx.bench.machine import Machine
    from moshi_mlx.checkpoint.download import Download
    from moshi_mlx.checkpoint.inspect import Checkpoint
    from moshi_mlx.config import LMConfig
    from moshi_mlx.live.devices import Device

HELP = "check this machine, its sound and the model before a conversation; exits with 1 if there is a problem"
EXAMPLE = "moshi-mlx doctor --model moshiko -q 4"

OLDEST_MACOS = (14,)
PYTHONS = ((3, 10), (3, 13))
LARGE_MODEL = 1_000_000_000
"""Bytes from which a model is too much for a CPU."""
LEAST_DISK = 1_000_000_000
"""An hour of recording takes 690 MB."""

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """What one look has found."""

    name: str
    state: State
    finding: str
    advice: str = ""
    """What to do, in a sentence, where all is not well."""


@dataclass(frozen=True)
class Subject:
    """The model that is asked about."""

    name: str
    config: LMConfig
    bits: int
    """16, 8 or 4, whichever is nearest to what its weights take."""
    nbytes: int
    """Of its weights."""
    needed: int
    """Bytes of memory for a conversation."""
    missing: int
    """Bytes still to be downloaded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `doctor`."""
    add_model_arguments(parser)
    add_economy_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print what was found; returns 1 if anything is a problem, as 2 says that a command itself failed."""
    from moshi_mlx.bench.machine import probe

    from .display import print_checks, status

    with status("looking at this machine"):
        checks = list(examine(args.model, args.bits, probe(), economy_of(args)))
    if args.json:
        print(json.dumps({"checks": [asdict(check) for check in checks], "verdict": verdict(checks)}))
    else:
        print_checks([(check.state, check.name, check.finding, check.advice) for check in checks])
        print(f"\n{verdict(checks)}")
    return int(any(check.state == "problem" for check in checks))


def examine(model: str, bits: int | None, machine: Machine, economy: Economy) -> Iterator[Check]:
    """Every check, in the order in which one would look."""
    yield check_chip(machine)
    yield check_system(machine)
    yield check_python(machine)
    mlx, gpu = check_mlx(machine)
    yield mlx
    if machine.low_power is not None:
        yield check_power(machine.low_power)
    if machine.throttled is not None:
        yield check_heat(machine.throttled)
    yield from check_sound()
    yield check_echo()
    if mlx.state == "problem":
        return  # nothing of a model can be known without it
    from moshi_mlx.speed import measure_bandwidth

    bandwidth = measure_bandwidth()
    found, subject = check_model(model, bits, bandwidth, economy)
    yield found
    if subject is not None:
        yield check_memory(subject)
        yield check_disk(subject)
        yield check_speed(subject, bandwidth, gpu)


def verdict(checks: list[Check]) -> str:
    """All of it in a sentence."""
    problems = sum(check.state == "problem" for check in checks)
    warnings = sum(check.state == "warning" for check in checks)
    if problems:
        return f"{_count(problems, 'problem')} {'stands' if problems == 1 else 'stand'} in the way of a conversation."
    if warnings:
        return f"A conversation is possible; {_count(warnings, 'warning')} above."
    return "All is well: moshi-mlx chat"


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
            "install with a Python for Apple Silicon: uv tool install --python cpython-3.12-macos-aarch64 .",
        )
    (least, most), version = PYTHONS, machine.python[:2]
    if not least <= version <= most:
        return Check(
            "python",
            "warning",
            f"{told}: the codec is made for {_dotted(least)} to {_dotted(most)}",
            "install with another Python: uv tool install --python 3.12 .",
        )
    return Check("python", "ok", told)


def check_mlx(machine: Machine) -> tuple[Check, bool]:
    """The version and what it computes on; also whether that is a GPU."""
    from importlib import metadata

    try:
        import mlx.core as mx
    except ImportError as error:
        return Check("mlx", "problem", f"MLX does not load: {error}", "install moshi-mac again"), False
    gpu = mx.default_device() == mx.Device(mx.gpu)
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
    yield Check("sound", "ok", f"{version}, {_count(len(devices), 'device')}")
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
    from moshi_mlx.live.echo import available

    if available():
        return Check("echo", "ok", "livekit is installed: no headphones needed")
    return Check(
        "echo",
        "warning",
        "livekit is not installed: without headphones Moshi hears itself",
        "pip install 'moshi-mac[aec]', or wear headphones",
    )


def check_model(
    model: str, bits: int | None, bandwidth: float, economy: Economy = AS_IT_IS
) -> tuple[Check, Subject | None]:
    """Whether the model is here, and whole."""
    from moshi_mlx.checkpoint.choice import choose_bits
    from moshi_mlx.checkpoint.hub import SHORT_NAMES, cached_bits, locate
    from moshi_mlx.memory import human_bytes

    if model in SHORT_NAMES:
        bits = bits or choose_bits(bandwidth=lambda: bandwidth, economy=economy).bits
        if bits not in cached_bits(model):
            return _not_here(model, bits, economy)
    refused: list[Download] = []

    def refuse(download: Download) -> bool:
        refused.append(download)
        return False

    try:
        subject = _subject(model, locate(model, bits, ask=refuse), economy)
    except MoshiError as error:
        if not refused:
            return Check("model", "problem", str(error)), None
        size = human_bytes(refused[0].missing_bytes)
        return Check("model", "warning", f"{model} is not here yet ({size})", f"moshi-mlx download {model}"), None
    return Check("model", "ok", f"{subject.name}, {human_bytes(subject.nbytes)}, is here"), subject


def _not_here(model: str, bits: int, economy: Economy) -> tuple[Check, Subject]:
    """What is known of a published model without asking the network."""
    from moshi_mlx.checkpoint.choice import PRECISIONS, memory_needed
    from moshi_mlx.checkpoint.sizes import model_bytes
    from moshi_mlx.config import MOSHI_7B, LMConfig
    from moshi_mlx.memory import human_bytes

    config = economy.of(LMConfig.from_dict(MOSHI_7B))
    size, name = model_bytes(config, bits), f"{model} {PRECISIONS[bits]}"
    check = Check(
        "model",
        "warning",
        f"{name} is not downloaded yet ({human_bytes(size)})",
        f"moshi-mlx download {model} -q {bits}, or let chat do it",
    )
    return check, Subject(name, config, bits, size, memory_needed(config, bits), size)


def _subject(model: str, folder: Path, economy: Economy) -> Subject:
    from moshi_mlx.checkpoint.inspect import inspect
    from moshi_mlx.checkpoint.load import memory_needed

    checkpoint = inspect(folder).run_as(economy)
    name = f"{Path(model).name} {checkpoint.precision}"
    bits = _nearest_bits(checkpoint)
    return Subject(name, checkpoint.config, bits, checkpoint.nbytes, memory_needed(checkpoint), missing=0)


def _nearest_bits(checkpoint: Checkpoint) -> int:
    from moshi_mlx.checkpoint.sizes import STORED_BITS, model_bytes

    return min(STORED_BITS, key=lambda bits: abs(model_bytes(checkpoint.config, bits) - checkpoint.nbytes))


def check_memory(subject: Subject) -> Check:
    """What a conversation needs, against what can be had."""
    from moshi_mlx.memory import available_memory, human_bytes

    there = available_memory()
    told = f"{human_bytes(subject.needed)} needed, {human_bytes(there)} can be had"
    if subject.needed > there:
        return Check("memory", "problem", told, _smaller(subject, "close other programs"))
    return Check("memory", "ok", told)


def check_disk(subject: Subject) -> Check:
    """Room for what is still to be downloaded, and for a recording."""
    from moshi_mlx.checkpoint.download import cache_folder
    from moshi_mlx.memory import free_disk, human_bytes

    free = free_disk(cache_folder())
    told = f"{human_bytes(free)} free in {cache_folder()}"
    if subject.missing > free:
        advice = "make room, or set HF_HOME to a folder on another disk"
        return Check("disk", "problem", f"{told}, and the download takes {human_bytes(subject.missing)}", advice)
    if free - subject.missing < LEAST_DISK:
        return Check("disk", "warning", f"{told}: little is left for recordings", "make room")
    return Check("disk", "ok", told)


def check_speed(subject: Subject, bandwidth: float, gpu: bool) -> Check:
    """Whether a frame will take less than its 80 ms: from memory's measured speed, not from running the model."""
    from moshi_mlx.checkpoint.sizes import frame_bytes
    from moshi_mlx.speed import FRAME_S, predict

    if not gpu and subject.nbytes > LARGE_MODEL:
        return Check(
            "speed",
            "problem",
            f"without a GPU a frame of {subject.name} takes seconds where it may take {1000 * FRAME_S:.0f} ms",
            "use a Mac with Apple Silicon; --model tiny runs anywhere, and makes noise",
        )
    expected = predict(frame_bytes(subject.config, subject.bits), bandwidth)
    likely, frame = 1000 * expected.likely_s, 1000 * FRAME_S
    told = (
        f"about {likely:.0f} of {frame:.0f} ms a frame with {subject.name}, as memory reads {bandwidth / 1e9:.0f} GB/s"
    )
    if expected.keeps_up:
        return Check("speed", "ok", f"{told}: it keeps up")
    if expected.likely_s <= FRAME_S:
        return Check("speed", "warning", f"{told}: just enough", _smaller(subject, "close other programs"))
    return Check(
        "speed",
        "problem",
        f"{told}: it falls behind",
        _smaller(subject, "try --kv-bits 8, and a shorter window with --context 1500"),
    )


def _smaller(subject: Subject, otherwise: str) -> str:
    """Advice to use fewer bits, where there are fewer."""
    return "use -q 4" if subject.bits > 4 else otherwise


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
