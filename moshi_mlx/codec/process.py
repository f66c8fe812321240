"""The parent's side of a codec process: start it, ask it frame by frame, end it.

A call waits without holding Python's lock, and nothing the process prints reaches the terminal. None outlives its
object here, nor this process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import AudioError, CheckpointError, MoshiError
from .child import DONE, HEAD, LISTEN, LISTEN_QUIETLY, STEP

ANSWER_S = 60.0
"""A process that takes longer than this, to load or for a frame, hangs."""
POSITIONS = 2
"""In rustymimi's attention, for each frame."""
SCRIPT = Path(__file__).with_name("child.py")
_READ_BYTES = 2**16

Direction = Literal["encode", "decode"]


@dataclass(frozen=True)
class Task:
    """What a process is to compute."""

    direction: Direction
    path: Path
    codebooks: int
    max_frames: int
    """After how many frames it is relieved; it could serve twice as many."""


class StartError(MoshiError):
    """No process can be started."""


class EndedError(Exception):
    """The process is no more; the text tells how it ended."""


class CodecProcess:
    """A rustymimi object in a process of its own. Made without waiting; for one thread at a time.

    Every failure of a call ends the process: its state, or an answer still under way, would spoil the next one.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self._popen = _start(task)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._requests, self._answers = self._popen.stdin.fileno(), self._popen.stdout.fileno()
        self._readable = select.poll()
        self._readable.register(self._answers, select.POLLIN)
        self._is_open = False
        self._finalizer = weakref.finalize(self, _end, self._popen, os.getpid())
        with _lock:
            _living.add(self)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._popen.pid

    def wait_until_open(self) -> None:
        """Return when the weights are loaded.

        Raises:
            CheckpointError: the file holds none.
            EndedError: the process was killed meanwhile.
        """
        if self._is_open:
            return
        with self._whole():
            state, content = self._receive()
        if state != DONE:
            self.end()
            raise CheckpointError(f"{self.task.path} cannot be loaded as Mimi's weights: {content.decode()}")
        self._is_open = True

    def step(self, frame: bytes) -> bytes:
        """The answer to a frame.

        Raises:
            AudioError: rustymimi refuses it.
            EndedError: the process is no more.
        """
        return self._ask(STEP, frame)

    def listen(self, frame: bytes, quietly: bool = False) -> None:
        """Let it hear a frame, if `quietly` without keeping others from their work; returns when it has.

        Raises:
            AudioError: rustymimi refuses it.
            EndedError: the process is no more.
        """
        self._ask(LISTEN_QUIETLY if quietly else LISTEN, frame)

    def kill(self) -> None:
        """Let it end, and another thread that is with it find out."""
        self._popen.kill()

    def end(self) -> None:
        """End the process and wait until its memory is given back."""
        with _lock:
            _living.discard(self)
        self._finalizer()

    def retire(self) -> None:
        """End the process without waiting."""
        threading.Thread(target=self.end, name="codec-end", daemon=True).start()

    def _ask(self, kind: bytes, frame: bytes) -> bytes:
        self.wait_until_open()
        with self._whole():
            self._send(kind, frame)
            state, content = self._receive()
        if state != DONE:
            self.end()
            raise AudioError(f"the codec failed: {content.decode()}")
        return content

    @contextlib.contextmanager
    def _whole(self) -> Iterator[None]:
        """An exchange is finished or was the last, also when a signal comes between question and answer."""
        if not self._finalizer.alive:
            raise EndedError(self._how_it_ended())
        try:
            yield
        except BaseException:
            self.end()
            raise

    def _send(self, kind: bytes, content: bytes) -> None:
        data = HEAD.pack(kind, len(content)) + content
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except OSError:  # nobody reads it any more, or the program ends and has closed it
            raise EndedError(self._how_it_ended()) from None

    def _receive(self) -> tuple[bytes, bytes]:
        data, size = b"", HEAD.size
        while len(data) < size:
            if not self._readable.poll(1000 * ANSWER_S):
                raise EndedError(f"no answer for {ANSWER_S:.0f} s")
            piece = b""
            with contextlib.suppress(OSError):  # the program ends and has closed it
                piece = os.read(self._answers, _READ_BYTES)
            if not piece:
                raise EndedError(self._how_it_ended())
            data += piece
            if len(data) >= HEAD.size:
                size = HEAD.size + HEAD.unpack_from(data)[1]
        return data[:1], data[HEAD.size :]

    def _how_it_ended(self) -> str:
        code = self._popen.wait()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def living() -> list[CodecProcess]:
    """Every process of the codec."""
    with _lock:
        return list(_living)


_lock = threading.Lock()
_starting = threading.Lock()
"""One start at a time: where pipes are not closed for a child, it could inherit those of another that is starting."""
_living: weakref.WeakSet[CodecProcess] = weakref.WeakSet()


def _start(task: Task) -> subprocess.Popen[bytes]:
    arguments = (task.direction, task.path, task.codebooks, POSITIONS * 2 * task.max_frames)
    try:
        with _starting:
            return subprocess.Popen(
                [sys.executable, str(SCRIPT), *map(str, arguments)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # macOS would copy this process first, with all that the model has mapped, to close what is closed
                # anyway.
                close_fds=sys.platform != "darwin",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(folder or "." for folder in sys.path)},
            )
    except OSError as error:
        raise StartError(
            f"a process of the codec cannot be started ({error.strerror}): is there enough memory, or has moshi-mac "
            "been installed anew?"
        ) from None


def _end(popen: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:  # a fork of the owner ends, and not the owner
        return
    popen.kill()
    popen.wait()
    for pipe in (popen.stdin, popen.stdout):
        if pipe is not None:
            pipe.close()
