"""A process of the codec: one rustymimi object between two pipes. Run as a script by process.py.

It computes what it is asked on stdin, answers on stdout, and ends when either is closed and at the latest after the
frame at hand when its parent is gone, however that ended. Imports numpy, rustymimi and nothing else that takes time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from moshi_mlx.errors import first_line
from moshi_mlx.priority import give_way, prefer_fast_cores
from moshi_mlx.rates import FRAME_SIZE

STEP, LISTEN, LISTEN_QUIETLY = b"s", b"l", b"q"
"""What is asked with a frame: its result, or only to hear it; at once, or when others have no need of the processor."""
DONE, FAILED = b"d", b"f"
"""What is answered: the result, or what went wrong as text."""
HEAD = struct.Struct("<cI")
"""Begins every message: what it is, and how many bytes follow."""

_THREADS = "RAYON_NUM_THREADS"
"""How many threads a product of matrices is shared among; rustymimi looks at each."""

Step = Callable[[bytes], bytes]


def main() -> None:
    """Serve until the parent closes the pipe. Arguments: encode or decode, weights, codebooks, max_seq_len."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a whole group may get them; the parent decides what they mean
    answers = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing else may write among the answers
    with contextlib.suppress(BrokenPipeError):
        _serve(answers, *sys.argv[1:])
    os._exit(0)  # without handing back 400 MB piece by piece


def _serve(answers: int, direction: str, path: str, codebooks: str, max_seq_len: str) -> None:
    parent = os.getppid()
    prefer_fast_cores()
    try:
        step = _open(direction, path, int(codebooks), int(max_seq_len))
    except BaseException as error:  # a Rust panic is no Exception
        _send(answers, FAILED, first_line(error).encode())
        return
    _send(answers, DONE, b"")
    pace = _Pace()
    while (request := _receive()) is not None and os.getppid() == parent:  # the end lies behind what is still queued
        kind, frame = request
        try:
            result = pace.quietly(step, frame) if kind == LISTEN_QUIETLY else pace.at_once(step, frame)
        except BaseException as error:
            _send(answers, FAILED, first_line(error).encode())
            return
        _send(answers, DONE, result if kind == STEP else b"")


def _open(direction: str, path: str, codebooks: int, max_seq_len: int) -> Step:
    """Load the weights; return the step from bytes to bytes."""
    import rustymimi

    tokenizer = rustymimi.Tokenizer(
        path,  # pyright: ignore[reportCallIssue]  (the stub knows no constructor)
        num_codebooks=codebooks,
        max_seq_len=max_seq_len,
    )

    def encode(frame: bytes) -> bytes:
        rows = np.frombuffer(frame, np.float32).reshape(-1, 1, FRAME_SIZE)  # of as many streams
        return tokenizer.encode_step(rows).tobytes()

    def decode(frame: bytes) -> bytes:
        return tokenizer.decode_step(np.frombuffer(frame, np.uint32)[None, :, None]).tobytes()

    return encode if direction == "encode" else decode


class _Pace:
    """Runs a step with all that this process may use, or on a single thread that lets others go first.

    Two threads, because a priority once lowered cannot be raised again.
    """

    def __init__(self) -> None:
        self._quiet: ThreadPoolExecutor | None = None
        self._threads = os.environ.get(_THREADS)
        self._began = False

    def at_once(self, step: Step, frame: bytes) -> bytes:
        if self._threads is None:
            os.environ.pop(_THREADS, None)
        else:
            os.environ[_THREADS] = self._threads
        self._began = True
        return step(frame)

    def quietly(self, step: Step, frame: bytes) -> bytes:
        if not self._began:  # rustymimi's first step starts its threads, as many as it shall have later
            return self.at_once(step, frame)
        os.environ[_THREADS] = "1"
        self._quiet = self._quiet or ThreadPoolExecutor(1, initializer=give_way)
        return self._quiet.submit(step, frame).result()


def _receive() -> tuple[bytes, bytes] | None:
    """A request, or None at the end."""
    head = _read(HEAD.size)
    if head is None:
        return None
    kind, size = HEAD.unpack(head)
    content = _read(size)
    return None if content is None else (kind, content)


def _read(size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        piece = os.read(0, size - len(data))
        if not piece:
            return None
        data += piece
    return data


def _send(answers: int, state: bytes, content: bytes) -> None:
    data = HEAD.pack(state, len(content)) + content
    while data:
        data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
