"""What is particular to each strategy; what they share is in the conformance suite."""

import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.trial import Measure, Result
from nasforge.strategies.evolution import Evolution
from nasforge.strategies.local_search import LocalSearch
from nasforge.strategies.nsga2 import NSGA2
from nasforge.strategies.optuna import OptunaSampler
from nasforge.strategies.random import Random
from nasforge.testing.scripted import FLAT, MIXED, drive, replay, spec_of
from nasforge.testing.toys import toy_config


def finished(*values, steps=3):
    return Result("finished", values=values, steps_done=steps)


def point(space, text):
    return space.point({decision.key: letter for decision, letter in zip(space.decisions, text, strict=True)})


def changes(a, b):
    return sum(a.values[key] != b.values[key] for key in a.values)


def fed(strategy, members):
    """The strategy after trials with these points and results."""
    for number, (text, result) in enumerate(members):
        strategy.recall(number, Measure(point(FLAT, text)))
        strategy.tell(number, result)
    return strategy


def parents(strategy, texts, number=100):
    """Which of these points the next 40 asks are one change away from."""
    possible = set()
    for ask in range(number, number + 40):
        child = strategy.ask(ask).architecture
        possible |= {text for text in texts if changes(point(FLAT, text), child) == 1}
    return possible


OLD_AND_BEST, YOUNG = "aaaaaa", ["bbbbbb", "cccccc", "dddddd"]


def test_aging_evolution_lets_the_oldest_die_and_elitist_the_worst():
    members = [(OLD_AND_BEST, finished(0.9)), *((text, finished(0.1 * i)) for i, text in enumerate(YOUNG))]
    aging = fed(Evolution(spec_of(FLAT, seed=0), population=3, sample=2, elitist=False), members)
    assert OLD_AND_BEST not in parents(aging, [OLD_AND_BEST, *YOUNG])
    elitist = fed(Evolution(spec_of(FLAT, seed=0), population=3, sample=3), members)
    assert parents(elitist, [OLD_AND_BEST, *YOUNG]) == {OLD_AND_BEST}


def test_evolution_prefers_an_unpruned_trial_to_a_better_looking_pruned_one():
    members = [("aaaaaa", Result("pruned", values=(0.9,), steps_done=1)), ("bbbbbb", finished(0.2))]
    assert parents(fed(Evolution(spec_of(FLAT, seed=0), population=2, sample=2), members), ["aaaaaa", "bbbbbb"]) == {
        "bbbbbb"
    }


def test_evolution_drops_failed_and_rejected():
    rejected = Result("rejected", metrics={"constraint/violation": 0.1})
    members = [("aaaaaa", rejected), ("bbbbbb", Result.failed("crash", "gone")), ("cccccc", finished(0.0)),
               ("dddddd", finished(0.0))]  # fmt: skip
    possible = parents(fed(Evolution(spec_of(FLAT, seed=0), population=2, sample=1), members), [m[0] for m in members])
    assert possible == {"cccccc", "dddddd"}


def test_nsga2_keeps_the_front_and_parents_come_from_it():
    strategy = NSGA2(spec_of(FLAT, seed=0, objectives=2), population=4, starts=2, crossover=0.0)
    members = [("aaaaaa", finished(1.0, 0.0)), ("bbbbbb", finished(0.0, 1.0)), ("cccccc", finished(0.6, 0.6)),
               ("dddddd", finished(0.9, 0.3)), ("eeeeee", finished(0.5, 0.5))]  # fmt: skip
    fed(strategy, members)
    kept = {"".join(member.point.values.values()) for member in strategy._population.members}
    assert kept == {"aaaaaa", "bbbbbb", "cccccc", "dddddd"}


def test_nsga2_has_room_for_all_starts_where_the_population_is_not_set():
    assert [NSGA2(spec_of(FLAT, seed=0), starts=starts)._size for starts in (2, 15)] == [10, 15]
    assert NSGA2(spec_of(FLAT, seed=0, objectives=2), starts=15)._size == 20


@pytest.mark.parametrize("tournament", [0, 2.5, True])
def test_nsga2_refuses_a_tournament_that_is_no_whole_number_from_1(tournament):
    with raises(ConfigError, "type" if tournament is True else "range", "strategy.tournament"):
        NSGA2(spec_of(FLAT, seed=0), tournament=tournament)


def test_nsga2_spreads_over_the_front():
    """As many a's and as many b's as can be: random search reaches neither end (1 point of 15,625 each)."""
    for seed in range(3):
        strategy = NSGA2(spec_of(FLAT, seed=seed, objectives=2))
        seen = set()
        for number in range(500):
            letters = list(strategy.ask(number).architecture.values.values())
            seen.add((letters.count("a"), letters.count("b")))
            strategy.tell(number, finished(float(letters.count("a")), float(letters.count("b"))))
        assert {(a, 6 - a) for a in range(7)} <= seen


def test_local_search_tries_all_neighbours_then_starts_anew():
    strategy = LocalSearch(spec_of(FLAT, seed=0), starts=1)
    start = strategy.ask(0).architecture
    strategy.tell(0, finished(1.0))
    neighbours = {}
    for number in range(1, 25):
        neighbours[number] = strategy.ask(number).architecture
        strategy.tell(number, finished(0.5))
    assert {changes(start, neighbour) for neighbour in neighbours.values()} == {1}
    assert len({neighbour.point_id for neighbour in neighbours.values()}) == 24
    assert changes(start, strategy.ask(25).architecture) > 1


def test_local_search_moves_to_a_better_neighbour_even_when_it_comes_late():
    strategy = LocalSearch(spec_of(FLAT, seed=0), starts=1)
    strategy.recall(0, Measure(point(FLAT, "aaaaaa")))
    strategy.tell(0, finished(0.5))
    late = strategy.ask(1).architecture
    for number in range(2, 25):  # the other neighbours are worse; then other starts keep the workers busy
        strategy.ask(number)
        strategy.tell(number, finished(0.4))
    restart = strategy.ask(25).architecture
    assert changes(restart, point(FLAT, "aaaaaa")) > 1
    strategy.tell(25, finished(0.1))
    strategy.tell(1, finished(0.9))
    assert changes(strategy.ask(26).architecture, late) == 1


def test_local_search_goes_on_from_sampled_steps_in_ranges():
    strategy = LocalSearch(spec_of(MIXED, seed=0), starts=1, steps=3)
    start = strategy.ask(0).architecture
    strategy.tell(0, finished(1.0))
    rates = set()
    for number in range(1, 30):
        point = strategy.ask(number).architecture
        strategy.tell(number, finished(0.0))
        if changes_in_shared(start, point) == {"train.learning_rate"}:
            rates.add(point.values["train.learning_rate"])
    assert len(rates) == 3


def changes_in_shared(a, b):
    return {key for key in a.values if key in b.values and a.values[key] != b.values[key]}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: Evolution(spec_of(FLAT, seed=0), population=5, sample=6),
            ("range", "strategy", "sample", "population"),
        ),
        (lambda: NSGA2(spec_of(FLAT, seed=0), population=5, starts=6), ("range", "strategy", "starts", "population")),
        (lambda: NSGA2(spec_of(FLAT, seed=0), crossover=1.5), ("range", "strategy.crossover")),
        (lambda: LocalSearch(spec_of(FLAT, seed=0, objectives=2)), ("unsupported", "objectives")),
        (lambda: LocalSearch(spec_of(FLAT, seed=0), starts=0), ("range", "strategy")),
        (lambda: OptunaSampler(spec_of(FLAT, seed=0), sampler="tpee"), ("unknown", "strategy.sampler", "tpe")),
        (
            lambda: OptunaSampler(spec_of(FLAT, seed=0), n_startup_trial=3),
            ("unknown", "n_startup_trial", "n_startup_trials"),
        ),
        (
            lambda: OptunaSampler(spec_of(FLAT, seed=0), sampler="qmc", qmc_type="latin"),
            ("failed", "strategy.sampler", "latin"),
        ),
        (
            lambda: OptunaSampler(spec_of(FLAT, seed=0, objectives=2), sampler="cmaes"),
            ("unsupported", "strategy.sampler"),
        ),
    ],
)
def test_wrong_options_are_refused(make, expected):
    with raises(ConfigError, *expected):
        make()


def feasible_search(strategy, accepted):
    """How many rejections a strategy needs for so many accepted trials where few points are allowed."""
    rejections = number = 0
    while number - rejections < accepted:
        values = strategy.ask(number).architecture.values
        excess = values["train.a"] + values["train.b"] - 0.35  # 6 % of the square
        if excess > 0:
            rejections += 1
            strategy.tell(number, Result("rejected", metrics={"constraint/violation": excess / 0.35}))
        else:
            strategy.tell(number, finished(values["train.a"]))
        number += 1
    return rejections


def test_tpe_and_evolution_learn_what_is_allowed():
    space = SearchSpace("square", (Decision("train.a", Float(0, 1)), Decision("train.b", Float(0, 1))))
    baseline = feasible_search(Random(spec_of(space, seed=0)), 30)
    assert feasible_search(OptunaSampler(spec_of(space, seed=0)), 30) < baseline / 4
    assert feasible_search(Evolution(spec_of(space, seed=0)), 30) < baseline / 2


def test_optuna_is_told_options_by_index_so_that_true_and_one_stay_apart():
    space = SearchSpace("odd", (Decision("model.a", Choice((1, True, "1"))),))
    strategy = OptunaSampler(spec_of(space, seed=0))
    values = [strategy.ask(number).architecture.values["model.a"] for number in range(3)]
    assert {(value, type(value)) for value in values} == {(1, int), (True, bool), ("1", str)}


def test_asks_do_not_depend_on_the_global_generator():
    for factory in (Random, Evolution, NSGA2, LocalSearch, OptunaSampler):
        random.seed(1)
        first = factory(spec_of(MIXED, seed=0)).ask(0)
        random.seed(2)
        assert factory(spec_of(MIXED, seed=0)).ask(0) == first


def test_cmaes_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with raises(ConfigError, "missing", "strategy.sampler"):
        OptunaSampler(spec_of(FLAT, seed=0), sampler="cmaes")


def test_cmaes_is_replayed():
    pytest.importorskip("cmaes", reason="the package cmaes is not installed")
    space = SearchSpace("numbers", tuple(Decision(f"train.{name}", Float(0, 1)) for name in "abc"))
    whole = drive(OptunaSampler(spec_of(space, seed=1), sampler="cmaes"), space, asks=40)
    replayed = OptunaSampler(spec_of(space, seed=1), sampler="cmaes")
    replay(replayed, whole[:45])
    assert drive(replayed, space, asks=40, journal=whole[:45]) == whole


def test_only_the_optuna_strategy_imports_more_than_the_standard_library():
    names = ["random", "evolution", "nsga2", "local_search", "reinforce"]
    code = "import sys\n" + "".join(f"import nasforge.strategies.{name}\n" for name in names)
    code += "import nasforge.pruners.asha, nasforge.pruners.median, nasforge.testing.strategies\n"
    code += "print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'yaml'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("trials", "members"), [(4, 5), (12, 6), (20, 10), (50, 10), (75, 15), (150, 20), (math.inf, 20)]
)
def test_evolution_learns_in_a_short_search_too(trials, members):
    strategy = Evolution(replace(spec_of(FLAT, seed=0), trials=trials))
    operators = []
    for number in range(30):
        proposal = strategy.ask(number)
        operators.append(proposal.origin.operator)
        strategy.tell(number, Result("finished", {"val/accuracy": 0.5}, (0.5,), 1))
    assert operators.index("mutation") == members


def test_a_search_tells_its_strategy_how_many_trials_it_has(tmp_path):
    assert toy_config(tmp_path, budget={"trials": 12}).spec.trials == 12
    assert toy_config(tmp_path, budget={"worker_seconds": 12}).spec.trials == math.inf


def test_local_search_tries_new_moves_before_those_that_have_failed():
    strategy = LocalSearch(spec_of(FLAT, seed=0), starts=1)
    strategy.recall(0, Measure(point(FLAT, "aaaaaa")))
    strategy.tell(0, finished(0.5))
    tried = set()
    here = point(FLAT, "aaaaaa").values
    for number in range(1, 9):
        values = strategy.ask(number).architecture.values
        tried |= {(key, value) for key, value in values.items() if here[key] != value}
        strategy.tell(number, finished(0.9 if number == 8 else 0.4))
    here = values
    new = {(key, letter) for key in FLAT.domains for letter in "bcde" if letter != here[key]} - tried
    for number in range(9, 9 + len(new)):
        values = strategy.ask(number).architecture.values
        assert {(key, value) for key, value in values.items() if here[key] != value} <= new
        strategy.tell(number, finished(0.4))
