"""`moshi-mlx translate`: French in, English out beside it, from a file or live."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.kinds import Kind

from .common import add_model_arguments, load_model, note, path
from .economy import add_economy_arguments
from .live import add_sound_arguments, hold_conversation, report
from .replies import Takes, check_outputs, columns, figures, print_report, tell, write_transcript

if TYPE_CHECKING:
    from moshi_mlx.audio_file import AudioReader
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.pipeline import OnTime, Reply
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.translation import Translating

HELP = "translate French to English while it is spoken, from a file or the microphone"
EXAMPLE = "moshi-mlx translate discours.mp3 -o speech.wav"

PARTS = ("text_", "")
"""What the flags for text and for audio begin with."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `translate`."""
    parser.add_argument(
        "file",
        metavar="FILE",
        nargs="?",
        type=path,
        help="wav, flac, ogg, mp3 … of any rate; none: the microphone",
    )
    add_model_arguments(parser, Kind.TRANSLATE)
    add_economy_arguments(parser)
    parser.add_argument(
        "-o",
        "--output",
        dest="target",
        metavar="OUT.wav",
        type=path,
        help="where the translation goes: the source on the left, the translation on the right (default: text alone)",
    )
    parser.add_argument("--mono", action="store_true", help="write the translation alone")
    parser.add_argument(
        "--tail",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="the translation ends with its last word, and at the latest so long after the source (default: 60)",
    )
    parser.add_argument(
        "--transcript", metavar="FILE", type=path, help="write the translation's words with their times, one a line"
    )
    how = parser.add_argument_group("translation")
    how.add_argument("--quality", default="very_good", help="very_bad, bad, neutral, good or very_good (default)")
    how.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="above 1 nearer to the speaker's voice, at twice the work; 3 is usual (default: 1, none)",
    )
    how.add_argument("--temp", type=float, help="temperature of the voice; 0 is greedy (default: the checkpoint's)")
    how.add_argument("--text-temp", type=float, help="temperature of the text (default: the checkpoint's)")
    how.add_argument("--top-k", type=int, help="choose among the k best codes; 0: all (default: the checkpoint's)")
    how.add_argument("--text-top-k", type=int, help="the same for the text (default: the checkpoint's)")
    how.add_argument("--seed", type=int, default=0, help="the same seed gives the same translation (default: 0)")
    add_sound_arguments(parser, "--speaker")
    parser.add_argument("--json", action="store_true", help="print JSON: one object for a file, live one per frame")


def run(args: argparse.Namespace) -> int:
    """Translate; returns the exit code."""
    if args.file is None:
        translate_live(args)
    else:
        translate_file(args)
    return 0


def translate_live(args: argparse.Namespace) -> None:
    """Translate what the microphone hears until Ctrl-C or q."""
    if args.target is not None or args.transcript is not None:
        raise MoshiError("-o and --transcript go with a FILE; --record keeps both sides of a live translation")
    check_sampling(args)
    conversation, stages, summary = hold_conversation(args, Kind.TRANSLATE, lambda moshi: make_stages(args, moshi))
    lag = vars(stages.lag)
    report(conversation, summary | {"lag": lag}, args.json)
    if not args.json:
        note(lag_sentence(lag))


def translate_file(args: argparse.Namespace) -> None:
    """Translate a file, tell its words as they come, and write what is said."""
    from moshi_mlx.audio_file import AudioReader

    if args.record is not None:
        raise MoshiError("--record goes with the microphone; -o keeps the translation of a FILE")
    if args.input is not None or args.output is not None:
        raise MoshiError("-i and --speaker go with a live translation; leave them out, or the FILE")
    check_outputs(args.file, args.target, args.transcript, args.tail)
    check_sampling(args)
    result = translated(args, AudioReader(args.file))
    if args.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    print_report(result["output"] or str(args.file), result)
    note(lag_sentence(result["lag"]))


def translated(args: argparse.Namespace, reader: AudioReader) -> dict[str, Any]:
    """Run the translation, write the files, and return the figures."""
    from moshi_mlx.audio_file import WavWriter
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.rates import FRAME_RATE

    moshi = load_model(args, Kind.TRANSLATE, codec_ahead=True)
    takes = Takes()
    stages = make_stages(args, moshi, takes.add)
    total = (reader.duration + args.tail) * FRAME_RATE
    needed = memory_needed(moshi.checkpoint, stages.generator.guidance.rows(1))
    with steady_memory(needed), ExitStack() as stack:
        writer = stack.enter_context(WavWriter(args.target, 1 if args.mono else 2)) if args.target else None

        def keep(reply: Reply) -> None:
            if writer is not None:
                writer.write(columns(reply, stereo=not args.mono))

        replies = stages.translate(reader, args.tail)
        monologue = tell(replies, total, "translating", moshi.text, not args.json, keep)
    if args.transcript:
        write_transcript(args.transcript, monologue.words)
    return {
        "output": None if args.target is None else str(args.target),
        "seconds": round(monologue.frames / FRAME_RATE, 3),
        **figures(args, moshi, stages, takes, reader, monologue),
        "ended": stages.ended,
        "lag": vars(stages.lag),
        "quality": args.quality,
        "guidance": args.guidance,
    }


def make_stages(args: argparse.Namespace, moshi: Moshi, on_time: OnTime | None = None) -> Translating:
    """The stages that the flags ask for; what they leave open is drawn as the checkpoint says."""
    from moshi_mlx.pipeline import untold
    from moshi_mlx.tasks.translation import Translating, translator, usual_sampling

    text, audio = (changed(usual, args, part) for usual, part in zip(usual_sampling(moshi.config), PARTS, strict=True))
    generator = translator(moshi, text, audio, args.seed, args.quality, args.guidance)
    return Translating(moshi, generator, on_time or untold)


def check_sampling(args: argparse.Namespace) -> None:
    """A wrong flag shows before gigabytes are looked at."""
    from moshi_mlx.guidance import Guidance
    from moshi_mlx.sampling import Sampling

    Guidance(args.guidance)
    for part in PARTS:
        changed(Sampling(), args, part)


def changed(usual: Sampling, args: argparse.Namespace, part: str) -> Sampling:
    """Sampling with what the flags say."""
    given = {"temp": getattr(args, f"{part}temp"), "top_k": getattr(args, f"{part}top_k")}
    return replace(usual, **{key: value for key, value in given.items() if value is not None})


def lag_sentence(lag: dict[str, float | None]) -> str:
    """How far the translation was behind, in words."""
    if all(seconds is None for seconds in lag.values()):
        return "behind the speaker: nothing was heard to measure it by"
    names = {"start": "at the start", "mean": "on average", "end": "at the end"}
    told = [f"{lag[key]:.1f} s {name}" for key, name in names.items() if lag[key] is not None]
    return f"behind the speaker: {', '.join(told)}"
