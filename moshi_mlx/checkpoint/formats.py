"""How a published module is quantized, and whether config.json tells it as the file has it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError


@dataclass(frozen=True)
class Format:
    """How a module's weight is quantized."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __str__(self) -> str:
        mode = "" if self.mode == "affine" else f", {self.mode}"
        return f"{self.bits} bits in groups of {self.group_size}{mode}"


UNQUANTIZED = "not quantized"
"""In words, what has no format."""
# Floating-point modes have no biases and are told apart by bits and group size.
FLOAT_MODES = {(4, 32): "mxfp4", (4, 16): "nvfp4", (8, 32): "mxfp8"}


def check_declared(where: Path, declared: Any, formats: Mapping[str, Format | None]) -> None:
    """Hold config.json's `quantization` entry, where there is one, against the file.

    Args:
        where: the checkpoint's folder.
        declared: the entry.
        formats: what the shapes in the file imply, by published module.

    Raises:
        CheckpointError: they disagree.
    """
    if declared is None:
        return
    if not isinstance(declared, Mapping):
        raise CheckpointError(f"{where}/config.json: 'quantization' must be an object")
    for module, form in formats.items():
        entry = declared.get(module, declared)
        if entry is not False and not isinstance(entry, Mapping):
            raise CheckpointError(f"{where}/config.json: 'quantization' of {module} must be an object")
        told = None if entry is False else _declared_format(entry)
        if form != told and not (form is None and module not in declared and told is not None):
            raise CheckpointError(
                f"{where}: config.json says that {module} is {told or UNQUANTIZED}, and the file holds it "
                f"{form or UNQUANTIZED}"
            )


def _declared_format(entry: Mapping[str, Any]) -> Format | str:
    bits, group, mode = entry.get("bits", 4), entry.get("group_size", 64), entry.get("mode", "affine")
    if isinstance(bits, int) and isinstance(group, int) and isinstance(mode, str):
        return Format(bits, group, mode)
    return f"{json.dumps(dict(entry))[:80]}"
