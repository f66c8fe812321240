"""The figures of `bench` as tables."""

from __future__ import annotations

from typing import Any

from .tables import print_columns

GIGA = 1e9


def print_result(result: dict[str, Any]) -> None:
    """All of a benchmark, and the verdict."""
    _print_stages(result)
    _print_limit(result)
    _print_memory(result)
    if "peer" in result:
        _print_race(result["peer"])
    _print_predictions(result)
    if result["verdict"]:
        print(result["verdict"])


def print_comparison(rows: list[dict[str, Any]]) -> None:
    """Two results, stage by stage."""
    print_columns(
        "medians in ms, A and B",
        ("model", "stage", "A", "B", "B / A", "spread", "verdict"),
        [
            (
                row["name"],
                row["stage"],
                f"{row['before_ms']:.2f}",
                f"{row['after_ms']:.2f}",
                f"{row['ratio']:.2f}" if row["ratio"] else "",
                f"±{row['spread_ms']:.2f}",
                _change(row),
            )
            for row in rows
        ],
        "spread: what the two runs together may differ by without a cause",
    )


def _change(row: dict[str, Any]) -> str:
    if not row["differs"]:
        return "no difference seen"
    return "B is faster" if row["after_ms"] < row["before_ms"] else "B is slower"


def _print_stages(result: dict[str, Any]) -> None:
    machine, settings = result["machine"], result["settings"]
    rows = []
    for one in result["runs"]:
        for stage, times in one["stages"].items():
            spread = times["spread_ms"]
            rows.append(
                (
                    one["name"],
                    stage + (" *" if stage in one["compiled_separately"] else ""),
                    f"{times['frames']}",
                    f"{times['p50_ms']:.2f}",
                    "" if spread is None else f"±{spread:.2f}",
                    *(f"{times[key]:.2f}" for key in ("p95_ms", "p99_ms", "max_ms")),
                    f"{100 * times['over_80_ms']:.1f}%",
                )
            )
    print_columns(
        f"{settings['model']} on {machine['chip']} ({machine['backend']}), from frame {settings['context']:,} on: ms",
        ("model", "stage", "frames", "p50", "spread", "p95", "p99", "max", "over 80 ms"),
        rows,
        "* compiled separately: where the time goes, not what it adds up to; pipeline: all stages side by side, as in "
        "chat; answer: what a frame spends in all of them",
    )


def _print_limit(result: dict[str, Any]) -> None:
    published = result["machine"]["published_bandwidth"]
    rows = []
    for one in result["runs"]:
        floor = one["floor"]
        rows.append(
            (
                one["name"],
                f"{floor['weight_bytes'] / GIGA:.3f}",
                f"{floor['key_and_value_bytes'] / GIGA:.3f}",
                f"{floor['floor_ms']:.2f}",
                f"{100 * floor['reached']:.1f}%" if "reached" in floor else "",
                f"{one['real_time_factor']:.3f}" if "real_time_factor" in one else "",
                f"{one['graph']['nodes']:,}",
                f"{one['graph']['waits']}",
            )
        )
    told = f"; Apple says {published / GIGA:.0f}" if published else ""
    print_columns(
        f"the limit: a copy moves {result['bandwidth'] / GIGA:.1f} GB/s here{told}",
        ("model", "weights GB", "keys+values GB", "floor ms", "reached", "real-time factor", "graph nodes", "waits"),
        rows,
        "what a frame must read; floor: that at the measured bandwidth; reached: floor / p50 of lm",
    )


def _print_memory(result: dict[str, Any]) -> None:
    print_columns(
        "memory, GB",
        ("model", "weights", "keys+values", "active", "peak", "over both", "cache", "process", "load s", "first s"),
        [
            (
                one["name"],
                *(f"{one['memory'][key] / GIGA:.3f}" for key in ("weights", "keys_and_values", "active", "peak")),
                f"{100 * one['memory']['over_weights_keys_and_values']:.1f}%",
                *(f"{one['memory'][key] / GIGA:.3f}" for key in ("cache", "process")),
                f"{one['load_s']:.2f}",
                f"{one['first_frame_s']:.2f}",
            )
            for one in result["runs"]
        ],
        "over both: peak above weights, keys and values; process: with codecs and Python; first: loaded weights to a "
        "frame of sound",
    )


def _print_race(peer: dict[str, Any]) -> None:
    ours, theirs = peer["sides"]["ours"], peer["sides"]["peer"]
    print_columns(
        f"race, {peer['folder']}: {ours['name']} and {theirs['name']}, both on MLX {ours['mlx']}"
        + ("" if ours["mlx"] == theirs["mlx"] else f" and {theirs['mlx']}"),
        ("from frame", "ours ms", "theirs ms", "ratio", "least", "greatest"),
        [
            (
                f"{row['position']:,}",
                f"{row['ours_ms']:.2f}",
                f"{row['peer_ms']:.2f}",
                f"{row['ratio']:.2f}",
                f"{row['least_ratio']:.2f}",
                f"{row['greatest_ratio']:.2f}",
            )
            for row in peer["positions"]
        ],
        f"a frame: {ours['nodes']:,} graph nodes and {ours['waits']} wait here, {theirs['nodes']:,} and "
        f"{theirs['waits']} there",
    )


def _print_predictions(result: dict[str, Any]) -> None:
    if not result["predictions"]:
        return
    names = list(result["predictions"][0]["predicted"])
    print_columns(
        "prediction from published bandwidth, not measured: ms a frame, window full",
        ("chip", "GB/s", *names),
        [
            (row["chip"], f"{row['bandwidth'] / GIGA:.0f}", *(_predicted(row["predicted"][name]) for name in names))
            for row in result["predictions"]
        ],
        "the floor, and what is likely; + keeps up with a fifth to spare, ~ just, - falls behind; whatever its memory",
    )


def _predicted(times: dict[str, float]) -> str:
    from moshi_mlx.bench.floor import FRAME_S, KEEPS_UP_S

    likely = times["likely_ms"]
    mark = "+" if likely <= 1000 * KEEPS_UP_S else "~" if likely <= 1000 * FRAME_S else "-"
    return f"{times['floor_ms']:.0f} to {likely:.0f} {mark}"
