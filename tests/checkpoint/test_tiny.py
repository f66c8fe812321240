from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from moshi_mlx.checkpoint.hub import find_mimi, locate
from moshi_mlx.checkpoint.inspect import MIMI, inspect
from moshi_mlx.checkpoint.tiny import BUILT_IN
from moshi_mlx.errors import CheckpointError

TINY = {
    "config.json": "5a474d47c07f474a1e6343953dcac521",
    "model.safetensors": "975284b148515b383d68f011dc8322f7",
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def in_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_model_is_a_whole_checkpoint(name, cache):
    folder = locate(name)
    assert folder == cache / "moshi-mac" / f"{name}-{BUILT_IN[name].version}"
    assert inspect(folder).config.raw == json.loads((folder / "config.json").read_text())
    assert locate(name) == folder
    with pytest.raises(CheckpointError, match="leave -q out"):
        locate(name, bits=4)


def test_all_share_one_codec_file():
    codecs = [find_mimi(name) for name, model in BUILT_IN.items() if "mimi_name" in model.config]
    assert len(codecs) > 1
    assert all(codec.samefile(locate("tiny") / MIMI) for codec in codecs)


def test_the_first_one_has_kept_its_bytes():
    assert {name: hashlib.md5((locate("tiny") / name).read_bytes()).hexdigest() for name in TINY} == TINY
