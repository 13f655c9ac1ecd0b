"""Every relaxation: what it computes, its expectation, its gradient; the expected cost; the bilevel step."""

import random
from dataclasses import replace

import pytest
import torch
from expecting import raises
from torch import nn
from torch.nn.functional import cross_entropy

from nasforge import registry
from nasforge.core.alphas import Settings, derive
from nasforge.core.architecture import MODEL
from nasforge.core.errors import BuildError, ConfigError
from nasforge.core.recipe import Recipe
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.core.trial import TrainShared
from nasforge.data import load_data
from nasforge.models.costs import count_flops, count_params
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.supernet import bilevel
from nasforge.supernet.bilevel import AlphaSteps, unrolled_gradient
from nasforge.supernet.cost_term import CostTerm
from nasforge.supernet.expected_cost import ExpectedCost
from nasforge.supernet.job import shared_training
from nasforge.supernet.mixed import Mixture, Share
from nasforge.supernet.network import build_supernet
from nasforge.supernet.relaxations import concentration, drawn, relaxation_of
from nasforge.supernet.relaxed import Relaxed, forward_flops, moved
from nasforge.training.hooks import Step

ALPHAS = torch.tensor([0.5, -1.0, 1.5])


def scaled(pick, *, in_channels, classes):
    """A network whose decisions are known functions: x times one of three numbers, twice."""

    class Times(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return self.factor * x

    layers = [pick(key, {f: lambda f=f: Times(f) for f in (1, 2, 4)}) for key in ("a", "b")]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(in_channels, classes, bias=False))


SPACE = SearchSpace(
    "scaled", tuple(Decision(f"model.{key}", Choice((1, 2, 4))) for key in "ab"), builder=f"{__name__}:scaled"
)


@pytest.mark.parametrize("name", registry.names("relaxation"))
def test_expected_shares(name):
    """The mean of many samples is what `probabilities` says; each sample is a distribution over the options."""
    torch.manual_seed(0)
    relaxation = relaxation_of(name)
    samples = [relaxation(ALPHAS, 0.5) for _ in range(4000)]
    weights = torch.stack([share.weights for share in samples])
    assert torch.allclose(weights.sum(1), torch.ones(4000), atol=1e-5) and (weights >= 0).all()
    tolerance = 0.06 if name == "gumbel_soft" else 0.02  # a relaxed sample is biased at temperature 0.5
    assert torch.allclose(weights.mean(0), relaxation.probabilities(ALPHAS), atol=tolerance)
    if name == "gumbel_hard":
        assert all(len(share.active) == 1 and share.weights[share.active[0]] == 1 for share in samples[:50])


def test_softmax_is_the_papers_and_dirichlets_mean_is_its_concentration():
    assert torch.allclose(relaxation_of("softmax")(ALPHAS, 9.0).weights, ALPHAS.exp() / ALPHAS.exp().sum())
    assert concentration(torch.zeros(3)).tolist() == pytest.approx([1.0001] * 3)


def test_the_gradient_of_a_hard_sample_is_that_of_the_relaxed_one():
    alphas = ALPHAS.clone().requires_grad_()
    values = torch.tensor([1.0, 2.0, 4.0])
    torch.manual_seed(3)
    (relaxation_of("gumbel_hard")(alphas, 0.7).weights * values).sum().backward()
    soft = ALPHAS.clone().requires_grad_()
    torch.manual_seed(3)
    (relaxation_of("gumbel_soft")(soft, 0.7).weights * values).sum().backward()
    assert torch.allclose(alphas.grad, soft.grad)


def test_the_score_functions_gradient_is_that_of_the_expectation():
    """E[value * grad log p] = grad E[value], for what is drawn instead of shared."""
    torch.manual_seed(1)
    values = torch.tensor([1.0, 2.0, 4.0])
    alphas = ALPHAS.clone().requires_grad_()
    total = torch.zeros(())
    for _ in range(6000):
        index, log_probability = drawn(alphas)
        total = total + (values[index] - 2.5) * log_probability / 6000
    total.backward()
    exact = ALPHAS.clone().requires_grad_()
    (torch.softmax(exact, 0) * values).sum().backward()
    assert torch.allclose(alphas.grad, exact.grad, atol=0.03)


def test_a_soft_mixture_is_the_weighted_sum():
    supernet = build_supernet(SPACE, 1, 2)
    shares = {"a": Share((0, 1, 2), torch.tensor([0.2, 0.3, 0.5])), "b": Share((1,))}
    supernet.mix(shares)
    x = torch.randn(3, 1, 1, 1)
    factor = (0.2 * 1 + 0.3 * 2 + 0.5 * 4) * 2
    assert torch.allclose(supernet(x), factor * supernet.network[3](x.flatten(1)))
    with raises(BuildError, "missing", None, "model.b"):
        supernet.mix({"a": shares["a"]})


def test_options_that_do_not_count_are_not_computed():
    supernet = build_supernet(SPACE, 1, 2)
    supernet.mix({"a": Share((2,)), "b": Share((0, 1), torch.tensor([0.5, 0.5, 0.0]))})
    ran = []
    for name, module in supernet.named_modules():
        if type(module).__name__ == "Times":
            module.register_forward_hook(lambda m, i, o, name=name: ran.append(name))
    supernet(torch.randn(1, 1, 1, 1))
    assert ran == ["network.0.@a=4", "network.1.@b=1", "network.1.@b=2"]


def test_alphas_are_no_weights_and_must_fit():
    relaxed = Relaxed(build_supernet(SPACE, 1, 2), "softmax")
    assert set(relaxed.alphas) == {"a", "b"} and set(relaxed.plain) == {"model.a", "model.b"}
    assert all(parameter is not alpha for parameter in relaxed.parameters() for alpha in relaxed.alphas.values())
    with raises(ConfigError, "invalid", "model.b", 3):
        Relaxed(build_supernet(SPACE, 1, 2), "softmax", {"model.a": (0, 0, 0), "model.b": (0, 0)})


@pytest.mark.parametrize("metric", ["cost/flops", "cost/params"])
def test_expected_cost_of_certain_decisions_is_the_childs(metric):
    full = load_space("tiny")
    fixed = {key: full.default_of(key) for key in full.domains if key.startswith("train.") or key.endswith("width")}
    space = full.fixed(fixed)
    supernet = build_supernet(space, 1, 10)
    expected = ExpectedCost(supernet, metric, (1, 8, 8))
    keys = {module.key for module in supernet.modules() if isinstance(module, Mixture)}
    drawn_costs = []
    for seed in range(5):
        point = space.sample(random.Random(seed))
        certain = {}
        for key in keys:
            options = space.domains[MODEL + key].values
            taken = point.model.get(key, options[0])
            certain[key] = torch.tensor([float(option == taken) for option in options])
        child = build(space, point, in_channels=1, classes=10)
        exact = count_flops(child, (1, 8, 8)) if metric == "cost/flops" else count_params(child)
        assert float(expected(certain)) == exact
        drawn_costs.append(exact)


def test_expected_cost_is_the_mean_over_all_paths():
    full = load_space("tiny")
    point = dict(full.default_point().values)
    del point["model.stage1.layer1.block"], point["model.stage0.layer1.block"]
    nested = {f"model.stage{i}.layer1.block.bottleneck.reduction": 2 for i in (0, 1)}
    space = full.fixed(point).fixed(nested)
    supernet = build_supernet(space, 1, 10)
    expected = ExpectedCost(supernet, "cost/flops", (1, 8, 8))
    torch.manual_seed(0)
    keys = ("stage0.layer1.block", "stage1.layer1.block")
    p = {key: torch.softmax(torch.randn(len(space.domains[MODEL + key].options)), 0) for key in keys}
    total = 0.0
    for i, a in enumerate(space.domains[MODEL + keys[0]].options):
        for j, b in enumerate(space.domains[MODEL + keys[1]].options):
            child = build(
                space, space.fixed({MODEL + keys[0]: a, MODEL + keys[1]: b}).default_point(), in_channels=1, classes=10
            )
            total += float(p[keys[0]][i] * p[keys[1]][j]) * count_flops(child, (1, 8, 8))
    assert float(expected(p)) == pytest.approx(total, rel=1e-5)


def huge(pick, *, in_channels, classes):
    convolutions = {k: lambda k=k: nn.Conv2d(in_channels, 1, k, padding=k // 2, bias=False) for k in (1, 3)}
    return nn.Sequential(pick("kernel", convolutions), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, classes))


def test_the_expectation_of_large_costs_is_exact_too():
    """7e8 multiply-adds, and one more: a float32 holds whole numbers to 1.7e7."""
    space = SearchSpace("huge", (Decision("model.kernel", Choice((1, 3))),), builder=f"{__name__}:huge")
    shape = (1, 9001, 9001)
    with torch.device("meta"):
        supernet = build_supernet(space, 1, 1)
    expected = ExpectedCost(supernet, "cost/flops", shape)
    assert float(expected({"kernel": torch.tensor([0.0, 1.0])})) == 9 * 9001**2 + 1
    term = CostTerm(Relaxed(supernet, "softmax"), "cost/flops", 0.1, None, shape)  # else only of sampled paths
    assert term.penalty().requires_grad


def test_darts_hessian_vector_product_against_the_exact_one():
    """Equation 8 against autograd through the unrolled step, on a net small enough for it."""
    torch.manual_seed(0)
    weight = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    alpha = torch.randn(2, dtype=torch.float64, requires_grad=True)
    xs, ys = torch.randn(2, 8, 2, dtype=torch.float64), torch.randint(3, (2, 8))

    def loss(w, which):
        mixed = torch.softmax(alpha, 0)
        return cross_entropy((mixed[0] * xs[which] + mixed[1] * xs[which].tanh()) @ w.T, ys[which])

    rate = 0.1
    (slope,) = torch.autograd.grad(loss(weight, 0), weight, create_graph=True)
    (exact,) = torch.autograd.grad(loss(weight - rate * slope, 1), alpha)
    before = weight.detach().clone()
    (gradient,) = unrolled_gradient(lambda: loss(weight, 0), lambda: loss(weight, 1), [weight], [alpha], rate)
    (first_order,) = torch.autograd.grad(loss(weight, 1), alpha)
    assert torch.equal(weight, before)
    assert torch.allclose(gradient, exact, rtol=1e-4)
    assert not torch.allclose(first_order, exact, rtol=1e-2)


def alpha_steps(relaxation="softmax", cost_terms=None, bounds=None, **settings):
    full = load_space("tiny")
    point = dict(full.default_point().values)
    searched = "model.stage1.layer1.block"
    del point[searched]
    space = full.fixed(point).fixed({f"{searched}.bottleneck.reduction": 2})
    data = load_data(DataConfig("digits", images=200, validation=0.2))
    torch.manual_seed(0)
    relaxed = Relaxed(build_supernet(space, 1, 10), relaxation)
    steps = AlphaSteps(
        relaxed,
        data.train,
        Settings(**settings),
        steps=40,
        epochs=2,
        batch_size=16,
        seed=1,
        device=torch.device("cpu"),
        cost_terms=cost_terms,
        bounds=bounds,
    )
    return relaxed, steps, data.train


def test_a_step_moves_alphas_and_leaves_weights():
    relaxed, steps, _ = alpha_steps()
    alphas = {key: alpha.detach().clone() for key, alpha in relaxed.alphas.items()}
    weights = [parameter.clone() for parameter in relaxed.parameters()]
    relaxed.train()
    steps.before_step(Step(0, False, torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), 0.1))
    assert all(not torch.equal(alphas[key], alpha) for key, alpha in relaxed.alphas.items())
    assert all(torch.equal(a, b) for a, b in zip(weights, relaxed.parameters(), strict=True))


def test_what_is_not_derived_counts_in_no_diagnostic():
    for underived, skips in (("none", 1.0), ("identity", 0.0)):
        relaxed, steps, _ = alpha_steps(underived=underived)
        with torch.no_grad():
            for key, alpha in relaxed.alphas.items():
                alpha[relaxed.options(key).index("identity")] = 9.0
        assert steps.metrics(1)["alphas/skips"] == skips
        assert (relaxed.derived.model["stage1.layer1.block"] == "identity") is bool(skips)


def test_warmup_leaves_the_alphas():
    relaxed, steps, _ = alpha_steps(warmup_epochs=1)
    alphas = relaxed.plain
    relaxed.train()
    steps.before_step(Step(19, False, torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), 0.1))
    assert relaxed.plain == alphas
    steps.before_step(Step(20, False, torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), 0.1))
    assert relaxed.plain != alphas


@pytest.mark.parametrize("widths", [False, True])
def test_a_target_is_met_by_the_most_likely_network(widths):
    """Also with open widths, where costs are those of sampled paths."""
    full = load_space("tiny")
    point = dict(full.default_point().values)
    for key in ("model.stage1.layer1.block", *(["model.stage1.width"] if widths else [])):
        del point[key]
    space = full.fixed(point).fixed({"model.stage1.layer1.block.bottleneck.reduction": 2})
    torch.manual_seed(0)
    relaxed = Relaxed(build_supernet(space, 1, 10), "gumbel_hard")
    block = space.domains["model.stage1.layer1.block"].options
    with torch.no_grad():
        relaxed.alphas["stage1.layer1.block"][block.index("residual")] = 1.0
        if widths:
            relaxed.alphas["stage1.width"][-1] = 1.0
    narrowest = {"model.stage1.width": 12} if widths else {}
    cheapest = space.fixed({"model.stage1.layer1.block": "identity", **narrowest}).default_point()
    floor = count_params(build(space, cheapest, in_channels=1, classes=10))
    term = CostTerm(relaxed, "cost/params", 0.1, 1.1 * floor, (1, 8, 8))
    assert term.derived() > 1.1 * floor
    adam = torch.optim.Adam(relaxed.alphas.values(), lr=0.05)
    relaxed.train()
    for _ in range(150):
        relaxed.sample()
        adam.zero_grad()
        term.penalty().backward()
        adam.step()
    assert term.derived() <= 1.1 * floor


def test_isomorphic_cells_keep_costs_of_their_own():
    full = load_space("nasbench201")
    space = replace(full, arguments={**full.arguments, "channels": 4, "cells_per_stage": 1})
    relaxed = Relaxed(build_supernet(space, 1, 10), "gumbel_hard")
    term = CostTerm(relaxed, "cost/flops", 1.0, None, (1, 8, 8))
    one, pool = "nor_conv_3x3", "avg_pool_3x3"
    edges = [f"model.edge{edge}" for edge in ("0_1", "0_2", "1_2", "0_3", "1_3", "2_3")]
    cells = ((one, "none", "skip_connect", "none", pool, pool), (one, one, "none", "none", pool, pool))
    points = [space.point(dict(zip(edges, cell, strict=True))) for cell in cells]
    costs = [count_flops(build(space, point, in_channels=1, classes=10), (1, 8, 8)) for point in points]
    assert points[0].arch_id == points[1].arch_id and costs[0] != costs[1]
    assert [term._cost(point) for point in points] == costs


def test_costs_of_decisions_that_leave_out_others_are_of_what_is_built():
    """A DARTS cell keeps two edges of a node: what the other edges decide costs nothing."""
    full = load_space("darts")
    space = replace(full, arguments={**full.arguments, "channels": 4, "layers": 3})
    torch.manual_seed(0)
    relaxed = Relaxed(build_supernet(space, 1, 10), "gumbel_hard")
    term = CostTerm(relaxed, "cost/params", 1.0, None, (1, 8, 8))
    child = build(space, next(derive(space, relaxed.plain)), in_channels=1, classes=10)
    assert term.derived() == count_params(child)
    relaxed.train()
    for _ in range(2):  # the first sample is its own baseline
        relaxed.sample()
        relaxed.alphas["normal.node3.inputs"].grad = None
        term.penalty().backward()
    assert relaxed.alphas["normal.node3.inputs"].grad is not None
    with raises(ConfigError, "unsupported", "cost/params", "gumbel_hard"):
        CostTerm(Relaxed(relaxed.supernet, "softmax"), "cost/params", 1.0, None, (1, 8, 8))


def test_second_order_is_computed_in_fp32_where_the_rest_is_not():
    """Equation 8 compares networks a hundredth apart: bf16 would round the difference away."""
    exact, _, _ = alpha_steps()
    dtypes, steps, _ = alpha_steps(second_order=True)
    coarse, coarse_steps, _ = alpha_steps(second_order=True)
    coarse_steps._bf16 = True
    torch.manual_seed(1)
    images, labels = torch.randn(16, 1, 8, 8), torch.randint(10, (16,))
    for relaxed, alphas in ((dtypes, steps), (coarse, coarse_steps)):
        relaxed.train()
        alphas.before_step(Step(0, False, images, labels, 0.1))
    assert coarse.plain == dtypes.plain != exact.plain


def test_second_order_looks_ahead_by_the_loss_that_the_weights_lower(monkeypatch):
    """It compares losses of the same images: dropout must not leave out something else every time."""
    losses = []

    def compared(train_loss, validation_loss, weights, alphas, learning_rate):
        losses.extend(loss().item() for loss in (train_loss, train_loss, validation_loss, validation_loss))
        return [torch.zeros_like(alpha) for alpha in alphas]

    monkeypatch.setattr("nasforge.supernet.bilevel.unrolled_gradient", compared)
    for rate in (0.5, 0.0):
        relaxed, steps, _ = alpha_steps(second_order=True)
        steps._criterion = lambda logits, labels: 100 + cross_entropy(logits, labels)
        for module in relaxed.modules():
            if isinstance(module, nn.Dropout):
                module.p = rate
        relaxed.train()
        steps.before_step(Step(0, False, torch.randn(16, 1, 8, 8), torch.randint(10, (16,)), 0.1))
    assert losses[0] == losses[1] > 100 and losses[2] != losses[3]
    assert losses[4] == losses[5] != losses[0] and losses[6] == losses[7] < 100


def test_dropout_of_the_recipe_reaches_slices_that_were_made_before_it():
    full = load_space("tiny")
    space = full.fixed({key: full.default_of(key) for key in full.domains if key.startswith("train.")})
    supernet = build_supernet(space, 1, 10)
    point = space.sample(random.Random(0))
    supernet.activate(point)
    for module in supernet.network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    supernet.activate(point)  # the same slice again
    rates = [module.p for module in supernet._running[0].modules() if isinstance(module, nn.Dropout)]
    assert rates and set(rates) == {0.5}


def test_costs_of_sampled_paths_need_sampled_paths():
    full = load_space("tiny")
    space = full.fixed({key: full.default_of(key) for key in full.domains if key.startswith("train.")})
    relaxed = Relaxed(build_supernet(space, 1, 10), "softmax")
    with raises(ConfigError, "unsupported", "cost/flops", "gumbel_hard"):
        CostTerm(relaxed, "cost/flops", 1.0, None, (1, 8, 8))
    with raises(ConfigError, "unsupported", "cost/latency_ms"):
        CostTerm(relaxed, "cost/latency_ms", 1.0, None, (1, 8, 8))


def test_what_a_step_is_charged():
    relaxed, _, _ = alpha_steps()
    space = relaxed.supernet.space
    single = []
    for option in space.domains["model.stage1.layer1.block"].options:
        child = build(
            space, space.fixed({"model.stage1.layer1.block": option}).default_point(), in_channels=1, classes=10
        )
        single.append(count_flops(child, (1, 8, 8)))
    stem = min(single)  # identity costs nothing
    assert forward_flops(relaxed, (1, 8, 8)) == stem + sum(cost - stem for cost in single)  # softmax computes all
    hard, _, _ = alpha_steps("gumbel_hard")
    assert min(single) <= forward_flops(hard, (1, 8, 8)) <= max(single)


def test_steps_of_all_weights_at_once_are_those_of_each():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 2), (5,), (2, 2, 2)]
    starts, directions = ([torch.randn(shape, generator=generator) for shape in shapes] for _ in range(2))
    each, at_once = ([torch.zeros(shape) for shape in shapes] for _ in range(2))
    bilevel._shift(each, starts, directions, -0.3)
    bilevel._shift_at_once(at_once, starts, directions, -0.3)
    assert all(torch.allclose(a, b) for a, b in zip(each, at_once, strict=True))
    assert bilevel._norm_at_once(directions) == pytest.approx(bilevel._norm(directions), rel=1e-6)


def test_shares_go_to_a_gpu_in_one_copy(monkeypatch):
    shares = [torch.tensor([0.2, 0.8]), torch.tensor([0.5, 0.1, 0.4])]
    assert moved(shares, torch.device("cpu")) is shares and moved([], torch.device("cuda")) == []
    copies, copy = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *to: copies.append(len(tensor)) or copy(tensor, *to))
    there = moved(shares, torch.device("meta"))
    assert [tuple(share.shape) for share in there] == [(2,), (3,)] and all(share.is_meta for share in there)
    assert copies == [5]


def test_second_order_multiplies_all_bits(monkeypatch):
    seen, really = [], bilevel.unrolled_gradient

    def watched(*arguments):
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return really(*arguments)

    monkeypatch.setattr(bilevel, "unrolled_gradient", watched)
    before = torch.backends.cudnn.conv.fp32_precision
    _, steps, _ = alpha_steps(second_order=True)
    images = torch.randn(4, *steps._split.shape)
    steps.before_step(Step(10, False, images, torch.zeros(4, dtype=torch.long), 0.1))
    assert seen == ["ieee"] and torch.backends.cudnn.conv.fp32_precision == before


def at(number):
    return Step(number, False, torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.int64), 0.1)


def test_the_temperature_falls_linearly_to_its_last_value():
    relaxed, steps, _ = alpha_steps("gumbel_hard", temperature=8.0, last_temperature=0.2)
    relaxed.train()
    for number, temperature in ((0, 8.0), (13, 8.0 - 7.8 / 3), (39, 0.2)):
        steps.before_step(at(number))
        assert relaxed.temperature == pytest.approx(temperature)


@pytest.mark.parametrize("name", ["gumbel_soft", "gumbel_hard"])
def test_samples_are_as_sharp_as_the_temperature_says(name):
    """By the gradient of a share in its own alpha: of an even distribution it falls with the temperature."""
    slopes = {}
    for temperature in (1.0, 10.0):
        torch.manual_seed(0)
        slopes[temperature] = 0.0
        for _ in range(200):
            alphas = torch.zeros(3, requires_grad=True)
            share = relaxation_of(name)(alphas, temperature).weights[0]
            slopes[temperature] += torch.autograd.grad(share, alphas)[0][0].item() / 200
    assert slopes[10.0] < slopes[1.0] / 3


def test_the_regulariser_pulls_towards_the_flat_distribution():
    relaxed, steps, _ = alpha_steps("dirichlet", regulariser=1000.0, weight_decay=0.0)
    distance = relaxed.relaxation.distance
    with torch.no_grad():
        for alphas in relaxed.alphas.values():
            alphas.copy_(torch.linspace(-1.0, 1.0, len(alphas)))
    before = [distance(alphas).item() for alphas in relaxed.alphas.values()]
    relaxed.train()
    for number in range(5):
        steps.before_step(at(number))
    after = [distance(alphas).item() for alphas in relaxed.alphas.values()]
    assert all(b < a for a, b in zip(before, after, strict=True))


def test_alphas_see_normalised_images_in_a_new_order_every_pass():
    _, steps, split = alpha_steps()
    per_pass = len(split) // 16
    first, again = steps._batch(0)[0], steps._batch(per_pass)[0]
    images = torch.cat([steps._batch(number)[0] for number in range(per_pass)])
    assert images.mean().abs() < 0.1 and images.std().item() == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(first, again)


def open_width():
    full = load_space("tiny")
    point = dict(full.default_point().values)
    del point["model.stage1.width"]
    return full.fixed(point)


def steps_of_width():
    torch.manual_seed(0)
    relaxed = Relaxed(build_supernet(open_width(), 1, 10), "gumbel_hard")
    images = load_data(DataConfig("digits", images=200, validation=0.2)).train
    settings = Settings(learning_rate=0.05)
    length = {"steps": 200, "epochs": 2, "batch_size": 16}
    return relaxed, AlphaSteps(relaxed, images, settings, **length, seed=1, device=torch.device("cpu"))


def test_open_widths_learn_what_lowers_the_loss(monkeypatch):
    relaxed, steps = steps_of_width()

    def loss(images, labels):
        relaxed.sample()
        return torch.tensor(float(relaxed.taken["stage1.width"]))

    monkeypatch.setattr(steps, "_loss", loss)
    relaxed.train()
    for number in range(100):
        steps.before_step(at(number))
    assert relaxed.likeliest["stage1.width"] == 0
    _, again = steps_of_width()
    before = again.state_dict()["baseline"]
    again.load_state_dict(steps.state_dict())
    assert again.state_dict()["baseline"] == steps.state_dict()["baseline"] != before


def test_epochs_without_alphas_are_not_charged_for_them():
    full = load_space("tiny")
    point = dict(full.default_point().values)
    del point["model.stage1.layer1.block"]
    space = full.fixed(point).fixed({"model.stage1.layer1.block.bottleneck.reduction": 2})
    data = load_data(DataConfig("digits", images=200, validation=0.2))
    flops = []
    for warmup in (0, 5):
        proposal = TrainShared(space, "softmax", 10, settings={"warmup_epochs": warmup})
        supernet = build_supernet(space, 1, 10)
        flops.append(shared_training(proposal, supernet, data, Recipe(), 0, torch.device("cpu")).flops)
    assert flops[1] / flops[0] == pytest.approx((1 + 1 / 3) / (1 + 2 / 3))
