"""Every sampler: continued searches ask what the uninterrupted ones ask, limits teach, the first point comes first."""

import functools
import statistics
import warnings

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace
from nasforge.core.trial import Measure, Result
from nasforge.strategies.optuna import SAMPLERS, OptunaSampler
from nasforge.testing import strategies as suite
from nasforge.testing.scripted import spec_of

RANGES = SearchSpace("ranges", tuple(Decision(f"train.{key}", Float(0.0, 1.0)) for key in ("x", "y", "z")))
FAST = {"gp": {"n_startup_trials": 4}, "nsgaii": {"population_size": 4}, "nsgaiii": {"population_size": 4}}


def made(sampler, space, **options):
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    return OptunaSampler(spec_of(space, seed=1), sampler=sampler, **{**FAST.get(sampler, {}), **options})


CASES = [
    *(pytest.param(name, RANGES, id=f"{name}-ranges") for name in SAMPLERS),
    *(
        pytest.param(name, suite.MIXED, id=f"{name}-mixed", marks=[pytest.mark.slow] if name == "gp" else [])
        for name in SAMPLERS
    ),
]


@pytest.mark.parametrize(("sampler", "space"), CASES)
def test_a_recalled_study_asks_what_the_uninterrupted_one_asks(sampler, space):
    asks = 7 if sampler == "gp" else 14
    whole = suite.drive(made(sampler, space), space, asks=asks)
    for cut in (len(whole) - 5,) if sampler == "gp" else (3, 12, len(whole) - 4):
        replayed = made(sampler, space)
        suite.replay(replayed, whole[:cut])
        assert suite.drive(replayed, space, asks=asks, journal=whole[:cut])[: cut + 1] == whole[: cut + 1]
    one_by_one = [line[0] for line in sequential(made(sampler, space), asks)]
    replayed = made(sampler, space)
    suite.replay(replayed, [entry for pair in sequential(made(sampler, space), asks - 1) for entry in pair])
    assert replayed.ask(asks - 1) == one_by_one[-1][1]


def test_a_recalled_study_of_groups_asks_the_same_with_trials_in_flight():
    options = {"multivariate": True, "group": True, "n_startup_trials": 4}
    for seed in (1, 2):
        whole, again = (OptunaSampler(spec_of(suite.MIXED, seed=seed), sampler="tpe", **options) for _ in range(2))
        asked = []
        for number in range(28):
            asked.append(whole.ask(number))
            again.recall(number, asked[-1])
            if number >= 2:
                result = Result("finished", values=(number * 7 % 10 / 10,), steps_done=1)
                whole.tell(number - 2, result)
                again.tell(number - 2, result)
        assert whole.ask(28) == again.ask(28)


def sequential(strategy, asks):
    lines = []
    for number in range(asks):
        proposal = strategy.ask(number)
        values = proposal.architecture.values
        result = Result("finished", values=(-sum(v for v in values.values() if isinstance(v, float)),), steps_done=1)
        strategy.tell(number, result)
        lines.append(((number, proposal), (number, result)))
    return lines


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "nsgaiii"])
def test_samplers_that_take_constraints_learn_from_rejections(sampler):
    options = {} if sampler == "tpe" else {"population_size": 10}
    strategy = OptunaSampler(spec_of(RANGES, seed=0), sampler=sampler, **options)
    kept = []
    for number in range(100):
        x = strategy.ask(number).architecture.values["train.x"]
        kept.append(x <= 0.2)
        rejected = Result("rejected", metrics={"constraint/violation": x / 0.2 - 1})
        strategy.tell(number, Result("finished", values=(0.5,), steps_done=1) if kept[-1] else rejected)
    assert sum(kept[:10]) <= 5 and sum(kept[50:]) >= 30, (sum(kept[:10]), sum(kept[50:]))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_the_first_point_comes_first(sampler):
    first = {"train.x": 0.25, "train.y": 7.0}
    strategy = made(sampler, RANGES, first=first)
    asked = strategy.ask(0)
    assert asked.architecture.values["train.x"] == 0.25 and 0 <= asked.architecture.values["train.y"] <= 1
    strategy.tell(0, Result("finished", values=(0.5,), steps_done=1))
    replayed = made(sampler, RANGES, first=first)
    suite.replay(replayed, [(0, asked), (0, Result("finished", values=(0.5,), steps_done=1))])
    assert replayed.ask(1) == strategy.ask(1)
    with raises(ConfigError, "unknown", "strategy.first", "train.w"):
        made(sampler, RANGES, first={"train.w": 1.0})


def test_points_may_come_again_where_they_may():
    space = SearchSpace("few", (Decision("train.batch", Choice((8, 16, 32))), Decision("train.ema", Choice((0, 1)))))
    for distinct in (True, False):
        lines = sequential(OptunaSampler(spec_of(space, seed=0), distinct=distinct), 6)
        points = {proposal.architecture.point_id for (_, proposal), _ in lines}
        assert (len(points) == 6) == distinct


def test_a_missing_package_is_named():
    try:
        import cmaes  # noqa: F401
    except ImportError:
        with raises(ConfigError, "missing", None, "cmaes"):
            OptunaSampler(spec_of(RANGES, seed=0), sampler="cmaes")
    with raises(ConfigError, "unsupported", "strategy.sampler"):
        OptunaSampler(spec_of(RANGES, seed=0, objectives=2), sampler="cmaes")


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsgaii", "nsgaiii", "qmc", "random"])
def test_two_objectives_replay(sampler):
    options = FAST.get(sampler, {})
    suite_space = SearchSpace("two", RANGES.decisions)
    factory = functools.partial(OptunaSampler, sampler=sampler, **options)
    spec = spec_of(suite_space, seed=0, objectives=2)
    whole = suite.drive(factory(spec), suite_space, asks=8, objectives=2)
    replayed = factory(spec)
    suite.replay(replayed, whole[:9])
    assert suite.drive(replayed, suite_space, asks=8, objectives=2, journal=whole[:9])[:10] == whole[:10]


def test_numbers_are_ordered_for_the_sampler():
    space = SearchSpace(
        "steps", (Decision("train.batch", Choice((256, 8, 64))), Decision("train.kind", Choice(("a", "b"))))
    )
    strategy = OptunaSampler(spec_of(space, seed=0))
    lines = sequential(strategy, 6)
    assert {proposal.architecture.values["train.batch"] for (_, proposal), _ in lines} == {8, 64, 256}
    steps = {trial.distributions["train.batch"].__class__.__name__ for trial in strategy._study.trials}
    assert steps == {"IntDistribution"}
    for trial, ((_, proposal), _) in zip(
        [t for t in strategy._study.trials if t.state.name == "COMPLETE"], lines, strict=True
    ):
        assert trial.params["train.batch"] == [8, 64, 256].index(proposal.architecture.values["train.batch"])


@pytest.mark.parametrize("step", [3e-7, 0.1])  # a tenth has no exact binary form: 3 * .1 > .3
@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "qmc"])
def test_a_continued_study_learns_from_rounded_values(sampler, step):
    space = SearchSpace("made", (Decision("train.momentum", Float(0.0, 2.0, step=step)),))
    options = {"n_startup_trials": 2} if sampler == "tpe" else {"population_size": 3} if sampler == "nsgaii" else {}
    strategy = OptunaSampler(spec_of(space, seed=0), sampler=sampler, **options)
    again = OptunaSampler(spec_of(space, seed=0), sampler=sampler, **options)
    asked = []
    for number in range(12):
        proposal = strategy.ask(number)
        again.recall(number, proposal)
        momentum = proposal.architecture.values["train.momentum"]
        asked.append({"train.momentum": momentum})
        for study in (strategy, again):
            study.tell(number, Result("finished", values=(-((momentum - 0.3) ** 2),), steps_done=1))
    for study in (strategy, again):
        assert [trial.params for trial in study._study.trials if trial.state.name == "COMPLETE"] == asked
    assert strategy.ask(12) == again.ask(12)


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "qmc"])
def test_ranges_of_any_length_and_step_give_no_warnings(sampler):
    decisions = (
        Decision("model.width", Int(4, 15, step=4)),
        Decision("train.decay_epochs", Int(0, 3_000_000_000)),
        Decision("train.decay", Float(0.0, 1.0, step=0.3)),
        Decision("train.momentum", Float(1e-9, 1.0, step=1e-9)),
    )
    space = SearchSpace("made", decisions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        strategy = OptunaSampler(spec_of(space, seed=0), sampler=sampler)
        for number in range(15):
            point = strategy.ask(number).architecture
            assert space.point(point.values) == point
            strategy.tell(number, Result("finished", values=(point.values["train.decay"],), steps_done=1))
        again = OptunaSampler(spec_of(space, seed=0), sampler=sampler)
        again.recall(0, Measure(point))


def test_gp_takes_ranges_of_billions_without_listing_them():
    decisions = (
        Decision("train.decay_epochs", Int(0, 3_000_000_000)),
        Decision("train.steps", Int(5, 3_000_000_000, step=7)),
        Decision("train.samples", Int(1, 2**53, log=True)),
        Decision("model.width", Int(4, 15, step=4)),
    )
    space = SearchSpace("made", decisions)
    options = {"sampler": "gp", "n_startup_trials": 2}
    strategy = OptunaSampler(spec_of(space, seed=0), **options)
    again = OptunaSampler(spec_of(space, seed=0), **options)
    for number in range(3):
        proposal = strategy.ask(number)
        point = proposal.architecture
        assert space.point(point.values) == point
        again.recall(number, proposal)
        result = Result("finished", values=(-float(point.values["train.decay_epochs"]),), steps_done=1)
        for study in (strategy, again):
            study.tell(number, result)
    assert strategy.ask(3) == again.ask(3)
    kinds = {key: type(kind).__name__ for key, kind in strategy._study.trials[-1].distributions.items()}
    assert {key for key, kind in kinds.items() if kind == "IntDistribution"} == {"model.width"}


def test_options_equal_for_python_keep_their_places():
    space = SearchSpace("made", (Decision("model.a", Choice((1, True, "x"))),))
    strategy = OptunaSampler(spec_of(space, seed=0))
    strategy.recall(0, Measure(space.point({"model.a": True})))
    assert strategy._running[0].params == {"model.a": 1}


@pytest.mark.parametrize("sampler", ["tpe", "nsgaii", "nsgaiii"])
def test_where_nothing_is_allowed_yet_less_violation_is_better(sampler):
    options = {} if sampler == "tpe" else {"population_size": 10}
    strategy = OptunaSampler(spec_of(RANGES, seed=0), sampler=sampler, **options)
    asked = []
    for number in range(100):
        asked.append(strategy.ask(number).architecture.values["train.x"])
        strategy.tell(number, Result("rejected", metrics={"constraint/violation": 0.1 + asked[-1]}))
    assert statistics.median(asked[50:]) < statistics.median(asked[:10]) / 2
