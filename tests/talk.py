"""A conversation with the built-in model in a room without hardware, for tests and measurements.

What the room heard from the virtual speaker, what was recorded, and what every frame took.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jack_room import Room, jack_rooms

from moshi_mlx.generator import Generator
from moshi_mlx.live.conversation import Conversation, FrameEvent
from moshi_mlx.live.recording import Recording
from moshi_mlx.moshi import Moshi
from moshi_mlx.pipeline import Stages, converse

FRAME = 1920
RATE = 24_000
FADE = 120  # samples of fading where the speaker starved
LOOK_SECONDS = 0.02

During = Callable[[Conversation, float], None]
"""Called every 20 ms with the conversation and the seconds since it began."""


@dataclass
class Take:
    """One conversation as it was heard from outside and as it tells of itself."""

    heard: np.ndarray
    """What the virtual speaker played since the sound began, float32 [n]."""
    summary: dict[str, Any]
    mic: np.ndarray
    """The recording's left channel, float32 [frames * 1920]."""
    played: np.ndarray
    """The recording's right channel."""
    events: list[FrameEvent]
    xruns: list[float] = field(default_factory=list)
    """When the sound server was late, by `time.perf_counter()`."""
    spans: dict[str, dict[int, tuple[float, float]]] = field(default_factory=dict)
    """From the trace: for each stage and microphone frame, when it began and ended."""

    @property
    def answered(self) -> list[int]:
        """The microphone frames that the model was given."""
        return [event.index for event in self.events]

    @property
    def missing(self) -> list[int]:
        """The frames before the last answer that it was not given."""
        return sorted(set(range(self.answered[-1] + 1)) - set(self.answered))

    @property
    def counted(self) -> bool:
        """Whether the count of dropped frames is that of the missing ones, and of some after the last answer."""
        after = len(self.mic) // FRAME - 1 - self.answered[-1]
        return 0 <= self.summary["dropped_total"] - len(self.missing) <= after

    def frames(self) -> list[np.ndarray]:
        """What the model was given, in blocks float32 [1920]."""
        return [self.mic[index * FRAME :][:FRAME] for index in self.answered]

    def added(self) -> np.ndarray:
        """Seconds that the loop added to each answer but the first: between stages, with nothing to wait for.

        A stage begins when its frame is there and the next stage has taken the frame before.
        """
        found = []
        for before, event in zip(self.events, self.events[1:], strict=False):
            (e0, e1), (m0, m1), (d0, _) = (self.spans[stage][event.index] for stage in ("encode", "lm", "decode"))
            _, (taken, _), (spoken, silent) = (self.spans[s][before.index] for s in ("encode", "lm", "decode"))
            found.append((e0 - max(event.time, taken)) + (m0 - max(e1, spoken)) + (d0 - max(m1, silent)))
        return np.array(found)


def speak(text: str, folder: Path) -> np.ndarray:
    """espeak-ng's voice, float32 [n] at 24 kHz."""
    import soxr

    path = folder / "speech.wav"
    subprocess.run(["espeak-ng", "-w", str(path), text], check=True)
    sound, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(sound, rate, RATE)


def stages_of(moshi: Moshi, seed: int = 0) -> Stages:
    """The stages of a conversation with this seed."""
    return Stages.of(moshi, Generator(moshi.lm, seed=seed))


def answers(moshi: Moshi, blocks: list[np.ndarray], seed: int = 0) -> np.ndarray:
    """What the model says to these frames without a clock, float32 [frames, 1920]."""
    return np.stack([reply.said for reply in converse(stages_of(moshi, seed), blocks)])


def places(said: np.ndarray, heard: np.ndarray) -> list[int | None]:
    """Where each frame [1920] of `said` begins in `heard`, bit for bit but for a fade at its beginning."""
    found: list[int | None] = []
    signal, start = heard.astype(np.float32).tobytes(), 0
    for frame in said.astype(np.float32):
        at = signal.find(frame[FADE:].tobytes(), start)
        found.append(None if at < 0 else at // 4 - FADE)
        start = start if at < 0 else at
    return found


def slow_down(stages: Stages, stage: str, total: Callable[[], float]) -> None:
    """Let encode, lm or decode take `total()` seconds at least: it does its work and sleeps for the rest."""
    owner, name = {
        "encode": (stages.encoder, "encode"),
        "lm": (stages.generator, "step"),
        "decode": (stages.decoder, "decode"),
    }[stage]
    work = getattr(owner, name)

    def slowly(*items: Any, **named: Any) -> Any:
        end = time.perf_counter() + total()
        result = work(*items, **named)
        time.sleep(max(0.0, end - time.perf_counter()))
        return result

    setattr(owner, name, slowly)


def talk(
    stages: Stages,
    moshi: Moshi,
    sound: np.ndarray,
    folder: Path,
    period: int = 480,
    during: During = lambda conversation, seconds: None,
) -> Take:
    """Play `sound` into the microphone of a conversation from its first moments to the end of the sound."""
    with jack_rooms("room", period=period) as [room]:
        conversation = Conversation(
            moshi, stages, input="room", output="room", block_size=period, recording=Recording(folder)
        )
        with _driven(conversation, room, sound, folder / "events", during):
            summary = conversation.run()
        heard = room.heard()
    record = Path(summary["recording"])
    recorded, _ = soundfile.read(record / "audio.wav", dtype="float32")
    events = [*read_events(folder / "events"), *conversation.events]
    return Take(heard, summary, recorded[:, 0], recorded[:, 1], events, room.xruns, read_trace(record / "trace.json"))


def read_trace(path: Path) -> dict[str, dict[int, tuple[float, float]]]:
    """A recording's trace: for each stage and frame, when it began and ended."""
    spans: dict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for event in json.loads(path.read_text()):
        if event["ph"] == "X":
            start, duration = event["ts"] / 1e6, event["dur"] / 1e6
            spans[event["name"]][event["args"]["frame"]] = start, start + duration
    return spans


def read_events(path: Path) -> Iterator[FrameEvent]:
    """What `_driven` has written down."""
    with path.open("rb") as file:
        while file.peek():
            yield pickle.load(file)


@contextmanager
def _driven(conversation: Conversation, room: Room, sound: np.ndarray, path: Path, during: During) -> Iterator[None]:
    """What happens in the room, in a thread: the conversation has the thread that loaded the model.

    Events go to a file, so that memory tells of the conversation alone.
    """
    faults: list[BaseException] = []

    def drive() -> None:
        try:
            while not conversation.seconds:
                time.sleep(0.002)
            room.play(sound)
            with path.open("wb") as file:
                while not room.finished():
                    time.sleep(LOOK_SECONDS)
                    while len(conversation.events) > 1:
                        pickle.dump(conversation.events.popleft(), file)
                    during(conversation, conversation.seconds)
        except BaseException as fault:  # raised again below
            faults.append(fault)
        finally:
            conversation.stop()

    thread = threading.Thread(target=drive, name="room", daemon=True)
    thread.start()
    yield
    thread.join()
    if faults:
        raise faults[0]
