"""Text tokens to readable text, and text to tokens.

Moshi's inner monologue is one sentencepiece token a frame, most of them padding. This room turns them into
text as they come and into words with their times, and turns a greeting into tokens to force. One decoder
serves both: every piece is reduced to its UTF-8 bytes, and characters come out as soon as they are whole.
No arrays, no network, no terminal.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .config import END_OF_TEXT_PADDING, TEXT_PADDING
from .errors import CheckpointError, MoshiError
from .rates import FRAME_RATE

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

GREETING_FRAMES = 4
"""Frames that each word of a greeting takes at least: a third of a second, about the pace of speech."""

_WORD_START = "▁"
_SPACES = re.compile(r"[ \t\n]")
# Control characters (newline and tab apart) are not readable, and could drive the terminal that shows them.
_CONTROL_CHARACTERS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"}


class TextTokenizer:
    """A sentencepiece model as checkpoints carry it (`tokenizer_spm_32k_3.model`)."""

    def __init__(self, path: str | Path):
        """Read the model at `path`; raise CheckpointError where it is missing or damaged."""
        self.path = Path(path)
        self._processor, self._surfaces = _parse(self.path)

    @property
    def vocabulary_size(self) -> int:
        """How many tokens there are; a checkpoint's `text_card` should be the same."""
        return len(self._surfaces)

    def encode(self, text: str) -> list[int]:
        """Tokens of `text`, without begin or end; what is no valid Unicode becomes a question mark."""
        return self._processor.encode(text.encode("utf-8", "replace"), out_type=int)

    def surface(self, token: int) -> bytes:
        """Return the UTF-8 bytes that `token` adds to the text.

        Empty for what is never shown: padding, control and unknown tokens, ids outside the vocabulary.
        A byte-fallback token gives one byte, which may be a part of a character only.
        """
        return self._surfaces[token] if 0 <= token < len(self._surfaces) else b""


def read_file(path: Path) -> bytes:
    """A tokenizer's bytes; raises CheckpointError where it is missing or cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such text tokenizer; download the checkpoint again") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the text tokenizer: {error.strerror}") from None


def _parse(path: Path) -> tuple[SentencePieceProcessor, list[bytes]]:
    """Return the model and what each token shows; reading every piece here finds damaged ones at load."""
    from sentencepiece import SentencePieceProcessor

    model = read_file(path)
    try:
        if not model:
            raise ValueError("sentencepiece would take this for no model given")
        processor = SentencePieceProcessor(model_proto=model)
        return processor, [_surface(processor, token) for token in range(processor.get_piece_size())]
    except (RuntimeError, ValueError):  # its parser's; a piece that is not UTF-8, a byte piece with no number
        raise CheckpointError(f"{path}: not a whole sentencepiece model; delete it and download it again") from None


def _surface(processor: SentencePieceProcessor, token: int) -> bytes:
    padding = token in (END_OF_TEXT_PADDING, TEXT_PADDING)
    if padding or processor.is_control(token) or processor.is_unknown(token):
        return b""
    piece = processor.id_to_piece(token)
    if processor.is_byte(token):  # "<0xC3>"
        return bytes([int(piece[1:-1], 16)])
    return piece.replace(_WORD_START, " ").encode()


class _CharacterDecoder:
    """Tokens in, whole characters out, each once.

    An ordinary piece never starts within a character, so it may go through the same UTF-8 decoder as the
    byte tokens: a sequence that it cuts short comes out as one U+FFFD before it (Unicode's practice of one
    mark for each maximal invalid part). Tokens that are never shown leave a character in waiting as it is.
    """

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._tokenizer.surface(token)).translate(_CONTROL_CHARACTERS)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class TextStream:
    """The inner monologue, or what a text model writes, as text to append, token by token.

    Args:
        tokenizer: the model's.
        started: whether there is text before the first token, from which its ▁ separates it.
    """

    def __init__(self, tokenizer: TextTokenizer, started: bool = False):
        self._characters = _CharacterDecoder(tokenizer)
        self._started = started

    def push(self, token: int) -> str:
        """Text to append now: empty for padding, and while a character of several bytes is incomplete."""
        return self._append(self._characters.push(token))

    def flush(self) -> str:
        """End the text: return what an unfinished character leaves (one U+FFFD), and start afresh."""
        tail = self._append(self._characters.flush())
        self._started = False
        return tail

    def _append(self, text: str) -> str:
        if not self._started:  # the first word's ▁ separates it from nothing
            text = text.lstrip(" ")
            self._started = bool(text)
        return text


@dataclass(frozen=True)
class Word:
    """A word of the monologue, from the frame of its first piece up to the one after its last piece."""

    text: str
    start_frame: int
    end_frame: int

    @property
    def start(self) -> float:
        """Seconds at which the word begins."""
        return self.start_frame / FRAME_RATE

    @property
    def end(self) -> float:
        """Seconds at which its last piece ends; the sound may go on, which the tokens do not tell."""
        return self.end_frame / FRAME_RATE


class WordStream:
    """The inner monologue as words with times. A word begins at a piece with ▁ and goes on until the next."""

    def __init__(self, tokenizer: TextTokenizer):
        self._tokenizer = tokenizer
        self._characters = _CharacterDecoder(tokenizer)
        self._word: Word | None = None

    def push(self, token: int, frame: int) -> list[Word]:
        """Return the words that `token`, of frame number `frame`, completes: nearly always none or one."""
        if not self._tokenizer.surface(token):
            return []
        head, *others = _SPACES.split(self._characters.push(token))
        # Before a new word, `head` can only be the rest of an earlier frame: it does not prolong the word.
        self._extend(head, frame, end_frame=None if others else frame + 1)
        finished = []
        for text in others:
            finished += self._finish()
            self._word = Word(text, frame, frame + 1)
        return finished

    def flush(self) -> list[Word]:
        """Return the word still open, if there is one, and start afresh."""
        tail = self._characters.flush()
        if self._word is not None:
            self._extend(tail, self._word.start_frame, end_frame=None)
        return self._finish()

    def _extend(self, text: str, frame: int, end_frame: int | None) -> None:
        word = self._word or Word("", frame, frame + 1)
        self._word = Word(word.text + text, word.start_frame, end_frame or word.end_frame)

    def _finish(self) -> list[Word]:
        word, self._word = self._word, None
        return [word] if word is not None and word.text else []


def greeting_tokens(text: str, tokenizer: TextTokenizer) -> list[int]:
    """Return the text tokens that make Moshi say `text`, one for each frame.

    As in the monologue that Moshi learned from (paper, section 3.4.4), EPAD (0) announces each word, its
    pieces follow at once, and PAD (3) fills the time it takes to say it: a word has `GREETING_FRAMES` frames
    at least, its EPAD included. So a word of one piece is [0, piece, 3, 3], and one of five pieces
    [0, p1, p2, p3, p4, p5]. Characters that the tokenizer does not know are left out. Raises MoshiError when
    no word remains.
    """
    script: list[int] = []
    for word in text.split():
        pieces = [token for token in tokenizer.encode(word) if tokenizer.surface(token)]
        if any(tokenizer.surface(token).strip() for token in pieces):  # more than its ▁
            padding = max(0, GREETING_FRAMES - 1 - len(pieces))
            script += [END_OF_TEXT_PADDING, *pieces, *[TEXT_PADDING] * padding]
    if not script:
        raise MoshiError("the greeting has no words to say: give it some, or leave the option out")
    return script
