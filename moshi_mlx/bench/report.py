"""The figures of one benchmark as plain data: what is written as JSON, read back, and compared.

The form is documented in docs/results.md. Draws nothing and times nothing.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.choice import PRECISIONS as PUBLISHED
from ..checkpoint.sizes import STORED_BITS, frame_bytes, window_bytes
from ..config import MOSHI_7B, LMConfig
from ..errors import MoshiError
from ..memory import total_memory
from ..model.lm import LM
from ..rates import FRAME_S
from ..speed import predict
from .chips import CHIPS, find, probe_gpu_cores
from .floor import read_bytes
from .machine import Machine
from .pieces import PIECES
from .stages import Measured
from .timing import ms, thinned
from .verdict import Standing

PRECISIONS = {**PUBLISHED, 32: "float32"}
FORM = "moshi-mac bench 2"
"""Counts up when the meaning of a figure changes."""
_PACKAGES = ("moshi-mac", "mlx", "rustymimi", "numpy")
_SERIES = ("lm", "pipeline")


def describe_machine(machine: Machine) -> dict[str, Any]:
    """What the figures were measured on."""
    cores = probe_gpu_cores()
    chip = find(machine.chip, cores, total_memory() / 2**30)
    gpu = mx.default_device().type == mx.DeviceType.gpu
    return {
        "chip": machine.chip,
        "gpu_cores": cores,
        "system": machine.system,
        "memory_bytes": total_memory(),
        "backend": ("metal" if mx.metal.is_available() else "cuda") if gpu else "cpu",
        "low_power": machine.low_power,
        "throttled": machine.throttled,
        "published_bandwidth": chip.bandwidth if chip else None,
    }


def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            continue
    return found


def now() -> str:
    """The time, UTC, to the second: '2026-03-01T12:00:00Z'."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def figures(name: str, lm: LM, measured: Measured, bandwidth: float, load_s: float, base_bytes: int) -> dict[str, Any]:
    """One model's figures.

    Args:
        name: its precision.
        lm: the network.
        measured: see `stages.measure`.
        bandwidth: measured bytes per second.
        load_s: seconds that reading or drawing the weights took.
        base_bytes: what MLX held before the model.
    """
    weights = sum(parameter.nbytes for parameter in _arrays(lm.parameters()))
    timings = measured.timings
    result: dict[str, Any] = {
        "name": name,
        "load_s": round(load_s, 3),
        "first_frame_s": round(measured.first_frame_s, 3),
        "graph": {"nodes": measured.count.nodes, "waits": measured.count.waits},
        "stages": {stage: timing.summary() for stage, timing in timings.items()},
        "compiled_separately": [stage for stage in PIECES if stage in timings],
        "memory": _memory(measured, weights, base_bytes),
        "floor": _floor(lm, measured, bandwidth),
    }
    if "pipeline" in timings:
        seconds = timings["pipeline"].seconds
        result["real_time_factor"] = round(sum(seconds) / len(seconds) / FRAME_S, 4)
    return result | {"series": _series(measured)}


def _series(measured: Measured) -> dict[str, list[Any]]:
    """What can be drawn frame by frame."""
    timings = {stage: measured.timings[stage] for stage in _SERIES if stage in measured.timings}
    series: dict[str, list[Any]] = {
        f"{stage}_ms": thinned([ms(seconds) for seconds in timing.seconds]) for stage, timing in timings.items()
    }
    series["active_bytes"] = thinned([held.arrays for held in measured.memory])
    series["process_bytes"] = thinned([held.processes for held in measured.memory])
    return series


def _memory(measured: Measured, weights: int, base: int) -> dict[str, Any]:
    peak, expected = mx.get_peak_memory() - base, weights + measured.cache_bytes + measured.told_bytes
    return {
        "weights": weights,
        "keys_and_values": measured.cache_bytes,
        "active": mx.get_active_memory() - base,
        "peak": peak,
        "cache": mx.get_cache_memory(),
        "over_weights_keys_and_values": round(peak / expected - 1, 4),
        "process": max(held.processes for held in measured.memory),
        "codec": {name: max(getattr(held, name) for held in measured.memory) for name in ("encode", "decode")},
    }


def _floor(lm: LM, measured: Measured, bandwidth: float) -> dict[str, Any]:
    position = measured.position
    total = read_bytes(lm, position, measured.told_bytes)
    kept = window_bytes(lm.config, position, lm.dtype.size)
    result = {
        "position": position,
        "weight_bytes": total - kept,
        "key_and_value_bytes": kept,
        "floor_ms": ms(total / bandwidth),
    }
    if "lm" in measured.timings:
        result["reached"] = round(total / bandwidth / measured.timings["lm"].median, 4)
    return result


def _arrays(tree: Any) -> Iterable[mx.array]:
    if isinstance(tree, mx.array):
        yield tree
        return
    for value in tree.values() if isinstance(tree, dict) else tree:
        yield from _arrays(value)


def is_moshi(config: LMConfig) -> bool:
    """Whether this is the full architecture, for which it is worth telling what other chips would do."""
    own, moshi = config.transformer, LMConfig.from_dict(MOSHI_7B).transformer
    return (own.dim, own.num_layers, own.hidden_dim) == (moshi.dim, moshi.num_layers, moshi.hidden_dim)


def predictions(config: LMConfig) -> list[dict[str, Any]]:
    """What each of Apple's chips is expected to take for a frame with a full window, from its bandwidth alone."""
    return [
        {
            "chip": chip.label,
            "bandwidth": chip.bandwidth,
            "predicted": {PRECISIONS[bits]: _expected(config, bits, chip.bandwidth) for bits in sorted(STORED_BITS)},
        }
        for chip in CHIPS
    ]


def _expected(config: LMConfig, bits: int, bandwidth: float) -> dict[str, float]:
    expected = predict(frame_bytes(config, bits), bandwidth)
    return {"floor_ms": ms(expected.floor_s), "likely_ms": ms(expected.likely_s)}


def standing(run: dict[str, Any]) -> Standing | None:
    """How a measured model fares: by the pipeline's slowest frames but one in twenty, or the language model's."""
    stages = run["stages"]
    for stage in ("pipeline", "lm"):
        if stage in stages:
            return Standing(run["name"], stages[stage]["p95_ms"] / 1000)
    return None


def compact(result: dict[str, Any]) -> str:
    """One line of JSON: everything but the series and the predictions."""
    runs = [{key: value for key, value in run.items() if key != "series"} for run in result["runs"]]
    rest = {key: value for key, value in result.items() if key != "predictions"}
    return json.dumps(rest | {"runs": runs}, separators=(",", ":"))


def read_result(path: str | Path) -> dict[str, Any]:
    """Read what `bench` printed: all of it, or the table with its last line.

    Raises:
        MoshiError: it cannot be read or is no benchmark's result.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MoshiError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    for candidate in (text, text.rsplit("\n", 1)[-1]):
        try:
            result = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(result, dict) and result.get("form") == FORM and isinstance(result.get("runs"), list):
            return result
    raise MoshiError(f"{path} is no result of `moshi-mlx bench` of this version; make one with --json")


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows for every stage of every model that both results have.

    Returns:
        name, stage, both medians in ms, their ratio, the spread that the two runs state together, and whether the
        difference is larger than it.
    """
    others = {run["name"]: run["stages"] for run in after["runs"]}
    return [
        {"name": run["name"], "stage": stage, **_change(times, others[run["name"]][stage])}
        for run in before["runs"]
        for stage, times in run["stages"].items()
        if stage in others.get(run["name"], {})
    ]


def _change(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    spread = (before["spread_ms"] or 0.0) + (after["spread_ms"] or 0.0)
    difference = after["p50_ms"] - before["p50_ms"]
    return {
        "before_ms": before["p50_ms"],
        "after_ms": after["p50_ms"],
        "ratio": round(after["p50_ms"] / before["p50_ms"], 4) if before["p50_ms"] else None,
        "spread_ms": round(spread, 3),
        "differs": abs(difference) > spread,
    }


def differing_settings(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What was not the same in two runs, as 'what: this, that'."""
    found = []
    for part in ("machine", "settings", "versions"):
        old, new = before.get(part, {}), after.get(part, {})
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                found.append(f"{key}: {old.get(key)}, {new.get(key)}")
    return found
