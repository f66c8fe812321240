"""Write the tables of docs/results.md: results from docs/results/*.json, and predictions against what is published.

python scripts/make_results_table.py            write
python scripts/make_results_table.py --check    change nothing; exit 1 if the page would change
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moshi_mlx.bench.chips import Chip, find
from moshi_mlx.bench.report import read_result
from moshi_mlx.checkpoint.sizes import frame_bytes
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.errors import MoshiError
from moshi_mlx.rates import FRAME_S
from moshi_mlx.speed import KEEPS_UP_S, Prediction, predict

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, RESULTS, PUBLISHED = DOCS / "results.md", DOCS / "results", DOCS / "published.json"
COLUMNS = ("chip", "memory", "model", "bits", "from frame", "lm p50", "p95", "pipeline p50", "p95", "over 80 ms",
           "of the limit", "peak", "versions", "file")  # fmt: skip
PREDICTED = ("system", "chip", "what it says", "predicted floor", "likely, at first", "likely, window full", "error")


def result_rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """A row for every model of every result, chip by chip."""
    results = [(path, read_result(path)) for path in sorted(folder.glob("*.json"))]
    for path, result in sorted(results, key=lambda pair: (pair[1]["machine"]["chip"], pair[0].name)):
        machine, settings, versions = result["machine"], result["settings"], result["versions"]
        for run in result["runs"]:
            lm, pipeline = (run["stages"].get(stage) for stage in ("lm", "pipeline"))
            slowest = pipeline or lm
            yield (
                f"{machine['chip']} ({machine['backend']})",
                f"{machine['memory_bytes'] / 2**30:.0f} GB",
                ", ".join([settings["model"], *_not_usual(settings)]),
                run["name"],
                f"{settings['from_frame']:,}",
                *(_ms(lm, key) for key in ("p50_ms", "p95_ms")),
                *(_ms(pipeline, key) for key in ("p50_ms", "p95_ms")),
                f"{100 * slowest['over_80_ms']:.1f}%" if slowest else "",
                f"{100 * run['floor']['reached']:.0f}%" if "reached" in run["floor"] else "",
                f"{run['memory']['peak'] / 1e9:.2f} GB",
                f"{versions.get('moshi-mac', '')}, MLX {versions.get('mlx', '')}",
                f"[{path.stem}](results/{path.name})",
            )


def _not_usual(settings: dict[str, Any]) -> Iterator[str]:
    """What a model was run with, where that is not as a conversation runs it."""
    if settings["context"]:
        yield f"window of {settings['context']:,}"
    if settings["kv_bits"]:
        yield f"keys and values in {settings['kv_bits']} bits"
    if settings["dtype"]:
        yield settings["dtype"]
    if settings["contend"]:
        yield "second load"


def _ms(times: dict[str, Any] | None, key: str) -> str:
    return "" if times is None else f"{times[key]:,.1f}"


def predicted_rows(published: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    """What others say, beside what the chip's bandwidth predicts for a program that reads memory and little else."""
    for entry in published:
        chip = find(f"Apple {entry['chip']}")
        if chip is None:
            raise MoshiError(f"{PUBLISHED.name}: no chip is called {entry['chip']}")
        first, full = (_likely_ms(entry, chip, position) for position in (0, None))
        yield (
            entry["system"],
            chip.name,
            told(entry),
            f"{1000 * _prediction(entry, chip, 0).floor_s:.0f} ms",
            f"{first:.0f} ms",
            f"{full:.0f} ms",
            f"{error(entry, chip):+.0%}" if entry["ms"] else f"{_word(first)} at first, {_word(full)} full",
        )


def error(entry: dict[str, Any], chip: Chip) -> float:
    """By how much the prediction for the frame that was measured misses what was measured: -0.1 is a tenth too low."""
    return _likely_ms(entry, chip, entry["position"]) / entry["ms"] - 1


def told(entry: dict[str, Any]) -> str:
    """What an entry says, linked to where it is from."""
    source = entry["source"]
    return f"[{entry['told']}]({source})" if source.startswith("https://") else f"{entry['told']} ({source})"


def _likely_ms(entry: dict[str, Any], chip: Chip, position: int | None) -> float:
    return 1000 * _prediction(entry, chip, position).likely_s


def _prediction(entry: dict[str, Any], chip: Chip, position: int | None) -> Prediction:
    config = LMConfig.from_dict({**MOSHI_7B, **entry["config"]})
    return predict(frame_bytes(config, entry["bits"], position), chip.bandwidth)


def _word(milliseconds: float) -> str:
    if milliseconds > 1000 * FRAME_S:
        return "falls behind"
    return "keeps up" if milliseconds <= 1000 * KEEPS_UP_S else "just keeps up"


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def page() -> str:
    """docs/results.md as it should be."""
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    rows = list(result_rows(RESULTS))
    tables = {
        "results": table(COLUMNS, rows) if rows else "Nobody's yet: yours would be the first.\n",
        "predictions": table(PREDICTED, list(predicted_rows(published))),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, content in tables.items():
        place = re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)", re.DOTALL)
        if not place.search(text):
            raise MoshiError(f"{PAGE} has no place for the table: <!-- {name} --> and <!-- /{name} -->")
        text = place.sub(lambda _, content=content: content, text)
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the page would change")
    check = parser.parse_args().check
    try:
        text = page()
    except MoshiError as error:
        print(error, file=sys.stderr)
        return 2
    if text == PAGE.read_text(encoding="utf-8"):
        return 0
    if check:
        print(f"{PAGE.name} is not what {Path(__file__).name} writes", file=sys.stderr)
        return 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"wrote docs/{PAGE.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
