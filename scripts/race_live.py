"""A conversation with Kyutai's moshi_mlx 0.3.0 beside one with ours: same virtual sound card, same random weights.

    python scripts/race_live.py --peer-python peer/bin/python

Under twelve minutes, six and a half of them for who still talks in the seventh; wants a machine that has nothing else
to do. docs/results.md tells how to make the peer's environment; it also needs sounddevice. Its local.py is started by
peer_live.py and runs as it is. All is measured from what the sound card captured:

- the answer to a click in silence: conversations of one seed say the same until it is heard, so the first sample that
  is said in none without a click is the answer. The click falls at the beginning of a frame, the worst moment.
- the same after a stall: the process that holds the peer's language model is stopped for two seconds, ours is made
  to sleep as long.
- minute six: both talk at once, each on a sound card of its own, until 6:10; when the last sound came.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from jack_room import Room, jack_rooms
from talk import FRAME, RATE, slow_down, stages_of, talk

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import CONFIG, random_weights, tiny_folder
from moshi_mlx.config import LMConfig
from moshi_mlx.moshi import Moshi, load

CLICK = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * FRAME).astype(np.float32)
"""Of five frames, so that one that is dropped does not hide it."""
CLICK_S, END_S, MORE_S = 6.0, 10.5, 3.0
"""When it comes, when a conversation with it ends, and by how much one without it is longer: it may be behind."""
STALL_AT_S, STALL_S = 1.5, 2.0
LONG_S, LONGEST_S, ENDED_S = 370.0, 450.0, 20.0
"""Of the long one: how long ours talks, how long the peer may, and what silence says that it has ended."""
START_TIMEOUT_S = 90
CHUNK = 240  # samples (10 ms) that are looked for as a piece
NEW = 40  # chunks in a row of which none was said without the click: not a gap or a seam, but an answer


def script(click: bool) -> np.ndarray:
    sound = np.zeros(int((END_S if click else END_S + MORE_S) * RATE), np.float32)
    if click:
        start = int(CLICK_S * RATE)
        sound[start : start + len(CLICK)] = CLICK
    return sound


def hear_ours(moshi: Moshi, sound: np.ndarray, stall: bool) -> np.ndarray:
    stages, now = stages_of(moshi), [0.0]
    pending = [stall]

    def total() -> float:
        if pending[0] and now[0] >= STALL_AT_S:
            pending[0] = False
            return STALL_S
        return 0.0

    slow_down(stages, "lm", total)
    with tempfile.TemporaryDirectory() as folder:
        return talk(stages, moshi, sound, Path(folder), FRAME, lambda _, seconds: now.__setitem__(0, seconds)).heard


def hear_peer(python: str, folder: Path, sound: np.ndarray, stall: bool) -> np.ndarray:
    with jack_rooms("room", period=FRAME) as [room], peer(python, folder) as process:
        wait_for_voice(room)
        began = time.monotonic()
        room.play(sound)
        while not room.finished():
            time.sleep(0.02)
            if stall and time.monotonic() - began > STALL_AT_S:
                stall = False
                stop_for_a_while(language_model_of(process))
        return room.heard()


@contextmanager
def peer(python: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    weights = ["--moshi-weight", "model.safetensors", "--mimi-weight", MIMI, "--tokenizer", TOKENIZER]
    command = [python, str(Path(__file__).with_name("peer_live.py").absolute()), *weights]
    environment = {**os.environ, "PEER_FOLDER": str(folder), "PYTHONSAFEPATH": "1", "JACK_NO_START_SERVER": "1"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=quiet, stderr=quiet, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def wait_for_voice(room: Room) -> None:
    """The peer says nothing of being ready: it is when the first sound comes."""
    began = time.monotonic()
    while True:
        room.play(np.zeros(RATE // 4))
        while not room.finished():
            time.sleep(0.02)
        if room.heard().any():
            return
        if time.monotonic() - began > START_TIMEOUT_S:
            sys.exit("the peer said nothing")


def language_model_of(process: subprocess.Popen[bytes]) -> int:
    """The process of local.server, which local.main starts last."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    spawned = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    if len(spawned) != 2:
        sys.exit("the peer's processes were not found")
    return max(spawned)


def stop_for_a_while(process: int) -> None:
    os.kill(process, signal.SIGSTOP)
    time.sleep(STALL_S)
    os.kill(process, signal.SIGCONT)


def answer_s(plain: np.ndarray, clicked: np.ndarray) -> float | None:
    """Seconds from the click to the first sample that is said without it nowhere; None when none comes."""
    usual, click = plain.astype(np.float32).tobytes(), int(CLICK_S * RATE)
    new = first = 0
    for at in range(click, len(clicked) - CHUNK, CHUNK):
        chunk = clicked[at : at + CHUNK]
        if chunk.any():  # silence says nothing
            new = 0 if position(chunk, usual) is not None else new + 1
            if new == 1:
                first = at
            if new == NEW:
                return (first + agreeing(plain, usual, clicked, first) - click) / RATE
    return None


def position(piece: np.ndarray, signal: bytes) -> int | None:
    """Where a piece lies in a signal, bit for bit."""
    wanted, found = piece.astype(np.float32).tobytes(), -1
    while (found := signal.find(wanted, found + 1)) >= 0:
        if found % 4 == 0:
            return found // 4
    return None


def agreeing(plain: np.ndarray, usual: bytes, clicked: np.ndarray, at: int) -> int:
    """How many samples from `at` on still go on as they do without the click, after the chunk before."""
    before = position(clicked[at - CHUNK : at], usual) if clicked[at - CHUNK : at].any() else None
    if before is None:
        return 0
    ours, usually = clicked[at : at + CHUNK], plain[before + CHUNK :][:CHUNK]
    different = np.flatnonzero(ours[: len(usually)] != usually)
    return int(different[0]) if len(different) else len(usually)


def last_sound_s(heard: np.ndarray) -> float:
    """When the last sample came that is not silence."""
    return float(np.flatnonzero(heard)[-1]) / RATE if heard.any() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="python of the environment that holds moshi_mlx 0.3.0")
    parser.add_argument("--clicks", type=int, default=2, help="measurements of each answer (default: 2); 0: none")
    parser.add_argument("--long", type=float, default=LONG_S, help="seconds of the long conversation; 0: none")
    args = parser.parse_args()
    began = time.monotonic()
    python = str(Path(args.peer_python).absolute())
    with tempfile.TemporaryDirectory() as name:
        folder = checkpoint(Path(name))
        moshi = load(str(folder))
        rows = [answers_of(moshi, python, folder, stall, args.clicks) for stall in (False, True) if args.clicks]
        if args.long:
            rows.append(minute_six(moshi, python, folder, args.long))
    print(f"\n{'':36}{'ours':<40}Kyutai's moshi_mlx 0.3.0")
    for what, ours, theirs in rows:
        print(f"{what:36}{ours:<40}{theirs}")
    print(f"measured in {(time.monotonic() - began) / 60:.1f} minutes")


def checkpoint(folder: Path) -> Path:
    """The built-in model in a shape that the peer reads as well: it knows one width of the MLP, 4.125."""
    config = {**CONFIG, "hidden_scale": 4.125, "depformer_dim_feedforward": int(4.125 * CONFIG["depformer_dim"])}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_weights(LMConfig.from_dict(config)), folder / "model.safetensors", metadata={"format": "mlx"})
    for name in (MIMI, TOKENIZER):
        (folder / name).symlink_to(tiny_folder() / name)
    return folder


def answers_of(moshi: Moshi, python: str, folder: Path, stall: bool, clicks: int) -> tuple[str, str, str]:
    """A row: how soon either answers."""
    hear: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda sound: hear_ours(moshi, sound, stall),
        lambda sound: hear_peer(python, folder, sound, stall),
    ]
    told = []
    for side in hear:
        plain = side(script(click=False))
        times = [answer_s(plain, side(script(click=True))) for _ in range(clicks)]
        told.append(", ".join("none came" if time is None else f"{time:.3f} s" for time in times))
        print(f"{'after a stall' if stall else 'undisturbed'}: {told[-1]}", flush=True)
    return (f"answers after a stall of {STALL_S:.0f} s" if stall else "answers, undisturbed", told[0], told[1])


def minute_six(moshi: Moshi, python: str, folder: Path, seconds: float) -> tuple[str, str, str]:
    """A row: when the last sound of either came. The peer's sound card is that of a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) / "peer.npy"
        other = multiprocessing.get_context("spawn").Process(target=talk_long, args=(python, folder, seconds, place))
        other.start()
        silence = np.zeros(int(seconds * RATE), np.float32)
        take = talk(stages_of(moshi), moshi, silence, Path(name), FRAME)
        other.join()
        theirs = np.load(place)
    told = (f"{last_told(take.heard)} ({take.summary['dropped_total']} dropped)", last_told(theirs))
    return (f"last sound in a talk of {clock(seconds)}", *told)


def talk_long(python: str, folder: Path, seconds: float, place: Path) -> None:
    """Let the peer talk for so long, and longer where it is behind, until it has fallen silent."""
    with jack_rooms("room", period=FRAME) as [room], peer(python, folder):
        wait_for_voice(room)
        room.play(np.zeros(int(LONGEST_S * seconds / LONG_S * RATE)))
        while not room.finished():
            time.sleep(1)
            heard = room.heard()
            if len(heard) / RATE > seconds and len(heard) / RATE - last_sound_s(heard) > ENDED_S:
                break
        np.save(place, room.heard())


def last_told(heard: np.ndarray) -> str:
    last = last_sound_s(heard)
    return f"{clock(last)}, {'still talking' if len(heard) / RATE - last < 1 else 'silent since'}"


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


if __name__ == "__main__":
    main()
