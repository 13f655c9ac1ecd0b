"""Strategies that train supernets: what they ask for, in which order, and what they make of the answers."""

import math
from dataclasses import replace

import pytest
from expecting import raises

from nasforge.core.errors import ConfigError
from nasforge.core.goals import Constraint
from nasforge.core.trial import Artifact, Measure, Result, TrainShared
from nasforge.settings.experiment import load_space
from nasforge.strategies.differentiable import cost_aware, darts, drnas, gdas
from nasforge.strategies.one_shot import enas, spos
from nasforge.strategies.reinforce import Reinforce
from nasforge.testing.scripted import FLAT, MIXED, SMALL, spec_of

WEIGHTS = Artifact("artifacts/0/attempt-1/weights.safetensors", "0" * 64, 1)


def trained(proposal, favourite="c", sha="0"):
    alphas = {
        key: tuple(float(option == favourite) for option in domain.values)
        for key, domain in proposal.space.domains.items()
        if len(domain.values) > 1
    }
    weights = Artifact(WEIGHTS.path, sha * 64, 1)
    return Result("finished", steps_done=proposal.epochs, alphas=alphas, artifacts={"weights": weights})


def finished(value):
    return Result("finished", values=(value,), steps_done=3)


def test_supernets_run_side_by_side_and_their_networks_in_turn():
    strategy = darts(spec_of(FLAT, seed=0), runs=2, epochs=7, second_order=True)
    first, second = strategy.ask(0), strategy.ask(1)
    assert isinstance(first, TrainShared) and (first.relaxation, first.epochs) == ("softmax", 7)
    assert first.settings["second_order"] is True and first.alphas != second.alphas
    assert strategy.ask(2) is None
    strategy.tell(1, trained(second, "b"))
    assert strategy.ask(2) is None  # which supernet's network comes first must not hang on who is faster
    strategy.tell(0, trained(first, "c"))
    points = [strategy.ask(number).architecture for number in (2, 3)]
    assert {tuple(point.values.values()) for point in points} == {("b",) * 6, ("c",) * 6}


@pytest.mark.parametrize("factory", [darts, gdas, drnas])
def test_an_operation_that_computes_nothing_is_mixed_and_not_derived(factory):
    space = load_space("nasbench201")
    for options, derived in (({}, False), ({"underived": ""}, True)):
        strategy = factory(spec_of(space, seed=0), **options)
        proposal = strategy.ask(0)
        assert proposal.settings["underived"] == options.get("underived", "none")
        strategy.tell(0, trained(proposal, "none"))
        taken = set(strategy.ask(1).architecture.model.values())
        assert ("none" in taken) is derived


def test_a_rejected_network_is_followed_by_the_next():
    strategy = gdas(spec_of(FLAT, seed=0))
    strategy.tell(0, trained(strategy.ask(0)))
    best = strategy.ask(1).architecture
    strategy.tell(1, Result("rejected", metrics={"constraint/violation": 1.0}))
    after = strategy.ask(2).architecture
    assert after != best and sum(a != b for a, b in zip(best.values.values(), after.values.values(), strict=True)) == 1


def weighed(point):
    """Multiply-adds of a network of FLAT: 10 for every "a", 8 for every "b"... 2 for every "e"."""
    return float(sum(10 - 2 * "abcde".index(option) for option in point.values.values()))


def checked(point, limit):
    cost = weighed(point)
    if cost > limit.bound:
        return Result(
            "rejected", metrics={limit.metric: cost, "constraint/violation": limit.violation({limit.metric: cost})}
        )
    return Result("finished", values=(0.5,), steps_done=3, metrics={limit.metric: cost})


@pytest.mark.parametrize("supernets", [1, 2])
def test_below_a_tight_limit_options_that_cost_much_are_left_first(supernets):
    limit = Constraint("cost/flops", 26.0)  # 1,000 of the 15,625 networks, and far from what the alphas favour
    strategy = gdas(replace(spec_of(FLAT, seed=0), constraints=(limit,)), runs=supernets)
    favours = {"model.layer0": 5.0}  # is worth most, so it is kept
    alphas = {key: tuple(favours.get(key, 1.0) * w for w in (1.0, 0.9, 0.5, 0.2, 0.1)) for key in FLAT.domains}
    for number in range(supernets):
        strategy.ask(number)
    for number in range(supernets):
        strategy.tell(number, Result("finished", steps_done=1, alphas=alphas))
    allowed = []
    for number in range(supernets, supernets + 60):
        point = strategy.ask(number).architecture
        result = checked(point, limit)
        strategy.tell(number, result)
        if result.status == "finished":
            allowed.append(point)
    assert len(allowed) >= 20
    assert sum(point.values["model.layer0"] in "ab" for point in allowed) > len(allowed) / 2


def test_a_search_below_a_tight_limit_resumes_as_it_would_have_gone_on():
    limit = Constraint("cost/flops", 26.0)
    spec = replace(spec_of(FLAT, seed=0), constraints=(limit,))
    first = gdas(spec)
    supernet = first.ask(0)
    journal = [(0, supernet, trained(supernet, "a"))]
    first.tell(0, journal[0][2])
    for number in range(1, 30):
        proposal = first.ask(number)
        journal.append((number, proposal, checked(proposal.architecture, limit)))
        first.tell(number, journal[-1][2])
    resumed = gdas(spec)
    for number, proposal, result in journal:
        resumed.recall(number, proposal)
        resumed.tell(number, result)
    for number in range(30, 40):
        assert first.ask(number).architecture == resumed.ask(number).architecture


def test_a_supernet_that_fails_ends_the_search():
    strategy = gdas(spec_of(FLAT, seed=0))
    strategy.ask(0)
    strategy.tell(0, Result.failed("diverged", "the loss became NaN"))
    assert strategy.ask(1) is None


def test_targets_become_terms_of_the_loss_with_their_bounds():
    targets = (Constraint("cost/flops", 1e7), Constraint("cost/latency_ms", 5.0))
    proposal = cost_aware(spec_of(FLAT, seed=0, targets=targets), cost_weight=0.3).ask(0)
    assert proposal.cost_terms == {"cost/flops": 0.3} and proposal.settings["bound/cost/flops"] == 1e7
    assert not gdas(spec_of(FLAT, seed=0, targets=targets)).ask(0).cost_terms
    assert cost_aware(spec_of(FLAT, seed=0)).ask(0).cost_terms == {"cost/flops": 0.1}


def test_settings_are_checked_before_anything_is_journaled():
    with raises(ConfigError, "range", "last_temperature"):
        gdas(spec_of(FLAT), temperature=0.05)
    with raises(ConfigError, "range", "learning_rate"):
        darts(spec_of(FLAT), learning_rate=-1.0)
    with raises(ConfigError, "unsupported", "targets", "latency_ms", 5):
        cost_aware(spec_of(FLAT, seed=0, targets=(Constraint("cost/latency_ms", 5.0),)))


def test_the_recipe_is_fixed_at_its_defaults():
    for strategy in (darts(spec_of(MIXED, seed=0)), spos(spec_of(MIXED, seed=0)), enas(spec_of(MIXED, seed=0))):
        space = strategy.ask(0).space
        assert all(domain.size == 1 for key, domain in space.domains.items() if key.startswith("train."))


@pytest.mark.parametrize(
    ("factory", "options", "expected"),
    [
        (darts, {"runs": 0}, ("range", "strategy.runs", 0)),
        (spos, {"measures": 0}, ("range", "strategy.measures", 0)),
        (spos, {"paths": "odd"}, ("unknown", "strategy.paths", "odd")),
        (enas, {"policy_paths": 0}, ("range", "strategy.policy_paths", 0)),
        (enas, {"beyond": 1.0}, ("range", "beyond", 1.0)),
        (darts, {"learning_rate": math.nan}, ("range", "learning_rate", math.nan)),
        (drnas, {"regulariser": math.inf}, ("range", "regulariser", math.inf)),
        (cost_aware, {"cost_weight": 0.0}, ("range", "strategy.cost_weight", 0.0)),
        (cost_aware, {"cost_weight": math.nan}, ("range", "strategy.cost_weight", math.nan)),
        (gdas, {"epochs": 5, "warmup_epochs": 5}, ("conflict", "strategy.warmup_epochs", 5)),
    ],
)
def test_settings_out_of_range_are_refused(factory, options, expected):
    with raises(ConfigError, *expected):
        factory(spec_of(FLAT, seed=0), **options)
    with raises(ConfigError, "unsupported", "objectives"):
        darts(spec_of(FLAT, seed=0, objectives=2))


def test_one_shot_measures_on_inherited_weights_then_trains_the_best():
    strategy = spos(spec_of(FLAT, seed=0), epochs=4, measures=5, paths="fair")
    first = strategy.ask(0)
    assert (first.relaxation, first.epochs, first.weights) == ("fair", 4, None)
    strategy.tell(0, trained(first))
    asked = {}
    for number in range(1, 6):
        proposal = strategy.ask(number)
        assert proposal.weights == WEIGHTS
        asked[number] = proposal.architecture
    assert strategy.ask(6) is None  # all out
    for number in asked:
        strategy.tell(
            number, Result("rejected", metrics={"constraint/violation": 1.0}) if number == 2 else finished(number)
        )
    sixth = strategy.ask(6)  # in the place of the rejected one
    assert sixth.weights == WEIGHTS
    strategy.tell(6, finished(0.5))
    finals = [strategy.ask(number) for number in (7, 8)]
    assert [final.weights for final in finals] == [None, None]
    assert [final.architecture for final in finals] == [asked[5], asked[4]]


def test_enas_takes_turns_and_measures_the_best_again():
    strategy = enas(spec_of(FLAT, seed=0), rounds=2, epochs=3, measures=4, policy_paths=6)
    number, told, kinds = 0, {}, []
    while len(kinds) < 12:
        proposal = strategy.ask(number)
        if isinstance(proposal, TrainShared):
            kinds.append("train")
            if kinds.count("train") == 2:
                assert len(proposal.paths) == 6 and proposal.weights == WEIGHTS
                strategy.tell(number, trained(proposal, sha="1"))
            else:
                assert not proposal.paths
                strategy.tell(number, trained(proposal))
        else:
            kinds.append("final" if proposal.weights is None else f"on {proposal.weights.sha256[0]}")
            value = sum(option == "a" for option in proposal.architecture.values.values())
            told.setdefault(kinds[-1], []).append((value, proposal.architecture))
            strategy.tell(number, finished(float(value)))
        number += 1
    assert kinds == ["train", *["on 0"] * 4, "train", *["on 1"] * 4, "final", "final"]
    best_before = max(told["on 0"], key=lambda pair: pair[0])
    assert told["on 1"][0] == best_before
    assert told["final"][0][0] == max(value for value, _ in told["on 1"])


def test_a_later_training_that_fails_leaves_the_search_what_it_has():
    strategy = enas(spec_of(FLAT, seed=0), rounds=3, measures=2)
    strategy.tell(0, trained(strategy.ask(0)))
    points = [strategy.ask(number).architecture for number in (1, 2)]
    strategy.tell(1, finished(0.1))
    strategy.tell(2, finished(0.9))
    assert isinstance(strategy.ask(3), TrainShared)
    strategy.tell(3, Result.failed("diverged", "the loss became NaN"))
    final = strategy.ask(4)
    assert final.weights is None and final.architecture == points[1]


def test_where_nothing_new_is_left_none_changes_nothing():
    """With a measure still out, an exhausted space gives None, again and again, then the best is trained."""
    strategy = spos(spec_of(SMALL, seed=0), measures=50)
    strategy.tell(0, trained(strategy.ask(0)))
    for number in range(1, 7):
        assert strategy.ask(number).weights is not None
        if number < 6:
            strategy.tell(number, finished(float(number)))
    assert strategy.ask(7) is None and strategy.ask(7) is None
    strategy.tell(6, finished(0.0))
    assert strategy.ask(7).weights is None


def test_rounds_are_ranked_among_themselves():
    """A supernet that was trained further makes every measure look better; the policy must not learn from that."""
    policy = Reinforce(spec_of(FLAT, seed=0))
    for number in range(20):
        policy.ask(number)
        policy.tell(number, finished(0.3 + 0.001 * number))
    policy.restart_rewards()
    rewards = [policy._rewards(finished(0.5 + 0.001 * ((7 * i) % 20))) for i in range(20)]
    assert abs(sum(rewards) / 20) < 0.5


def test_weights_that_were_lost_end_the_search():
    strategy = spos(spec_of(FLAT, seed=0))
    strategy.ask(0)
    strategy.tell(0, Result.failed("out_of_memory", "no memory"))
    assert strategy.ask(1) is None


def test_a_measure_of_a_journal_without_weights_is_a_final_one():
    strategy, again = spos(spec_of(FLAT, seed=0), measures=1), spos(spec_of(FLAT, seed=0), measures=1)
    lines = []
    for number in range(3):
        proposal = strategy.ask(number)
        result = trained(proposal) if number == 0 else finished(1.0)
        strategy.tell(number, result)
        lines.append((number, proposal, result))
    assert isinstance(lines[2][1], Measure) and lines[2][1].weights is None
    for number, proposal, result in lines:
        again.recall(number, proposal)
        again.tell(number, result)
    assert again.ask(3) == strategy.ask(3)


def test_of_several_limits_the_one_exceeded_most_sets_the_prices():
    """Only FLOPs are above their limit: letters of few FLOPs, which have most parameters, must be preferred."""
    limits = (Constraint("cost/flops", 26.0), Constraint("cost/params", 1000.0))
    strategy = gdas(replace(spec_of(FLAT, seed=0), constraints=limits))
    strategy.tell(0, trained(strategy.ask(0), "a"))
    allowed = 0
    for number in range(1, 40):
        letters = ["abcde".index(letter) for letter in strategy.ask(number).architecture.values.values()]
        costs = {"cost/flops": float(sum(10 - 2 * place for place in letters)), "cost/params": 10.0 + sum(letters)}
        excess = sum(limit.violation(costs) for limit in limits)
        if excess:
            strategy.tell(number, Result("rejected", metrics={**costs, "constraint/violation": excess}))
        else:
            allowed += 1
            strategy.tell(number, Result("finished", values=(0.5,), steps_done=3, metrics=costs))
    assert allowed >= 10
