"""A second load beside the measured one: a process that rewrites 256 MB in MLX without a pause, as fast as it goes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import MoshiError

_LOAD = """
import os
import mlx.core as mx
parent = os.getppid()
array = mx.zeros((2**26,), mx.float32)
mx.eval(array)
print(flush=True)
while os.getppid() == parent:  # it outlives nobody
    array = array + 1
    mx.eval(array)
"""


@contextmanager
def contended(wanted: bool = True) -> Iterator[None]:
    """Keep the load running while the context lasts.

    Raises:
        MoshiError: it does not start.
    """
    if not wanted:
        yield
        return
    load = subprocess.Popen([sys.executable, "-c", _LOAD], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert load.stdout is not None
    try:
        if not load.stdout.readline():
            raise MoshiError("the second load of --contend did not start; measure without it")
        yield
    finally:
        load.kill()
        load.communicate()
