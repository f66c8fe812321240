"""What it costs that the codec computes in processes of its own: the way there and back, and start and handover.

    python scripts/codec_latency.py [--frames 2000]

The way is measured with a process that answers a frame of sound at once with as many bytes, in real time (a frame
each 80 ms leaves caches cold) and flat out. Wants a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from moshi_mlx.checkpoint.tiny import tiny_folder
from moshi_mlx.codec import process
from moshi_mlx.codec.process import CodecProcess, Task
from moshi_mlx.live.metrics import resident_size
from moshi_mlx.mimi import MAX_FRAMES, Mimi
from moshi_mlx.rates import FRAME_SIZE

ECHO = """
from moshi_mlx.codec import child
child._open = lambda *_: bytes
child.main()
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    frames = parser.parse_args().frames
    tell("there and back, flat out", ways(frames, pause=0.0))
    tell("there and back, in real time", ways(max(100, frames // 20), pause=0.08))
    mimi = Mimi(tiny_folder() / "tokenizer-e351c8d8-checkpoint125.safetensors")
    begin = time.perf_counter()
    encoder = mimi.encoder()
    print(f"start of a process until it is ready: {time.perf_counter() - begin:.2f} s")
    first, *later = steps(encoder.encode, 50)
    print(f"first frame {1000 * first:.1f} ms, later ones {1000 * np.median(later):.1f} ms")
    (child,) = process.living()
    before = resident_size(child.pid)
    steps(encoder.encode, 200)
    print(f"memory: {before / 1e6:.0f} MB, {(resident_size(child.pid) - before) / 200e3:.1f} kB more with each frame")


def ways(frames: int, pause: float) -> list[float]:
    """Seconds of each exchange with a process that does nothing."""
    with tempfile.TemporaryDirectory() as folder:
        script, process.SCRIPT = process.SCRIPT, Path(folder) / "echo.py"
        process.SCRIPT.write_text(ECHO, encoding="utf-8")
        echo = CodecProcess(Task("encode", Path("none"), 8, MAX_FRAMES))
        process.SCRIPT = script
        frame, seconds = bytes(4 * FRAME_SIZE), []
        for _ in range(frames + 10):
            time.sleep(pause)
            begin = time.perf_counter()
            echo.step(frame)
            seconds.append(time.perf_counter() - begin)
        echo.end()
    return seconds[10:]


def steps(encode: Callable[[np.ndarray], object], frames: int) -> list[float]:
    sound, seconds = np.random.default_rng(0).normal(0, 0.1, (frames, FRAME_SIZE)), []
    for frame in sound:
        begin = time.perf_counter()
        encode(frame)
        seconds.append(time.perf_counter() - begin)
    return seconds


def tell(what: str, seconds: list[float]) -> None:
    print(f"{what}: " + ", ".join(f"p{p} {1e6 * np.percentile(seconds, p):.0f} µs" for p in (50, 99)))


if __name__ == "__main__":
    main()
