"""Every domain as a short list of options."""

import random

import pytest

from nasforge.core.space import Choice, Float, Int
from nasforge.strategies.options import BINS, count, open_options, option_of, value_of
from nasforge.testing.scripted import MIXED

DOMAINS = [
    Choice(("a", "b", "c")),
    Choice((1, True, 0, False, "1")),
    Int(3, 5),
    Int(0, 9, step=3),
    Int(1, 8, log=True),
    Float(0.0, 0.5, step=0.1),
    Float(0.0, 1.0),
    Float(1e-4, 1.0, log=True),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_an_option_keeps_its_values(domain):
    rng = random.Random(0)
    for option in range(count(domain)):
        for _ in range(20):
            value = value_of(domain, option, rng)
            assert domain.check(value) == value and isinstance(domain.check(value), type(value))
            assert option_of(domain, value) == option


@pytest.mark.parametrize("domain", [Int(1, 100), Int(8, 128, log=True), Float(-1.0, 1.0)], ids=str)
def test_bins_cover_a_range_evenly_on_its_scale(domain):
    rng = random.Random(0)
    assert count(domain) == BINS
    drawn = [option_of(domain, domain.sample(rng)) for _ in range(4000)]
    assert all(300 < drawn.count(option) < 700 for option in range(BINS))
    assert option_of(domain, domain.low) == 0 and option_of(domain, domain.high) == BINS - 1
    values = [value_of(domain, 0, rng) for _ in range(50)]
    assert len(set(values)) > 1 and all(domain.check(value) == value for value in values)


def test_what_cannot_be_decided_otherwise_has_no_option():
    point = MIXED.default_point()
    assert [key for key, _ in open_options(MIXED, point)] == [key for key in point.values if key != "model.only"]
