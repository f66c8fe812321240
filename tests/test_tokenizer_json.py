"""A tokenizer.json that transformers' HeliumConverter made of the built-in sentencepiece model, and its encodings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

from moshi_mlx.checkpoint.tiny_text import write_tiny_tokenizer
from moshi_mlx.errors import CheckpointError
from moshi_mlx.text import TextStream, TextTokenizer
from moshi_mlx.tokenizer_json import JsonTokenizer, open_tokenizer

GOLDENS = Path(__file__).parent / "goldens"
FILE = GOLDENS / "helium_tokenizer.json"
NEWLINE = 14


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return open_tokenizer(FILE)


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    return open_tokenizer(write_tiny_tokenizer(tmp_path_factory.mktemp("text") / "tiny.model"))


def expected() -> dict[str, list[int]]:
    with safe_open(GOLDENS / "helium.safetensors", "numpy") as golden:
        return json.loads(golden.metadata()["golden"])["encodings"]


@pytest.mark.parametrize("text", expected())
def test_texts_become_the_tokens_that_transformers_makes_of_them(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.encode(text) == expected()[text]


@pytest.mark.parametrize("text", expected())
def test_a_text_comes_back_from_its_tokens(tokenizer: TextTokenizer, text: str) -> None:
    stream = TextStream(tokenizer, started=True)
    back = "".join(stream.push(token) for token in tokenizer.encode(text)) + stream.flush()
    # The converter has a space put before every text, and before what follows a newline.
    assert back.replace("\n ", "\n") == " " + text.replace("▁", " ")


def test_each_token_shows_what_it_shows_in_the_sentencepiece_model(
    tokenizer: TextTokenizer, sentencepiece: TextTokenizer
) -> None:
    assert isinstance(tokenizer, JsonTokenizer)
    assert not isinstance(sentencepiece, JsonTokenizer)
    assert tokenizer.vocabulary_size == sentencepiece.vocabulary_size == 512
    assert [tokenizer.surface(token) for token in range(512)] == [sentencepiece.surface(token) for token in range(512)]
    assert tokenizer.surface(NEWLINE) == b"\n"
    assert tokenizer.surface(512) == b"" == tokenizer.surface(-1)


def test_what_is_no_unicode_becomes_a_question_mark(tokenizer: TextTokenizer) -> None:
    assert tokenizer.encode("a\udce9b") == tokenizer.encode("a?b")


def test_files_that_are_no_tokenizer_are_refused_in_a_sentence(tmp_path: Path) -> None:
    whole = FILE.read_text(encoding="utf-8")
    bytelevel = json.loads(whole)
    bytelevel["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    for name, text in (("cut", whole[:5000]), ("empty", ""), ("list", "[]"), ("bytes", json.dumps(bytelevel))):
        path = tmp_path / f"{name}.json"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=name):
            open_tokenizer(path)
    with pytest.raises(CheckpointError, match="no such text tokenizer"):
        open_tokenizer(tmp_path / "none.json")


def test_the_library_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, moshi_mlx.tokenizer_json; print('tokenizers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
