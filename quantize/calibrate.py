"""Better than rounding: GPTQ (Frantar et al., arXiv 2210.17323) as mlx-lm has it, on recorded speech.

Each column's rounding error is made good in the columns not yet rounded, as far as the layer's inputs allow.
mlx-lm keeps every layer's Hessian at once, so this needs several times the model's memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from moshi_mlx.checkpoint.formats import Format
from moshi_mlx.checkpoint.inspect import Checkpoint
from moshi_mlx.checkpoint.load import load_checkpoint
from moshi_mlx.checkpoint.names import Merge, merges
from moshi_mlx.config import LMConfig
from moshi_mlx.errors import CheckpointError, MoshiError
from moshi_mlx.memory import available_memory
from moshi_mlx.model.layers import Linear
from moshi_mlx.model.lm import LM
from moshi_mlx.rates import FRAME_RATE

from .convert import stored
from .recipes import Formats, matrices

GPTQ_BITS = (2, 4)
"""mlx-lm packs 2, 4 and 8; measured, GPTQ at 8 bits gains nothing over rounding."""


def target_format(formats: Formats) -> Format:
    """The format that calibration is for: a recipe's fewest bits. Layers with more are rounded.

    Raises:
        MoshiError: GPTQ does not have it.
    """
    form = min((form for form in formats.values() if form is not None), key=lambda form: form.bits)
    if form.mode != "affine" or form.bits not in GPTQ_BITS:
        raise MoshiError(
            f"--calibrate works for 2 and 4 bits of the affine mode, and this recipe's fewest are {form.bits} bits "
            f"({form.mode}); leave it out, or choose another recipe"
        )
    return form


def frames_needed(config: LMConfig, formats: Formats) -> int:
    """How much speech calibration takes: twice as many frames as the widest layer has inputs.

    With fewer frames than inputs the Hessian has no full rank, and the result is worse than rounding.
    """
    shapes = matrices(config)
    return 2 * max((shapes[merge.published[0]][1] for merge in _chosen(config, formats)), default=0)


def check_speech(config: LMConfig, formats: Formats, seconds: float) -> None:
    """Refuse recordings that are too short to calibrate on.

    Raises:
        MoshiError: how long they are, and how long they must be.
    """
    need = frames_needed(config, formats) / FRAME_RATE
    if seconds < need:
        raise MoshiError(
            f"--calibrate needs {need / 60:.1f} minutes of speech for this model, and the files hold "
            f"{seconds / 60:.1f}: with less, GPTQ does worse than rounding"
        )


def check_calibration(checkpoint: Checkpoint, formats: Formats) -> None:
    """Refuse what cannot be calibrated here.

    Raises:
        CheckpointError: the source is quantized already, or memory does not suffice.
        MoshiError: the recipe's fewest bits are not among GPTQ_BITS.
    """
    form = target_format(formats)
    if any(checkpoint.formats.values()):
        raise CheckpointError(f"{checkpoint.folder} is quantized already; --calibrate starts from a bf16 checkpoint")
    need, there = calibration_memory(checkpoint, formats), available_memory()
    if need > there:
        raise CheckpointError(
            f"--calibrate to {form.bits} bits holds every layer's Hessian at once: {need / 1e9:.1f} GB for "
            f"{checkpoint.folder}, and {there / 1e9:.1f} GB can be had; leave it out, or calibrate on a larger Mac"
        )


def calibration_memory(checkpoint: Checkpoint, formats: Formats) -> int:
    """Bytes that calibration needs: the model, all Hessians, and the largest layer's matrices in float32."""
    shapes = matrices(checkpoint.config)
    chosen = [shapes[merge.published[0]] for merge in _chosen(checkpoint.config, formats)]
    hessians = sum(4 * columns**2 for _, columns in chosen)
    working = max((4 * (3 * rows * columns + 3 * columns**2) for rows, columns in chosen), default=0)
    return checkpoint.nbytes + hessians + working


def calibrate(checkpoint: Checkpoint, formats: Formats, codes: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Quantize a model's linear layers by GPTQ.

    Args:
        checkpoint: an unquantized source.
        formats: of every module; those with the fewest bits are calibrated.
        codes: conversations [segments, streams, frames].

    Returns:
        published module -> weight, scales and biases as they are stored (bfloat16 as uint16).

    Raises:
        CheckpointError, MoshiError: see `check_calibration`.
    """
    check_calibration(checkpoint, formats)
    lm = load_checkpoint(checkpoint)
    chosen = _chosen(checkpoint.config, formats)
    _prepare(lm, {merge.name for merge in chosen})
    form = target_format(formats)
    _gptq(lm, codes, form)
    layers = dict(tree_flatten(lm.leaf_modules(), is_leaf=nn.Module.is_module))
    found = {name: parts for merge in chosen for name, parts in _split(layers[merge.name], merge)}
    return found | dict(_shared(checkpoint.config, found))


def _gptq(lm: LM, codes: np.ndarray, form: Format) -> None:
    from mlx_lm.quant import gptq  # late: it imports transformers, and lowers the limit of open files
    from tqdm import tqdm

    gptq.tqdm = partial(tqdm, disable=None)  # pyright: ignore[reportPrivateImportUsage]  # a bar on terminals alone
    # What is not calibrated is rounded by mlx-lm too, and not used: the writer rounds it anew.
    gptq.gptq_quantize(lm, mx.array(codes), form.bits, form.group_size, form.bits, form.group_size, batch_size=1)


def _chosen(config: LMConfig, formats: Formats) -> list[Merge]:
    """The linear layers of our network whose published modules all get the fewest bits."""
    form = target_format(formats)
    return [
        merge
        for merge in merges(config, lambda _: None)
        if not merge.zero_row and not merge.rows and all(formats.get(module) == form for module in merge.published)
    ]


def _prepare(lm: LM, chosen: set[str]) -> None:
    """Make the chosen layers plain `nn.Linear`, which alone mlx-lm calibrates: bfloat16, their inputs float32.

    Hessians of bfloat16 products are not positive definite.
    """
    lm.set_dtype(mx.bfloat16)
    layers = tree_flatten(lm.leaf_modules(), is_leaf=nn.Module.is_module)
    plain = [(name, _plain(layer)) for name, layer in layers if name in chosen and isinstance(layer, Linear)]
    lm.update_modules(tree_unflatten(plain))
    lm.embed.set_dtype(mx.float32)


def _plain(layer: Linear) -> nn.Linear:
    plain = nn.Linear(1, 1, bias=False)
    plain.weight = layer.weight
    return plain


def _split(layer: nn.Module, merge: Merge) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """A calibrated layer's tensors, back under their published names."""
    arrays = {part: stored(layer[part]) for part in ("weight", "scales", "biases")}
    pieces = {part: np.split(array, len(merge.published)) for part, array in arrays.items()}
    for i, module in enumerate(merge.published):
        yield module, {part: pieces[part][i] for part in arrays}


def _shared(config: LMConfig, found: dict[str, dict[str, np.ndarray]]) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Depth steps that share weights by the schedule are stored once each: give every step its copy."""
    if config.depth is None:
        return
    schedule, slices = config.depth.schedule, "depformer.slices"
    for step, index in enumerate(schedule):
        first = schedule.index(index)
        first_input = 0 if config.depth.shared_input else first
        if (origin := f"{slices}.{first_input}.linear_in") in found:
            yield f"{slices}.{step}.linear_in", found[origin]
        prefix = f"{slices}.{first}.transformer."
        for name in [name for name in found if name.startswith(prefix)]:
            yield name.replace(prefix, f"{slices}.{step}.transformer."), found[name]
