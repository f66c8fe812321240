"""The bytes that a model takes and a frame reads, counted against the network's own parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from moshi_mlx.checkpoint.published import architectures
from moshi_mlx.checkpoint.sizes import frame_bytes, model_bytes, parameters, window_bytes
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.model.lm import LM

MOSHI = LMConfig.from_dict(MOSHI_7B)
SMALL = {**MOSHI_7B, "dim": 128, "num_layers": 2, "num_heads": 4, "depformer_dim": 64, "depformer_num_layers": 2,
         "depformer_num_heads": 4, "depformer_dim_feedforward": 264, "text_card": 500}  # fmt: skip
VARIANTS: dict[str, Mapping[str, Any]] = {
    "moshi": MOSHI_7B,
    "small": SMALL,
    "grouped heads": {**SMALL, "kv_repeat": 2},
    "schedule": {**SMALL, "depformer_weights_per_step_schedule": [0, 1, 2, 2, 3, 3, 3, 3]},
    "low rank": {**SMALL, "depformer_low_rank_embeddings": 16},
    "shared input": {**SMALL, "depformer_multi_linear": False},
    "no depth": {**{k: v for k, v in SMALL.items() if "depformer" not in k}, "dep_q": 0},
}
variants = pytest.mark.parametrize("config", [LMConfig.from_dict(c) for c in VARIANTS.values()], ids=list(VARIANTS))


def shapes_of(config: LMConfig) -> dict[str, tuple[int, ...]]:
    """The network's parameters (never computed), its tables without the zero row that no file holds."""
    parameters = cast("list[tuple[str, mx.array]]", tree_flatten(LM(config).parameters()))
    return {name: (p.shape[0] - is_table(name), *p.shape[1:]) for name, p in parameters}


def is_table(name: str) -> bool:
    return name.startswith("embed.parts.") or name.endswith(".table.weight")


def stored(shape: tuple[int, ...], bits: float) -> float:
    return math.prod(shape) * (bits if len(shape) == 2 else 16) / 8


@pytest.mark.parametrize(("bits", "gigabytes"), [(16, 15.38), (8, 8.17), (4, 4.81)])
def test_moshi_is_as_large_as_its_published_files(bits: int, gigabytes: float) -> None:
    assert model_bytes(MOSHI, bits) / 1e9 == pytest.approx(gigabytes, rel=0.002)


@pytest.mark.parametrize("name", architectures())
def test_a_published_model_has_the_parameters_of_its_network(name: str) -> None:
    config = architectures()[name].config
    assert parameters(config) == sum(math.prod(shape) for shape in shapes_of(config).values())


@variants
def test_parameters_are_those_of_the_network(config: LMConfig) -> None:
    assert parameters(config) == sum(math.prod(shape) for shape in shapes_of(config).values())


@variants
@pytest.mark.parametrize(("bits", "with_scales"), [(16, 16), (8, 8.5), (4, 5)])
def test_a_model_is_the_sum_of_its_tensors(config: LMConfig, bits: int, with_scales: float) -> None:
    expected = sum(stored(shape, with_scales) for shape in shapes_of(config).values())
    assert model_bytes(config, bits) == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in ("schedule", "low rank")])
def test_a_frame_reads_all_but_the_tables_and_one_row_of_each(name: str) -> None:
    config = LMConfig.from_dict(VARIANTS[name])
    shapes = shapes_of(config)
    matrices = sum(stored(shape, 16) for name, shape in shapes.items() if not is_table(name))
    # The network keeps all streams in one table.
    rows = sum(
        2 * shape[1] * (17 if name.startswith("embed.") else 1) for name, shape in shapes.items() if is_table(name)
    )
    assert frame_bytes(config, 16, 0) == pytest.approx(matrices + rows + window_bytes(config, 0), abs=1)


def test_a_set_of_weights_that_several_steps_share_is_read_by_each() -> None:
    alone, shared = LMConfig.from_dict(SMALL), LMConfig.from_dict(VARIANTS["schedule"])
    assert model_bytes(shared, 16) < model_bytes(alone, 16)
    inputs = 4 * 128 * 64 * 2  # their projections are one product, read once
    assert frame_bytes(alone, 16, 0) - frame_bytes(shared, 16, 0) == inputs


def test_keys_and_values_grow_to_the_window_and_no_further() -> None:
    one = 2 * 2 * 32 * 4096
    assert [window_bytes(MOSHI, p) for p in (0, 1, 2999, 3000, 10**6)] == [one, 2 * one, *[3000 * one] * 3]
    assert window_bytes(MOSHI) == 3000 * one
    assert frame_bytes(MOSHI, 4) - frame_bytes(MOSHI, 4, 0) == 2999 * one
