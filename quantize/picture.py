"""The report as a picture: error by layer, and divergence by recipe against size."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from moshi_mlx.bench.picture import save

from .report import KINDS, ModelReport, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR = 1e-9  # nats: where a logarithmic axis ends


def draw(report: Report, path: Path) -> None:
    """Write the picture, png, svg or pdf by the name's ending.

    Raises:
        MoshiError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = any(model.streams for model in report.models)
    figure = Figure(figsize=(14 if scored else 9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2 if scored else 1, squeeze=False)[0]
    _draw_layers(axes[0], report.models)
    if scored:
        _draw_divergence(axes[1], report.models)
    figure.suptitle(f"against {Path(report.reference).name} ({report.precision})")
    save(figure, path)


def _draw_layers(axes: Axes, models: list[ModelReport]) -> None:
    """One line a model, modules in the order in which a frame meets them."""
    for model in models:
        errors = list(model.layers.values())  # an infinite one is left out of the drawing, by matplotlib itself
        axes.plot(errors, ".", markersize=3, label=Path(model.model).name)
        finite = [index for index, error in enumerate(errors) if math.isfinite(error)]
        worst = max(finite, key=errors.__getitem__, default=None)
        if worst is not None and errors[worst] > 0:
            axes.annotate(list(model.layers)[worst], (worst, errors[worst]), fontsize=7)
    axes.set(title="error of the weights", xlabel="module, in the order of the file", ylabel="‖W − W'‖ / ‖W‖")
    axes.legend()


def _draw_divergence(axes: Axes, models: list[ModelReport]) -> None:
    for kind, marker in zip(KINDS, "os^", strict=True):
        points = [(model.nbytes / 1e9, score.divergence) for model in models if (score := model.scores(kind))]
        if points:
            sizes, values = zip(*points, strict=True)
            axes.plot(sizes, [max(value, FLOOR) for value in values], marker, label=kind)
    for model in models:
        if score := model.scores(KINDS[0]):
            axes.annotate(Path(model.model).name, (model.nbytes / 1e9, max(score.divergence, FLOOR)), fontsize=7)
    axes.set(title="divergence by size", xlabel="GB", ylabel="KL(reference ‖ model), nats per token", yscale="log")
    axes.legend()
