"""How urgent the calling thread's work is, told to the operating system: a wish, which costs nothing where it is
not heard. Imports nothing heavy: the codec's processes start with it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_USER_INTERACTIVE, _UTILITY = 0x21, 0x11  # QOS_CLASS_… of macOS' <sys/qos.h>


def prefer_fast_cores() -> None:
    """Ask macOS to run the calling thread on performance cores."""
    _set_quality_of_service(_USER_INTERACTIVE)


def give_way() -> None:
    """Let every other thread go before the calling one. On Linux there may be no way back without privileges.

    Idle and not merely nice there: beside a nice thread the kernel lets audio callbacks wait.
    """
    _set_quality_of_service(_UTILITY)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox that forbids it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def _set_quality_of_service(quality: int) -> None:
    if sys.platform == "darwin":
        ctypes.CDLL("/usr/lib/libSystem.dylib").pthread_set_qos_class_self_np(quality, 0)
