import pytest

from pocketdet.datasets.records import spread


def test_spread_takes_every_third_of_nine():
    assert spread(range(9), 3) == (0, 3, 6)


@pytest.mark.parametrize("number", [201, 399, 400, 1729])
def test_spread_takes_exactly_so_many_from_all_over(number: int):
    chosen = spread(range(number), 200)
    assert len(set(chosen)) == 200
    assert list(chosen) == sorted(chosen)
    gaps = [after - before for before, after in zip(chosen, (*chosen[1:], number), strict=True)]
    assert max(gaps) - min(gaps) <= 1


def test_spread_takes_all_of_fewer():
    assert spread("abc", 200) == ("a", "b", "c")
    assert spread([], 200) == ()
