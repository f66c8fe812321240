"""What a quantized model has lost against its reference: per layer in the weights, per stream on audio.

Teacher-forced: reference and models read the same tokens. One model is in memory at a time; the reference's
log-probabilities wait on disk.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from moshi_mlx.checkpoint.inspect import Checkpoint, inspect
from moshi_mlx.checkpoint.load import load_checkpoint
from moshi_mlx.config import LMConfig
from moshi_mlx.errors import CheckpointError, MoshiError
from moshi_mlx.memory import free_disk, human_bytes
from moshi_mlx.model.lm import LM
from moshi_mlx.moshi import load_folder

from .conversation import converse, encode, told_nothing
from .recipes import part_of, size_of
from .source import SourceReader

Progress = Callable[[str, float, float], None]
"""Is told what is being done, how much of it is done, and of how much."""

KINDS = ("text", "semantic", "acoustic")
"""Of streams: what the scores are put together by."""
SKIPPED_FRAMES = 1  # the text of the first frame is made up


@dataclass(frozen=True)
class StreamScore:
    """How a model predicts one stream, in nats per token."""

    stream: str
    """text, semantic, acoustic 1, …"""
    tokens: int
    reference_cross_entropy: float
    cross_entropy: float
    divergence: float
    """KL(reference || model)."""
    agreement: float
    """How often the most likely token is the reference's."""


@dataclass(frozen=True)
class ModelReport:
    """One model against the reference."""

    model: str
    precision: str
    nbytes: int
    frame_bytes: int
    """Bytes of weights that one frame reads."""
    layers: dict[str, float]
    """Published module -> ‖W - W'‖ / ‖W‖, both as the network computes with them; infinite where not finite."""
    parts: dict[str, float]
    """The same over whole parts of the network."""
    streams: list[StreamScore] | None
    """None without audio."""

    def scores(self, kind: str) -> StreamScore | None:
        """The score over all streams of a kind: text, semantic or acoustic."""
        found = [score for score in self.streams or [] if score.stream.split()[0] == kind]
        total = sum(score.tokens for score in found)
        if not total:
            return None
        means = [sum(score.tokens * getattr(score, name) for score in found) / total for name in _MEANS]
        return StreamScore(kind, total, *means)


_MEANS = [field.name for field in fields(StreamScore)[2:]]


@dataclass(frozen=True)
class Report:
    """A reference and what became of it."""

    reference: str
    precision: str
    nbytes: int
    frames: int
    """Of audio, over all segments; 0 without audio."""
    models: list[ModelReport]

    def as_json(self) -> dict[str, Any]:
        """For `--json`: infinite errors become null."""
        told = asdict(self)
        for model, report in zip(told["models"], self.models, strict=True):
            for key in ("layers", "parts"):
                model[key] = {name: _finite(error) for name, error in model[key].items()}
            summary = {kind: report.scores(kind) for kind in KINDS}
            model["summary"] = {kind: asdict(score) for kind, score in summary.items() if score}
            for score in [*(model["streams"] or []), *model["summary"].values()]:
                score.update({name: _finite(score[name]) for name in _MEANS})
        return told


def compare(
    reference: Path,
    models: Sequence[Path],
    audio: Sequence[str | Path] = (),
    seed: int = 0,
    progress: Progress = lambda title, done, total: None,
) -> Report:
    """Measure what models have lost.

    Args:
        reference: a local checkpoint folder, with codec where audio is given.
        models: checkpoints of the same network.
        audio: speech, as the user's side of a conversation.
        seed: of what the reference answers.
        progress: told how far it is.

    Raises:
        CheckpointError: a checkpoint is not whole, not of the same network, or does not fit.
        MoshiError: the audio cannot be used, or the disk does not hold the reference's log-probabilities.
    """
    original = inspect(reference)
    others = [inspect(model) for model in models]
    for other in others:
        _check_same(original, other)
    streams, frames = _stream_scores(reference, others, audio, seed, progress) if audio else ([None] * len(others), 0)
    reports = [_model_report(original, other, scores, progress) for other, scores in zip(others, streams, strict=True)]
    return Report(str(reference), original.precision, original.nbytes, frames, reports)


def _model_report(
    original: Checkpoint, other: Checkpoint, scores: list[StreamScore] | None, progress: Progress
) -> ModelReport:
    layers, parts = weight_errors(original, other, progress)
    size = size_of(other.config, other.formats)
    return ModelReport(str(other.folder), other.precision, other.nbytes, size.frame_bytes, layers, parts, scores)


def _check_same(reference: Checkpoint, other: Checkpoint) -> None:
    """Refuse models whose numbers would not be about the same thing."""
    for field in fields(LMConfig):
        if field.compare and getattr(reference.config, field.name) != getattr(other.config, field.name):
            raise CheckpointError(
                f"{other.folder} is another network than {reference.folder}: {field.name!r} differs; "
                f"compare a model with what it was made from"
            )


def weight_errors(
    reference: Checkpoint, other: Checkpoint, progress: Progress = lambda title, done, total: None
) -> tuple[dict[str, float], dict[str, float]]:
    """Relative error of the weights, by published module and by part of the network."""
    readers = SourceReader(reference), SourceReader(other)
    blocks = readers[0].blocks()
    sums: dict[str, np.ndarray] = {}
    try:
        for done, block in enumerate(blocks):
            progress(f"weights of {other.folder.name}", done, len(blocks))
            wanted, got = (reader.dense(block, reader.fetch(block), mx.float32) for reader in readers)
            squares = mx.stack([mx.square(wanted - got).sum(), mx.square(wanted).sum()])
            for key in (block.module, f"{part_of(block.module, reference.config)} (part)"):
                sums[key] = sums.get(key, np.zeros(2)) + np.array(squares, np.float64)
    finally:
        for reader in readers:
            reader.close()
        mx.clear_cache()
    errors = {key: _relative(*values) for key, values in sums.items()}
    parts = {key.removesuffix(" (part)"): error for key, error in errors.items() if key.endswith(" (part)")}
    return {key: error for key, error in errors.items() if not key.endswith(" (part)")}, parts


def _relative(difference: float, norm: float) -> float:
    if not math.isfinite(difference + norm):
        return math.inf
    if difference == 0:
        return 0.0
    return math.sqrt(difference / norm) if norm else 1.0


def _stream_scores(
    reference: Path, others: Sequence[Checkpoint], audio: Sequence[str | Path], seed: int, progress: Progress
) -> tuple[list[list[StreamScore]], int]:
    """Every model's scores on what the reference answers to the audio, and how many frames that is."""
    moshi = load_folder(reference)
    user = encode(moshi.codec, audio, moshi.config.user_codebooks)
    progress("the reference answers", 0, 1)
    codes = converse(moshi.lm, user, seed)
    with tempfile.TemporaryDirectory(prefix="moshi-compare-") as folder:
        _check_room(Path(folder), moshi.config, codes)
        for i, segment in enumerate(codes):
            progress("reference", i, len(codes))
            for kind, values in _log_probabilities(moshi.lm, segment).items():
                np.save(Path(folder) / f"{i}.{kind}.npy", np.array(values))
        del moshi
        mx.clear_cache()
        return [_score(other, codes, Path(folder), progress) for other in others], codes.shape[0] * codes.shape[2]


def _score(other: Checkpoint, codes: np.ndarray, folder: Path, progress: Progress) -> list[StreamScore]:
    lm = load_checkpoint(other)
    totals: dict[str, np.ndarray] = {}
    for i, segment in enumerate(codes):
        progress(f"audio through {other.folder.name}", i, len(codes))
        for kind, values in _log_probabilities(lm, segment).items():
            saved = mx.array(np.load(folder / f"{i}.{kind}.npy"))
            for stream, tally in _tallies(kind, saved, values, segment):
                totals[stream] = totals.get(stream, np.zeros(5)) + tally
    del lm
    mx.clear_cache()
    return [StreamScore(stream, int(tally[0]), *(tally[1:] / tally[0]).tolist()) for stream, tally in totals.items()]


def _log_probabilities(lm: LM, segment: np.ndarray) -> dict[str, mx.array]:
    """Of codes [streams, T]: text [1, T, V] and audio [dep_q, T, card], float32."""
    logits = lm(mx.array(segment[None]), told_nothing(lm))
    found = {"text": logits.text} if logits.audio is None else {"text": logits.text, "audio": logits.audio[0]}
    found = {kind: _normalized(values) for kind, values in found.items()}
    mx.eval(found)
    return found


def _normalized(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _tallies(kind: str, reference: mx.array, model: mx.array, segment: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Per stream: tokens, and the sums of both cross-entropies, divergence and agreement over them."""
    first = 0 if kind == "text" else 1
    for i in range(reference.shape[0]):
        targets = segment[first + i]
        told = np.isfinite(np.array(reference[i, :, 0]))  # beyond a delay nothing is predicted
        valid = told & (targets >= 0) & (targets < reference.shape[-1])
        valid[:SKIPPED_FRAMES] = False
        rows = mx.array(np.flatnonzero(valid))
        if rows.size == 0:
            continue
        p, q, target = reference[i][rows], model[i][rows], mx.array(targets[valid])[:, None]
        sums = [
            -mx.take_along_axis(p, target, axis=1).sum(),
            -mx.take_along_axis(q, target, axis=1).sum(),
            (mx.exp(p) * (p - q)).sum(),
            (p.argmax(axis=-1) == q.argmax(axis=-1)).sum().astype(mx.float32),
        ]
        name = "text" if kind == "text" else "semantic" if i == 0 else f"acoustic {i}"
        yield name, np.array([valid.sum(), *(value.item() for value in sums)], np.float64)


def _check_room(folder: Path, config: LMConfig, codes: np.ndarray) -> None:
    need = 4 * codes.shape[0] * codes.shape[2] * (config.text_card_out + config.dep_q * config.card)
    free = free_disk(folder)
    if need > free:
        raise MoshiError(
            f"the reference's log-probabilities take {human_bytes(need)}, and {human_bytes(free)} are free in "
            f"{folder.parent}; give less audio, or set TMPDIR to a larger disk"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
