"""`moshi-mlx chat`: talk with Moshi, both at once, for as long as you like."""

from __future__ import annotations

import argparse

from moshi_mlx.tasks.kinds import Kind

from .common import add_model_arguments, add_sampling_arguments, make_generator, make_sampling
from .economy import add_economy_arguments
from .live import add_sound_arguments, hold_conversation, report

HELP = "talk with Moshi through the microphone and the speaker"
EXAMPLE = "moshi-mlx chat --record recordings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `chat`."""
    add_model_arguments(parser, Kind.CONVERSE)
    add_economy_arguments(parser)
    add_sound_arguments(parser, "-o", "--output")
    add_sampling_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per frame, and the summary last")


def run(args: argparse.Namespace) -> int:
    """Converse until Ctrl-C or q; returns the exit code."""
    from moshi_mlx.pipeline import Stages

    make_sampling(args)  # a wrong flag shows before gigabytes are looked at
    conversation, _, summary = hold_conversation(
        args, Kind.CONVERSE, lambda moshi: Stages.of(moshi, make_generator(moshi, args), args.greeting)
    )
    report(conversation, summary, args.json)
    return 0
