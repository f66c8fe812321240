"""For commands run as programs of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_command_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An assertion that fails half-way would leave `write` or `chat` to go on for ever, beside all later tests."""
    commands: list[subprocess.Popen[Any]] = []
    start = subprocess.Popen.__init__

    def remember(process: subprocess.Popen[Any], args: Any, *rest: Any, **options: Any) -> None:
        start(process, args, *rest, **options)
        if isinstance(args, list) and "moshi_mlx.cli.main" in args:
            commands.append(process)

    monkeypatch.setattr(subprocess.Popen, "__init__", remember)
    yield
    for process in commands:
        if process.poll() is None:
            process.kill()
            process.wait()
