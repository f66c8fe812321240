"""Reading what a config.json says of conditions: `conditioners` and `fuser`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .config import ConditionerConfig, FuserConfig

if TYPE_CHECKING:
    from .config_reader import Keys

# Keys that only training reads.
_INERT_KEYS = {"init_scale", "pad_empty"}


def read_conditioners(keys: Keys) -> dict[str, ConditionerConfig]:
    """The key `conditioners`.

    Raises:
        ConfigError: a conditioner of a kind that no published model has, or one that is not understood.
    """
    raw = keys.take("conditioners", Mapping, {})
    return {str(name): _conditioner(keys, f"conditioners.{name}", entry) for name, entry in raw.items()}


def _conditioner(keys: Keys, where: str, entry: Any) -> ConditionerConfig:
    kind = entry.get("type") if isinstance(entry, Mapping) else None
    if kind not in ("lut", "tensor"):
        raise keys.fail(f"{where!r} is of the type {kind!r}, and this version runs only 'lut' and 'tensor'")
    inner = type(keys)(entry.get(kind) or {}, f"{keys.source}: {where}")
    inner.left = {key: value for key, value in inner.left.items() if key not in _INERT_KEYS}
    inner.only("force_linear", (True,), True)
    inner.only("output_bias", (False,), False)
    bins = inner.count("n_bins") if kind == "lut" else None
    config = ConditionerConfig(
        dim=inner.count("dim"),
        bins=bins,
        values=None if bins is None else _values(inner, bins),
        learnt_padding=inner.take("learn_padding", bool, True),
    )
    inner.done()
    return config


def _values(keys: Keys, bins: int) -> tuple[str, ...] | None:
    keys.only("tokenizer", ("noop",), None)
    values = keys.take("possible_values", list, None)
    if values is None:
        return None
    if not all(isinstance(value, str) for value in values) or len(set(values)) != len(values) or len(values) > bins:
        raise keys.fail(f"'possible_values' must hold at most {bins} different words")
    return tuple(values)


def read_fuser(keys: Keys, conditioners: Mapping[str, ConditionerConfig]) -> FuserConfig:
    """The key `fuser`.

    Raises:
        ConfigError: it asks for a way to fuse that no published model uses, or for a condition that nobody makes.
    """
    raw = keys.take("fuser", Mapping, {})
    inner = type(keys)(raw, f"{keys.source}: fuser")
    inner.only("prepend", ([], None), None)
    ways = {way: tuple(inner.take(way, list, [])) for way in ("sum", "cross")}
    for name in (name for names in ways.values() for name in names):
        if not isinstance(name, str) or name not in conditioners:
            raise inner.fail(f"there is no conditioner {name!r}")
    positions = inner.take("cross_attention_pos_emb", bool, False)
    scale = inner.take("cross_attention_pos_emb_scale", (int, float), 1.0)
    inner.done()
    return FuserConfig(ways["sum"], ways["cross"], float(scale) if positions else 0.0)
