"""Quantizing Helium: the same tensors whether it comes under Hugging Face's names or under MLX's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from helium_weights import CONFIG, tensors
from quantize_models import load, same_bits, save

import moshi_mlx
from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.errors import CheckpointError
from moshi_mlx.quantize import source as source_module
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import BFLOAT16, RECIPES, choose
from moshi_mlx.tasks.writing import Writing

SMALL: dict[str, Any] = {
    **CONFIG, "hidden_size": 128, "intermediate_size": 192, "head_dim": 32, "num_hidden_layers": 2,
}  # fmt: skip
"""Rows that groups of 64 divide."""
TOKENIZER = Path(__file__).parents[1] / "goldens" / "helium_tokenizer.json"


@pytest.fixture(scope="module")
def huggingface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As kyutai/helium-1-preview-2b is: bf16, config.json and tokenizer.json."""
    folder = tmp_path_factory.mktemp("huggingface") / "model"
    save(folder, SMALL, {name: mx.array(value).astype(mx.bfloat16) for name, value in tensors(SMALL, 0).items()})
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def mlx(huggingface: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As kyutai/helium-1-preview-2b-mlx is, but for the missing config.json."""
    folder, weights = tmp_path_factory.mktemp("mlx") / "model", load(huggingface)
    sources = inspect(huggingface).sources
    stacked = {name: mx.concatenate([weights[s.name] for s in found]) for name, found in sources.items()}
    assert stacked.keys() != weights.keys()
    save(folder, SMALL, stacked)
    return folder


@pytest.mark.parametrize("recipe", ["q4", "q8", "mixed_4_8"])
def test_both_forms_give_the_same_bits(
    recipe: str, huggingface: Path, mlx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_module, "BLOCK_BYTES", 5_000)  # blocks that begin and end within a stacked tensor
    found, wanted = (
        load(convert(plan(source, tmp_path / name, RECIPES[recipe])))
        for name, source in (("huggingface", huggingface), ("mlx", mlx))
    )
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not same_bits(found[name], wanted[name])] == []
    form = RECIPES[recipe].formats(inspect(mlx).config)["transformer.layers.0.self_attn.in_proj"]
    assert form is not None
    whole = mx.quantize(load(mlx)["transformer.layers.0.self_attn.in_proj.weight"], form.group_size, form.bits)
    assert same_bits(found["transformer.layers.0.self_attn.in_proj.weight"], whole[0])


@pytest.mark.parametrize("recipe", ["q4", "q8"])
def test_what_was_quantized_writes(recipe: str, huggingface: Path, tmp_path: Path) -> None:
    folder = convert(plan(huggingface, tmp_path / recipe, RECIPES[recipe]))
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".json", ".md", ".safetensors"]  # no codec
    moshi = moshi_mlx.load(folder)
    assert (moshi.checkpoint.vocabulary, moshi.checkpoint.precision) == ("MLX", recipe)
    writing = Writing(moshi, "Hello", max_tokens=20)
    list(writing)
    assert len(writing.tokens) == 20 or writing.ended


def quantized_by_mlx_lm(folder: Path, source: Path, keep: str = "") -> Path:
    """As mlx-community publishes Helium: every matrix quantized for itself, under Hugging Face's names."""
    weights: dict[str, mx.array] = {}
    for name, value in load(source).items():
        module = name.removesuffix(".weight")
        arrays = [value] if value.ndim == 1 or (keep and keep in name) else mx.quantize(value, 64, 4)
        weights |= dict(zip((name, f"{module}.scales", f"{module}.biases"), arrays, strict=False))
    config = {**SMALL, "quantization": {"group_size": 64, "bits": 4}, "quantization_config": {"bits": 4}}
    save(folder, config, weights)
    shutil.copy(TOKENIZER, folder / "tokenizer.json")
    return folder


def test_what_mlx_lm_quantized_is_read_as_it_is(huggingface: Path, tmp_path: Path) -> None:
    """A row is quantized for itself, so that projections one below the other are what they are apart."""
    foreign = quantized_by_mlx_lm(tmp_path / "foreign", huggingface)
    ours = convert(plan(huggingface, tmp_path / "ours", choose(bits=4, group_size=64)))
    assert (inspect(foreign).vocabulary, inspect(foreign).precision) == ("Hugging Face", "q4")
    codes = mx.array([[[5, 6, 7, 8, 9]]])
    logits = [moshi_mlx.load_lm(folder)(codes).text for folder in (foreign, ours)]
    assert same_bits(*logits)


def test_what_mlx_lm_quantized_can_be_undone(huggingface: Path, tmp_path: Path) -> None:
    foreign = quantized_by_mlx_lm(tmp_path / "foreign", huggingface)
    ours = convert(plan(huggingface, tmp_path / "ours", choose(bits=4, group_size=64)))
    undone = [load(convert(plan(source, tmp_path / f"{source.name}-dense", BFLOAT16))) for source in (foreign, ours)]
    assert undone[0].keys() == undone[1].keys()
    assert all(same_bits(undone[0][name], undone[1][name]) for name in undone[0])


def test_projections_that_are_quantized_apart_are_refused(huggingface: Path, tmp_path: Path) -> None:
    foreign = quantized_by_mlx_lm(tmp_path / "foreign", huggingface, keep="layers.1.self_attn.v_proj")
    with pytest.raises(CheckpointError, match=r"layers\.1.*v_proj.*not stored alike"):
        inspect(foreign)


def test_the_written_config_is_helium_s(huggingface: Path, tmp_path: Path) -> None:
    folder = convert(plan(huggingface, tmp_path / "q4", RECIPES["q4"]))
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["hidden_size"], config["tokenizer_name"]) == ("helium", 128, "tokenizer.json")
    assert inspect(folder).config == inspect(huggingface).config
