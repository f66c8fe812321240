"""Converting: the bits are MLX's own, whatever the source is called, and the folder is complete or not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from quantize_models import HELIUM, SHARED, SMALL, files_of, load, same_bits, save, write

from moshi_mlx.checkpoint.inspect import MIMI, TOKENIZER, inspect
from moshi_mlx.checkpoint.weight_files import INDEX
from moshi_mlx.errors import MoshiError
from moshi_mlx.quantize import convert as convert_module
from moshi_mlx.quantize import source as source_module
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import BFLOAT16, BITS, GROUP_SIZES, MODES, RECIPES, Recipe, choose
from moshi_mlx.quantize.writer import partial_of, place

EVERY = [
    *RECIPES.values(),
    *(choose(bits=bits, group_size=group) for bits in BITS for group in GROUP_SIZES if (bits, group) != (4, 32)),
    *(choose(mode=mode) for mode in MODES[1:]),
]


def quantize(source: Path, destination: Path, recipe: Recipe, **flags: Any) -> Path:
    return convert(plan(source, destination, recipe), **flags)


def expected(weights: dict[str, mx.array], recipe: Recipe, source: Path) -> dict[str, mx.array]:
    """Every tensor quantized whole, by MLX itself."""
    formats, found = recipe.formats(inspect(source).config), {}
    for name, value in weights.items():
        module = name.removesuffix(".weight")
        form = formats.get(module)
        if form is None:
            found[name] = value.astype(mx.bfloat16)
            continue
        arrays = mx.quantize(value.astype(mx.bfloat16), form.group_size, form.bits, form.mode)
        found |= dict(zip((name, f"{module}.scales", f"{module}.biases"), arrays, strict=False))
    return found


def assert_same(found: dict[str, mx.array], wanted: dict[str, mx.array]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not same_bits(found[name], wanted[name])] == []


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bf16") / "model")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few rows, so that small tensors are cut as large ones are."""
    monkeypatch.setattr(source_module, "BLOCK_BYTES", 7 * 256)


@pytest.mark.parametrize("recipe", EVERY, ids=lambda recipe: recipe.name)
def test_the_bits_are_those_of_mlx(recipe: Recipe, bf16: Path, tmp_path: Path, small_blocks: None) -> None:
    result = quantize(bf16, tmp_path / "result", recipe)
    assert_same(load(result), expected(load(bf16), recipe, bf16))


@pytest.mark.parametrize("config", [SMALL, SHARED, HELIUM], ids=["small", "shared", "helium"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=["bf16", "float32"])
def test_pytorch_names_give_the_files_that_mlx_names_give(
    config: dict[str, Any], dtype: mx.Dtype, tmp_path: Path, small_blocks: None
) -> None:
    results = []
    for names in ("mlx", "pytorch", "per_step"):
        source = write(tmp_path / names / "model", config, names=names, dtype=dtype)
        results.append(files_of(quantize(source, tmp_path / f"{names}-q4", RECIPES["q4"])))
    assert results[0] == results[1] == results[2]


def test_float32_is_cast_to_bfloat16_first(tmp_path: Path) -> None:
    source = write(tmp_path / "source", dtype=mx.float32)
    result = load(quantize(source, tmp_path / "result", RECIPES["q4"]))
    weight = load(source)["text_linear.weight"]
    assert same_bits(result["text_linear.weight"], mx.quantize(weight.astype(mx.bfloat16), 32, 4)[0])
    assert not same_bits(result["text_linear.scales"], mx.quantize(weight, 32, 4)[1])


def test_q8_becomes_the_q4_of_what_q8_means(bf16: Path, tmp_path: Path) -> None:
    q8 = quantize(bf16, tmp_path / "q8", RECIPES["q8"])
    dense = quantize(q8, tmp_path / "dense", BFLOAT16)
    assert_same(
        load(quantize(q8, tmp_path / "q4", RECIPES["q4"])), load(quantize(dense, tmp_path / "q4-too", RECIPES["q4"]))
    )


def test_dequantizing_gives_what_mlx_dequantizes_to(bf16: Path, tmp_path: Path, small_blocks: None) -> None:
    for recipe in (RECIPES["mixed_3_6"], choose(mode="mxfp8")):
        stored = load(quantize(bf16, tmp_path / recipe.name, recipe))
        formats = inspect(tmp_path / recipe.name).formats
        result = quantize(tmp_path / recipe.name, tmp_path / f"{recipe.name}-dense", BFLOAT16)
        wanted = {name: value for name, value in load(bf16).items() if value.ndim == 1}
        for module, form in formats.items():
            assert form is not None
            parts = (stored[f"{module}.weight"], stored[f"{module}.scales"], stored.get(f"{module}.biases"))
            wanted[f"{module}.weight"] = mx.dequantize(*parts, form.group_size, form.bits, form.mode)
        assert_same(load(result), wanted)
        assert inspect(result).precision == "bf16"
        assert "quantization" not in json.loads((result / "config.json").read_text())


def test_layers_that_stay_as_they_are_are_copied(bf16: Path, tmp_path: Path) -> None:
    q8 = quantize(bf16, tmp_path / "q8", RECIPES["q8"])
    mixed = load(quantize(q8, tmp_path / "mixed", RECIPES["mixed_4_8"]))
    for part in ("weight", "scales", "biases"):
        assert same_bits(mixed[f"text_emb.{part}"], load(q8)[f"text_emb.{part}"])


def test_config_json_tells_every_layer_and_is_held_against_the_file(bf16: Path, tmp_path: Path) -> None:
    result = quantize(bf16, tmp_path / "result", RECIPES["mixed_3_6"])
    config = json.loads((result / "config.json").read_text())
    told = config["quantization"]
    assert told.get("transformer.layers.1.gating.linear_in", told)["bits"] == 3
    assert told.get("text_emb", told) in ({"bits": 6, "group_size": 64, "mode": "affine"}, told)
    assert told["bits"] == 6
    config["quantization"]["text_linear"] = {"bits": 4, "group_size": 64, "mode": "affine"}
    (result / "config.json").write_text(json.dumps(config))
    with pytest.raises(MoshiError, match="text_linear"):
        inspect(result)


def test_kyutais_recipes_are_one_file_under_its_name(
    bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert_module, "place", lambda entries, single: place(entries, single, 100_000))
    for name in ("q4", "q8"):
        result = quantize(bf16, tmp_path / name, RECIPES[name])
        assert sorted(path.name for path in result.iterdir()) == [
            "README.md",
            "config.json",
            f"model.{name}.safetensors",
        ]
        assert json.loads((result / "config.json").read_text())["moshi_name"] == f"model.{name}.safetensors"


def test_other_recipes_are_shards_with_an_index(bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "place", lambda entries, single: place(entries, single, 100_000))
    result = quantize(bf16, tmp_path / "result", RECIPES["mixed_4_6"])
    shards = sorted(result.glob("model-*.safetensors"))
    assert len(shards) > 5
    assert all(shard.stat().st_size < 120_000 for shard in shards)
    index = json.loads((result / INDEX).read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    assert index["metadata"]["total_size"] == inspect(result).nbytes
    assert_same(load(result), expected(load(bf16), RECIPES["mixed_4_6"], bf16))
    shards[1].unlink()
    with pytest.raises(MoshiError, match=shards[1].name):
        plan(result, tmp_path / "again", BFLOAT16)


def test_codec_and_tokenizer_come_along_and_outlive_the_source(tmp_path: Path) -> None:
    source = write(tmp_path / "source")
    (source / MIMI).write_bytes(b"codec")
    (tmp_path / "blob").write_bytes(b"tokenizer")
    (source / TOKENIZER).symlink_to(tmp_path / "blob")  # as in the Hub's cache
    result = quantize(source, tmp_path / "result", RECIPES["q4"])
    shutil.rmtree(source)
    (tmp_path / "blob").unlink()
    assert (result / MIMI).read_bytes() == b"codec"
    assert (result / TOKENIZER).read_bytes() == b"tokenizer"
    config = json.loads((result / "config.json").read_text())
    assert (config["mimi_name"], config["tokenizer_name"]) == (MIMI, TOKENIZER)


def test_the_card_tells_recipe_figures_licence_and_what_is_not_known(bf16: Path, tmp_path: Path) -> None:
    result = quantize(bf16, tmp_path / "result", RECIPES["mixed_4_8"], base_model="kyutai/moshiko-mlx-bf16")
    card = (result / "README.md").read_text()
    for words in (
        "license: cc-by-4.0", "base_model: kyutai/moshiko-mlx-bf16", "mixed_4_8",
        "| temporal | 4 bits in groups of 64 |", "bits per weight", "per frame", "not yet measured",
        "moshi-mlx compare",
    ):  # fmt: skip
        assert words in card


def test_progress_counts_every_byte_of_the_source(bf16: Path, tmp_path: Path, small_blocks: None) -> None:
    seen: list[tuple[int, int]] = []
    quantize(bf16, tmp_path / "result", RECIPES["q4"], progress=lambda done, total: seen.append((done, total)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1] == inspect(bf16).nbytes
    assert seen == sorted(seen)


def destroy_shard(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def drop_tensor(folder: Path) -> None:
    weights = load(folder)
    del weights["text_linear.weight"]
    save(folder, SMALL, weights)


@pytest.mark.parametrize("damage", [destroy_shard, drop_tensor, lambda folder: (folder / "model.safetensors").unlink()])
def test_a_broken_source_leaves_nothing_behind(damage: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "source")
    damage(source)
    with pytest.raises(MoshiError):
        plan(source, tmp_path / "result", RECIPES["q4"])
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_bits_that_are_gone_are_not_made_up(bf16: Path, tmp_path: Path) -> None:
    q4 = quantize(bf16, tmp_path / "q4", RECIPES["q4"])
    with pytest.raises(MoshiError, match="in 4 bits, and q8 wants 8"):
        plan(q4, tmp_path / "result", RECIPES["q8"])
    with pytest.raises(MoshiError, match="in 4 bits, and mixed_4_6 wants 6"):
        plan(q4, tmp_path / "result", RECIPES["mixed_4_6"])
    with pytest.raises(MoshiError, match="is q4 already"):
        plan(q4, tmp_path / "result", RECIPES["q4"])
    with pytest.raises(MoshiError, match="nothing to undo"):
        plan(bf16, tmp_path / "result", BFLOAT16)


def test_a_full_disk_is_noticed_before_it_is_full(bf16: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "free_disk", lambda path: 1000)
    with pytest.raises(MoshiError, match="1 kB are free there"):
        plan(bf16, tmp_path / "result", RECIPES["q4"])
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_touched(bf16: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.symlink("nowhere", tmp_path / "dangling")
    for name in ("file", "folder", "dangling"):
        with pytest.raises(MoshiError, match="exists already"):
            plan(bf16, tmp_path / name, RECIPES["q4"])
    partial_of(tmp_path / "result").mkdir()
    with pytest.raises(MoshiError, match="add --resume"):
        plan(bf16, tmp_path / "result", RECIPES["q4"])
