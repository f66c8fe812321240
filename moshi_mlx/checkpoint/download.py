"""Fetching files from the Hugging Face Hub into its cache, announced before and resumed after an interruption.

huggingface_hub does the talking (HF_HOME, HF_HUB_OFFLINE, HF_TOKEN and HF_ENDPOINT are its own). Large files are
continued here: its recent versions start an interrupted file again (huggingface_hub issue 4196).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError
from ..memory import free_disk, human_bytes
from .hub_errors import hub_sentences

ASK_FROM = 50_000_000
"""Bytes: what is smaller is fetched without a question."""
_CONTINUE_FROM = 10_000_000
"""Bytes: what is smaller is fetched again after an interruption."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on the Hub, and how much of it is here."""

    repo: str
    revision: str
    name: str
    size: int
    blob: str
    """Its name in the cache: the SHA-256 of a large file, git's hash of a small one."""
    large: bool
    """Whether `blob` is a SHA-256."""

    @property
    def present(self) -> int:
        """Bytes already here, whole or as a piece."""
        blobs = repo_folder(self.repo) / "blobs"
        for path in (blobs / self.blob, blobs / f"{self.blob}.incomplete"):
            if path.is_file():
                return min(path.stat().st_size, self.size)
        return 0


@dataclass(frozen=True)
class Download:
    """What is about to be fetched: shown to whoever must agree."""

    repo: str
    files: tuple[RemoteFile, ...]
    total_bytes: int
    present_bytes: int
    free_bytes: int
    """Free where it goes."""
    destination: Path
    """The Hub's cache."""

    @property
    def missing_bytes(self) -> int:
        """Bytes still to come."""
        return self.total_bytes - self.present_bytes


Ask = Callable[[Download], bool]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Fetching:
    """How to fetch: whom to ask, what to show, whether to look for something newer first."""

    ask: Ask | None
    progress: bool
    notify: Notify
    refresh: bool = False


def cache_folder() -> Path:
    """The Hub's cache, where HF_HOME puts it."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repo_folder(repo: str) -> Path:
    """Where the cache keeps a repository: blobs, refs and snapshots."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """The folder of what was fetched of a revision, whole or not; no network is asked."""
    folder = repo_folder(repo)
    ref = folder / "refs" / revision
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
    snapshot = folder / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def list_files(repo: str, revision: str) -> dict[str, RemoteFile]:
    """Every file of a revision by name, in one request.

    Raises:
        CheckpointError: the Hub cannot be reached, or does not give the repository.
    """
    from huggingface_hub import HfApi

    with hub_sentences(repo, revision):
        siblings = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=15).siblings
    files: dict[str, RemoteFile] = {}
    for entry in siblings or []:
        blob = entry.lfs.sha256 if entry.lfs else entry.blob_id
        size = entry.lfs.size if entry.lfs else entry.size
        name = entry.rfilename
        files[name] = RemoteFile(repo, revision, name, size or 0, blob or "", entry.lfs is not None)
    return files


def fetch_small(file: RemoteFile) -> Path:
    """Fetch a file of a few kilobytes without a word; returns where it is."""
    with _progress_bars(False):
        return _fetch(file)


def fetch(files: Sequence[RemoteFile], ask: Ask | None, progress: bool) -> None:
    """Fetch files into the cache; the first names the repository that the question is about.

    Raises:
        CheckpointError: the disk is too small (said before anything is fetched), the answer was no, or a file
            cannot be had.
    """
    present = sum(file.present for file in files)
    destination = cache_folder()
    total, free = sum(file.size for file in files), free_disk(destination)
    download = Download(files[0].repo, tuple(files), total, present, free, destination)
    if download.missing_bytes > free:
        raise CheckpointError(
            f"{download.repo}: {human_bytes(download.missing_bytes)} are to be downloaded and {human_bytes(free)} "
            f"are free at {destination}; make room, or set HF_HOME to a folder on another disk"
        )
    if ask is not None and download.missing_bytes >= ASK_FROM and not ask(download):
        raise CheckpointError(f"{download.repo} was not downloaded, as you answered")
    with _progress_bars(progress):
        for file in files:
            _fetch(file)


def _fetch(file: RemoteFile) -> Path:
    from huggingface_hub import hf_hub_download

    with hub_sentences(file.repo, file.revision, file.name):
        if file.large and file.size >= _CONTINUE_FROM:
            _fetch_blob(file)
        # What lies among the blobs is not fetched again, only entered into the snapshot.
        return Path(hf_hub_download(file.repo, file.name, revision=file.revision))


def _fetch_blob(file: RemoteFile) -> None:
    """Put a large file among the cache's blobs, going on from the piece that an earlier attempt left."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    folder = repo_folder(file.repo)
    blob, piece = folder / "blobs" / file.blob, folder / "blobs" / f"{file.blob}.incomplete"
    lock = cache_folder() / ".locks" / folder.name / f"{file.blob}.lock"
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            return
        with piece.open("ab") as opened:
            if opened.tell() > file.size:
                opened.truncate(0)
            url = hf_hub_url(file.repo, file.name, revision=file.revision)
            headers: Mapping[str, str] = {**build_hf_headers(), "Accept-Encoding": "identity"}
            http_get(
                url, opened, resume_size=opened.tell(), headers=dict(headers), expected_size=file.size,
                displayed_filename=file.name,
            )  # fmt: skip
        if _sha256(piece) != file.blob:
            piece.unlink()
            raise CheckpointError(f"{file.name} of {file.repo} arrived damaged; run the same command again")
        piece.rename(blob)


def _sha256(path: Path) -> str:
    digest, block = hashlib.sha256(), bytearray(2**20)
    with path.open("rb", buffering=0) as opened:
        while count := opened.readinto(block):
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    """huggingface_hub draws its own bars, on stderr and only on a terminal, unless told not to."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
