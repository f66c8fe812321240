"""What comes of a recorded conversation: words told as they come, sound for the file, figures. Draws nothing itself."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moshi_mlx.errors import MoshiError

from .common import KILLED, check_places, check_wav, note, write_text
from .transcripts import words_lines

if TYPE_CHECKING:
    import numpy as np

    from moshi_mlx.audio_file import AudioReader
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.pipeline import Reply, Stages
    from moshi_mlx.text import TextTokenizer, Word


def check_outputs(source: Path, target: Path | None, transcript: Path | None, tail: float) -> None:
    """Refuse, before any work, what cannot be written, or a tail that nobody would wait for.

    Raises:
        MoshiError: what is wrong, and where.
    """
    for place in (target, transcript):
        if place is not None:
            check_places(source, place)
    if target is not None:
        check_wav(target)
        if transcript is not None and target.resolve() == transcript.resolve():
            raise MoshiError(f"{target} cannot be both the sound and its transcript")
    if not 0 <= tail <= 3600:
        raise MoshiError(f"--tail must lie between 0 and 3600 seconds, not {tail}")


class Monologue:
    """The text as it comes: told at once, and kept as words with times."""

    def __init__(self, tokenizer: TextTokenizer, say: Callable[[str], None]):
        from moshi_mlx.text import TextStream, WordStream

        self._stream, self._words, self._say = TextStream(tokenizer), WordStream(tokenizer), say
        self.frames, self.text = 0, ""
        self.wall_seconds = 0.0
        self.words: list[Word] = []

    def push(self, token: int) -> None:
        """Take the next frame's token."""
        self._add(self._stream.push(token))
        self.words += self._words.push(token, self.frames)
        self.frames += 1

    def end(self) -> None:
        """Tell what is left."""
        self._add(self._stream.flush())
        self.words += self._words.flush()

    def _add(self, text: str) -> None:
        self.text += text
        self._say(text)


class Takes:
    """What each frame took in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {"encode": [], "lm": [], "decode": []}

    def add(self, stage: str, _start: float, seconds: float) -> None:
        """Take a time; a `pipeline.OnTime`."""
        self.seconds[stage].append(seconds)

    def latencies(self) -> dict[str, dict[str, float]]:
        """Median and worst time of a frame in each stage, in milliseconds."""
        import numpy as np

        found = {}
        for stage, taken in self.seconds.items():
            times = 1000 * np.array(taken or [0.0])
            found[stage] = {"median": round(float(np.median(times)), 2), "max": round(float(times.max()), 2)}
        return found


def tell(
    replies: Iterable[Reply],
    total: float,
    title: str,
    tokenizer: TextTokenizer,
    show_text: bool,
    keep: Callable[[Reply], None],
) -> Monologue:
    """Go through the replies, of which there are about `total`: their text is told, their sound given to `keep`."""
    from .display import Answering

    answering, start = Answering(show_text), time.perf_counter()
    monologue = Monologue(tokenizer, answering.say)
    for reply in answering.progress(replies, total, title):
        keep(reply)
        monologue.push(reply.token)
    monologue.end()
    answering.end()
    monologue.wall_seconds = time.perf_counter() - start
    return monologue


def columns(reply: Reply, stereo: bool) -> np.ndarray:
    """What goes into the file: both sides beside each other, or what was said alone."""
    import numpy as np

    return np.stack([reply.heard, reply.said], axis=1) if stereo else reply.said


def figures(
    args: argparse.Namespace, moshi: Moshi, stages: Stages, takes: Takes, reader: AudioReader, monologue: Monologue
) -> dict[str, Any]:
    """What is told about any recorded conversation, ready for JSON."""
    return {
        "frames": len(takes.seconds["lm"]),
        "wall_seconds": round(monologue.wall_seconds, 3),
        "milliseconds_per_frame": takes.latencies(),
        "text": monologue.text,
        "words": [{"text": w.text, "start": w.start, "end": w.end} for w in monologue.words],
        "mended_samples": reader.mended_samples,
        "clipped_samples": stages.encoder.clipped_samples,
        "codec_restarts": stages.codec_restarts,
        "model": str(args.model),
        "precision": moshi.checkpoint.precision,
        "seed": args.seed,
    }


def print_report(name: str, report: dict[str, Any]) -> None:
    """The figures in a few lines, after the text."""
    stages = report["milliseconds_per_frame"]
    told = ", ".join(f"{stage} {times['median']:.1f}" for stage, times in stages.items())
    print(f"{name}: {report['seconds']:.2f} s in {report['wall_seconds']:.1f} s", file=sys.stderr)
    print(f"median ms per frame of 80 ms: {told}", file=sys.stderr)
    for count, what in (
        (report["mended_samples"], "samples of the input were no numbers, and were taken for silence"),
        (report["clipped_samples"], "samples of the input were beyond full scale, and were cut"),
        (report["codec_restarts"], KILLED),
    ):
        if count:
            note(f"{count} {what}")


def write_transcript(file: Path, words: Sequence[Word]) -> None:
    """Words with start and end in seconds, one a line."""
    write_text(file, words_lines(words))
