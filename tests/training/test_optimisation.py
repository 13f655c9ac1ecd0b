import pytest
import torch
from torch import nn

from nasforge.training.optimisation import average_of, optimizer_of, schedule_of
from nasforge.training.recipe import Recipe


def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 3))


def rates(recipe, epochs=10, steps=10):
    optimizer = optimizer_of(network(), recipe)
    schedule = schedule_of(optimizer, recipe, epochs, steps)
    found = []
    for step in range(epochs * steps):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
def test_weight_decay_spares_biases_and_normalisations(name):
    optimizer = optimizer_of(network(), Recipe(optimizer=name, weight_decay=0.01))
    decay = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay == {1: 0.0, 2: 0.01, 4: 0.01}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6


def test_each_optimizer_is_the_one_it_is_called():
    kinds = {name: type(optimizer_of(network(), Recipe(optimizer=name))) for name in ("sgd", "adamw", "rmsprop")}
    assert kinds == {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    for nesterov in (True, False):
        group = optimizer_of(network(), Recipe(nesterov=nesterov, momentum=0.8)).param_groups[0]
        assert (group["nesterov"], group["momentum"]) == (nesterov, 0.8)
    assert optimizer_of(network(), Recipe(momentum=0.0)).param_groups[0]["nesterov"] is False


def test_cosine_falls_from_the_rate_to_zero():
    found = rates(Recipe(learning_rate=0.2))
    assert found[0] == pytest.approx(0.2)
    assert found[50] == pytest.approx(0.1)
    assert found[-1] < 1e-3
    assert found == sorted(found, reverse=True)


def test_warmup_rises_and_then_the_schedule_has_the_rest():
    found = rates(Recipe(learning_rate=0.2, warmup_epochs=2))
    assert found[0] == pytest.approx(0.2 / 21)
    assert found[:21] == sorted(found[:21])
    assert found[20] == pytest.approx(0.2)
    assert found[60] == pytest.approx(0.1)
    assert found[-1] < 1e-3


def test_one_cycle_peaks_at_30_percent():
    found = rates(Recipe(learning_rate=0.5, schedule="one_cycle"))
    assert found[0] == pytest.approx(0.02)
    assert found.index(max(found)) == 30
    assert max(found) == pytest.approx(0.5)
    assert found[-1] < 1e-3


def test_step_and_exponential_meet_at_the_stairs():
    stairs = rates(Recipe(learning_rate=1.0, schedule="step", decay=0.5, decay_epochs=2))
    smooth = rates(Recipe(learning_rate=1.0, schedule="exponential", decay=0.5, decay_epochs=2))
    assert [stairs[i] for i in (0, 19, 20, 40, 99)] == pytest.approx([1, 1, 0.5, 0.25, 0.0625])
    assert [smooth[i] for i in (0, 10, 20, 40)] == pytest.approx([1, 0.5**0.5, 0.5, 0.25])


def test_constant_stays_after_its_warmup():
    found = rates(Recipe(learning_rate=0.3, schedule="constant", warmup_epochs=1))
    assert found[0] < 0.05
    assert set(found[10:]) == {0.3}


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step", "exponential", "constant"])
def test_the_rate_depends_on_the_step_alone(schedule):
    recipe = Recipe(schedule=schedule, warmup_epochs=1)
    optimizer = optimizer_of(network(), recipe)
    schedule_of(optimizer, recipe, 10, 10).step_update(57)
    assert optimizer.param_groups[0]["lr"] == rates(recipe)[57]


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "step", "exponential", "constant"])
def test_the_shortest_training_has_a_rate(schedule):
    assert all(rate > 0 for rate in rates(Recipe(schedule=schedule, warmup_epochs=5), epochs=1, steps=1))


def test_the_average_follows_the_network():
    net = network()
    average = average_of(net, Recipe(ema_decay=0.9))
    before = average.module[3].weight.clone()
    with torch.no_grad():
        net[3].weight += 1
    average.update(net, step=1000)
    moved = average.module[3].weight - before
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-5)
    assert average_of(net, Recipe()) is None
