"""Race the frame step against Kyutai's moshi_mlx 0.3.0: same random weights, same MLX, turn by turn.

The two share an import name, so the peer needs an environment of its own:

    python -m venv peer
    peer/bin/pip install "mlx[cpu]" numpy sentencepiece huggingface_hub rustymimi safetensors sphn  # mlx on a Mac
    peer/bin/pip install --no-deps moshi_mlx==0.3.0  # it pins an old MLX
    python scripts/race_peer.py --peer-python peer/bin/python

Each round runs both, one process after the other; the verdict is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BASE = {
    "num_heads": 4, "hidden_scale": 4.125, "context": 3000, "max_period": 10000, "gating": "silu",
    "norm": "rms_norm_f32", "positional_embedding": "rope", "causal": True, "layer_scale": None, "text_card": 512,
    "card": 2048, "n_q": 16, "dep_q": 8, "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "depformer_num_heads": 4, "depformer_multi_linear": True, "depformer_pos_emb": "none",
    "depformer_weights_per_step": True,
}  # fmt: skip
SIZES = {
    "tiny": {"dim": 256, "num_layers": 4, "depformer_dim": 128, "depformer_num_layers": 2},
    "narrow": {"dim": 128, "num_layers": 32, "depformer_dim": 64, "depformer_num_layers": 6},
}
WARM_UP = 20


def config_of(size: str) -> dict:
    config = {**BASE, **SIZES[size]}
    return {**config, "depformer_dim_feedforward": int(4.125 * config["depformer_dim"])}


def write_checkpoint(folder: Path, size: str) -> None:
    from safetensors.numpy import save_file

    from moshi_mlx.checkpoint.tiny import random_weights
    from moshi_mlx.config import LMConfig

    config = config_of(size)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(random_weights(LMConfig.from_dict(config)), folder / "model.safetensors", metadata={"format": "mlx"})


def run_ours(folder: Path, frames: int) -> list[float]:
    import moshi_mlx

    generator = moshi_mlx.Generator(moshi_mlx.load_lm(folder))
    return timed(lambda codes: generator.step(codes), frames)


def run_peer(folder: Path, frames: int) -> list[float]:
    import mlx.core as mx
    import numpy as np

    from moshi_mlx import models, utils  # pyright: ignore

    lm = models.Lm(models.LmConfig.from_config_dict(json.loads((folder / "config.json").read_text())))
    lm.load_weights(str(folder / "model.safetensors"), strict=True)
    lm.warmup()
    generator = models.LmGen(
        model=lm,
        max_steps=frames + WARM_UP + 5,
        text_sampler=utils.Sampler(top_k=25, temp=0.7),
        audio_sampler=utils.Sampler(top_k=250, temp=0.8),
    )

    def step(codes: np.ndarray) -> None:
        text = generator.step(mx.array(codes[None]))
        text[0].item()
        audio = generator.last_audio_tokens()
        if audio is not None:
            np.array(audio)

    return timed(step, frames)


def timed(step, frames: int) -> list[float]:
    import numpy as np

    codes = np.random.default_rng(0).integers(0, 2048, (frames + WARM_UP, 8)).astype(np.int32)
    seconds = []
    for column in codes:
        start = time.perf_counter()
        step(column)
        seconds.append(time.perf_counter() - start)
    return seconds[WARM_UP:]


def race(python: str, runner: str, folder: Path, frames: int) -> float:
    """Median milliseconds of a frame, in a process of its own."""
    command = [python, __file__, "--runner", runner, "--folder", str(folder), "--frames", str(frames)]
    # From another folder, so that the peer's `moshi_mlx` is not ours.
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env={**os.environ, "PYTHONSAFEPATH": "1"}
    )
    if done.returncode:
        sys.exit(f"{runner} failed:\n{done.stderr}")
    return 1000 * statistics.median(json.loads(done.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of the environment that holds moshi_mlx 0.3.0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=150)
    parser.add_argument("--runner", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runner:
        runner = run_ours if args.runner == "ours" else run_peer
        print(json.dumps(runner(args.folder, args.frames)))
        return
    if not args.peer_python:
        parser.error("--peer-python is needed; see --help for how to make that environment")
    peer = str(Path(args.peer_python).absolute())
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_checkpoint(folder, size)
            ratios = []
            for _ in range(args.rounds):
                theirs = race(peer, "peer", folder, args.frames)
                ours = race(sys.executable, "ours", folder, args.frames)
                ratios.append(theirs / ours)
                print(f"{size}: peer {theirs:.2f} ms, ours {ours:.2f} ms, ratio {ratios[-1]:.2f}", flush=True)
            print(f"{size}: median ratio {statistics.median(ratios):.2f} of {args.rounds} rounds", flush=True)


if __name__ == "__main__":
    main()
