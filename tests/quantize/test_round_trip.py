"""Every recipe runs: loaded as any checkpoint, its logits are those of what its numbers mean."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from quantize_models import HELIUM, SHARED, SMALL, load, random_codes, save, write

import moshi_mlx
from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import BFLOAT16, MODES, RECIPES, Recipe, choose

EVERY = [
    *RECIPES.values(),
    *(choose(bits=bits, group_size=group) for bits, group in ((2, 32), (3, 64), (5, 64), (6, 128))),
    *(choose(mode=mode) for mode in MODES[1:]),
]
FRAMES = 4
TOLERANCE = 2e-3
"""Sums in another order; logits have a deviation of about 4."""
FLOAT_MODE_TOLERANCE = 0.06
"""Tables of the floating-point modes give bfloat16 vectors, whose sum over the streams is rounded to bfloat16."""
COPY_TOLERANCE = 0.1
"""Root mean square: a bfloat16 copy rounds each weight once more, by one part in 512 at most."""


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bf16") / "model")


def run(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Greedy frames in float32 arithmetic: text logits [frames, V], audio logits [frames, dep_q, card]."""
    lm = moshi_mlx.load_lm(folder)
    lm.set_dtype(mx.float32)
    greedy = moshi_mlx.Sampling(temp=0)
    generator = moshi_mlx.Generator(lm, greedy, greedy)
    user = np.random.default_rng(0).integers(0, lm.config.card, (FRAMES, lm.config.user_codebooks))
    frames = [generator.step(codes, text=7, logits=True).logits for codes in user]
    pairs = [(frame.text, frame.audio) for frame in frames if frame is not None and frame.audio is not None]
    assert len(pairs) == FRAMES
    return np.stack([text for text, _ in pairs]), np.stack([audio for _, audio in pairs])


def exact(folder: Path, destination: Path) -> Path:
    """What the stored numbers mean, in float32, before any rounding of the products."""
    checkpoint, stored, dense = inspect(folder), load(folder), {}
    for name, value in stored.items():
        module, _, part = name.rpartition(".")
        form = checkpoint.formats.get(module)
        if form is None:
            dense[name] = value.astype(mx.float32)
        elif part == "weight":
            scales, biases = stored[f"{module}.scales"], stored.get(f"{module}.biases")
            if biases is not None:
                scales, biases = scales.astype(mx.float32), biases.astype(mx.float32)
            dense[name] = mx.dequantize(value, scales, biases, form.group_size, form.bits, form.mode, dtype=mx.float32)
    config = {key: value for key, value in checkpoint.config.raw.items() if key not in ("quantization", "moshi_name")}
    save(destination, config, dense)
    return destination


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_frames_are_those_of_a_dequantized_copy(recipe: Recipe, bf16: Path, tmp_path: Path) -> None:
    result = convert(plan(bf16, tmp_path / "result", recipe))
    copy = exact(result, tmp_path / "exact")
    tolerance = TOLERANCE if recipe.bulk and recipe.bulk.mode == "affine" else FLOAT_MODE_TOLERANCE
    for logits, wanted in zip(run(result), run(copy), strict=True):
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=tolerance)
    dense = convert(plan(result, tmp_path / "dense", BFLOAT16))
    wanted, lost = forced(copy), forced(bf16)
    assert deviation(forced(dense), wanted) < COPY_TOLERANCE
    assert deviation(lost, wanted) > deviation(forced(result), wanted)  # it is not the source that was compared


def forced(folder: Path) -> np.ndarray:
    """Teacher-forced text logits in float32 arithmetic."""
    lm = moshi_mlx.load_lm(folder)
    lm.set_dtype(mx.float32)
    return np.array(lm(mx.array(random_codes(SMALL, 1, 8))).text)


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


@pytest.mark.parametrize("config", [SHARED, HELIUM], ids=["shared", "helium"])
def test_other_shapes_of_network_go_through(config: dict, tmp_path: Path) -> None:
    source = write(tmp_path / "source", config, names="pytorch")
    result = convert(plan(source, tmp_path / "result", RECIPES["mixed_4_6"]))
    wanted = moshi_mlx.load_lm(exact(result, tmp_path / "exact"))
    lm = moshi_mlx.load_lm(result)
    lm.set_dtype(mx.float32)
    codes = mx.array(random_codes(config, 1, 8))
    np.testing.assert_allclose(np.array(lm(codes).text), np.array(wanted(codes).text), rtol=0, atol=TOLERANCE)
