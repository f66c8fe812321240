"""A conversation with Kyutai's moshi_mlx 0.3.0 beside one with ours: same virtual sound card, same random weights.

    python scripts/race_live.py --peer-python peer/bin/python              # time to an answer, and after a stall
    python scripts/race_live.py --peer-python peer/bin/python --minutes 6  # and who still talks

How to make the peer's environment: see `moshi-mlx bench --help`; it also needs sounddevice. Its local.py is started by
peer_live.py and runs as it is. What is measured is captured: a click in the microphone changes what is said, and the
first frame that differs from a conversation without the click is the answer. The stall: the process that holds the
peer's language model is stopped for two seconds, ours is made to sleep as long.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from jack_room import Room, jack_rooms
from talk import FADE, FRAME, RATE, slow_down, stages_of, talk

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER
from moshi_mlx.checkpoint.tiny import CONFIG, random_weights, tiny_folder
from moshi_mlx.config import LMConfig
from moshi_mlx.moshi import Moshi, load

CLICK = np.random.default_rng(0).uniform(-0.5, 0.5, 480).astype(np.float32)
CLICK_S, END_S = 8.0, 13.0
STALL_AT_S, STALL_S = 2.0, 2.0
START_TIMEOUT_S = 90


def script(click: bool) -> np.ndarray:
    sound = np.zeros(int(END_S * RATE), np.float32)
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


def first_change(plain: np.ndarray, clicked: np.ndarray) -> float | None:
    """Seconds from the click to the first block that is not said without it; None when none comes."""
    usual = {block for _, block in sounding(plain)}
    return next(
        (at / RATE - CLICK_S for at, block in sounding(clicked) if at / RATE > CLICK_S and block not in usual), None
    )


def sounding(heard: np.ndarray) -> list[tuple[int, bytes]]:
    """Where each block that is not silent begins, and its samples but for a fade at its beginning."""
    blocks = [(start, heard[start + FADE : start + FRAME]) for start in range(0, len(heard) - FRAME, FRAME)]
    return [(start, block.tobytes()) for start, block in blocks if block.any()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="python of the environment that holds moshi_mlx 0.3.0")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="let the peer talk for so long and tell when it ends"
    )
    args = parser.parse_args()
    python = str(Path(args.peer_python).absolute())
    with tempfile.TemporaryDirectory() as name:
        race(python, checkpoint(Path(name)), args.minutes)


def checkpoint(folder: Path) -> Path:
    """The built-in model in a shape that the peer reads as well: it knows one width of the MLP, 4.125."""
    config = {**CONFIG, "hidden_scale": 4.125, "depformer_dim_feedforward": int(4.125 * CONFIG["depformer_dim"])}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_weights(LMConfig.from_dict(config)), folder / "model.safetensors", metadata={"format": "mlx"})
    for name in (MIMI, TOKENIZER):
        (folder / name).symlink_to(tiny_folder() / name)
    return folder


def race(python: str, folder: Path, minutes: float) -> None:
    if minutes:
        with jack_rooms("room", period=FRAME) as [room], peer(python, folder):
            wait_for_voice(room)
            room.play(np.zeros(int(minutes * 60 * RATE)))
            while not room.finished():
                time.sleep(1)
            heard = sounding(room.heard())
            print(f"peer: the last sound came {heard[-1][0] / RATE:.1f} s after the first, of {60 * minutes:.0f} s")
        return
    moshi = load(str(folder))
    for stall in (False, True):
        what = "after a stall of two seconds" if stall else "undisturbed"
        ours = [hear_ours(moshi, script(click), stall) for click in (False, True)]
        print(f"{what}: ours answers after {first_change(*ours)} s", flush=True)
        theirs = [hear_peer(python, folder, script(click), stall) for click in (False, True)]
        print(f"{what}: peer answers after {first_change(*theirs)} s", flush=True)


if __name__ == "__main__":
    main()
