"""Helium as a text model: its configuration as Hugging Face writes it, read into the one that the network has.

Helium alone is the temporal transformer with a text table and a text head: no codebooks, no delays. What comes
before its first token is the begin token, as the initial token comes before Moshi's. No arrays, no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .config import MOST_LAYERS, LMConfig, TransformerConfig
from .config_reader import Keys

# Keys that say how it was trained, by what it was written, or what generate() does: they do not shape the network.
_INERT_KEYS = {
    "_name_or_path", "architectures", "attention_dropout", "dtype", "eos_token_id", "initializer_range",
    "pad_token_id", "pretraining_tp", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip

TOKENIZER_JSON = "tokenizer.json"
"""Where Hugging Face keeps a tokenizer."""

HELIUM_2B: dict[str, Any] = {
    "model_type": "helium", "hidden_size": 2560, "intermediate_size": 7040, "num_hidden_layers": 24,
    "num_attention_heads": 20, "num_key_value_heads": 20, "head_dim": 128, "hidden_act": "silu", "vocab_size": 48000,
    "max_position_embeddings": 4096, "rope_theta": 100000.0, "rms_norm_eps": 1e-8, "attention_bias": False,
    "mlp_bias": False, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "tokenizer_name": "tokenizer_spm_48k_multi6_2.model",
}  # fmt: skip
"""kyutai/helium-1-preview-2b as published; its MLX form is the same without a config.json."""


def helium_config(raw: Mapping[str, Any], source: str) -> LMConfig:
    """Read a Hugging Face config.json of model_type `helium`.

    Args:
        raw: the parsed config.json; of `raw`, the result also knows where the tokenizer is.
        source: what to call it in an error.

    Raises:
        ConfigError: a key is missing, of the wrong type, unknown, or asks for what cannot be run.
    """
    keys = Keys(raw, source)
    keys.left = {key: value for key, value in keys.left.items() if key not in _INERT_KEYS}
    for key, only in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False), ("rope_scaling", None)):
        keys.only(key, (only,), only)
    keys.take("tie_word_embeddings", bool, False)  # told by the names in the file
    cards = keys.count("vocab_size")
    config = LMConfig(
        transformer=_temporal(keys),
        depth=None,
        n_q=0,
        dep_q=0,
        card=0,
        text_card=cards,
        text_card_out=cards,
        text_initial=keys.count("bos_token_id", 1, least=0, most=cards - 1),
        delays=(0,),
        raw={"tokenizer_name": TOKENIZER_JSON, **raw},
    )
    keys.done()
    return config


def end_tokens(config: LMConfig) -> frozenset[int]:
    """The tokens with which a text ends, as config.json tells them: 2 where it does not."""
    told = config.raw.get("eos_token_id", 2)
    return frozenset(token for token in (told if isinstance(told, list) else [told]) if isinstance(token, int))


def _temporal(keys: Keys) -> TransformerConfig:
    dim, heads = keys.count("hidden_size"), keys.count("num_attention_heads")
    kv_heads = keys.count("num_key_value_heads", heads)
    if heads % kv_heads or keys.count("head_dim", dim // heads) * heads != dim:
        raise keys.fail(
            f"'hidden_size' ({dim}) does not divide into 'num_attention_heads' ({heads}) of 'head_dim', or these "
            f"not into 'num_key_value_heads' ({kv_heads})"
        )
    config = TransformerConfig(
        dim=dim,
        num_layers=keys.count("num_hidden_layers", most=MOST_LAYERS),
        num_heads=heads,
        hidden_dim=keys.count("intermediate_size"),
        context=keys.count("max_position_embeddings"),
        kv_repeat=heads // kv_heads,
        rope_base=_rope_base(keys),
        norm_eps=_number(keys, "rms_norm_eps", 1e-8, least=0),
    )
    return keys.checked(config, "hidden_size", "num_attention_heads")


def _rope_base(keys: Keys) -> float:
    """`rope_theta`, which newer files keep in `rope_parameters`; positions that are stretched are refused."""
    rope = keys.take("rope_parameters", Mapping, {})
    kind = rope.get("rope_type", "default")
    if kind != "default":
        raise keys.fail(f"'rope_type' is {kind!r}, and this version runs only 'default'")
    if "rope_theta" in rope:
        keys.left["rope_theta"] = rope["rope_theta"]
    return _number(keys, "rope_theta", 100_000.0, least=1)


def _number(keys: Keys, key: str, default: float, least: float) -> float:
    value = keys.take(key, (int, float), default)
    if not least < value < math.inf:
        raise keys.fail(f"{key!r} is {value}, and must be a number above {least}")
    return float(value)
