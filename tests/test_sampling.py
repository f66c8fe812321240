from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from moshi_mlx import MoshiError, Sampling
from moshi_mlx.bench.counting import nodes_of

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


@pytest.mark.parametrize(("top_p", "left"), [(0.3, 1), (0.75, 2), (0.85, 3), (0.95, 4), (0.999, 5)])
def test_top_p_leaves_the_fewest_that_have_the_share(top_p: float, left: int) -> None:
    expected = nucleus(softmax(LOGITS, 0.8), top_p)
    assert (expected > 0).sum() == left
    np.testing.assert_allclose(shares(Sampling(0.8, top_p=top_p), LOGITS), expected, atol=0.015)


def test_top_p_is_a_share_of_what_top_k_leaves() -> None:
    left = softmax(LOGITS, 1.0)
    left[3:] = 0
    expected = nucleus(left / left.sum(), 0.8)
    assert (expected > 0).sum() == 2  # of all five tokens it would be three
    assert (nucleus(softmax(LOGITS, 1.0), 0.8) > 0).sum() == 3
    np.testing.assert_allclose(shares(Sampling(1.0, top_k=3, top_p=0.8), LOGITS), expected, atol=0.015)


def test_top_p_looks_at_each_row_for_itself() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (200, 50)).astype(np.float32)
    sampling = Sampling(0.9, top_p=0.6)
    kept = np.zeros(rows.shape, bool)
    for key in range(50):
        tokens = np.array(sampling.draw(mx.array(rows), sampling.noise(rows.shape, mx.random.key(key))))
        kept[np.arange(200), tokens] = True
    allowed = np.stack([nucleus(softmax(row.tolist(), 0.9), 0.6) > 0 for row in rows])
    assert not (kept & ~allowed).any()
    assert kept.sum() > 0.8 * allowed.sum()


def nucleus(probabilities: np.ndarray, share: float) -> np.ndarray:
    """The most likely ones until they have the share, in proportion: by a loop."""
    left, so_far = np.zeros_like(probabilities), 0.0
    for token in np.argsort(-probabilities):
        if so_far < share:
            left[token] = probabilities[token]
        so_far += probabilities[token]
    return left / left.sum()


def test_what_is_not_asked_for_is_not_in_the_graph() -> None:
    def nodes(sampling: Sampling) -> int:
        return nodes_of(sampling.draw(mx.zeros((1, 100)), mx.zeros((1, 100))))

    plain = nodes(Sampling(0.7))
    assert nodes(Sampling(0.7, top_k=25, min_p=0.0, top_p=1.0)) == nodes(Sampling(0.7, top_k=25)) > plain
    assert nodes(Sampling(0.7, top_p=0.9)) > plain == nodes(Sampling(0.7, top_p=1.0))


def test_zero_temperature_is_greedy() -> None:
    assert shares(Sampling(temp=0), LOGITS)[0] == 1


@pytest.mark.parametrize("wrong", [{"temp": -1}, {"temp": float("nan")}, {"top_k": -1}, {"min_p": 2}, {"top_p": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MoshiError):
        Sampling(**wrong)  # type: ignore[arg-type]
