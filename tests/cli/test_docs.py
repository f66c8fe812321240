"""What is written for the reader is what the program does: the help pages, the README's table and its example."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import soundfile

ROOT = Path(__file__).resolve().parents[2]


def test_the_docs_are_what_the_command_line_says() -> None:
    script = ROOT / "scripts" / "make_cli_docs.py"
    result = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert result.returncode == 0, f"python scripts/make_cli_docs.py mends it:\n{result.stdout}{result.stderr}"


def test_the_page_of_models_is_what_their_configurations_say() -> None:
    script = ROOT / "scripts" / "make_models_page.py"
    result = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert result.returncode == 0, f"python scripts/make_models_page.py mends it:\n{result.stdout}{result.stderr}"


def test_the_library_example_of_the_readme_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    subprocess.run([sys.executable, "-c", example], cwd=tmp_path, check=True, timeout=300)
    reply = soundfile.info(tmp_path / "reply.wav")
    assert (reply.samplerate, reply.channels) == (24_000, 1)
    assert reply.frames > 0


def test_every_file_that_the_documents_point_to_exists() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
