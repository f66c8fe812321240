"""A benchmark as a picture: latency over frames, how it is distributed against 80 ms, and memory over time."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MoshiError
from ..files import replacing
from ..rates import FRAME_S

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0b6e99", "#d9730d", "#6b4f9e", "#448361")
GREY = "#6f6f6f"
RED = "#c4314b"
FRAME_MS = 1000 * FRAME_S
HEADROOM = 1.22
"""Room above what is drawn, for the legend."""


def draw(result: dict[str, Any], path: Path) -> None:
    """Write the picture; the name's ending says whether as png, svg or pdf.

    Raises:
        MoshiError: it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#b5b5b5",
        "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlesize": 10, "axes.labelcolor": GREY,
        "xtick.color": GREY, "ytick.color": GREY, "axes.grid": True, "grid.color": "#ececec", "axes.axisbelow": True,
        "legend.frameon": False, "svg.fonttype": "none",
    }  # fmt: skip
    with rc_context(style):
        figure = Figure(figsize=(13, 4.6), dpi=150)
        FigureCanvasAgg(figure)
        figure.set_layout_engine("constrained", w_pad=0.12, wspace=0.06)
        over_frames, distribution, memory = figure.subplots(1, 3, width_ratios=(5, 4, 4))
        stage = "pipeline" if any("pipeline_ms" in run["series"] for run in result["runs"]) else "lm"
        rows = [(run["name"], run["series"].get(f"{stage}_ms", [])) for run in result["runs"]]
        _draw_latency(over_frames, rows, stage)
        _draw_distribution(distribution, rows)
        _draw_memory(memory, result["runs"])
        figure.suptitle(_title(result), x=0.008, ha="left", fontsize=12, fontweight="bold")
        save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a picture under a temporary name, then rename it; the format follows from the name's ending.

    Raises:
        MoshiError: it cannot be written.
    """
    try:
        with replacing(path) as partial:
            figure.savefig(partial)
    except (OSError, ValueError) as error:
        raise MoshiError(f"{path} cannot be written: {error}") from None


def _title(result: dict[str, Any]) -> str:
    machine, settings = result["machine"], result["settings"]
    place = "the first frame" if settings["from_frame"] == 0 else f"frame {settings['from_frame']:,}"
    return f"{settings['model']} on {machine['chip']} ({machine['backend']}), from {place} on"


def _unit(rows: list[tuple[str, list[float]]]) -> tuple[float, str]:
    """Milliseconds per unit of the axis, and the unit: seconds where frames take whole ones."""
    return (1000.0, "s") if _longest(rows) > 20 * FRAME_MS else (1.0, "ms")


def _longest(rows: list[tuple[str, list[float]]]) -> float:
    return max((value for _, values in rows for value in values), default=0.0)


def _draw_latency(axes: Axes, rows: list[tuple[str, list[float]]], stage: str) -> None:
    scale, unit = _unit(rows)
    for (name, values), colour in zip(rows, COLOURS, strict=False):
        frames, heights = range(1, len(values) + 1), [value / scale for value in values]
        axes.plot(frames, heights, ".", markersize=5, color=colour, alpha=0.45, markeredgewidth=0)
        axes.plot(frames, _smooth(heights), color=colour, linewidth=1.6, label=name)
    axes.axhline(FRAME_MS / scale, color=RED, linewidth=1.2, dashes=(5, 3), label="80 ms")
    axes.set(title=f"each frame, {stage}", xlabel="frame", ylabel=f"{unit} a frame")
    axes.set_ylim(0, HEADROOM * max(_longest(rows), FRAME_MS) / scale)
    _count_frames(axes)
    axes.legend(loc="upper left", ncols=4)


def _draw_distribution(axes: Axes, rows: list[tuple[str, list[float]]]) -> None:
    scale, unit = _unit(rows)
    top, tallest = 1.05 * max(_longest(rows), 1.1 * FRAME_MS) / scale, 0.0
    bins = max(12, min(60, max((len(values) for _, values in rows), default=0) // 3))
    edges = [i * top / bins for i in range(bins + 1)]
    for (name, values), colour in zip(rows, COLOURS, strict=False):
        if values:
            over = sum(value > FRAME_MS for value in values) / len(values)
            label = f"{name}: {over:.1%} over 80 ms"
            share = [100 / len(values)] * len(values)
            heights = axes.hist([value / scale for value in values], edges, weights=share, color=colour, alpha=0.75,
                                label=label)[0]  # fmt: skip
            tallest = max(tallest, *(float(height) for height in heights))
    axes.axvline(FRAME_MS / scale, color=RED, linewidth=1.2, dashes=(5, 3))
    axes.set(title="against 80 ms", xlabel=f"{unit} a frame", ylabel="% of frames", xlim=(0, top))
    axes.set_ylim(0, (HEADROOM + 0.08 * len(rows)) * max(tallest, 1.0))
    axes.legend(loc="upper right", framealpha=0.85, frameon=True, edgecolor="none")


def _draw_memory(axes: Axes, runs: list[dict[str, Any]]) -> None:
    top = 0.0
    for run, colour in zip(runs, COLOURS, strict=False):
        series, memory = run["series"], run["memory"]
        for key, line, what in (("active_bytes", "-", "MLX"), ("process_bytes", ":", "process")):
            values = [value / 1e9 for value in series[key]]
            frames, label = range(1, len(values) + 1), f"{run['name']}, {what}"
            axes.plot(frames, values, line, color=colour, linewidth=1.6, label=label)
            top = max([top, *values])
        expected = (memory["weights"] + memory["keys_and_values"]) / 1e9
        label = "weights, keys and values" if run is runs[-1] else None
        axes.axhline(expected, color=GREY, linewidth=0.8, dashes=(1, 3), label=label)
    axes.set(title="memory over time", xlabel="frame of the language model", ylabel="GB")
    axes.set_ylim(0, (HEADROOM + 0.08 * len(runs)) * max(top, 1e-3))
    _count_frames(axes)
    axes.legend(loc="upper left", ncols=2, fontsize=8)


def _count_frames(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]))


def _smooth(values: list[float]) -> list[float]:
    """The median of each frame's surroundings: where most frames lie, whatever single ones do."""
    reach = max(1, math.ceil(len(values) / 30))
    return [statistics.median(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
