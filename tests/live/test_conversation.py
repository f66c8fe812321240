"""The whole conversation through a real PortAudio stream, over JACK's dummy device, with the built-in model.

This machine may stall, and then a conversation loses frames or falls silent for a moment, as it should. So what is
compared are samples and counts, and times only with the times that the stages took in the same conversation.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from jack_room import MISSING
from talk import FRAME, RATE, answers, places, slow_down, speak, stages_of, talk

from moshi_mlx.cli.main import main
from moshi_mlx.live.conversation import Conversation
from moshi_mlx.moshi import Moshi, load

pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="no espeak-ng (apt-get install espeak-ng)"),
]

SEED = 3


@pytest.fixture(scope="module")
def moshi() -> Moshi:
    return load("tiny")


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    speech = speak("Hello Moshi, how are you today? Tell me what you see.", tmp_path_factory.mktemp("speech"))
    return np.pad(speech, (RATE // 5, RATE))


def shifts(at: list[int | None]) -> list[int]:
    """By how much each frame that was found lies after its place in an unbroken stream."""
    return [place - number * FRAME for number, place in enumerate(at) if place is not None]


def run_on_file(samples: np.ndarray, folder: Path) -> np.ndarray:
    """What `moshi-mlx run` answers to these samples, int16 [n]."""
    asked, answered = folder / "asked.wav", folder / "answered.wav"
    soundfile.write(asked, samples, RATE, subtype="FLOAT")
    assert main(["run", "--model", "tiny", "--seed", str(SEED), str(asked), str(answered)]) == 0
    return soundfile.read(answered, dtype="int16")[0]


def as_int16(samples: np.ndarray, folder: Path) -> np.ndarray:
    soundfile.write(folder / "int16.wav", samples, RATE, subtype="PCM_16")
    return soundfile.read(folder / "int16.wav", dtype="int16")[0]


@pytest.mark.parametrize("period", [480, 1920])
def test_speech_is_answered_with_the_samples_that_a_file_gets(
    moshi: Moshi, hello: np.ndarray, tmp_path: Path, period: int
) -> None:
    """At the speaker every frame is bit for bit what the model says to the recording.

    All lie at one shift, but where the speaker starved: there the shift grows by what was missing, the frame fades
    in, and what was added is taken back later. A frame that the machine made us drop is not in the file either.
    """
    take = talk(stages_of(moshi, SEED), moshi, hello, tmp_path, period)
    start = np.flatnonzero(take.mic)[0] - np.flatnonzero(hello)[0]
    recorded = take.mic[max(0, start) :]
    np.testing.assert_array_equal(recorded[: len(hello)], hello[max(0, -start) :][: len(recorded)])
    assert take.counted
    said = answers(moshi, take.frames(), SEED)
    at = places(said, take.heard)
    speaker = take.summary
    unheard = next(number for number, place in enumerate(reversed(at)) if place is not None)
    assert unheard <= 3 + max(event.lag for event in take.events) // 0.08  # still on their way when it ended
    torn = at[: len(at) - unheard].count(None)
    assert torn <= 1 + 3 * speaker["underruns"] + math.ceil(speaker["discarded_samples"] / FRAME)
    steps = np.diff(shifts(at))
    assert np.count_nonzero(steps) <= 2 * speaker["underruns"] + speaker["discarded_samples"]
    if not speaker["underruns"] and not take.missing:
        assert not steps.any()
    from_file = run_on_file(np.concatenate(take.frames()), tmp_path).reshape(-1, FRAME)
    np.testing.assert_array_equal(from_file, as_int16(said.reshape(-1), tmp_path).reshape(-1, FRAME))


def test_overload_drops_what_cannot_wait_and_lag_never_grows(moshi: Moshi, tmp_path: Path) -> None:
    check_overload(moshi, tmp_path, "lm")


@pytest.mark.long
@pytest.mark.parametrize("stage", ["encode", "decode"])
def test_overload_of_the_codec_is_bounded_as_well(moshi: Moshi, tmp_path: Path, stage: str) -> None:
    check_overload(moshi, tmp_path, stage)


def check_overload(moshi: Moshi, folder: Path, stage: str) -> None:
    """A stage takes 100 ms for ten seconds, then what it took before."""
    began, ended = 3.0, 13.0
    stages, now = stages_of(moshi, SEED), [0.0]
    slow_down(stages, stage, lambda: 0.1 if began <= now[0] < ended else 0.0)

    def during(_conversation: Conversation, seconds: float) -> None:
        now[0] = seconds

    noise = np.random.default_rng(0).normal(0, 0.05, 17 * RATE).astype(np.float32)
    take = talk(stages, moshi, noise, folder, during=during)
    # Every frame dropped is counted, and the others were heard and answered as they came, the grid unbroken.
    assert take.counted
    assert take.summary["frames"] == len(take.events)
    slow = [event for event in take.events if event.seconds[stage] >= 0.1]
    came = slow[-1].index - slow[0].index + 1
    assert len(slow) >= 80
    assert came - len(slow) >= 0.15 * came  # of five that come, four can be done
    said = answers(moshi, take.frames(), SEED)
    at = places(said, take.played)
    assert at.count(None) <= len(at) // 4
    # No answer is later than one frame that waits and three times the slowest stage.
    added = np.concatenate([[0.0], take.added()])
    for number, event in enumerate(take.events[2:], 2):
        slowest = max(max(near.seconds.values()) for near in take.events[number - 2 : number + 1])
        assert event.lag <= 0.08 + 3 * slowest + added[number] + 0.005, event
    assert np.median(added) < 0.01
    print(
        f"{len(slow)} slow frames, {len(take.missing)} dropped, lag {max(e.lag for e in slow):.3f} s at most; after it"
    )
    print(" ".join(f"{event.lag:.3f}" for event in take.events if event.index > slow[-1].index)[:200])
    # What is heard is late by that, and by a frame at the speaker.
    for event, place in zip(take.events, at, strict=True):
        if place is not None:
            assert place - event.index * FRAME <= 2 * FRAME + RATE * event.lag + 2 * 480, event
