"""The screen and its plainer kin, drawn from a real conversation's events at any size. No sound device is opened."""

from __future__ import annotations

import io
import json
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from moshi_mlx.cli import screen as screen_module
from moshi_mlx.cli.follow import SLOW, JsonView, News, PlainView, Watch, follow
from moshi_mlx.cli.screen import KEYS, Screen, clock
from moshi_mlx.generator import Generator
from moshi_mlx.live.conversation import Conversation, FrameEvent
from moshi_mlx.live.devices import SILENT_MICROPHONE
from moshi_mlx.moshi import Moshi, load
from moshi_mlx.pipeline import Stages

SIZES = [(80, 24), (120, 40), (40, 12), (200, 60)]
EVENT = FrameEvent(0, 0.0, 5, "", 0.1, 0.05, {"encode": 0.02, "lm": 0.03, "decode": 0.025}, 0.112)


@pytest.fixture(scope="module")
def moshi() -> Moshi:
    return load("tiny")


@pytest.fixture(scope="module")
def stages(moshi: Moshi) -> Stages:
    return Stages.of(moshi, Generator(moshi.lm))


@pytest.fixture
def conversation(moshi: Moshi, stages: Stages) -> Conversation:
    return Conversation(moshi, stages)


def make_screen(conversation: Conversation, width: int = 80, height: int = 24, **more: object) -> Screen:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=height, **more)  # pyright: ignore
    return Screen(conversation, "moshiko q4", console)


def drawn(screen: Screen, width: int = 80, height: int = 24) -> list[str]:
    """The lines that a terminal of that size would show."""
    console = Console(file=io.StringIO(), width=width, height=height)
    options = console.options.update(width=width, height=height)
    return ["".join(part.text for part in line).rstrip() for line in console.render_lines(screen, options, pad=False)]


def say(screen: Screen, text: str, start: float = 0.0) -> None:
    """Let Moshi say words, one a frame."""
    words = [f" {word}" for word in text.split()]
    screen.update(News([replace(EVENT, time=start + 0.08 * i, text=word) for i, word in enumerate(words)]))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_fills_the_terminal_and_no_more(conversation: Conversation, width: int, height: int) -> None:
    screen = make_screen(conversation)
    say(screen, "Hello there " * 500)
    lines = drawn(screen, width, height)
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    for number, start in enumerate([" Moshi  moshiko q4", " warming up", "───"]):
        assert lines[number].startswith(start)
    for number, start in enumerate([" you ", " Moshi ", " frame ", "         answer", "────"], start=-6):
        assert lines[number].startswith(start)


def test_it_says_what_the_figures_are(conversation: Conversation) -> None:
    conversation.duplex.stats.frames_dropped = 3
    conversation.duplex.stats.frames_lost = 2
    conversation.duplex.stats.speaker.underruns = 7
    screen = make_screen(conversation)
    screen.update(News([EVENT, replace(EVENT, seconds={"encode": 0.02, "lm": 0.061, "decode": 0.03})]))
    text = "\n".join(drawn(screen))
    for figure in ("-20 dB", "-26 dB", "61 of 80 ms lm", "answer 112 ms", "dropped 5", "underruns 7", "echo off"):
        assert figure in text


@pytest.mark.parametrize(("share", "filled"), [(0.0, 0), (0.5, 24), (1.0, 47), (7.0, 47)])
def test_a_bar_is_as_long_as_its_share(share: float, filled: int) -> None:
    bar = screen_module._bar("frame", share, "green", "", 80).plain
    assert bar.count(screen_module.FILLED) == filled
    assert len(bar) == len(screen_module._bar("frame", 0.0, "green", "", 80).plain)


@pytest.mark.parametrize(("milliseconds", "colour"), [(30, "green"), (64, "yellow"), (80, "red"), (300, "red")])
def test_the_frame_bar_warns_before_80_ms_and_turns_red_there(
    conversation: Conversation, milliseconds: int, colour: str
) -> None:
    screen = make_screen(conversation)
    screen.update(News([replace(EVENT, seconds={"lm": milliseconds / 1000})]))
    bar = screen._frame_bar(80)
    assert colour in {str(span.style) for span in bar.spans}


def test_meters_fall_slowly_to_silence(conversation: Conversation) -> None:
    screen = make_screen(conversation)
    screen.update(News([EVENT]))
    levels = []
    for _ in range(30):
        levels.append(screen._levels["you"])
        screen.update(News([]))
    assert levels[0] == pytest.approx(-20.0)
    assert all(before - after == pytest.approx(3.0) for before, after in pairwise(levels[:13]))
    assert "silent" in next(line for line in drawn(screen) if line.startswith(" you"))


def test_words_are_wrapped_and_the_last_lines_stay(conversation: Conversation) -> None:
    screen = make_screen(conversation)
    say(screen, " ".join(f"word{number}" for number in range(300)))
    words = [line for line in drawn(screen) if "word" in line]
    assert words[-1].endswith("word299")
    assert "word0 " not in " ".join(words)
    said = " ".join(line[9:] for line in words).split()
    assert said == [f"word{number}" for number in range(300 - len(said), 300)]


def test_a_pause_begins_a_line_with_its_time(conversation: Conversation) -> None:
    screen = make_screen(conversation)
    say(screen, "Hello there.", start=1.0)
    say(screen, "Still here?", start=75.0)
    assert [line for line in drawn(screen) if "here" in line] == ["   0:01  Hello there.", "   1:15  Still here?"]


def test_a_flood_of_words_costs_no_more_than_a_screenful(conversation: Conversation) -> None:
    screen = make_screen(conversation)
    for number in range(40):
        say(screen, "endless talk without a pause " * 50, start=number * 20.0)
    assert max(len(paragraph.text) for paragraph in screen._paragraphs) < 2 * screen_module.LONG_PARAGRAPH
    assert len(screen._paragraphs) <= screen_module.PARAGRAPHS


def test_notices_stand_above_the_meters_and_go(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = make_screen(conversation)
    screen.update(News([], ["AirPods has gone; looking for another device. " * 3]))
    lines = drawn(screen)
    assert len(lines) == 24
    assert any(line.startswith(" ! AirPods has gone") for line in lines)
    monkeypatch.setattr(screen_module, "NOTICE_SECONDS", 0.0)
    assert not any("AirPods" in line for line in drawn(screen))


def test_a_silent_microphone_is_told_as_long_as_it_is_silent(conversation: Conversation) -> None:
    screen, watch = make_screen(conversation), Watch(conversation)
    conversation.duplex.stats.input_silence = 2.0
    screen.update(watch.look())
    beginning = SILENT_MICROPHONE[:40]
    assert sum(beginning in line for line in drawn(screen)) == 1
    conversation.duplex.stats.input_silence = 0.0
    screen.update(watch.look())
    assert not any(beginning in line for line in drawn(screen))


def test_the_keys_do_what_their_line_says(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(conversation, "begin_anew", lambda: called.append("anew"))
    monkeypatch.setattr(conversation, "stop", lambda: called.append("stop"))
    screen = make_screen(conversation)
    screen._keys = True
    assert [key for key, _ in KEYS] == list(screen.actions)
    assert drawn(screen)[-1] == "  m  mute    p  pause    n  new conversation    q  quit"
    screen.actions["m"]()
    screen.actions["p"]()
    lines = drawn(screen)
    assert (conversation.muted, conversation.paused) == (True, True)
    assert "unmute" in lines[-1]
    assert "go on" in lines[-1]
    assert "muted" in next(line for line in lines if line.startswith(" you"))
    assert "paused" in lines[0]
    screen.actions["n"]()
    assert any("has forgotten" in line for line in drawn(screen))
    screen.actions["q"]()
    assert called == ["anew", "stop"]


def test_without_a_keyboard_it_names_ctrl_c(conversation: Conversation) -> None:
    screen = make_screen(conversation)
    screen._keys = False
    assert drawn(screen)[-1] == " Ctrl-C quits"


@pytest.mark.parametrize(("settings", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_honoured(conversation: Conversation, settings: dict[str, str], coloured: bool) -> None:
    environment = {"TERM": "xterm-256color", **settings}
    screen = make_screen(conversation, _environ=environment, color_system="256")
    with screen:
        screen.update(News([EVENT], ["A notice."]))
        output = screen._live.console.file
    assert isinstance(output, io.StringIO)
    assert ("\x1b[32m" in output.getvalue()) is coloured


def test_a_terminal_without_unicode_gets_plain_bars(conversation: Conversation) -> None:
    screen = make_screen(conversation)
    screen.update(News([EVENT]))
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    console = Console(file=file, width=80, height=24)
    console.print(screen)
    file.seek(0)
    lines = file.read().splitlines()
    assert next(line for line in lines if line.startswith(" you")).startswith(" you     ######")
    assert len(lines) == 24


def test_the_screen_gives_the_terminal_back_and_leaves_the_last_words(
    conversation: Conversation, capsys: pytest.CaptureFixture[str]
) -> None:
    def converse(screen: Screen) -> None:
        with screen:
            say(screen, "Goodbye then.")
            raise ZeroDivisionError

    screen = make_screen(conversation)
    with pytest.raises(ZeroDivisionError):
        converse(screen)
    output = screen._live.console.file
    assert isinstance(output, io.StringIO)
    assert output.getvalue().startswith("\x1b[?1049h")
    assert output.getvalue().endswith("\x1b[?25h\x1b[?1049l")
    assert capsys.readouterr().out == "Goodbye then.\n"


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (75.9, "1:15"), (3675, "1:01:15"), (-0.5, "0:00")])
def test_the_clock_counts_hours_when_there_are_any(seconds: float, told: str) -> None:
    assert clock(seconds) == told


def test_plain_text_is_the_words_with_a_line_for_each_stretch(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        view.update(News([replace(EVENT, text="Hello"), replace(EVENT, time=0.1, text=" there.")], ["A notice."]))
        view.update(News([replace(EVENT, time=0.2), replace(EVENT, time=9.0, text=" So?")]))
    told = capsys.readouterr()
    assert told.out == "Hello there.\nSo?\n"
    assert told.err == "moshi-mlx: A notice.\n"


def test_plain_text_without_words_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        view.update(News([EVENT]))
    assert capsys.readouterr().out == ""


def test_json_has_an_object_for_each_frame(conversation: Conversation, capsys: pytest.CaptureFixture[str]) -> None:
    conversation.duplex.stats.frames_dropped = 4
    with JsonView(conversation) as view:
        view.update(News([replace(EVENT, text=" é"), replace(EVENT, index=1, microphone=0.0)], ["A notice."]))
    told = capsys.readouterr()
    first, second = map(json.loads, told.out.splitlines())
    assert first == {
        "frame": 0,
        "time": 0.0,
        "token": 5,
        "text": " é",
        "microphone_db": -20.0,
        "speaker_db": -26.0,
        "stages_ms": {"encode": 20.0, "lm": 30.0, "decode": 25.0},
        "answer_ms": 112.0,
        "dropped_total": 4,
        "underruns": 0,
    }
    assert (second["frame"], second["microphone_db"]) == (1, None)
    assert told.err == "moshi-mlx: A notice.\n"


def test_what_stands_is_told_once_and_frames_are_taken_out(conversation: Conversation) -> None:
    watch = Watch(conversation)
    conversation.events.extend([EVENT, EVENT])
    conversation.duplex.notices.put("A notice.")
    conversation.duplex.stats.input_silence = 5.0
    news = watch.look()
    assert (len(news.frames), news.notices) == (2, ["A notice.", SILENT_MICROPHONE])
    assert watch.look() == News(standing=[SILENT_MICROPHONE])
    assert not conversation.events


def test_a_view_that_fails_stops_the_conversation_and_is_heard_of(
    conversation: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = threading.Event()
    monkeypatch.setattr(conversation, "stop", stopped.set)

    class Broken(PlainView):
        def update(self, news: News) -> None:
            raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"), follow(conversation, Broken()):
        assert stopped.wait(5.0)


def test_a_view_that_hangs_holds_nobody_up(conversation: Conversation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(PlainView):
        def update(self, news: News) -> None:
            time.sleep(5.0)

    monkeypatch.setattr("moshi_mlx.cli.follow.CLOSE_SECONDS", 0.1)
    start = time.monotonic()
    with follow(conversation, Stuck()):
        time.sleep(0.2)
    assert time.monotonic() - start < 3.0


def test_a_machine_that_does_not_keep_up_is_told_so_once_each_time(conversation: Conversation) -> None:
    watch, stats = Watch(conversation), conversation.duplex.stats

    def told(read: int, dropped: int) -> list[str]:
        """The notices while so many more frames come, a few at each look."""
        notices = []
        for _ in range(50):
            stats.frames_in += read // 50
            stats.frames_dropped += dropped // 50
            notices += watch.look().notices
        return notices

    assert told(50_000, 0) == []  # an hour that goes well
    assert told(1_000, 50) == []
    assert told(200, 50) == [SLOW]
    assert told(500, 0) == []
    assert told(200, 50) == []
    assert told(1_500, 0) == []
    assert told(200, 50) == [SLOW]
