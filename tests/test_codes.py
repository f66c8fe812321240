from __future__ import annotations

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from moshi_mlx.codes import Codes
from moshi_mlx.errors import AudioError


@pytest.fixture
def codes() -> Codes:
    return Codes(np.random.default_rng(0).integers(0, 2048, (32, 10)), samples=9 * 1920 + 5)


def metadata(path) -> dict[str, str]:
    with safe_open(path, framework="numpy") as file:
        return file.metadata()


def test_what_is_saved_is_loaded(codes, tmp_path):
    path = tmp_path / "speech.codes"
    codes.save(path)
    loaded = Codes.load(path)
    np.testing.assert_array_equal(loaded.tokens, codes.tokens)
    assert (loaded.samples, loaded.codebooks, loaded.frames) == (17285, 32, 10)
    assert loaded.duration == 17285 / 24000
    assert [item.name for item in tmp_path.iterdir()] == ["speech.codes"]


def test_the_file_is_what_the_documentation_says(codes, tmp_path):
    codes.save(tmp_path / "speech.codes")
    with safe_open(tmp_path / "speech.codes", framework="numpy") as file:
        assert list(file.keys()) == ["codes"]
        assert file.get_tensor("codes").dtype == np.uint16
        assert file.metadata() == {
            "format": "moshi-mlx codes",
            "version": "1",
            "codebooks": "32",
            "frames": "10",
            "frame_rate": "12.5",
            "sample_rate": "24000",
            "samples": "17285",
        }


def test_the_first_codebooks_are_the_same_recording(codes, tmp_path):
    first = codes.first(8)
    np.testing.assert_array_equal(first.tokens, codes.tokens[:8])
    assert first.samples == codes.samples
    first.save(tmp_path / "few.codes")
    np.testing.assert_array_equal(Codes.load(tmp_path / "few.codes").tokens, codes.tokens[:8])


@pytest.mark.parametrize("codebooks", [0, -3, 33])
def test_codebooks_that_are_not_there_are_refused(codes, codebooks):
    with pytest.raises(AudioError, match="choose 1 to 32"):
        codes.first(codebooks)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "something"}, "not a codes file"),
        ({"version": "2"}, "version 2"),
        ({"frame_rate": "25"}, "frame_rate 25"),
        ({"sample_rate": "16000"}, "sample_rate 16000"),
        ({"codebooks": "8"}, r"label says \[8, 10\]"),
        ({"frames": "x"}, r"label says \[32, -1\]"),
        ({"samples": "19201"}, "19201 samples, which 10 frames cannot be"),
        ({"samples": "17280"}, "17280 samples, which 10 frames cannot be"),
        ({"samples": ""}, "samples, which 10 frames cannot be"),
    ],
)
def test_labels_that_do_not_fit_are_refused(codes, tmp_path, change, message):
    path = tmp_path / "speech.codes"
    codes.save(path)
    save_file({"codes": codes.tokens.astype(np.uint16)}, path, metadata(path) | change)
    with pytest.raises(AudioError, match=message):
        Codes.load(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"tokens": np.zeros((32, 10), np.uint16)},
        {"codes": np.zeros((32, 10), np.float32)},
        {"codes": np.zeros(320, np.uint16)},
        {"codes": np.full((32, 10), 2048, np.uint16)},
    ],
)
def test_codes_that_are_none_are_refused(codes, tmp_path, tensors):
    path = tmp_path / "speech.codes"
    codes.save(path)
    save_file(tensors, path, metadata(path))
    with pytest.raises(AudioError, match=r"speech\.codes"):
        Codes.load(path)


def test_files_cut_anywhere_are_refused(codes, tmp_path):
    codes.save(tmp_path / "whole.codes")
    whole = (tmp_path / "whole.codes").read_bytes()
    for length in [0, 1, 7, 8, 9, *range(10, len(whole), 37), len(whole) - 1]:
        path = tmp_path / "cut.codes"
        path.write_bytes(whole[:length])
        with pytest.raises(AudioError, match=r"cut\.codes is not a whole codes file"):
            Codes.load(path)


def test_a_place_that_cannot_be_written_is_refused(codes, tmp_path):
    with pytest.raises(AudioError, match="cannot be written"):
        codes.save(tmp_path / "nowhere" / "speech.codes")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        Codes.load(tmp_path / "speech.codes")
