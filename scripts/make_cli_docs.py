"""Write docs/cli.md and the README's table of commands from the command line itself.

python scripts/make_cli_docs.py            write both
python scripts/make_cli_docs.py --check    change nothing; exit 1 and show the difference if there is one
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from moshi_mlx.cli.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
README, CLI = ROOT / "README.md", ROOT / "docs" / "cli.md"
TABLE = re.compile(r"(?<=<!-- commands -->\n).*?(?=<!-- /commands -->)", re.DOTALL)
INTRODUCTION = """# The command line

What `--help` prints, for every command. Written by `scripts/make_cli_docs.py`; do not edit.
"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's own format, of one width and in the manner of Python 3.13 wherever it runs."""

    def __init__(self, prog: str):
        super().__init__(prog, width=98, max_help_position=28)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        # Up to 3.12 argparse repeats the argument: `-o OUT, --output OUT`.
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        argument = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {argument}"


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parser and all parsers below it, in the order in which they were added."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


def command_page() -> str:
    """docs/cli.md as it should be."""
    sections = [INTRODUCTION]
    for parser in parsers(build_parser()):
        parser.formatter_class = Formatter
        sections.append(f"## {parser.prog}\n\n```text\n{parser.format_help().rstrip()}\n```\n")
    return "\n".join(sections)


def command_table() -> str:
    """The README's table: a line per command."""
    rows = [f"| `moshi-mlx {name}` | {importlib.import_module(f'moshi_mlx.cli.{name}').HELP} |" for name in COMMANDS]
    return "\n".join(["| command | what it does |", "|---|---|", *rows]) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file would change")
    check = parser.parse_args().check

    readme = README.read_text()
    if not TABLE.search(readme):
        print(f"{README} has no place for the table: <!-- commands --> and <!-- /commands -->", file=sys.stderr)
        return 1
    wanted = {CLI: command_page(), README: TABLE.sub(lambda _: command_table(), readme)}
    stale = False
    for path, text in wanted.items():
        now = path.read_text() if path.exists() else ""
        if now == text:
            continue
        stale = True
        if check:
            name = str(path.relative_to(ROOT))
            sys.stdout.writelines(difflib.unified_diff(now.splitlines(True), text.splitlines(True), name, "--help"))
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
