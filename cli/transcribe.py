"""`moshi-mlx transcribe`: what is said, in words with their times, from sound files or from the microphone."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from moshi_mlx.errors import AudioError, MoshiError
from moshi_mlx.tasks.kinds import Kind

from .common import add_model_arguments, check_places, load_model, path, write_text
from .economy import add_economy_arguments
from .transcripts import FORMATS, in_format, suffix, words_lines

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.checkpoint.inspect import Checkpoint
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.transcription import Heard

    from .display import Answering

HELP = "write down what is said in sound files, or into the microphone"
EXAMPLE = "moshi-mlx transcribe interview.mp3 --format srt -o interview.srt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `transcribe`."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=path,
        help="wav, flac, ogg, mp3 … of any rate; none: the microphone",
    )
    add_model_arguments(parser, Kind.TRANSCRIBE)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="plain text; words with start and end in seconds, one a line; subtitles; or JSON with words, times and, "
        "from a model that tells it (kyutai/stt-1b-en_fr-candle), the probability of a pause in every frame of 80 ms "
        "(default: %(default)s)",
    )
    form.add_argument("--json", dest="format", action="store_const", const="json", help="the same as --format json")
    parser.add_argument(
        "-o", "--output", metavar="OUT", type=path, help="file to write; a folder, for several FILEs (default: stdout)"
    )
    parser.add_argument("-i", "--input", metavar="DEVICE", help="microphone, by number or name (see moshi-mlx devices)")
    parser.add_argument(
        "--batch", type=int, default=4, metavar="N", help="files that are heard at once (default: %(default)s)"
    )
    add_economy_arguments(parser)
    parser.add_argument("--temp", type=float, default=0.0, help="temperature; 0 takes the likeliest (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same words (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Transcribe; returns the exit code."""
    from moshi_mlx.sampling import Sampling

    if not 1 <= args.batch <= 256:
        raise MoshiError(f"--batch must lie between 1 and 256 files, not {args.batch}")
    if args.files and args.input is not None:
        raise MoshiError(f"give either sound files or a microphone (-i {args.input}), not both")
    sampling = Sampling(args.temp)
    if args.files:
        transcribe_files(args, sampling)
    else:
        from .listen import transcribe_live

        transcribe_live(args, sampling)
    return 0


def transcribe_files(args: argparse.Namespace, sampling: Sampling) -> None:
    """Transcribe the FILEs, the longest first, so that those heard together are about as long as each other.

    Raises:
        AudioError: some are broken further on; the others' transcripts have been written.
    """
    from moshi_mlx.audio_file import sound_seconds

    seconds = {file: sound_seconds(file) for file in args.files}
    targets = choose_targets(args.files, args.output, args.format)
    moshi = load_model(args, Kind.TRANSCRIBE)
    files = sorted(seconds, key=lambda file: -seconds[file])
    check_batch(moshi.checkpoint, min(args.batch, len(files)), seconds[files[0]])
    broken: dict[Path, AudioError] = {}
    for first in range(0, len(files), args.batch):
        batch = files[first : first + args.batch]
        broken |= transcribe_batch(args, moshi, sampling, {file: targets[file] for file in batch}, seconds[batch[0]])
    if broken:
        raise AudioError("; ".join(map(str, broken.values())))


def check_batch(checkpoint: Checkpoint, rows: int, seconds: float) -> None:
    """Refuse to hear more files at once than memory has room for, beside the model that is there.

    Raises:
        MoshiError: how much they need, how much there is, and how many fit.
    """
    from moshi_mlx.checkpoint.load import window_bytes
    from moshi_mlx.memory import available_memory, human_bytes
    from moshi_mlx.tasks.transcription import encoder_bytes

    def needed(rows: int) -> int:
        return rows * window_bytes(checkpoint) + encoder_bytes(rows, seconds)

    there = available_memory(held=checkpoint.nbytes)
    if needed(rows) > there:
        fit = max((n for n in range(1, rows) if needed(n) <= there), default=1)
        raise MoshiError(
            f"{rows} files at once need {human_bytes(needed(rows))} of memory beside the model, and "
            f"{human_bytes(there)} can be had; use --batch {fit}"
        )


def choose_targets(files: Sequence[Path], output: Path | None, form: str) -> dict[Path, Path | None]:
    """Where the transcript of each file goes; None is stdout.

    Raises:
        MoshiError: -o cannot be written, or two files would have one name there.
    """
    if output is None or (len(files) == 1 and not os.path.isdir(output)):
        if output is not None:
            for file in files:
                check_places(file, output)
        return dict.fromkeys(files, output)
    if not os.path.isdir(output):
        raise MoshiError(f"{output} must be a folder that exists, for the transcripts of {len(files)} files")
    targets: dict[Path, Path | None] = {}
    for file in files:
        target = output / f"{file.stem}{suffix(form)}"
        if target in targets.values():
            raise MoshiError(f"two of the files would be written to {target}: transcribe them one at a time")
        check_places(file, target)
        targets[file] = target
    return targets


def transcribe_batch(
    args: argparse.Namespace, moshi: Moshi, sampling: Sampling, targets: dict[Path, Path | None], seconds: float
) -> dict[Path, AudioError]:
    """Transcribe some files at once, and write or print what was said; a single one is printed as it comes.

    Returns what is wrong with those that could not be read to their end; their transcripts are not kept.
    """
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.rates import FRAME_RATE
    from moshi_mlx.tasks.transcription import Transcription

    from .display import Answering

    files, start = list(targets), time.perf_counter()
    broken: dict[Path, AudioError] = {}
    as_it_comes = len(args.files) == 1 and args.output is None and args.format in ("text", "words")
    title = files[0].name if len(files) == 1 else f"{len(files)} files"
    answering = Answering(as_it_comes)
    with steady_memory(memory_needed(moshi.checkpoint, rows=len(files))):
        work = Transcription(moshi, [_until_broken(file, broken) for file in files], sampling, args.seed)
        for heard in answering.progress(work, seconds * FRAME_RATE + work.beside, title):
            tell(answering, heard, args.format)
    answering.end()
    if as_it_comes:
        return broken
    took = time.perf_counter() - start
    for file, transcript in zip(files, work.transcripts, strict=True):
        if file in broken:
            continue
        about = {"file": str(file), "model": args.model, "precision": moshi.checkpoint.precision}
        about |= {"files_at_once": len(files), "wall_seconds": round(took, 3)}
        heading = f"{file}:" if len(args.files) > 1 and args.format != "json" else None
        put(in_format(transcript, args.format, about), targets[file], heading)
    return broken


def _until_broken(file: Path, broken: dict[Path, AudioError]) -> Iterator[np.ndarray]:
    """The sound of a file as far as it can be read, so that those heard beside it go on; what is wrong is noted."""
    from moshi_mlx.audio_file import AudioReader

    try:
        yield from AudioReader(file)
    except AudioError as error:
        broken[file] = error


def tell(answering: Answering, heard: list[Heard | None], form: str) -> None:
    """Show what a frame brought."""
    for part in filter(None, heard):
        answering.say(part.text if form == "text" else words_lines(part.words))


def put(text: str, target: Path | None, heading: str | None) -> None:
    """Write a transcript to its file, or to stdout under a heading where there are several."""
    if target is not None:
        write_text(target, text)
        return
    if heading is not None:
        print(heading)
    print(text, end="" if heading is None else "\n", flush=True)
