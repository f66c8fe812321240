"""Recipes: which layer gets which bits, and that their sizes are the files' sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from quantize_models import HELIUM, SHARED, SMALL

from moshi_mlx.bench.random_model import SIZES
from moshi_mlx.checkpoint.formats import Format
from moshi_mlx.checkpoint.sizes import frame_bytes, model_bytes, window_bytes
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.errors import MoshiError
from moshi_mlx.quantize.recipes import BFLOAT16, BITS, GROUP_SIZES, PARTS, RECIPES, choose, part_of, size_of

MOSHI = LMConfig.from_dict(MOSHI_7B)


def test_moshi_weighs_what_kyutai_published() -> None:
    """15.38 GB in bf16, 8.17 in q8, 4.81 in q4: the sizes of the published files."""
    sizes = {r.name: size_of(MOSHI, r.formats(MOSHI)) for r in (BFLOAT16, RECIPES["q8"], RECIPES["q4"])}
    assert [round(size.nbytes / 1e9, 2) for size in sizes.values()] == [15.38, 8.17, 4.81]
    assert {size.parameters for size in sizes.values()} == {7_687_815_168}


def test_a_frame_reads_each_depth_step_and_one_row_of_each_table() -> None:
    config = LMConfig.from_dict(SHARED)
    size = size_of(config, BFLOAT16.formats(config))
    dim, hidden, low = 128, 384, 128
    layer = 2 * dim + 4 * dim * dim + 3 * dim * hidden
    temporal = 3 * layer + dim + 96 * dim
    step = 2 * layer + dim * dim + 64 * dim + low * dim
    assert size.frame_bytes == 2 * (temporal + 4 * step + 9 * dim + 4 * low)


@pytest.mark.parametrize("name", SIZES)
def test_every_architecture_weighs_what_the_checkpoints_own_counting_says(name: str) -> None:
    config = LMConfig.from_dict(SIZES[name])
    size = size_of(config, BFLOAT16.formats(config))
    shared = config.depth is not None and config.depth.num_weights < config.depth.steps
    assert shared or size.nbytes == model_bytes(config, 16)  # of weights that steps share a file holds copies
    # An input that steps share is read once, and counted for each of them here.
    assert size.frame_bytes == pytest.approx(frame_bytes(config, 16) - window_bytes(config), rel=0.02 * shared)


def test_every_part_of_the_network_is_named_once() -> None:
    formats = BFLOAT16.formats(MOSHI)
    found = {part: [module for module in formats if part_of(module, MOSHI) == part] for part in PARTS}
    assert len(found["embeddings"]) == 17 + 8
    assert len(found["heads"]) == 1 + 8
    assert len(found["edges"]) == 4 * 4
    assert len(found["temporal"]) == 28 * 4
    assert len(found["depth"]) == 8 * (1 + 6 * 4)
    assert {module.split(".")[2] for module in found["edges"]} == {"0", "1", "30", "31"}


def test_mixtures_keep_bits_where_they_say() -> None:
    formats = RECIPES["mixed_4_8"].formats(MOSHI)
    assert formats["transformer.layers.2.gating.linear_in"] == Format(4, 64)
    for module in (
        "text_emb",
        "text_linear",
        "transformer.layers.31.self_attn.out_proj",
        "depformer.slices.3.linear_in",
    ):
        assert formats[module] == Format(8, 64)
    assert RECIPES["mixed_4_8"].file_name is None
    sizes = {name: size_of(MOSHI, recipe.formats(MOSHI)).nbytes for name, recipe in RECIPES.items()}
    assert sizes["mixed_3_6"] < sizes["q4"] < sizes["mixed_4_8"] < sizes["q8"]
    assert sizes["mixed_4_6"] == pytest.approx(sizes["q4"], rel=1e-3)


def test_flags_that_mean_a_named_recipe_are_that_recipe() -> None:
    assert choose() is choose("q4") is choose(bits=4) is choose(bits=4, group_size=32) is RECIPES["q4"]
    assert choose(bits=8).file_name == "model.q8.safetensors"
    assert choose(bits=4, group_size=64).file_name is None
    assert choose(mode="nvfp4").bulk == Format(4, 16, "nvfp4")


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("group_size", GROUP_SIZES)
def test_every_number_of_bits_goes_with_every_group_size(bits: int, group_size: int) -> None:
    assert choose(bits=bits, group_size=group_size).bulk == Format(bits, group_size)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "q5"}, "no recipe 'q5'"),
        ({"name": "q4", "bits": 4}, "--recipe says"),
        ({"bits": 7}, "no 7 bits"),
        ({"bits": 4, "group_size": 48}, "groups of 48"),
        ({"mode": "mxfp4", "bits": 8}, "mxfp4 has 4 bits"),
        ({"mode": "mxfp5"}, "no quantization mode"),
    ],
)
def test_what_does_not_exist_is_refused_by_name(arguments: dict, said: str) -> None:
    with pytest.raises(MoshiError, match=said):
        choose(**arguments)


def test_a_group_size_that_does_not_divide_a_layer_is_refused_with_those_that_do() -> None:
    config = LMConfig.from_dict({**SMALL, "dim": 64, "hidden_scale": 4.5})
    with pytest.raises(
        MoshiError, match=r"text_emb has rows of 64, which groups of 128 do not divide; groups of 32 or 64 do"
    ):
        choose(bits=4, group_size=128).formats(config)


def test_helium_has_no_depth() -> None:
    config = LMConfig.from_dict(HELIUM)
    assert size_of(config, RECIPES["q4"].formats(config)).parts["depth"] == 0


def test_the_table_in_the_documents_is_what_the_recipes_weigh() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "quantize.md").read_text()
    for name, recipe in RECIPES.items():
        size = size_of(MOSHI, recipe.formats(MOSHI))
        assert f"| `{name}` | {size.nbytes / 1e9:.2f} GB | {size.frame_bytes / 1e9:.2f} GB |" in text
