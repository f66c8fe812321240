"""What a shorter window, keys and values in 8 bits, or another type change in what a model predicts.

    python scripts/measure_economy.py [FOLDER] --kv-bits 8 [--audio speech.wav] [--frames 700]
    python scripts/measure_economy.py [FOLDER] --dtype float16 --range [--audio speech.wav]

The model as it is samples a text; run the other way it reads the same tokens, and both say what they expect next.
Moshi's own voice and the user's are the sound of a file (two halves of it), or random codes. --range also tells the
largest number that goes into or out of any norm or product: float16 ends at 65,504.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

import moshi_mlx
from moshi_mlx.checkpoint.hub import locate
from moshi_mlx.config import LMConfig
from moshi_mlx.economy import DTYPES, KV_BITS, Economy
from moshi_mlx.model.layers import Linear
from moshi_mlx.quantize.conversation import encode

LARGEST_FLOAT16 = 65_504


def spoken(args: argparse.Namespace, folder: Path, config: LMConfig) -> tuple[np.ndarray, np.ndarray]:
    """Moshi's codes and the user's, [frames, codebooks] each."""
    own, user = config.dep_q, config.user_codebooks
    if not args.audio:
        codes = np.random.default_rng(0).integers(0, config.card, (args.frames, own + user)).astype(np.int32)
        return codes[:, :own], codes[:, own:]
    codes = encode(moshi_mlx.load(folder).codec, args.audio, max(own, user)).T
    half = min(len(codes) // 2, args.frames)
    return codes[:half, :own], codes[half : 2 * half, :user]


def predict(
    lm: moshi_mlx.LM, own: np.ndarray, user: np.ndarray, text: list[int] | None
) -> tuple[list[int], np.ndarray]:
    """Let a model listen to both voices; its text, sampled or as given, and log-probabilities [frames, vocabulary]."""
    generator, said, scores = moshi_mlx.Generator(lm, cut=True), [], []
    delays = np.array(lm.config.delays[1 : 1 + lm.config.dep_q])
    for step in range(len(own)):
        token = generator.begin(user[step], logits=True)
        said.append(token if text is None else text[step])
        column = np.array([own[max(step - delay, 0), k] for k, delay in enumerate(delays)], int)
        frame = generator.finish(said[-1], column)
        assert frame.logits is not None
        logits = frame.logits.text.astype(np.float64)
        scores.append(logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max())
    return said, np.stack(scores)


@contextmanager
def watched(wanted: bool) -> Iterator[list[Any]]:
    """While the context lasts, gather the largest number that goes into or out of any norm and product."""
    peaks: list[Any] = []
    if not wanted:
        yield peaks
        return
    originals = {kind: getattr(kind, "__call__") for kind in (nn.RMSNorm, Linear, nn.QuantizedLinear)}  # noqa: B004, B009

    def watch(kind: type, call: Callable[..., mx.array]) -> None:
        def watching(module: nn.Module, x: mx.array) -> mx.array:
            y = call(module, x)
            peaks.append(mx.maximum(mx.abs(x).max(), mx.abs(y).max()).astype(mx.float32).item())
            return y

        setattr(kind, "__call__", watching)  # noqa: B010

    mx.disable_compile()
    for kind, call in originals.items():
        watch(kind, call)
    try:
        yield peaks
    finally:
        mx.enable_compile()
        for kind, call in originals.items():
            setattr(kind, "__call__", call)  # noqa: B010


def tell(name: str, expected: np.ndarray, found: np.ndarray) -> None:
    """The difference of two models' log-probabilities over some frames."""
    if not len(expected):
        return
    if not np.isfinite(found).all():
        print(f"{name}: {np.isnan(found).any(axis=1).sum()} of {len(found)} frames are no numbers")
        return
    divergence = (np.exp(expected) * (expected - found)).sum(axis=1)
    agree = (expected.argmax(axis=1) == found.argmax(axis=1)).mean()
    print(f"{name}: KL {divergence.mean():.2e} mean, {divergence.max():.2e} at most; log-probabilities differ by "
          f"{np.abs(expected - found).max():.4f} at most; the likeliest token is the same in {agree:.1%}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="tiny", metavar="FOLDER")
    parser.add_argument("--context", type=int)
    parser.add_argument("--kv-bits", type=int, choices=KV_BITS)
    parser.add_argument("--dtype", choices=DTYPES)
    parser.add_argument("--audio", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=700)
    parser.add_argument("--range", action="store_true")
    args = parser.parse_args()
    folder = locate(args.model, companions=False)
    lm = moshi_mlx.load_lm(folder)
    own, user = spoken(args, folder, lm.config)
    text, expected = predict(lm, own, user, None)
    window = lm.config.transformer.context
    del lm
    with watched(args.range) as peaks:
        other = moshi_mlx.load_lm(folder, Economy(args.context, args.kv_bits, args.dtype))
        _, found = predict(other, own, user, text)
    window = min(window, other.config.transformer.context)
    tell(f"frames before the window of {window:,} is full", expected[:window], found[:window])
    tell("frames after", expected[window:], found[window:])
    if peaks:
        print(f"largest number in the network: {max(peaks):,.1f}; float16 ends at {LARGEST_FLOAT16:,}")


if __name__ == "__main__":
    main()
