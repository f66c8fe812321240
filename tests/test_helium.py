"""Helium's configuration as Hugging Face writes it."""

from __future__ import annotations

from typing import Any

import pytest

from moshi_mlx.checkpoint.names import published_shapes
from moshi_mlx.config import LMConfig
from moshi_mlx.errors import ConfigError
from moshi_mlx.helium import HELIUM_2B, end_tokens

PARAMETERS = 2_172_643_840
"""Of kyutai/helium-1-preview-2b: its file of 4.35 GB holds them in 16 bits each."""


def read(**changes: Any) -> LMConfig:
    return LMConfig.from_dict({**HELIUM_2B, **changes})


def test_the_published_configuration_is_helium_2b() -> None:
    config = read()
    parameters = 0
    for shape in published_shapes(config).values():
        parameters += shape[0] * (shape[1] if len(shape) == 2 else 1)
    assert parameters == PARAMETERS
    temporal = config.transformer
    assert (temporal.head_dim, temporal.context, temporal.rope_base, temporal.norm_eps) == (128, 4096, 1e5, 1e-8)
    assert (config.num_streams, config.user_codebooks, config.depth) == (1, 0, None)
    assert config.text_initial == HELIUM_2B["bos_token_id"]
    assert config.text_rows == 48_000  # no row of its own for a token that begins: that one is in the vocabulary
    assert end_tokens(config) == {2}


def test_what_newer_files_write_differently_reads_the_same() -> None:
    newer = {key: value for key, value in HELIUM_2B.items() if key != "rope_theta"}
    newer |= {
        "rope_parameters": {"rope_theta": 5e4, "rope_type": "default"},
        "eos_token_id": [2, 7],
    }
    config = LMConfig.from_dict(newer)
    assert config.transformer.rope_base == 5e4
    assert end_tokens(config) == {2, 7}


def test_grouped_heads_share_keys_and_values() -> None:
    assert read(num_key_value_heads=5).transformer.num_kv_heads == 5


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_act": "gelu"}, "'hidden_act'"),
        ({"attention_bias": True}, "'attention_bias'"),
        ({"head_dim": 64}, "'head_dim'"),
        ({"num_key_value_heads": 3}, "'num_key_value_heads'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4}}, "yarn"),
        ({"rope_theta": 0}, "'rope_theta'"),
        ({"rms_norm_eps": "small"}, "'rms_norm_eps'"),
        ({"bos_token_id": 48_000}, "'bos_token_id'"),
        ({"sliding_window": 512}, "'sliding_window'"),
        ({"hidden_size": True}, "'hidden_size'"),
        ({"vocab_size": None}, "'vocab_size'"),
    ],
)
def test_what_would_be_another_network_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(**changes)
