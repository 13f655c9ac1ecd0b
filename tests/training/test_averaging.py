import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.settings.experiment import DataConfig
from nasforge.training.averaging import average_of
from nasforge.training.loop import train
from nasforge.training.recalibration import recalibrate
from nasforge.training.scoring import Validation, score


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10))


def test_the_moving_average_follows_the_network():
    net = network()
    average = average_of(net, Recipe(ema_decay=0.9), 3)
    before = average.network[4].weight.clone()
    with torch.no_grad():
        net[4].weight += 1
    average.after_step(net, 1000)
    moved = average.network[4].weight - before
    assert torch.allclose(moved, torch.full_like(moved, 0.1), atol=1e-5)
    assert average_of(net, Recipe(), 3) is None


def test_tied_weights_move_once_a_step():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    average = average_of(net, Recipe(ema_decay=0.9), 3)
    before = average.network[0].weight.clone()
    with torch.no_grad():
        net[0].weight += 1
    average.after_step(net, 1000)
    assert torch.allclose(average.network[0].weight - before, torch.full((3, 3), 0.1), atol=1e-5)
    assert average.network[1].weight is average.network[0].weight


def test_the_mean_of_the_last_epochs_begins_when_it_is_time():
    net = network()
    average = average_of(net, Recipe(swa_share=0.5), 4)
    for done in (1, 2, 3, 4):
        with torch.no_grad():
            net[4].weight.fill_(done)
        average.after_epoch(net, done)
        if done < 3:
            assert average.network is None
    assert torch.equal(average.network[4].weight, torch.full((10, 36), 3.5))


def test_what_is_validated_and_kept_is_the_mean_with_statistics_of_its_own():
    data = load_data(DataConfig("digits", images=300, validation=0.2))
    seen: list[dict[str, torch.Tensor]] = []

    def swa(share, net):
        recipe = Recipe(learning_rate=0.1, batch_size=16, schedule="constant", swa_share=share, precision="fp32")

        def on_epoch(step, metrics):
            seen.append({key: tensor.clone() for key, tensor in net.state_dict().items()})
            return True

        return net, train(
            net, data.train, recipe, epochs=4, seed=1, validation=Validation(data.validation), on_epoch=on_epoch
        )

    net, averaged = swa(0.5, network())
    expected = (seen[2]["4.weight"] + seen[3]["4.weight"]) / 2
    assert torch.allclose(net[4].weight, expected, atol=1e-6)
    assert not torch.allclose(net[1].running_mean, seen[3]["1.running_mean"])
    _, alone = swa(0.0, network())
    assert averaged.metrics["train/loss"] == alone.metrics["train/loss"]
    assert averaged.metrics["val/loss"] != alone.metrics["val/loss"]


def test_statistics_are_taken_anew_before_validation_and_training_goes_its_way():
    data = load_data(DataConfig("digits", images=300, validation=0.2))

    def precise(batches):
        recipe = Recipe(learning_rate=0.3, batch_size=16, schedule="constant", precise_bn=batches, precision="fp32")
        net = network()
        return net, train(net, data.train, recipe, epochs=2, seed=1, validation=Validation(data.validation))

    net, outcome = precise(2)
    plain, other = precise(0)
    assert torch.equal(net[4].weight, plain[4].weight)  # training never reads running statistics
    assert outcome.metrics["train/loss"] == other.metrics["train/loss"]
    assert outcome.metrics["val/loss"] != other.metrics["val/loss"]
    recalibrate(plain, data.train, Recipe(), batches=2)
    assert same(net, plain)
    assert score(net, data.validation)["loss"] == outcome.metrics["val/loss"]


def test_statistics_are_those_of_images_augmented_as_in_training():
    data = load_data(DataConfig("digits", images=300, validation=0.2))
    means = []
    for recipe in (Recipe(), Recipe(crop_pixels=4)):
        norm = nn.BatchNorm2d(1)
        recalibrate(norm, data.train, recipe, batches=2)
        means.append(norm.running_mean.item())
    assert means[1] < means[0] - 0.1  # half of an image shifted by so much is black


@pytest.mark.parametrize(
    ("recipe", "validated", "batches"),
    [
        ({"precise_bn": 2}, True, [2, 2]),
        ({"precise_bn": 2}, False, [2]),  # nobody looks before the end
        ({"precise_bn": 2, "swa_share": 0.5}, True, [2, 2]),
        ({"precise_bn": 0, "swa_share": 0.5}, True, [16]),  # of the mean alone
        ({"precise_bn": 0, "ema_decay": 0.9}, True, []),
    ],
)
def test_statistics_are_taken_once_for_what_is_looked_at(recipe, validated, batches, monkeypatch):
    data = load_data(DataConfig("digits", images=300, validation=0.2))
    taken = []
    monkeypatch.setattr("nasforge.training.loop.recalibrate", lambda *args, batches, **kw: taken.append(batches))
    validation = Validation(data.validation) if validated else None
    train(network(), data.train, Recipe(precision="fp32", **recipe), epochs=2, seed=1, validation=validation)
    assert taken == batches


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_moving_average_is_timms_without_its_dictionaries(monkeypatch):
    net, theirs_net = network(), network()
    average, theirs = average_of(net, Recipe(ema_decay=0.9), 3), ModelEmaV3(theirs_net, decay=0.9, use_warmup=True)
    for done in range(1, 6):
        images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(done))
        for each in (net, theirs_net):
            each(images)
            with torch.no_grad():
                each[4].weight += done
        with monkeypatch.context() as patch:
            patch.setattr(nn.Module, "state_dict", lambda *_: pytest.fail("a step makes no dictionary"))
            average.after_step(net, done)
        theirs.update(theirs_net, step=done)
    average.after_epoch(net, 1)
    assert average.network[1].num_batches_tracked == 5
    for key, tensor in theirs.module.state_dict().items():
        assert torch.equal(tensor, average.state_dict()[key]), key
