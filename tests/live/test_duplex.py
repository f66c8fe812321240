"""The audio path through a real PortAudio stream, over JACK's dummy device."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

import numpy as np
import pytest
from jack_room import MISSING, JackServer, Room, jack_rooms

from moshi_mlx.errors import AudioError, DeviceError
from moshi_mlx.live import core_audio
from moshi_mlx.live.duplex import Captured, Duplex, DuplexStats
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

BLOCK = 480
ATTEMPTS = 4


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def noise(frames: int) -> np.ndarray:
    return (np.random.default_rng(0).normal(size=frames * FRAME_SIZE) * 0.1).astype(np.float32)


def delay_of(heard: np.ndarray, sent: np.ndarray) -> int:
    """Samples by which `heard` lags `sent`, by their correlation."""
    size = 1 << (len(heard) + len(sent)).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sent, size))
    return int(np.argmax(np.fft.irfft(spectrum, size)[: len(heard)]))


def loop_back(duplex: Duplex, mouth: Room, ear: Room, sound: np.ndarray) -> np.ndarray:
    """Play `sound` into the microphone, send what is read to the speaker, return what the room heard."""
    ear.play(np.zeros(1))
    mouth.play(np.pad(sound, (0, SAMPLE_RATE // 2)))
    while not mouth.finished():
        frame = duplex.read_frame()
        if frame is not None:
            duplex.write_frame(frame.mic)
    return ear.heard()


def undisturbed(stats: DuplexStats) -> bool:
    """Whether this machine stalled for none of it; otherwise the samples cannot be whole."""
    speaker = stats.speaker
    return not (stats.frames_dropped or speaker.underruns or speaker.discarded_samples or speaker.cut_samples)


@pytest.mark.parametrize(("period", "block"), [(1920, 1920), (480, 480), (240, 240), (480, 1920), (512, 480)])
def test_sound_passes_sample_exact_in_both_directions(period: int, block: int) -> None:
    sound = noise(15)
    for _ in range(ATTEMPTS):
        frames: list[Captured] = []
        with jack_rooms("room", period=period) as [room], Duplex("room", "room", block, frames.append) as duplex:
            heard = loop_back(duplex, room, room, sound)
            stats, read = duplex.stats, duplex.stats.frames_in
        if undisturbed(stats):
            break
    else:
        pytest.fail(f"this machine stalled {ATTEMPTS} times: {stats}")
    delay = delay_of(heard, sound)
    np.testing.assert_array_equal(heard[delay : delay + len(sound)], sound)
    assert not heard[:delay].any()
    assert FRAME_SIZE < delay <= FRAME_SIZE + 3 * max(period, block)
    played = np.concatenate([frame.played for frame in frames])
    mic = np.concatenate([frame.mic for frame in frames])
    at = delay_of(mic, sound)
    np.testing.assert_array_equal(mic[at : at + len(sound)], sound)
    back = delay_of(played, sound)
    np.testing.assert_array_equal(played[back : back + len(sound)], sound)
    assert at + FRAME_SIZE <= back <= at + delay
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert len(frames) - read in (0, 1)
    assert stats.frames_out == read


def test_a_reader_that_stalls_is_never_more_than_a_frame_behind() -> None:
    """Each sample is its own number, so a frame tells when it was heard."""
    ramp = np.arange(1, 10 * SAMPLE_RATE, dtype=np.float32) / 2**19
    tapped: list[Captured] = []
    with jack_rooms("room") as [room], Duplex("room", "room", tap=tapped.append) as duplex:
        room.play(ramp)
        read = [duplex.read_frame() for _ in range(5)]
        for _ in range(3):
            time.sleep(0.7)
            read.append(duplex.read_frame(0))
            newest = len(tapped)
            frame = read[-1]
            assert frame is not None
            assert newest - 1 <= frame.index + 1
        stats = duplex.stats
        waiting = len(tapped) - stats.frames_in - stats.frames_dropped
    assert stats.frames_in == 8
    assert stats.frames_dropped >= 3 * 4
    assert waiting in (0, 1)
    mic = np.concatenate([frame.mic for frame in tapped]) * 2**19
    mic = mic[mic > 0]
    np.testing.assert_array_equal(mic, np.arange(1, len(mic) + 1))  # the tap missed nothing
    indices = [frame.index for frame in read if frame is not None]
    assert indices == sorted(set(indices))


def test_the_tap_replaces_the_microphone_for_the_reader() -> None:
    with jack_rooms("room") as [room], Duplex("room", "room", tap=lambda frame: frame.mic * 2) as duplex:
        room.play(np.full(SAMPLE_RATE * 2, 0.25, np.float32))
        wait_until(lambda: (frame := duplex.read_frame()) is not None and (frame.mic == 0.5).all())


def test_a_failing_tap_reaches_the_reader() -> None:
    def fail(_frame: Captured) -> None:
        raise AudioError("the disk is full")

    failing = Duplex("room", "room", tap=fail)
    with jack_rooms("room"), failing, pytest.raises(AudioError, match="the disk is full"):
        failing.read_frame()


def test_a_burst_of_output_plays_its_newest_two_frames_only() -> None:
    with jack_rooms("room") as [room], Duplex("room", "room") as duplex:
        room.play(np.zeros(1))
        duplex.read_frame()
        for number in range(1, 6):
            duplex.write_frame(np.full(FRAME_SIZE, number / 10, np.float32))
        wait_until(lambda: duplex.stats.speaker.underruns > 0)
        time.sleep(0.1)
        heard, discarded = room.heard(), duplex.stats.speaker.discarded_samples
    assert (heard == np.float32(0.5)).sum() - FRAME_SIZE in (0, 1)  # the fade begins at full level
    sounding = int((heard != 0).sum())
    assert sounding <= 2 * FRAME_SIZE + 2 * BLOCK
    assert discarded >= 3 * FRAME_SIZE - BLOCK


@pytest.mark.parametrize(("named", "reopened"), [(None, 1), ("room", 0)])
def test_where_no_device_was_named_the_systems_choice_is_followed(
    monkeypatch: pytest.MonkeyPatch, named: str | None, reopened: int
) -> None:
    """As when a headset is put in while the loudspeakers stay: the stream itself would go on with those."""
    numbers = {"input": 70, "output": 80}
    monkeypatch.setattr(core_audio, "default_device", lambda kind: numbers[kind])
    tapped: list[Captured] = []
    with jack_rooms("room"), Duplex(named, named, tap=tapped.append) as duplex:
        began = time.perf_counter()
        assert duplex.read_frame() is not None
        numbers["output"] = 81
        deadline = time.monotonic() + 2.5
        while time.monotonic() < deadline:
            duplex.read_frame()
        stats, notices = duplex.stats, [duplex.notices.get() for _ in range(duplex.notices.qsize())]
        after = duplex.read_frame()
    assert after is not None
    assert after.index >= 20
    assert stats.reopened == reopened
    assert len(notices) == 2 * reopened
    if reopened:
        assert notices[0] == "The system now uses other sound devices."
        assert notices[1].startswith("It goes on with ")
        assert stats.frames_lost < 13  # a second without a device, at most
        assert len(tapped) * 0.08 == pytest.approx(time.perf_counter() - began, abs=0.3)  # none of it is missing


def test_digital_silence_is_noticed_after_two_seconds_and_forgotten_with_the_first_sound() -> None:
    with jack_rooms("room") as [room], Duplex("room", "room") as duplex:
        frames = 0
        while not duplex.stats.silent_microphone:
            duplex.read_frame()
            frames += 1
            assert frames < 60
        assert frames + duplex.stats.frames_dropped >= 24
        room.play(np.full(20 * SAMPLE_RATE, 1e-6, np.float32))
        wait_until(lambda: not duplex.stats.silent_microphone)


def test_a_device_at_another_rate_is_resampled() -> None:
    rate = 48_000
    tone = (0.5 * np.sin(2 * np.pi * 440 / rate * np.arange(2 * rate))).astype(np.float32)
    for _ in range(ATTEMPTS):
        with jack_rooms("room", rate=rate, period=960) as [room], Duplex("room", "room") as duplex:
            heard = loop_back(duplex, room, room, tone)
            stats = duplex.stats
        if undisturbed(stats):
            break
    else:
        pytest.fail(f"this machine stalled {ATTEMPTS} times: {stats}")
    start = int(np.flatnonzero(np.abs(heard) > 0.1)[0]) + rate // 2
    part = heard[start : start + rate]
    times = np.arange(len(part)) / rate * 2 * np.pi * 440
    basis = np.stack([np.sin(times), np.cos(times)], axis=1)
    weights, *_ = np.linalg.lstsq(basis, part, rcond=None)
    assert np.hypot(*weights) == pytest.approx(0.5, rel=1e-3)
    assert np.abs(part - basis @ weights).max() < 1e-3


def test_microphone_and_speaker_may_be_two_devices() -> None:
    sound = noise(12)  # shorter than the two seconds after which drift is corrected
    for _ in range(ATTEMPTS):
        frames: list[Captured] = []
        with jack_rooms("mouth", "ear") as [mouth, ear], Duplex("mouth", "ear", tap=frames.append) as duplex:
            heard = loop_back(duplex, mouth, ear, sound)
            stats, devices = duplex.stats, duplex.devices
        if undisturbed(stats):
            break
    else:
        pytest.fail(f"this machine stalled {ATTEMPTS} times: {stats}")
    assert {kind: device.name for kind, device in devices.items()} == {"input": "mouth", "output": "ear"}
    delay = delay_of(heard, sound)
    np.testing.assert_array_equal(heard[delay : delay + len(sound)], sound)
    played = np.concatenate([frame.played for frame in frames])
    back = delay_of(played, sound)
    np.testing.assert_array_equal(played[back : back + len(sound)], sound)
    assert stats.line.drift_samples == 0


def test_unknown_and_ambiguous_names_are_one_sentence() -> None:
    with jack_rooms("left room", "right room"):
        with pytest.raises(DeviceError, match=r"no microphone 'kitchen'.*left room.*right room"), Duplex("kitchen"):
            pass
        with pytest.raises(DeviceError, match=r"'room' could be several speakers"), Duplex(output="room"):
            pass
        with Duplex("left", "LEFT ROOM") as duplex:
            assert duplex.devices["input"].name == "left room"


def test_frames_of_another_shape_are_refused() -> None:
    with jack_rooms("room"), Duplex("room", "room") as duplex, pytest.raises(AudioError, match="1920"):
        duplex.write_frame(np.zeros(480, np.float32))


CONVERSATION = """
    import numpy as np, sys
    from moshi_mlx.live.duplex import Duplex

    tapped = []
    with Duplex(tap=tapped.append) as duplex:
        while sys.stdout:
            frame = duplex.read_frame(0.2)
            while not duplex.notices.empty():
                print("notice", duplex.notices.get(), flush=True)
            if frame is None:
                continue
            duplex.write_frame(frame.mic)
            print("frame", flush=True)
            if duplex.stats.reopened and duplex.stats.frames_in > 40:
                break
    stats = duplex.stats
    assert [frame.index for frame in tapped] == list(range(len(tapped)))
    print("lost", stats.frames_lost, "reopened", stats.reopened, flush=True)
"""


@pytest.mark.parametrize("crash", [False, True])
def test_a_conversation_goes_on_when_the_sound_server_comes_back(crash: bool) -> None:
    server = JackServer()
    server.start()
    command = [sys.executable, "-c", textwrap.dedent(CONVERSATION)]
    try:
        with subprocess.Popen(
            command, env=server.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            lines = [process.stdout.readline() for _ in range(10)]
            server.stop(crash)
            while "gone" not in lines[-1]:
                lines.append(process.stdout.readline())
                assert lines[-1], process.stderr.read()
            time.sleep(0.5)
            server.start()
            rest, errors = process.communicate(timeout=30)
    finally:
        server.stop()
    assert process.returncode == 0, errors
    told = [line for line in [*lines, *rest.splitlines()] if line.startswith("notice")]
    assert len(told) == 2
    assert "system has gone" in told[0]
    assert "goes on with system" in told[1]
    last = rest.splitlines()[-1].split()
    assert int(last[1]) >= 5  # the wall clock went on for half a second at least
    assert last[3] == "1"


def test_a_server_that_never_comes_back_does_not_hold_up_the_end() -> None:
    server = JackServer()
    server.start()
    script = """
        from moshi_mlx.live.duplex import Duplex

        with Duplex() as duplex:
            print("open", flush=True)
            while duplex.devices:
                duplex.read_frame(0.1)
        print("closed", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    try:
        with subprocess.Popen(command, env=server.environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            server.stop(crash=True)
            rest, _ = process.communicate(timeout=20)
    finally:
        server.stop()
    assert rest == "closed\n"
    assert process.returncode == 0


def test_portaudio_missing_names_the_command_that_installs_it() -> None:
    script = """
        import ctypes.util
        ctypes.util.find_library = lambda name: None
        from moshi_mlx.errors import DeviceError
        from moshi_mlx.live.devices import list_devices
        try:
            list_devices()
        except DeviceError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, timeout=30)
    assert "sudo apt-get install libportaudio2" in done.stdout, done.stderr
