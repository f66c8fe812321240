"""The command line: finds the command, parses its flags, and turns every known failure into one sentence.

Each command is a module beside this one with HELP, EXAMPLE, add_arguments(parser) and run(args). They
import what is heavy inside run(), so that --help answers at once.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from io import TextIOWrapper

from moshi_mlx.errors import MoshiError

COMMANDS = (
    "chat",
    "devices",
    "doctor",
    "bench",
    "demo",
    "run",
    "transcribe",
    "speak",
    "translate",
    "write",
    "download",
    "info",
    "codec",
    "quantize",
    "compare",
)

FULL = (errno.ENOSPC, errno.EDQUOT)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line, one subparser per module in COMMANDS."""
    parser = argparse.ArgumentParser(
        prog="moshi-mlx",
        description="Talk to Moshi, Kyutai's full-duplex speech model, on a Mac.",
        epilog="example:\n  moshi-mlx demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"moshi_mlx.cli.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP[0].upper() + module.HELP[1:] + ".",
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 2 the user can mend it, 130 interrupted."""
    _open_standard_files()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # words may hold what a terminal's encoding does not
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()  # here and not at exit, where nobody could catch what it raises
    except MoshiError as error:
        print(f"moshi-mlx: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("moshi-mlx: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _forget_output()  # the reader of our output has gone (`| head`): say nothing
        return 0
    except OSError as error:
        if error.errno not in FULL:
            raise
        _forget_output()
        print(
            f"moshi-mlx: error: {error.filename or 'output'}: {error.strerror}; make room, then again", file=sys.stderr
        )
        return 2


def _open_standard_files() -> None:
    """Put nothing in the place of what the caller closed: the next file to be opened would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
            if number:
                setattr(sys, name, os.fdopen(number, "w"))


def _forget_output() -> None:
    """Keep Python from writing at exit what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(argv: list[str] | None) -> int:
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.version:
        from moshi_mlx import __version__

        print(f"moshi-mlx {__version__}")
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main())
