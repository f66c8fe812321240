from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from moshi_mlx import MoshiError, Sampling

DRAWS = 20_000


def shares(sampling: Sampling, logits: list[float]) -> np.ndarray:
    rows = mx.broadcast_to(mx.array(logits), (DRAWS, len(logits)))
    tokens = np.array(sampling.draw(rows, sampling.noise(rows.shape, mx.random.key(3))))
    return np.bincount(tokens, minlength=len(logits)) / DRAWS


def softmax(logits: list[float], temp: float) -> np.ndarray:
    weights = np.exp(np.array(logits) / temp)
    return weights / weights.sum()


LOGITS = [2.0, 1.0, 0.5, 0.0, -1.0]


@pytest.mark.parametrize("temp", [0.5, 1.0])
def test_tokens_come_as_often_as_the_softmax_says(temp: float) -> None:
    np.testing.assert_allclose(shares(Sampling(temp=temp), LOGITS), softmax(LOGITS, temp), atol=0.015)


def test_top_k_leaves_the_k_best_in_proportion() -> None:
    expected = softmax(LOGITS, 0.8)
    expected[3:] = 0
    np.testing.assert_allclose(shares(Sampling(0.8, top_k=3), LOGITS), expected / expected.sum(), atol=0.015)


def test_min_p_drops_what_is_far_less_likely_than_the_best() -> None:
    expected = softmax(LOGITS, 1.0)
    expected[expected < 0.2 * expected[0]] = 0
    assert (expected > 0).sum() == 3
    np.testing.assert_allclose(shares(Sampling(1.0, min_p=0.2), LOGITS), expected / expected.sum(), atol=0.015)


def test_zero_temperature_is_greedy() -> None:
    assert shares(Sampling(temp=0), LOGITS)[0] == 1


@pytest.mark.parametrize("wrong", [{"temp": -1}, {"temp": float("nan")}, {"top_k": -1}, {"min_p": 2}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MoshiError):
        Sampling(**wrong)  # type: ignore[arg-type]
