"""`moshi-mlx download`: fetches a model, after saying how large it is and asking once."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from .common import add_bits_argument

if TYPE_CHECKING:
    from moshi_mlx.checkpoint.download import Download

HELP = "download a model, only the files that it needs"
EXAMPLE = "moshi-mlx download moshiko -q 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, -q, --yes, --json."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="moshiko, moshika, or a Hugging Face repository (org/name, org/name@revision)",
    )
    add_bits_argument(parser)
    parser.add_argument("--yes", action="store_true", help="download without asking")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the path")


def run(args: argparse.Namespace) -> int:
    """Print the folder that holds the model, and nothing else, on stdout."""
    from moshi_mlx.checkpoint.hub import locate

    from .common import note

    folder = locate(
        args.model,
        bits=args.bits,
        ask=lambda download: agree(download, args.yes),
        progress=True,
        notify=note,
        refresh=True,
    )
    if args.json:
        size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
        print(json.dumps({"model": args.model, "path": str(folder), "bytes": size}))
    else:
        print(folder)
    return 0


def agree(download: Download, yes: bool = False) -> bool:
    """Announce a download on stderr, and ask once unless `yes`; for `locate(ask=...)` in every command.

    Raises:
        MoshiError: there is nobody to ask. A script says --yes: gigabytes should surprise nobody.
    """
    from moshi_mlx.errors import MoshiError

    from .common import note

    note(_announcement(download))
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        raise MoshiError(
            f"nobody is there to agree to the download; run `moshi-mlx download {download.repo} --yes` first"
        )
    print("moshi-mlx: download it? [Y/n] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    return answer != "" and answer.strip().lower() in ("", "y", "yes")


def _announcement(download: Download) -> str:
    from moshi_mlx.memory import human_bytes

    count = len(download.files)
    here = f" ({human_bytes(download.present_bytes)} of it here already)" if download.present_bytes else ""
    return (
        f"{download.repo}: {human_bytes(download.total_bytes)} in {count} file{'s' * (count > 1)}{here}; "
        f"{human_bytes(download.free_bytes)} free in {download.destination}. "
        "An interrupted download goes on where it stopped."
    )
