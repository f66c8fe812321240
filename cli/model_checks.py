"""What `moshi-mlx doctor` looks at of a model: whether it is here and whole, fits, and will keep up.

Each check is a function that returns what was found. Shows nothing, loads no model and downloads none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from moshi_mlx.economy import AS_IT_IS, Economy
from moshi_mlx.errors import MoshiError

from .machine_checks import Check

if TYPE_CHECKING:
    from moshi_mlx.checkpoint.download import Download
    from moshi_mlx.checkpoint.inspect import Checkpoint
    from moshi_mlx.config import LMConfig

LARGE_MODEL = 1_000_000_000
"""Bytes from which a model is too much for a CPU."""
LEAST_DISK = 1_000_000_000
"""An hour of recording takes 690 MB."""


@dataclass(frozen=True)
class Subject:
    """The model that is asked about."""

    model: str
    """As `--model` takes it."""
    name: str
    config: LMConfig
    bits: int
    """16, 8 or 4, whichever is nearest to what its weights take."""
    nbytes: int
    """Of its weights."""
    needed: int
    """Bytes of memory for a conversation, the codec's processes included."""
    missing: int
    """Bytes still to be downloaded."""


def check_model(
    model: str, bits: int | None, bandwidth: float, economy: Economy = AS_IT_IS
) -> tuple[Check, Subject | None]:
    """Whether the model is here, and whole."""
    from moshi_mlx.checkpoint.choice import choose_bits
    from moshi_mlx.checkpoint.hub import SHORT_NAMES, cached_bits, locate
    from moshi_mlx.checkpoint.inspect import inspect
    from moshi_mlx.memory import human_bytes

    if model in SHORT_NAMES:
        bits = bits or choose_bits(bandwidth=lambda: bandwidth, economy=economy).bits
        if bits not in cached_bits(model):
            return _not_here(model, bits, economy)
    refused: list[Download] = []

    def refuse(download: Download) -> bool:
        refused.append(download)
        return False

    try:
        subject = _subject(model, inspect(locate(model, bits, ask=refuse)), economy)
    except MoshiError as error:
        if not refused:
            return Check("model", "problem", str(error)), None
        missing = refused[0].missing_bytes
        check = Check(
            "model", "warning", f"{model} is not here yet ({human_bytes(missing)})", f"moshi-mlx download {model}"
        )
        return check, _announced(model, bits, economy, missing)
    return Check("model", "ok", f"{subject.name}, {human_bytes(subject.nbytes)}, is here"), subject


def _not_here(model: str, bits: int, economy: Economy) -> tuple[Check, Subject]:
    """What is known of a published model without asking the network."""
    from moshi_mlx.checkpoint.choice import PRECISIONS
    from moshi_mlx.checkpoint.sizes import conversation_bytes, model_bytes
    from moshi_mlx.config import MOSHI_7B, LMConfig
    from moshi_mlx.memory import human_bytes

    config = economy.of(LMConfig.from_dict(MOSHI_7B))
    size, name = model_bytes(config, bits), f"{model} {PRECISIONS[bits]}"
    check = Check(
        "model",
        "warning",
        f"{name} is not downloaded yet ({human_bytes(size)})",
        f"moshi-mlx download {model} -q {bits}, or let chat do it",
    )
    return check, Subject(model, name, config, bits, size, conversation_bytes(config, bits), size)


def _announced(model: str, bits: int | None, economy: Economy, missing: int) -> Subject | None:
    """What a repository's headers tell of a model before it is downloaded."""
    from moshi_mlx.checkpoint.remote import look

    try:
        return _subject(model, look(model, bits), economy, missing)
    except MoshiError:
        return None


def _subject(model: str, checkpoint: Checkpoint, economy: Economy, missing: int = 0) -> Subject:
    from moshi_mlx.checkpoint.load import window_bytes
    from moshi_mlx.checkpoint.sizes import BESIDE, RESERVE
    from moshi_mlx.tasks.kinds import kind_of

    checkpoint = checkpoint.run_as(economy)
    config, name = checkpoint.config, f"{Path(model).name} {checkpoint.precision}"
    needed = checkpoint.nbytes + window_bytes(checkpoint) + (BESIDE if kind_of(config).needs_codec else RESERVE)
    return Subject(model, name, config, _nearest_bits(checkpoint), checkpoint.nbytes, needed, missing)


def _nearest_bits(checkpoint: Checkpoint) -> int:
    from moshi_mlx.checkpoint.sizes import STORED_BITS, model_bytes

    return min(STORED_BITS, key=lambda bits: abs(model_bytes(checkpoint.config, bits) - checkpoint.nbytes))


def check_memory(subject: Subject) -> Check:
    """What a conversation needs, against what can be had."""
    from moshi_mlx.memory import available_memory, human_bytes

    there = available_memory()
    told = f"{human_bytes(subject.needed)} needed, {human_bytes(there)} can be had"
    if subject.needed > there:
        return Check("memory", "problem", told, _smaller(subject, _economy(subject)))
    return Check("memory", "ok", told)


def check_disk(subject: Subject) -> Check:
    """Room for what is still to be downloaded, and for a recording."""
    from moshi_mlx.checkpoint.download import cache_folder
    from moshi_mlx.memory import free_disk, human_bytes

    free = free_disk(cache_folder())
    told = f"{human_bytes(free)} free in {cache_folder()}"
    if subject.missing > free:
        advice = "make room, or set HF_HOME to a folder on another disk"
        return Check("disk", "problem", f"{told}, and the download takes {human_bytes(subject.missing)}", advice)
    if free - subject.missing < LEAST_DISK:
        return Check("disk", "warning", f"{told}: little is left for recordings", "make room")
    return Check("disk", "ok", told)


def check_speed(subject: Subject, bandwidth: float, gpu: bool) -> Check:
    """Whether a frame will take less than its 80 ms: from memory's measured speed, not from running the model."""
    from moshi_mlx.bench.verdict import Standing, verdict
    from moshi_mlx.checkpoint.sizes import frame_bytes
    from moshi_mlx.rates import FRAME_S
    from moshi_mlx.speed import KEEPS_UP_S, predict
    from moshi_mlx.tasks.kinds import kind_of

    if not gpu and subject.nbytes > LARGE_MODEL:
        return Check(
            "speed",
            "problem",
            f"without a GPU a frame of {subject.name} takes seconds where it may take {1000 * FRAME_S:.0f} ms",
            f"use a Mac with Apple Silicon; --model {kind_of(subject.config).built_in} runs anywhere, and makes noise",
        )
    likely = predict(frame_bytes(subject.config, subject.bits), bandwidth).likely_s
    sentence = verdict([Standing(subject.name, likely, predicted=True)]).rstrip(".")
    told = f"{sentence}, as memory reads {bandwidth / 1e9:.0f} GB/s"
    if likely <= KEEPS_UP_S:
        return Check("speed", "ok", told)
    if likely <= FRAME_S:
        return Check("speed", "warning", told, _smaller(subject, "close other programs"))
    return Check("speed", "problem", told, _smaller(subject, _economy(subject)))


def _economy(subject: Subject) -> str:
    return f"try --kv-bits 8, and a shorter window with --context {subject.config.transformer.context // 2}"


def _smaller(subject: Subject, otherwise: str) -> str:
    """Advice to use fewer bits, where there are fewer."""
    from moshi_mlx.checkpoint.hub import SHORT_NAMES

    if subject.bits <= 4:
        return otherwise
    return "use -q 4" if subject.model in SHORT_NAMES else f"make it smaller: moshi-mlx quantize {subject.model} FOLDER"
