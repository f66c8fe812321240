"""What this machine is and how it is doing: chip, system, Python's build, power and heat.

Reading a command's output is a pure function of its text, so that it can be tried anywhere; running the command
happens in `probe` alone. Judges nothing.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Run = Callable[[str], str | None]
"""A command line to its output, or None where there is no such command."""

_TIMEOUT_S = 5


@dataclass(frozen=True)
class Machine:
    """Facts about the machine; None where this system does not tell."""

    chip: str
    system: str
    """Name and version: 'macOS 15.5', 'Linux 6.8.0'."""
    macos: tuple[int, ...] | None
    """The version of macOS."""
    architecture: str
    """What this Python was built for: 'arm64', 'x86_64'."""
    python: tuple[int, int, int]
    rosetta: bool
    """Apple Silicon, and a Python built for Intel."""
    low_power: bool | None
    throttled: bool | None


def _other_system() -> str:
    """Its name and the first two numbers of its release, which tell nothing of whose machine it is."""
    return f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}"


def probe(platform_name: str = sys.platform) -> Machine:
    """Ask the system, in some tens of milliseconds."""
    run: Run = output_of if platform_name == "darwin" else _nothing
    macos = macos_version(run("sw_vers -productVersion"))
    chip = (run("sysctl -n machdep.cpu.brand_string") or "").strip() or _linux_chip() or platform.processor()
    system = f"macOS {'.'.join(map(str, macos))}" if macos else _other_system()
    return Machine(
        chip=chip or "unknown",
        system=system,
        macos=macos,
        architecture=platform.machine(),
        python=sys.version_info[:3],
        rosetta=under_rosetta(
            platform.machine(), run("sysctl -n hw.optional.arm64"), run("sysctl -n sysctl.proc_translated")
        ),
        low_power=low_power_mode(run("pmset -g")),
        throttled=throttled(run("pmset -g therm")),
    )


def output_of(command: str) -> str | None:
    """What a command prints, or None where it is missing, fails, or does not end."""
    program, *arguments = command.split()
    found = shutil.which(program)
    if found is None:
        return None
    try:
        done = subprocess.run([found, *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def macos_version(sw_vers: str | None) -> tuple[int, ...] | None:
    """`sw_vers -productVersion`: '15.5' -> (15, 5)."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)*)\s*", sw_vers or "")
    return tuple(map(int, found[1].split("."))) if found else None


def under_rosetta(architecture: str, arm64: str | None, translated: str | None) -> bool:
    """Whether a Python for Intel runs on Apple Silicon.

    Args:
        architecture: `platform.machine()`.
        arm64: `sysctl -n hw.optional.arm64`: 1 on Apple Silicon; an error on Intel, which does not know it.
        translated: `sysctl -n sysctl.proc_translated`: 1 in a process that Rosetta runs.
    """
    return architecture == "x86_64" and "1" in ((arm64 or "").strip(), (translated or "").strip())


def low_power_mode(pmset: str | None) -> bool | None:
    """`pmset -g`: whether Low Power Mode is on. Macs with a High Power mode call the setting powermode, 1 is low."""
    modes = re.findall(r"^\s*(?:lowpowermode|powermode)\s+(\d+)", pmset or "", re.MULTILINE)
    return "1" in modes if modes else None


def throttled(therm: str | None) -> bool | None:
    """`pmset -g therm`: whether heat holds the machine back now.

    A warning level above 0 on Apple Silicon; on Intel a limit on the processor's speed below 100%. "No … has been
    recorded" is a cool machine. None where the text holds none of these.
    """
    text = therm or ""
    levels = [int(level) for level in re.findall(r"(?:Thermal|Performance) Warning Level\s*=\s*(\d+)", text, re.I)]
    limits = [int(limit) for limit in re.findall(r"CPU_(?:Speed|Scheduler)_Limit\s*=\s*(\d+)", text)]
    if not levels and not limits and "has been recorded" not in text:
        return None
    return any(level > 0 for level in levels) or any(limit < 100 for limit in limits)


def _linux_chip() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _nothing(_: str) -> None:
    return None
