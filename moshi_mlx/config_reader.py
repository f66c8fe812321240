"""Reading a config.json, key by key.

Every key that Kyutai publishes is known here; a key that would change the network and that this version cannot run
is refused by its name, and so is one that nobody knows. Conditions are read in `condition_reader.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .condition_reader import read_conditioners, read_fuser
from .config import END_OF_TEXT_PADDING, MOST_LAYERS, TEXT_PADDING, DepthConfig, LMConfig, TransformerConfig
from .errors import ConfigError

# Keys that say where files are or how to present the model: they do not shape the network.
_FILE_KEYS = {
    "moshi_name", "mimi_name", "mimi_config_name", "tokenizer_name", "lora_name", "model_type", "model_id",
    "lm_gen_config", "tts_config", "stt_config", "quantization", "quantization_config",
}  # fmt: skip
# Keys that only training reads.
_INERT_KEYS = {"depformer_causal", "gradient_checkpointing", "lora_rank", "lora_scaling"}


class Keys:
    """Takes keys out of a raw mapping one by one, so that what is left is what nobody knows."""

    def __init__(self, raw: Mapping[str, Any], source: str):
        if not isinstance(raw, Mapping):
            raise ConfigError(f"{source} must hold a JSON object, not {type(raw).__name__}")
        self.raw = dict(raw)
        self.left = {k: v for k, v in raw.items() if k not in _FILE_KEYS | _INERT_KEYS}
        self.source = source

    def fail(self, problem: str) -> ConfigError:
        """The error to raise, which says where."""
        return ConfigError(f"{self.source}: {problem}")

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
        """Take a key of some type; null counts as absent."""
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
        """Take a whole number."""
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

    def checked(self, config: TransformerConfig, dim: str, heads: str) -> TransformerConfig:
        """A transformer whose heads come out even; the last two are what its keys are called."""
        if config.dim % config.num_heads or config.head_dim % 2 or config.num_heads % config.kv_repeat:
            raise self.fail(f"{dim!r} ({config.dim}) does not divide into {heads!r} ({config.num_heads})")
        return config

    def done(self) -> None:
        """Refuse what was not taken."""
        if self.left:
            names = ", ".join(repr(k) for k in sorted(self.left))
            raise self.fail(f"this version does not know {names}; a newer moshi-mac may")


class KyutaiKeys(Keys):
    """Kyutai's config.json."""

    def config(self) -> LMConfig:
        """All of it."""
        self.left.pop("lora", None)
        if self.left.get("cross_attention") == []:  # as hibiki-2b writes that it has none
            del self.left["cross_attention"]
        if self.raw.get("lora_name") or self.raw.get("lora"):
            raise self.fail("'lora' weights are not supported; fuse them into the checkpoint first")
        n_q, dep_q = (self.count(key, least=0, most=MOST_LAYERS) for key in ("n_q", "dep_q"))
        if dep_q > n_q:
            raise self.fail(f"'dep_q' ({dep_q}) is more than 'n_q' ({n_q})")
        text_card = self.count("text_card")
        conditioners = read_conditioners(self)
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
            demux_second_stream=self.demux(text_card),
            extra_heads=self.count("extra_heads_num_heads", 0, least=0, most=MOST_LAYERS),
            extra_heads_dim=self.count("extra_heads_dim", 6),
            conditioners=conditioners,
            fuser=read_fuser(self, conditioners),
            raw=self.raw,
        )
        if config.transformer.cross_attention != bool(config.fuser.cross):
            raise self.fail("'cross_attention' and the 'cross' conditions of 'fuser' go together, and one is missing")
        self.fixed()
        self.done()
        return config

    def demux(self, text_card: int) -> bool:
        """Whether text tokens carry a second stream; both of Kyutai's spellings."""
        found = [self.take(key, bool, False) for key in ("demux_second_stream", "demux_second_text_stream")]
        if any(found) and (text_card + 1) ** 2 > 2**31:
            raise self.fail(f"two streams of {text_card} tokens do not fit in one of 32 bits")
        return any(found)

    def fixed(self) -> None:
        """Keys with one value that runs; refused by name otherwise."""
        self.only("norm", ("rms_norm_f32", "rms_norm"), "rms_norm_f32")
        for prefix in ("", "depformer_"):
            self.only(prefix + "gating", ("silu",), "silu")
            self.only(prefix + "layer_scale", (None,), None)
        for key in ("norm_emb", "bias_proj", "quantize"):
            self.only(key, (False, None), False)
        self.only("causal", (True,), True)
        self.only("depformer_pos_emb", ("none",), "none")
        self.only("existing_text_padding_id", (TEXT_PADDING,), TEXT_PADDING)
        self.only("existing_text_end_padding_id", (END_OF_TEXT_PADDING,), END_OF_TEXT_PADDING)

    def temporal(self) -> TransformerConfig:
        """Helium."""
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
            rope_interleaved=self.only("positional_embedding", ("rope", "rope_concat"), "rope") == "rope",
            cross_attention=self.take("cross_attention", bool, False),
        )
        if config.cross_attention and config.kv_repeat != 1:
            raise self.fail("'cross_attention' needs as many keys as queries; 'kv_repeat' must be 1")
        return self.checked(config, "dim", "num_heads")

    def depth(self, dep_q: int) -> DepthConfig | None:
        """The depth transformer; without one its keys say nothing."""
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
            output_norm=self.only("depformer_norm", (None, "layer_norm"), None) is not None,
        )

    def schedule(self, dep_q: int) -> tuple[int, ...]:
        """Which set of weights each depth step uses."""
        key = "depformer_weights_per_step_schedule"
        schedule = self.take(key, list, None)
        if schedule is None:
            return tuple(range(dep_q))
        ints = all(isinstance(i, int) and not isinstance(i, bool) for i in schedule)
        if not ints or len(schedule) != dep_q or set(schedule) != set(range(len(set(schedule)))):
            raise self.fail(f"{key!r} must hold {dep_q} indices that leave no set of weights unused")
        return tuple(schedule)

    def delays(self, streams: int) -> tuple[int, ...]:
        """One per stream, in frames."""
        delays = self.take("delays", list)
        usable = all(isinstance(d, int) and not isinstance(d, bool) and 0 <= d <= 1000 for d in delays)
        if len(delays) != streams or not usable:
            raise self.fail(f"'delays' must hold {streams} whole numbers from 0 up, one per stream")
        return tuple(delays)


def gated_hidden(dim: int, feedforward: int) -> int:
    """Width of the gated MLP, which Kyutai derives from the ungated width `feedforward`."""
    return 21 * dim // 8 if feedforward == 4 * dim else 2 * feedforward // 3
