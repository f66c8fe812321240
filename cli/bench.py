"""`moshi-mlx bench`: whether this machine keeps up, how far it is from its limit, and what would help."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError

from .common import check_picture, locate_model, note, path
from .economy import add_economy_arguments, economy_of

if TYPE_CHECKING:
    from moshi_mlx.bench.subjects import Subject

HELP = "measure whether this machine runs Moshi in real time, without a download"
EXAMPLE = "moshi-mlx bench -q 4 --plot bench.png"

SIZES = (
    "moshi", "stt-1b", "stt-1b-vad", "stt-2.6b", "tts-1.6b", "tts-0.75b", "hibiki-1b", "hibiki-2b", "helium-2b",
    "middle", "tiny", "narrow",
)  # fmt: skip
RACED = ("middle", "tiny", "narrow")
"""Small enough to be written for a race."""
STAGES = ("encode", "lm", "temporal", "depth", "sampling", "decode", "pipeline")
PEERS = ("moshi_mlx",)

Tell = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench`, and `bench compare`."""
    verbs = parser.add_subparsers(dest="verb", metavar="compare")
    compare = verbs.add_parser("compare", help="compare two results")
    compare.add_argument("before", metavar="A.json", help="what `bench --json` printed")
    compare.add_argument("after", metavar="B.json", help="the same, of another machine, version or setting")
    compare.add_argument("--json", action="store_true", help="print one JSON object")
    what = parser.add_argument_group("what is measured")
    what.add_argument("--model", help="a real checkpoint: a name or folder as for chat (default: random weights)")
    what.add_argument(
        "--size", choices=SIZES, default="moshi", help="architecture for random weights (default: %(default)s)"
    )
    what.add_argument(
        "-q",
        dest="bits",
        type=int,
        nargs="+",
        choices=(4, 8, 16, 32),
        help="bits per weight, one or several (default: 4, 8 and 16 where they fit in memory)",
    )
    what.add_argument("--frames", type=int, metavar="N", help="frames of each stage (default: 100, or 20 s of them)")
    what.add_argument(
        "--from-frame", type=int, metavar="N", help="frames already in the conversation (default: a full window)"
    )
    what.add_argument("--stages", metavar="A,B", help=f"only these: {', '.join(STAGES)}")
    what.add_argument("--contend", action="store_true", help="let a second program rewrite memory meanwhile")
    add_economy_arguments(parser)
    race = parser.add_argument_group("race")
    race.add_argument("--peer", choices=PEERS, help="race this implementation on the same weights")
    race.add_argument(
        "--peer-python", metavar="PYTHON", help="the Python of its environment (docs/results.md tells how to make it)"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--plot", metavar="FILE", type=path, help="draw latency and memory: .png, .svg or .pdf")
    out.add_argument("--json", action="store_true", help="print one JSON object with every frame, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Measure, or compare; returns the exit code."""
    if args.verb == "compare":
        return _compare(args)
    stages = _check(args)
    from moshi_mlx.bench.contention import contended
    from moshi_mlx.speed import measure_bandwidth

    from .tables import progress_line

    with progress_line() as tell:
        tell("measuring the memory's bandwidth")
        bandwidth = measure_bandwidth()
        subjects, unfit = _subjects(args)
        with contended(args.contend):
            result = _measure(args, subjects, unfit, stages, bandwidth, tell)
            if args.peer:
                result["peer"] = _race(args, tell)
    _print(result, args)
    if args.plot:
        from moshi_mlx.bench.picture import draw

        draw(result, args.plot)
        note(f"the picture is {args.plot}")
    return 0


def _check(args: argparse.Namespace) -> tuple[str, ...]:
    """Refuse, before any work, what cannot be; return the stages."""
    if args.frames is not None and args.frames < 1:
        raise MoshiError(f"--frames must be at least 1, not {args.frames}")
    if args.from_frame is not None and args.from_frame < 0:
        raise MoshiError(f"--from-frame must be 0 or more, not {args.from_frame}")
    if args.model and args.bits and len(args.bits) > 1:
        raise MoshiError("-q takes one width with --model: a checkpoint has one precision")
    stages = tuple(args.stages.split(",")) if args.stages else STAGES
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown:
        raise MoshiError(f"--stages does not know {unknown[0]!r}; it takes {', '.join(STAGES)}")
    if args.plot:
        check_picture(args.plot)
    _check_race(args)
    return stages


def _check_race(args: argparse.Namespace) -> None:
    if bool(args.peer) != bool(args.peer_python):
        raise MoshiError("a race needs both --peer moshi_mlx and --peer-python: docs/results.md tells how to make one")
    if args.peer and not args.model and args.size not in RACED:
        raise MoshiError(f"a race reads its weights from files: give --model, or --size {', '.join(RACED)}")
    if args.peer and (args.context or args.kv_bits or args.dtype):
        raise MoshiError("a race runs both sides as the checkpoint has it: leave --context, --kv-bits and --dtype out")


def _subjects(args: argparse.Namespace) -> tuple[list[Subject], list[str]]:
    from moshi_mlx.bench.subjects import checkpoint_subject, random_subjects

    if args.model is None:
        return random_subjects(args.size, args.bits, args.from_frame, economy_of(args))
    folder = locate_model(args.model, args.bits[0] if args.bits else None, companions=False)
    return [checkpoint_subject(folder, economy_of(args))], []


def _measure(
    args: argparse.Namespace,
    subjects: Sequence[Subject],
    unfit: list[str],
    stages: tuple[str, ...],
    bandwidth: float,
    tell: Tell,
) -> dict[str, Any]:
    from moshi_mlx.bench import report
    from moshi_mlx.bench.machine import probe
    from moshi_mlx.bench.subjects import run as run_one
    from moshi_mlx.bench.verdict import Standing, verdict

    config = subjects[0].config
    from_frame = config.transformer.context if args.from_frame is None else args.from_frame
    runs = [run_one(subject, bandwidth, from_frame, args.frames, stages, tell) for subject in subjects]
    standings = [standing for one in runs if (standing := report.standing(one))]
    return {
        "form": report.FORM,
        "made": report.now(),
        "machine": report.describe_machine(probe()),
        "versions": report.versions(),
        "settings": {
            "model": Path(args.model).name if args.model else f"{args.size}, random weights",
            "frames": args.frames,
            "from_frame": from_frame,
            "context": args.context,
            "kv_bits": args.kv_bits,
            "dtype": args.dtype,
            "contend": args.contend,
            "stages": list(stages),
        },
        "bandwidth": round(bandwidth),
        "runs": runs,
        "unfit": unfit,
        "verdict": verdict([*standings, *(Standing(name, None) for name in unfit)]),
        "predictions": report.predictions(config) if report.is_moshi(config) else [],
    }


def _race(args: argparse.Namespace, tell: Tell) -> dict[str, Any]:
    from moshi_mlx.bench import race
    from moshi_mlx.bench.random_model import SIZES as CONFIGS

    # The shell's own name for it: a venv's python is a link that must not be resolved.
    python = str(Path(args.peer_python).expanduser().absolute())

    def run_race(folder: Path) -> dict[str, Any]:
        from moshi_mlx.checkpoint.inspect import inspect

        full = inspect(folder).config.transformer.context
        positions = sorted({0, full if args.from_frame is None else args.from_frame})
        return race.race(folder, python, positions, args.frames or race.FRAMES, tell=tell)

    if args.model:
        return run_race(locate_model(args.model, args.bits[0] if args.bits else None, companions=False))
    with race.random_checkpoint(CONFIGS[args.size]) as folder:
        return run_race(folder) | {"folder": f"{args.size}, random weights"}


def _compare(args: argparse.Namespace) -> int:
    from moshi_mlx.bench.report import compare, differing_settings, read_result

    from .figures import print_comparison

    before, after = read_result(args.before), read_result(args.after)
    rows, other = compare(before, after), differing_settings(before, after)
    if not rows:
        raise MoshiError(f"{args.before} and {args.after} have no model and stage in common")
    if args.json:
        print(json.dumps({"stages": rows, "settings": other}))
        return 0
    for difference in other:
        note(f"not the same in both: {difference}")
    print_comparison(rows)
    return 0


def _print(result: dict[str, Any], args: argparse.Namespace) -> None:
    from moshi_mlx.bench.report import compact

    from .figures import print_result

    if args.json:
        print(json.dumps(result))
        return
    print_result(result)
    print(compact(result))
