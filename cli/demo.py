"""`moshi-mlx demo`: the main job on the built-in model, without a download."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.resources import as_file, files

from .common import check_target, check_wav, path
from .replies import print_report
from .run import answer

HELP = "let the built-in model answer two seconds of speech, without a download"
EXAMPLE = "moshi-mlx demo"
SPEECH = "hello.flac"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `demo`."""
    parser.add_argument(
        "output", nargs="?", type=path, default="moshi-demo.wav", help="where the reply goes (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, and nothing else")
    parser.set_defaults(
        model="tiny", bits=None, temp=0.8, text_temp=0.7, top_k=250, text_top_k=25, min_p=0.0, seed=0,
        greeting=None, stereo=True, tail=0.0, transcript=None,
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Answer the bundled speech; returns the exit code."""
    from moshi_mlx.audio_file import AudioReader

    check_target(args.output)
    check_wav(args.output)
    with as_file(files("moshi_mlx") / "assets" / SPEECH) as speech:
        report = answer(args, AudioReader(speech), show_text=False)
    if args.json:
        print(json.dumps(report))
        return 0
    print(f"The reply is in {args.output.resolve()}: you on the left, Moshi on the right.")
    print_report(report["output"], report)
    if sys.platform == "darwin":
        print(f"Listen to it: afplay '{args.output}'")
    print("Next: moshi-mlx doctor, then moshi-mlx chat, which downloads Moshi (in its folder: uv run moshi-mlx …)")
    return 0
