"""Writes a checkpoint of known tensors block by block, so that a run that was cut off can go on.

Every tensor's place is known before the first byte is. A file's header is written last: until then nothing
takes it for a safetensors file. Knows no recipes and no models; pure numpy.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from moshi_mlx.checkpoint.inspect import ITEM_BYTES, UNFINISHED
from moshi_mlx.errors import MoshiError

SHARD_BYTES = 5 * 10**9
SYNC_BYTES = 64 * 2**20

_PLAN, _DONE = "plan.json", "done"


@dataclass(frozen=True)
class Entry:
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Bytes of one step along the first axis."""
        return int(np.prod(self.shape[1:], dtype=np.int64)) * ITEM_BYTES[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.shape[0] * self.row_bytes


def place(entries: Sequence[Entry], single: str | None, limit: int = SHARD_BYTES) -> dict[str, list[Entry]]:
    """Share tensors out among files: all in one called `single`, or in shards of at most `limit` bytes."""
    if single is not None:
        return {single: list(entries)}
    shards: list[list[Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(e.nbytes for e in shards[-1]) + entry.nbytes > limit:
            shards.append([])
        shards[-1].append(entry)
    if len(shards) == 1:
        return {"model.safetensors": shards[0]}
    return {f"model-{i:05}-of-{len(shards):05}.safetensors": shard for i, shard in enumerate(shards, 1)}


class Shard:
    """One safetensors file under construction."""

    def __init__(self, path: Path, entries: Iterable[Entry]):
        # Wide items first: every tensor then starts at a multiple of its item's size.
        entries = sorted(entries, key=lambda entry: -ITEM_BYTES[entry.dtype])
        header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
        starts: dict[str, int] = {}
        end = 0
        for entry in entries:
            starts[entry.name], start, end = end, end, end + entry.nbytes
            offsets = [start, end]
            header[entry.name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._header = len(text).to_bytes(8, "little") + text
        self._starts = {name: len(self._header) + start for name, start in starts.items()}
        self._entries = {entry.name: entry for entry in entries}
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._file, len(self._header) + end)

    def write(self, name: str, row: int, data: np.ndarray) -> int:
        """Put rows of a tensor in their place; returns how many bytes that is."""
        entry, left = self._entries[name], np.ascontiguousarray(data).data.cast("B")
        size, position = len(left), self._starts[name] + row * entry.row_bytes
        if row * entry.row_bytes + size > entry.nbytes:
            raise ValueError(f"{size} bytes from row {row} on do not fit into {entry}")
        while left:
            written = os.pwrite(self._file, left, position)
            left, position = left[written:], position + written
        return size

    def sync(self) -> None:
        """Wait until the disk has it all."""
        _sync(self._file)

    def finish(self) -> None:
        """Write the header: from here on it is a safetensors file."""
        self.sync()
        os.pwrite(self._file, self._header, 0)
        self.sync()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class FolderWriter:
    """A folder that appears whole or not at all: `NAME.partial` until `finish`.

    Args:
        destination: the folder to make.
        files: what `place` returned.
        plan: what the bytes depend on; a run is only taken up again under an equal plan.
        resume: go on where an earlier run stopped, if there is one.

    Raises:
        MoshiError: the destination exists, another run is at it, or what is left of one does not fit.
    """

    def __init__(
        self,
        destination: Path,
        files: Mapping[str, Sequence[Entry]],
        plan: Mapping[str, Any],
        resume: bool = False,
        sync_bytes: int = SYNC_BYTES,
    ):
        check_free(destination, resume)
        self.destination = destination
        self.folder = partial_of(destination)
        self._sync_bytes, self._unsynced = sync_bytes, 0
        self._shards: list[Shard] = []
        self._begin(plan)
        try:
            self.done = self._read_done()
            self._home: dict[str, Shard] = {}
            for name, entries in files.items():
                shard = Shard(self.folder / name, entries)
                self._shards.append(shard)
                self._home |= {entry.name: shard for entry in entries}
        except BaseException:
            self.close()
            raise

    def _begin(self, plan: Mapping[str, Any]) -> None:
        """Make the folder, or take it up again; hold the lock that keeps a second run away."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / _PLAN, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise MoshiError(f"another run is writing {self.folder}; wait for it, or stop it first") from None
        text = json.dumps(plan, sort_keys=True).encode()
        found = os.pread(self._lock, os.fstat(self._lock).st_size, 0)
        if not found:
            os.pwrite(self._lock, text, 0)
            _sync(self._lock)
        elif found != text:
            os.close(self._lock)
            raise MoshiError(
                f"{self.folder} was begun from another source, recipe or MLX version; delete it and start again"
            )

    def _read_done(self) -> int:
        path = self.folder / _DONE
        return int(path.read_text()) if path.exists() else 0

    def write(self, name: str, row: int, data: np.ndarray) -> None:
        """Put rows of a tensor in their place."""
        self._unsynced += self._home[name].write(name, row, data)

    def block_done(self) -> None:
        """Count a block; every now and then make sure of all so far."""
        self.done += 1
        if self._unsynced >= self._sync_bytes:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Put on record, once the disk has them, the blocks that need not be written again."""
        for shard in self._shards:
            shard.sync()
        write_synced(self.folder / _DONE, str(self.done))
        self._unsynced = 0

    def finish(self, files: Mapping[str, str]) -> None:
        """Complete the weights, add text `files`, and give the folder its name."""
        for name, text in files.items():
            write_synced(self.folder / name, text)
        for shard in self._shards:
            shard.finish()
        self.close()
        for name in (_PLAN, _DONE):
            (self.folder / name).unlink(missing_ok=True)
        sync_folder(self.folder)
        self.folder.rename(self.destination)
        sync_folder(self.destination.parent)

    def close(self) -> None:
        """Let go of the files; what is there stays, for another run to go on with."""
        while self._shards:
            self._shards.pop().close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def partial_of(destination: Path) -> Path:
    """What a folder is called while it is being written."""
    return destination.with_name(destination.name + UNFINISHED)


def check_free(destination: Path, resume: bool) -> None:
    """Refuse a place that is taken.

    Raises:
        MoshiError: the destination exists, or the remains of an earlier run do and `resume` is not set.
    """
    if destination.exists() or destination.is_symlink():
        raise MoshiError(f"{destination} exists already; give another name, or delete it first")
    if partial_of(destination).exists() and not resume:
        raise MoshiError(
            f"{partial_of(destination)} is left of an earlier run; add --resume to go on with it, or delete it"
        )


def index_of(files: Mapping[str, Sequence[Entry]]) -> dict[str, Any]:
    """The index that goes with several shards."""
    entries = {entry.name: (name, entry) for name, shard in files.items() for entry in shard}
    return {
        "metadata": {"total_size": sum(entry.nbytes for _, entry in entries.values())},
        "weight_map": {tensor: entries[tensor][0] for tensor in sorted(entries)},
    }


def write_synced(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        _sync(file.fileno())
    partial.replace(path)


def sync_folder(folder: Path) -> None:
    """Make sure that the disk has a folder's names."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """fsync, and on macOS the drive's own cache as well, which fsync leaves alone there."""
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(handle)
    else:
        fcntl.fcntl(handle, full)
