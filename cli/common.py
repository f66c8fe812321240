"""What several commands share: their flags, the model with its notes, and checks made before any work."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moshi_mlx.economy import AS_IT_IS, Economy
from moshi_mlx.errors import AudioError, MoshiError
from moshi_mlx.files import replacing

from .economy import economy_of

if TYPE_CHECKING:
    from moshi_mlx.generator import Generator
    from moshi_mlx.moshi import Moshi
    from moshi_mlx.sampling import Sampling
    from moshi_mlx.tasks.kinds import Kind


def note(message: str) -> None:
    """A remark for the person at the terminal: on stderr, so that stdout holds results alone."""
    print(f"moshi-mlx: {message}", file=sys.stderr)


KILLED = "times a process of the codec was killed: after each the sound is for a short while not what it would be"
"""What befell, after how often."""

PICTURES = (".png", ".svg", ".pdf")
"""How a picture's name may end."""


def add_model_arguments(parser: argparse.ArgumentParser, kind: Kind | None = None) -> None:
    """--model and, where there are published precisions to choose from, -q.

    Without a `kind` the command takes models of every kind.
    """
    from moshi_mlx.tasks.kinds import Kind

    named = "" if kind not in (None, Kind.CONVERSE) else "moshiko, moshika, "
    small = "tiny and its kin" if kind is None else kind.built_in
    default = (kind or Kind.CONVERSE).default_model
    parser.add_argument(
        "--model",
        default=default,
        help=f"{named}a Hugging Face repository, a folder, or {small} (built in, makes noise; default: %(default)s)",
    )
    if named:
        add_bits_argument(parser)
    else:
        parser.set_defaults(bits=None)


def add_bits_argument(parser: argparse.ArgumentParser) -> None:
    """-q: which of the published precisions."""
    parser.add_argument(
        "-q",
        dest="bits",
        type=int,
        choices=(4, 8, 16),
        help="bits per weight of moshiko and moshika (default: the most that fit and keep up here, else 4)",
    )


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """--temp, --top-k and their kin, with Moshi's defaults."""
    group = parser.add_argument_group("sampling")
    group.add_argument("--temp", type=float, default=0.8, help="temperature of the voice; 0 is greedy (default: 0.8)")
    group.add_argument("--text-temp", type=float, default=0.7, help="temperature of the text (default: 0.7)")
    group.add_argument("--top-k", type=int, default=250, help="choose among the k best codes; 0: all (default: 250)")
    group.add_argument("--text-top-k", type=int, default=25, help="the same for the text (default: 25)")
    group.add_argument("--min-p", type=float, default=0.0, help="drop what is less likely than this share of the best")
    group.add_argument("--seed", type=int, default=0, help="the same seed gives the same answer (default: 0)")
    group.add_argument("--greeting", metavar="TEXT", help="words that Moshi begins with")


def path(text: str) -> Path:
    """A path from the command line; `~` is the home folder wherever it stands."""
    return Path(os.path.expanduser(text))  # Path.expanduser fails on the home of a user who does not exist


def make_sampling(args: argparse.Namespace) -> tuple[Sampling, Sampling]:
    """The flags' sampling of text and of audio.

    Raises:
        MoshiError: a value is out of its range.
    """
    from moshi_mlx.sampling import Sampling

    return Sampling(args.text_temp, args.text_top_k, args.min_p), Sampling(args.temp, args.top_k, args.min_p)


def load_model(args: argparse.Namespace, kind: Kind, *, codec_ahead: bool = False) -> Moshi:
    """The model that the flags ask for, with notes on what was chosen, and on built-in ones that they make noise.

    With `codec_ahead` an encoder and a decoder load beside the model.

    Raises:
        MoshiError: it cannot be had, or is of another kind than the command is for.
    """
    from moshi_mlx.checkpoint.tiny import BUILT_IN
    from moshi_mlx.moshi import load_folder

    check_kind(args, kind)
    economy = economy_of(args)
    folder = locate_model(args.model, args.bits, economy=economy)
    if args.model in BUILT_IN:
        note(f"{args.model} is a built-in model with random weights: what it says is noise")
    return load_folder(folder, economy, codec_ahead=codec_ahead)


def check_kind(args: argparse.Namespace, kind: Kind) -> None:
    """Refuse a model of another kind than the command is for, before devices are looked for or weights fetched.

    Raises:
        MoshiError: what it is, and the command for that; or there is no such model.
    """
    from moshi_mlx.checkpoint.remote import config_of
    from moshi_mlx.tasks.kinds import require

    require(kind, config_of(args.model, args.bits), args.model)


def locate_model(model: str, bits: int | None, companions: bool = True, economy: Economy = AS_IT_IS) -> Path:
    """The folder of a model; a download of gigabytes is announced, and asked for once on a terminal."""
    from moshi_mlx.checkpoint.hub import locate

    from .download import agree

    return locate(model, bits, ask=agree, progress=True, notify=note, companions=companions, economy=economy)


def make_generator(moshi: Moshi, args: argparse.Namespace) -> Generator:
    """A conversation with the flags' sampling."""
    from moshi_mlx.generator import Generator

    text_sampling, audio_sampling = make_sampling(args)
    return Generator(moshi.lm, text_sampling=text_sampling, audio_sampling=audio_sampling, seed=args.seed)


def check_places(source: Path, target: Path) -> None:
    """Refuse, before any work, an output that cannot be written or that is the input itself.

    Raises:
        AudioError: which place, and why.
    """
    check_target(target)
    if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
        raise AudioError(f"{target} is the input itself; choose another name for the output")


def check_target(target: Path) -> None:
    """Refuse an output that is no plain file, or in a folder that is not there."""
    if os.path.isdir(target):  # os.path's answer, where pathlib's questions fail on names that are too long
        raise MoshiError(f"{target} is a folder; name a file")
    if os.path.exists(target) and not os.path.isfile(target):
        raise MoshiError(f"{target} is a device or a pipe; name a file")
    if not os.path.isdir(target.absolute().parent):
        raise MoshiError(f"{target} cannot be written: its folder does not exist")


def check_wav(target: Path) -> None:
    """Refuse a name that promises another kind of file than is written."""
    if target.suffix.lower() != ".wav":
        raise MoshiError(f"{target} would be a wav file: give it a name that ends in .wav")


def check_picture(target: Path) -> None:
    """Refuse, before any work, a picture that cannot be written or whose name names no format."""
    check_target(target)
    if target.suffix.lower() not in PICTURES:
        raise MoshiError(f"{target} must end in {', '.join(PICTURES)}")


def write_text(target: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Raises:
        MoshiError: it cannot be written.
    """
    try:
        with replacing(target) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise MoshiError(f"{target} cannot be written: {error.strerror or error}") from None
