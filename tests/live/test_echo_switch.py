"""Echo cancellation follows the speaker: on where the microphone hears it, off where it is worn on the ears."""

from __future__ import annotations

import numpy as np
import pytest

from moshi_mlx.live.devices import Device
from moshi_mlx.live.echo import EchoCanceller, available
from moshi_mlx.live.echo_switch import EchoSwitch
from moshi_mlx.rates import FRAME_SIZE

pytestmark = pytest.mark.skipif(not available(), reason="livekit is not installed (pip install livekit)")

SPEAKERS = Device(1, "MacBook Pro Speakers", "Core Audio", 0, 2, 48_000, False, True)
AIRPODS = Device(2, "Anna's AirPods", "Core Audio", 0, 2, 48_000, False, False)


def test_it_tells_when_another_speaker_switches_it_and_not_else() -> None:
    echo = EchoSwitch(EchoCanceller())
    assert echo.hear(AIRPODS) is None  # nothing was said before
    assert not echo.on
    told = echo.hear(SPEAKERS)
    assert told is not None
    assert "is on: MacBook Pro Speakers is heard" in told
    assert echo.hear(SPEAKERS) is None
    told = echo.hear(AIRPODS)
    assert told is not None
    assert "is off: Anna's AirPods is worn" in told


def test_what_was_asked_for_stays_on() -> None:
    echo = EchoSwitch(EchoCanceller(), always=True)
    assert [echo.hear(speaker) for speaker in (SPEAKERS, AIRPODS, SPEAKERS)] == [None] * 3
    assert echo.on


def test_off_the_microphone_passes_as_it_is() -> None:
    rng = np.random.default_rng(0)
    frames = [(0.3 * rng.standard_normal((2, FRAME_SIZE))).astype(np.float32) for _ in range(4)]
    echo = EchoSwitch(EchoCanceller())
    echo.hear(AIRPODS)
    assert all(echo.cancel(mic, played) is mic for mic, played in frames)
    assert echo.reduction_db is None
    echo.hear(SPEAKERS)
    assert not any((echo.cancel(mic, played) == mic).all() for mic, played in frames)
