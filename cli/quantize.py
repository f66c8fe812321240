"""`moshi-mlx quantize`: a checkpoint in fewer bits, tensor by tensor."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError

from .common import locate_model, note

if TYPE_CHECKING:
    from moshi_mlx.quantize.convert import Conversion, Override
    from moshi_mlx.quantize.recipes import Recipe

HELP = "quantize a checkpoint, on a Mac of any memory"
EXAMPLE = "moshi-mlx quantize kyutai/moshiko-mlx-bf16 moshiko-mixed --recipe mixed_4_6"

MODES = ("affine", "mxfp4", "nvfp4", "mxfp8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `quantize`, called as in mlx-lm."""
    parser.add_argument(
        "source", metavar="SRC", nargs="?", help="moshiko, moshika, tiny, a Hugging Face repository, or a folder"
    )
    parser.add_argument("destination", metavar="DST", nargs="?", help="the folder to make; must not exist")
    parser.add_argument("--recipe", metavar="NAME", help="a named recipe (default: q4); --recipes lists them")
    parser.add_argument(
        "--recipes", action="store_true", help="list the recipes with sizes, for SRC or Moshi, and stop"
    )
    parser.add_argument("--q-bits", type=int, metavar="N", help="bits per weight: 2, 3, 4, 5, 6 or 8")
    parser.add_argument(
        "--q-group-size", type=int, metavar="N", help="weights that share a scale: 32, 64 or 128 (default: as Kyutai's)"
    )
    parser.add_argument("--q-mode", choices=MODES, default="affine", help="default: %(default)s")
    parser.add_argument("-d", "--dequantize", action="store_true", help="back to bfloat16")
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    parser.add_argument(
        "--calibrate",
        nargs="+",
        metavar="FILE",
        help="round by GPTQ on this speech; needs several times the model's memory",
    )
    parser.add_argument("--upload-repo", metavar="REPO", help="send the result to this Hugging Face repository")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Quantize; returns the exit code."""
    from moshi_mlx.quantize.writer import check_free

    if args.recipes:
        return _list_recipes(args)
    if args.destination is None:
        raise MoshiError("quantize needs a source and a destination: moshi-mlx quantize SRC DST")
    recipe = _recipe(args)
    destination = Path(args.destination).expanduser().absolute()
    check_free(destination, args.resume)
    if args.upload_repo:
        from moshi_mlx.quantize.upload import check_upload

        check_upload(args.upload_repo)
    report = _quantize(args, recipe, destination)
    if args.upload_repo:
        from moshi_mlx.quantize.upload import upload

        report["uploaded"] = upload(destination, args.upload_repo)
    _print(report, args.json)
    return 0


def _quantize(args: argparse.Namespace, recipe: Recipe, destination: Path) -> dict[str, Any]:
    """Plan, calibrate, convert; returns the figures."""
    from moshi_mlx.quantize.convert import convert, plan

    from .display import bytes_bar

    began, seconds = time.perf_counter(), _seconds(args.calibrate or [])
    conversion = plan(_locate(args.source), destination, recipe, args.resume)
    override = _calibrate(args.calibrate, seconds, conversion) if args.calibrate else None
    notes = "Linear layers of the fewest bits by GPTQ, calibrated on speech." if override else ""
    try:
        with bytes_bar(f"{conversion.source.precision} to {recipe.name}") as progress:
            convert(conversion, args.resume, progress, override, _base_model(args.source), notes)
    except KeyboardInterrupt:
        note("stopped; the same command with --resume goes on from here")
        raise
    return _report(conversion, time.perf_counter() - began)


def _recipe(args: argparse.Namespace) -> Recipe:
    from moshi_mlx.quantize.recipes import BFLOAT16, choose

    if not args.dequantize:
        return choose(args.recipe, args.q_bits, args.q_group_size, args.q_mode)
    if args.recipe or args.q_bits or args.q_group_size or args.q_mode != "affine" or args.calibrate:
        raise MoshiError("--dequantize goes back to bfloat16; give it without bits, recipe or --calibrate")
    return BFLOAT16


def _locate(source: str) -> Path:
    """The source's folder: of a short name the bf16 checkpoint, and of a folder just what is in it."""
    from moshi_mlx.checkpoint.hub import SHORT_NAMES

    local = Path(source).expanduser().is_dir()
    return locate_model(source, 16 if source in SHORT_NAMES else None, companions=not local)


def _base_model(source: str) -> str | None:
    """The source's name on the Hub, where it has one."""
    from moshi_mlx.checkpoint.hub import SHORT_NAMES, repository_of
    from moshi_mlx.checkpoint.tiny import BUILT_IN

    if source in SHORT_NAMES:
        return repository_of(source, 16)
    local = source in BUILT_IN or Path(source).expanduser().exists()
    return None if local else source.split("@")[0]


def _seconds(files: list[str]) -> float:
    """Open each file, so that a wrong name shows at once; how long they are together."""
    from moshi_mlx.audio_file import sound_seconds

    return sum(map(sound_seconds, files))


def _calibrate(files: list[str], seconds: float, conversion: Conversion) -> Override:
    from moshi_mlx.moshi import load_folder
    from moshi_mlx.quantize.calibrate import calibrate, check_calibration, check_speech
    from moshi_mlx.quantize.conversation import converse, encode

    check_speech(conversion.source.config, conversion.formats, seconds)
    check_calibration(conversion.source, conversion.formats)
    moshi = load_folder(conversion.source.folder)
    note("calibrating: the model answers the recordings, then mlx-lm works out each layer's Hessian")
    codes = converse(moshi.lm, encode(moshi.codec, files, moshi.config.user_codebooks))
    del moshi
    return calibrate(conversion.source, conversion.formats, codes)


def _report(conversion: Conversion, seconds: float) -> dict[str, Any]:
    import mlx.core as mx

    from moshi_mlx.quantize.card import measuring

    size, source = conversion.size, conversion.source
    return {
        "destination": str(conversion.destination),
        "recipe": conversion.recipe.name,
        "files": list(conversion.files),
        "source_bytes": source.nbytes,
        "bytes": size.nbytes,
        "bits_per_weight": round(size.bits_per_weight, 3),
        "bytes_per_frame": size.frame_bytes,
        "bytes_by_part": size.parts,
        "seconds": round(seconds, 2),
        "peak_memory_bytes": mx.get_peak_memory(),
        "quality": f"not yet measured; `{measuring(source.config)}` measures it",
    }


def _print(report: dict[str, Any], as_json: bool) -> None:
    from moshi_mlx.memory import human_bytes

    from .display import print_table

    if as_json:
        print(json.dumps(report))
        return
    rows = [
        ("folder", report["destination"]),
        ("recipe", report["recipe"]),
        ("size", f"{human_bytes(report['bytes'])}, from {human_bytes(report['source_bytes'])}"),
        ("bits per weight", f"{report['bits_per_weight']:.2f}, scales included"),
        ("weights per frame", human_bytes(report["bytes_per_frame"])),
        ("time", f"{report['seconds']:.1f} s"),
        ("peak memory", f"{human_bytes(report['peak_memory_bytes'])} of arrays"),
        ("quality", report["quality"]),
    ]
    print_table("quantized", rows + ([("uploaded", report["uploaded"])] if "uploaded" in report else []))


def _list_recipes(args: argparse.Namespace) -> int:
    """What there is to choose from, as facts about a model."""
    from moshi_mlx.checkpoint.inspect import inspect
    from moshi_mlx.config import MOSHI_7B, LMConfig
    from moshi_mlx.memory import human_bytes
    from moshi_mlx.quantize.recipes import RECIPES, size_of

    from .display import print_table

    config = inspect(_locate(args.source)).config if args.source else LMConfig.from_dict(MOSHI_7B)
    sizes = {recipe: size_of(config, recipe.formats(config)) for recipe in RECIPES.values()}
    if args.json:
        told = {
            recipe.name: {
                "bytes": size.nbytes,
                "bits_per_weight": round(size.bits_per_weight, 3),
                "bytes_per_frame": size.frame_bytes,
                "reason": recipe.reason,
            }
            for recipe, size in sizes.items()
        }
        print(json.dumps(told))
        return 0
    rows = [
        (recipe.name, f"{human_bytes(s.nbytes)}, {human_bytes(s.frame_bytes)} a frame: {recipe.reason}")
        for recipe, s in sizes.items()
    ]
    print_table("recipes", rows)
    return 0
