"""Tokenizers as Hugging Face keeps them (`tokenizer.json`), with the face of the sentencepiece ones.

Only those made from a sentencepiece model are read: a word starts with ▁, and a token may be one byte. The
`tokenizers` library, which reads and encodes, is imported when it is needed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CheckpointError
from .text import TextTokenizer, read_file

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_UNKNOWN = "<unk>"


class JsonTokenizer(TextTokenizer):
    """A `tokenizer.json`. Begin and end tokens are neither added nor shown."""

    def __init__(self, path: str | Path):
        """Read the file at `path`; raise CheckpointError where it is missing, damaged or of another make."""
        self.path = Path(path)
        self._tokenizer, self._surfaces = _parse(self.path)

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`, without begin or end; what is no valid Unicode becomes a question mark."""
        whole = text.encode("utf-8", "replace").decode("utf-8")
        return self._tokenizer.encode(whole, add_special_tokens=False).ids


def open_tokenizer(path: str | Path) -> TextTokenizer:
    """The tokenizer in a file: Hugging Face's where its name ends in .json, else a sentencepiece model.

    Raises:
        CheckpointError: it is missing, damaged, or of another make.
    """
    return JsonTokenizer(path) if Path(path).suffix == ".json" else TextTokenizer(path)


def _parse(path: Path) -> tuple[Tokenizer, list[bytes]]:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_buffer(read_file(path))
    except ValueError as error:
        raise CheckpointError(f"{path}: not a whole tokenizer.json ({error}); download it again") from None
    if "ByteLevel" in str(tokenizer.decoder):
        raise CheckpointError(f"{path}: pieces of bytes, which this version cannot read; it reads sentencepiece's")
    hidden = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
    pieces = {token: piece for piece, token in tokenizer.get_vocab(with_added_tokens=True).items()}
    return tokenizer, [
        b"" if token in hidden else _surface(pieces.get(token, "")) for token in range(max(pieces, default=-1) + 1)
    ]


def _surface(piece: str) -> bytes:
    if byte := _BYTE.fullmatch(piece):
        return bytes([int(byte[1], 16)])
    return b"" if piece == _UNKNOWN else piece.replace("▁", " ").encode("utf-8", "replace")
