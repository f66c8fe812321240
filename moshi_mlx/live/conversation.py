"""The conversation: microphone to encoder to language model to decoder to speaker, without end.

Each stage has a thread of its own, so that a frame costs the slowest stage and not their sum; the language
model's is the one that calls `run`. A stage keeps its frame until the next one takes it, one more waits at the
microphone, and what cannot wait is dropped before it is encoded: an answer is late by one frame and three times
the slowest stage at most. Draws nothing: what happens is told in `events`.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..checkpoint.load import memory_needed
from ..moshi import Moshi
from ..pipeline import Stages
from ..priority import prefer_fast_cores
from ..sound import level
from ..text import TextStream
from .devices import Direction
from .duplex import BLOCK_SIZE, Duplex
from .echo_switch import EchoSwitch
from .handover import Handover
from .line import Captured
from .metrics import Metrics, memory
from .recording import Recording
from .system import collected_by_hand, kept_awake, steady_memory

COLLECT_EVERY = 375
"""Frames (half a minute) between two garbage collections, made when a frame has just been handed on."""
EVENTS_KEPT = 1_000
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class FrameEvent:
    """What one frame was like, for a screen or a log. Levels are RMS in 0…1, times in seconds."""

    index: int
    """Frames that the microphone has delivered, dropped ones included."""
    time: float
    """Since the conversation began."""
    token: int
    text: str
    """What the token adds to Moshi's words, ready to print."""
    microphone: float
    speaker: float
    seconds: dict[str, float]
    """Time in each stage: encode, lm, decode."""
    lag: float
    """From the frame's last sample at the microphone to Moshi's on the way to the speaker."""


@dataclass(frozen=True)
class _Heard:
    captured: Captured
    codes: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Said:
    heard: _Heard
    token: int
    codes: np.ndarray | None


class Conversation:
    """One conversation through the sound devices.

    Args:
        moshi: the model.
        stages: made of it by `Stages.of`.
        input: microphone, by number or name; None is the system's.
        output: speaker.
        block_size: samples per audio callback.
        echo: takes Moshi's voice out of the microphone.
        recording: keeps both sides.
        only: "input" for a model that listens: no speaker is opened.

    Raises:
        DeviceError: in `run`, when a device cannot be opened.
    """

    def __init__(
        self,
        moshi: Moshi,
        stages: Stages,
        *,
        input: str | int | None = None,
        output: str | int | None = None,
        block_size: int = BLOCK_SIZE,
        echo: EchoSwitch | None = None,
        recording: Recording | None = None,
        only: Direction | None = None,
    ):
        self.moshi, self.stages = moshi, stages
        self.echo, self.recording = echo, recording
        self.metrics = Metrics()
        self.events: deque[FrameEvent] = deque(maxlen=EVENTS_KEPT)
        """The frames since somebody last looked, oldest first; whoever shows them takes them out."""
        self.muted = False
        self.paused = False
        self.duplex = Duplex(input, output, block_size, tap=self._tap, only=only)
        stages.on_time = self._on_time
        stages.never_wait()
        self._text = TextStream(moshi.text)
        self._heard: Handover[_Heard] = Handover()
        self._said: Handover[_Said] = Handover()
        self._stopped = False  # no Event: a signal handler may not wait for the lock of one
        self._reopened = -1
        self._begin_anew = threading.Event()
        self._fault: BaseException | None = None
        self._took: dict[str, tuple[float, float]] = {}
        self._began = 0.0

    def run(self) -> dict[str, Any]:
        """Converse until `stop`, on the thread that loaded the model; returns `summary()`.

        Raises:
            MoshiError: what a stage ran into; the devices are given back first.
        """
        self.stages.warm_up()
        needed = memory_needed(self.moshi.checkpoint, self.stages.generator.guidance.rows(1))
        record, steady = self.recording or nullcontext(), steady_memory(needed)
        with record, steady, collected_by_hand(), kept_awake(), self.duplex:
            self._began = time.perf_counter()
            threads = [self._start(self._listen, "encoder"), self._start(self._speak, "decoder")]
            try:
                self._think()
            finally:
                self._end()
                for thread in threads:
                    thread.join()
        if self._fault is not None:
            raise self._fault
        return self.summary()

    def stop(self) -> None:
        """End the conversation; may be called from any thread, and from a signal handler."""
        self._stopped = True

    def begin_anew(self) -> None:
        """Forget what was said: the next frame is the first of a new conversation."""
        self._begin_anew.set()

    @property
    def seconds(self) -> float:
        """How long the conversation has lasted."""
        return time.perf_counter() - self._began if self._began else 0.0

    def summary(self) -> dict[str, Any]:
        """All figures so far, ready for JSON."""
        stats = self.duplex.stats
        return {
            "stages": self.metrics.summary(),
            "memory": memory(),
            "seconds": round(self.seconds, 3),
            "frames": stats.frames_out,
            "dropped": {"the model was busy": stats.frames_dropped, "no device was open": stats.frames_lost},
            "dropped_total": stats.frames_dropped + stats.frames_lost,
            "underruns": stats.speaker.underruns,
            "discarded_samples": stats.speaker.discarded_samples,
            "devices_reopened": stats.reopened,
            "codec_restarts": self.stages.codec_restarts,
            "sound": self.duplex.stats.sound(),
            "echo_reduction_db": None if self.echo is None else self.echo.reduction_db,
            "recording": None if self.recording is None else str(self.recording.path),
            "recording_lost": None if self.recording is None else self.recording.lost(),
        }

    # The threads.

    def _listen(self) -> None:
        prefer_fast_cores()
        while not self._stopped:
            captured = self.duplex.read_frame(LOOK_SECONDS)
            if self.paused:
                self.duplex.rest()
            if captured is None or self.paused:
                continue
            codes = self.stages.encode(captured.mic)
            seconds = {"encode": self._span("encode", captured)}
            self._heard.give(_Heard(captured, codes, seconds))

    def _think(self) -> None:
        frames = 0
        while not self._stopped:
            heard = self._heard.take(LOOK_SECONDS)
            if heard is None:
                continue
            if self._begin_anew.is_set():
                self._begin_anew.clear()
                self.stages.begin_anew()
            token, codes = self.stages.think(heard.codes)
            heard.seconds["lm"] = self._span("lm", heard.captured)
            self._said.give(_Said(heard, token, codes))
            frames += 1
            if frames % COLLECT_EVERY == 0:
                gc.collect()

    def _speak(self) -> None:
        prefer_fast_cores()
        while (said := self._said.take()) is not None:
            samples = self.stages.decode(said.codes)
            self.duplex.write_frame(samples)
            captured, seconds = said.heard.captured, said.heard.seconds
            lag = time.perf_counter() - captured.time
            if said.codes is not None:
                seconds["decode"] = self._span("decode", captured)
            self.metrics.time("answer", lag)
            self._tell(said, samples, lag)

    def _tell(self, said: _Said, samples: np.ndarray, lag: float) -> None:
        captured = said.heard.captured
        text = self._text.push(said.token)
        when = captured.time - self._began
        if self.recording is not None and text:
            self.recording.piece(when, text)
        levels = level(captured.mic), level(samples)
        self.events.append(FrameEvent(captured.index, when, said.token, text, *levels, said.heard.seconds, lag))

    def _tap(self, captured: Captured) -> np.ndarray:
        """Every frame that was heard, on the audio path's own thread: what the model and the record get of it."""
        mic = captured.mic
        if self.echo is not None:
            self._know_the_speaker(self.echo)
            mic = self.echo.cancel(mic, captured.played)
        if self.muted or self.paused:
            mic = np.zeros_like(mic)
        if self.recording is not None:
            self.recording.write(mic, captured.played)
        return mic

    def _know_the_speaker(self, echo: EchoSwitch) -> None:
        """Tell which speaker was opened, whenever one was."""
        speaker, reopened = self.duplex.devices.get("output"), self.duplex.stats.reopened
        if speaker is not None and reopened != self._reopened:
            self._reopened = reopened
            told = echo.hear(speaker)
            if told is not None:
                self.duplex.notices.put(f"{told[0].upper()}{told[1:]}.")

    def _on_time(self, stage: str, start: float, seconds: float) -> None:
        self.metrics.time(stage, seconds)
        self._took[stage] = start, seconds

    def _span(self, stage: str, captured: Captured) -> float:
        """What the stage just took for this frame; also goes into the trace."""
        start, seconds = self._took[stage]
        if self.recording is not None:
            self.recording.span(stage, start - self._began, seconds, captured.index)
        return seconds

    def _end(self) -> None:
        """Stop, and release a stage that waits for another one."""
        self.stop()
        self._heard.close()
        self._said.close()

    def _start(self, work: Callable[[], None], name: str) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # raised again by `run`
                self._fault = self._fault or error
                self._end()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread
