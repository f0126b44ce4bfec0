import threading
import weakref
from itertools import islice

import pytest

from pocketdet.runtime.stream import AHEAD, map_in_order


def squares(items, threads):
    return [(item, result()) for item, result in map_in_order(lambda n: n * n, items, threads)]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("number", [0, 1, 3, 50])
def test_results_come_in_order_each_with_its_thing(threads, number):
    assert squares(range(number), threads) == [(n, n * n) for n in range(number)]


def test_a_later_thing_may_be_done_before_an_earlier_one():
    """The first one waits for the second: with one thread, or one after the other, nothing would ever come."""
    second_is_done = threading.Event()

    def work(n):
        if n == 0:
            assert second_is_done.wait(60)
        else:
            second_is_done.set()
        return n

    assert [result() for _, result in map_in_order(work, [0, 1], 2)] == [0, 1]


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 2 * AHEAD), (3, 3 * AHEAD)])
def test_only_a_few_things_are_taken_ahead_of_an_endless_source(threads, most):
    taken = []

    def endless():
        n = 0
        while True:
            taken.append(n)
            yield n
            n += 1

    results = map_in_order(abs, endless(), threads)
    for n in range(20):
        assert next(results)[1]() == n
        assert len(taken) <= n + most
    results.close()


def test_an_error_is_raised_in_its_turn_and_the_rest_goes_on():
    outcomes = []
    for item, result in map_in_order(lambda n: 1 // n, [1, 0, 1], 2):
        try:
            outcomes.append((item, result()))
        except ZeroDivisionError:
            outcomes.append((item, "error"))
    assert outcomes == [(1, 1), (0, "error"), (1, 1)]


def test_whoever_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    results = map_in_order(abs, range(1000), 3)
    next(results)
    assert threading.active_count() > before
    results.close()
    assert threading.active_count() == before


class Thing:
    """Something that a weak reference can watch."""


@pytest.mark.parametrize("threads", [1, 2])
def test_neither_things_nor_results_are_kept(threads):
    alive = []

    def watched(_=None):
        thing = Thing()
        alive.append(weakref.ref(thing))
        return thing

    results = map_in_order(watched, (watched() for _ in range(40)), threads)
    for _, result in islice(results, 30):
        result()
        del result, _
        assert sum(ref() is not None for ref in list(alive)) <= 2 * threads * AHEAD + 2
    results.close()
