"""`moshi-mlx run`: a sound file in, Moshi's answer out."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from moshi_mlx.tasks.kinds import Kind

from .common import (
    add_model_arguments,
    add_sampling_arguments,
    load_model,
    make_generator,
    make_sampling,
    path,
)
from .economy import add_economy_arguments
from .replies import Takes, check_outputs, columns, figures, print_report, tell, write_transcript

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.audio_file import AudioReader
    from moshi_mlx.pipeline import Reply

HELP = "answer a sound file with a sound file"
EXAMPLE = "moshi-mlx run --model moshiko question.wav answer.wav --stereo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `run`."""
    parser.add_argument(
        "input", metavar="IN", type=path, help="what the user says: any format and rate that soundfile reads"
    )
    parser.add_argument(
        "output", metavar="OUT.wav", type=path, help="what Moshi says beside it: 24 kHz, as long as the input"
    )
    add_model_arguments(parser, Kind.CONVERSE)
    parser.add_argument("--stereo", action="store_true", help="put the user on the left and Moshi on the right")
    parser.add_argument(
        "--tail",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="listen on to silence after the input, so that Moshi can finish (default: 0)",
    )
    parser.add_argument(
        "--transcript", metavar="FILE", type=path, help="write Moshi's words with their times, one a line"
    )
    add_economy_arguments(parser)
    add_sampling_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")


def run(args: argparse.Namespace) -> int:
    """Answer the file; returns the exit code."""
    from moshi_mlx.audio_file import AudioReader

    check_outputs(args.input, args.output, args.transcript, args.tail)
    report = answer(args, AudioReader(args.input), show_text=not args.json)
    if args.json:
        print(json.dumps(report))
    else:
        print_report(report["output"], report)
    return 0


def answer(args: argparse.Namespace, reader: AudioReader, show_text: bool) -> dict[str, Any]:
    """Run the conversation, write the files, and return the figures."""
    from moshi_mlx.audio_file import WavWriter
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.pipeline import Stages, converse
    from moshi_mlx.rates import FRAME_RATE, FRAME_SIZE, SAMPLE_RATE

    make_sampling(args)  # a wrong flag shows before gigabytes are looked at
    moshi = load_model(args, Kind.CONVERSE, codec_ahead=True)
    takes = Takes()
    stages = Stages.of(moshi, make_generator(moshi, args), args.greeting, takes.add)
    blocks = _Counted(itertools.chain(reader, _silence(args.tail)))
    total, written = (reader.duration + args.tail) * FRAME_RATE, itertools.count(0, FRAME_SIZE)
    with steady_memory(memory_needed(moshi.checkpoint)), WavWriter(args.output, 2 if args.stereo else 1) as writer:

        def keep(reply: Reply) -> None:
            writer.write(columns(reply, args.stereo)[: blocks.samples - next(written)])  # the last one is shorter

        monologue = tell(converse(stages, blocks), total, "answering", moshi.text, show_text, keep)
    if args.transcript:
        write_transcript(args.transcript, monologue.words)
    return {
        "output": str(args.output),
        "seconds": round(blocks.samples / SAMPLE_RATE, 3),
        **figures(args, moshi, stages, takes, reader, monologue),
    }


class _Counted:
    """Blocks passed through, and how many samples they held."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self._blocks, self.samples = blocks, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


def _silence(seconds: float) -> Iterator[np.ndarray]:
    import numpy as np

    from moshi_mlx.rates import FRAME_RATE, FRAME_SIZE

    for _ in range(round(seconds * FRAME_RATE)):
        yield np.zeros(FRAME_SIZE, np.float32)
