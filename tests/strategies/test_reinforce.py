"""REINFORCE and PPO: their gradients on a bandit, and planted problems with known answers."""

import math
import random
import statistics

import pytest
import torch
from expecting import raises

from nasforge import registry
from nasforge.core.errors import ConfigError
from nasforge.core.goals import Constraint
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.core.trial import Measure, Result
from nasforge.strategies.policy import PPO, Policy, clipped
from nasforge.strategies.random import Random
from nasforge.strategies.reinforce import Reinforce, gradient, softmax
from nasforge.testing.scripted import FLAT, NESTED, SMALL, best_planted, drive, replay, spec_of

BOTH = pytest.mark.parametrize("factory", [Reinforce, PPO], ids=["reinforce", "ppo"])
ARMS = [0.3, -1.2, 2.0, 0.5]
LOGITS = [0.4, -0.3, 0.1, 1.1]


def finished(value, **costs):
    return Result("finished", {f"cost/{name}": cost for name, cost in costs.items()}, (value,), 3)


def bandit(logits, entropy):
    """What a softmax earns on the arms, with its entropy bonus."""
    chances = softmax(logits)
    return sum(p * (arm - entropy * math.log(p)) for p, arm in zip(chances, ARMS, strict=True))


def slope(logits, index, entropy, h=1e-6):
    up, down = ([z + sign * h * (i == index) for i, z in enumerate(logits)] for sign in (1, -1))
    return (bandit(up, entropy) - bandit(down, entropy)) / (2 * h)


@pytest.mark.parametrize("entropy", [0.0, 0.7])
@pytest.mark.parametrize("expected", [0.0, 1.3])
def test_reinforce_is_the_gradient_of_the_bandit_whatever_the_baseline(entropy, expected):
    chances = softmax(LOGITS)
    steps = [gradient(chances, option, arm - expected, entropy) for option, arm in enumerate(ARMS)]
    for index in range(len(LOGITS)):
        mean = sum(p * step[index] for p, step in zip(chances, steps, strict=True))
        assert mean == pytest.approx(slope(LOGITS, index, entropy), abs=1e-6)


def test_ppo_is_the_gradient_of_the_bandit_where_the_policy_has_not_moved():
    logits = torch.tensor(LOGITS, dtype=torch.double, requires_grad=True)
    logs = logits.log_softmax(0)
    gain = clipped(logs, logs.detach(), torch.tensor(ARMS, dtype=torch.double), 0.2)
    (logs.exp().detach() * gain).sum().backward()
    assert logits.grad.tolist() == pytest.approx([slope(LOGITS, i, 0.0) for i in range(4)], abs=1e-6)


@pytest.mark.parametrize(
    ("moved", "advantage", "learns"), [(0.5, 1, False), (0.5, -1, True), (-0.5, 1, True), (-0.5, -1, False)]
)
def test_ppo_gains_nothing_by_moving_further_the_same_way(moved, advantage, learns):
    log_chance = torch.tensor(-1.0 + moved, requires_grad=True)
    gain = clipped(log_chance, torch.tensor(-1.0), torch.tensor(float(advantage)), 0.2)
    gain.backward()
    assert gain.item() == pytest.approx(
        min(math.exp(moved) * advantage, min(1.2, max(0.8, math.exp(moved))) * advantage)
    )
    assert log_chance.grad.item() == pytest.approx(math.exp(moved) * advantage if learns else 0.0)


def test_the_policys_batch_agrees_with_its_steps_on_a_conditional_space():
    policy = Policy(NESTED, 8, 3)
    torch.nn.init.normal_(policy.head.weight, generator=torch.Generator().manual_seed(0))
    strategy = PPO(spec_of(NESTED, seed=1))
    strategy._policy = policy
    rng = random.Random(5)
    for number in range(12):
        strategy.recall(number, Measure(NESTED.sample(rng)))
    points, asked = zip(*strategy._running.values(), strict=True)
    assert len({len(point) for point in points}) > 2  # of different lengths, so padded
    logs, entropies = policy(policy.batched(points))
    for row, (point, expected) in enumerate(zip(points, asked, strict=True)):
        assert logs[row, : len(point)].tolist() == pytest.approx(expected, abs=1e-5)
        assert not logs[row, len(point) :].any() and not entropies[row, len(point) :].any()
        sizes = [len(NESTED.domains[key].options) if "to" not in key else 4 for key, _ in point]
        assert all(0 < h <= math.log(n) + 1e-6 for h, n in zip(entropies[row].tolist(), sizes, strict=False))


def test_a_new_policy_is_uniform_and_its_weights_come_from_the_seed_alone():
    before = torch.get_rng_state()
    first, again, other = (Policy(NESTED, 8, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lstm.weight_hh"], other["lstm.weight_hh"])
    strategy = PPO(spec_of(NESTED, seed=0))
    strategy.ask(0)
    for (key, _), log_chance in zip(*strategy._running[0], strict=True):
        assert log_chance == pytest.approx(-math.log(strategy._policy.sizes[key]))


def test_only_active_decisions_are_updated():
    strategy = Reinforce(spec_of(NESTED, seed=0), entropy=0.0)
    point = NESTED.default_point()
    strategy.recall(0, Measure(point))
    strategy.tell(0, finished(1.0))
    moved = {key for key, logits in strategy._logits.items() if any(logits)}
    assert moved == set(point.values) and len(moved) < len(NESTED.domains)


def test_a_late_result_counts_by_the_chances_at_its_ask():
    ahead, late = Reinforce(spec_of(FLAT, seed=0)), Reinforce(spec_of(FLAT, seed=0))
    points = [Measure(FLAT.sample(random.Random(seed))) for seed in range(2)]
    for strategy in (ahead, late):
        strategy.recall(0, points[0])
    late.recall(1, points[1])
    for strategy in (ahead, late):
        strategy.tell(0, finished(0.5))
    ahead.recall(1, points[1])
    assert late._running[1] != ahead._running[1]
    key, option, chances = late._running[1][0]
    before = late._logits[key]
    late.tell(1, finished(0.9))
    advantage = (-math.log(1 - 0.75) - 1) - (1 - 0.95) * (-math.log(0.5) - 1)
    step = [0.4 * g for g in gradient(chances, option, advantage, 0.2)]
    assert late._logits[key] == pytest.approx([z + s for z, s in zip(before, step, strict=True)])


@BOTH
def test_the_best_arm_becomes_likely(factory):
    space = SearchSpace("arms", (Decision("model.arm", Choice(tuple(range(4)))), Decision("train.x", Float(0, 1))))
    strategy = factory(spec_of(space, seed=0))
    pulled = []
    for number in range(150):
        arm = strategy.ask(number).architecture.values["model.arm"]
        pulled.append(arm)
        strategy.tell(number, finished(ARMS[arm]))
    assert pulled[-50:].count(2) > 30


def feasible_search(strategy, space, violation, value, accepted):
    """Rejections, and the best value found, until so many trials were accepted."""
    rejections = number = 0
    best = -math.inf
    while number - rejections < accepted:
        point = strategy.ask(number).architecture
        excess = violation(point.values)
        if excess > 0:
            rejections += 1
            strategy.tell(number, Result("rejected", metrics={"constraint/violation": excess}))
        else:
            best = max(best, value(point.values))
            strategy.tell(number, finished(value(point.values)))
        number += 1
    return rejections, best


WIDTHS = (16, 32, 64, 128)
STACK = SearchSpace(
    "stack",
    tuple(
        Decision(
            f"model.layer{i}",
            Choice(("skip", "conv"), ((), (Decision(f"model.layer{i}.conv.width", Choice(WIDTHS)),))),
        )
        for i in range(8)
    ),
)


def widths(values):
    return [values.get(f"model.layer{i}.conv.width", 0) for i in range(8)]


@BOTH
def test_what_is_allowed_is_learnt_from_rejections_on_a_conditional_space(factory):
    """At most 64 channels in all, a layer is worth the root of its own: four layers of 16 are the optimum, worth 16."""

    def violation(values):
        return max(0.0, sum(widths(values)) / 64 - 1)

    def value(values):
        return sum(math.sqrt(width) for width in widths(values))

    rng = random.Random(0)
    share = statistics.mean(violation(STACK.sample(rng).values) == 0 for _ in range(4000))
    assert 0.02 < share < 0.08
    rejections, best = zip(
        *(feasible_search(factory(spec_of(STACK, seed=s)), STACK, violation, value, 60) for s in range(4)), strict=True
    )
    assert statistics.mean(rejections) < 60 / share / 4
    baseline = [feasible_search(Random(spec_of(STACK, seed=s)), STACK, violation, value, 60)[1] for s in range(4)]
    assert statistics.mean(best) > statistics.mean(baseline)
    assert max(best) == 16


@BOTH
def test_a_soft_target_is_met_more_often_than_without(factory):
    target = Constraint("cost/flops", 120.0)

    def met(targets):
        count = 0
        for seed in range(3):
            strategy = factory(spec_of(STACK, seed=seed, targets=targets))
            for number in range(80):
                flops = sum(widths(strategy.ask(number).architecture.values))
                count += number >= 40 and flops <= target.bound
                strategy.tell(number, finished(1 - 1 / (2 + flops), flops=flops))
        return count / 120

    assert met((target,)) > 0.4 > 0.1 > met(())


@BOTH
def test_the_planted_optimum_of_a_conditional_space_is_reached(factory):
    reached = statistics.mean(best_planted(factory, NESTED, seed, asks=120) for seed in range(3))
    assert reached > 0.95 > 0.94 > statistics.mean(best_planted(Random, NESTED, seed, asks=120) for seed in range(20))


def test_ppo_learns_decisions_that_depend_on_each_other():
    """Every option is as good as the others alone; only the second's agreement with the first counts."""
    pair = tuple(Decision(f"model.{name}", Choice(tuple("abcd"))) for name in ("x", "y"))
    space = SearchSpace("pairs", (*pair, Decision("train.free", Float(0, 1))))
    strategy = PPO(spec_of(space, seed=0))
    agreed = []
    for number in range(300):
        values = strategy.ask(number).architecture.values
        agreed.append(values["model.x"] == values["model.y"])
        strategy.tell(number, finished(float(agreed[-1])))
    assert sum(agreed[-100:]) > 60  # 25 by chance


@BOTH
def test_replay_after_rejections_and_targets_continues_the_search(factory):
    def made():
        return factory(spec_of(FLAT, seed=2))

    whole = drive(made(), FLAT, asks=60, workers=5)
    replayed = made()
    replay(replayed, whole[:83])
    assert drive(replayed, FLAT, asks=60, workers=5, journal=whole[:83]) == whole


@BOTH
def test_an_exhausted_space_does_not_hang(factory):
    points = [
        content.architecture
        for _, content in drive(factory(spec_of(SMALL, seed=0)), SMALL, asks=30)
        if isinstance(content, Measure)
    ]
    assert len(points) == 30


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_two_objectives_are_refused(name):
    with raises(ConfigError, "unsupported", "objectives"):
        registry.get("strategy", name)(spec_of(FLAT, seed=0, objectives=2))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("reinforce", {"learning_rate": 0.0}, ("range", "strategy", "learning_rate")),
        ("reinforce", {"memory": 1.0}, ("range", "strategy", "memory")),
        ("ppo", {"clip": 1.0}, ("range", "strategy", "clip")),
        ("ppo", {"batch": 30}, ("range", "strategy", "batch", "window")),
        ("ppo", {"beyond": 1.0}, ("range", "beyond")),
    ],
)
def test_wrong_options_are_refused(name, options, expected):
    with raises(ConfigError, *expected):
        registry.get("strategy", name)(spec_of(FLAT, seed=0), **options)
