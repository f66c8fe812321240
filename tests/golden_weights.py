"""Weights for tiny models, made from (seed, tensor name, shape) alone, so that no golden has to carry them.

Pure numpy: the PyTorch reference and this project's tests both read it. Values come from integer sums of
raw Philox words, which numpy keeps stable for ever, so every machine gets the same bits. Names are those of
Kyutai's published PyTorch checkpoints; `per_step_names` and `mlx_names` give the two other layouts about.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Config = Mapping[str, Any]
Weights = dict[str, np.ndarray]
Shapes = dict[str, tuple[int, ...]]

# Sharper than 1 / sqrt(fan in): attention has to look at single positions for a wrong window to show, and
# logits have to spread for the best token to stand clear of the second.
_PROJECTIONS = ("low_rank.weight", "out1.weight", "out2.weight")
_GAIN = {"in_proj_weight": 1.5, "text_linear": 4.0, "linears": 1.5}


def normal(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Bell-shaped float32 values, mean 0, deviation 1: sums of four 16-bit uniforms, exact in any numpy."""
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    raw = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(math.prod(shape))
    pieces = np.asarray(raw).astype("<u8").view("<u2").reshape(-1, 4)
    centred = pieces.sum(axis=1, dtype=np.int64) - 2 * 0xFFFF
    return (centred * (math.sqrt(3.0) / 0x10000)).astype(np.float32).reshape(shape)


def tensors(config: Config, seed: int) -> Weights:
    """All tensors of the model that `config` (Kyutai's config.json) describes: float32, published names."""
    return {name: _tensor(config, seed, name, shape) for name, shape in shapes(config).items()}


def digest(weights: Mapping[str, np.ndarray]) -> str:
    """Names, shapes and bits of all tensors in one hexadecimal word."""
    hashed = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        hashed.update(f"{name}{weights[name].shape}".encode() + weights[name].astype("<f4").tobytes())
    return hashed.hexdigest()


def _tensor(config: Config, seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    values = normal(seed, name, shape)
    if name.endswith((".alpha", "norm_cross.weight")) or (name.startswith("depformer_norms") and "weight" in name):
        return np.float32(1.0) + np.float32(0.1) * values
    if name.endswith((".bias", ".learnt_padding", ".embed.weight")):
        return values * np.float32(0.1 if name.endswith(".bias") else 1.0)
    module = name.split(".")[0]
    if module.endswith("emb") and not name.endswith(_PROJECTIONS):
        deviation = 1.0 if module.startswith("depformer") else 1.0 / math.sqrt(config["n_q"] + 1)
    else:
        gain = _GAIN.get(module, _GAIN.get(name.split(".")[-1], 1.0))
        deviation = gain / math.sqrt(shape[-1])
    return values * np.float32(deviation)


def shapes(config: Config) -> Shapes:
    """Name and shape of every tensor in the published PyTorch layout."""
    dim, text_card = config["dim"], config["text_card"]
    found: Shapes = {f"emb.{i}.weight": (config["card"] + 1, dim) for i in range(config["n_q"])}
    found |= _embedding("text_emb", text_card + 1, dim, None, config.get("demux_second_stream", False))
    feedforward = int(config["hidden_scale"] * dim)
    found |= _transformer("transformer", config, dim, config["num_layers"], feedforward, None)
    found["out_norm.alpha"] = (1, 1, dim)
    found["text_linear.weight"] = (config.get("text_card_out") or text_card, dim)
    for i in range(config.get("extra_heads_num_heads", 0)):
        found[f"extra_heads.{i}.weight"] = (config["extra_heads_dim"], dim)
    for name, conditioner in config.get("conditioners", {}).items():
        prefix, inner = f"condition_provider.conditioners.{name}", conditioner[conditioner["type"]]
        if conditioner["type"] == "lut":
            found[f"{prefix}.embed.weight"] = (inner["n_bins"] + 1, inner["dim"])
        found[f"{prefix}.output_proj.weight"] = (dim, inner["dim"])
        found[f"{prefix}.learnt_padding"] = (1, 1, dim)
    return found | (_depth(config) if config["dep_q"] else {})


def _depth(config: Config) -> Shapes:
    dim, card, steps = config["depformer_dim"], config["card"], config["dep_q"]
    low_rank = config.get("depformer_low_rank_embeddings")
    sets = weight_sets(config)
    two_streams = config.get("demux_second_stream", False)
    found = _embedding("depformer_text_emb", config["text_card"] + 1, dim, low_rank, two_streams)
    for i in range(steps - 1):
        found |= _embedding(f"depformer_emb.{i}", card + 1, dim, low_rank)
    for i in range(sets if config["depformer_multi_linear"] else 1):
        found[f"depformer_in.{i}.weight"] = (dim, config["dim"])
    for i in range(steps):
        found[f"linears.{i}.weight"] = (card, dim)
        if config.get("depformer_norm"):
            found[f"depformer_norms.{i}.weight"] = found[f"depformer_norms.{i}.bias"] = (dim,)
    feedforward = config.get("depformer_dim_feedforward") or int(config["hidden_scale"] * dim)
    return found | _transformer("depformer", config, dim, config["depformer_num_layers"], feedforward, sets)


def weight_sets(config: Config) -> int:
    """How many sets of weights the depth steps share."""
    schedule = config.get("depformer_weights_per_step_schedule")
    return max(schedule) + 1 if schedule else config["dep_q"]


def _embedding(prefix: str, rows: int, dim: int, low_rank: int | None, two_streams: bool = False) -> Shapes:
    found: Shapes = {f"{prefix}.weight": (rows, low_rank or dim)}
    if low_rank:
        found[f"{prefix}.low_rank.weight"] = (dim, low_rank)
    if two_streams:
        found[f"{prefix}.out1.weight"] = found[f"{prefix}.out2.weight"] = (dim, low_rank or dim)
    return found


def _transformer(prefix: str, config: Config, dim: int, layers: int, feedforward: int, sets: int | None) -> Shapes:
    """`sets` is None for one set of weights under plain names, else how many stand stacked or numbered."""
    heads = config["num_heads" if sets is None else "depformer_num_heads"]
    repeat = config.get("kv_repeat", 1)
    kv_dim = dim // heads * (heads // (repeat if sets is None else config.get("depformer_kv_repeat", repeat)))
    hidden = 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3
    stacked = sets or 1
    found: Shapes = {}
    for i in range(layers):
        layer = f"{prefix}.layers.{i}"
        found[f"{layer}.norm1.alpha"] = found[f"{layer}.norm2.alpha"] = (1, 1, dim)
        found[f"{layer}.self_attn.in_proj_weight"] = (stacked * (dim + 2 * kv_dim), dim)
        found[f"{layer}.self_attn.out_proj.weight"] = (stacked * dim, dim)
        if sets is None and config.get("cross_attention"):
            found[f"{layer}.norm_cross.weight"] = found[f"{layer}.norm_cross.bias"] = (dim,)
            found[f"{layer}.cross_attention.in_proj_weight"] = (3 * dim, dim)
            found[f"{layer}.cross_attention.out_proj.weight"] = (dim, dim)
        for gating in [f"{layer}.gating"] if sets is None else [f"{layer}.gating.{s}" for s in range(sets)]:
            found[f"{gating}.linear_in.weight"] = (2 * hidden, dim)
            found[f"{gating}.linear_out.weight"] = (dim, hidden)
    return found


def per_step_names(weights: Weights, config: Config) -> Weights:
    """The layout of `state_dict()` in moshi 0.2.13: attention projections one per step, numbered."""
    renamed: Weights = {}
    for name, value in weights.items():
        for stacked, numbered in (("in_proj_weight", "in_projs"), ("out_proj.weight", "out_projs")):
            if name.endswith(stacked):
                sets = weight_sets(config) if name.startswith("depformer.") else 1
                stem = name.removesuffix(stacked) + numbered
                renamed |= {f"{stem}.{i}.weight": part for i, part in enumerate(np.split(value, sets))}
                break
        else:
            renamed[name] = value
    return renamed


def mlx_names(weights: Weights, config: Config) -> Weights:
    """The layout of Kyutai's published MLX checkpoints: a slice per depth step, shared sets repeated."""
    renamed: Weights = {}
    for name, value in weights.items():
        if name.startswith("emb."):
            renamed["audio_embs." + name.removeprefix("emb.")] = value
        elif name.startswith(("transformer.", "out_norm.")):
            renamed[_mlx_leaf(name)] = value[0, 0] if name.endswith(".alpha") else value
        elif name.startswith(("text_", "extra_heads.", "condition_provider.")):
            renamed[name] = value
    for step in range(config["dep_q"]):
        renamed |= _mlx_slice(weights, config, step)
    return renamed


def _mlx_leaf(name: str) -> str:
    return name.replace(".alpha", ".weight").replace("in_proj_weight", "in_proj.weight")


def _mlx_slice(weights: Weights, config: Config, step: int) -> Weights:
    chosen = (config.get("depformer_weights_per_step_schedule") or range(config["dep_q"]))[step]
    embedding = f"depformer_emb.{step - 1}" if step else "depformer_text_emb"
    linear_in = f"depformer_in.{chosen if config['depformer_multi_linear'] else 0}.weight"
    prefix = f"depformer.slices.{step}."
    renamed = {
        prefix + "linear_in.weight": weights[linear_in],
        prefix + "linear_out.weight": weights[f"linears.{step}.weight"],
    }
    for name, value in weights.items():
        if name.startswith(embedding + "."):
            renamed[prefix + "emb" + name.removeprefix(embedding)] = value
        elif name.startswith(f"depformer_norms.{step}."):
            renamed[prefix + "norm." + name.split(".")[-1]] = value
        elif name.startswith("depformer.layers."):
            leaf = prefix + "transformer." + name.removeprefix("depformer.")
            if ".self_attn." in name:
                renamed[_mlx_leaf(leaf)] = np.split(value, weight_sets(config))[chosen]
            elif name.endswith(".alpha"):
                renamed[_mlx_leaf(leaf)] = value[0, 0]
            elif f".gating.{chosen}." in name:
                renamed[leaf.replace(f".gating.{chosen}.", ".gating.")] = value
    return renamed
