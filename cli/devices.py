"""`moshi-mlx devices`: which microphones and speakers there are, and whether a microphone hears anything."""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moshi_mlx.live.devices import Device

HELP = "list microphones and speakers, or test a microphone with a level meter"
EXAMPLE = "moshi-mlx devices --test -i airpods"

METER_WIDTH = 40
FLOOR_DB = -60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --test, -i, --seconds and --json."""
    parser.add_argument("--test", action="store_true", help="show the microphone's level for a few seconds")
    parser.add_argument(
        "-i",
        "--input",
        metavar="DEVICE",
        help="number or part of the name of the microphone to test (default: what chat would take)",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, metavar="S", help="how long to test (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: one list, or one object per level")


def run(args: argparse.Namespace) -> int:
    """List the devices or test one; returns the exit code."""
    from moshi_mlx.live.devices import list_devices

    devices = list_devices()
    if args.test or args.input is not None:
        return _test(args, devices)
    if args.json:
        print(json.dumps([vars(device) for device in devices]))
    elif devices:
        print("\n".join(_table(devices)))
    else:
        print("No microphone and no speaker was found; connect one, then try again.")
    return 0


def _table(devices: Sequence[Device]) -> list[str]:
    """One line per device under a heading, in columns."""
    rows = [("#", "name", "in", "out", "rate", "system", "default for")]
    for device in devices:
        roles = [role for role, so in (("mic", device.default_input), ("speaker", device.default_output)) if so]
        rate = f"{device.rate / 1000:g} kHz"
        counts = (str(device.inputs), str(device.outputs))
        rows.append((str(device.index), device.name, *counts, rate, device.host, ", ".join(roles)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _test(args: argparse.Namespace, devices: Sequence[Device]) -> int:
    from moshi_mlx.errors import DeviceError
    from moshi_mlx.live.devices import choose, default_input, levels
    from moshi_mlx.sound import decibels

    if not args.seconds > 0 or math.isinf(args.seconds):
        raise DeviceError(f"--seconds {args.seconds:g} is no time to listen; give a number above 0.")
    if args.input is None:
        device, reason = default_input(devices)
    else:
        device, reason = choose(args.input, "input", devices), None
    print(f"{device.name}: speak…" + (f"\n{reason}" if reason else ""), file=sys.stderr)
    loudest = 0.0
    for rms, peak in levels(device, args.seconds):
        loudest = max(loudest, peak)
        if args.json:
            print(json.dumps({"rms_db": decibels(rms), "peak_db": decibels(peak)}), flush=True)
        elif sys.stderr.isatty():
            print(f"\r{_meter(rms, peak)}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty() and not args.json:
        print(file=sys.stderr)
    if not args.json:
        print(_verdict(loudest))
    return 0


def _meter(rms: float, peak: float) -> str:
    from moshi_mlx.sound import decibels

    def reach(level: float) -> int:
        db = decibels(level)
        share = 0.0 if db is None else 1 - max(FLOOR_DB, min(db, 0.0)) / FLOOR_DB
        return round(share * METER_WIDTH)

    bar = ("█" * reach(rms)).ljust(METER_WIDTH, "·")
    at = reach(peak)
    if at:
        bar = bar[: at - 1] + "▌" + bar[at:]
    db = decibels(peak)
    return f"{bar} {'silence' if db is None else f'{db:5.1f} dB'}  "


def _verdict(loudest: float) -> str:
    """What the loudest sample says about the microphone."""
    from moshi_mlx.live.devices import SILENT_MICROPHONE
    from moshi_mlx.sound import decibels

    db = decibels(loudest)
    if db is None:
        return SILENT_MICROPHONE
    if db < -40:
        return f"Loudest {db:.1f} dB: very quiet; speak closer or raise the input level."
    if db > -0.5:
        return f"Loudest {db:.1f} dB: it clips; lower the input level."
    return f"Loudest {db:.1f} dB: the microphone works."
