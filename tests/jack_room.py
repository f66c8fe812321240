"""Sound without hardware: a private JACK server on its dummy driver, and a room with microphone and speaker.

PortAudio finds the room as a device of that name. What the room plays into its microphone and what it hears from
its speaker are exact samples on one clock. Needs jackd (`apt-get install jackd2 libportaudio2`) and JACK-Client.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ctypes.util import find_library
from importlib.util import find_spec
from itertools import count
from typing import Any

import numpy as np

MISSING = next(
    (
        reason
        for there, reason in (
            (shutil.which("jackd"), "jackd is not installed (apt-get install jackd2)"),
            (find_library("portaudio"), "PortAudio is not installed (apt-get install libportaudio2)"),
            (find_spec("jack"), "JACK-Client is not installed (pip install JACK-Client)"),
        )
        if not there
    ),
    None,
)
"""Why tests with real streams cannot run here; None when they can."""

START_ATTEMPTS, START_SECONDS = 10, 10.0
AFTER_SECONDS = 60

_numbers = count()


class JackServer:
    """jackd on the dummy driver, as a private server.

    Args:
        rate: samples per second.
        period: samples per callback.
        synchronous: the server waits for its clients, so that a machine that stalls loses no samples.
    """

    def __init__(self, rate: int = 24_000, period: int = 480, synchronous: bool = True) -> None:
        self.name = f"moshi-{os.getpid()}-{next(_numbers)}"
        mode = ["-S"] if synchronous else []
        driver = ["-d", "dummy", "-r", str(rate), "-p", str(period), "-C", "1", "-P", "1"]
        self._command = ["jackd", "--no-realtime", "-n", self.name, *mode, *driver]
        self._process: subprocess.Popen[bytes] | None = None
        self._crashed = False

    def start(self) -> None:
        """Start and wait until clients can connect. Eight servers at once is all that JACK can count: wait for one."""
        for _ in range(START_ATTEMPTS):
            if self._starts():
                return
            self.stop()
            time.sleep(1.0)
        raise RuntimeError(f"jackd did not start: {' '.join(self._command)}")

    def _starts(self) -> bool:
        quiet = subprocess.DEVNULL
        process = self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)
        ask = ["jack_lsp", "-s", self.name]
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            if subprocess.run(ask, env=self.environment, stdout=quiet, stderr=quiet, check=False).returncode == 0:
                return True
            time.sleep(0.05)
        return False

    def stop(self, crash: bool = False) -> None:
        """End it; in a `crash` it tells nobody and leaves its entry among the few servers JACK can count.

        To stop it once more gives that entry back: only a server of the same name can take it over.
        """
        if self._process is None and self._crashed and not crash:
            self._starts()
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL if crash else signal.SIGTERM)
            self._process.wait()
            self._process, self._crashed = None, crash

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find this server and start none of its own."""
        return {**os.environ, "JACK_DEFAULT_SERVER": self.name, "JACK_NO_START_SERVER": "1"}


class Room:
    """A JACK client that plays into a virtual microphone and captures a virtual speaker.

    Make it before PortAudio lists its devices.
    """

    def __init__(self, server: JackServer, name: str = "room") -> None:
        import jack

        self._client: Any = jack.Client(name, servername=server.name, no_start_server=True)
        self._microphone = self._client.outports.register("microphone")
        self._speaker = self._client.inports.register("speaker")
        self._script = np.zeros(0, np.float32)
        self._position = 0
        self._heard = np.zeros(0, np.float32)
        self.xruns: list[float] = []
        """When the server was late, by `time.perf_counter()`."""
        self._client.set_xrun_callback(lambda _late: self.xruns.append(time.perf_counter()))
        self._client.set_process_callback(self._process)
        self._client.activate()

    def _process(self, frames: int) -> None:
        script, position = self._script, self._position
        block = self._microphone.get_array()
        chunk = script[position : position + frames]
        block[: len(chunk)] = chunk
        block[len(chunk) :] = 0.0
        if script.size:
            room = self._heard[position : position + frames]
            room[:] = self._speaker.get_array()[: len(room)]
            self._position = position + frames

    def play(self, samples: np.ndarray) -> None:
        """Play float32 `samples` [n] into the microphone from now on, silence after them.

        What the speaker plays is captured until a minute after their end. Takes its memory at once, so that none
        is seen to grow.
        """
        self._script = np.zeros(0, np.float32)
        self._heard = np.full(len(samples) + AFTER_SECONDS * self._client.samplerate, np.nan, np.float32)
        self._position = 0
        self._script = samples.astype(np.float32)

    def finished(self) -> bool:
        """Whether all of it has been played."""
        return self._position >= len(self._script)

    def heard(self) -> np.ndarray:
        """What the speaker has played since `play`, float32 [n]."""
        return self._heard[: self._position].copy()

    def close(self) -> None:
        """Leave the server."""
        self._client.deactivate()
        self._client.close()


@contextmanager
def jack_rooms(*names: str, rate: int = 24_000, period: int = 480, synchronous: bool = True) -> Iterator[list[Room]]:
    """A server with a room of each name, which PortAudio in this process sees; all are gone afterwards."""
    from moshi_mlx.live import portaudio

    server = JackServer(rate, period, synchronous)
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        stack.enter_context(_environment("JACK_DEFAULT_SERVER", server.name))
        rooms = []
        for name in names:
            rooms.append(Room(server, name))
            stack.callback(rooms[-1].close)
        portaudio.release()
        stack.callback(portaudio.release)  # before the server goes: PortAudio would abort the process
        yield rooms


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
