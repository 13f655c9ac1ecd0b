"""What alphas stand for: the best of every decision from the top down, then in order of decreasing score."""

import itertools
import random

import pytest
from expecting import raises

from nasforge.core.alphas import by_odds, derive, without
from nasforge.core.errors import SpaceError
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.testing.scripted import FLAT, MIXED, NESTED


def alphas_of(space, seed):
    rng = random.Random(seed)
    return {k: tuple(rng.gauss(0, 1) for _ in d.values) for k, d in space.domains.items() if len(d.values) > 1}


def score(space, alphas, point):
    total = 0.0
    for key, value in point.values.items():
        if key in alphas:
            total += alphas[key][space.domains[key].values.index(value)] - max(alphas[key])
    return total


@pytest.mark.parametrize("space", [FLAT, NESTED], ids=lambda space: space.name)
def test_points_come_in_order_of_decreasing_score_and_each_once(space):
    alphas = alphas_of(space, 1)
    points = list(itertools.islice(by_odds(space, alphas), 400))
    scores = [score(space, alphas, point) for point in points]
    assert scores[0] == 0 and all(a >= b - 1e-12 for a, b in itertools.pairwise(scores))
    assert len({point.point_id for point in points}) == len(points) == 400
    rng = random.Random(2)
    for _ in range(200):  # nothing better was left out
        point = space.sample(rng)
        assert score(space, alphas, point) <= scores[-1] + 1e-12 or point in points


def test_all_points_of_a_small_space_come():
    space = NESTED.fixed({"model.layer1": "identity", "model.layer2": "plain"})
    points = list(by_odds(space, alphas_of(space, 0)))
    assert len(points) == space.size == len({point.point_id for point in points})


def test_decisions_that_an_option_opens_do_not_count_against_it():
    branches = ((), tuple(Decision(f"model.deep.{i}", Choice((1, 2, 3))) for i in range(4)))
    space = SearchSpace("s", (Decision("model.op", Choice(("flat", "deep"), branches)),))
    alphas = {"model.op": (0.0, 0.1)} | {f"model.deep.{i}": (0.0, 0.0, 0.2) for i in range(4)}
    first = next(by_odds(space, alphas))
    assert first.values["model.op"] == "deep" and first.values["model.deep.3"] == 3


def test_a_recipe_stays_at_its_defaults():
    point = next(by_odds(MIXED, {"model.activation": (0.0, 1.0)}))
    assert point.values["model.activation"] == "silu"
    assert point.train == MIXED.default_point().train


def test_alphas_that_do_not_fit_are_named():
    with raises(SpaceError, "invalid", "model.layer0", 5, 2):
        next(by_odds(FLAT, {"model.layer0": (0.0, 1.0)}))


def reversed_order(space, alphas):
    return iter([space.fixed({"model.x": 2}).default_point()])


def test_a_space_may_derive_in_its_own_way():
    space = SearchSpace("own", (Decision("model.x", Choice((1, 2))), Decision("train.lr", Float(0, 1))))
    assert next(derive(space, {"model.x": (1.0, 0.0)})).values["model.x"] == 1
    reversing = SearchSpace("own", space.decisions, derive=f"{__name__}:reversed_order")
    assert next(derive(reversing, {"model.x": (1.0, 0.0)})).values["model.x"] == 2


def test_what_computes_nothing_is_the_last_choice():
    edges = tuple(Decision(f"model.edge{i}", Choice(("none", "skip", "conv"))) for i in range(2))
    space = SearchSpace("cell", (*edges, Decision("model.only", Choice(("none",)))))
    alphas = {"model.edge0": (9.0, 0.0, 1.0), "model.edge1": (5.0, 0.2, 0.0)}
    chosen = [tuple(point.values.values())[:2] for point in derive(space, without(space, alphas, "none"))]
    assert chosen[:4] == [("conv", "skip"), ("conv", "conv"), ("skip", "skip"), ("skip", "conv")]
    assert len(chosen) == space.size == len(set(chosen)), "where nothing else is allowed it comes after all"
    assert without(space, alphas, "") == alphas and without(space, alphas, "max_pool") == alphas
