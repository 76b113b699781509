"""Sweep of the learning rate: inside, at an edge, never further than its limit."""

import math

import pytest

from vidsim.scaling.sweep import FACTORS, FURTHEST, between, search


def bowl(best, tried):
    def loss(factor):
        tried.append(factor)
        return math.log(factor / best) ** 2

    return loss


def test_an_optimum_inside_needs_the_first_three():
    tried = []
    found = search(bowl(1.1, tried))
    assert found.factor == 1.0 and not found.at_edge
    assert tried == list(FACTORS)


@pytest.mark.parametrize(("best", "more"), [(0.25, [0.25, 0.125]), (4.0, [4.0, 8.0])])
def test_an_optimum_at_the_edge_extends_the_sweep_until_it_is_inside(best, more):
    tried = []
    found = search(bowl(best, tried))
    assert found.factor == best and not found.at_edge
    assert tried == [*FACTORS, *more]


def test_a_sweep_ends_at_its_limit_and_says_so():
    found = search(lambda factor: factor)
    assert found.factor == 1 / FURTHEST and found.at_edge
    assert min(found.losses) == 1 / FURTHEST


def test_a_rate_that_diverges_is_the_worst():
    found = search(lambda factor: math.nan if factor > 1 else math.log(factor / 0.9) ** 2)
    assert found.factor == 1.0 and not found.at_edge


def test_members_between_lie_on_the_line_of_logarithms():
    ends = {1: 2.0, 16: 0.5}
    assert between(ends, 1) == pytest.approx(2.0)
    assert between(ends, 16) == pytest.approx(0.5)
    assert between(ends, 4) == pytest.approx(1.0)
    assert between(ends, 2) == pytest.approx(2**0.5)
