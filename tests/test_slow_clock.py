"""The clock that lets a machine seem faster (scripts/slow_clock.c): for Python's waits and for another program's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler (cc)"
)

WAITS = """
import queue, select, subprocess, threading, time
waits = {
    "sleep": lambda: time.sleep(0.1),
    "event": lambda: threading.Event().wait(0.1),
    "condition": lambda: (c := threading.Condition()).__enter__() and c.wait(0.1),
    "select": lambda: select.select([], [], [], 0.1),
    "poll": lambda: select.poll().poll(100),
    "program": lambda: subprocess.run(["sleep", "0.1"]),
}
for name, wait in waits.items():
    began = time.perf_counter(), time.time()
    wait()
    print(name, time.perf_counter() - began[0], time.time() - began[1])
"""


def test_every_wait_takes_twice_as_long_and_seems_as_long_as_it_should(tmp_path: Path) -> None:
    library = tmp_path / "slow_clock.so"
    source = Path(__file__).parents[1] / "scripts" / "slow_clock.c"
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    slow = {**os.environ, "LD_PRELOAD": str(library), "SLOW_CLOCK": "0.5"}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", WAITS], env=slow, capture_output=True, text=True, check=True)
    took = time.perf_counter() - began
    seemed = {name: list(map(float, times)) for name, *times in map(str.split, done.stdout.splitlines())}
    assert len(seemed) == 6
    for name, times in seemed.items():
        for seconds in times:
            assert 0.099 <= seconds < 0.19, name
    assert took >= 2 * 6 * 0.1
