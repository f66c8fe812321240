"""Frame time and memory of the frame loop far into a conversation, against those just past the window.

    python scripts/endurance.py [--frames 20000] [--model FOLDER]

Without a model it takes the built-in one (window: 256 frames).
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import mlx.core as mx
import numpy as np

import moshi_mlx
from moshi_mlx.checkpoint.tiny import tiny_folder
from moshi_mlx.live.metrics import resident_size

SPAN = 1_000
"""Frames over which a median is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--model", type=Path)
    args = parser.parse_args()
    generator = moshi_mlx.Generator(moshi_mlx.load_lm(args.model or tiny_folder()))
    codes = np.random.default_rng(0).integers(0, generator.config.card, (args.frames, generator.config.user_codebooks))
    context, seconds, memory = generator.config.transformer.context, [], {}
    for i, column in enumerate(codes.astype(np.int32)):
        start = time.process_time()
        generator.step(column)
        seconds.append(time.process_time() - start)
        if i in (context + SPAN, args.frames - 1):
            memory[i] = mx.get_active_memory(), mx.get_peak_memory(), resident_size()
    first = statistics.median(seconds[context : context + SPAN])
    last = statistics.median(seconds[-SPAN:])
    print(f"frames {context} to {context + SPAN}: {1000 * first:.3f} ms of processor time (median)")
    print(f"last {SPAN} of {args.frames}: {1000 * last:.3f} ms, {100 * (last / first - 1):+.1f}%")
    for i, (active, peak, resident) in memory.items():
        print(f"after frame {i}: MLX active {active:,}, peak {peak:,}; process {resident:,} bytes")


if __name__ == "__main__":
    main()
