"""What the commands share that run through the microphone and the speaker: flags, devices, view, signals, figures."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moshi_mlx.errors import MoshiError
from moshi_mlx.rates import FRAME_SIZE, SAMPLE_RATE

from .common import check_kind, load_model, note, path

if TYPE_CHECKING:
    from types import FrameType

    from moshi_mlx.live.conversation import Conversation
    from moshi_mlx.live.devices import Device, Direction
    from moshi_mlx.live.echo_switch import EchoSwitch
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.pipeline import Stages
    from moshi_mlx.tasks.kinds import Kind

    from .follow import View

HELD_SECONDS = 0.6  # a key that is held down repeats after half a second at most
BLOCK_SIZES = range(32, FRAME_SIZE + 1)  # of a larger one frames would come, and be wanted, several at once


Made = TypeVar("Made", bound="Stages")


def add_sound_arguments(parser: argparse.ArgumentParser, *speaker: str) -> None:
    """The flags of a live conversation; `speaker` names the one for the speaker."""
    sound = parser.add_argument_group("sound")
    sound.add_argument("-i", "--input", metavar="DEVICE", help="microphone, by number or name (see moshi-mlx devices)")
    sound.add_argument(*speaker, dest="output", metavar="DEVICE", help="speaker, by number or name")
    sound.add_argument(
        "--block-size",
        type=int,
        default=480,
        metavar="SAMPLES",
        help="per audio callback; less answers sooner, more is safer; 32 to 1920 (default: %(default)s, 20 ms)",
    )
    sound.add_argument(
        "--echo-cancellation",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="take Moshi's voice out of the microphone (default: where livekit is installed and the speaker is no "
        "headphones)",
    )
    sound.add_argument(
        "--record",
        metavar="DIR",
        type=path,
        help="keep the sound of both sides, Moshi's words and a trace in a new folder there",
    )


def hold_conversation(
    args: argparse.Namespace, kind: Kind, make_stages: Callable[[Moshi], Made]
) -> tuple[Conversation, Made, dict[str, Any]]:
    """Load a model of a kind and converse until Ctrl-C or q.

    Returns:
        the conversation, its stages, and its summary.
    """
    from .display import status
    from .follow import follow

    check_block_size(args.block_size)
    check_kind(args, kind)
    echo = choose_echo(args.echo_cancellation, find_speaker(args))
    note(f"loading {args.model}")
    moshi = load_model(args, kind, codec_ahead=True)
    with status("warming up"):
        stages = make_stages(moshi)
        conversation = make_conversation(args, moshi, stages, echo)
    view = choose_view(conversation, args)
    with stopped_by_signals(conversation.stop), follow(conversation, view):
        summary = conversation.run()
    return conversation, stages, summary


def check_block_size(samples: int) -> None:
    """Raises MoshiError where callbacks would have another size than devices take."""
    if samples not in BLOCK_SIZES:
        least, most = BLOCK_SIZES[0], BLOCK_SIZES[-1]
        raise MoshiError(f"--block-size must lie between {least} and {most} samples, not {samples}")


def find_speaker(args: argparse.Namespace) -> Device:
    """The speaker that will be used, after a look at both devices; their flags are settled."""
    settled = settle_devices({"input": args.input, "output": args.output})
    (_, args.input), (speaker, args.output) = settled["input"], settled["output"]
    return speaker


def settle_devices(
    wanted: Mapping[Direction, str | int | None],
) -> dict[Direction, tuple[Device, str | int | None]]:
    """Devices, looked for before a model is loaded, and what to call each by after: numbers may change meanwhile.

    Raises:
        DeviceError: there is no such device.
    """
    from moshi_mlx.live import portaudio
    from moshi_mlx.live.devices import choose, lasting_name

    settled: dict[Direction, tuple[Device, str | int | None]] = {
        kind: (choose(device, kind), lasting_name(device, kind)) for kind, device in wanted.items()
    }
    portaudio.release()  # it lists devices once: what is plugged in while the model loads shall be seen
    return settled


def choose_echo(wanted: bool | None, speaker: Device) -> EchoSwitch | None:
    """What cancels echo, or None; a note tells which and why. Left to itself it follows the speaker.

    Raises:
        MoshiError: it was asked for and is not installed.
    """
    from moshi_mlx.live.echo import REMEDY, EchoCanceller, available
    from moshi_mlx.live.echo_switch import EchoSwitch

    if wanted is False:
        note("echo cancellation is off, as you asked: wear headphones, or Moshi will hear itself")
        return None
    if wanted is None and not available():
        note(
            "echo cancellation is off, and without headphones Moshi will hear itself: livekit is not installed "
            f"({REMEDY})"
        )
        return None
    echo = EchoSwitch(EchoCanceller(), always=wanted is True)
    echo.hear(speaker)
    note(echo.sentence())
    return echo


def make_conversation(args: argparse.Namespace, moshi: Moshi, stages: Stages, echo: EchoSwitch | None) -> Conversation:
    """The conversation that the flags ask for, ready to run."""
    from moshi_mlx.live.conversation import Conversation
    from moshi_mlx.live.recording import Recording

    return Conversation(
        moshi,
        stages,
        input=args.input,
        output=args.output,
        block_size=args.block_size,
        echo=echo,
        recording=Recording(args.record) if args.record else None,
    )


def choose_view(conversation: Conversation, args: argparse.Namespace) -> View:
    """The screen on a terminal; elsewhere plain text, or JSON."""
    from .follow import JsonView, PlainView

    if args.json:
        return JsonView(conversation)
    if not sys.stdout.isatty():
        return PlainView()
    from rich.console import Console

    from .screen import Screen

    console = Console()
    if console.is_dumb_terminal:
        return PlainView()
    name = Path(args.model).name or args.model
    return Screen(conversation, f"{name} {conversation.moshi.checkpoint.precision}", console)


@contextmanager
def stopped_by_signals(stop: Callable[[], None]) -> Iterator[None]:
    """While the context lasts Ctrl-C, `kill` and a closed terminal call `stop`; a second one interrupts at once.

    A key that is held down counts once: it would interrupt what gives the terminal back.
    """
    last: float | None = None

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if before is None:
            stop()
        elif last - before >= HELD_SECONDS:
            raise KeyboardInterrupt

    heeded = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        heeded.append(signal.SIGHUP)
    before = {number: signal.signal(number, on_signal) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def report(conversation: Conversation, summary: dict[str, Any], as_json: bool) -> None:
    """The figures: the last line of JSON, or lines for a person, on stderr where stdout is no terminal."""
    if as_json:
        print(json.dumps(summary))
        return
    to = sys.stdout if sys.stdout.isatty() else sys.stderr
    print("\n".join(["", *describe(summary)]), file=to)
    if conversation.recording is not None and conversation.recording.problem is not None:
        note(conversation.recording.problem)


def describe(summary: dict[str, Any]) -> Iterator[str]:
    """The summary in lines."""
    from moshi_mlx.memory import human_bytes

    from .screen import clock

    yield f"{clock(summary['seconds'])} of conversation, {summary['frames']:,} frames of 80 ms"
    yield ""
    yield "".join(f"{head:>10}" for head in ("ms", "p50", "p95", "p99", "max"))
    for stage, times in summary["stages"].items():
        yield f"{stage:>10}" + "".join(f"{times[f'{key}_ms']:>10.1f}" for key in ("p50", "p95", "p99", "max"))
    yield ""
    yield f"dropped    {summary['dropped_total']} frames"
    for why, count in summary["dropped"].items():
        if count:
            yield f"           {count} because {why}"
    yield f"underruns  {summary['underruns']}"
    yield from describe_sound(summary["sound"])
    arrays, process, codec = (human_bytes(summary["memory"][key]) for key in ("mlx_peak", "peak_rss", "codec_rss"))
    yield f"memory     {arrays} of arrays, {process} of process at most, {codec} of codec"
    if summary["codec_restarts"]:
        yield f"codec      started again {summary['codec_restarts']} times, because a process of it was killed"
    if summary["devices_reopened"]:
        yield f"devices    opened again {summary['devices_reopened']} times"
    if summary["echo_reduction_db"] is not None:
        yield f"echo       reduced by {summary['echo_reduction_db']:.0f} dB"
    if summary["recording"] is not None:
        yield f"recording  {summary['recording']}"
        lost = summary["recording_lost"]
        if any(lost.values()):
            yield f"           the disk was too slow for {lost['seconds']:.2f} s of sound and {lost['events']} notes"


def describe_sound(sound: dict[str, float]) -> Iterator[str]:
    """What was done to the sound, and what its devices missed: a line for each that happened."""
    cut, inserted, lost = (sound[f"{name}_samples"] / SAMPLE_RATE for name in ("cut", "inserted", "overrun"))
    read, fed = int(sound["input_overflows"]), int(sound["output_underflows"])
    if cut or inserted:
        yield f"on time    {cut:.2f} s of Moshi's voice cut, {inserted:.2f} s drawn out"
    if read or fed:
        yield f"devices    {read} times the microphone was read late, {fed} times the speaker was fed late"
    if lost:
        yield f"lost       {lost:.2f} s of the microphone: this process was held up for seconds"
    if sound["drift_samples"]:
        yield f"clocks     the speaker's runs {sound['drift_ppm']:+.0f} ppm against the microphone's: corrected"
