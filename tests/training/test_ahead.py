"""The fetching of batches ahead of their use."""

import threading

import pytest

from ditask_jax.training.prefetch import Prefetch

LONG = 60.0


def test_the_next_one_is_fetched_while_the_present_one_is_in_use():
    fetched = [threading.Event() for _ in range(3)]

    def fetch(number):
        fetched[number].set()
        return number

    with Prefetch(fetch, 0, 3) as ahead:
        assert next(ahead) == 0
        assert fetched[1].wait(LONG)
        assert not fetched[2].is_set()
        assert next(ahead) == 1
        assert fetched[2].wait(LONG)


def test_all_come_in_order_and_no_more_are_fetched():
    asked = []
    with Prefetch(lambda number: asked.append(number) or number, 5, 9) as ahead:
        assert list(ahead) == [5, 6, 7, 8]
        with pytest.raises(StopIteration):
            next(ahead)
    assert asked == [5, 6, 7, 8]


def test_an_error_waits_for_its_turn():
    failed = threading.Event()

    def fetch(number):
        if number:
            failed.set()
            raise OSError("gone")
        return number

    with Prefetch(fetch, 0, 9) as ahead:
        assert next(ahead) == 0
        assert failed.wait(LONG)
        with pytest.raises(OSError, match="gone"):
            next(ahead)


def test_leaving_waits_for_the_call_under_way():
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def fetch(number):
        begun.set()
        may_end.wait(LONG)
        ended.append(number)

    with Prefetch(fetch, 0, 2):
        assert begun.wait(LONG)
        threading.Timer(0.1, may_end.set).start()
    assert ended == [0]


def test_nothing_to_fetch():
    with Prefetch(lambda number: number, 4, 4) as ahead, pytest.raises(StopIteration):
        next(ahead)
