"""What is particular to the predictor; what strategies share is in the conformance suite."""

import os
import random
import statistics
from pathlib import Path

import numpy as np
import pytest
from expecting import raises

from nasforge.core.errors import ConfigError, SearchError
from nasforge.core.space import Choice, Decision, Float, Int, SearchSpace
from nasforge.core.trial import Measure, Result, Score
from nasforge.strategies.predictor import Predictor
from nasforge.strategies.predictor.regressors import Process, Trees
from nasforge.strategies.random import Random
from nasforge.strategies.starting import Starting
from nasforge.strategies.weighted_ranks import worst_weighted
from nasforge.testing.scripted import FLAT, MIXED, NESTED, closeness, drive, replay, spec_of

FOLDER = os.environ.get("NASFORGE_DATA")


def finished(*values):
    return Result("finished", values=values, steps_done=3)


def reached(strategy, space, value_of, most):
    """The trials until a value of 1 or more is found."""
    for number in range(most):
        value = value_of(strategy.ask(number).architecture)
        if value >= 1:
            return number + 1
        strategy.tell(number, finished(value))
    return most


@pytest.mark.parametrize(("space", "most"), [(FLAT, 60), (NESTED, 60)], ids=("flat", "conditional"))
def test_planted_optimum_is_found(space, most):
    for seed in range(2):
        needed = reached(Predictor(spec_of(space, seed=seed)), space, lambda point: closeness(space, point), most + 1)
        assert needed <= most


def test_mixed_optimum_is_approached():
    def best(factory):
        strategy = factory(spec_of(MIXED, seed=0))
        highest = 0.0
        for number in range(50):
            value = closeness(MIXED, strategy.ask(number).architecture)
            highest = max(highest, value)
            strategy.tell(number, finished(value))
        return highest

    assert best(Predictor) > best(Random) + 0.05


@pytest.mark.parametrize(("letters", "objectives", "shares"), [(10, 1, True), (3, 1, False), (10, 2, False)])
def test_draws_share_one_deviate_in_a_vast_space_while_they_lead_upwards(monkeypatch, letters, objectives, shares):
    seen = []

    def recorded(draw):
        return lambda member, rows, deviates: seen.append(set(deviates)) or draw(member, rows, deviates)

    for member in (Process, Trees):
        monkeypatch.setattr(member, "draw", recorded(member.draw))
    space = SearchSpace(
        "s", tuple(Decision(f"d{i}", Choice(tuple(range(letters)))) for i in range(6)), builder="staged"
    )
    strategy = Predictor(spec_of(space, objectives=objectives))
    for number in range(40):  # after 25 trials none is better
        strategy.ask(number)
        strategy.tell(number, finished(*[float(min(number, 25))] * objectives))
    counts = [len(deviates) for deviates in seen]
    assert all((count == 1) == shares for count in counts[:3])
    assert all(count > 100 for count in counts[-3:])


def test_a_deceptive_slope_does_not_hold_it():
    """A slope leads to all `a`; what is better lies at all `e`, behind points that are worse than the slope."""

    def value_of(point):
        letters = list(point.values.values())
        return max(0.15 * letters.count("a"), 0.25 * letters.count("e") - 0.5)

    needed = [reached(Predictor(spec_of(FLAT, seed=seed)), FLAT, value_of, 220) for seed in range(2)]
    assert max(needed) < 220  # one of 15,625 points; without local search five of six seeds missed it in 300


def test_after_a_standstill_every_other_ask_is_local_searchs_until_something_is_better():
    strategy = Predictor(spec_of(FLAT, seed=0))
    journal = []
    for number in range(60):
        proposal = strategy.ask(number)
        strategy.tell(number, finished(1.0 - 0.001 * number))
        journal += [(number, proposal), (number, finished(1.0 - 0.001 * number))]
    assert strategy._local.seen is strategy._seen
    climbing = [journal[2 * n][1].architecture for n in range(31, 60, 2)]
    changes = [sum(a.values[key] != climbing[0].values[key] for key in a.values) for a in climbing[1:]]
    assert max(changes[:10]) == 1  # neighbours of one random point
    strategy.ask(60)
    strategy.tell(60, finished(2.0))
    assert not strategy._looks_elsewhere(61)
    replayed = Predictor(spec_of(FLAT, seed=0))
    replay(replayed, journal[:110])
    assert replayed.ask(55) == journal[110][1]


def test_two_objectives_spread_over_the_front():
    strategy = Predictor(spec_of(FLAT, seed=0, objectives=2))
    seen = set()
    for number in range(90):
        letters = list(strategy.ask(number).architecture.values.values())
        seen.add((letters.count("a"), letters.count("b")))
        strategy.tell(number, finished(float(letters.count("a")), float(letters.count("b"))))
    assert len({(a, 6 - a) for a in range(7)} & seen) >= 4  # random search finds hardly one of them


def test_it_learns_what_is_allowed():
    space = SearchSpace("square", (Decision("train.a", Float(0, 1)), Decision("train.b", Float(0, 1))))

    def rejections(strategy):
        rejected = number = 0
        while number - rejected < 20:
            values = strategy.ask(number).architecture.values
            excess = values["train.a"] + values["train.b"] - 0.35  # 6 % of the square
            rejected += excess > 0
            told = Result("rejected", metrics={"constraint/violation": excess / 0.35})
            strategy.tell(number, told if excess > 0 else finished(values["train.a"]))
            number += 1
        return rejected

    assert rejections(Predictor(spec_of(space, seed=0))) < rejections(Random(spec_of(space, seed=0))) / 4


def test_workers_in_parallel_get_different_points_of_the_same_knowledge():
    strategy = Predictor(spec_of(FLAT, seed=0))
    for number in range(20):
        strategy.tell(number, finished(closeness(FLAT, strategy.ask(number).architecture)))
    points = {strategy.ask(number).architecture.point_id for number in range(20, 30)}
    assert len(points) == 10


def test_values_count_by_their_order_alone():
    """An accuracy in 0..1, in percent, or a loss turned round: the same order, the same search."""

    def asks(scale):
        strategy, points = Predictor(spec_of(FLAT, seed=3)), []
        for number in range(16):
            points.append(strategy.ask(number).architecture)
            strategy.tell(number, finished(scale(closeness(FLAT, points[-1]))))
        return points

    plain = asks(lambda value: value)
    assert asks(lambda value: 100 * value) == plain
    assert asks(lambda value: -1 / (value + 0.01)) == plain


def test_replay_with_several_objectives_tunes_the_same():
    whole = drive(Predictor(spec_of(FLAT, seed=1, objectives=2)), FLAT, asks=24, objectives=2)
    replayed = Predictor(spec_of(FLAT, seed=1, objectives=2))
    replay(replayed, whole[:44])
    assert drive(replayed, FLAT, asks=24, objectives=2, journal=whole[:44]) == whole


def sorted_letters(model):
    """A canonical form: the order of the layers says nothing."""
    return "".join(sorted(model.values()))


def test_isomorphic_points_are_learnt_together_and_never_measured_twice():
    space = SearchSpace("sets", FLAT.decisions, canonical=f"{__name__}:sorted_letters")
    strategy = Predictor(spec_of(space, seed=0))
    seen = []
    for number in range(40):
        point = strategy.ask(number).architecture
        seen.append(point.canonical)
        strategy.tell(number, finished(point.canonical.count("a") - point.canonical.count("c")))
    assert len(set(seen)) == 40
    rows = strategy._twins.of(0, space.point(dict.fromkeys(space.domains, "a") | {"model.layer0": "b"}), 3)
    assert len(rows) == 3 and len({tuple(row) for row in rows}) == 3


# --- zero-cost scores ---


def scores_of(point):
    return {"zc/luck": random.Random(point.point_id).random(), "zc/good": closeness(FLAT, point), "cost/params": 5.0}


def scored_search(strategy, trials, told=None):
    journal = []
    for number in range(trials):
        proposal = strategy.ask(number)
        if proposal.rung == 0:
            result = told or Result("finished", scores=tuple(map(scores_of, proposal.architectures)))
        else:
            result = finished(closeness(FLAT, proposal.architecture) ** 3)
        strategy.tell(number, result)
        journal += [(number, proposal), (number, result)]
    return journal


def test_scores_are_asked_for_first_and_lead_the_search():
    strategy = Predictor(spec_of(FLAT, seed=0), zero_cost=["luck", "good"], screened=400, starts=5)
    journal = scored_search(strategy, 25)
    batches = [p for _, p in journal if isinstance(p, Score)]
    assert len(batches[0].architectures) > 350 and batches[0] == journal[0][1]
    assert 2 <= len(batches) <= 7
    single = [p.architecture for _, p in journal if isinstance(p, Measure) and p.rung == -1]
    assert {p.point_id for p in single} <= {p.point_id for batch in batches for p in batch.architectures}
    assert statistics.mean(closeness(FLAT, p) for p in single[:5]) > 0.35  # 0.2 at random
    assert max(closeness(FLAT, point) for point in single) > 0.8


def test_a_replayed_search_with_scores_goes_on_the_same():
    make = lambda: Predictor(spec_of(FLAT, seed=2), zero_cost=["good"], screened=200, starts=4)  # noqa: E731
    journal = scored_search(make(), 14)
    for cut in (0, 2, 6, 18, 24):
        replayed = make()
        replay(replayed, journal[:cut])
        assert (cut // 2, replayed.ask(cut // 2)) == journal[cut]


def test_what_is_scored_after_it_was_measured_is_learnt_alike_by_a_replay():
    """Local search measures points without scores; a later batch may score them."""
    make = lambda: Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=60)  # noqa: E731
    points = [FLAT.sample(random.Random(number)) for number in range(75)]
    scored, late = points[:60], points[60:]
    batches = {0: scored, 33: late}
    planned = {number: Score(tuple(batch)) for number, batch in batches.items()}
    planned |= {number: Measure((scored, late)[number % 2][number // 2]) for number in range(1, 25)}
    strategy, journal = make(), []
    for number in range(42):
        if number in planned:
            proposal = planned[number]
            strategy.recall(number, proposal)
        else:
            proposal = strategy.ask(number)
        if isinstance(proposal, Score):
            told = Result("finished", scores=tuple(map(scores_of, proposal.architectures)))
        else:
            told = finished(closeness(FLAT, proposal.architecture))
        strategy.tell(number, told)
        journal += [(number, proposal), (number, told)]
    for number in (36, 41):
        replayed = make()
        replay(replayed, journal[: 2 * number])
        assert replayed.ask(number) == journal[2 * number][1]


def test_points_that_the_search_begins_with_are_scored_and_learnt_from():
    starts = [FLAT.sample(random.Random(number)) for number in range(6)]
    make = lambda: Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=30, starts=4)  # noqa: E731
    journal = scored_search(Starting(make(), starts), 12)
    assert set(starts) <= set(journal[12][1].architectures)
    replayed = Starting(make(), starts)
    replay(replayed, journal[:20])
    assert (10, replayed.ask(10)) == journal[20]


def test_points_without_scores_are_not_counted_as_learnt():
    """Those of a batch that the journal of an earlier version holds."""
    for told in (finished(0.5), Result("rejected", metrics={"constraint/violation": 0.5})):
        strategy = Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=30, starts=4)
        points = [FLAT.sample(random.Random(number)) for number in range(20)]
        for number, point in enumerate(points[:5]):
            strategy.recall(number, Measure(point))
            strategy.tell(number, told)
        strategy.recall(5, Score(tuple(points[6:])))
        strategy.tell(5, Result("finished", scores=tuple(map(scores_of, points[6:]))))
        strategy._batches = 9  # the next batch is far off
        assert strategy.ask(6).architecture in points[6:]


def test_while_the_first_scores_are_out_there_is_nothing_to_ask():
    strategy = Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=50)
    assert strategy.ask(0).rung == 0
    assert strategy.ask(1) is None


def test_small_spaces_are_screened_whole():
    batch = Predictor(spec_of(FLAT, seed=0), zero_cost=["good"]).ask(0).architectures
    assert len({point.point_id for point in batch}) == len(batch) == FLAT.size


def test_a_batch_of_one_of_an_old_journal_is_learnt_from():
    """Version 0.1.0 wrote it as a Measure at the rung of proxies."""
    point = FLAT.default_point()
    old, new = (Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=300, starts=4) for _ in range(2))
    old.recall(0, Measure(point, rung=0))
    old.tell(0, Result("finished", {**scores_of(point), "time/worker_s": 1.0}))
    new.recall(0, Score((point,)))
    new.tell(0, Result("finished", scores=(scores_of(point),)))
    assert old.ask(1) == new.ask(1)


def test_points_whose_costs_violate_a_limit_are_left_out():
    strategy = Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=300, starts=4)
    batch = strategy.ask(0).architectures
    metrics = [{**scores_of(p), "constraint/violation": float(p.values["model.layer0"] != "b")} for p in batch]
    strategy.tell(0, Result("finished", scores=tuple(metrics)))
    for number in range(1, 4):
        point = strategy.ask(number).architecture
        assert point.values["model.layer0"] == "b"
        strategy.tell(number, finished(0.5))


def test_scores_that_nobody_gives_are_an_error():
    strategy = Predictor(spec_of(FLAT, seed=0), zero_cost=["synflow"], screened=20)
    batch = strategy.ask(0)
    with raises(SearchError, "missing", "strategy.zero_cost", "zc/synflow"):
        strategy.tell(0, Result("finished", scores=({"zc/other": 1.0},) * len(batch.architectures)))
    failing = Predictor(spec_of(FLAT, seed=0), zero_cost=["good"], screened=20)
    with raises(SearchError, "failed", "strategy.zero_cost", 3):
        scored_search(failing, 5, told=Result.failed("error", "no such rung"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"starts": 1}, ("range", "strategy.starts", 2)), ({"screened": 5}, ("range", "strategy.screened"))],
)
def test_wrong_options_are_refused(options, expected):
    with raises(ConfigError, *expected):
        Predictor(spec_of(FLAT, seed=0), **options)


# --- NAS-Bench-201 ---


@pytest.mark.skipif(not FOLDER, reason="NASFORGE_DATA does not point to the folder with the tables")
def test_the_optimum_of_nasbench201_is_found_soon():
    """500 seeds and the bars: benchmarks/nasbench201.py."""
    import numpy as np

    from nasforge.settings.experiment import load_space

    space = load_space("nasbench201")
    text = space.function("text")
    with np.load(Path(FOLDER) / "nasbench201_cifar10.npz") as table:
        signal = dict(zip(map(str, table["arch_str"]), table["cifar10_val_e12"].tolist(), strict=True))
    best = max(signal.values())
    share = lambda point: signal[text(point.model)] / best  # noqa: E731
    assert max(reached(Predictor(spec_of(space, seed=seed)), space, share, 151) for seed in range(2)) <= 150
    lucky = [reached(Random(spec_of(space, seed=seed)), space, share, 151) for seed in range(2)]
    assert min(lucky) == 151


def test_a_number_at_any_scale_is_one_decision():
    space = SearchSpace(
        "wide", (Decision("train.rate", Float(1e-5, 1.0, log=True)), Decision("model.width", Int(1, 512)))
    )
    strategy = Predictor(spec_of(space, seed=0))
    best = []
    for number in range(40):
        values = strategy.ask(number).architecture.values
        best.append(-abs(values["train.rate"] - 0.01) / 0.01 - abs(values["model.width"] - 300) / 300)
        strategy.tell(number, finished(best[-1]))
    assert max(best) > -0.35


def test_of_points_with_the_same_worst_objective_the_sum_decides():
    values = worst_weighted([np.array([1.5, 1.5]), np.array([1.0, 2.0])], 2, (0.9, 0.1))
    assert values[1] > values[0]
