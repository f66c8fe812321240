"""What can be benchmarked, from random weights or a checkpoint, and one benchmark from load to figures."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from ..checkpoint.companions import CODEC, companion
from ..checkpoint.inspect import MIMI, inspect
from ..checkpoint.load import load_checkpoint, memory_needed
from ..checkpoint.sizes import BESIDE, model_bytes, window_bytes
from ..checkpoint.tiny import tiny_folder
from ..config import LMConfig
from ..economy import AS_IT_IS, Economy
from ..errors import CheckpointError, MoshiError
from ..generator import Generator
from ..live.system import steady_memory
from ..memory import available_memory, human_bytes
from ..mimi import Mimi
from ..model.lm import LM
from .random_model import SIZES, random_conditions, random_lm
from .report import PRECISIONS, figures
from .stages import STAGES, Tell, is_cut, measure

PUBLISHED_BITS = (4, 8, 16)
USUAL_BITS = {"tiny": (32,), "narrow": (32,)}
"""What is measured where nobody says: at the small sizes overhead, in the type that every processor has."""

_ROOM = 512
"""Frames by which the ring of keys and values may be larger than what is in it."""


@dataclass(frozen=True)
class Subject:
    """A model that is ready to be loaded."""

    name: str
    """Its precision: 'q4'."""
    config: LMConfig
    load: Callable[[], LM]
    codec: Mimi | None
    """None where it knows no sound."""
    needed: int
    """Bytes of memory for a conversation of any length."""


def random_subjects(
    size: str, bits: Sequence[int] | None, position: int | None, economy: Economy = AS_IT_IS
) -> tuple[list[Subject], list[str]]:
    """Architectures with random weights, and the precisions that do not fit in memory here.

    Args:
        size: one of SIZES.
        bits: the precisions asked for; None is the usual ones, of which those that do not fit are left out.
        position: where in a conversation it is measured; None is with a full window.
        economy: how they are run.

    Raises:
        MoshiError: one that was asked for does not fit, or none does.
    """
    config, there = economy.of(LMConfig.from_dict(SIZES[size])), available_memory()
    needed = {b: _needed(config, b, position) for b in bits or USUAL_BITS.get(size, PUBLISHED_BITS)}
    fitting = [b for b in needed if needed[b] <= there]
    if len(fitting) < (len(needed) if bits else 1):
        least = min(set(needed) - set(fitting))
        raise MoshiError(
            f"{size} in {PRECISIONS[least]} needs {human_bytes(needed[least])} of memory and "
            f"{human_bytes(there)} can be had; {_advice(config, position, there)}"
        )
    codec = _codec(config, tiny_folder() / MIMI)
    subjects = [Subject(PRECISIONS[b], config, _drawing(config, b, economy.dtype), codec, needed[b]) for b in fitting]
    return subjects, [PRECISIONS[b] for b in needed if b not in fitting]


def checkpoint_subject(folder: Path, economy: Economy = AS_IT_IS) -> Subject:
    """A checkpoint, with the built-in codec where it comes without one: timing is the same.

    Raises:
        MoshiError: it is not whole, or does not fit in memory.
    """
    checkpoint = inspect(folder).run_as(economy)
    try:
        weights = companion(folder, *CODEC)
    except CheckpointError:
        weights = tiny_folder() / MIMI
    config = checkpoint.config
    return Subject(
        checkpoint.precision,
        config,
        lambda: load_checkpoint(checkpoint),
        _codec(config, weights),
        memory_needed(checkpoint),
    )


def run(
    subject: Subject,
    bandwidth: float,
    position: int | None = None,
    frames: int | None = None,
    stages: Iterable[str] = STAGES,
    tell: Tell = lambda message: None,
) -> dict[str, Any]:
    """Load a model, measure it, let go of it, and return its figures; see `report.figures`.

    Args:
        subject: the model.
        bandwidth: measured bytes per second.
        position: the frame of a conversation from which on it is measured; None is a full window.
        frames: of each stage; see `stages.measure`.
        stages: which of them.
        tell: is told what is being done.
    """
    gc.collect()
    mx.clear_cache()
    mx.reset_peak_memory()
    base = mx.get_active_memory()
    tell(f"{subject.name}: loading")
    with steady_memory(subject.needed):
        began = time.perf_counter()
        lm = subject.load()
        load_s = time.perf_counter() - began
        place = subject.config.transformer.context if position is None else position
        measured = measure(
            lambda: _conversation(lm),
            subject.codec,
            place,
            frames,
            stages,
            lambda doing: tell(f"{subject.name}: {doing}"),
        )
        return figures(subject.name, lm, measured, bandwidth, load_s, base)


def _drawing(config: LMConfig, bits: int, dtype: str | None) -> Callable[[], LM]:
    return lambda: random_lm(config, bits, dtype=dtype)


def _conversation(lm: LM) -> Generator:
    return Generator(lm, conditions=random_conditions(lm), cut=is_cut(lm.config))


def _codec(config: LMConfig, weights: Path) -> Mimi | None:
    codebooks = max(config.dep_q, config.user_codebooks)
    return Mimi(weights, codebooks) if codebooks else None


def _needed(config: LMConfig, bits: int, position: int | None) -> int:
    """Bytes of memory for weights, keys and values up to there, and what a conversation has beside them."""
    width = 4 if bits == 32 else 2
    window = window_bytes(config, None if position is None else position + _ROOM, width)
    return width // 2 * model_bytes(config, min(bits, 16)) + window + BESIDE


def _advice(config: LMConfig, position: int | None, there: int) -> str:
    fitting = [bits for bits in PRECISIONS if _needed(config, bits, position) <= there]
    return f"-q {max(fitting)} fits" if fitting else "no precision fits"
