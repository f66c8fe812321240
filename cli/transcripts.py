"""What a transcript looks like in a file or on stdout: plain text, words with times, subtitles, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moshi_mlx.tasks.transcription import TimedWord, Transcript
    from moshi_mlx.text import Word

FORMATS = ("text", "words", "srt", "vtt", "json")
_SUFFIXES = {"text": ".txt", "words": ".tsv"}


def suffix(form: str) -> str:
    """How the name of a file of this format ends."""
    return _SUFFIXES.get(form, f".{form}")


def in_format(transcript: Transcript, form: str, about: dict[str, Any]) -> str:
    """A transcript as the text of a file; `about` stands at the head of the JSON."""
    from moshi_mlx.tasks import captions

    if form == "text":
        return transcript.text.strip() + "\n"
    if form == "words":
        return words_lines(transcript.words)
    if form == "json":
        return json.dumps(about | as_json(transcript), ensure_ascii=False) + "\n"
    return (captions.srt if form == "srt" else captions.vtt)(transcript.words)


def as_json(transcript: Transcript) -> dict[str, Any]:
    """What the JSON says about what was heard; `pauses` has one probability per frame of 80 ms, or none."""
    return {
        "seconds": transcript.seconds,
        "text": transcript.text.strip(),
        "words": [vars(word) for word in transcript.words],
        "pauses": [round(pause, 4) for pause in transcript.pauses],
    }


def words_lines(words: Sequence[TimedWord | Word]) -> str:
    """One line a word: start, end, text, with tabs between."""
    return "".join(f"{word.start:.2f}\t{word.end:.2f}\t{word.text}\n" for word in words)
