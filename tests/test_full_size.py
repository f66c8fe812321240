"""The 7.69 B architecture with random weights: names, shapes and memory as they are at full size.

`pytest -m full_size` makes the checkpoints (28 GB of disk, some minutes); set MOSHI_FULL_SIZE to a folder with
bf16, q8 and q4 in it to use those that are there. On a CPU a frame takes seconds in bf16 and a minute when quantized.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full_size
SCRIPTS = Path(__file__).parent.parent / "scripts"
GIGABYTES = {"bf16": 15.38, "q8": 8.17, "q4": 4.81}


@pytest.fixture(scope="session")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("MOSHI_FULL_SIZE"):
        return Path(given)
    folder = tmp_path_factory.mktemp("full_size")
    subprocess.run([sys.executable, SCRIPTS / "make_checkpoint.py", folder / "bf16"], check=True)
    for recipe in ("q8", "q4"):
        command = [sys.executable, "-m", "moshi_mlx.cli.main", "quantize", folder / "bf16", folder / recipe]
        subprocess.run([*command, "--recipe", recipe], check=True)
    return folder


@pytest.mark.parametrize("precision", GIGABYTES)
def test_peak_memory_is_the_file_and_the_window(full_size: Path, precision: str) -> None:
    command = [sys.executable, SCRIPTS / "measure_memory.py", full_size / precision, "--frames", "1", "--one"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout)
    assert figures["file_gb"] == pytest.approx(GIGABYTES[precision], abs=0.01)
    assert figures["load_peak_gb"] < 1.03 * figures["file_gb"]
    assert figures["over_file_and_window_percent"] < 3
