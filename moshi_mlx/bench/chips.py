"""Apple's chips and the memory bandwidth that Apple publishes for them, and which of them this machine is.

Where a chip is sold with two bandwidths, its GPU cores or its memory tell which one it has. Measures nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .machine import output_of

_NEWS = "https://www.apple.com/newsroom"


@dataclass(frozen=True)
class Chip:
    """A chip as Apple sells it."""

    name: str
    """Without the maker: 'M3 Max'."""
    bandwidth: float
    """Published bytes per second."""
    source: str
    gpu_cores: int | None = None
    """The most that come with this bandwidth, where the same name is sold with two."""
    memory_gb: int | None = None
    """The same, for a chip whose memory decides."""

    @property
    def label(self) -> str:
        """The name, told apart where it must be: 'M3 Max (30-core GPU)', 'M6 (16 GB)'."""
        if self.memory_gb is not None:
            return f"{self.name} ({self.memory_gb} GB)"
        return self.name if self.gpu_cores is None else f"{self.name} ({self.gpu_cores}-core GPU)"


def _chips(source: str, *chips: tuple[str, float] | tuple[str, float, int]) -> list[Chip]:
    return [Chip(name, gigabytes * 1e9, source, *cores) for name, gigabytes, *cores in chips]


CHIPS: list[Chip] = [
    # Apple gives no figure of its own: 128 bits of LPDDR4X-4266, and the M2's 100 GB/s is "50 percent more".
    *_chips(f"{_NEWS}/2022/06/apple-unveils-m2-with-breakthrough-performance-and-capabilities/", ("M1", 68.25)),
    *_chips(
        f"{_NEWS}/2021/10/introducing-m1-pro-and-m1-max-the-most-powerful-chips-apple-has-ever-built/",
        ("M1 Pro", 200),
        ("M1 Max", 400),
    ),
    *_chips(
        f"{_NEWS}/2022/03/apple-unveils-m1-ultra-the-worlds-most-powerful-chip-for-a-personal-computer/",
        ("M1 Ultra", 800),
    ),
    *_chips(f"{_NEWS}/2022/06/apple-unveils-m2-with-breakthrough-performance-and-capabilities/", ("M2", 100)),
    *_chips(
        f"{_NEWS}/2023/01/apple-unveils-m2-pro-and-m2-max-next-generation-chips-for-next-level-workflows/",
        ("M2 Pro", 200),
        ("M2 Max", 400),
    ),
    *_chips(f"{_NEWS}/2023/06/apple-introduces-m2-ultra/", ("M2 Ultra", 800)),
    *_chips(
        "https://support.apple.com/en-us/117735",  # MacBook Pro (14-inch, M3, Nov 2023)
        ("M3", 100),
    ),
    *_chips(
        "https://support.apple.com/en-us/117736",  # MacBook Pro (14-inch, M3 Pro or M3 Max, Nov 2023)
        ("M3 Pro", 150),
        ("M3 Max", 300, 30),
        ("M3 Max", 400, 40),
    ),
    *_chips(f"{_NEWS}/2025/03/apple-reveals-m3-ultra-taking-apple-silicon-to-a-new-extreme/", ("M3 Ultra", 819)),
    *_chips(f"{_NEWS}/2024/05/apple-introduces-m4-chip/", ("M4", 120)),
    *_chips(
        "https://support.apple.com/en-us/121553",  # MacBook Pro (14-inch, M4 Pro or M4 Max, 2024)
        ("M4 Pro", 273),
        ("M4 Max", 410, 32),
        ("M4 Max", 546, 40),
    ),
    *_chips(f"{_NEWS}/2025/10/apple-unleashes-m5-the-next-big-leap-in-ai-performance-for-apple-silicon/", ("M5", 153)),
    *_chips(
        f"{_NEWS}/2026/03/apple-debuts-m5-pro-and-m5-max-to-supercharge-the-most-demanding-pro-workflows/",
        ("M5 Pro", 307),
    ),
    *_chips(
        "https://www.apple.com/mac-studio/specs/",  # August 2026
        ("M5 Max", 460, 32),
        ("M5 Max", 614, 40),
        ("M5 Ultra", 1200),
    ),
    Chip("M6", 153e9, "https://www.apple.com/mac-mini/specs/", memory_gb=16),
    Chip("M6", 170e9, "https://www.apple.com/mac-mini/specs/", memory_gb=32),
]
"""Oldest and smallest first."""


def find(brand: str, gpu_cores: int | None = None, memory_gb: float | None = None) -> Chip | None:
    """The chip that the system's brand string names.

    Args:
        brand: 'Apple M3 Max', as `machine.probe().chip` has it.
        gpu_cores: decides where the name is sold with two bandwidths; unknown, the smaller is assumed.
        memory_gb: the same.
    """
    found = re.search(r"\bM\d+(?: (?:Pro|Max|Ultra))?\b", brand)
    variants = [chip for chip in CHIPS if found and "Apple" in brand and chip.name == found[0]]
    if not variants:
        return None
    large_enough = [
        chip for chip in variants if _comes_with(chip.gpu_cores, gpu_cores) and _comes_with(chip.memory_gb, memory_gb)
    ]
    return (large_enough or variants[-1:])[0]


def _comes_with(most: int | None, found: float | None) -> bool:
    return most is None or most >= (found or 0)


def probe_gpu_cores() -> int | None:
    """GPU cores of this Mac, asked of the system; None elsewhere."""
    return gpu_cores(output_of("ioreg -rc AGXAccelerator -d 1"))


def gpu_cores(ioreg: str | None) -> int | None:
    """`ioreg -rc AGXAccelerator -d 1`: '"gpu-core-count" = 40' -> 40."""
    found = re.search(r'"gpu-core-count"\s*=\s*(\d+)', ioreg or "")
    return int(found[1]) if found else None
