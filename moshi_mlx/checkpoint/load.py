"""From a checkpoint's files to a language model ready to run, reading each tensor once.

Everything is checked from the headers first; then tensor by tensor, so that the peak is the model
itself and never the file twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from ..economy import AS_IT_IS, Economy
from ..errors import CheckpointError
from ..memory import available_memory
from ..model.lm import LM, Layout
from . import sizes
from .formats import Format
from .inspect import Checkpoint, inspect
from .names import Merge, Source, is_condition, merges, tensor_of


def load_lm(folder: str | Path, economy: Economy = AS_IT_IS) -> LM:
    """Load a language model from a folder with config.json and safetensors, of whatever precision.

    Args:
        folder: as `hub.locate` finds it.
        economy: a shorter window, fewer bits for keys and values, another type.

    Raises:
        ConfigError: config.json is malformed, or asks for what this version cannot run.
        CheckpointError: a file is missing, broken or misshapen, or memory does not suffice.
    """
    return load_checkpoint(inspect(folder).run_as(economy))


def load_checkpoint(checkpoint: Checkpoint) -> LM:
    """Load a language model whose headers have been read; see `load_lm`."""
    check_memory(checkpoint)
    config, formats = checkpoint.config, checkpoint.formats
    plan = merges(config, formats.get)
    lm = LM(config, _layout(plan))
    by_name = {merge.name: formats.get(merge.published[0]) for merge in plan}
    nn.quantize(lm, class_predicate=lambda path, _: _quantize_as(by_name.get(path)))
    reader = _Reader(checkpoint, [module for merge in plan for module in merge.published])
    # The network's own random weights are lazy and never computed: each is replaced before it is used.
    lm.load_weights([pair for merge in plan for pair in reader.read(merge)], strict=True)
    mx.clear_cache()
    lm.eval()
    return lm


def memory_needed(checkpoint: Checkpoint, rows: int = 1) -> int:
    """Bytes to run a checkpoint through a conversation of any length: weights, keys and values, a reserve.

    Args:
        checkpoint: the model.
        rows: of the network's batch, each with keys and values of its own: twice as many with guidance.
    """
    return checkpoint.nbytes + rows * window_bytes(checkpoint) + sizes.RESERVE


def window_bytes(checkpoint: Checkpoint) -> int:
    """Bytes of keys and values once the window is full."""
    width = 4 if checkpoint.dtype is None and checkpoint.precision == "float32" else 2
    return sizes.window_bytes(checkpoint.config, width=width)


def check_memory(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that does not fit, before anything is allocated.

    Raises:
        CheckpointError: how much is needed, how much there is, and what would fit.
    """
    need, there = memory_needed(checkpoint), available_memory()
    if need <= there:
        return
    beside = need - checkpoint.nbytes
    fitting = [f"q{bits}" for bits in (8, 4) if sizes.model_bytes(checkpoint.config, bits) + beside <= there]
    advice = f"a {fitting[0]} checkpoint would fit" if fitting else "no precision of this model fits"
    raise CheckpointError(
        f"{checkpoint.folder} needs {need / 1e9:.1f} GB of memory and {there / 1e9:.1f} GB can be had; {advice}"
    )


def _layout(plan: list[Merge]) -> Layout:
    return Layout(
        [len(merge.published) for merge in plan if merge.name.startswith("embed.parts.")],
        [len(merge.published) for merge in plan if merge.name.startswith("depformer.linear_in.")],
    )


def _quantize_as(form: Format | None) -> dict[str, int | str] | bool:
    return False if form is None else {"bits": form.bits, "group_size": form.group_size, "mode": form.mode}


class _Reader:
    """Reads published tensors out of a checkpoint's files, letting go of each as soon as it is used."""

    def __init__(self, checkpoint: Checkpoint, read: Iterable[str]):
        self._checkpoint = checkpoint
        self._arrays: dict[str, mx.array] = {}
        try:
            for file in checkpoint.files:
                arrays = mx.load(str(file))  # lazy: bytes are read when an array is evaluated
                self._arrays.update(cast("dict[str, mx.array]", arrays))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.folder} cannot be read: {error}") from None
        self._dtype = self._activation_type()
        self._uses = Counter(source.name for module in read for source in checkpoint.sources[tensor_of(module)])
        self._taken: Counter[str] = Counter()

    def read(self, merge: Merge) -> list[tuple[str, mx.array]]:
        """The tensors of one module of our network: weight and, where quantized, scales and biases."""
        pairs = []
        for part in ("weight", "scales", "biases"):
            sources = [s for module in merge.published for s in self._checkpoint.sources[tensor_of(module)]]
            if part != "weight" and sources[0].part_name(part) not in self._arrays:
                continue
            rows = [self._take(source, part) for source in sources]
            if merge.rows:
                rows = [rows[0][slice(*merge.rows)]]
            if merge.zero_row:
                rows.append(mx.zeros_like(rows[0][:1]))
            array = rows[0] if len(rows) == 1 else mx.concatenate(rows)
            del rows
            self._evaluate(array, sources[0].part_name(part))
            pairs.append((tensor_of(merge.name) if part == "weight" else f"{merge.name}.{part}", array))
        return pairs

    def _evaluate(self, array: mx.array, name: str) -> None:
        try:
            mx.eval(array)
        except RuntimeError as error:
            raise CheckpointError(f"{self._checkpoint.folder}: {name} cannot be read: {error}") from None

    def _take(self, source: Source, part: str) -> mx.array:
        name = source.part_name(part)
        self._taken[name] += 1
        last = self._taken[name] == self._uses[source.name]
        array = self._arrays.pop(name) if last else self._arrays[name]
        if source.squeeze:
            array = array[0, 0]
        if source.parts > 1:
            rows = array.shape[0] // source.parts
            array = array[source.part * rows : (source.part + 1) * rows]
        dtype = mx.float32 if is_condition(name) else self._dtype
        return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array

    def _activation_type(self) -> mx.Dtype:
        """The type that the network runs in: the one asked for, or that of the text head, or of its scales."""
        if self._checkpoint.dtype:
            return getattr(mx, self._checkpoint.dtype)
        source = self._checkpoint.sources["text_linear.weight"][0]
        for part in ("weight", "scales"):
            dtype = self._arrays[source.part_name(part)].dtype
            if mx.issubdtype(dtype, mx.floating):
                return dtype
        return mx.bfloat16
