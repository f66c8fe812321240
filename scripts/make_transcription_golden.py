"""What the PyTorch reference hears in a recording, written to tests/goldens/tasks/transcription.safetensors.

The built-in codec and a small model with generated weights, through `moshi`'s own Mimi and LMGen: silence before
the sound and after it, the first frame fed twice so that it is heard (as in `moshi.run_inference`), greedy, float32.
Run in an environment with `moshi` 0.2.13 (see make_goldens.py) and sphn, which reads the sound:

    python scripts/make_transcription_golden.py

It holds, for T frames: codes [T, 32], text [T], extra [T, heads, width]; in its metadata the config, the seed of the
weights, their digest, and how close a second-best text token came.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["NO_TORCH_COMPILE"] = "1"

import numpy as np
import sphn
import torch
from golden_configs import config as miniature
from moshi.models.lm import LMGen, LMModel
from moshi.models.loaders import get_mimi, get_moshi_lm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import task_goldens  # noqa: E402
from golden_weights import digest  # noqa: E402

from moshi_mlx.checkpoint.tiny_mimi import write_tiny_mimi  # noqa: E402

SOUND = ROOT / "moshi_mlx" / "assets" / "hello.flac"
FRAME, RATE, SECONDS = 1920, 12.5, 7
FLUSH = 1.0  # seconds of silence beyond the delay
MARGIN = 1e-3
CONFIG: dict[str, Any] = miniature(
    32,
    0,
    [0] * 33,
    card=2048,
    text_card=512,
    extra_heads_num_heads=4,
    extra_heads_dim=6,
)
STT = {"audio_silence_prefix_seconds": 1.0, "audio_delay_seconds": 0.5}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    codes = encode(with_silence(voice()))
    for seed in itertools.count():
        model = get_moshi_lm(None, lm_kwargs=CONFIG, device="cpu", dtype=torch.float32)
        weights = task_goldens.weights_of(CONFIG, seed)
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
        text, extra, margin = hear(model, codes)
        if margin > MARGIN:
            break
    metadata = {
        "config": CONFIG | {"stt_config": STT},
        "seed": seed,
        "weights": digest(weights),
        "margin": margin,
        "seconds": SECONDS,
    }
    arrays = {"codes": codes.astype(np.int16), "text": text.astype(np.int16), "extra": extra}
    task_goldens.write("transcription", metadata, arrays)


def voice() -> np.ndarray:
    """The built-in voice."""
    return sphn.read(str(SOUND))[0][0]


def with_silence(voice: np.ndarray) -> torch.Tensor:
    """Whole frames [T, 1920] of the recording, with the silence that the model asks for around it."""
    prefix, delay = (STT[f"audio_{key}_seconds"] for key in ("silence_prefix", "delay"))
    before, after = math.ceil(prefix * RATE), math.ceil((delay + FLUSH) * RATE)
    sound = np.concatenate(task_goldens.recording(SECONDS, voice))
    filled = np.pad(sound, (before * FRAME, after * FRAME + -len(sound) % FRAME))
    return torch.from_numpy(filled.reshape(-1, FRAME))


def encode(frames: torch.Tensor) -> np.ndarray:
    """Codes [T, 32]."""
    with tempfile.TemporaryDirectory() as folder:
        mimi = get_mimi(write_tiny_mimi(Path(folder) / "mimi.safetensors"), device="cpu", num_codebooks=32)
    with mimi.streaming(1):
        return np.stack([mimi.encode(frame[None, None])[0, :, 0].numpy() for frame in frames])


def hear(model: LMModel, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Text [T], probabilities of the extra heads [T, heads, width], and the smallest margin of a text token."""
    text, extra, margins = [], [], []

    def on_logits(logits: torch.Tensor) -> None:
        best = logits[0, 0, 0].topk(2).values
        margins.append(float(best[0] - best[1]))

    generator = LMGen(model, use_sampling=False, on_text_logits_hook=on_logits)
    with generator.streaming(1):
        for column in (codes[0], *codes):
            tokens, heads = generator.step_with_extra_heads(torch.from_numpy(column)[None, :, None])
            text.append(int(tokens[0, 0, 0]))
            extra.append(torch.stack([head[0, 0] for head in heads]).numpy())
    return np.array(text[1:]), np.stack(extra[1:]), min(margins[1:])


if __name__ == "__main__":
    main()
