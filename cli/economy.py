"""The flags by which a model is run in less memory than its checkpoint asks for, or in another type."""

from __future__ import annotations

import argparse

from moshi_mlx.economy import DTYPES, KV_BITS, Economy


def add_economy_arguments(parser: argparse.ArgumentParser) -> None:
    """--context, --kv-bits and --dtype."""
    group = parser.add_argument_group("for small Macs")
    group.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="remember N frames of 80 ms (of a text model: tokens), less than the model can (Moshi: 3000)",
    )
    group.add_argument(
        "--kv-bits", type=int, choices=KV_BITS, help="keep keys and values in 8 bits: half of their memory and traffic"
    )
    group.add_argument("--dtype", choices=DTYPES, help="compute in this type (default: the checkpoint's own)")


def economy_of(args: argparse.Namespace) -> Economy:
    """What the flags ask for; a command without them runs a model as it is."""
    return Economy(*(getattr(args, flag, None) for flag in ("context", "kv_bits", "dtype")))
