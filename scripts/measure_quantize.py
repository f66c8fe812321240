"""Quantize a checkpoint and show what it took: time against `cp`, peak memory, and that the bits are MLX's own.

    python scripts/make_checkpoint.py /tmp/moshi-random
    python scripts/measure_quantize.py /tmp/moshi-random /tmp/work

Needs room for a copy of the source and for the result. `--check` only compares the bits of an existing result.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx

from moshi_mlx.checkpoint.inspect import Checkpoint, inspect

QUANTIZE = [sys.executable, "-m", "moshi_mlx.cli.main", "quantize"]


def copy_seconds(source: Path, work: Path) -> float:
    """Wall time of `cp` of the weights, the disk's work included."""
    target = work / "copy.safetensors"
    began = time.perf_counter()
    for file in inspect(source).files:
        subprocess.run(["cp", file, target], check=True)
        with target.open("rb") as opened:
            os.fsync(opened.fileno())
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def quantize(source: Path, result: Path, recipe: str) -> dict[str, float]:
    """Run the command in a process of its own; its figures, with processor time and resident memory."""
    began = time.perf_counter()
    command = [*QUANTIZE, str(source), str(result), "--recipe", recipe, "--json"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert run.stdout is not None
    told = json.loads(run.stdout.read() or b"{}")
    _, status, usage = os.wait4(run.pid, 0)
    if status:
        raise SystemExit(f"quantize failed with status {status}")
    return {
        "seconds": time.perf_counter() - began,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "array_peak_mb": told["peak_memory_bytes"] / 1e6,
        "resident_peak_mb": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6,
        "gigabytes": told["bytes"] / 1e9,
    }


def differing(source: Path, result: Path) -> list[str]:
    """Names of the result's tensors that are not what `mx.quantize` makes of the whole source tensor."""
    original, quantized = inspect(source), inspect(result)
    weights, found = arrays(original), arrays(quantized)
    wrong = []
    for name in list(weights):
        module = name.removesuffix(".weight")
        form = quantized.formats.get(module)
        dense = weights.pop(name).astype(mx.bfloat16)
        wanted = [dense] if form is None else mx.quantize(dense, form.group_size, form.bits, form.mode)
        for part, array in zip(("weight", "scales", "biases"), wanted, strict=False):
            got = found.pop(f"{module}.{part}")
            same = got.dtype == array.dtype and mx.array_equal(got.view(mx.uint8), array.view(mx.uint8))
            wrong += [] if same else [f"{module}.{part}"]
        del dense, wanted
        mx.clear_cache()
    return wrong + list(found)


def arrays(checkpoint: Checkpoint) -> dict[str, mx.array]:
    """All tensors of a checkpoint, read when they are used."""
    found: dict[str, mx.array] = {}
    for file in checkpoint.files:
        found.update(mx.load(str(file)))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a bf16 checkpoint under MLX names")
    parser.add_argument("work", type=Path, help="a folder on the same disk; with --check the result itself")
    parser.add_argument("--recipes", nargs="+", default=["q8", "q4"])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.check:
        wrong = differing(args.source, args.work)
        print(f"{args.work}: {len(wrong)} tensors differ from mx.quantize {wrong[:3]}")
        raise SystemExit(bool(wrong))
    args.work.mkdir(parents=True, exist_ok=True)
    for recipe in args.recipes:
        result = args.work / recipe
        figures = {"recipe": recipe, "cp_seconds": copy_seconds(args.source, args.work)}
        figures |= quantize(args.source, result, recipe)
        figures["tensors_that_differ"] = len(differing(args.source, result))
        shutil.rmtree(result)
        print(json.dumps({key: round(v, 2) if isinstance(v, float) else v for key, v in figures.items()}), flush=True)


if __name__ == "__main__":
    main()
