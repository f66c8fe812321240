"""How much speech one model transcribes at once: seconds of sound per second, for one stream, four and sixteen.

    python scripts/transcribe_throughput.py [--model tiny-stt] [--streams 1 4 16] [--seconds 10]
    python scripts/transcribe_throughput.py --size stt-1b -q 4

From sound to words, codec included, and the language model alone. `--size` takes a published architecture with random
weights, as `moshi-mlx bench` does. Every stream is also transcribed alone and compared. One line of JSON last.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import moshi_mlx
from moshi_mlx import Generator
from moshi_mlx.bench.random_model import SIZES, random_lm
from moshi_mlx.config import LMConfig
from moshi_mlx.moshi import Moshi
from moshi_mlx.rates import FRAME_RATE, FRAME_SIZE
from moshi_mlx.tasks.kinds import Kind, require
from moshi_mlx.tasks.transcription import GREEDY, Transcript, Transcription

SOUND = Path(moshi_mlx.__file__).parent / "assets" / "hello.flac"
LM_FRAMES = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-stt")
    parser.add_argument("--size", choices=sorted(SIZES), help="an architecture with random weights instead")
    parser.add_argument("-q", dest="bits", type=int, choices=(4, 8, 16, 32), default=4)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each stream")
    args = parser.parse_args()
    model = random(args.size, args.bits) if args.size else moshi_mlx.load(args.model)
    require(Kind.TRANSCRIBE, model.config, args.size or args.model)
    sounds = [stream(args.seconds, number) for number in range(max(args.streams))]
    alone = [transcribed(model, [sound])[0] for sound in sounds]
    print(f"{'streams':>8}{'seconds a second':>18}{'LM ms a frame':>16}{'LM seconds a second':>21}{'as alone':>10}")
    rows = [measure(model, sounds[:streams], alone) for streams in args.streams]
    print(json.dumps({"model": args.size or args.model, "seconds": args.seconds, "rows": rows}))


def random(size: str, bits: int) -> Moshi:
    """A published architecture with random weights, the built-in codec and a tokenizer."""
    built_in, config = moshi_mlx.load("tiny-stt"), LMConfig.from_dict(SIZES[size])
    return replace(built_in, lm=random_lm(config, bits), checkpoint=replace(built_in.checkpoint, config=config))


def stream(seconds: float, number: int) -> list[np.ndarray]:
    """The built-in voice over and over, from another moment on in every stream, in blocks."""
    sound, rate = soundfile.read(SOUND, dtype="float32")
    sound = np.resize(np.roll(sound, -number * len(sound) // 16), round(seconds * rate))
    return [sound[start : start + FRAME_SIZE] for start in range(0, len(sound), FRAME_SIZE)]


def transcribed(model: Moshi, sounds: list[list[np.ndarray]]) -> list[Transcript]:
    work = Transcription(model, sounds)
    for _ in work:
        pass
    return work.transcripts


def measure(model: Moshi, sounds: list[list[np.ndarray]], alone: list[Transcript]) -> dict[str, Any]:
    work, start = Transcription(model, sounds), time.perf_counter()
    frames = sum(1 for _ in work)
    whole = time.perf_counter() - start
    lm = lm_seconds(model, len(sounds))
    equal = sum(a.words == b.words and a.text == b.text for a, b in zip(work.transcripts, alone, strict=False))
    row = {
        "streams": len(sounds),
        "seconds_per_second": len(sounds) * frames / FRAME_RATE / whole,
        "lm_ms_per_frame": 1000 * lm,
        "lm_seconds_per_second": len(sounds) / FRAME_RATE / lm,
        "equal_to_alone": equal,
    }
    figures = f"{row['seconds_per_second']:>18.2f}{row['lm_ms_per_frame']:>16.1f}{row['lm_seconds_per_second']:>21.2f}"
    print(f"{len(sounds):>8}{figures}{f'{equal} of {len(sounds)}':>10}", flush=True)
    return {key: round(value, 3) for key, value in row.items()}


def lm_seconds(model: Moshi, streams: int) -> float:
    """The median time of a frame of the language model."""
    generator = Generator(model.lm, text_sampling=GREEDY, batch_size=streams)
    rng, took = np.random.default_rng(0), []
    for _ in range(LM_FRAMES):
        codes = rng.integers(0, model.config.card, (streams, model.config.user_codebooks), np.int32)
        start = time.perf_counter()
        generator.step(codes)
        took.append(time.perf_counter() - start)
    return float(np.median(took[2:]))


if __name__ == "__main__":
    main()
