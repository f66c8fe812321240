"""One side of a race, in a process and an environment of its own: this project's frame loop, or Kyutai's moshi_mlx.

    python race_worker.py ours|peer SETTINGS

SETTINGS is JSON: folder, file, config, bits, group_size. It says on a line of JSON what it is, then answers every line
that it reads: {"skip_to": frame}, {"frames": count} with a list of seconds, {"count": true} with nodes and waits.
Run as a file, so it imports nothing of this package but by the package's name: which one that is tells the environment.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

Step = Callable[[np.ndarray], None]
"""Take the user's codes [user codebooks], and have the answer on the host."""


class Ours:
    """This project's generator."""

    def __init__(self, settings: dict[str, Any]):
        import moshi_mlx

        self.generator = moshi_mlx.Generator(moshi_mlx.load_lm(settings["folder"]))
        self.user_codebooks, self.card = self.generator.config.user_codebooks, self.generator.config.card
        self.name = f"moshi-mac {version('moshi-mac')}"

    def skip_to(self, position: int) -> None:
        """Go on from a frame far in the conversation."""
        self.generator.skip_to(position)

    def step(self, codes: np.ndarray) -> None:
        """One frame."""
        self.generator.step(codes)


class Peer:
    """Kyutai's generator, set up as its own `moshi_mlx.local` does."""

    GROWS_BY = 256  # positions, its ring of keys and values
    MOST_FRAMES = 100_000

    def __init__(self, settings: dict[str, Any]):
        import mlx.nn as nn

        from moshi_mlx import models  # pyright: ignore[reportAttributeAccessIssue]  (theirs)

        self._models = models
        self.lm = models.Lm(models.LmConfig.from_config_dict(settings["config"]))
        if settings["bits"] < 32:
            self.lm.set_dtype(mx.bfloat16)
        if settings["bits"] < 16:
            nn.quantize(self.lm, bits=settings["bits"], group_size=settings["group_size"])
        self.lm.load_weights(settings["file"], strict=True)
        self._warm_up()
        self.user_codebooks, self.card = self.lm.cfg.other_codebooks, self.lm.cfg.audio_vocab_size - 1
        self.name = f"moshi_mlx {version('moshi_mlx')}"
        self.skip_to(0)

    def _warm_up(self) -> None:
        try:
            self.lm.warmup()
        except ValueError as error:
            if error.args != (42,):  # so it greets that token, which random weights may draw
                raise

    def skip_to(self, position: int) -> None:
        """Go on from a frame far in the conversation: keys, values and tokens before it are zeros."""
        from moshi_mlx import utils  # pyright: ignore[reportAttributeAccessIssue]

        for layer in self.lm.transformer_cache:
            self._fill(layer.self_attn, position)
        self.generator = self._models.LmGen(
            model=self.lm,
            max_steps=position + self.MOST_FRAMES,
            text_sampler=utils.Sampler(top_k=25, temp=0.7),
            audio_sampler=utils.Sampler(top_k=250, temp=0.8),
        )
        self.generator.gen_sequence[:, :, :position] = 0
        self.generator.step_idx = position

    def _fill(self, ring: Any, position: int) -> None:
        ring.reset()
        if position == 0:
            return
        size = min(ring.max_size, -(-position // self.GROWS_BY) * self.GROWS_BY)
        dtype = self.lm.out_norm.weight.dtype
        ring.keys = mx.zeros((1, ring.n_kv_heads, size, ring.k_head_dim), dtype)
        ring.values = mx.zeros((1, ring.n_kv_heads, size, ring.v_head_dim), dtype)
        ring.offset, ring._idx = position, (position - 1) % ring.max_size + 1
        mx.eval(ring.keys, ring.values)

    def step(self, codes: np.ndarray) -> None:
        """One frame; its text and audio are read as its own application reads them."""
        text = self.generator.step(mx.array(codes[None]))
        text[0].item()
        audio = self.generator.last_audio_tokens()
        if audio is not None:
            np.array(audio)


def timed(side: Ours | Peer, frames: int) -> list[float]:
    """Seconds of each of so many frames."""
    random, seconds = np.random.default_rng(0), []
    for _ in range(frames):
        codes = random.integers(0, side.card, side.user_codebooks).astype(np.int32)
        start = time.perf_counter()
        side.step(codes)
        seconds.append(time.perf_counter() - start)
    return seconds


def counted(side: Ours | Peer) -> dict[str, int]:
    """Graph nodes and waits of one frame."""
    spec = importlib.util.spec_from_file_location("counting", Path(__file__).with_name("counting.py"))
    assert spec is not None
    assert spec.loader is not None
    counting = importlib.util.module_from_spec(spec)
    sys.modules["counting"] = counting
    spec.loader.exec_module(counting)
    with counting.counting() as count:
        timed(side, 1)
    return {"nodes": count.nodes, "waits": count.waits}


def answer(side: Ours | Peer, asked: dict[str, Any]) -> Any:
    """The reply to one line."""
    if "skip_to" in asked:
        side.skip_to(asked["skip_to"])
        return True
    return counted(side) if "count" in asked else timed(side, asked["frames"])


def main() -> None:
    """Serve until the other end closes."""
    settings = json.loads(sys.argv[2])
    side = Ours(settings) if sys.argv[1] == "ours" else Peer(settings)
    print(json.dumps({"name": side.name, "mlx": version("mlx")}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(side, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
