"""Captions: words with times to subtitles that can be read, as SubRip (.srt) and WebVTT (.vtt).

A caption holds two lines of 42 characters at most, and ends with a sentence, at a silence, or before it is full:
the usual measures of subtitling. Knows words and text, and nothing that made them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .transcription import TimedWord

LINE = 42  # characters
LONGEST = 7.0  # seconds that a caption stands
SHORTEST = 1.0  # seconds, where the next one leaves them
SILENCE = 1.5  # seconds between two words that end a caption

_SENTENCE_ENDS = (".", "!", "?", "…", "。")
_CLOSING = "\"'”’»)"


@dataclass(frozen=True)
class Caption:
    """A few words, when they stand on the screen, and how they are broken into lines."""

    lines: tuple[str, ...]
    start: float
    end: float


def captions(words: Sequence[TimedWord]) -> list[Caption]:
    """Words in order, as captions in order; none begins before the one before it has ended."""
    groups = list(_groups(words))
    found = []
    for i, group in enumerate(groups):
        start = group[0].start
        end = max(group[-1].end, start + SHORTEST)
        if i + 1 < len(groups):
            end = max(start, min(end, groups[i + 1][0].start))
        found.append(Caption(break_lines([word.text for word in group]), start, end))
    return found


def srt(words: Sequence[TimedWord]) -> str:
    """A SubRip file."""
    blocks = [
        f"{number}\n{_clock(caption.start, ',')} --> {_clock(caption.end, ',')}\n" + "\n".join(caption.lines) + "\n"
        for number, caption in enumerate(captions(words), 1)
    ]
    return "\n".join(blocks)


def vtt(words: Sequence[TimedWord]) -> str:
    """A WebVTT file."""
    blocks = ["WEBVTT\n"]
    for caption in captions(words):
        lines = "\n".join(caption.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        blocks.append(f"{_clock(caption.start, '.')} --> {_clock(caption.end, '.')}\n{lines}\n")
    return "\n".join(blocks)


def break_lines(words: Sequence[str]) -> tuple[str, ...]:
    """One line where the words fit in it, else two as even as they come, the break after a comma where one is near."""
    text = " ".join(words)
    if len(text) <= LINE or len(words) == 1:
        return (text,)
    return min(_breaks(words), key=_unevenness)


def _breaks(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for i in range(1, len(words)):
        yield " ".join(words[:i]), " ".join(words[i:])


def _unevenness(lines: tuple[str, str]) -> float:
    first, second = map(len, lines)
    too_long = max(first - LINE, second - LINE, 0)
    comma = lines[0].endswith((",", ";", ":", *_SENTENCE_ENDS))
    return 1000 * too_long + abs(first - second) - 16 * comma


def _groups(words: Sequence[TimedWord]) -> Iterator[list[TimedWord]]:
    group: list[TimedWord] = []
    for word in words:
        if group and _ends(group, word):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _ends(group: Sequence[TimedWord], word: TimedWord) -> bool:
    """Whether a caption ends before `word`."""
    sentence = group[-1].text.rstrip(_CLOSING).endswith(_SENTENCE_ENDS)
    late = word.end - group[0].start > LONGEST or word.start - group[-1].end > SILENCE
    return sentence or late or not _fits([*(w.text for w in group), word.text])


def _fits(words: Sequence[str]) -> bool:
    return all(len(line) <= LINE for line in break_lines(words))


def _clock(seconds: float, point: str) -> str:
    """Hours, minutes, seconds, milliseconds: 00:01:02,345."""
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"
