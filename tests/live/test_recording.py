from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from talk import stages_of

from moshi_mlx.errors import AudioError, MoshiError
from moshi_mlx.live import record_files, recording
from moshi_mlx.live.conversation import Conversation
from moshi_mlx.live.line import Captured
from moshi_mlx.live.record_files import Sound, Wav
from moshi_mlx.live.recording import Recording
from moshi_mlx.moshi import load

FRAME = 1920


def frames(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Both sides, float32 [count, 1920], the right one the left one's negative."""
    user = np.random.default_rng(seed).uniform(-1, 1, (count, FRAME)).astype(np.float32)
    return user, -user


def wait_until(done: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.01)


def read(path: Path) -> np.ndarray:
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == 24_000
    return samples


def test_samples_come_back_bit_for_bit_user_left_and_moshi_right(tmp_path: Path) -> None:
    user, moshi = frames(50)
    with Recording(tmp_path) as record:
        for left, right in zip(user, moshi, strict=True):
            record.write(left, right)
    samples = read(record.path / "audio.wav")
    np.testing.assert_array_equal(samples, np.stack([user.ravel(), moshi.ravel()], axis=1))
    assert soundfile.info(record.path / "audio.wav").subtype == "FLOAT"
    assert record.duration == pytest.approx(4.0)
    assert record.problem is None
    assert record.lost() == {"seconds": 0, "events": 0}


def test_silence_stands_where_sound_was_lost_even_when_all_is_written_at_once(tmp_path: Path) -> None:
    before, after = (np.full((FRAME, 2), value, np.float32) for value in (0.25, 0.5))
    wav = Wav(tmp_path, recording.MAX_WAV_BYTES)
    wav.append([Sound(0, before), Sound(0, before), Sound(30_000, after), Sound(5, after)])
    wav.close()
    lost, little = (np.zeros((samples, 2), np.float32) for samples in (30_000, 5))
    expected = np.concatenate([before, before, lost, after, little, after])
    np.testing.assert_array_equal(read(tmp_path / "audio.wav"), expected)


def test_the_caller_may_reuse_its_buffers(tmp_path: Path) -> None:
    buffer = np.ones(FRAME, np.float32)
    with Recording(tmp_path) as record:
        for value in range(20):
            buffer[:] = value
            record.write(buffer, buffer)
    np.testing.assert_array_equal(read(record.path / "audio.wav")[::FRAME, 0], np.arange(20))


def test_sides_of_different_length_are_refused(tmp_path: Path) -> None:
    with Recording(tmp_path) as record, pytest.raises(AudioError, match="1920"):
        record.write(np.zeros(FRAME, np.float32), np.zeros(1, np.float32))


def test_recordings_of_the_same_second_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording.time, "strftime", lambda *_: "2026-01-31_09-05-00")
    (tmp_path / "notes.txt").write_text("mine")
    names = []
    for _ in range(3):
        with Recording(tmp_path) as record:
            names.append(record.path.name)
    assert names == ["2026-01-31_09-05-00", "2026-01-31_09-05-00-2", "2026-01-31_09-05-00-3"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MoshiError, match=r"cannot record into .*file"):
        Recording(tmp_path / name)


def test_a_killed_process_leaves_sound_text_and_trace_whole(tmp_path: Path) -> None:
    program = """
import sys, time, numpy as np
from moshi_mlx.live.recording import Recording
record = Recording(sys.argv[1])
start = time.monotonic()
for frame in range(10_000):
    samples = np.full(1920, frame, np.float32)
    record.write(samples, -samples)
    record.piece(frame * 0.08, " word")
    record.span("lm", frame * 0.08, 0.05, frame)
    print(frame, flush=True)
    time.sleep(max(0.0, start + (frame + 1) * 0.08 - time.monotonic()))
"""
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    last = 0
    for line in child.stdout:
        last = int(line)
        if last == 30:
            os.kill(child.pid, signal.SIGKILL)
            break
    last = max([last, *(int(line) for line in child.stdout)])
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    (folder,) = tmp_path.iterdir()
    samples = read(folder / "audio.wav")
    written = len(samples) // FRAME
    assert len(samples) % FRAME == 0
    assert written >= last + 1 - 12.5  # at most the last second is missing
    np.testing.assert_array_equal(samples[:, 0], np.repeat(np.arange(written, dtype=np.float32), FRAME))
    pieces = [json.loads(line) for line in (folder / "transcript.jsonl").read_text().splitlines()]
    assert len(pieces) >= last + 1 - 12.5
    assert (folder / "transcript.txt").read_text().startswith("0:00:00.0  word word")
    cut = (folder / "trace.json").read_text()
    assert not cut.rstrip().endswith("]")
    spans = [event for event in json.loads(cut + "]") if event["ph"] == "X"]
    assert len(spans) >= last + 1 - 12.5


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 1 MB, where mounting one is allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def check_stopped_whole(record: Recording, user: np.ndarray) -> None:
    assert record.problem is not None
    assert str(record.path) in record.problem
    samples = read(record.path / "audio.wav")
    assert len(samples) > 0
    assert len(samples) == round(record.duration * 24_000)
    np.testing.assert_array_equal(samples[:, 0], user.ravel()[: len(samples)])
    json.loads((record.path / "trace.json").read_text() + "]")
    for line in (record.path / "transcript.jsonl").read_text().splitlines():
        json.loads(line)


def test_a_full_disk_ends_the_recording_and_leaves_it_whole(tiny_disk: Path) -> None:
    user, moshi = frames(100)
    with Recording(tiny_disk) as record:
        for index, (left, right) in enumerate(zip(user, moshi, strict=True)):
            record.write(left, right)
            record.piece(index * 0.08, " word")
            record.span("lm", index * 0.08, 0.05, index)
            time.sleep(0.002)
        wait_until(lambda: record.problem)
        assert record.problem is not None
        assert "the disk is full" in record.problem
        queued = record._queue.qsize()
        record.write(user[0], moshi[0])
        assert record._queue.qsize() == queued  # nothing piles up after the end
    check_stopped_whole(record, user)
    assert os.statvfs(tiny_disk).f_bavail * os.statvfs(tiny_disk).f_frsize < 100_000


def test_a_file_size_limit_ends_the_recording_and_leaves_it_whole(tmp_path: Path) -> None:
    program = """
import resource, signal, sys, time, numpy as np
from moshi_mlx.live.recording import Recording
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_001, 300_001))
user = np.random.default_rng(0).uniform(-1, 1, (100, 1920)).astype(np.float32)
with Recording(sys.argv[1]) as record:
    for frame in user:
        record.write(frame, -frame)
        time.sleep(0.002)
print(record.duration, record.problem)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    duration, problem = output.split(maxsplit=1)
    assert "recording stopped at 00:00:01: the file may grow no more" in problem
    (folder,) = tmp_path.iterdir()
    samples = read(folder / "audio.wav")
    assert 250_000 < samples.nbytes <= 300_001
    assert len(samples) == round(float(duration) * 24_000)
    np.testing.assert_array_equal(samples[:, 0], frames(100)[0].ravel()[: len(samples)])


def test_a_wav_that_is_full_goes_on_in_the_next_one(tmp_path: Path) -> None:
    user, moshi = frames(20)
    limit = 100_003  # no multiple of a sample or a frame
    with Recording(tmp_path, max_wav_bytes=limit) as record:
        for left, right in zip(user, moshi, strict=True):
            record.write(left, right)
    paths = [record.path / name for name in ("audio.wav", "audio-2.wav", "audio-3.wav", "audio-4.wav")]
    assert sorted(record.path.glob("*.wav")) == sorted(paths)
    assert all(path.stat().st_size <= limit for path in paths)
    np.testing.assert_array_equal(np.concatenate([read(path) for path in paths])[:, 0], user.ravel())


def test_a_header_near_four_gigabytes_still_counts_right(tmp_path: Path) -> None:
    with Recording(tmp_path) as record:
        record.write(*(np.ones(FRAME, np.float32),) * 2)
        wait_until(lambda: record.duration)
        wav = record._wav
        data = (recording.MAX_WAV_BYTES - 58) // 8 * 8
        os.ftruncate(wav._file._descriptor, 58 + data)  # a hole: takes no room
        wav._file.overwrite(record_files._header(data), 0)
    assert soundfile.info(record.path / "audio.wav").frames == data // 8


def test_a_stalled_disk_never_holds_the_caller_and_every_loss_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stalled = threading.Event()
    write = os.write

    def slow_write(descriptor: int, piece: bytes) -> int:
        stalled.wait()
        return write(descriptor, piece)

    user, moshi = frames(40)
    stalled.set()
    with Recording(tmp_path, max_queued=10) as record:
        monkeypatch.setattr(os, "write", slow_write)
        stalled.clear()
        started = time.monotonic()
        for index in range(30):
            record.write(user[index], moshi[index])
            record.piece(0.0, "x")
        assert time.monotonic() - started < 0.5
        assert record.lost()["seconds"] >= 18 * FRAME / 24_000
        assert record.lost()["events"] >= 18
        stalled.set()
        wait_until(lambda: record._queue.empty())
        for index in range(30, 40):
            record.write(user[index], moshi[index])
            time.sleep(0.02)
    samples = read(record.path / "audio.wav")[:, 0].reshape(-1, FRAME)
    assert len(samples) == 40  # silence stands where sound was lost
    silent = ~samples.any(axis=1)
    assert silent.sum() * FRAME == round(record.lost()["seconds"] * 24_000)
    np.testing.assert_array_equal(samples[~silent], user[~silent])
    assert not silent[30:].any()


def test_close_does_not_wait_for_ever_and_tells_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stalled = threading.Event()
    write = os.write
    record = Recording(tmp_path)
    monkeypatch.setattr(recording, "CLOSE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(os, "write", lambda *a: (stalled.wait(), write(*a))[1])
    record.write(np.ones(FRAME, np.float32), np.ones(FRAME, np.float32))
    record.close()
    assert record.problem is not None
    assert "did not take the end" in record.problem
    stalled.set()
    record._thread.join(5)
    assert not record._thread.is_alive()


def test_transcript_reads_by_phrase_and_keeps_every_piece(tmp_path: Path) -> None:
    spoken = [(0.4, " Hel"), (0.5, "lo"), (0.6, "."), (0.9, " How"), (1.0, " are"), (1.2, " you"), (3.5, " Um")]
    spoken += [(59.97, " soon"), (3675.04, " late")]
    with Recording(tmp_path) as record:
        for time_s, text in spoken:
            record.piece(time_s, text)
    assert (record.path / "transcript.txt").read_text() == (
        "0:00:00.4  Hello.\n0:00:00.9  How are you\n0:00:03.5  Um\n0:01:00.0  soon\n1:01:15.0  late\n"
    )
    lines = (record.path / "transcript.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"time": t, "text": text} for t, text in spoken]


def test_a_closed_trace_is_json_with_a_named_row_per_stage(tmp_path: Path) -> None:
    with Recording(tmp_path) as record:
        for frame in range(3):
            record.span("encode", 0.08 * frame, 0.0261234, frame)
            record.span("lm", 0.08 * frame + 0.03, 0.04, frame)
    events = json.loads((record.path / "trace.json").read_text())
    rows = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    assert set(rows) == {"encode", "lm"}
    assert len(set(rows.values())) == 2
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == 6
    assert spans[2] == {
        "name": "encode", "ph": "X", "ts": 80000.0, "dur": 26123.4, "pid": 1, "tid": rows["encode"],
        "args": {"frame": 1},
    }  # fmt: skip
    assert all(span["tid"] == rows[span["name"]] for span in spans)


def test_close_twice_and_write_after_close_do_nothing(tmp_path: Path) -> None:
    record = Recording(tmp_path)
    record.write(np.ones(FRAME, np.float32), np.ones(FRAME, np.float32))
    record.close()
    size = (record.path / "audio.wav").stat().st_size
    record.close()
    record.write(np.ones(FRAME, np.float32), np.ones(FRAME, np.float32))
    record.piece(0.0, "x")
    assert (record.path / "audio.wav").stat().st_size == size


def test_a_paused_conversation_records_silence_of_the_user(tmp_path: Path) -> None:
    moshi = load("tiny")
    record = Recording(tmp_path)
    conversation = Conversation(moshi, stages_of(moshi), recording=record)
    sound = np.full(FRAME, 0.5, np.float32)
    for paused in (False, True, False):
        conversation.paused = paused
        conversation._tap(Captured(sound, sound, time.perf_counter()))
    record.close()
    samples = read(record.path / "audio.wav").reshape(3, FRAME, 2)
    assert samples[:, 0].tolist() == [[0.5, 0.5], [0.0, 0.5], [0.5, 0.5]]
