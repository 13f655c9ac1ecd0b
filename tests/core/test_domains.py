"""Ranges of any length, and sizes that no float can hold."""

from __future__ import annotations

import json
import math
import random

import pytest
from expecting import raises

from nasforge.core.domains import Choice, Decision, Float, Int
from nasforge.core.errors import SpaceError
from nasforge.core.space import SearchSpace

HUGE = Int(0, 3_000_000_000)


def space(*decisions: Decision) -> SearchSpace:
    return SearchSpace("made", decisions)


@pytest.mark.parametrize(
    ("domain", "ends"),
    [
        (HUGE, (0, 3_000_000_000)),
        (Int(4, 15, step=4), (4, 12)),
        (Int(7, 7), (7, 7)),
        (Int(1, 2**53, log=True), (1, 2**53)),
        (Float(0.0, 1.0), (0.0, 1.0)),
        (Float(0.0, 1.0, step=0.3), (0.0, 0.9)),
        (Float(0.0, 1.0, step=1e-12), (0.0, 1.0)),
        (Float(1e-13, 1.0, step=0.3), (1e-13, 0.9)),
        (Choice(("a", "b", "c")), ("a", "b", "c")),
    ],
    ids=str,
)
def test_ends(domain, ends):
    assert domain.ends == ends
    for end in ends:
        assert domain.check(end) == end


@pytest.mark.parametrize(
    "domain", [HUGE, Int(-(2**53), 2**53), Float(0.0, 1e9, step=1e-3), Float(1e-14, 1e-10, step=1e-14)], ids=str
)
def test_every_draw_of_a_long_range_is_a_value_of_it(domain):
    rng = random.Random(0)
    for _ in range(50):
        value = domain.sample(rng)
        assert domain.check(value) == value
    assert domain.check(domain.middle) == domain.middle


@pytest.mark.parametrize(
    ("low", "high", "middle"), [(1, 4096, 64), (8, 128, 32), (2, 3, 2), (7, 7, 7), (1, 2**53, round(2**26.5))]
)
def test_the_middle_of_a_logarithmic_range_is_the_geometric_one(low, high, middle):
    domain = Int(low, high, log=True)
    assert domain.middle == middle == domain.check(middle)
    assert domain.middle == pytest.approx(Float(low, high, log=True).middle, abs=0.5)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Int(0, 10**400), ("range", None, "10^400")),
        (lambda: Float(0, 10**400), ("range",)),
        (lambda: Float(0.0, math.inf), ("range",)),
        (lambda: Float(0.0, 1.0, step=1e-30), ("range", None, "2^53")),
        (lambda: Float(1e-300, 1e300, log=True), ("range", None, "powers of ten")),
        (lambda: Choice((1.0, math.nan)), ("range",)),
        (lambda: Choice((10**400,)), ("range",)),
    ],
)
def test_what_no_float_can_hold_is_refused(make, expected):
    with raises(SpaceError, *expected):
        make()


def test_a_size_is_exact_and_infinite_only_with_a_continuous_decision():
    many = tuple(Decision(f"model.w{i}", Int(1, 64)) for i in range(200))
    rate = Decision("train.rate", Float(0.0, 1.0))
    assert space(*many).size == 64**200
    assert space(*many, rate).size == math.inf
    nested = Decision("model.kind", Choice(("big", "free"), (many, (rate,))))
    assert space(nested).size == math.inf
    assert space(Decision("model.kind", Choice(("big", "none"), (many, ())))).size == 64**200 + 1


def test_points_lists_a_space_in_the_order_of_its_decisions():
    kernel = Decision("model.block.conv.kernel", Choice((3, 5)))
    made = space(Decision("model.block", Choice(("none", "conv"), ((), (kernel,)))), Decision("model.depth", Int(1, 2)))
    points = [tuple(point.values.values()) for point in made.points()]
    assert points == [("none", 1), ("none", 2), ("conv", 3, 1), ("conv", 3, 2), ("conv", 5, 1), ("conv", 5, 2)]
    assert len(made.distinct) == made.size


def test_points_of_thousands_of_fixed_decisions():
    made = space(*(Decision(f"model.d{i}", Choice((i,))) for i in range(3000)))
    assert len(list(made.points())) == 1


def test_distinct_is_empty_for_a_large_space():
    assert not space(Decision("model.width", HUGE)).distinct
    assert not space(Decision("train.rate", Float(0.0, 1.0))).distinct


def test_numbers_among_options_have_an_order():
    domain = Choice((64, 32, 128))
    assert domain.ordered
    assert domain.ranks == {32: 0, 64: 1, 128: 2}
    assert not Choice((1, 2)).ordered
    assert not Choice((1, 2, True)).ordered
    assert not Choice((1, 2, "a")).ordered


def test_a_long_range_survives_the_journal():
    made = space(Decision("model.width", Int(4, 15, step=4)))
    assert SearchSpace.from_json(json.loads(json.dumps(made.to_json()))).fingerprint == made.fingerprint
    assert made.to_json()["decisions"][0]["domain"]["high"] == 15  # as written: old journals keep their fingerprint
