"""Which of Apple's chips a machine is, and what Apple says of its memory."""

from __future__ import annotations

import pytest

from moshi_mlx.bench.chips import CHIPS, find, gpu_cores

IOREG = """
+-o AGXAcceleratorG15X  <class AGXAcceleratorG15X, id 0x100000424, registered, matched, active>
    {
      "IOClass" = "AGXAcceleratorG15X"
      "gpu-core-count" = 30
      "model" = "Apple M3 Max"
    }
"""


@pytest.mark.parametrize(
    ("brand", "cores", "label", "gigabytes"),
    [
        ("Apple M1", None, "M1", 68.25),
        ("Apple M1 Pro", 14, "M1 Pro", 200),
        ("Apple M2 Ultra", 76, "M2 Ultra", 800),
        ("Apple M3 Max", 30, "M3 Max (30-core GPU)", 300),
        ("Apple M3 Max", 40, "M3 Max (40-core GPU)", 400),
        ("Apple M3 Max", None, "M3 Max (30-core GPU)", 300),
        ("Apple M4 Max", 32, "M4 Max (32-core GPU)", 410),
        ("Apple M4 Max", 40, "M4 Max (40-core GPU)", 546),
        ("Apple M5\n", 10, "M5", 153),
        ("Apple M5 Max", 32, "M5 Max (32-core GPU)", 460),
        ("Apple M5 Ultra", 64, "M5 Ultra", 1200),
        ("Apple M6", 12, "M6 (16 GB)", 153),
    ],
)
def test_a_brand_and_its_gpu_cores_name_a_chip(brand: str, cores: int | None, label: str, gigabytes: float) -> None:
    chip = find(brand, cores)
    assert chip is not None
    assert (chip.label, chip.bandwidth) == (label, gigabytes * 1e9)


@pytest.mark.parametrize(("memory", "gigabytes"), [(None, 153), (16.0, 153), (24.0, 170), (32.0, 170)])
def test_memory_tells_where_a_chip_is_sold_with_two_bandwidths(memory: float | None, gigabytes: float) -> None:
    chip = find("Apple M6", 12, memory)
    assert chip is not None
    assert chip.bandwidth == gigabytes * 1e9


@pytest.mark.parametrize("brand", ["AMD EPYC", "Intel(R) Core(TM) M3 Max", "Apple A17", "Apple M99", "", "unknown"])
def test_what_apple_publishes_nothing_of_is_no_chip(brand: str) -> None:
    assert find(brand) is None


def test_gpu_cores_are_read_from_what_the_system_says() -> None:
    assert gpu_cores(IOREG) == 30
    assert gpu_cores("") is None
    assert gpu_cores(None) is None


def test_every_chip_has_a_source_and_a_name_of_its_own() -> None:
    assert len({chip.label for chip in CHIPS}) == len(CHIPS)
    assert all(chip.source.startswith("https://") and "apple.com" in chip.source for chip in CHIPS)
    assert {chip.name.split()[0] for chip in CHIPS} == {"M1", "M2", "M3", "M4", "M5", "M6"}


def test_a_larger_chip_of_a_generation_is_never_slower() -> None:
    order = ["", "Pro", "Max", "Ultra"]
    for generation in ("M1", "M2", "M3", "M4", "M5", "M6"):
        chips = [chip for chip in CHIPS if chip.name.split()[0] == generation]
        by_rank = sorted(chips, key=lambda chip: order.index(chip.name.partition(" ")[2]))
        assert [chip.bandwidth for chip in by_rank] == sorted(chip.bandwidth for chip in chips)
