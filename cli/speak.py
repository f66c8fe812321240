"""`moshi-mlx speak`: a text said aloud, through the speaker or into a file, while the text may still be coming."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.kinds import Kind

from .common import add_model_arguments, check_kind, check_target, check_wav, load_model, note, path
from .live import settle_devices

if TYPE_CHECKING:
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.tasks.speaking.manner import Manner
    from moshi_mlx.tasks.speaking.voices import VoiceBook

HELP = "say a text aloud, as it comes"
EXAMPLE = "moshi-mlx speak 'Hello there.' --voice vctk/p225_023.wav -o hello.wav"

STDIN = "-"
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `speak`."""
    parser.add_argument(
        "text",
        metavar="TEXT",
        nargs="?",
        help='what to say; -, or nothing, for what comes through a pipe. <break time="0.5s"/> is a pause; with two '
        "voices every line is a turn, of the other speaker or of the one it names (`1: …`, `2: …`)",
    )
    parser.add_argument("-f", "--file", metavar="FILE", type=path, help="say the text of a file")
    parser.add_argument(
        "-o", "--output", metavar="OUT.wav", type=path, help="write a wav file (default: play through the speaker)"
    )
    parser.add_argument("--speaker", metavar="DEVICE", help="speaker, by number or name (see moshi-mlx devices)")
    parser.add_argument(
        "--voice",
        metavar="NAME",
        action="append",
        default=[],
        help="a voice of kyutai/tts-voices by its name, a voice's file, or hf://org/repo/name; twice for two speakers",
    )
    parser.add_argument("--list-voices", action="store_true", help="print the names of the model's voices, and end")
    add_model_arguments(parser, Kind.SPEAK)
    add_manner_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end, and nothing else")


def add_manner_arguments(parser: argparse.ArgumentParser) -> None:
    """How it is said."""
    pace = parser.add_argument_group("pace")
    pace.add_argument(
        "--padding-between",
        type=int,
        default=1,
        metavar="STEPS",
        help="steps of 80 ms at least between words: more is slower and clearer (default: %(default)s)",
    )
    pace.add_argument(
        "--padding-bonus",
        type=float,
        default=0.0,
        metavar="LOGIT",
        help="-2 to 2: above 0 speaks slower, below 0 faster (default: 0)",
    )
    pace.add_argument(
        "--max-padding",
        type=int,
        default=8,
        metavar="STEPS",
        help="the next word begins at the latest after so many steps (default: %(default)s)",
    )
    group = parser.add_argument_group("sampling")
    group.add_argument(
        "--guidance",
        type=float,
        default=2.0,
        help="more keeps closer to voice and text; 1 is none (default: %(default)s)",
    )
    group.add_argument("--temp", type=float, default=0.6, help="temperature; 0 is greedy (default: %(default)s)")
    group.add_argument("--top-k", type=int, default=250, help="choose among the k best codes; 0: all (default: 250)")
    group.add_argument("--text-top-k", type=int, default=25, help="the same for the text (default: 25)")
    group.add_argument("--seed", type=int, default=0, help="the same seed says it the same way (default: 0)")
    group.add_argument(
        "--codebooks", type=int, metavar="N", help="write only the first N: faster, and coarser (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Speak; returns the exit code."""
    if args.list_voices:
        list_voices(args)
        return 0
    if args.output is not None and args.speaker is not None:
        raise MoshiError(f"give either a speaker ({args.speaker}) or -o {args.output}, not both")
    manner, text = make_manner(args), open_text(args)
    if args.output is not None:
        check_target(args.output)
        check_wav(args.output)
    book = open_book(args)
    voices = args.voice or [book.default]
    files = [book.find(voice) for voice in voices]
    if args.output is None:
        _, args.speaker = settle_devices({"output": args.speaker})["output"]
    moshi = load_model(args, Kind.SPEAK, codec_ahead=manner.codebooks is None)
    report = speak(args, moshi, files, text, manner)
    report |= {"model": args.model, "voices": voices, "guidance": args.guidance, "seed": args.seed}
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        to = report["output"] or "said"
        print(f"{to}: {report['seconds']:.2f} s in {report['wall_seconds']:.1f} s", file=sys.stderr)
    return 0 if report["complete"] else INTERRUPTED


def list_voices(args: argparse.Namespace) -> None:
    """Print the names of the voices that the model can have, without fetching it."""
    book = open_book(args)
    names = book.names(note)
    if args.json:
        print(json.dumps({"model": args.model, "voices": names}, ensure_ascii=False))
        return
    if not book.own():
        note(f"{len(names)} voices of {book.repo}; each folder there has a licence of its own, told in its README")
    print("\n".join(names))


def open_book(args: argparse.Namespace) -> VoiceBook:
    """The voices of the model, which itself is not fetched yet.

    Raises:
        MoshiError: there is no such model, or it does not speak.
    """
    from moshi_mlx.checkpoint.hub import whereabouts
    from moshi_mlx.checkpoint.remote import config_of
    from moshi_mlx.tasks.speaking.voices import VoiceBook

    check_kind(args, Kind.SPEAK)
    place = whereabouts(args.model, args.bits)
    return VoiceBook.of(place if isinstance(place, Path) else None, config_of(args.model, args.bits))


def make_manner(args: argparse.Namespace) -> Manner:
    """The flags as a manner of speaking; a wrong one shows before gigabytes are looked at."""
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.speaking.manner import Manner

    return Manner(
        guidance=args.guidance,
        padding_between=args.padding_between,
        padding_bonus=args.padding_bonus,
        max_padding=args.max_padding,
        text_sampling=Sampling(args.temp, args.text_top_k),
        audio_sampling=Sampling(args.temp, args.top_k),
        seed=args.seed,
        codebooks=args.codebooks,
    )


def open_text(args: argparse.Namespace) -> Iterable[str]:
    """What to say, in pieces as they come.

    Raises:
        MoshiError: there is none, or the file cannot be read.
    """
    from moshi_mlx.tasks.speaking.feed import read_pipe

    if args.file is not None:
        if args.text is not None:
            raise MoshiError(f"give either a text or --file {args.file}, not both")
        if args.file.is_dir():
            raise MoshiError(f"{args.file} is a folder; name a text file")
        try:
            return read_pipe(os.open(args.file, os.O_RDONLY))
        except OSError as error:
            raise MoshiError(f"{args.file} cannot be read: {error.strerror or error}") from None
    if args.text not in (None, STDIN):
        if not args.text.strip():
            raise MoshiError("the text is empty: there is nothing to say")
        return [args.text.encode("utf-8", "replace").decode()]  # an argument may hold bytes that are no text
    if sys.stdin is None or (args.text is None and sys.stdin.isatty()):
        raise MoshiError("there is nothing to say: give a text, --file FILE, or - to type or pipe it in")
    return read_pipe(sys.stdin.fileno())


def speak(
    args: argparse.Namespace, moshi: Moshi, voices: Sequence[Path], text: Iterable[str], manner: Manner
) -> dict[str, Any]:
    """Say it all, and return the figures."""
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.tasks.speaking.feed import TextFeed
    from moshi_mlx.tasks.speaking.manner import make_speech
    from moshi_mlx.tasks.speaking.script import ScriptReader
    from moshi_mlx.tasks.speaking.speech import say
    from moshi_mlx.tasks.speaking.voices import SPEAKER

    from .display import status
    from .saying import FileSink, LiveSink, Saying

    with ExitStack() as stack:
        with status("warming up"):
            speech = make_speech(moshi, voices, manner)
            needed = memory_needed(moshi.checkpoint, speech.generator.guidance.rows(1))
            stack.enter_context(steady_memory(needed))
            decoder = stack.enter_context(moshi.codec.decoder(speech.generator.codebooks))
        knows_speakers = SPEAKER in moshi.config.conditioners
        reader = ScriptReader(moshi.text, len(voices) > 1, knows_speakers, manner.padding_between)
        feed = TextFeed(text, reader, speech.feeder, by_line=args.output is None)
        typed = args.file is None and args.text in (None, STDIN) and sys.stdin.isatty()
        saying = Saying(speech, feed, show_text=sys.stdout.isatty() and not args.json, quiet=typed)
        sink = stack.enter_context(LiveSink(args.speaker) if args.output is None else FileSink(args.output))
        saying.run(say(speech, feed, decoder, sink.patience), sink)
    where = None if args.output is None else str(args.output)
    return {"output": where, **saying.report(), "precision": moshi.checkpoint.precision}
