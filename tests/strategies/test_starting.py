"""Every strategy of single trainings goes on from points that it did not propose, and after a replay too."""

from random import Random

import pytest

from nasforge import registry
from nasforge.core.architecture import Architecture
from nasforge.core.trial import Measure
from nasforge.settings.experiment import suited_evaluator
from nasforge.strategies.starting import Starting
from nasforge.testing import strategies as suite
from nasforge.testing.scripted import NESTED, drive, spec_of

NAMES = [name for name in registry.names("strategy") if suited_evaluator(name) == "training"]


def starting(name):
    def make(spec):
        strategy = registry.get("strategy", name)(spec)
        points = {point.point_id: point for point in (spec.space.default_point(), spec.space.sample(Random(5)))}
        return Starting(strategy, list(points.values()), rung=0 if hasattr(strategy, "wanted") else -1)

    return make


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_conformance(name, check):
    check(starting(name))


def test_the_points_come_first_and_are_told_apart():
    whole = drive(starting("evolution")(spec_of(NESTED)), NESTED, asks=6)
    asked = [content for _, content in whole if isinstance(content, Measure)]
    assert asked[0].architecture == NESTED.default_point()
    assert [measure.origin.operator for measure in asked[:2] if measure.origin] == ["start", "start"]
    assert all(isinstance(measure.architecture, Architecture) for measure in asked)
