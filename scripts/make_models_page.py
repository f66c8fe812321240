"""Writes docs/models.md: the published models, the command for each, and the memory that it takes.

`--check` says whether the page is up to date. All figures are counted from assets/published.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from moshi_mlx.checkpoint.choice import PRECISIONS
from moshi_mlx.checkpoint.published import Architecture, architectures, releases
from moshi_mlx.checkpoint.sizes import lm_bytes, parameters
from moshi_mlx.rates import FRAME_RATE
from moshi_mlx.tasks.kinds import kind_of

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
HEAD = """\
# Models

What Kyutai has published and this program runs. `--model` takes the name of a repository; a command that is given a
model of another kind says which command is right. Where a precision is not published, `moshi-mlx quantize` makes it.

Written by `uv run python scripts/make_models_page.py`; do not edit.

## Memory

Of the language model in each precision: weights, keys and values with the window full, and 0.3 GB for a step. The codec
takes about 0.45 GB more for each direction that a model has, and now and then twice that; guidance doubles keys and
values.

| model | does | command | parameters | window | bf16 | q8 | q4 |
|---|---|---|---:|---:|---:|---:|---:|
"""
REPOSITORIES = """
## Repositories

Every name and shape is that of Kyutai's own code for the configuration. The last column says what else they were held
against: the size of the published file, which leaves room for its header and nothing more; the configuration alone, as
quoted in public; or nothing, where it is reconstructed. `moshi-mlx info REPO --check` asks the Hub itself, and fetches
kilobytes for it.

| repository | model | names | held against |
|---|---|---|---|
"""
SOURCES = """
## Where the configurations are known from
"""


def page() -> str:
    """The whole page."""
    known = architectures().values()
    sources = (f"- **{one.name}**: {one.source}." for one in known)
    tables = [HEAD.rstrip("\n"), *map(_memory, known), REPOSITORIES.rstrip("\n"), *_repositories()]
    return "\n".join([*tables, SOURCES, *sources]) + "\n"


def _memory(architecture: Architecture) -> str:
    config = architecture.config
    kind = kind_of(config)
    seconds = config.transformer.context / FRAME_RATE
    window = f"{seconds:.0f} s" if config.n_q else f"{config.transformer.context} tokens"
    sizes = (f"{lm_bytes(config, bits) / 1e9:.1f} GB" for bits in PRECISIONS)
    cells = [architecture.name, architecture.about, f"`{kind.command}`", f"{parameters(config) / 1e9:.2f} B", window]
    return f"| {' | '.join([*cells, *sizes])} |"


def _repositories() -> Iterator[str]:
    for release in releases():
        held = "the file's size" if release.nbytes else "the configuration"
        if not release.architecture.verified:
            held = "**nothing: unverified**"
        yield f"| `{release.repo}` | {release.architecture.name} | {release.names} | {held} |"


def main() -> int:
    """Write the page, or check it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if the page is out of date")
    if parser.parse_args().check:
        current = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == page()
        print("up to date" if current else f"{PAGE.name} is out of date: run uv run python scripts/make_models_page.py")
        return 0 if current else 1
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
