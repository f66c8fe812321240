"""The command line says its defaults without importing the library, which has them: here they are held together."""

from __future__ import annotations

import argparse
from types import ModuleType

import pytest

from moshi_mlx.cli import chat, demo, quantize, run, screen, speak, translate, write
from moshi_mlx.cli.common import make_sampling
from moshi_mlx.live.duplex import BLOCK_SIZE
from moshi_mlx.quantize.recipes import MODES
from moshi_mlx.rates import FRAME_S
from moshi_mlx.sampling import AUDIO_SAMPLING, TEXT_SAMPLING, Sampling
from moshi_mlx.tasks.speaking.manner import Manner
from moshi_mlx.tasks.translation import BEST
from moshi_mlx.tasks.writing import MAX_TOKENS, SAMPLING


def defaults(command: ModuleType, *positional: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(positional)


@pytest.mark.parametrize(("command", "positional"), [(run, ("a.wav", "b.wav")), (chat, ()), (demo, ())])
def test_conversations_sample_as_the_library_does(command: ModuleType, positional: tuple[str, ...]) -> None:
    assert make_sampling(defaults(command, *positional)) == (TEXT_SAMPLING, AUDIO_SAMPLING)


def test_what_is_said_is_said_in_the_librarys_manner() -> None:
    assert speak.make_manner(defaults(speak, "hello")) == Manner()


def test_texts_are_continued_as_the_library_does() -> None:
    args = defaults(write, "once")
    assert args.max_tokens == MAX_TOKENS
    assert Sampling(args.temp, args.top_k, args.min_p, top_p=args.top_p) == SAMPLING


def test_names_and_numbers_are_the_librarys() -> None:
    assert defaults(chat).block_size == BLOCK_SIZE
    assert defaults(translate, "a.mp3").quality == BEST
    assert quantize.MODES == MODES
    assert screen.FRAME_MS == 1000 * FRAME_S
