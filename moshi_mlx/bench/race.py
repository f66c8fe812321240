"""The race against another implementation: the same weights, turn by turn, each side in an environment of its own.

Both stay loaded and take turns of some frames, so that whatever disturbs the machine disturbs both. The verdict is
the median of the turns' ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoint.inspect import Checkpoint, inspect
from ..checkpoint.load import window_bytes
from ..checkpoint.tiny import random_weights
from ..config import MOSHI_7B, LMConfig
from ..errors import CheckpointError, MoshiError
from ..memory import available_memory, human_bytes
from .timing import ms

PEERS = ("moshi_mlx",)
TURNS = 11
FRAMES = 40
"""Of each side in a turn. Short turns, many of them: what disturbs the machine for a while disturbs both sides."""
WARM_UP = 3

_WORKER = Path(__file__).with_name("race_worker.py")
_RESERVE = 1_000_000_000
_PEER_POSITIONS = 4096
"""That its ring of keys and values grows to."""


def race(
    folder: Path,
    python: str,
    positions: Sequence[int],
    frames: int = FRAMES,
    turns: int = TURNS,
    tell: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Run both sides on one checkpoint.

    Args:
        folder: a checkpoint with published names, of one precision.
        python: the interpreter of the peer's environment.
        positions: frames of the conversation at which to race.
        frames: of each side, in each turn.
        turns: how often the sides take turns.
        tell: is told what is being done.

    Returns:
        names, versions, nodes and waits of both sides, and for each position the turns' medians and ratios.

    Raises:
        MoshiError: the peer cannot run this, both together do not fit in memory, or a side fails.
    """
    checkpoint = inspect(folder)
    settings = _settings(checkpoint)
    _check_memory(checkpoint)
    tell("loading both sides")
    with _side("peer", python, settings) as peer, _side("ours", sys.executable, settings) as ours:
        results = []
        for position in positions:
            for side in (peer, ours):
                side.ask(skip_to=position)
                side.ask(frames=WARM_UP)
            rows = []
            for turn in range(turns):
                tell(f"racing at frame {position:,}, turn {turn + 1} of {turns}")
                theirs, own = (statistics.median(side.ask(frames=frames)) for side in (peer, ours))
                rows.append({"peer_ms": ms(theirs), "ours_ms": ms(own), "ratio": round(theirs / own, 3)})
            results.append({"position": position, **_middle(rows), "turns": rows})
        return {
            "folder": str(checkpoint.folder),
            "precision": checkpoint.precision,
            "frames": frames,
            "sides": {"ours": ours.hello | ours.ask(count=True), "peer": peer.hello | peer.ask(count=True)},
            "positions": results,
        }


@contextmanager
def random_checkpoint(raw: dict[str, Any]) -> Iterator[Path]:
    """A folder with a small float32 checkpoint of random weights, for as long as the context lasts."""
    from safetensors.numpy import save_file

    with tempfile.TemporaryDirectory(prefix="moshi-race-") as name:
        folder = Path(name)
        (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
        weights = random_weights(LMConfig.from_dict(raw))
        save_file(weights, folder / "model.safetensors", metadata={"format": "mlx"})
        yield folder


def _middle(rows: list[dict[str, float]]) -> dict[str, float]:
    middle = {key: round(statistics.median(row[key] for row in rows), 3) for key in ("peer_ms", "ours_ms", "ratio")}
    ratios = [row["ratio"] for row in rows]
    return middle | {"least_ratio": min(ratios), "greatest_ratio": max(ratios)}


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a side needs to load the checkpoint.

    Raises:
        CheckpointError: it is of a kind that Kyutai's port does not load.
    """
    formats = list(set(checkpoint.formats.values()))
    form = formats[0]
    alone = len(formats) == len(checkpoint.files) == 1
    if not alone or checkpoint.vocabulary != "MLX" or (form and form.mode != "affine"):
        raise CheckpointError(
            f"{checkpoint.folder} cannot be raced: Kyutai's port loads one file of one precision with MLX names; "
            "scripts/make_checkpoint.py and moshi-mlx quantize make such"
        )
    bits = form.bits if form else 32 if checkpoint.precision == "float32" else 16
    return {
        "folder": str(checkpoint.folder.absolute()),
        "file": str(checkpoint.files[0].absolute()),
        "config": dict(checkpoint.config.raw or MOSHI_7B),
        "bits": bits,
        "group_size": form.group_size if form else None,
    }


def _check_memory(checkpoint: Checkpoint) -> None:
    context = checkpoint.config.transformer.context
    ours = window_bytes(checkpoint)
    need = 2 * checkpoint.nbytes + ours + ours * _PEER_POSITIONS // context + _RESERVE
    there = available_memory()
    if need > there:
        raise MoshiError(
            f"a race holds both sides in memory, {human_bytes(need)}, and {human_bytes(there)} can be had; "
            "race a smaller checkpoint"
        )


class _Side:
    """A worker process, asked line by line."""

    def __init__(self, kind: str, process: subprocess.Popen[str], errors: Path):
        self._kind, self._process, self._errors = kind, process, errors
        self.hello: dict[str, Any] = self._read()

    def ask(self, **asked: Any) -> Any:
        """Send a question, return the reply."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asked) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failed() from None
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._failed()
        return json.loads(line)

    def _failed(self) -> MoshiError:
        self._process.wait()
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        who = "moshi_mlx" if self._kind == "peer" else "this project's side"
        return MoshiError(f"{who} does not run in the race: {lines[-1] if lines else 'it ended without a word'}")


@contextmanager
def _side(kind: str, python: str, settings: dict[str, Any]) -> Iterator[_Side]:
    """A side of the race, from another folder and with a safe path, so that neither finds the other's `moshi_mlx`."""
    with tempfile.TemporaryDirectory(prefix="moshi-race-") as name:
        errors = Path(name) / "errors"
        with errors.open("w", encoding="utf-8") as stderr:
            try:
                process = subprocess.Popen(
                    [python, str(_WORKER), kind, json.dumps(settings)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    text=True,
                    cwd=name,
                    env={**os.environ, "PYTHONSAFEPATH": "1"},
                )
            except OSError as error:
                raise MoshiError(f"{python} cannot be started: {error.strerror}") from None
            try:
                yield _Side(kind, process, errors)
            finally:
                process.kill()
                process.communicate()
