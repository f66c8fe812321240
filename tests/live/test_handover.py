"""From one thread to the next: nothing queues up, and nobody waits for one who has gone."""

from __future__ import annotations

import threading
import time

from moshi_mlx.live.handover import Handover


def test_the_giver_waits_until_it_is_taken() -> None:
    handover: Handover[int] = Handover()
    given: list[int] = []

    def give() -> None:
        for number in range(3):
            handover.give(number)
            given.append(number)

    thread = threading.Thread(target=give)
    thread.start()
    for number in range(3):
        time.sleep(0.05)
        assert given == list(range(number))
        assert handover.take() == number
    thread.join(10)
    assert given == [0, 1, 2]


def test_a_taker_gives_up_when_nothing_comes() -> None:
    assert Handover[int]().take(0.01) is None


def test_closing_releases_both_sides_now_and_later() -> None:
    full: Handover[int] = Handover()
    empty: Handover[int] = Handover()
    waiting = [threading.Thread(target=full.give, args=[1]), threading.Thread(target=empty.take)]
    for thread in waiting:
        thread.start()
    time.sleep(0.05)
    assert all(thread.is_alive() for thread in waiting)
    full.close()
    empty.close()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()
    full.give(2)
    assert full.take() is None
