"""The report on models whose right answer is known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from quantize_models import SHARED, SMALL, load, random_codes, save, write

from moshi_mlx.checkpoint.inspect import inspect
from moshi_mlx.checkpoint.load import load_lm
from moshi_mlx.errors import MoshiError
from moshi_mlx.model.lm import LM
from moshi_mlx.quantize import conversation, report
from moshi_mlx.quantize.convert import convert, plan
from moshi_mlx.quantize.picture import draw
from moshi_mlx.quantize.recipes import RECIPES
from moshi_mlx.quantize.report import ModelReport, Report, compare, weight_errors

LAYER = "transformer.layers.1.gating.linear_in"


@pytest.fixture(scope="module")
def bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("bf16") / "model")


@pytest.fixture
def talk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small models have no codec for their 64 codes: their user speaks codes."""

    class Moshi:
        def __init__(self, folder: Path):
            self.lm = load_lm(folder)
            self.config, self.codec = self.lm.config, None

    rng = np.random.default_rng(1)
    monkeypatch.setattr(report, "load_folder", Moshi)
    monkeypatch.setattr(report, "encode", lambda codec, audio, codebooks: rng.integers(0, 64, (codebooks, 40)))
    monkeypatch.setattr(conversation, "SEGMENT_FRAMES", 20)


def changed(source: Path, destination: Path, **tensors: Any) -> Path:
    weights = load(source)
    for name, change in tensors.items():
        weights[name] = change(weights[name])
    save(destination, SMALL, weights)
    return destination


def with_layer(source: Path, destination: Path, change: Any) -> Path:
    return changed(source, destination, **{f"{LAYER}.weight": change})


def report_on(reference: Path, model: Path) -> ModelReport:
    return compare(reference, [model], ["speech.wav"]).models[0]


def test_a_model_has_lost_nothing_against_itself(bf16: Path, tmp_path: Path, talk: None) -> None:
    pytorch = write(tmp_path / "pytorch", names="pytorch")
    for model in (bf16, pytorch):
        found = report_on(bf16, model)
        assert set(found.layers.values()) == set(found.parts.values()) == {0.0}
        assert found.streams is not None
        assert [score.stream for score in found.streams] == ["text", "semantic", "acoustic 1", "acoustic 2"]
        for score in found.streams:
            assert score.divergence == 0
            assert score.agreement == 1
            assert score.cross_entropy == score.reference_cross_entropy > 0


def test_a_destroyed_layer_is_found(bf16: Path, tmp_path: Path, talk: None) -> None:
    found = report_on(bf16, with_layer(bf16, tmp_path / "destroyed", mx.zeros_like))
    assert [layer for layer, error in found.layers.items() if error] == [LAYER]
    assert found.layers[LAYER] == 1
    assert 0 < found.parts["temporal"] < 1
    for kind in ("text", "semantic", "acoustic"):
        score = found.scores(kind)
        assert score is not None
        assert score.divergence > 0.05
        assert score.agreement < 0.9
        assert score.cross_entropy > score.reference_cross_entropy


def test_an_error_of_a_tenth_is_a_tenth(bf16: Path, tmp_path: Path) -> None:
    model = with_layer(bf16, tmp_path / "model", lambda weight: 1.1 * weight.astype(mx.float32))
    errors, parts = weight_errors(inspect(bf16), inspect(model))
    assert errors[LAYER] == pytest.approx(0.1, rel=1e-4)
    weights = {name: value.astype(mx.float32) for name, value in load(bf16).items()}
    middle = [value for name, value in weights.items() if name.startswith("transformer.layers.1.")]
    norm = math.sqrt(sum(float(mx.square(value).sum()) for value in middle))
    layer = math.sqrt(float(mx.square(weights[f"{LAYER}.weight"]).sum()))
    assert parts["temporal"] == pytest.approx(0.1 * layer / norm, rel=1e-3)


def test_a_layer_of_nan_is_infinitely_wrong_and_json_stays_json(bf16: Path, tmp_path: Path) -> None:
    model = with_layer(bf16, tmp_path / "model", lambda weight: weight * float("nan"))
    found = compare(bf16, [model])
    assert found.models[0].layers[LAYER] == math.inf
    told = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert told["models"][0]["layers"][LAYER] is None


def test_fewer_bits_lose_more(bf16: Path, tmp_path: Path, talk: None) -> None:
    names = ("q8", "mixed_4_8", "q4", "mixed_3_6")
    models = [convert(plan(bf16, tmp_path / name, RECIPES[name])) for name in names]
    found = compare(bf16, models, ["speech.wav"])
    by_name = dict(zip(names, found.models, strict=True))
    errors = {name: model.parts["temporal"] for name, model in by_name.items()}
    assert errors["q8"] < errors["q4"] < errors["mixed_4_8"] < errors["mixed_3_6"]  # small groups help q4 there
    for kind in ("text", "semantic", "acoustic"):
        losses = {name: score.divergence for name, m in by_name.items() if (score := m.scores(kind))}
        assert 0 < losses["q8"] < losses["mixed_4_8"] < losses["q4"]
    assert found.frames == 40


def test_divergence_and_cross_entropy_are_what_numpy_says() -> None:
    rng = np.random.default_rng(0)
    p, q = (np.log(rng.dirichlet(np.ones(7), (2, 5))) for _ in range(2))
    p[1, 4] = np.nan  # a place that the delays leave empty
    codes = rng.integers(0, 7, (3, 5))
    codes[2, 2] = -1  # nothing was said there
    tallies = dict(report._tallies("audio", mx.array(p, mx.float32), mx.array(q, mx.float32), codes))
    for stream, i, places in (("semantic", 0, [1, 2, 3, 4]), ("acoustic 1", 1, [1, 3])):
        a, b, said = p[i, places], q[i, places], codes[1 + i, places]
        wanted = [
            len(places),
            -a[range(len(places)), said].sum(),
            -b[range(len(places)), said].sum(),
            (np.exp(a) * (a - b)).sum(),
            (a.argmax(1) == b.argmax(1)).sum(),
        ]
        np.testing.assert_allclose(tallies[stream], wanted, rtol=1e-5)


def test_conversations_are_what_the_reference_says(bf16: Path) -> None:
    """What it sampled surprises it far less than tokens without meaning: the columns are not shifted."""
    lm = load_lm(bf16)
    user = np.random.default_rng(0).integers(0, 64, (lm.config.user_codebooks, 20))
    codes = conversation.converse(lm, user)
    assert codes.shape == (1, 7, 20)
    np.testing.assert_array_equal(codes[0, 4:], user)
    assert surprise(lm, codes[0]) < 0.6 * surprise(lm, random_codes(SMALL, 1, 20, seed=5)[0])


def test_a_model_with_conditions_is_told_that_there_are_none(tmp_path: Path) -> None:
    words = {"n_bins": 3, "dim": 16, "tokenizer": "noop", "possible_values": ["bad", "good"]}
    told = {"conditioners": {"quality": {"type": "lut", "lut": words}}, "fuser": {"sum": ["quality"]}}
    lm = load_lm(write(tmp_path / "told", {**SMALL, **told}))
    nothing = conversation.told_nothing(lm)
    assert nothing is not None
    assert mx.array_equal(nothing.sum, lm.conditions([{"quality": None}]).sum)
    assert not mx.array_equal(nothing.sum, lm.conditions([{"quality": "good"}]).sum)
    user = np.random.default_rng(0).integers(0, 64, (lm.config.user_codebooks, 20))
    codes = conversation.converse(lm, user)
    assert surprise(lm, codes[0]) < 0.6 * surprise(lm, random_codes(SMALL, 1, 20, seed=5)[0])


def surprise(lm: LM, codes: np.ndarray) -> float:
    """Cross-entropy over all streams."""
    tallies = [
        tally
        for kind, values in report._log_probabilities(lm, codes).items()
        for _, tally in report._tallies(kind, values, values, codes)
    ]
    return sum(tally[1] for tally in tallies) / sum(tally[0] for tally in tallies)


def test_another_network_is_not_compared(bf16: Path, tmp_path: Path) -> None:
    with pytest.raises(MoshiError, match="is another network"):
        compare(bf16, [write(tmp_path / "other", SHARED)])


def test_the_picture_is_drawn(bf16: Path, tmp_path: Path, talk: None) -> None:
    models = [convert(plan(bf16, tmp_path / name, RECIPES[name])) for name in ("q8", "q4")]
    found: Report = compare(bf16, [bf16, *models], ["speech.wav"])
    draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(MoshiError, match="cannot be written"):
        draw(found, tmp_path / "picture.wrong")
    assert not list(tmp_path.glob(".picture*"))
