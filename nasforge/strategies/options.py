"""Any domain as a short list of options, for strategies that keep one number per option of every decision.

A choice has its own options, a short range its values; a long or continuous range is cut into bins of equal width on
its (logarithmic) scale, and a bin stands for all values in it.
"""

from __future__ import annotations

import random

from nasforge.core.architecture import Architecture, Value
from nasforge.core.space import Choice, Domain, SearchSpace
from nasforge.strategies.choosers import at, position

BINS = 8
"""Bins of a range with more values than that."""


def count(domain: Domain) -> int:
    """Return how many options a domain has."""
    return len(domain.options) if isinstance(domain, Choice) else int(min(domain.size, BINS))


def option_of(domain: Domain, value: Value) -> int:
    """Return the index of the option that a value belongs to."""
    if isinstance(domain, Choice):
        return domain.place(value)
    if domain.size <= BINS:
        return round((float(value) - domain.low) / domain.step) if domain.step else 0
    return min(BINS - 1, int(position(domain, float(value)) * BINS))


def value_of(domain: Domain, option: int, rng: random.Random) -> Value:
    """Return the value of an option; of a bin draw one uniformly on the domain's scale."""
    if isinstance(domain, Choice):
        return domain.options[option]
    if domain.size <= BINS:
        return domain.check(domain.low + option * domain.step) if domain.step else domain.low
    return at(domain, (option + rng.random()) / BINS)


def open_options(space: SearchSpace, point: Architecture) -> list[tuple[str, int]]:
    """Return decision and option of everything in a point that has alternatives, in the walk's order."""
    domains = space.domains
    return [(key, option_of(domains[key], value)) for key, value in point.values.items() if domains[key].size > 1]
