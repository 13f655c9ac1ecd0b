"""Properties of search spaces, on spaces that hypothesis makes up."""

import json
import math
import random
import time

import pytest
from expecting import raises
from hypothesis import given, settings
from hypothesis import strategies as st

from nasforge.core.architecture import Architecture
from nasforge.core.errors import SpaceError
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace

finite = st.one_of(
    st.lists(st.one_of(st.integers(-3, 3), st.booleans(), st.sampled_from(["a", "b"])), min_size=1, max_size=3)
    .map(lambda options: list({(type(o), o): o for o in options}.values()))
    .map(tuple)
    .map(Choice),
    st.builds(lambda low, n, k: Int(low, low + n * k, k), st.integers(-2, 2), st.integers(0, 3), st.integers(1, 3)),
    st.builds(lambda low, n: Int(low, low + n, log=True), st.integers(1, 3), st.integers(0, 2)),
    st.builds(lambda n: Float(0.1, 0.1 + 0.2 * n, step=0.2), st.integers(0, 3)),
)  # fmt: skip
continuous = st.sampled_from([Float(-1, 1), Float(1e-5, 1, log=True), Float(2, 2)])


@st.composite
def spaces(draw, leaves=finite, depth=2):
    """A small space; keys are numbered and contain the option that they hang below."""

    def branch(prefix, level):
        return tuple(decision(f"{prefix}{index}", level) for index in range(draw(st.integers(0 if level else 1, 2))))

    def decision(key, level):
        domain = draw(leaves)
        if isinstance(domain, Choice) and level < depth:
            below = tuple(branch(f"{key}.{option}_{i}.d", level + 1) for i, option in enumerate(domain.options))
            domain = Choice(domain.options, below)
        return Decision(key, domain)

    return SearchSpace("made", branch(draw(st.sampled_from(["model.d", "train.d"])), 0), arguments={"depth": 3})


def values_of(domain):
    """All values of a finite domain, counted independently of `Domain.size`."""
    if isinstance(domain, Choice):
        return list(domain.options)
    if isinstance(domain, Int):
        return list(range(domain.low, domain.high + 1, domain.step))
    values, value = [], domain.low
    while domain.step and value <= domain.high + 1e-9:
        values.append(round(value, 12))
        value += domain.step
    return values or [domain.low]


def points(decisions):
    """All points below some decisions, as dicts."""
    if not decisions:
        yield {}
        return
    first, *rest = decisions
    for value in values_of(first.domain):
        branch = ()
        if isinstance(first.domain, Choice):  # by identity, since `index` takes True for 1
            index = next(i for i, o in enumerate(first.domain.options) if o is value)
            branch = first.domain.branches[index]
        for below in points(branch):
            for others in points(rest):
                yield {first.key: value, **below, **others}


@settings(max_examples=100, deadline=None)
@given(spaces().filter(lambda space: space.size <= 300))
def test_size_is_the_number_of_points(space):
    every = list(points(space.decisions))
    assert space.size == len(every)
    made = [space.point(values) for values in every]
    assert len({json.dumps(sorted(point.to_json()["values"].items())) for point in made}) == len(every)
    assert [dict(point.values) for point in made] == every


@settings(max_examples=100, deadline=None)
@given(spaces(st.one_of(finite, continuous)), st.integers(0, 99))
def test_json_round_trip(space, seed):
    again = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.fingerprint == space.fingerprint
    point = space.sample(random.Random(seed))
    assert again.sample(random.Random(seed)) == point
    parsed = Architecture.from_json(json.loads(json.dumps(point.to_json())))
    assert parsed == point
    assert (parsed.arch_id, parsed.point_id) == (point.arch_id, point.point_id)
    assert list(parsed.values) == list(point.values)


@settings(max_examples=100, deadline=None)
@given(spaces(st.one_of(finite, continuous)), st.integers(0, 99))
def test_a_sample_is_a_point_and_the_walk_asks_active_decisions_only(space, seed):
    point = space.sample(random.Random(seed))
    assert space.point(point.values) == point
    asked = []

    def choose(key, domain):
        asked.append(key)
        return point.values[key]

    assert space.decide(choose) == point
    assert asked == [key for key in point.values if space.domains[key].size > 1]


@settings(max_examples=100, deadline=None)
@given(spaces(st.one_of(finite, continuous)), st.integers(0, 99), st.data())
def test_fixed_leaves_one_value(space, seed, data):
    point = space.sample(random.Random(seed))
    keys = data.draw(st.sets(st.sampled_from(sorted(point.values))))
    smaller = space.fixed({key: point.values[key] for key in keys})
    for other in (smaller.sample(random.Random(n)) for n in range(5)):
        assert all(other.values[key] == point.values[key] for key in keys if key in other.values)
        assert space.point(other.values) == other
    assert smaller.point(point.values) == point
    assert smaller.size <= space.size
    assert space.fixed(point.values).default_point().values == point.values


@settings(max_examples=60, deadline=None)
@given(spaces(st.one_of(finite, continuous)))
def test_the_default_point_is_a_point(space):
    assert space.point(space.default_point().values) == space.default_point()


BLOCK = SearchSpace(
    "block",
    (
        Decision(
            "model.block",
            Choice(("identity", "inverted"), ((), (Decision("model.block.inverted.expansion", Choice((2, 4))),))),
        ),
        Decision("model.only", Choice(("this",))),
        Decision("train.rate", Float(1e-3, 1.0, log=True)),
    ),
)
GOOD = {"model.block": "inverted", "model.block.inverted.expansion": 4, "model.only": "this", "train.rate": 0.1}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train.rate": None}, ("missing", "train.rate")),
        ({"train.rate": 2.0}, ("range", "train.rate", "2.0", "0.001")),
        ({"train.rate": True}, ("range", "train.rate")),
        ({"train.rate": math.nan}, ("range", "train.rate")),
        ({"model.block": "inverte"}, ("unknown", "model.block", "inverte", "identity")),
        ({"model.block": "identity"}, ("conflict", "model.block.inverted.expansion")),
        ({"model.only": "that"}, ("unknown", None, "that")),
        ({"model.block.inverted.expansion": 3}, ("unknown", "model.block.inverted.expansion", 2, 4)),
        ({"train.rat": 0.1}, ("unknown", "train.rat", "train.rate")),
    ],
)
def test_point_says_what_is_wrong(change, expected):
    values = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with raises(SpaceError, *expected):
        BLOCK.point(values)
    BLOCK.point(GOOD)


def test_decide_refuses_what_a_chooser_must_not_say():
    with raises(SpaceError, "unknown", "model.block", "block", "pool"):
        BLOCK.decide(lambda key, domain: "pool")


def test_conditional_keys_are_there_only_under_their_option():
    seen = [BLOCK.sample(random.Random(seed)).values for seed in range(40)]
    assert {values["model.block"] for values in seen} == {"identity", "inverted"}
    for values in seen:
        assert ("model.block.inverted.expansion" in values) == (values["model.block"] == "inverted")
    assert BLOCK.fixed({"train.rate": 0.1}).size == 3


def test_keys_are_unique_even_across_branches():
    twice = Decision("model.same", Choice((1, 2)))
    with raises(SpaceError, "duplicate", "model.same"):
        SearchSpace("s", (Decision("model.a", Choice(("x", "y"), ((twice,), (twice,)))),))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Choice(()), ("empty", None, "options")),
        (lambda: Choice((1, 1.0)), ("duplicate", None, "1")),
        (lambda: Choice((None,)), ("type", None, "None")),
        (lambda: Choice((1, 2), ((),)), ("range", None, 2)),
        (lambda: Int(3, 1), ("range", None, 3)),
        (lambda: Int(1, 3, step=0), ("range", None, "step")),
        (lambda: Int(0, 3, log=True), ("range", None, "low")),
        (lambda: Int(1, 3, step=2, log=True), ("conflict", None, "step")),
        (lambda: Int(1.5, 3), ("type", None, "1.5")),
        (lambda: Float(0, math.inf), ("range", None, "finite")),
        (lambda: Float(1, 0), ("range", None, "high")),
        (lambda: Float(0, 1, log=True), ("range", None, "low")),
        (lambda: Float(0, 1, step=-1), ("range", None, "step")),
        (lambda: Float(1, 2, step=1, log=True), ("conflict", None, "step")),
        (lambda: BLOCK.fixed({"model.blok": "identity"}), ("unknown", "model.blok", "model.block")),
        (lambda: BLOCK.fixed({"model.block": "pool"}), ("unknown", "model.block", "identity", "inverted")),
    ],
)
def test_malformed_domains_are_refused(make, expected):
    with raises(SpaceError, *expected):
        make()


@pytest.mark.parametrize("key", ["builder", "canonical", "text", "derive", "arguments", "defaults"])
@pytest.mark.parametrize("value", [5, math.nan, None, [], {1: 2}], ids=str)
def test_a_field_of_another_type_is_refused(key, value):
    with raises(SpaceError, "type", key):
        SearchSpace.from_json({**BLOCK.to_json(), key: value})


def test_one_and_true_stay_apart():
    choice = Choice((1, True))
    assert [choice.check(value) for value in (1, True)] == [1, True]
    assert type(choice.check(True)) is bool
    with pytest.raises(SpaceError):
        Choice((0, 1)).check(True)


def test_a_choice_of_many_options_is_made_and_asked_at_once():
    options = tuple(f"net{n}" for n in range(20_000))
    began = time.process_time()
    choice = Choice(options)
    assert [choice.check(option) for option in options] == [*options]
    assert choice.branch("net19999") == () and time.process_time() - began < 2
    with raises(SpaceError, "unknown", None, "net", "net0", "net49"):
        choice.check("net")
    with raises(SpaceError, "unknown", None, "net0"):
        choice.check(["net0"])


def test_a_logarithmic_range_is_drawn_uniformly_in_the_logarithm():
    rng = random.Random(0)
    draws = [Float(1e-4, 1, log=True).sample(rng) for _ in range(2000)]
    assert 0.45 < sum(draw < 1e-2 for draw in draws) / 2000 < 0.55
    whole = [Int(1, 10_000, log=True).sample(rng) for _ in range(2000)]
    assert 0.4 < sum(draw < 100 for draw in whole) / 2000 < 0.65
    assert min(whole) == 1
    assert max(whole) > 9000


def test_the_default_of_a_decision_that_was_fixed_elsewhere_is_the_value_left():
    space = SearchSpace("s", (Decision("model.a", Choice((1, 2, 3))),), defaults={"model.a": 2})
    assert space.default_of("model.a") == 2
    assert space.fixed({"model.a": 3}).default_of("model.a") == 3
