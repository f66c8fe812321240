from __future__ import annotations

import itertools

from moshi_mlx.tasks.captions import LINE, LONGEST, break_lines, captions, srt, vtt
from moshi_mlx.tasks.transcription import TimedWord


def spoken(text: str, pace: float = 0.4, start: float = 0.0) -> list[TimedWord]:
    """Words one after the other, `pace` seconds each."""
    return [TimedWord(word, start + i * pace, start + (i + 1) * pace) for i, word in enumerate(text.split())]


def test_a_caption_ends_with_its_sentence_and_stands_for_a_second_where_there_is_room():
    words = [*spoken("Is it you?", pace=0.1), *spoken("It is.", start=2.0, pace=0.2)]
    first, second = captions(words)
    assert (first.lines, first.start, first.end) == (("Is it you?",), 0.0, 1.0)
    assert (second.lines, second.start, second.end) == (("It is.",), 2.0, 3.0)


def test_no_caption_begins_before_the_one_before_it_has_ended():
    found = captions(spoken("No! No! No! Not that one, not on a day like this. " * 5, pace=0.11))
    assert len(found) == 20
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))


def test_a_silence_ends_a_caption():
    words = [*spoken("and then"), *spoken("he said", start=4.0)]
    assert [caption.lines for caption in captions(words)] == [("and then",), ("he said",)]


def test_captions_hold_every_word_once_in_lines_of_the_usual_length_and_stand_for_seconds():
    words = spoken("the more you listen the more you understand of what people are saying " * 8, pace=0.45)
    found = captions(words)
    assert " ".join(" ".join(caption.lines) for caption in found).split() == [word.text for word in words]
    assert all(len(caption.lines) <= 2 and len(line) <= LINE for caption in found for line in caption.lines)
    assert all(caption.end - caption.start <= LONGEST for caption in found)


def test_a_word_longer_than_a_line_stands_alone():
    long = "x" * (LINE + 5)
    assert [caption.lines for caption in captions(spoken(f"a {long} b"))] == [("a",), (long,), ("b",)]


def test_lines_break_evenly_and_rather_after_a_comma():
    def broken(text: str) -> tuple[str, ...]:
        return break_lines(text.split())

    assert broken("short enough for one") == ("short enough for one",)
    first, second = broken("the train leaves at half past seven and we have to hurry now")
    assert abs(len(first) - len(second)) <= 4
    assert broken("when I was a small child, we lived in a house near the forest")[0].endswith("child,")


def test_subrip_and_webvtt_as_their_readers_want_them():
    words = [TimedWord("Fish", 3661.2, 3661.5), TimedWord("<&>", 3661.5, 3662.6), TimedWord("chips.", 3662.6, 3663.0)]
    assert srt(words) == "1\n01:01:01,200 --> 01:01:03,000\nFish <&> chips.\n"
    assert vtt(words) == "WEBVTT\n\n01:01:01.200 --> 01:01:03.000\nFish &lt;&amp;&gt; chips.\n"
    assert srt(spoken("One. Two.")).startswith("1\n00:00:00,000 --> 00:00:00,400\nOne.\n\n2\n00:00:00,400 --> ")
    assert (srt([]), vtt([])) == ("", "WEBVTT\n")
