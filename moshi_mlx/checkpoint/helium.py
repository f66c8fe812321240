"""Helium's files: what Hugging Face calls its tensors, and what its MLX repository calls its files.

Hugging Face keeps queries, keys and values apart, and gate and up; ours stand one below the other. Its rotary
positions turn interleaved pairs, as ours do, so no row changes its place.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..config import MOSHI_7B, LMConfig
from ..helium import HELIUM_2B
from .names import Source, published_shapes

HELIUM_WEIGHTS = tuple(f"helium-1-preview-2b-{form}.safetensors" for form in ("bf16", "q8", "q6", "q4"))
"""The files of kyutai/helium-1-preview-2b-mlx, which holds them all; the first one there is taken."""

_EDGES = {
    "text_emb.weight": "model.embed_tokens.weight",
    "out_norm.weight": "model.norm.weight",
    "text_linear.weight": "lm_head.weight",
}
_TENSORS = {
    "norm1.weight": "input_layernorm.weight",
    "norm2.weight": "post_attention_layernorm.weight",
    "self_attn.out_proj.weight": "self_attn.o_proj.weight",
    "gating.linear_out.weight": "mlp.down_proj.weight",
}


def preset(names: Collection[str]) -> Mapping[str, Any]:
    """What a folder or repository without config.json holds, told from its files: Helium 2B, else Moshi 7B."""
    return HELIUM_2B if any(name in names for name in HELIUM_WEIGHTS) else MOSHI_7B


def is_huggingface(names: Iterable[str]) -> bool:
    """Whether a checkpoint's tensors bear Hugging Face's names."""
    return any(name.startswith("model.embed_tokens.") for name in names)


def huggingface_sources(config: LMConfig, names: Collection[str]) -> dict[str, tuple[Source, ...]]:
    """Where each published tensor is found among Hugging Face's `names`; tied, the head is the table."""
    edges = _EDGES if "lm_head.weight" in names else {**_EDGES, "text_linear.weight": _EDGES["text_emb.weight"]}
    return {
        name: (Source(edges[name]),) if name in edges else _layer_sources(config, name)
        for name in published_shapes(config)
    }


def _layer_sources(config: LMConfig, name: str) -> tuple[Source, ...]:
    _, _, layer, tensor = name.split(".", 3)  # transformer.layers.3.norm1.weight
    prefix, temporal = f"model.layers.{layer}", config.transformer
    if tensor == "self_attn.in_proj.weight":
        heads = {"q": temporal.num_heads, "k": temporal.num_kv_heads, "v": temporal.num_kv_heads}
        parts = {f"self_attn.{part}_proj": count * temporal.head_dim for part, count in heads.items()}
    elif tensor == "gating.linear_in.weight":
        parts = {f"mlp.{part}_proj": temporal.hidden_dim for part in ("gate", "up")}
    else:
        return (Source(f"{prefix}.{_TENSORS[tensor]}"),)
    return tuple(Source(f"{prefix}.{part}.weight", rows=rows) for part, rows in parts.items())
