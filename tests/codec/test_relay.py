from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from moshi_mlx.codec import process as process_module
from moshi_mlx.codec import relay
from moshi_mlx.codec.process import CodecProcess
from moshi_mlx.errors import CheckpointError, MoshiError
from moshi_mlx.live.metrics import resident_size
from moshi_mlx.mimi import Mimi
from moshi_mlx.rates import FRAME_SIZE


@pytest.fixture(scope="module")
def short_memory(tiny_mimi: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same codec with a memory of a few frames: convolutions only."""
    weights = load_file(tiny_mimi)
    for name in weights:
        if name.endswith("layer_scale_1.scale"):
            weights[name] = np.zeros_like(weights[name])
    target = tmp_path_factory.mktemp("short") / "mimi.safetensors"
    save_file(weights, target)
    return target


@pytest.fixture(scope="module")
def sound(speechlike) -> np.ndarray:
    """float32 [44, 1920]."""
    return speechlike(44).reshape(-1, FRAME_SIZE)


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    """[44, 8]."""
    return np.random.default_rng(0).integers(0, 2048, (44, 8))


@pytest.fixture(scope="module")
def unbroken(short_memory: Path, sound: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What one rustymimi object in this process makes of `sound` and of `codes`: [44, 8] and [44, 1920]."""
    import rustymimi

    raw = rustymimi.Tokenizer(str(short_memory), num_codebooks=8, max_seq_len=100)  # pyright: ignore
    encoded = [raw.encode_step(frame[None, None])[0, :, 0] for frame in sound]
    decoded = [raw.decode_step(column[None, :, None].astype(np.uint32))[0, 0] for column in codes]
    return np.stack(encoded), np.stack(decoded)


def processes(path: Path) -> list[CodecProcess]:
    return sorted((p for p in process_module.living() if p.task.path == path), key=lambda p: p.pid)


def is_there(pid: int) -> bool:
    """Whether a process runs; what has ended and waits to be asked how does not count."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state != "" and not state.startswith("Z")


def wait_until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def run(program: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """A program of its own, in a group of its own; `stream` is an encoder with a successor that listens."""
    begin = (
        "import sys, os, signal, time, numpy as np\nfrom moshi_mlx.mimi import Mimi\n"
        "from moshi_mlx.codec.process import living\n"
        "stream = Mimi(sys.argv[1], max_frames=40, overlap=39).encoder()\n"
        "def hear(frames):\n    for _ in range(frames): stream.encode(np.zeros(1920))\n"
        "def tell(*what): print(*what, flush=True)\n"
        "hear(2)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", begin + program, *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


# One takes over from the other.


def test_seams_are_exact_where_the_overlap_covers_the_memory(short_memory, sound, codes, unbroken, monkeypatch):
    """Also where the successor gave way to others for most of the overlap."""
    monkeypatch.setattr(relay, "HURRY", 2)
    mimi = Mimi(short_memory, max_frames=18, overlap=9)  # seams at 18, 27 and 36; of the decoder at 14, 23, 32 and 41
    mimi.prepare(encoder=8, decoder=8)
    with mimi.encoder() as encoder, mimi.decoder() as decoder:
        first = {process.pid for process in processes(short_memory)}
        np.testing.assert_array_equal([encoder.encode(frame) for frame in sound], unbroken[0])
        np.testing.assert_array_equal([decoder.decode(column) for column in codes], unbroken[1])
        assert not first & {process.pid for process in processes(short_memory)}
        assert encoder.restarts == decoder.restarts == 0


def test_a_seam_without_overlap_is_heard(short_memory, sound, codes, unbroken):
    """What the test above would find if the successor did not listen."""
    mimi = Mimi(short_memory, max_frames=12, overlap=0)
    with mimi.encoder() as encoder, mimi.decoder() as decoder:
        encoded = np.stack([encoder.encode(frame) for frame in sound[:13]])
        decoded = np.stack([decoder.decode(column) for column in codes[:8]])
    np.testing.assert_array_equal(encoded[:12], unbroken[0][:12])
    assert (encoded[12] != unbroken[0][12]).any()
    assert np.abs(decoded - unbroken[1][:8]).max() > 1e-3


def test_reset_during_an_overlap_starts_anew(short_memory, sound):
    with Mimi(short_memory, max_frames=8, overlap=4).encoder() as encoder:
        first = [encoder.encode(frame) for frame in sound[:7]]
        encoder.reset()
        np.testing.assert_array_equal([encoder.encode(frame) for frame in sound[:7]], first)


def test_the_memory_of_the_one_relieved_is_given_back(tiny_mimi, sound):
    with Mimi(tiny_mimi, max_frames=12, overlap=4).decoder() as decoder:
        (old,) = processes(tiny_mimi)
        for _ in range(7):
            decoder.decode([0] * 8)
        wait_until(lambda: [resident_size(p.pid) > 300e6 for p in processes(tiny_mimi)] == [True, True])
        for _ in range(3):
            decoder.decode([0] * 8)
        wait_until(lambda: not is_there(old.pid))
        (new,) = processes(tiny_mimi)
        assert new.pid != old.pid


# None is left over.


def test_closing_a_stream_ends_its_processes_and_what_comes_after_is_refused(tiny_mimi, sound):
    encoder = Mimi(tiny_mimi, max_frames=8, overlap=7).encoder()
    encoder.encode(sound[0])
    encoder.encode(sound[1])
    pids = [process.pid for process in processes(tiny_mimi)]
    assert len(pids) == 2
    encoder.close()
    assert not any(map(is_there, pids))
    assert not processes(tiny_mimi)
    with pytest.raises(ValueError, match="closed"):
        encoder.encode(sound[2])


def test_a_stream_that_nobody_holds_ends_its_processes(tiny_mimi, sound):
    encoder = Mimi(tiny_mimi, max_frames=8, overlap=7).encoder()
    encoder.encode(sound[0])
    encoder.encode(sound[1])
    pids = [process.pid for process in processes(tiny_mimi)]
    del encoder
    gc.collect()
    wait_until(lambda: not any(map(is_there, pids)))


def test_a_successor_at_work_does_not_keep_the_program_from_ending(tiny_mimi):
    program = run("hear(3)\ntell(*[p.pid for p in living()])", tiny_mimi)
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    assert len(out.split()) == 2
    assert not any(is_there(int(pid)) for pid in out.split())


def test_with_a_killed_program_its_processes_end(tiny_mimi):
    program = run("tell(*[p.pid for p in living()])\nwhile True: hear(1)", tiny_mimi)
    assert program.stdout is not None
    pids = [int(pid) for pid in program.stdout.readline().split()]
    assert len(pids) == 2
    program.kill()
    wait_until(lambda: not any(map(is_there, pids)))
    assert program.communicate()[1] == ""


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux' processor times")
def test_a_successor_with_much_to_hear_ends_with_the_program_and_not_after_it(tiny_mimi):
    def ticks(pid: int) -> int:
        try:
            times = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()
        except OSError:
            return 0
        return int(times[11]) + int(times[12])

    program = run(
        "while not stream._relay._successor._process._is_open: time.sleep(0.1)\nhear(3)\ntime.sleep(1)\n"
        "live, successor = sorted(p.pid for p in living())\nos.kill(successor, signal.SIGSTOP)\n"
        "tell(live, successor)\nsys.stdin.readline()\nhear(8)\ntell('heard')\nsys.stdin.readline()",
        tiny_mimi,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    live, successor = map(int, program.stdout.readline().split())
    begin = ticks(live)
    print(file=program.stdin, flush=True)
    assert program.stdout.readline() == "heard\n"
    heard = ticks(live) - begin
    program.kill()
    program.wait()
    begin = last = ticks(successor)
    os.kill(successor, signal.SIGCONT)
    while is_there(successor):
        last = max(last, ticks(successor))
    assert last - begin < heard / 2
    program.communicate()


def test_the_end_of_a_fork_leaves_the_processes_to_their_owner(tiny_mimi):
    program = run("if os.fork() == 0: sys.exit(0)\nos.wait()\nhear(1)\ntell(stream.restarts, len(living()))", tiny_mimi)
    assert program.communicate(timeout=60) == ("0 2\n", "")


def test_signals_to_the_whole_group_are_the_programs_own_matter(tiny_mimi):
    """Ctrl-C in a terminal, `timeout`, a closed window."""
    program = run(
        "for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(n, lambda *_: tell('heard'))\n"
        "tell('ready')\nwhile True:\n    hear(1)\n    if sys.stdin.closed: break\n    time.sleep(0.01)\n"
        "    if os.path.exists(sys.argv[2]): break\ntell(stream.restarts)",
        tiny_mimi, tiny_mimi.with_name("stop"),
    )  # fmt: skip
    assert program.stdout is not None
    try:
        assert program.stdout.readline() == "ready\n"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.killpg(program.pid, number)
            assert program.stdout.readline() == "heard\n"
    finally:
        tiny_mimi.with_name("stop").touch()
        out, err = program.communicate(timeout=60)
        tiny_mimi.with_name("stop").unlink()
    assert (out, err) == ("0\n", "")


# One that is killed is replaced.


def test_a_killed_process_is_replaced_by_one_that_hears_the_last_frames_again(short_memory, sound, unbroken):
    with Mimi(short_memory).encoder() as encoder:
        heard = [encoder.encode(frame) for frame in sound[:30]]
        os.kill(processes(short_memory)[0].pid, signal.SIGKILL)
        heard += [encoder.encode(frame) for frame in sound[30:]]
        np.testing.assert_array_equal(heard, unbroken[0])
        assert encoder.restarts == 1


@pytest.mark.parametrize("victims", ["the one in charge", "its successor", "both"])
def test_whichever_is_killed_during_an_overlap_the_stream_goes_on(short_memory, codes, unbroken, victims):
    with Mimi(short_memory, max_frames=50, overlap=30).decoder() as decoder:  # relieved at 40
        heard = [decoder.decode(column) for column in codes[:38]]
        live, successor = processes(short_memory)
        for process in {"the one in charge": [live], "its successor": [successor], "both": [live, successor]}[victims]:
            os.kill(process.pid, signal.SIGKILL)
        heard += [decoder.decode(column) for column in codes[38:]]
        np.testing.assert_array_equal(heard, unbroken[1])
        assert decoder.restarts == 1


def test_a_process_that_hangs_is_replaced(short_memory, sound, unbroken, monkeypatch):
    with Mimi(short_memory).encoder() as encoder:
        heard = [encoder.encode(frame) for frame in sound[:12]]
        os.kill(processes(short_memory)[0].pid, signal.SIGSTOP)
        monkeypatch.setattr(process_module, "ANSWER_S", 5.0)
        heard += [encoder.encode(frame) for frame in sound[12:14]]
        np.testing.assert_array_equal(heard, unbroken[0][:14])
        assert encoder.restarts == 1


def test_a_successor_that_hangs_is_replaced(short_memory, sound, unbroken, monkeypatch):
    monkeypatch.setattr(process_module, "ANSWER_S", 8.0)  # from the start: its feeding thread may wait already
    with Mimi(short_memory, max_frames=30, overlap=16).encoder() as encoder:
        heard = [encoder.encode(frame) for frame in sound[:28]]
        os.kill(processes(short_memory)[1].pid, signal.SIGSTOP)
        heard += [encoder.encode(frame) for frame in sound[28:34]]
        np.testing.assert_array_equal(heard, unbroken[0][:34])
        assert encoder.restarts == 1


def test_where_no_successor_can_be_started_the_stream_goes_on_until_one_can(short_memory, sound, unbroken, monkeypatch):
    with Mimi(short_memory, max_frames=28, overlap=16).encoder() as encoder:
        monkeypatch.setattr(sys, "executable", "/nowhere/python")
        heard = [encoder.encode(frame) for frame in sound[:16]]
        assert len(processes(short_memory)) == 1
        monkeypatch.undo()
        heard += [encoder.encode(frame) for frame in sound[16:]]
        np.testing.assert_array_equal(heard, unbroken[0])
        assert encoder.restarts == 0


def test_a_program_that_cannot_be_started_is_told_in_one_sentence(short_memory, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(MoshiError, match="cannot be started") as caught:
        Mimi(short_memory).encoder()
    assert "\n" not in str(caught.value)


# Live, nobody waits for one that is late.


def test_the_old_process_goes_on_until_a_late_successor_has_caught_up(short_memory, sound, unbroken):
    with Mimi(short_memory, max_frames=28, overlap=12).encoder() as encoder:
        encoder.never_wait()
        heard = [encoder.encode(frame) for frame in sound[:20]]
        live, successor = processes(short_memory)
        os.kill(successor.pid, signal.SIGSTOP)
        heard += [encoder.encode(frame) for frame in sound[20:31]]
        assert processes(short_memory) == [live, successor]
        os.kill(successor.pid, signal.SIGCONT)
        wait_until(lambda: encoder._relay._successor.lag <= relay.ON_TIME)
        heard += [encoder.encode(frame) for frame in sound[31:38]]
        assert live not in processes(short_memory)
        np.testing.assert_array_equal(heard, unbroken[0][:38])
        assert encoder.restarts == 0


def test_where_no_successor_is_ever_ready_a_new_process_hears_the_last_frames_again(short_memory, sound, unbroken):
    with Mimi(short_memory, max_frames=28, overlap=12).encoder() as encoder:
        encoder.never_wait()
        heard = [encoder.encode(frame) for frame in sound[:20]]
        os.kill(processes(short_memory)[1].pid, signal.SIGSTOP)
        heard += [encoder.encode(frame) for frame in sound[20:36]]
        np.testing.assert_array_equal(heard, unbroken[0][:36])
        assert encoder.restarts == 1


def test_an_interrupted_frame_is_not_answered_in_place_of_the_next(short_memory, sound, unbroken):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with Mimi(short_memory).encoder() as encoder:
        heard = [encoder.encode(frame) for frame in sound[:12]]
        before = signal.signal(signal.SIGALRM, interrupt)
        os.kill(processes(short_memory)[0].pid, signal.SIGSTOP)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(KeyboardInterrupt):
                encoder.encode(sound[12])
        finally:
            signal.signal(signal.SIGALRM, before)
        heard += [encoder.encode(frame) for frame in sound[12:14]]
        np.testing.assert_array_equal(heard, unbroken[0][:14])


def test_weights_that_vanish_meanwhile_end_in_one_sentence(short_memory, tmp_path, sound, capfd):
    path = tmp_path / "mimi.safetensors"
    os.link(short_memory, path)
    with Mimi(path, max_frames=4, overlap=2).encoder() as encoder:
        for frame in sound[:2]:
            encoder.encode(frame)
        path.unlink()
        with pytest.raises(CheckpointError) as caught:
            [encoder.encode(frame) for frame in sound[2:5]]
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
