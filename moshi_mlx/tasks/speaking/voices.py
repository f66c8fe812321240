"""Finding a voice: beside the model, in Kyutai's repository of voices, or a file of one's own.

A voice is a recording; models that read speakers as vectors take what their makers computed from it, a file beside
it whose name ends in the model's signature. Only what is asked for is downloaded. Draws nothing, reads no sound.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ...checkpoint.download import cached_snapshot, fetch_small, list_files
from ...checkpoint.hub_errors import OfflineError
from ...config import LMConfig
from ...errors import CheckpointError, MoshiError

VOICES = "kyutai/tts-voices"
"""Kyutai's repository; each of its folders has a licence of its own, told in its README."""
DEFAULT_VOICE = "vctk/p225_023.wav"
"""From the VCTK corpus, which is CC-BY 4.0 as the models are; the voices of some other folders are not."""
SPEAKER = "speaker_wavs"
"""The condition that a speaker's vectors are given to."""

_SOUNDS = (".wav", ".mp3", ".flac", ".ogg")
_NEAR = 3


@dataclass(frozen=True)
class VoiceBook:
    """The voices that one model can have.

    A name is the recording's path in the repository, or the end of it where that is clear:
    `expresso/ex03-ex01_happy_001_channel1_334s.wav`, `ex03-ex01_happy_001_channel1_334s`.
    """

    own_folder: Path | None
    """`voices` beside the model: a model that has some takes no others by name."""
    suffix: str
    """What follows a recording's name in the name of the file wanted; empty where that is the recording."""
    repo: str = VOICES

    @staticmethod
    def of(folder: Path | None, config: LMConfig) -> VoiceBook:
        """The voices for a model, in `folder` if it is here.

        Raises:
            CheckpointError: it reads speakers as vectors, and its config.json does not tell whose.
        """
        own = None if folder is None else folder / "voices"
        if SPEAKER not in config.conditioners:
            return VoiceBook(own, "")
        identity = config.raw.get("model_id")
        if not isinstance(identity, dict) or not {"sig", "epoch"} <= identity.keys():
            raise CheckpointError("this model's config.json has no 'model_id', which tells the names of its voices")
        return VoiceBook(own, f".{identity['sig']}@{identity['epoch']}.safetensors")

    @property
    def default(self) -> str:
        """The voice to take when none is named: the model's own first, else Kyutai's usual one."""
        own = self.own()
        return own[0] if own else DEFAULT_VOICE

    def own(self) -> list[str]:
        """Names of the voices beside the model."""
        return self._names_in(self.own_folder)

    def here(self) -> list[str]:
        """Names of all that can be had without a network."""
        return self.own() or self._names_in(cached_snapshot(self.repo, "main"))

    def names(self, notify: Callable[[str], None]) -> list[str]:
        """Names of all, the repository asked; of those that are here, where it cannot be reached.

        Raises:
            OfflineError: it cannot be reached, and none is here.
        """
        if own := self.own():
            return own
        try:
            return self._names_among(list_files(self.repo, "main"))
        except OfflineError as error:
            if not self.here():
                raise
            notify(f"{error}; these voices were downloaded before")
            return self.here()

    def find(self, voice: str) -> Path:
        """The file of a voice, downloaded if need be.

        Args:
            voice: a file, a name, or `hf://org/repo/name` for another repository.

        Raises:
            MoshiError: there is no such voice; names that are near, if any are.
            CheckpointError: it cannot be had.
        """
        if (path := self._file(voice)) is not None:
            return path
        book, name = self._elsewhere(voice)
        name = name.removesuffix(book.suffix)
        known, shelf = book.own(), book.own_folder
        if not known:
            shelf = cached_snapshot(book.repo, "main")
            known = book._names_in(shelf)
        found = match(name, known)
        if found is not None and shelf is not None:
            return shelf / (found + book.suffix)
        if not book.own():
            files = list_files(book.repo, "main")
            known = book._names_among(files)
            found = match(name, known)
            if found is not None:
                return fetch_small(files[found + book.suffix])
        raise _unknown(voice, known)

    def _file(self, voice: str) -> Path | None:
        """A file that the user named by its path."""
        path = Path(os.path.expanduser(voice))
        if os.path.isfile(path):  # Path.is_file fails on names that are too long
            if self.suffix and path.suffix != ".safetensors":
                raise MoshiError(
                    f"{path} is no voice for this model, which reads speakers as vectors: give a .safetensors file "
                    "made for it, or a voice by name (--list-voices)"
                )
            return path
        if voice.startswith((".", "/", "~")):
            raise MoshiError(f"{path}: no such file; give a voice's file, or its name (--list-voices)")
        return None

    def _elsewhere(self, voice: str) -> tuple[VoiceBook, str]:
        if not voice.startswith("hf://"):
            return self, voice
        org, _, rest = voice.removeprefix("hf://").partition("/")
        repo, _, name = rest.partition("/")
        if not name:
            raise MoshiError(f"{voice} names no voice: give hf://org/repo/name")
        return VoiceBook(None, self.suffix, f"{org}/{repo}"), name

    def _names_in(self, folder: Path | None) -> list[str]:
        if folder is None or not folder.is_dir():
            return []
        return self._names_among(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def _names_among(self, files: Iterable[str]) -> list[str]:
        if self.suffix:
            return sorted(name.removesuffix(self.suffix) for name in files if name.endswith(self.suffix))
        return sorted(name for name in files if name.lower().endswith(_SOUNDS))


def match(name: str, known: Sequence[str]) -> str | None:
    """The voice that `name` means: itself, or the only one whose last part it is, with its ending or without.

    Raises:
        MoshiError: it could be several.
    """
    if name in known:
        return name
    found = [voice for voice in known if name in _short_forms(voice)]
    if len(found) > 1:
        raise MoshiError(f"{name!r} could be several voices: {', '.join(found[:_NEAR])}; give more of the name")
    return found[0] if found else None


def _short_forms(voice: str) -> set[str]:
    path = PurePosixPath(voice)
    return {str(path.with_suffix("")), path.name, path.stem}


def _unknown(voice: str, known: Sequence[str]) -> MoshiError:
    near = [name for name in known if voice.lower() in name.lower()][:_NEAR]
    by_stem = {PurePosixPath(name).stem: name for name in known}
    near = near or [by_stem[stem] for stem in difflib.get_close_matches(voice, by_stem, n=_NEAR)]
    near = near or difflib.get_close_matches(voice, known, n=_NEAR)
    hint = f"; near to it: {', '.join(near)}" if near else ""
    return MoshiError(f"there is no voice {voice!r}{hint} (--list-voices shows all {len(known)})")
