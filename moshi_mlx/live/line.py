"""The open audio line: the PortAudio streams, their callbacks, and the rings behind them.

One duplex stream where microphone and speaker are one device, else a stream for each, or for the only one:
PortAudio would join the two by dropping and repeating samples as their clocks drift. The callbacks copy between
preallocated rings and do nothing else. A line is made anew whenever devices change; `duplex.py` decides when.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from moshi_mlx.live.devices import Device, Direction, cannot_open
from moshi_mlx.live.drift import Beside
from moshi_mlx.live.portaudio import close_stream, portaudio, release
from moshi_mlx.live.resample import resampler
from moshi_mlx.live.rings import SampleRing, Wake
from moshi_mlx.live.speaker import Speaker, SpeakerStats
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

RING_SECONDS = 4  # what may wait while the thread that cuts frames is held up


@dataclass
class LineStats:
    """What PortAudio reported and what the callbacks did.

    `input_overflows` and `output_underflows`: callbacks that came too late for the device, so that what it had
    recorded was lost, or it had nothing to play. `overrun_samples` were lost because nobody cut frames for seconds.
    `drift_ppm`: the speaker's clock against the microphone's, for which `drift_samples` were corrected.
    """

    input_overflows: int = 0
    output_underflows: int = 0
    overrun_samples: int = 0
    drift_samples: int = 0
    drift_ppm: float = 0.0


@dataclass(frozen=True)
class Captured:
    """One frame as the room heard it.

    `mic` and `played` are float32 [1920] at 24 kHz: what the microphone delivered, and what went to the
    speaker in the same callbacks. `time` is `time.perf_counter()` when the last sample arrived; `index`
    counts frames of the conversation, those included that were dropped later.
    """

    mic: np.ndarray
    played: np.ndarray
    time: float
    index: int = 0


class Inlet:
    """A ring that a callback fills at the device's rate, read at 24 kHz."""

    def __init__(self, rate: int) -> None:
        self.capacity = RING_SECONDS * rate
        self.ring = SampleRing(self.capacity)
        self.ready = SampleRing((RING_SECONDS + 1) * SAMPLE_RATE)
        self.stamp = time.perf_counter()  # of the last callback
        self._resampler = resampler(rate, SAMPLE_RATE)

    def has_room(self, count: int) -> bool:
        """Whether `count` more samples fit."""
        return len(self.ring) + count <= self.capacity

    def pull(self) -> None:
        """Bring what has arrived to 24 kHz, into `ready`."""
        samples = self.ring.read(len(self.ring))
        if len(samples):
            self.ready.write(samples if self._resampler is None else self._resampler(samples))


class Line:
    """Streams between one microphone and one speaker, or with one of them alone, running until `close`.

    Args:
        devices: the one that records, the one that plays, or both.
        block_size: samples at 24 kHz that one callback moves.
        stats: where to count.
        speaker_stats: where the speaker counts.
        wake: raised when samples have arrived.

    Raises:
        DeviceError: PortAudio refuses one of them.
    """

    def __init__(
        self,
        devices: Mapping[Direction, Device],
        block_size: int,
        stats: LineStats,
        speaker_stats: SpeakerStats,
        wake: Wake,
    ) -> None:
        self.devices = dict(devices)
        self._rates: dict[Direction, int] = {kind: _rate(device, kind) for kind, device in devices.items()}
        self.duplex = len(devices) == 2 and _are_one(devices["input"], devices["output"], self._rates)
        self.speaker = Speaker(self._rates.get("output", SAMPLE_RATE), not self.duplex, speaker_stats)
        self._stats = stats
        self._wake = wake
        self._block_size = block_size
        self._heard = Inlet(self._rates.get("input", SAMPLE_RATE))
        self._played = Inlet(self._rates.get("output", SAMPLE_RATE))
        self._beside = None if self.duplex else Beside(self._played.ready, lead=block_size)
        self._streams: list[Any] = []
        self._open()

    def _open(self) -> None:
        sounddevice = portaudio()
        if self.duplex:
            plans: list[tuple[Direction, Any, Any]] = [("input", sounddevice.RawStream, self._on_both)]
        else:
            plans = [
                ("output", sounddevice.RawOutputStream, self._on_output),
                ("input", sounddevice.RawInputStream, self._on_input),
            ]
            plans = [plan for plan in plans if plan[0] in self.devices]
        for kind, stream_class, callback in plans:
            device = self.devices[kind]
            try:
                stream = stream_class(
                    device=device.index,
                    channels=1,
                    dtype="float32",
                    samplerate=self._rates[kind],
                    blocksize=round(self._block_size * self._rates[kind] / SAMPLE_RATE),
                    latency="low",
                    callback=callback,
                )
                self._streams.append(stream)
                stream.start()
            except sounddevice.PortAudioError as error:
                if not self.close():
                    release(hung=True)
                raise cannot_open(device, kind, error) from error

    # What runs in PortAudio's thread.

    def _on_both(self, indata: Any, outdata: Any, frames: int, _time: Any, status: Any) -> None:
        out = np.frombuffer(outdata, np.float32)
        self._render(out, status)
        if self._played.has_room(frames) and self._heard.has_room(frames):  # both or none: they stay aligned
            self._played.ring.write(out)
            self._capture(np.frombuffer(indata, np.float32), status)
        else:
            self._stats.overrun_samples += frames * SAMPLE_RATE // self._rates["input"]

    def _on_output(self, outdata: Any, _frames: int, _time: Any, status: Any) -> None:
        out = np.frombuffer(outdata, np.float32)
        self._render(out, status)
        self._played.ring.write(out)

    def _on_input(self, indata: Any, frames: int, _time: Any, status: Any) -> None:
        if self._heard.has_room(frames):
            self._capture(np.frombuffer(indata, np.float32), status)
        else:
            self._stats.overrun_samples += frames * SAMPLE_RATE // self._rates["input"]

    def _render(self, out: np.ndarray, status: Any) -> None:
        self.speaker.render(out)
        self._played.stamp = time.perf_counter()
        if status:
            self._stats.output_underflows += status.output_underflow

    def _capture(self, samples: np.ndarray, status: Any) -> None:
        self._heard.ring.write(samples)
        self._heard.stamp = time.perf_counter()
        if status:
            self._stats.input_overflows += status.input_overflow
        self._wake.set()

    # What runs outside it.

    def frames(self) -> Iterator[Captured]:
        """Cut every frame that is complete."""
        self._heard.pull()
        self._played.pull()
        heard = self._heard.ready
        while len(heard) >= FRAME_SIZE:
            mic = heard.read(FRAME_SIZE)
            arrived = self._heard.stamp - len(heard) / SAMPLE_RATE
            yield Captured(mic, self._read_played(arrived), arrived)

    def _read_played(self, arrived: float) -> np.ndarray:
        """The frame that was played while the microphone's frame, complete at `arrived`, was heard."""
        if "output" not in self.devices:
            return np.zeros(FRAME_SIZE, np.float32)
        if self._beside is None:
            return self._played.ready.read(FRAME_SIZE)
        before = self._beside.corrected
        frame = self._beside.read(arrived - self._played.stamp)
        self._stats.drift_samples += self._beside.corrected - before
        self._stats.drift_ppm = self._beside.ppm
        return frame

    def names(self, joint: str) -> str:
        """What its devices are called; once what is both."""
        return joint.join(dict.fromkeys(device.name for device in self.devices.values()))

    def beats(self) -> tuple[float, ...]:
        """When each direction last ran: a value that stands still tells of a device that has gone."""
        stamps: dict[Direction, float] = {"input": self._heard.stamp, "output": self._played.stamp}
        return tuple(stamps[kind] for kind in self.devices)

    def running(self) -> bool:
        """Whether PortAudio still counts every stream as active."""
        return all(stream.active for stream in self._streams)

    def output_latency(self) -> float:
        """Seconds from a callback to the speaker by PortAudio's own account; 0 if absurd: JACK's can be 2³² samples."""
        told = self._streams[0].latency
        seconds = told[1] if self.duplex else told
        return seconds if 0 <= seconds < 10 else 0.0

    def close(self) -> bool:
        """Stop and close; False when PortAudio hung, see `portaudio.release`."""
        closed = [close_stream(stream) for stream in self._streams]
        return all(closed)


def _are_one(microphone: Device, speaker: Device, rates: Mapping[Direction, int]) -> bool:
    return microphone.index == speaker.index and rates["input"] == rates["output"]


def _rate(device: Device, kind: Direction) -> int:
    """24 kHz where the device takes it, else its own rate."""
    sounddevice = portaudio()
    check = sounddevice.check_input_settings if kind == "input" else sounddevice.check_output_settings
    try:
        check(device=device.index, channels=1, dtype="float32", samplerate=SAMPLE_RATE)
    except sounddevice.PortAudioError:
        return device.rate
    return SAMPLE_RATE
