import pytest
import torch
from timm.optim import Lamb, Muon
from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.training.optimisation import optimizer_of, schedule_of


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def rates(recipe, epochs=10, steps=10):
    optimizer = optimizer_of(network(), recipe)
    schedule = schedule_of(optimizer, recipe, epochs, steps)
    per_step = []
    for step in range(epochs * steps):
        schedule.step_update(step)
        per_step.append(optimizer.param_groups[0]["lr"])
    return per_step


OPTIMIZERS = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "lamb": Lamb,
    "muon": Muon,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_spares_biases_and_normalisations(name):
    optimizer = optimizer_of(network(), Recipe(optimizer=name, weight_decay=0.01))
    decay = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {1: 0.0, 2: 0.01, 4: 0.01}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_each_optimizer_is_the_one_it_is_called():
    assert {name: type(optimizer_of(network(), Recipe(optimizer=name))) for name in OPTIMIZERS} == OPTIMIZERS
    for nesterov in (True, False):
        group = optimizer_of(network(), Recipe(nesterov=nesterov, momentum=0.8)).param_groups[0]
        assert (group["nesterov"], group["momentum"]) == (nesterov, 0.8)
    assert optimizer_of(network(), Recipe(momentum=0.0)).param_groups[0]["nesterov"] is False


def test_momentum_and_betas_reach_the_optimizer():
    settings = {"momentum": 0.7, "beta1": 0.8, "beta2": 0.95, "learning_rate": 0.01}
    groups = {name: optimizer_of(network(), Recipe(optimizer=name, **settings)).param_groups[0] for name in OPTIMIZERS}
    assert {name for name, group in groups.items() if group.get("momentum") == 0.7} == {"sgd", "rmsprop", "muon"}
    assert {name for name, group in groups.items() if group.get("betas") == (0.8, 0.95)} == {
        *("adam", "adamw", "lamb", "muon")
    }
    assert all(group["lr"] == 0.01 for group in groups.values())


def test_muon_orthogonalises_convolutions_and_leaves_vectors_to_adamw():
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8))
    optimizer = optimizer_of(net, Recipe(optimizer="muon", learning_rate=1e-3, weight_decay=0.0, nesterov=False))
    before = {name: tensor.clone() for name, tensor in net.named_parameters()}
    net(torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    optimizer.step()
    moved = {name: (tensor - before[name]).detach() for name, tensor in net.named_parameters()}
    steps = torch.linalg.svdvals(moved["0.weight"].flatten(1))
    assert steps.max() < 1.5 * steps.min()  # an orthogonal matrix, as nearly as Newton and Schulz come
    assert torch.allclose(moved["1.weight"].abs(), torch.full((8,), 1e-3), rtol=0.1)  # Adam's first step


def test_cosine_falls_from_the_rate_to_zero():
    course = rates(Recipe(learning_rate=0.2))
    assert course[0] == pytest.approx(0.2)
    assert course[50] == pytest.approx(0.1)
    assert course[-1] < 1e-3
    assert course == sorted(course, reverse=True)


def test_warmup_rises_and_then_the_schedule_has_the_rest():
    course = rates(Recipe(learning_rate=0.2, warmup_epochs=2))
    assert course[0] == pytest.approx(0.2 / 21)
    assert course[:21] == sorted(course[:21])
    assert course[20] == pytest.approx(0.2)
    assert course[60] == pytest.approx(0.1)
    assert course[-1] < 1e-3


def test_one_cycle_peaks_at_30_percent():
    course = rates(Recipe(learning_rate=0.5, schedule="one_cycle"))
    assert course[0] == pytest.approx(0.02)
    assert course.index(max(course)) == 30
    assert max(course) == pytest.approx(0.5)
    assert course[-1] < 1e-3


def test_step_and_exponential_meet_at_the_stairs():
    stairs = rates(Recipe(learning_rate=1.0, schedule="step", decay=0.5, decay_epochs=2))
    smooth = rates(Recipe(learning_rate=1.0, schedule="exponential", decay=0.5, decay_epochs=2))
    assert [stairs[i] for i in (0, 19, 20, 40, 99)] == pytest.approx([1, 1, 0.5, 0.25, 0.0625])
    assert [smooth[i] for i in (0, 10, 20, 40)] == pytest.approx([1, 0.5**0.5, 0.5, 0.25])


def test_constant_stays_after_its_warmup():
    course = rates(Recipe(learning_rate=0.3, schedule="constant", warmup_epochs=1))
    assert course[0] < 0.05
    assert set(course[10:]) == {0.3}


def test_inverse_time_meets_the_decay_and_then_falls_ever_slower():
    course = rates(Recipe(learning_rate=1.0, schedule="inverse_time", decay=0.5, decay_epochs=2, warmup_epochs=1))
    assert course[:11] == sorted(course[:11])
    assert [course[i] for i in (10, 30, 50, 90)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 5])


SCHEDULES = ["cosine", "one_cycle", "step", "exponential", "inverse_time", "constant"]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_depends_on_the_step_alone(schedule):
    recipe = Recipe(schedule=schedule, warmup_epochs=1)
    optimizer = optimizer_of(network(), recipe)
    schedule_of(optimizer, recipe, 10, 10).step_update(57)
    assert optimizer.param_groups[0]["lr"] == rates(recipe)[57]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_shortest_training_has_a_rate(schedule, caplog):
    assert rates(Recipe(schedule=schedule, warmup_epochs=1), epochs=1, steps=3)[-1] > 0
    assert not caplog.records  # timm warns of a cosine of one step
    assert all(rate > 0 for rate in rates(Recipe(schedule=schedule, warmup_epochs=5), epochs=1, steps=1))


def test_inverse_time_has_fallen_by_the_decay_after_a_third_of_the_training():
    falling = rates(Recipe(schedule="inverse_time", learning_rate=1.0, decay=0.1, warmup_epochs=0), epochs=9)
    assert falling[30] == pytest.approx(0.1)
