"""The language model's configuration: what shapes the network, and which token streams it has.

Read from a config.json by `config_reader.py` (Kyutai's keys) and `helium.py` (Hugging Face's). No arrays, no files
beyond reading the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError

TEXT_PADDING = 3
END_OF_TEXT_PADDING = 0
MOST_LAYERS = 1_000
"""More layers, heads or codebooks than this are a mistake in the file."""
ZERO_TOKEN = -1
"""A stream that reads this token adds nothing to the sum of embeddings."""


@dataclass(frozen=True)
class TransformerConfig:
    """One transformer: Helium in time, or the depth transformer within a frame."""

    dim: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    context: int
    kv_repeat: int = 1
    rope_base: float | None = 10_000.0
    norm_eps: float = 1e-8
    rope_interleaved: bool = True
    """Rotary positions turn neighbouring values together, not the two halves of a head (`rope_concat`)."""
    cross_attention: bool = False
    """Every block also attends to the conditions."""
    kv_bits: int | None = None
    """Bits that the ring keeps of each key and value; None keeps them as they are."""
    kv_group_size: int = 64
    """Numbers along a head that share a scale, where the ring keeps fewer bits."""

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.dim // self.num_heads

    @property
    def num_kv_heads(self) -> int:
        """Heads of the keys and values (fewer than the queries' with grouped attention)."""
        return self.num_heads // self.kv_repeat


@dataclass(frozen=True)
class DepthConfig:
    """The depth transformer: one step per generated codebook, weights chosen by `schedule`."""

    transformer: TransformerConfig
    steps: int
    schedule: tuple[int, ...]
    low_rank: int | None = None
    shared_input: bool = False
    """One projection of the temporal output for all steps (`depformer_multi_linear` is false)."""
    output_norm: bool = False
    """A layer norm of its own before each step's logits (`depformer_norm`)."""

    @property
    def num_weights(self) -> int:
        """How many sets of weights the steps share."""
        return max(self.schedule) + 1


@dataclass(frozen=True)
class ConditionerConfig:
    """How one condition becomes vectors: a word is looked up, an embedding taken as it is; then a projection."""

    dim: int
    """Width before the projection."""
    bins: int | None = None
    """Words in the lookup table; None where the condition is an embedding."""
    values: tuple[str, ...] | None = None
    """The words, in the order of the table; None where any word goes, spread by its hash."""
    learnt_padding: bool = True
    """Nothing has a vector of its own, not zeros."""


@dataclass(frozen=True)
class FuserConfig:
    """Where the conditions go."""

    sum: tuple[str, ...] = ()
    """Added to the embeddings of every frame."""
    cross: tuple[str, ...] = ()
    """Read by the cross-attention of every layer, one after the other."""
    positions: float = 0.0
    """Scale of the sinusoids that tell the cross-attention where a vector stands; 0 for none."""

    def __bool__(self) -> bool:
        """Whether there is anything to be conditioned on."""
        return bool(self.sum or self.cross)


@dataclass(frozen=True)
class LMConfig:
    """Helium, the depth transformer, and the token streams between them.

    Streams stand in the order text, generated codebooks (`dep_q`), user codebooks; `delays` has one
    entry per stream, in frames.
    """

    transformer: TransformerConfig
    depth: DepthConfig | None
    n_q: int
    dep_q: int
    card: int
    text_card: int
    text_card_out: int
    text_initial: int
    """Token that the text stream reads before it has a value."""
    delays: tuple[int, ...]
    demux_second_stream: bool = False
    """A text token is two, (second + 1) · text_rows + first: the second stream looks ahead."""
    extra_heads: int = 0
    extra_heads_dim: int = 6
    conditioners: Mapping[str, ConditionerConfig] = field(default_factory=dict)
    fuser: FuserConfig = field(default_factory=FuserConfig)
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def num_streams(self) -> int:
        """Text and all codebooks."""
        return self.n_q + 1

    @property
    def user_codebooks(self) -> int:
        """Codebooks that `Generator.step` is given."""
        return self.n_q - self.dep_q

    @property
    def max_delay(self) -> int:
        """The longest delay of any stream, in frames."""
        return max(self.delays)

    @property
    def text_rows(self) -> int:
        """Rows of the text's table: every token, and the initial one where it is none of them."""
        return max(self.text_card, self.text_initial + 1)

    @property
    def text_tokens(self) -> int:
        """How many text tokens a host can choose from, a second stream multiplied in."""
        return self.text_rows**2 if self.demux_second_stream else self.text_card

    @property
    def audio_initial(self) -> int:
        """Token that an audio stream reads before it has a value."""
        return self.card

    @property
    def model_type(self) -> str:
        """Kyutai's own word for what the checkpoint does: moshi, hibiki, stt, tts …"""
        return str(self.raw.get("model_type", "moshi"))

    @staticmethod
    def from_dict(raw: Mapping[str, Any], source: str = "config.json") -> LMConfig:
        """Read Kyutai's keys, or those that Hugging Face has for Helium.

        Args:
            raw: the parsed config.json.
            source: what to call it in an error.

        Raises:
            ConfigError: a key is missing, of the wrong type, unknown, or asks for what cannot be run.
        """
        if isinstance(raw, Mapping) and raw.get("model_type") == "helium" and "hidden_size" in raw:
            from .helium import helium_config

            return helium_config(raw, source)
        from .config_reader import KyutaiKeys

        return KyutaiKeys(raw, source).config()

    @staticmethod
    def from_file(path: str | Path) -> LMConfig:
        """Read a config.json; raises ConfigError when it is missing, not JSON, or not understood."""
        path = Path(path)
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid JSON ({error}); download it again") from None
        return LMConfig.from_dict(raw, str(path))


MOSHI_7B: dict[str, Any] = {
    "dim": 4096, "num_layers": 32, "num_heads": 32, "hidden_scale": 4.125, "context": 3000, "max_period": 10000,
    "gating": "silu", "norm": "rms_norm_f32", "positional_embedding": "rope", "causal": True, "layer_scale": None,
    "text_card": 32000, "existing_text_padding_id": 3, "card": 2048, "n_q": 16, "dep_q": 8,
    "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    "depformer_dim": 1024, "depformer_num_layers": 6, "depformer_num_heads": 16, "depformer_dim_feedforward": 4224,
    "depformer_multi_linear": True, "depformer_context": 8, "depformer_max_period": 10000, "depformer_gating": "silu",
    "depformer_pos_emb": "none", "depformer_weights_per_step": True, "depformer_layer_scale": None,
}  # fmt: skip
"""Moshi 7B v0.1 (moshiko, moshika): what a repository without config.json holds."""
