"""Tokens to text, words and greetings, on the real sentencepiece model that `tiny` is made with."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer
from moshi_mlx.errors import CheckpointError, MoshiError
from moshi_mlx.text import TextStream, TextTokenizer, Word, WordStream, greeting_tokens

EPAD, BOS, EOS, PAD = 0, 1, 2, 3
FIRST_BYTE = 4
OUTSIDE = (-1, 512, 32000)


def byte_tokens(data: bytes) -> list[int]:
    return [FIRST_BYTE + byte for byte in data]


def stream(tokenizer: TextTokenizer, tokens: list[int]) -> list[str]:
    """What each push appends, and the flush last."""
    text = TextStream(tokenizer)
    return [*(text.push(token) for token in tokens), text.flush()]


def words(tokenizer: TextTokenizer, tokens: list[int]) -> list[Word]:
    assembler = WordStream(tokenizer)
    found = [word for frame, token in enumerate(tokens) for word in assembler.push(token, frame)]
    return found + assembler.flush()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_tokenizer(tmp_path_factory.mktemp("text") / "tiny.model")


@pytest.fixture(scope="module")
def tokenizer(model) -> TextTokenizer:
    return TextTokenizer(model)


@pytest.fixture(scope="module")
def oracle(model) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(model))


def train(path: Path, unk: int, bos: int, eos: int, pad: int) -> Path:
    """Write a model that knows no byte pieces, so that a strange character is unknown to it."""
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(["the sea and the shore", "a shell on the sand"]), model_writer=file,
            vocab_size=20, hard_vocab_limit=False, num_threads=1, minloglevel=3,
            unk_id=unk, bos_id=bos, eos_id=eos, pad_id=pad,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def without_bytes(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("text") / "plain.model", unk=0, bos=1, eos=2, pad=3)


# The built-in tokenizer


@pytest.mark.parametrize("size", [350, 512, 600])
def test_tiny_tokenizer_has_exactly_the_size_asked_for_and_kyutais_layout(tmp_path, size):
    path = write_tiny_tokenizer(tmp_path / "tiny.model", size)
    pieces = SentencePieceProcessor(model_file=str(path))
    assert TextTokenizer(path).vocabulary_size == size
    assert pieces.id_to_piece([0, 1, 2, 3]) == ["<unk>", "<s>", "</s>", "<pad>"]
    assert pieces.id_to_piece(byte_tokens(b"\x00\xc3\xff")) == ["<0x00>", "<0xC3>", "<0xFF>"]


def test_tiny_tokenizer_is_the_same_file_in_every_process_and_says_nothing(tmp_path, model):
    again = tmp_path / "again.model"
    code = "import sys; from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer as w; w(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(again)], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""
    assert again.read_bytes() == model.read_bytes()


@pytest.mark.parametrize("size", [0, 300, 5000])
def test_tiny_tokenizer_refuses_a_size_it_cannot_have_and_leaves_no_file(tmp_path, size):
    with pytest.raises(CheckpointError, match=rf"cannot have {size} tokens"):
        write_tiny_tokenizer(tmp_path / "tiny.model", size)
    assert os.listdir(tmp_path) == []


def test_tiny_tokenizer_that_cannot_be_written_leaves_no_partial_file(tmp_path):
    (tmp_path / "tiny.model").mkdir()
    with pytest.raises(CheckpointError, match="cannot write"):
        write_tiny_tokenizer(tmp_path / "tiny.model")
    assert os.listdir(tmp_path) == ["tiny.model"]


# Broken files


def test_missing_model_and_folder_are_refused_by_path(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.model: no such text tokenizer"):
        TextTokenizer(tmp_path / "none.model")
    with pytest.raises(CheckpointError, match="cannot read"):
        TextTokenizer(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 100, b'{"version": "1.0"}'])
def test_a_file_that_is_no_sentencepiece_model_is_refused(tmp_path, content):
    path = tmp_path / "broken.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"broken\.model: not a whole sentencepiece model") as caught:
        TextTokenizer(path)
    assert "\n" not in str(caught.value)


def test_truncated_and_scribbled_models_are_refused_or_usable_never_a_traceback(tmp_path, model):
    whole, path = model.read_bytes(), tmp_path / "broken.model"
    rng = random.Random(0)
    for length in rng.sample(range(len(whole) // 2), 60):  # cut within the pieces
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            TextTokenizer(path)
    refused = 0
    for _ in range(200):
        broken = bytearray(whole)
        for _ in range(rng.randint(1, 20)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            damaged = TextTokenizer(path)
        except CheckpointError:
            refused += 1
        else:
            "".join(stream(damaged, list(range(damaged.vocabulary_size))))
    assert refused > 100


def test_a_piece_that_is_not_utf8_is_found_at_load(tmp_path, without_bytes):
    path = tmp_path / "broken.model"
    whole = without_bytes.read_bytes()
    path.write_bytes(whole.replace("▁".encode(), b"\xe2\x96A", 1))
    with pytest.raises(CheckpointError, match="not a whole sentencepiece model"):
        TextTokenizer(path)


# Text


def test_pieces_become_words_and_the_first_space_is_dropped(tokenizer):
    appended = stream(tokenizer, tokenizer.encode("Hello, how are you?"))
    assert "".join(appended) == "Hello, how are you?"
    assert "Hello".startswith(appended[0])
    assert any(text.startswith(" ") for text in appended[1:])


@pytest.mark.parametrize("character", ["é", "ß", "語", "😀", "\U0010ffff"])
def test_a_character_in_bytes_appears_once_with_its_last_byte(tokenizer, character):
    tokens = byte_tokens(character.encode())
    assert stream(tokenizer, tokens) == [""] * (len(tokens) - 1) + [character, ""]


@pytest.mark.parametrize("silent", [EPAD, BOS, EOS, PAD, *OUTSIDE])
def test_silent_tokens_show_nothing_and_do_not_break_a_character(tokenizer, silent):
    first, *rest = byte_tokens("😀".encode())
    assert stream(tokenizer, [silent, first, silent, silent, *rest, silent]) == [""] * 6 + ["😀", "", ""]


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"\xff", "\ufffd"),  # never valid
        (b"\x80a", "\ufffda"),  # a continuation of nothing
        (b"\xf0\x9f\x98", "\ufffd"),  # one mark for the whole unfinished character, at the flush
        (b"\xf0\x9f\x98\xc3\xa9", "\ufffdé"),  # cut short by another character
        (b"\xe2\x82A\xf0\x9f\x98\x80", "\ufffdA😀"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # a surrogate: no byte of it can begin a character
        (b"ok\x1b[2J\x07\xc2\x9b\n", "ok[2J\n"),  # control characters do not reach a terminal
    ],
)
def test_invalid_bytes_become_replacement_characters(tokenizer, data, shown):
    assert "".join(stream(tokenizer, byte_tokens(data))) == shown


def test_an_unfinished_character_is_marked_before_the_next_piece(tokenizer):
    hello = tokenizer.encode("Hello")
    appended = stream(tokenizer, [*hello, *byte_tokens(b"\xf0\x9f"), PAD, *hello])
    assert "".join(appended) == "Hello\ufffd Hello"
    assert appended[len(hello) + 3].startswith("\ufffd ")
    assert appended[-1] == ""


@given(data=st.binary(max_size=40), gaps=st.data())
def test_any_bytes_give_what_utf8_decoding_gives(tokenizer, data, gaps):
    tokens = [token for byte in byte_tokens(data) for token in (*gaps.draw(silence), byte)]
    readable = [c for c in data.decode(errors="replace") if c in "\n\t" or unicodedata.category(c) != "Cc"]
    assert "".join(stream(tokenizer, tokens)) == "".join(readable).lstrip(" ")


def test_flush_starts_afresh(tokenizer):
    text = TextStream(tokenizer)
    for _ in range(2):
        assert "".join(map(text.push, tokenizer.encode("Yes, of course."))) == "Yes, of course."
        assert text.push(byte_tokens(b"\xc3")[0]) == ""
        assert text.flush() == "\ufffd"
    assert text.flush() == ""


silence = st.lists(st.sampled_from([EPAD, PAD, BOS, EOS, *OUTSIDE]), max_size=3)
# Control characters are dropped by the stream, surrogates replaced by encode: both have tests of their own.
readable = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\té😀ß "), max_size=30)


@settings(max_examples=300)
@given(text=readable, gaps=st.data())
def test_any_text_comes_back_with_padding_between_its_tokens(tokenizer, oracle, text, gaps):
    normalised = oracle.normalize(text).replace("▁", " ").lstrip(" ")
    tokens = [token for piece in tokenizer.encode(text) for token in (*gaps.draw(silence), piece)]
    assert "".join(stream(tokenizer, tokens)) == normalised
    assert [word.text for word in words(tokenizer, tokens)] == re.findall(r"[^ \t\n]+", normalised)


def test_text_that_is_no_unicode_is_encoded_with_question_marks(tokenizer):
    assert tokenizer.encode("a\ud800b") == tokenizer.encode("a?b")


def test_unknown_tokens_are_not_shown_where_the_model_has_no_bytes(without_bytes):
    tokenizer = TextTokenizer(without_bytes)
    tokens = tokenizer.encode("the 語 sea")
    assert EPAD in tokens
    assert "".join(stream(tokenizer, tokens)).split() == ["the", "sea"]


def test_padding_is_silent_whatever_its_ids_are_to_the_model_and_so_is_its_unknown(tmp_path):
    path = train(tmp_path / "odd.model", unk=2, bos=-1, eos=-1, pad=-1)
    pieces, tokenizer = SentencePieceProcessor(model_file=str(path)), TextTokenizer(path)
    assert pieces.is_unknown(2)
    assert not any(pieces.is_control([EPAD, PAD]) + pieces.is_unknown([EPAD, PAD]))
    silent = [token for token in range(tokenizer.vocabulary_size) if not tokenizer.surface(token)]
    assert silent == [EPAD, 2, PAD]


# Words


def test_words_carry_the_frames_of_their_pieces(tokenizer):
    hello, you = tokenizer.encode("Hello"), tokenizer.encode("you")
    assert len(hello) > 1
    assert len(you) == 1
    found = words(tokenizer, [PAD, PAD, EPAD, *hello, PAD, PAD, EPAD, *you, PAD, PAD])
    end, start = 3 + len(hello), 3 + len(hello) + 3
    assert found == [Word("Hello", 3, end), Word("you", start, start + 1)]


def test_times_are_frames_of_80_ms():
    word = Word("word", 25, 30)
    assert (word.start, word.end) == (2.0, 2.4)


def test_a_word_is_complete_when_the_next_begins(tokenizer):
    assembler = WordStream(tokenizer)
    hello, you = tokenizer.encode("Hello"), tokenizer.encode("you")
    assert [assembler.push(token, frame) for frame, token in enumerate(hello)] == [[]] * len(hello)
    assert assembler.push(EPAD, 40) == []
    assert assembler.push(you[0], 41) == [Word("Hello", 0, len(hello))]
    assert assembler.flush() == [Word("you", 41, 42)]
    assert assembler.flush() == []


def test_a_word_of_bytes_lasts_from_its_first_byte_to_its_last(tokenizer):
    blank = next(token for token in range(260, 512) if tokenizer.surface(token) == b" ")
    smile = byte_tokens("😀".encode())
    assert words(tokenizer, smile) == [Word("😀", 0, 4)]
    assert words(tokenizer, [PAD, blank, PAD, *smile, PAD, blank, *tokenizer.encode("you")]) == [
        Word("😀", 1, 7),
        Word("you", 9, 10),
    ]


def test_an_unfinished_character_belongs_to_the_word_it_was_in(tokenizer):
    you = tokenizer.encode("you")
    cut = byte_tokens(b"\xf0\x9f")
    expected = [Word("you\ufffd", 0, 3), Word("you", 5, 6)]
    assert words(tokenizer, [*you, *cut, PAD, PAD, *you]) == expected
    assert words(tokenizer, [*you, *cut, PAD])[-1] == expected[0]


# Greetings


def test_each_word_of_a_greeting_is_epad_its_pieces_and_pads_up_to_four_frames(tokenizer):
    (you,) = tokenizer.encode("you")
    long = tokenizer.encode("Moshimoshi")
    assert len(long) >= 4
    assert greeting_tokens("you", tokenizer) == [EPAD, you, PAD, PAD]
    assert greeting_tokens("  you\n Moshimoshi you ", tokenizer) == [
        EPAD, you, PAD, PAD, EPAD, *long, EPAD, you, PAD, PAD,
    ]  # fmt: skip


@given(st.lists(st.text("abcdefghijlé😀", min_size=1, max_size=8), min_size=1, max_size=5))
def test_a_greeting_reads_as_it_was_written_and_every_word_has_four_frames(tokenizer, spoken):
    script = greeting_tokens(" ".join(spoken), tokenizer)
    assert "".join(stream(tokenizer, script)) == " ".join(spoken)
    starts = [*(frame for frame, token in enumerate(script) if token == EPAD), len(script)]
    assert len(starts) == len(spoken) + 1
    for word, start, end in zip(spoken, starts, starts[1:], strict=False):
        assert end - start == max(4, 1 + len(tokenizer.encode(word)))


@pytest.mark.parametrize("text", ["", "  \n\t "])
def test_an_empty_greeting_is_refused(tokenizer, text):
    with pytest.raises(MoshiError, match="no words to say"):
        greeting_tokens(text, tokenizer)


def test_a_greeting_leaves_out_what_the_tokenizer_does_not_know(without_bytes):
    tokenizer = TextTokenizer(without_bytes)
    assert greeting_tokens("the 語 sea", tokenizer) == greeting_tokens("the sea", tokenizer)
    with pytest.raises(MoshiError):
        greeting_tokens("語", tokenizer)
