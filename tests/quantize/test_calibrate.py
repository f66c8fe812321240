"""GPTQ on calibration codes does better than rounding, and says what it needs."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from golden_weights import mlx_names, normal, tensors
from quantize_models import SHARED, SMALL, load, random_codes, same_bits, save, write

from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.checkpoint.load import load_lm
from moshi_mlx.config import MOSHI_7B, LMConfig
from moshi_mlx.errors import MoshiError
from moshi_mlx.quantize import calibrate as calibrate_module
from moshi_mlx.quantize.calibrate import calibrate, calibration_memory, check_speech, frames_needed
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.recipes import RECIPES, choose, matrices
from moshi_mlx.quantize.report import _log_probabilities

CONFIG = {**SMALL, "num_layers": 2, "dim": 64, "depformer_dim": 64, "depformer_dim_feedforward": 288}
FRAMES = 512


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, but vectors that lie mostly in a few directions, as those of trained models do.

    With the same spread in all directions there is no error that one column could make good for another.
    """
    weights = tensors(CONFIG, 0)
    for name, value in weights.items():
        if "emb" in name:
            turn = np.linalg.qr(normal(1, f"turn {value.shape[1]}", (value.shape[1], value.shape[1])))[0]
            weights[name] = (value * np.exp(-np.arange(value.shape[1]) / 10)) @ turn * 3
    folder = tmp_path_factory.mktemp("source") / "model"
    save(folder, CONFIG, {n: mx.array(v).astype(mx.bfloat16) for n, v in mlx_names(weights, CONFIG).items()})
    return folder


def divergence(reference: Path, model: Path, codes: np.ndarray) -> dict[str, float]:
    found = {}
    wanted, got = (_log_probabilities(load_lm(folder), codes) for folder in (reference, model))
    for kind, p in wanted.items():
        found[kind] = float((mx.exp(p) * (p - got[kind])).sum(axis=-1)[:, 1:-1].mean())
    return found


def test_gptq_does_better_than_rounding_on_what_it_has_not_heard(source: Path, tmp_path: Path) -> None:
    recipe = choose(bits=4, group_size=64)
    conversion = plan(source, tmp_path / "rounded", recipe)
    rounded = convert(conversion)
    override = calibrate(conversion.source, conversion.formats, random_codes(CONFIG, FRAMES // 64, 64))
    calibrated = convert(plan(source, tmp_path / "calibrated", recipe), override=override)
    heard_never = random_codes(CONFIG, 1, 64, seed=9)[0]
    loss, wanted = divergence(source, calibrated, heard_never), divergence(source, rounded, heard_never)
    assert loss["text"] < 0.8 * wanted["text"]
    assert loss["audio"] < 0.8 * wanted["audio"]
    assert inspect(calibrated).formats == conversion.formats
    # Tables have no inputs to calibrate on: they are rounded.
    assert same_bits(load(calibrated)["text_emb.weight"], load(rounded)["text_emb.weight"])


def test_shared_depth_weights_stay_equal_and_only_the_fewest_bits_are_calibrated(tmp_path: Path) -> None:
    conversion = plan(write(tmp_path / "source", SHARED), tmp_path / "result", RECIPES["q4"])
    override = calibrate(conversion.source, conversion.formats, random_codes(SHARED, 1, 64))
    linear = [module for module in matrices(conversion.source.config) if "emb" not in module]
    low_rank = [f"depformer.slices.{step}.emb.low_rank" for step in range(4)]
    assert sorted(override) == sorted(linear + low_rank)
    for part in ("weight", "scales", "biases"):
        first, second = (override[f"depformer.slices.{step}.linear_in"][part] for step in (1, 2))
        np.testing.assert_array_equal(first, second)
    mixed = RECIPES["mixed_4_8"].formats(conversion.source.config)
    assert {module.split(".")[2] for module in calibrate(conversion.source, mixed, random_codes(SHARED, 1, 8))} == {"1"}


def test_what_moshi_would_need_is_told_and_refused_where_it_is_not_there(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion = plan(source, tmp_path / "result", RECIPES["q4"])
    need = calibration_memory(conversion.source, conversion.formats)
    hessians = 2 * (3 * 64**2 + 192**2) + 64**2 + 3 * 2 * (3 * 64**2 + 192**2) + 64**2 + 3 * 64**2
    assert need > conversion.source.nbytes + 4 * hessians
    monkeypatch.setattr(calibrate_module, "available_memory", lambda: need - 1)
    with pytest.raises(MoshiError, match="every layer's Hessian at once"):
        calibrate(conversion.source, conversion.formats, random_codes(CONFIG, 1, 8))


def test_too_little_speech_is_refused() -> None:
    config = LMConfig.from_dict(MOSHI_7B)
    formats = RECIPES["q4"].formats(config)
    assert frames_needed(config, formats) == 2 * 11264
    with pytest.raises(MoshiError, match=r"needs 30.0 minutes of speech for this model, and the files hold 1.0"):
        check_speech(config, formats, 60)
    check_speech(config, formats, 1803)


@pytest.mark.parametrize(
    "recipe", [RECIPES["mixed_3_6"], RECIPES["q8"], choose(mode="mxfp4")], ids=lambda recipe: recipe.name
)
def test_formats_that_gptq_does_not_have_are_refused(recipe, source: Path, tmp_path: Path) -> None:
    conversion = plan(source, tmp_path / "result", recipe)
    with pytest.raises(MoshiError, match="--calibrate works for 2 and 4 bits"):
        calibrate(conversion.source, conversion.formats, random_codes(CONFIG, 1, 8))


def test_a_quantized_source_is_refused(source: Path, tmp_path: Path) -> None:
    q8 = convert(plan(source, tmp_path / "q8", RECIPES["q8"]))
    conversion = plan(q8, tmp_path / "result", RECIPES["q4"])
    with pytest.raises(MoshiError, match="is quantized already"):
        calibrate(conversion.source, conversion.formats, random_codes(CONFIG, 1, 8))
