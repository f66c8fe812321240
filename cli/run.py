"""`moshi-mlx run`: a sound file in, Moshi's answer out."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.kinds import Kind

from .common import (
    KILLED,
    add_model_arguments,
    add_sampling_arguments,
    check_places,
    load_model,
    make_generator,
    make_sampling,
    note,
    path,
    write_text,
)
from .economy import add_economy_arguments

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.audio_file import AudioReader
    from moshi_mlx.text import TextTokenizer, Word

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
    add_model_arguments(parser)
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
    from moshi_mlx.audio_file import read_blocks

    check_places(args.input, args.output)
    if args.output.suffix.lower() != ".wav":
        raise MoshiError(f"{args.output} would be a wav file: give it a name that ends in .wav")
    if args.transcript:
        check_places(args.input, args.transcript)
        if args.transcript.resolve() == args.output.resolve():
            raise MoshiError(f"{args.transcript} cannot be both the reply and its transcript")
    if not 0 <= args.tail <= 3600:
        raise MoshiError(f"--tail must lie between 0 and 3600 seconds, not {args.tail}")
    report = answer(args, read_blocks(args.input), show_text=not args.json)
    if args.json:
        print(json.dumps(report))
    else:
        print_report(report)
    return 0


def answer(args: argparse.Namespace, reader: AudioReader, show_text: bool) -> dict[str, Any]:
    """Run the conversation, write the files, and return the figures."""
    from moshi_mlx.audio_file import WavWriter
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.mimi import FRAME_RATE, FRAME_SIZE, SAMPLE_RATE
    from moshi_mlx.pipeline import Stages, converse

    from .display import Answering

    make_sampling(args)  # a wrong flag shows before gigabytes are looked at
    moshi = load_model(args, Kind.CONVERSE, codec_ahead=True)
    seconds: dict[str, list[float]] = {"encode": [], "lm": [], "decode": []}
    stages = Stages.of(
        moshi, make_generator(moshi, args), args.greeting, lambda stage, _, took: seconds[stage].append(took)
    )
    answering = Answering(show_text)
    monologue = _Monologue(moshi.text, answering.say)
    blocks = _Counted(itertools.chain(reader, _silence(args.tail)))
    total, start = (reader.duration + args.tail) * FRAME_RATE, time.perf_counter()
    with steady_memory(memory_needed(moshi.checkpoint)), WavWriter(args.output, 2 if args.stereo else 1) as writer:
        for i, reply in enumerate(answering.progress(converse(stages, blocks), total, "answering")):
            length = blocks.samples - i * FRAME_SIZE  # less than a frame is left at the end
            writer.write(_columns(reply.heard, reply.said, args.stereo)[:length])
            monologue.push(reply.token)
        monologue.end()
        answering.end()
    if args.transcript:
        _write_transcript(args.transcript, monologue.words)
    return {
        "output": str(args.output),
        "seconds": round(blocks.samples / SAMPLE_RATE, 3),
        "frames": len(seconds["lm"]),
        "wall_seconds": round(time.perf_counter() - start, 3),
        "milliseconds_per_frame": latencies(seconds),
        "text": monologue.text,
        "words": [{"text": w.text, "start": w.start, "end": w.end} for w in monologue.words],
        "mended_samples": reader.mended_samples,
        "clipped_samples": stages.encoder.clipped_samples,
        "codec_restarts": stages.codec_restarts,
        "model": str(args.model),
        "precision": moshi.checkpoint.precision,
        "seed": args.seed,
    }


def latencies(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median and worst time of a frame in each stage, in milliseconds."""
    import numpy as np

    found = {}
    for stage, taken in seconds.items():
        times = 1000 * np.array(taken or [0.0])
        found[stage] = {"median": round(float(np.median(times)), 2), "max": round(float(times.max()), 2)}
    return found


def print_report(report: dict[str, Any]) -> None:
    """The figures in a few lines, after the text."""
    stages = report["milliseconds_per_frame"]
    told = ", ".join(f"{stage} {times['median']:.1f}" for stage, times in stages.items())
    print(f"{report['output']}: {report['seconds']:.2f} s in {report['wall_seconds']:.1f} s", file=sys.stderr)
    print(f"median ms per frame of 80 ms: {told}", file=sys.stderr)
    for count, what in (
        (report["mended_samples"], "samples of the input were no numbers, and were taken for silence"),
        (report["clipped_samples"], "samples of the input were beyond full scale, and were cut"),
        (report["codec_restarts"], KILLED),
    ):
        if count:
            note(f"{count} {what}")


class _Counted:
    """Blocks passed through, and how many samples they held."""

    def __init__(self, blocks: Iterator[np.ndarray]):
        self._blocks, self.samples = blocks, 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for block in self._blocks:
            self.samples += len(block)
            yield block


class _Monologue:
    """Moshi's text as it comes: told at once, and kept as words with times."""

    def __init__(self, tokenizer: TextTokenizer, say: Callable[[str], None]):
        from moshi_mlx.text import TextStream, WordStream

        self._stream, self._words, self._say = TextStream(tokenizer), WordStream(tokenizer), say
        self._frame, self.text = 0, ""
        self.words: list[Word] = []

    def push(self, token: int) -> None:
        self._add(self._stream.push(token))
        self.words += self._words.push(token, self._frame)
        self._frame += 1

    def end(self) -> None:
        self._add(self._stream.flush())
        self.words += self._words.flush()

    def _add(self, text: str) -> None:
        self.text += text
        self._say(text)


def _silence(seconds: float) -> Iterator[np.ndarray]:
    import numpy as np

    from moshi_mlx.mimi import FRAME_RATE, FRAME_SIZE

    for _ in range(round(seconds * FRAME_RATE)):
        yield np.zeros(FRAME_SIZE, np.float32)


def _columns(heard: np.ndarray, said: np.ndarray, stereo: bool) -> np.ndarray:
    import numpy as np

    return np.stack([heard, said], axis=1) if stereo else said


def _write_transcript(file: Path, words: list[Word]) -> None:
    write_text(file, "".join(f"{word.start:.2f}\t{word.end:.2f}\t{word.text}\n" for word in words))
