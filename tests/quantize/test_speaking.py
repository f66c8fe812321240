"""Quantizing a model that is told something beside its tokens: what is quantized, what stays, what comes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import tensors
from quantize_models import MAKERS, SMALL, load, same_bits, save

import moshi_mlx
from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.model.conditions import TensorCondition
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import BFLOAT16, choose

CONFIG: dict[str, Any] = {
    **SMALL, "n_q": 4, "dep_q": 4, "delays": [0, 0, 1, 1, 1], "demux_second_stream": True, "cross_attention": True,
    "depformer_weights_per_step_schedule": [0, 1, 1, 1], "depformer_low_rank_embeddings": 64,
    "depformer_norm": "layer_norm", "model_type": "tts",
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 24}},
        "control": {"type": "lut", "lut": {"n_bins": 1, "dim": 16, "tokenizer": "noop", "possible_values": ["ok"]}},
    },
    "fuser": {"sum": ["control"], "cross": ["speaker_wavs"], "cross_attention_pos_emb": True},
}  # fmt: skip
TOLERANCE = 2e-3
"""Sums in another order; logits have a deviation of about 4."""


@pytest.fixture(scope="module", params=["mlx", "pytorch"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As published: bfloat16, the conditioners float32."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    weights = MAKERS[request.param](tensors(CONFIG, 0), CONFIG)
    kept = {name: mx.array(value) for name, value in weights.items()}
    save(
        folder,
        CONFIG,
        {n: x if n.startswith("condition_provider.") else x.astype(mx.bfloat16) for n, x in kept.items()},
    )
    return folder


def logits(folder: Path) -> np.ndarray:
    """Text and audio logits of a few frames, in float32 arithmetic."""
    lm = moshi_mlx.load_lm(folder)
    lm.set_dtype(mx.float32)
    voice = TensorCondition(np.random.default_rng(0).standard_normal((6, 24)).astype(np.float32))
    told = lm.conditions([{"speaker_wavs": voice, "control": "ok"}, {"speaker_wavs": None, "control": None}])
    greedy = moshi_mlx.Sampling(temp=0)
    generator = moshi_mlx.Generator(lm, greedy, greedy, conditions=told, guidance=2.0, cut=True)
    found = []
    for text in (3, 97 * 5 + 3, -1, 97 * 96 + 96):
        generator.begin(logits=True)
        scores = generator.finish(text, [-1, -1, -2, 7]).logits
        assert scores is not None
        assert scores.audio is not None
        found.append(np.concatenate([scores.text, scores.audio.reshape(-1)]))
    return np.stack(found)


def dequantized(folder: Path, destination: Path) -> Path:
    """What the stored numbers mean, in float32."""
    checkpoint, stored = inspect(folder), load(folder)
    dense = {}
    for name, value in stored.items():
        module, _, part = name.rpartition(".")
        form = checkpoint.formats.get(module)
        if form is None:
            dense[name] = value.astype(mx.float32)
        elif part == "weight":
            scales, biases = (stored[f"{module}.{part}"].astype(mx.float32) for part in ("scales", "biases"))
            dense[name] = mx.dequantize(value, scales, biases, form.group_size, form.bits)
    save(destination, CONFIG, dense)
    return destination


def test_a_model_that_speaks_in_four_bits(source: Path, tmp_path: Path) -> None:
    folder = convert(plan(source, tmp_path / "q4", choose("q4")))
    stored, given = load(folder), load(source)
    conditions = {name for name in given if name.startswith("condition_provider.")}
    assert len(conditions) == 5
    assert all(same_bits(stored[name], given[name]) for name in conditions)
    formats = inspect(folder).formats
    assert not any(name.startswith("condition_provider.") for name in formats)
    for module in ("text_emb.out2", "transformer.layers.1.cross_attention.in_proj", "depformer.slices.0.emb.out1"):
        assert formats[module] is not None
    assert stored["transformer.layers.0.norm_cross.bias"].dtype == mx.bfloat16
    assert json.loads((folder / "config.json").read_text())["fuser"] == CONFIG["fuser"]
    meant = logits(dequantized(folder, tmp_path / "exact"))
    np.testing.assert_allclose(logits(folder), meant, rtol=0, atol=TOLERANCE)
    assert np.abs(meant - logits(source)).max() > 10 * TOLERANCE


def test_and_back(source: Path, tmp_path: Path) -> None:
    q8 = convert(plan(source, tmp_path / "q8", choose("q8")))
    bf16 = convert(plan(q8, tmp_path / "bf16", BFLOAT16))
    assert inspect(bf16).precision == "bf16"
    assert load(bf16).keys() == MAKERS["mlx"](tensors(CONFIG, 0), CONFIG).keys()
