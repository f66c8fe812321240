"""What a conversation asks of the operating system: to stay awake, memory that is not paged out.

Each request is a wish: where a system does not know it, nothing happens.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import mlx.core as mx

CACHE_BYTES = 256 * 2**20
"""What MLX may keep of freed buffers: without a limit, a five-minute conversation has been seen to take 13 GB."""


@contextlib.contextmanager
def kept_awake() -> Iterator[None]:
    """Keep a Mac from sleeping, by its own `caffeinate`, which ends with this process whatever happens."""
    program = shutil.which("caffeinate") if sys.platform == "darwin" else None
    if program is None:
        yield
        return
    helper = subprocess.Popen([program, "-dims", "-w", str(os.getpid())], stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        helper.terminate()
        helper.wait()


def lid_closed() -> bool:
    """Whether a MacBook is closed, which takes its microphone off; False wherever that cannot be told."""
    program = shutil.which("ioreg")
    if program is None:
        return False
    command = [program, "-r", "-k", "AppleClamshellState", "-d", "1"]
    try:
        told = subprocess.run(command, capture_output=True, timeout=1.0, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return re.search(rb'"AppleClamshellState" = Yes', told) is not None


@contextlib.contextmanager
def steady_memory(needed: int) -> Iterator[None]:
    """Cap MLX's cache and, on Metal, wire the `needed` bytes, so that nothing of the model is paged out."""
    cache = mx.set_cache_limit(CACHE_BYTES)
    wired = None
    if mx.metal.is_available():
        most = int(mx.device_info()["max_recommended_working_set_size"])
        wired = mx.set_wired_limit(min(needed, most))
    try:
        yield
    finally:
        mx.set_cache_limit(cache)
        if wired is not None:
            mx.set_wired_limit(wired)


@contextlib.contextmanager
def collected_by_hand() -> Iterator[None]:
    """Keep Python's garbage collector from stopping a frame: it runs when `gc.collect` is called, and not else."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()
