"""`moshi-mlx compare`: what quantizing has cost, in the weights and on speech."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .common import check_picture, locate_model, note, path

if TYPE_CHECKING:
    from moshi_mlx.quantize.report import ModelReport, Report

HELP = "measure what a quantized model has lost against its reference"
EXAMPLE = "moshi-mlx compare kyutai/moshiko-mlx-bf16 kyutai/moshiko-mlx-q4 --audio speech.wav --picture loss.png"

WORST_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    parser.add_argument("reference", metavar="A", help="the reference: a folder, a repository, or tiny")
    parser.add_argument("models", metavar="B", nargs="+", help="what was made of it; several share one reference run")
    parser.add_argument(
        "--audio", nargs="+", default=[], metavar="FILE", help="speech: the reference answers it, and all are scored"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the reference's answer (default: 0)")
    parser.add_argument("--picture", metavar="FILE", type=path, help="draw error by layer, and divergence against size")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with every layer and stream")


def run(args: argparse.Namespace) -> int:
    """Compare; returns the exit code."""
    from moshi_mlx.audio_file import sound_seconds
    from moshi_mlx.quantize.report import compare

    from .display import steps_bar

    for file in args.audio:
        sound_seconds(file)  # a wrong name shows at once
    if args.picture:
        check_picture(args.picture)
    reference, *models = (
        locate_model(name, None, companions=bool(args.audio) and not i)
        for i, name in enumerate([args.reference, *args.models])
    )
    with steps_bar() as progress:
        report = compare(reference, models, args.audio, args.seed, progress)
    if args.json:
        print(json.dumps(report.as_json()))
    else:
        for model in report.models:
            _print(report, model)
        if len(report.models) > 1:
            _print_side_by_side(report)
    if args.picture:
        from moshi_mlx.quantize.picture import draw

        draw(report, args.picture)
        note(f"the picture is {args.picture}")
    return 0


def _print(report: Report, model: ModelReport) -> None:
    from moshi_mlx.memory import human_bytes
    from moshi_mlx.quantize.report import KINDS

    from .display import print_table

    rows = [
        ("reference", f"{report.reference} ({report.precision}, {human_bytes(report.nbytes)})"),
        ("model", f"{model.model} ({model.precision}, {human_bytes(model.nbytes)})"),
        ("weights per frame", human_bytes(model.frame_bytes)),
        *((f"weight error, {part}", f"{error:.4%}") for part, error in model.parts.items()),
    ]
    worst = sorted(model.layers.items(), key=lambda item: -item[1])[:WORST_SHOWN]
    rows += [(f"  {module}", f"{error:.4%}") for module, error in worst if error > 0]
    for kind in KINDS:
        if score := model.scores(kind):
            rows.append(
                (
                    f"{kind} ({score.tokens} tokens)",
                    f"cross-entropy {score.reference_cross_entropy:.4f} -> {score.cross_entropy:.4f} nats, "
                    f"KL {score.divergence:.3g}, greedy token agrees {score.agreement:.2%}",
                )
            )
    if not model.streams:
        rows.append(("on speech", "not measured; --audio FILE does"))
    print_table("what it cost", rows)


def _print_side_by_side(report: Report) -> None:
    """A line a model: size against loss."""
    from moshi_mlx.memory import human_bytes
    from moshi_mlx.quantize.report import KINDS

    from .display import print_table

    rows = []
    for model in report.models:
        losses = [f"{kind} {score.divergence:.3g}" for kind in KINDS if (score := model.scores(kind))]
        told = f", KL {', '.join(losses)}" if losses else ""
        rows.append((Path(model.model).name, f"{human_bytes(model.nbytes)}{told}"))
    print_table("side by side", rows)
