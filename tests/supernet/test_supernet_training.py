import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError
from nasforge.core.recipe import Recipe
from nasforge.core.space import SearchSpace
from nasforge.data import load_data
from nasforge.data.augment import normalise
from nasforge.models.costs import count_flops
from nasforge.models.network import build
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.supernet import job
from nasforge.supernet.job import halves, recipe_point
from nasforge.supernet.network import build_supernet
from nasforge.supernet.paths import SampledPaths, fair, mean_flops, uniform
from nasforge.supernet.relaxations import relaxation_of
from nasforge.supernet.relaxed import Relaxed
from nasforge.training.loop import train
from nasforge.training.recalibration import recalibrate
from nasforge.training.state import Checkpoint

KEY = "model.stage1.layer1.block"


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    """One decision with five options, everything else fixed."""
    full = load_space("tiny")
    point = full.default_point().values
    small = full.fixed({key: value for key, value in point.items() if not key.startswith(KEY)})
    return small.fixed({f"{KEY}.bottleneck.reduction": 2})


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig("digits", images=300, validation=0.2))


def test_every_option_is_drawn_about_equally_often(space):
    supernet = build_supernet(space, 1, 10)
    drawn = Counter()
    paths = SampledPaths(supernet, uniform(space, (), 0))
    paths.supernet.activate = lambda point: drawn.update([point.values[KEY]])
    paths.supernet.forward = lambda x: x
    torch.manual_seed(0)
    for _ in range(500):
        paths(torch.zeros(1))
    assert set(drawn) == set(space.domains[KEY].options)
    assert all(60 < count < 140 for count in drawn.values())


def test_paths_restrict_what_is_drawn(space):
    only = [space.sample(random.Random(seed)) for seed in (1, 2)]
    draw = uniform(space, only, 0)
    assert {draw(step).arch_id for step in range(30)} == {point.arch_id for point in only}


def test_fair_paths_take_every_option_equally_often(space):
    draw = fair(space, (), 3)
    options = space.domains[KEY].options
    for turn in range(3):
        taken = [draw(step).values[KEY] for step in range(turn * len(options), (turn + 1) * len(options))]
        assert sorted(taken) == sorted(options)
    nested = load_space("tiny")  # a nested decision counts the steps in which it is active
    point = nested.default_point().values
    nested = nested.fixed({key: value for key, value in point.items() if not key.startswith(KEY)})
    key = f"{KEY}.bottleneck.reduction"
    draw = fair(nested, (), 0)
    active = [p.values[key] for p in (draw(step) for step in range(40)) if key in p.values]
    assert Counter(active) == {2: 4, 4: 4}


def test_a_training_split_is_divided_without_overlap(data):
    first, second = halves(data.train, 0.5, 1)
    assert abs(len(first) - len(second)) <= 1
    assert set(first.index) | set(second.index) == set(data.train.index)
    assert not set(first.index) & set(second.index)
    assert torch.equal(
        first.labels, torch.tensor([data.train.labels[list(data.train.index).index(i)] for i in first.index])
    )
    assert not torch.equal(halves(data.train, 0.5, 2)[0].labels, first.labels)


def test_diagnostics_look_at_images_of_all_classes(space, data, monkeypatch):
    """A folder of images has one class after the other."""
    measured = []
    monkeypatch.setattr(job, "_DIAGNOSED_IMAGES", 20)
    monkeypatch.setattr(job, "score", lambda network, split, **_: measured.append(split) or {"accuracy": 0.5})
    by_class = replace(data, validation=data.validation.subset(data.validation.labels.argsort()))
    relaxed = Relaxed(build_supernet(space, 1, 10), "gumbel_hard")
    job.accuracies(relaxed, by_class, data.train, Recipe(), torch.device("cpu"), False, torch.contiguous_format)
    assert [(len(split), len(split.absent)) for split in measured] == [(20, 0)] * 2


def test_one_path_a_step_in_training_and_none_in_eval(space):
    paths = SampledPaths(build_supernet(space, 1, 10), uniform(space, (), 0))
    seen = []
    activate = paths.supernet.activate
    paths.supernet.activate = lambda point: (seen.append(point), activate(point))
    x = torch.randn(4, 1, 8, 8)
    paths.eval()
    paths(x)
    assert not seen
    paths.train()
    paths(x)
    paths(x)
    assert len(seen) == 2


def test_training_is_continued_to_the_same_bits_in_the_middle_of_an_epoch(space, data, tmp_path: Path):
    recipe = Recipe(batch_size=32, learning_rate=0.1, ema_decay=0.9, precision="fp32")

    class Killed(Exception):
        pass

    def run(checkpoint: Path | None, die_at: int) -> tuple[dict[str, torch.Tensor], list[str]]:
        torch.manual_seed(5)
        drawn = []

        def draw(step: int):
            drawn.append(space.sample(random.Random(step)))
            if len(drawn) == die_at:
                raise Killed
            return drawn[-1]

        paths = SampledPaths(build_supernet(space, 1, 10), draw)
        train(paths, data.train, recipe, epochs=2, seed=1, checkpoint=Checkpoint(checkpoint, every_s=0.0))
        return paths.state_dict(), [point.arch_id for point in drawn[1:]]

    whole, paths = run(None, -1)
    with pytest.raises(Killed):
        run(tmp_path / "checkpoint.pt", 6)
    again, rest = run(tmp_path / "checkpoint.pt", -1)
    assert 0 < len(rest) < len(paths) and rest == paths[-len(rest) :]
    assert all(torch.equal(whole[key], tensor) for key, tensor in again.items())


def test_weights_of_a_path_that_did_not_run_stay_as_they_are(space, data):
    supernet = build_supernet(space, 1, 10)
    before = {key: tensor.clone() for key, tensor in supernet.state_dict().items()}
    only = [space.fixed({KEY: "separable_3"}).default_point()]
    recipe = Recipe(batch_size=64, weight_decay=0.1)
    train(SampledPaths(supernet, uniform(space, only, 0)), data.train, recipe, epochs=1, seed=0)
    changed = {key for key, tensor in supernet.state_dict().items() if not torch.equal(before[key], tensor)}
    mixed = {part for key in changed for part in key.split(".") if part.startswith("@")}
    assert mixed == {"@stage1:layer1:block=separable_3"}
    assert any("stem" in key for key in changed)


def test_mean_flops_lies_between_the_cheapest_and_the_dearest_path(space):
    means = []
    for option in space.domains[KEY].options:
        network = build(space, space.fixed({KEY: option}).default_point(), in_channels=1, classes=10)
        means.append(count_flops(network, (1, 8, 8)))
    supernet = build_supernet(space, 1, 10)
    mean = mean_flops(supernet, uniform(space, (), 0), (1, 8, 8))
    assert min(means) < mean < max(means)
    only = [space.fixed({KEY: "identity"}).default_point()]
    assert mean_flops(supernet, uniform(space, only, 0), (1, 8, 8)) == min(means)


def test_unknown_relaxation_is_refused_by_name():
    with raises(ConfigError, "unknown", "relaxation", "soft", "softmax"):
        relaxation_of("soft")


def test_an_open_recipe_is_refused_with_what_to_fix(space):
    assert recipe_point(space).train["batch_size"] == 64
    with raises(ConfigError, "conflict", "train.learning_rate", "train.momentum", "space.fixed"):
        recipe_point(load_space("tiny"))


def test_recalibration_takes_the_mean_over_the_training_batches(data):
    norm = nn.BatchNorm2d(1, momentum=0.3)
    network = nn.Sequential(norm, nn.Dropout(0.5), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        norm.running_mean.fill_(9.0)
        norm.weight.fill_(2.0)
    network.train()
    network[1].eval()
    weights = network[3].weight.clone()
    recalibrate(network, data.train, Recipe(), batches=3, batch_size=40, seed=1)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))[:120]
    seen = normalise(data.train.images[order], data.train.mean, data.train.std)
    assert norm.running_mean.item() == pytest.approx(seen.mean().item(), abs=1e-5)
    batches = [batch.var().item() for batch in seen.split(40)]
    assert norm.running_var.item() == pytest.approx(sum(batches) / 3, rel=1e-4)
    assert norm.momentum == 0.3 and norm.weight.item() == 2.0
    assert torch.equal(network[3].weight, weights)
    assert (network.training, norm.training, network[1].training) == (True, True, False)


def test_recalibration_of_a_part_smaller_than_a_batch(data):
    norm = nn.BatchNorm2d(1)
    recalibrate(norm, data.validation, Recipe(), batches=5, batch_size=10_000)
    assert norm.num_batches_tracked.item() == 1


def test_recalibration_reads_no_count_from_the_device(data, monkeypatch):
    norm, theirs = nn.BatchNorm2d(1), nn.BatchNorm2d(1, momentum=None)
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(1))[:120]
    for batch in normalise(data.train.images[order], data.train.mean, data.train.std).split(40):
        theirs(batch)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda tensor: pytest.fail("a GPU would be waited for"))
    recalibrate(norm, data.train, Recipe(), batches=3, batch_size=40, seed=1)
    assert all(torch.equal(tensor, norm.state_dict()[key]) for key, tensor in theirs.state_dict().items())
