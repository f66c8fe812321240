"""docs/results.md: its tables are what the script makes of the files, and each contributed file is a result."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from moshi_mlx.bench.chips import find
from moshi_mlx.bench.report import read_result

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "make_results_table.py"


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_contributed_file_is_a_result_and_on_the_page() -> None:
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    for path in (ROOT / "docs" / "results").glob("*.json"):
        assert page.count(f"(results/{path.name})") == len(read_result(path)["runs"]) > 0


def test_published_figures_name_chips_and_say_where_they_are_from() -> None:
    for entry in json.loads((ROOT / "docs" / "published.json").read_text(encoding="utf-8")):
        assert find(f"Apple {entry['chip']}") is not None
        assert entry["source"]
        assert entry["told"]


def test_what_kyutais_port_takes_is_predicted_within_a_third() -> None:
    """The M4's figure is told of a machine of which nothing else is known; other programs do more than read memory."""
    table = _script()
    published = json.loads(table.PUBLISHED.read_text(encoding="utf-8"))
    figures = [one for one in published if one["ms"] and "Kyutai" in one["system"] and one["chip"] != "M4"]
    errors = [table.error(one, find(f"Apple {one['chip']}")) for one in figures]
    assert len(errors) >= 5
    assert max(map(abs, errors)) < 1 / 3


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("make_results_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
