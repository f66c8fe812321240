"""A Helium in miniature under Hugging Face's names, made from a seed alone, so that its golden need not carry it.

Pure numpy: both the script that asks `transformers` and this project's tests read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from golden_weights import normal

Config = Mapping[str, Any]

CONFIG: dict[str, Any] = {
    "architectures": ["HeliumForCausalLM"], "model_type": "helium", "hidden_size": 64, "intermediate_size": 176,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "hidden_act": "silu",
    "vocab_size": 512, "max_position_embeddings": 300, "rope_theta": 100000.0, "rms_norm_eps": 1e-8,
    "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
"""As transformers writes it; queries share keys and values in pairs."""

# Sharper than 1 / sqrt(fan in): attention has to look at single positions for a wrong rotation or group to show,
# and logits have to spread for the best token to stand clear of the second.
_GAIN = {"q_proj": 1.5, "k_proj": 1.5, "v_proj": 1.5, "lm_head": 4.0}


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of HeliumForCausalLM."""
    dim, hidden, cards = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv_dim = config["num_key_value_heads"] * config["head_dim"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (cards, dim), "model.norm.weight": (dim,)}
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (cards, dim)
    layer = {
        "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (kv_dim, dim), "self_attn.v_proj": (kv_dim, dim),
        "self_attn.o_proj": (dim, dim), "mlp.gate_proj": (hidden, dim), "mlp.up_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden), "input_layernorm": (dim,), "post_attention_layernorm": (dim,),
    }  # fmt: skip
    for index in range(config["num_hidden_layers"]):
        found |= {f"model.layers.{index}.{name}.weight": shape for name, shape in layer.items()}
    return found


def tensors(config: Config, seed: int) -> dict[str, np.ndarray]:
    """All tensors of the model that `config` describes, float32."""
    return {name: _tensor(name, shape, seed) for name, shape in shapes(config).items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = normal(seed, name, shape)
    if len(shape) == 1:
        return np.float32(1.0) + np.float32(0.1) * values
    if "embed_tokens" in name:
        return values
    return values * np.float32(_GAIN.get(name.split(".")[-2], 1.0) / math.sqrt(shape[-1]))
