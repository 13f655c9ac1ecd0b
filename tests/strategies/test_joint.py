"""Two strategies in one search: what each is told, second recipes, rejections, the half that has nothing to ask."""

import random
from collections import Counter
from functools import partial

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.trial import Artifact, Measure, Result
from nasforge.settings.experiment import resolve
from nasforge.strategies.joint import Joint, joint
from nasforge.strategies.optuna import OptunaSampler
from nasforge.strategies.promotion import Promotion
from nasforge.strategies.random import Random
from nasforge.testing import strategies as suite
from nasforge.testing.scripted import spec_of

NETWORK = tuple(Decision(f"model.{key}", Choice(("a", "b", "c", "d"))) for key in ("x", "y", "z"))
RATE = Decision("train.learning_rate", Float(1e-3, 1.0, log=True))
SPACE = SearchSpace("pair", (*NETWORK, RATE))
FINITE = SearchSpace("finite", (Decision("model.x", Choice((1, 2, 3))), Decision("train.batch", Choice((8, 16, 32)))))


def finished(value, *more):
    return Result("finished", values=(value, *more), steps_done=3)


class Recorded:
    """Remembers what it is asked and told; has nothing to ask while `silent`."""

    def __init__(self, space, silent=lambda: False):
        self.inner, self.silent, self.log = Random(spec_of(space, seed=0)), silent, []

    def ask(self, number):
        if self.silent():
            return None
        self.log.append(("ask", number))
        return self.inner.ask(number)

    def recall(self, number, proposal):
        self.log.append(("recall", number))
        self.inner.recall(number, proposal)

    def tell(self, number, result):
        self.log.append(("tell", number, result.status))

    def withdraw(self, number):
        self.log.pop()
        self.inner.withdraw(number)


def recorded(revisit=0, model=Recorded, recipe=Recorded):
    made = {}

    def make(name, factory, space):
        made[name] = factory(space)
        return made[name]

    search = Joint(
        spec_of(SPACE, seed=0),
        make_model=partial(make, "model", model),
        make_recipe=partial(make, "recipe", recipe),
        revisit=revisit,
    )
    return search, made


def run(search, asks, value=lambda point: 0.5):
    points = []
    for number in range(asks):
        proposal = search.ask(number)
        points.append(proposal.architecture)
        search.tell(number, finished(value(proposal.architecture)))
    return points


def test_both_halves_are_told_the_same():
    search, made = recorded()
    assert set(search.ask(0).architecture.values) == set(SPACE.domains)
    search.tell(0, finished(0.5))
    search.ask(1)
    search.tell(1, Result.failed("diverged", "NaN"))
    told = [("ask", 0), ("tell", 0, "finished"), ("ask", 1), ("tell", 1, "failed")]
    assert made["model"].log == made["recipe"].log == told


def test_a_rejected_networks_recipe_goes_to_the_next_network():
    search, made = recorded()
    first = search.ask(0).architecture
    search.tell(0, Result("rejected", metrics={"constraint/violation": 1.0}))
    second = search.ask(1).architecture
    search.tell(1, Result.failed("invalid_shape", "no channels left"))
    third = search.ask(2).architecture
    search.tell(2, finished(0.7))
    assert first.train == second.train == third.train and len({first.arch_id, second.arch_id, third.arch_id}) == 3
    assert made["recipe"].log == [("ask", 0), ("tell", 0, "finished")]  # of rejections it knows nothing
    assert [line for line in made["model"].log if line[0] == "tell"] == [
        ("tell", 0, "rejected"),
        ("tell", 1, "failed"),
        ("tell", 2, "finished"),
    ]
    again, _ = recorded()
    for number, point, result in (
        (0, first, Result("rejected", metrics={"constraint/violation": 1.0})),
        (1, second, Result.failed("invalid_shape", "no channels left")),
        (2, third, finished(0.7)),
    ):
        again.recall(number, Measure(point))
        again.tell(number, result)
    assert again.ask(3) == search.ask(3)


def test_every_fourth_trial_gives_a_good_network_another_recipe():
    search = joint(spec_of(SPACE, seed=1), model="random", recipe="random", revisit=4)
    points = run(search, 40, value=lambda point: (point.values["model.x"] == "a") + point.values["train.learning_rate"])
    recipes = Counter(point.arch_id for point in points)
    assert sorted(recipes.values())[-1] > 1 and sum(recipes.values()) - len(recipes) == 10
    assert all(points[number].arch_id in {p.arch_id for p in points[:number]} for number in range(3, 40, 4))
    assert len({point.point_id for point in points}) == 40
    never = run(joint(spec_of(SPACE, seed=1), model="random", recipe="random", revisit=0), 40)
    assert len({point.arch_id for point in never}) == 40


def test_a_continued_predictor_proposes_the_same_after_second_recipes():
    """Of a network with two recipes it holds two points that are equal; on a replay they are two objects."""
    rng = random.Random(0)
    whole = joint(spec_of(suite.MIXED, seed=2), model="predictor", recipe="random", revisit=3)
    journal = []
    for number in range(26):
        proposal = whole.ask(number)
        result = finished(rng.random())
        whole.tell(number, result)
        journal.append((number, proposal, result))
    for cut in (10, 13, 16, 19, 22):
        again = joint(spec_of(suite.MIXED, seed=2), model="predictor", recipe="random", revisit=3)
        for number, proposal, result in journal[:cut]:
            again.recall(number, proposal)
            again.tell(number, result)
        for number, proposal, result in journal[cut:]:
            assert again.ask(number) == proposal, (cut, number)
            again.tell(number, result)


def test_the_second_recipe_is_told_to_the_networks_half():
    search, made = recorded(revisit=2)
    run(search, 4)
    assert made["model"].log[2:4] == [("recall", 1), ("tell", 1, "finished")]


@pytest.mark.parametrize("silent", ["model", "recipe"])
@pytest.mark.parametrize("revisit", [0, 2])
def test_none_of_one_half_takes_the_others_ask_back(silent, revisit):
    """What the search asks after a None is what it would ask had nobody asked before."""
    quiet = {"now": False}
    halting = partial(Recorded, silent=lambda: quiet["now"])
    search, made = recorded(revisit, **{silent: halting})
    whole, _ = recorded(revisit)
    for number in range(6):
        quiet["now"] = number > 0 and (revisit == 0 or number % 2 == (silent == "recipe"))
        if quiet["now"]:
            assert search.ask(number) is None and search.ask(number) is None
        quiet["now"] = False
        if number:
            search.tell(number - 1, finished(0.1 * number))
            whole.tell(number - 1, finished(0.1 * number))
        assert search.ask(number) == whole.ask(number)
    other = "recipe" if silent == "model" else "model"
    assert [line[1] for line in made[other].log if line[0] != "tell"] == list(range(6))


def test_all_pairs_of_a_small_space_come_once():
    points = run(joint(spec_of(FINITE, seed=0)), 9)
    assert len({point.point_id for point in points}) == 9


def test_a_good_recipe_may_serve_many_networks():
    space = SearchSpace("few", (*NETWORK, Decision("train.batch", Choice((8, 16, 32)))))
    points = run(joint(spec_of(space, seed=0)), 40, value=lambda point: point.values["train.batch"] / 32)
    assert Counter(point.values["train.batch"] for point in points[20:])[32] > 10


def test_checkpoints_keep_the_recipe_they_were_made_by():
    class Continuing(Recorded):
        def ask(self, number):
            weights = Artifact("artifacts/0/attempt-1/weights.safetensors", "0" * 64, 1)
            return Measure(self.inner.ask(0).architecture, rung=number, weights=weights if number else None)

    search, made = recorded(model=Continuing)
    first = search.ask(0)
    artifacts = {"weights": Artifact("artifacts/0/attempt-1/weights.safetensors", "0" * 64, 1)}
    search.tell(0, Result("finished", values=(0.5,), steps_done=1, artifacts=artifacts))
    second = search.ask(1)
    assert second.weights and second.rung == 1 and second.architecture.train == first.architecture.train
    search.tell(1, finished(0.6))
    assert made["recipe"].log == [("ask", 0), ("tell", 0, "finished")]


def test_batches_of_scores_come_with_the_default_recipe():
    search = joint(spec_of(SPACE, seed=0), model={"name": "predictor", "zero_cost": ["synflow"], "screened": 12})
    batch = search.ask(0)
    assert len(batch.architectures) > 1 and {p.values["train.learning_rate"] for p in batch.architectures} == {
        SPACE.default_of(RATE.key)
    }
    scores = [{"zc/synflow": float(index)} for index in range(len(batch.architectures))]
    result = Result("finished", scores=tuple(scores))
    search.tell(0, result)
    replayed = joint(spec_of(SPACE, seed=0), model={"name": "predictor", "zero_cost": ["synflow"], "screened": 12})
    suite.replay(replayed, [(0, batch), (0, result)])
    assert replayed.ask(1) == search.ask(1)


@pytest.mark.parametrize(("model", "sampler"), [("local_search", "gp"), ("reinforce", "nsgaii"), ("predictor", "qmc")])
def test_any_two_halves_replay(sampler, model):
    factory = partial(joint, model=model, recipe={"name": "optuna", "sampler": sampler})
    whole = suite.drive(factory(spec_of(suite.MIXED, seed=1)), suite.MIXED, asks=16)
    for cut in (9, 20):
        replayed = factory(spec_of(suite.MIXED, seed=1))
        suite.replay(replayed, whole[:cut])
        assert suite.drive(replayed, suite.MIXED, asks=16, journal=whole[:cut])[: cut + 1] == whole[: cut + 1]


def test_one_half_alone_is_that_halfs_strategy():
    assert isinstance(joint(spec_of(SearchSpace("r", (RATE,)), seed=0)), OptunaSampler)
    assert isinstance(joint(spec_of(SearchSpace("n", NETWORK), seed=0), model="random"), Random)


def test_a_supernet_is_refused_by_name():
    with raises(ConfigError, "unsupported", "strategy", "spos"):
        joint(spec_of(SPACE, seed=0), model="spos")
    with raises(ConfigError, "unsupported", "strategy", "promotion", "--tune optuna"):
        joint(spec_of(SPACE, seed=0), model="promotion")
    with raises(ConfigError, "unknown", "strategy", "evolusion"):
        joint(spec_of(SPACE, seed=0), model="evolusion")
    with raises(ConfigError, "unknown", "populatoin"):
        joint(spec_of(SPACE, seed=0), model={"name": "evolution", "populatoin": 3})
    with raises(ConfigError, "range", "strategy.revisit", "revisit"):
        joint(spec_of(SPACE, seed=0), revisit=-1)


def test_tune_is_short_for_joint():
    config = resolve(
        {
            "space": "tiny",
            "data": "digits",
            "strategy": {"name": "evolution", "population": 10},
            "tune": {"name": "optuna", "sampler": "gp", "revisit": 3},
        }
    )
    assert config.name == "tiny-digits-evolution-optuna-s0"
    assert config.strategy.to_json() == {
        "name": "joint",
        "options": {
            "model": {"name": "evolution", "population": 10},
            "recipe": {"name": "optuna", "sampler": "gp"},
            "revisit": 3,
        },
    }


def test_the_removed_option_relatives_is_named():
    with raises(ConfigError, "removed", "tune"):
        resolve({"space": "tiny", "data": "digits", "tune": {"name": "optuna", "relatives": True}})


def test_tune_beside_promotion_is_promotion_of_joint():
    strategy = {"name": "promotion", "of": "nsga2", "eta": 2}
    config = resolve({"space": "tiny", "data": "digits", "strategy": strategy, "tune": "optuna"})
    of = {"name": "joint", "model": {"name": "nsga2"}, "recipe": {"name": "optuna"}}
    assert config.strategy.options == {"eta": 2, "of": of} and config.name == "tiny-digits-promotion-optuna-s0"
    factory = partial(Promotion, of={**of, "model": "evolution"})
    whole = suite.drive(factory(spec_of(suite.MIXED, seed=1)), suite.MIXED, asks=20)
    assert any(line.rung > 0 for _, line in whole if isinstance(line, Measure))
    replayed = factory(spec_of(suite.MIXED, seed=1))
    suite.replay(replayed, whole[:21])
    assert suite.drive(replayed, suite.MIXED, asks=20, journal=whole[:21])[:22] == whole[:22]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"space": "darts", "tune": "optuna"}, ("conflict", "tune", "--recipe")),
        ({"space": "tiny", "strategy": "joint", "tune": "optuna"}, ("conflict", "tune")),
        ({"space": SearchSpace("r", (RATE,)), "tune": "optuna"}, ("conflict", "tune", "--strategy")),
    ],
)
def test_tune_is_refused(settings, expected):
    with raises(ConfigError, *expected):
        resolve({"data": "digits", **settings})
