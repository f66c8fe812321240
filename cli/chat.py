"""`moshi-mlx chat`: talk with Moshi, both at once, for as long as you like."""

from __future__ import annotations

import argparse

from moshi_mlx.tasks.kinds import Kind

from .common import (
    add_model_arguments,
    add_sampling_arguments,
    check_kind,
    load_model,
    make_generator,
    make_sampling,
    note,
)
from .economy import add_economy_arguments
from .live import (
    add_sound_arguments,
    check_block_size,
    choose_echo,
    choose_view,
    find_speaker,
    make_conversation,
    report,
    stopped_by_signals,
)

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

    from .display import status
    from .follow import follow

    check_block_size(args.block_size)
    check_kind(args, Kind.CONVERSE)
    echo = choose_echo(args.echo_cancellation, find_speaker(args))
    note(f"loading {args.model}")
    make_sampling(args)  # a wrong flag shows before gigabytes are looked at
    moshi = load_model(args, Kind.CONVERSE, codec_ahead=True)
    with status("warming up"):
        stages = Stages.of(moshi, make_generator(moshi, args), args.greeting)
        conversation = make_conversation(args, moshi, stages, echo)
    view = choose_view(conversation, args)
    with stopped_by_signals(conversation.stop), follow(conversation, view):
        summary = conversation.run()
    report(conversation, summary, args.json)
    return 0
