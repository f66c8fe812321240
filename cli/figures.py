"""The figures of `bench` as tables."""

from __future__ import annotations

from typing import Any

from moshi_mlx.memory import human_bytes

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
                _ms(row["before_ms"]),
                _ms(row["after_ms"]),
                f"{row['ratio']:.2f}" if row["ratio"] else "",
                f"±{_ms(row['spread_ms'])}",
                _change(row),
            )
            for row in rows
        ],
        "spread: what the two runs together may differ by without a cause",
    )


def _ms(milliseconds: float) -> str:
    """As many digits as say something."""
    if milliseconds >= 1000:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.1f}" if milliseconds >= 100 else f"{milliseconds:.2f}"


def _change(row: dict[str, Any]) -> str:
    if not row["differs"]:
        return "no difference seen"
    return "B is faster" if row["after_ms"] < row["before_ms"] else "B is slower"


def _print_stages(result: dict[str, Any]) -> None:
    machine, settings = result["machine"], result["settings"]
    where = f"{machine['chip']} ({machine['backend']}), from frame {settings['from_frame']:,} on"
    print_columns(
        f"{settings['model']} on {where}: ms",
        ("model", "stage", "frames", "p50", "spread", "p95", "p99", "max", "over\n80 ms"),
        [
            (
                one["name"],
                stage + (" *" if stage in one["compiled_separately"] else ""),
                f"{times['frames']:,}",
                _ms(times["p50_ms"]),
                "" if times["spread_ms"] is None else f"±{_ms(times['spread_ms'])}",
                *(_ms(times[key]) for key in ("p95_ms", "p99_ms", "max_ms")),
                f"{100 * times['over_80_ms']:.1f}%",
            )
            for one in result["runs"]
            for stage, times in one["stages"].items()
        ],
        "* compiled separately: where the time goes, not what it adds up to; pipeline: all stages side by side, as in "
        "chat; answer: what a frame spends in all of them",
    )
    print_columns(
        "a conversation",
        ("model", "real-time\nfactor", "load s", "first\nframe s", "graph\nnodes", "waits"),
        [
            (
                one["name"],
                f"{one['real_time_factor']:.3f}" if "real_time_factor" in one else "",
                f"{one['load_s']:.2f}",
                f"{one['first_frame_s']:.2f}",
                f"{one['graph']['nodes']:,}",
                f"{one['graph']['waits']}",
            )
            for one in result["runs"]
        ],
        "first frame: from loaded weights to sound; nodes and waits: of one frame of the language model",
    )


def _print_limit(result: dict[str, Any]) -> None:
    published = result["machine"]["published_bandwidth"]
    told = f"; Apple says {published / GIGA:.0f}" if published else ""
    print_columns(
        f"the limit: a copy moves {result['bandwidth'] / GIGA:.1f} GB/s here{told}",
        ("model", "weights", "keys and\nvalues", "floor ms", "reached"),
        [
            (
                one["name"],
                human_bytes(one["floor"]["weight_bytes"]),
                human_bytes(one["floor"]["key_and_value_bytes"]),
                _ms(one["floor"]["floor_ms"]),
                f"{100 * one['floor']['reached']:.1f}%" if "reached" in one["floor"] else "",
            )
            for one in result["runs"]
        ],
        "what a frame must read; floor: that at the measured bandwidth; reached: floor / p50 of lm",
    )


def _print_memory(result: dict[str, Any]) -> None:
    print_columns(
        "memory",
        ("model", "weights", "keys and\nvalues", "active", "peak", "above\nboth", "cache", "codec", "all"),
        [
            (
                one["name"],
                *(human_bytes(one["memory"][key]) for key in ("weights", "keys_and_values", "active", "peak")),
                f"{100 * one['memory']['over_weights_keys_and_values']:.1f}%",
                human_bytes(one["memory"]["cache"]),
                human_bytes(sum(one["memory"]["codec"].values())),
                human_bytes(one["memory"]["process"]),
            )
            for one in result["runs"]
        ],
        "above both: the peak, beside weights, keys and values; codec: its processes; all: they and the program's own",
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
                _ms(row["ours_ms"]),
                _ms(row["peer_ms"]),
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
        "the floor, and what is likely; + keeps up with a fifth to spare, ~ just, - falls behind; if it fits in memory",
    )


def _predicted(times: dict[str, float]) -> str:
    from moshi_mlx.rates import FRAME_S
    from moshi_mlx.speed import KEEPS_UP_S

    likely = times["likely_ms"]
    mark = "+" if likely <= 1000 * KEEPS_UP_S else "~" if likely <= 1000 * FRAME_S else "-"
    return f"{times['floor_ms']:.0f} to {likely:.0f} {mark}"
