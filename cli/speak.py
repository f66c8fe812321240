"""`moshi-mlx speak`: a text said aloud, through the speaker or into a file, while the text may still be coming."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError
from moshi_mlx.tasks.kinds import Kind

from .common import add_model_arguments, check_target, load_model, locate_model, note, path

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.live.duplex import Duplex
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.tasks.speaking.feed import TextFeed
    from moshi_mlx.tasks.speaking.manner import Manner
    from moshi_mlx.tasks.speaking.speech import Said, Speech

HELP = "say a text aloud, as it comes"
EXAMPLE = "moshi-mlx speak 'Hello there.' --voice vctk/p225_023.wav -o hello.wav"

STDIN = "-"
INTERRUPTED = 130
PATIENCE = 0.5
"""Seconds that a listener waits for a word before anything was heard."""
MARGIN = 0.24
"""Seconds of sound that shall be left when the model goes on without a word."""


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
    add_model_arguments(parser, default=Kind.SPEAK.default_model)
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
        "--cfg-coef",
        type=float,
        default=2.0,
        help="guidance: more keeps closer to voice and text; 1 is none (default: %(default)s)",
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
        return list_voices(args)
    manner = make_manner(args)
    text = open_text(args)
    if args.output is not None:
        check_target(args.output)
        if args.output.suffix.lower() != ".wav":
            raise MoshiError(f"{args.output} would be a wav file: give it a name that ends in .wav")
    else:
        check_speaker(args.speaker)
    moshi = load_model(args, Kind.SPEAK)
    report = speak(args, moshi, text, manner)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        to = report["output"] or "said"
        print(f"{to}: {report['seconds']:.2f} s in {report['wall_seconds']:.1f} s", file=sys.stderr)
    return 0 if report["complete"] else INTERRUPTED


def list_voices(args: argparse.Namespace) -> int:
    """Print the names of the voices that the model can have."""
    from moshi_mlx.checkpoint.inspect import inspect
    from moshi_mlx.tasks.kinds import require
    from moshi_mlx.tasks.speaking.voices import VoiceBook

    folder = locate_model(args.model, args.bits)
    config = inspect(folder).config
    require(Kind.SPEAK, config, args.model)
    book = VoiceBook.of(folder, config)
    names = book.names(note)
    if args.json:
        print(json.dumps({"model": args.model, "voices": names}, ensure_ascii=False))
        return 0
    if not book.own():
        note(f"{len(names)} voices of {book.repo}; each folder there has a licence of its own, told in its README")
    print("\n".join(names))
    return 0


def make_manner(args: argparse.Namespace) -> Manner:
    """The flags as a manner of speaking; a wrong one shows before gigabytes are looked at."""
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.speaking.manner import Manner

    return Manner(
        guidance=args.cfg_coef,
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
        try:
            return read_pipe(os.open(args.file, os.O_RDONLY))
        except OSError as error:
            raise MoshiError(f"{args.file} cannot be read: {error.strerror or error}") from None
    if args.text not in (None, STDIN):
        if not args.text.strip():
            raise MoshiError("the text is empty: there is nothing to say")
        return [args.text]
    if args.text is None and sys.stdin.isatty():
        raise MoshiError("there is nothing to say: give a text, --file FILE, or - to type or pipe it in")
    return read_pipe(sys.stdin.fileno())


def check_speaker(wanted: str | None) -> None:
    """Refuse a wrong device before a model is loaded."""
    from moshi_mlx.live import portaudio
    from moshi_mlx.live.devices import choose

    choose(wanted, "output")
    portaudio.release()  # it lists devices once: what is plugged in while the model loads shall be seen


def speak(args: argparse.Namespace, moshi: Moshi, text: Iterable[str], manner: Manner) -> dict[str, Any]:
    """Say it all, and return the figures."""
    from moshi_mlx.checkpoint.load import memory_needed
    from moshi_mlx.live.system import steady_memory
    from moshi_mlx.tasks.speaking.feed import TextFeed
    from moshi_mlx.tasks.speaking.manner import make_speech
    from moshi_mlx.tasks.speaking.script import ScriptReader
    from moshi_mlx.tasks.speaking.speech import say
    from moshi_mlx.tasks.speaking.voices import SPEAKER, VoiceBook

    from .display import status

    book = VoiceBook.of(moshi.checkpoint.folder, moshi.config)
    voices = args.voice or [book.default]
    files = [book.find(voice) for voice in voices]
    with steady_memory(memory_needed(moshi.checkpoint)):
        with status("warming up"):
            speech = make_speech(moshi, files, manner)
            decoder = moshi.codec.decoder(speech.generator.codebooks)
        knows_speakers = SPEAKER in moshi.config.conditioners
        reader = ScriptReader(moshi.text, len(voices) > 1, knows_speakers, manner.padding_between)
        feed = TextFeed(text, reader, speech.feeder, by_line=args.output is None)
        telling = Telling(args, speech, feed)
        with telling.sink() as (write, patience):
            telling.tell(say(speech, feed, decoder, patience), write)
    about = {"model": args.model, "precision": moshi.checkpoint.precision, "voices": voices}
    return telling.report() | about | {"cfg_coef": args.cfg_coef, "seed": args.seed}


@dataclass
class Telling:
    """Where the speech goes, and what is known of it afterwards."""

    args: argparse.Namespace
    speech: Speech
    feed: TextFeed
    frames: int = 0
    first_sound: float | None = None
    """Seconds from the first word to the first frame."""
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def sink(self) -> Iterator[tuple[Callable[[np.ndarray], None], Callable[[], float] | None]]:
        """What takes frames, and how long a listener can wait for the next one (see `say`)."""
        if self.args.output is None:
            from moshi_mlx.live.duplex import Duplex
            from moshi_mlx.live.system import kept_awake

            with kept_awake(), Duplex(output=self.args.speaker, only="output") as duplex:
                yield duplex.write_frame, lambda: self._patience(duplex)
                if not self.feed.stopped:
                    duplex.drain()
            return
        from moshi_mlx.audio_file import WavWriter

        with WavWriter(self.args.output) as writer:
            yield writer.write, None

    def tell(self, saying: Iterable[Said], write: Callable[[np.ndarray], None]) -> None:
        """Write all that is said and show its words; Ctrl-C ends it, and what was said until then is kept."""
        from .chat import stopped_by_signals
        from .display import Answering

        answering = Answering(show_text=sys.stdout.isatty() and not self.args.json)
        try:
            with stopped_by_signals(self.feed.stop):
                for said in answering.progress(saying, None, "speaking"):
                    self._mark()
                    write(said.samples)
                    answering.say("".join(f"{word} " for word in said.words))
        except KeyboardInterrupt:  # a second Ctrl-C: what is there is kept all the same
            self.feed.stop()
        answering.end()

    def report(self) -> dict[str, Any]:
        """The figures."""
        from moshi_mlx.mimi import FRAME_RATE

        first = self.speech.prefix_frames
        words = [(word, (step - first) / FRAME_RATE) for word, step in self.speech.feeder.spoken]
        return {
            "output": None if self.args.output is None else str(self.args.output),
            "seconds": round(self.frames / FRAME_RATE, 3),
            "steps": self.speech.step,
            "wall_seconds": round(time.perf_counter() - self.began, 3),
            "first_sound_seconds": None if self.first_sound is None else round(self.first_sound, 3),
            "complete": self.speech.finished,
            "text": " ".join(word for word, _ in words),
            "words": [{"text": word, "start": round(start, 2)} for word, start in words],
        }

    def _mark(self) -> None:
        self.frames += 1
        if self.first_sound is None and self.feed.first_word_at is not None:
            self.first_sound = time.perf_counter() - self.feed.first_word_at

    def _patience(self, duplex: Duplex) -> float:
        """Seconds of sound that are still to be played; before the first one a moment, as nothing breaks off."""
        return PATIENCE if not self.frames else max(0.0, duplex.queued_seconds - MARGIN)
