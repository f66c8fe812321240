"""Full duplex: frames of 1,920 microphone samples out, frames of 1,920 speaker samples in, without end.

One thread cuts frames, lets the tap (echo canceller, recording) see every one, keeps the newest for the
reader, and watches the devices: one that goes away is opened again, or another in its place (selection.py).
Opens a microphone or a speaker alone as well (`only`). Knows no model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from types import TracebackType

import numpy as np

from moshi_mlx.errors import AudioError, DeviceError
from moshi_mlx.live import portaudio
from moshi_mlx.live.devices import Device, Direction
from moshi_mlx.live.line import Captured, Line, LineStats
from moshi_mlx.live.rings import Wake
from moshi_mlx.live.selection import Selection
from moshi_mlx.live.speaker import SpeakerStats
from moshi_mlx.rates import FRAME_S, FRAME_SIZE

BLOCK_SIZE = 480
TICK = 0.1  # seconds between two looks at the devices
DEAD_TICKS = 6  # without a callback: a device has gone. Not seconds: a stall of this process must not count
NEW_TICKS = 30  # the same for a device just opened, and how long it counts as such: a headset changes its profile first
RETRY_SECONDS = 0.5
NAMED_SECONDS = 5.0  # that a named device is waited for: one that slept, or was plugged into the next socket
SILENT_SECONDS = 2.0

Tap = Callable[[Captured], np.ndarray | None]


@dataclass
class DuplexStats:
    """Counters of one conversation; each is written by one thread and may be read by any.

    `frames_in` were read, `frames_out` written, `frames_dropped` heard but discarded before anybody read
    them. `frames_lost` passed while no device was open. `input_silence` is how many seconds of exact zeros
    the microphone has delivered up to now.
    """

    frames_in: int = 0
    frames_out: int = 0
    frames_dropped: int = 0
    frames_lost: int = 0
    reopened: int = 0
    input_silence: float = 0.0
    line: LineStats = field(default_factory=LineStats)
    speaker: SpeakerStats = field(default_factory=SpeakerStats)

    def sound(self) -> dict[str, float]:
        """What corrections and the devices' own faults have come to, ready for JSON; see `LineStats`."""
        return {
            "cut_samples": self.speaker.cut_samples,
            "inserted_samples": self.speaker.inserted_samples,
            **{name: round(value, 1) for name, value in vars(self.line).items()},
        }

    @property
    def silent_microphone(self) -> bool:
        """Only digital zeros for two seconds: on macOS, permission to use the microphone is missing."""
        return self.input_silence >= SILENT_SECONDS


class Duplex:
    """Microphone and speaker as frames, a context manager.

    At most one complete frame waits to be read: when a second one completes, the older is dropped and
    counted, so a slow reader is never more than a frame behind. What is written plays at once, at most a
    frame late.

    With `only="input"` it listens: `read_frame` and the tap as above, silence as what was played. With
    `only="output"` it plays what need not be on time: `write_frame` waits for room instead of dropping anything,
    and for a device that has gone; `drain` waits for the end of what was written.

    Args:
        input: the microphone's number or name; None for the system's default (see `devices.default_input`).
        output: the speaker's.
        block_size: samples per callback at 24 kHz. Smaller blocks bring the answer to the speaker sooner.
        tap: called on a thread of this object with every frame in the order heard, those included that are
            dropped and, as silence, those of the time without a device. What it returns replaces `mic` for
            the reader.
        only: open this direction and not the other.

    Raises:
        DeviceError: on entering, when a device cannot be found or opened.
    """

    def __init__(
        self,
        input: str | int | None = None,
        output: str | int | None = None,
        block_size: int = BLOCK_SIZE,
        tap: Tap | None = None,
        only: Direction | None = None,
    ) -> None:
        self.stats = DuplexStats()
        self.notices: SimpleQueue[str] = SimpleQueue()
        """Sentences for the user as they become true: which microphone and why, a device lost or found."""
        wanted: dict[Direction, str | int | None] = {"input": input, "output": output}
        self._selection = Selection({kind: device for kind, device in wanted.items() if only in (kind, None)})
        self._block_size = block_size
        self._tap = tap
        self._line: Line | None = None
        self._wake = Wake()
        self._news = threading.Condition()
        self._waiting: Captured | None = None
        self._fault: BaseException | None = None
        self._closing = False
        self._frames = 0
        self._silent_since = 0.0  # time.perf_counter() of the last sample before the devices went
        self._bridged = 0  # frames of silence that have taken their place since then
        self._thread = threading.Thread(target=self._run, name="audio-frames", daemon=True)

    def __enter__(self) -> Duplex:
        self._line = self._open(patient=True)
        self._selection.keep_names()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the devices back. What was queued for the speaker is not played."""
        self._closing = True
        self._wake.set()
        with self._news:
            self._news.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2.0)
        line, self._line = self._line, None
        if line is not None:
            portaudio.release(hung=not line.close())
        elif self._thread.is_alive():  # inside PortAudio still, opening another
            portaudio.release(hung=True)

    @property
    def devices(self) -> dict[Direction, Device]:
        """What is open, the microphone first; empty while nothing is."""
        line = self._line
        return {} if line is None else line.devices

    def read_frame(self, timeout: float = 1.0) -> Captured | None:
        """Wait for the next microphone frame; None when none came within `timeout` seconds or after `close`.

        Raises:
            BaseException: whatever the tap raised.
        """
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._fault or self._closing, timeout)
            if self._fault is not None:
                raise self._fault
            frame, self._waiting = self._waiting, None
        if frame is not None:
            self.stats.frames_in += 1
        return frame

    def write_frame(self, frame: np.ndarray) -> None:
        """Send one frame, float32 [1920] at 24 kHz in -1…1, to the speaker, if any. Waits only without a microphone.

        Raises:
            AudioError: the frame has another shape.
        """
        if frame.shape != (FRAME_SIZE,):
            raise AudioError(f"A speaker frame has shape ({FRAME_SIZE},), not {frame.shape}.")
        self.stats.frames_out += 1
        line = self._line
        if "input" not in self._selection:
            self._queue(frame)
        elif "output" in self._selection and line is None:
            self.stats.speaker.discarded_samples += FRAME_SIZE
        elif line is not None and "output" in line.devices:
            line.speaker.write(frame)

    @property
    def queued_seconds(self) -> float:
        """How much of what was written is still to be played; 0 while no device is open."""
        line = self._line
        return 0.0 if line is None else line.speaker.waiting_seconds

    def rest(self) -> None:
        """Nothing is written for a while: that the speaker runs out of sound is no underrun."""
        line = self._line
        if line is not None:
            line.speaker.rest()

    def drain(self) -> None:
        """Wait until the speaker has played all that was written, or can play no more."""
        self.rest()
        while (line := self._line) is not None and line.speaker.waiting:
            line.speaker.wait(TICK)
        if line is not None:
            time.sleep(line.output_latency())

    def _queue(self, frame: np.ndarray) -> None:
        while not self._closing:
            if self._fault is not None:
                raise self._fault
            line = self._line
            if line is None:
                time.sleep(TICK)
            elif line.speaker.queue(frame):
                return
            else:
                line.speaker.wait(TICK)

    # The thread that cuts frames and watches the devices.

    def _run(self) -> None:
        try:
            while not self._closing:
                line = self._line
                if line is None:
                    self._without_line()
                else:
                    self._attend(line)
        except BaseException as error:  # the reader's to handle: this thread has nobody to tell
            with self._news:
                self._fault = error
                self._news.notify_all()

    def _attend(self, line: Line) -> None:
        """Pass frames on until the line goes dead."""
        beats, dead, ticks, looked = line.beats(), 0, 0, time.monotonic()
        while not self._closing:
            self._wake.wait(TICK)
            for frame in line.frames():
                self._listen(frame.mic)
                self._pass_on(frame)
            if time.monotonic() - looked < TICK:
                continue
            looked, before, beats, ticks = time.monotonic(), beats, line.beats(), ticks + 1
            dead = dead + 1 if any(now == then for now, then in zip(beats, before, strict=True)) else 0
            if dead >= (NEW_TICKS if ticks <= NEW_TICKS else DEAD_TICKS) or not line.running():
                self._lose(line, f"{line.names(' or ')} has gone; looking for another device.")
                return
            outdated = self._selection.outdated(self.stats.silent_microphone)
            if outdated is not None:
                self._lose(line, outdated)
                self._reopen(patient=False)
                return

    def _listen(self, mic: np.ndarray) -> None:
        self.stats.input_silence = 0.0 if mic.any() else self.stats.input_silence + FRAME_S

    def _pass_on(self, frame: Captured) -> None:
        frame = self._tapped(frame)
        with self._news:
            self.stats.frames_dropped += self._waiting is not None
            self._waiting = frame
            self._news.notify()

    def _tapped(self, frame: Captured) -> Captured:
        frame = replace(frame, index=self._frames)
        self._frames += 1
        mic = None if self._tap is None else self._tap(frame)
        return frame if mic is None else replace(frame, mic=mic)

    def _lose(self, line: Line, notice: str) -> None:
        self._line, self._silent_since = None, line.beats()[0]  # the microphone's: dead before anybody noticed
        self._bridged = 0
        self.notices.put(notice)
        portaudio.release(hung=not line.close())

    def _without_line(self) -> None:
        """Let the microphone's clock go on in silence until a device can be opened."""
        tried = time.monotonic()
        while not self._closing and self._line is None:
            self._bridge()
            self._wake.wait(TICK)
            if time.monotonic() - tried >= RETRY_SECONDS:
                tried = time.monotonic()
                self._reopen(patient=time.perf_counter() - self._silent_since < NAMED_SECONDS)

    def _bridge(self) -> None:
        """Pass on as much silence as has gone by without a microphone."""
        gone = time.perf_counter() - self._silent_since if "input" in self._selection else 0.0
        while self._bridged < int(gone / FRAME_S):
            silence = np.zeros(FRAME_SIZE, np.float32)
            self._tapped(Captured(silence, silence, time.perf_counter()))
            self._bridged += 1
            self.stats.frames_lost += 1

    def _reopen(self, patient: bool) -> None:
        try:
            portaudio.release()
            line = self._open(patient)
        except DeviceError:
            return  # tried again soon
        self._bridge()
        self.stats.reopened += 1
        self.stats.input_silence = 0.0
        self.notices.put(f"It goes on with {line.names(' and ')}.")
        self._line = line

    def _open(self, patient: bool) -> Line:
        devices, reasons = self._selection.choose(patient)
        line = Line(devices, self._block_size, self.stats.line, self.stats.speaker, self._wake)
        for reason in reasons:
            self.notices.put(reason)
        return line
