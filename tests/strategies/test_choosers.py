import random
from collections import Counter

import pytest
from expecting import raises
from hypothesis import given, settings
from hypothesis import strategies as st

from nasforge.core.errors import JournalError
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace
from nasforge.core.trial import TrainShared
from nasforge.strategies import choosers
from nasforge.testing.scripted import FLAT, MIXED, NESTED, SMALL

DOMAINS = [
    Choice((1, True, "a")),
    Int(3, 11, step=4),
    Int(1, 1000, log=True),
    Int(0, 1),
    Float(-1.0, 2.0),
    Float(1e-5, 1.0, log=True),
    Float(0.0, 0.3, step=0.1),
    Choice((32, 16, 64, 128)),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_nearby_is_another_value_of_the_domain(domain):
    rng = random.Random(0)
    value = domain.sample(rng)
    reached = set()
    for _ in range(500):
        other = choosers.nearby(domain, value, rng)
        assert domain.check(other) == other
        assert (other, type(other)) != (value, type(value))
        value = other
        reached.add((other, type(other)))
    assert len(reached) == domain.size or len(reached) > 200


def test_nearby_is_near_in_the_logarithm():
    rng = random.Random(1)
    domain = Float(1e-4, 1.0, log=True)
    steps = sorted(choosers.nearby(domain, 1e-2, rng) / 1e-2 for _ in range(1000))
    assert 0.5 < steps[500] < 2  # half of the steps go down, half up
    assert steps[300] > 1 / 3  # small factors, however wide the range
    assert steps[700] < 3


@pytest.mark.parametrize("options", [(32, 64, 128, 256, 512), (128, 512, 32, 256, 64), (0.1, 0.2, 0.5, 1, 10)])
def test_numbers_among_options_move_to_their_neighbours(options):
    rng = random.Random(2)
    domain = Choice(options)
    ascending = sorted(options)
    reached = Counter(ascending.index(choosers.nearby(domain, ascending[1], rng)) for _ in range(1000))
    assert reached[0] + reached[2] > 600
    assert reached[3] > reached[4] > 0
    assert 1 not in reached


def test_names_move_to_all_others_alike_and_as_ever():
    domain = Choice(("a", "b", "c", "d"))
    for seed in range(20):
        drawn = choosers.nearby(domain, "b", random.Random(seed))
        assert drawn == random.Random(seed).choice(["a", "c", "d"])


def test_neighbours_are_tried_near_numbers_first():
    space = SearchSpace(
        "made", (Decision("model.a", Choice(tuple(range(10)))), Decision("model.b", Choice(("x", "y"))))
    )
    point = space.point({"model.a": 0, "model.b": "x"})
    first = Counter()
    for seed in range(400):
        rng = random.Random(seed)
        moves = choosers.moves(space, point, rng)
        ordered = choosers.near_first(space, point, moves, rng)
        assert sorted(ordered, key=str) == sorted(moves, key=str)
        first[ordered[0]] += 1
    assert first["model.a", 1] > 2 * first["model.a", 4] > 0
    assert first["model.b", "y"] > 50


def test_neighbours_of_names_are_shuffled_as_ever():
    point = FLAT.default_point()
    moves = choosers.moves(FLAT, point, random.Random(0))
    shuffled = list(moves)
    random.Random(3).shuffle(shuffled)
    assert choosers.near_first(FLAT, point, moves, random.Random(3)) == shuffled


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([FLAT, NESTED, MIXED]), st.integers(0, 10**6))
def test_a_mutation_changes_one_decision_and_what_hangs_below(space, seed):
    rng = random.Random(seed)
    parent = space.sample(rng)
    child = choosers.mutated(space, parent, rng)
    differing = [key for key in parent.values if key in child.values and parent.values[key] != child.values[key]]
    assert len(differing) == 1
    below = {*parent.values} ^ {*child.values}
    assert all(key.startswith(differing[0]) for key in below)
    assert space.point(child.values) == child


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([FLAT, NESTED, MIXED]), st.integers(0, 10**6))
def test_a_child_of_two_has_the_value_of_one(space, seed):
    rng = random.Random(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.decide(choosers.crossover(a, b, rng))
    for key, value in child.values.items():
        inherited = [parent.values[key] for parent in (a, b) if key in parent.values]
        assert value in inherited  # an active decision was active in the parent that gave the option above it


def test_following_draws_what_is_missing_or_not_allowed():
    values = {"model.layer0": "a", "model.layer1": "unheard of"}
    point = FLAT.decide(choosers.following(values, random.Random(0)))
    assert point.values["model.layer0"] == "a"
    assert point.values["model.layer1"] in ("a", "b", "c", "d", "e")


def test_unseen_gives_up_after_so_many_draws_in_a_row():
    point = SMALL.default_point()
    attempts = []

    def draw(attempt):
        attempts.append(attempt)
        return point

    rng = random.Random(0)
    assert choosers.unseen(SMALL, draw, rng, SMALL.distinct) == point  # there is no other
    assert attempts == list(range(200))
    attempts.clear()
    choosers.unseen(SMALL, draw, rng, set())
    assert attempts == [0]


def test_unseen_lists_what_draws_do_not_find():
    (left, missed), *others = SMALL.distinct.items()
    seen = {name for name, _ in others}
    assert choosers.unseen(SMALL, lambda _: others[0][1], random.Random(0), seen) == missed
    assert left not in seen


def test_a_foreign_journal_is_refused():
    with raises(JournalError, "changed", "strategy"):
        choosers.measured(TrainShared(SMALL, "uniform", 1))
