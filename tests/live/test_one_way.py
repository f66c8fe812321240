"""A microphone alone, and a speaker alone: through real PortAudio streams, over JACK's dummy device."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from jack_room import MISSING, JackServer, jack_rooms

from moshi_mlx.live.duplex import Duplex
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

RAMP = np.arange(1, 25 * FRAME_SIZE + 1, dtype=np.float32) / 2**19
"""Each sample is its own number, so that a captured one tells where it belongs."""


def test_a_speaker_alone_plays_every_sample_however_fast_they_come() -> None:
    with jack_rooms("room") as [room], Duplex(output="room", only="output") as duplex:
        assert list(duplex.devices) == ["output"]
        room.play(np.zeros(1))
        began = time.monotonic()
        for frame in RAMP.reshape(-1, FRAME_SIZE):
            duplex.write_frame(frame)
        assert time.monotonic() - began > 0.6  # of 2: it takes a second in advance, and no more
        duplex.drain()
        time.sleep(0.1)
        heard, stats = room.heard(), duplex.stats
    said = heard[np.flatnonzero(heard)[0] :][: len(RAMP)]
    np.testing.assert_array_equal(said, RAMP)
    assert (stats.speaker.discarded_samples, stats.speaker.cut_samples, stats.frames_lost) == (0, 0, 0)


def test_a_microphone_alone_hears_every_sample() -> None:
    tapped: list[np.ndarray] = []
    listening = Duplex("room", only="input", tap=lambda frame: tapped.append(frame.mic))
    with jack_rooms("room") as [room], listening as duplex:
        assert list(duplex.devices) == ["input"]
        room.play(RAMP)
        while not room.finished():
            frame = duplex.read_frame()
            assert frame is not None
            assert not frame.played.any()
        time.sleep(0.2)
    heard = np.concatenate(tapped)
    heard = heard[heard != 0]
    np.testing.assert_array_equal(heard, RAMP[: len(heard)])
    assert len(RAMP) - len(heard) < FRAME_SIZE


def test_one_way_at_another_rate() -> None:
    rate = 48_000
    tone = (0.5 * np.sin(2 * np.pi * 440 / SAMPLE_RATE * np.arange(SAMPLE_RATE))).astype(np.float32)
    tone = tone[: len(tone) // FRAME_SIZE * FRAME_SIZE]
    with jack_rooms("room", rate=rate, period=960) as [room], Duplex(output="room", only="output") as duplex:
        room.play(np.zeros(1))
        for frame in tone.reshape(-1, FRAME_SIZE):
            duplex.write_frame(frame)
        duplex.drain()
        heard = room.heard()
    whole = heard[np.flatnonzero(np.abs(heard) > 0.01)[0] :]
    assert len(whole) / rate == pytest.approx(len(tone) / SAMPLE_RATE, abs=0.05)
    assert np.abs(np.diff(whole[rate // 100 : rate // 2])).max() < 1.1 * 0.5 * 2 * np.pi * 440 / rate


PLAYING = """
    import numpy as np
    from moshi_mlx.live.duplex import Duplex

    with Duplex(only="output") as duplex:
        for number in range(30):
            duplex.write_frame(np.full(1920, 0.1, np.float32))
            while not duplex.notices.empty():
                print("notice", duplex.notices.get(), flush=True)
            print("frame", flush=True)
        duplex.drain()
    print("tapped", duplex.stats.frames_lost, "reopened", duplex.stats.reopened, flush=True)
"""


def test_a_speaker_alone_waits_for_its_device_to_come_back() -> None:
    server = JackServer()
    server.start()
    try:
        command = [sys.executable, "-c", textwrap.dedent(PLAYING)]
        with subprocess.Popen(
            command, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(15)]
            server.stop()
            time.sleep(1.5)
            server.start()
            rest, errors = process.communicate(timeout=30)
    finally:
        server.stop()
    assert process.returncode == 0, errors
    lines += rest.splitlines(keepends=True)
    assert lines.count("frame\n") == 30
    told = [line for line in lines if line.startswith("notice")]
    assert [any(words in line for line in told) for words in ("has gone", "It goes on with system")] == [True, True]
    assert lines[-1] == "tapped 0 reopened 1\n"
