"""Nodes and waits, counted where their number is known."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from tiny_lm import small_lm

from moshi_mlx import Generator, Sampling
from moshi_mlx.bench.counting import counting, nodes_of


def fresh() -> mx.array:
    array = mx.array([1.0, 2.0])
    mx.eval(array)
    return array


READS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "float": lambda x: float(x.sum()),
    "int": lambda x: int(x.sum()),
    "list": lambda x: (x + 1).tolist(),
    "eval": lambda x: mx.eval([{"a": x + 1}]),
    "index": lambda x: [0, 1, 2][mx.argmax(x)],
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_every_way_of_waiting_is_one_wait(read) -> None:
    x = fresh()
    with counting() as count:
        read(x)
    assert count.waits == 1
    assert count.nodes >= 1


def test_nodes_are_operations_and_what_is_known_is_no_wait() -> None:
    x = fresh()
    with counting() as count:
        y = mx.exp(x)
        z = mx.abs(mx.log(y))
        mx.eval(z)
        assert (count.nodes, count.waits) == (3, 1)
        z.tolist()
        np.array(y)
    assert (count.nodes, count.waits) == (3, 1)
    assert nodes_of([mx.exp(x), {"b": mx.exp(x)}]) == 2


def test_afterwards_everything_is_as_before() -> None:
    before = mx.eval, mx.array.item
    with pytest.raises(KeyError), counting():
        raise KeyError
    assert (mx.eval, mx.array.item) == before


def test_a_frame_is_one_wait() -> None:
    generator = Generator(small_lm())
    codes = np.zeros(8, np.int32)
    generator.step(codes)
    with counting() as count:
        generator.step(codes)
    assert count.waits == 1
    assert count.nodes > 100


@pytest.mark.parametrize(("temp", "nodes"), [(0.0, 555), (0.8, 615)])
def test_a_plain_frame_has_not_grown(temp: float, nodes: int) -> None:
    """What other models need costs Moshi's own graph nothing, on a CPU; a GPU's kernels are fewer and larger."""
    sampling = Sampling(temp=temp, top_k=25 if temp else 0)
    generator = Generator(small_lm(), sampling, sampling)
    codes = np.zeros(8, np.int32)
    with counting() as count:
        generator.step(codes)
    assert count.nodes <= nodes


def test_a_cut_frame_is_two_waits_and_the_same_graph() -> None:
    generator, codes = Generator(small_lm()), np.zeros(8, np.int32)
    for _ in range(2):
        with counting() as whole:
            generator.step(codes)
        with counting() as cut:
            generator.finish(generator.begin(codes))
    assert cut.waits == 2
    assert abs(cut.nodes - whole.nodes) <= 5
