from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from moshi_mlx.live.rings import SampleRing, Wake


def ramp(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32)


@pytest.mark.parametrize("capacity", [7, 64, 100])
def test_what_goes_in_comes_out_in_order_whatever_the_block_sizes(capacity: int) -> None:
    ring, rng = SampleRing(capacity), np.random.default_rng(0)
    sent, got = 0, [np.zeros(0, np.float32)]
    for _ in range(500):
        sent += ring.write(ramp(sent, int(rng.integers(0, capacity + 3))))
        got.append(ring.read(int(rng.integers(0, capacity + 3))))
    got.append(ring.read(capacity))
    np.testing.assert_array_equal(np.concatenate(got), ramp(0, sent))
    assert sent > 10 * capacity


def test_a_full_ring_takes_what_fits_and_says_so() -> None:
    ring = SampleRing(10)
    assert ring.write(ramp(0, 8)) == 8
    assert ring.write(ramp(8, 8)) == 2
    assert ring.write(ramp(10, 1)) == 0
    np.testing.assert_array_equal(ring.read(99), ramp(0, 10))


def test_read_into_fills_only_what_there_is() -> None:
    ring, out = SampleRing(10), np.full(6, -1, np.float32)
    ring.write(ramp(0, 4))
    assert ring.read_into(out) == 4
    np.testing.assert_array_equal(out, [0, 1, 2, 3, -1, -1])


def test_the_mirror_shows_what_was_consumed_even_when_the_ring_is_full_again() -> None:
    ring, out = SampleRing(10, history=4), np.zeros(4, np.float32)
    for start in range(0, 100, 10):
        ring.write(ramp(start, 10))
        ring.skip(10)
        ring.write(ramp(start + 10, 10))
        ring.mirror(out)
        np.testing.assert_array_equal(out, ramp(start + 6, 4)[::-1])
        ring.skip(10)
        ring.skip(-len(ring))


def test_two_threads_exchange_samples_in_any_blocks_unharmed() -> None:
    ring, total = SampleRing(4096), 200_000

    def produce() -> None:
        sent = 0
        while sent < total:
            sent += ring.write(ramp(sent, min(480, total - sent)))

    producer = threading.Thread(target=produce)
    producer.start()
    expected, deadline = 0, time.monotonic() + 30
    while expected < total and time.monotonic() < deadline:
        block = ring.read(333)
        np.testing.assert_array_equal(block, ramp(expected, len(block)))
        expected += len(block)
    producer.join(1)
    assert expected == total


def test_a_raised_flag_is_seen_once_and_raising_it_twice_is_the_same() -> None:
    wake = Wake()
    assert not wake.wait(0)
    wake.set()
    wake.set()
    assert wake.wait(0)
    assert not wake.wait(0)


def test_a_waiting_thread_is_woken() -> None:
    wake, woken = Wake(), []
    waiter = threading.Thread(target=lambda: woken.append(wake.wait(10)))
    waiter.start()
    wake.set()
    waiter.join(5)
    assert woken == [True]
