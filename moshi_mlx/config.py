"""The language model's configuration, as Kyutai's config.json writes it.

Every key that Kyutai publishes is known here; a key that would change the network and that this
version cannot run is refused by its name. No arrays, no files beyond reading the JSON.
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

# Keys that say where files are or how to present the model: they do not shape the network.
_FILE_KEYS = {
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type", "model_id",
    "lm_gen_config", "tts_config", "stt_config", "quantization", "quantization_config",
}  # fmt: skip
# Keys that only training reads.
_INERT_KEYS = {"depformer_causal", "gradient_checkpointing", "lora_rank", "lora_scaling"}


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

    @property
    def num_weights(self) -> int:
        """How many sets of weights the steps share."""
        return max(self.schedule) + 1


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
    cross_attention: bool = False
    extra_heads: int = 0
    extra_heads_dim: int = 6
    conditioners: Mapping[str, Any] = field(default_factory=dict)
    fuser: Mapping[str, Any] = field(default_factory=dict)
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
        return _Reader(raw, source).config()

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


class _Reader:
    """Takes keys out of the raw mapping one by one, so that what is left is what nobody knows."""

    def __init__(self, raw: Mapping[str, Any], source: str):
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{source} must hold a JSON object, not {type(raw).__name__}")
        self.raw = dict(raw)
        self.left = {k: v for k, v in raw.items() if k not in _FILE_KEYS | _INERT_KEYS}
        self.source = source

    def fail(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.source}: {problem}")

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        value = self.left.pop(key, None)
        if value is None:
            if default is ...:
                raise self.fail(f"the key {key!r} is missing")
            return default
        wrong_bool = isinstance(value, bool) and kind is not bool
        if wrong_bool or not isinstance(value, kind):
            raise self.fail(f"{key!r} is {value!r}, which is not of the expected type")
        return value

    def count(self, key: str, default: int | None = None, least: int = 1, most: int = 2**31 - 1) -> int:
        value = self.take(key, int, ... if default is None else default)
        if not least <= value <= most:
            raise self.fail(f"{key!r} is {value}, and must lie between {least} and {most}")
        return value

    def only(self, key: str, allowed: tuple[Any, ...], default: Any) -> Any:
        """Take a key of which this version runs `allowed` only."""
        value = self.left.pop(key, default)
        if value not in allowed:
            runs = " or ".join(json.dumps(a) for a in allowed)
            raise self.fail(f"{key!r} is {json.dumps(value)}, and this version runs only {runs}")
        return value

    def config(self) -> LMConfig:
        self.left.pop("lora", None)
        if self.raw.get("lora_name") or self.raw.get("lora"):
            raise self.fail("'lora' weights are not supported; fuse them into the checkpoint first")
        n_q, dep_q = (self.count(key, least=0, most=MOST_LAYERS) for key in ("n_q", "dep_q"))
        if dep_q > n_q:
            raise self.fail(f"'dep_q' ({dep_q}) is more than 'n_q' ({n_q})")
        text_card = self.count("text_card")
        config = LMConfig(
            transformer=self.temporal(),
            depth=self.depth(dep_q),
            n_q=n_q,
            dep_q=dep_q,
            card=self.count("card"),
            text_card=text_card,
            text_card_out=self.count("text_card_out", text_card),
            text_initial=text_card,
            delays=self.delays(n_q + 1),
            demux_second_stream=self.take("demux_second_stream", bool, False)
            or self.take("demux_second_text_stream", bool, False),
            cross_attention=self.take("cross_attention", bool, False),
            extra_heads=self.count("extra_heads_num_heads", 0, least=0, most=MOST_LAYERS),
            extra_heads_dim=self.count("extra_heads_dim", 6),
            conditioners=self.take("conditioners", Mapping, {}),
            fuser=self.take("fuser", Mapping, {}),
            raw=self.raw,
        )
        self.fixed()
        if self.left:
            names = ", ".join(repr(k) for k in sorted(self.left))
            raise self.fail(f"this version does not know {names}; a newer moshi-mac may")
        return config

    def fixed(self) -> None:
        """Keys with one value that runs; refused by name otherwise."""
        self.only("norm", ("rms_norm_f32", "rms_norm"), "rms_norm_f32")
        for prefix in ("", "depformer_"):
            self.only(prefix + "gating", ("silu",), "silu")
            self.only(prefix + "layer_scale", (None,), None)
        for key in ("norm_emb", "bias_proj", "quantize"):
            self.only(key, (False, None), False)
        self.only("causal", (True,), True)
        self.only("positional_embedding", ("rope",), "rope")
        self.only("depformer_pos_emb", ("none",), "none")
        self.only("depformer_norm", (None,), None)
        self.only("existing_text_padding_id", (TEXT_PADDING,), TEXT_PADDING)
        self.only("existing_text_end_padding_id", (END_OF_TEXT_PADDING,), END_OF_TEXT_PADDING)

    def temporal(self) -> TransformerConfig:
        dim = self.count("dim")
        scale = self.take("hidden_scale", (int, float), 4.125)
        if not 0 < scale < 1024:
            raise self.fail(f"'hidden_scale' is {scale}, which gives no usable network")
        eps = 1e-8 if self.raw.get("norm", "rms_norm_f32") == "rms_norm_f32" else 1e-5
        base = self.take("max_period", (int, float), 10_000)
        if not 1 < base < float("inf"):
            raise self.fail(f"'max_period' is {base}, and must be a number above 1")
        config = TransformerConfig(
            dim=dim,
            num_layers=self.count("num_layers", most=MOST_LAYERS),
            num_heads=self.count("num_heads"),
            hidden_dim=gated_hidden(dim, int(scale * dim)),
            context=self.count("context"),
            kv_repeat=self.count("kv_repeat", 1),
            rope_base=float(base),
            norm_eps=eps,
        )
        return self.checked(config, "dim", "num_heads")

    def depth(self, dep_q: int) -> DepthConfig | None:
        keys = [k for k in self.left if k.startswith("depformer_")]
        if dep_q == 0:
            for key in keys:
                del self.left[key]
            return None
        dim = self.count("depformer_dim")
        feedforward = self.count("depformer_dim_feedforward", int((self.raw.get("hidden_scale") or 4.125) * dim))
        self.only("depformer_weights_per_step", (True,), True)
        self.left.pop("depformer_context", None)  # a frame's steps always see each other
        self.left.pop("depformer_max_period", None)  # and carry no position
        config = TransformerConfig(
            dim=dim,
            num_layers=self.count("depformer_num_layers", most=MOST_LAYERS),
            num_heads=self.count("depformer_num_heads"),
            hidden_dim=gated_hidden(dim, feedforward),
            context=dep_q,
            kv_repeat=self.count("depformer_kv_repeat", self.raw.get("kv_repeat") or 1),
            rope_base=None,
            norm_eps=1e-8 if self.raw.get("norm", "rms_norm_f32") == "rms_norm_f32" else 1e-5,
        )
        return DepthConfig(
            transformer=self.checked(config, "depformer_dim", "depformer_num_heads"),
            steps=dep_q,
            schedule=self.schedule(dep_q),
            low_rank=self.count("depformer_low_rank_embeddings", 0, least=0) or None,
            shared_input=not self.take("depformer_multi_linear", bool, False),
        )

    def checked(self, config: TransformerConfig, dim: str, heads: str) -> TransformerConfig:
        if config.dim % config.num_heads or config.head_dim % 2 or config.num_heads % config.kv_repeat:
            raise self.fail(f"{dim!r} ({config.dim}) does not divide into {heads!r} ({config.num_heads})")
        return config

    def schedule(self, dep_q: int) -> tuple[int, ...]:
        key = "depformer_weights_per_step_schedule"
        schedule = self.take(key, list, None)
        if schedule is None:
            return tuple(range(dep_q))
        ints = all(isinstance(i, int) and not isinstance(i, bool) for i in schedule)
        if not ints or len(schedule) != dep_q or set(schedule) != set(range(len(set(schedule)))):
            raise self.fail(f"{key!r} must hold {dep_q} indices that leave no set of weights unused")
        return tuple(schedule)

    def delays(self, streams: int) -> tuple[int, ...]:
        delays = self.take("delays", list)
        usable = all(isinstance(d, int) and not isinstance(d, bool) and 0 <= d <= 1000 for d in delays)
        if len(delays) != streams or not usable:
            raise self.fail(f"'delays' must hold {streams} whole numbers from 0 up, one per stream")
        return tuple(delays)


def check_runnable(config: LMConfig) -> None:
    """Refuse, by name, what the configuration asks for and this version cannot run.

    Raises:
        ConfigError: the key and what it would need.
    """
    wanted = {
        "cross_attention": config.cross_attention,
        "conditioners": bool(config.conditioners),
        "fuser": any(config.fuser.get(way) for way in ("sum", "cross", "prepend")),
        "demux_second_stream": config.demux_second_stream,
    }
    for key, asked in wanted.items():
        if asked:
            raise ConfigError(f"this checkpoint's config.json asks for {key!r}, which this version cannot run yet")


def gated_hidden(dim: int, feedforward: int) -> int:
    """Width of the gated MLP, which Kyutai derives from the ungated width `feedforward`."""
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3


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
