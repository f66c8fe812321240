"""Peak memory of a checkpoint: at load, and after some frames, against the file plus keys and values.

    python scripts/measure_memory.py FOLDER [FOLDER …] [--frames 3]

Any folder that `--model` takes; scripts/make_checkpoint.py makes a full-size one with random weights, and
`moshi-mlx quantize` the others. Each is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def measure(folder: Path, frames: int) -> dict[str, float]:
    import mlx.core as mx
    import numpy as np

    import moshi_mlx
    from moshi_mlx.checkpoint.inspect import inspect

    file_bytes = inspect(folder).nbytes
    mx.reset_peak_memory()
    start = time.perf_counter()
    lm = moshi_mlx.load_lm(folder)
    loaded, load_peak = time.perf_counter() - start, mx.get_peak_memory()
    generator = moshi_mlx.Generator(lm)
    codes = np.zeros(lm.config.user_codebooks, np.int32)
    start = time.perf_counter()
    for _ in range(frames):
        generator.step(codes)
    return {
        "file_gb": file_bytes / 1e9,
        "keys_and_values_gb": generator.cache_bytes / 1e9,
        "load_seconds": loaded,
        "load_peak_gb": load_peak / 1e9,
        "seconds_per_frame": (time.perf_counter() - start) / frames,
        "peak_gb": mx.get_peak_memory() / 1e9,
        "over_file_and_window_percent": 100 * (mx.get_peak_memory() / (file_bytes + generator.cache_bytes) - 1),
        "process_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        * (1 if sys.platform == "darwin" else 1024)
        / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.folders[0], args.frames)))
        return
    for folder in args.folders:
        command = [sys.executable, __file__, str(folder), "--frames", str(args.frames), "--one"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr)
        figures = json.loads(done.stdout)
        print(folder, *(f"{name} {value:.2f}" for name, value in figures.items()), sep="\n  ", flush=True)


if __name__ == "__main__":
    main()
