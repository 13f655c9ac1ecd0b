import dataclasses
import logging
import time

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.data.split import Split
from nasforge.settings.experiment import DataConfig
from nasforge.training import state
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import train
from nasforge.training.meter import Limits
from nasforge.training.scoring import Validation
from nasforge.training.state import Checkpoint

EVERYTHING = Recipe(
    learning_rate=0.1,
    batch_size=64,
    warmup_epochs=1,
    label_smoothing=0.1,
    clip_norm=1.0,
    ema_decay=0.95,
    crop_pixels=1,
    flip=True,
    cutout_pixels=2,
    dropout=0.2,
    precision="fp32",
)


def splits(images=300) -> tuple[Split, Split]:
    data = load_data(DataConfig("digits", images=images, validation=0.2))
    return data.train, data.validation


def network(seed=0, classes=10):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.0),
            nn.Linear(32, classes),
        )


def trained(recipe=EVERYTHING, net=None, epochs=3, seed=5, file=None, every_s=60, at=None, **settings):
    net = net if net is not None else network()
    split, validation = splits()
    settings = {"checkpoint": Checkpoint(file, every_s), "validation": Validation(validation, at=at)} | settings
    outcome = train(net, split, recipe, epochs=epochs, seed=seed, **settings)
    return net, outcome


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


class Interrupted(Exception):
    pass


def breaking(net, after_steps):
    """The network, raising in its n-th training forward: as good as a kill, nothing after it is written."""
    count = 0

    def hook(module, inputs):
        nonlocal count
        if module.training:
            count += 1
            if count > after_steps:
                raise Interrupted

    handle = net.register_forward_pre_hook(hook)
    return handle


def test_it_learns_and_reports_every_epoch():
    told = []
    _, outcome = trained(
        Recipe(learning_rate=0.2, batch_size=16), epochs=8, on_epoch=lambda step, m: told.append((step, m)) or True
    )
    assert [step for step, _ in told] == list(range(1, 9))
    assert outcome.metrics["val/accuracy"] > 0.6
    assert outcome.metrics["train/loss"] < 0.6 * told[0][1]["train/loss"]
    assert set(outcome.metrics) == {
        *("train/loss", "val/accuracy", "val/loss", "val/f1_macro"),
        *("time/train_s", "time/worker_s", "work/multiply_adds"),
    }
    assert (outcome.steps_done, outcome.stopped) == (8, False)


def test_a_seed_decides_everything_and_the_surrounding_generator_nothing():
    torch.manual_seed(1)
    a, first = trained()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    b, second = trained()
    assert torch.equal(torch.get_rng_state(), state)
    assert same(a, b)
    assert first.metrics["val/loss"] == second.metrics["val/loss"]
    assert not same(a, trained(seed=6)[0])


# 3 steps an epoch: in mid-epoch, at its end, twice
CUTS = [
    *(("sgd", steps) for steps in (1, 2, 3, 4, 7)),
    *(("rmsprop", 4), ("adagrad", 2), ("adam", 7), ("adamw", 3), ("lamb", 1), ("muon", 4)),
    *(("swa", 5), ("swa", 7), ("inverse_time", 4), ("augmented", 5), ("mixed", 2), ("balanced", 4)),
    *(("precise", 4), ("precise", 6)),
    *(("kept", 3), ("kept", 4), ("kept", 5), ("alternating", 2), ("alternating", 4)),
]


def altered(what):
    """`EVERYTHING` with another optimizer, average or schedule."""
    if what == "swa":
        return dataclasses.replace(EVERYTHING, ema_decay=0.0, swa_share=0.7)
    if what == "inverse_time":
        return dataclasses.replace(EVERYTHING, schedule=what)
    if what == "augmented":
        return dataclasses.replace(
            EVERYTHING,
            vertical_flip=True,
            rotation_degrees=20.0,
            color_jitter=0.3,
            randaugment=2,
            random_erasing=0.5,
            drop_path=0.0,
        )
    if what == "mixed":
        return dataclasses.replace(EVERYTHING, mixup=0.4, cutmix=1.0, manifold_mixup=0.4, loss="focal")
    if what == "precise":
        return dataclasses.replace(EVERYTHING, precise_bn=1)
    if what == "kept":  # a fourth step an epoch
        return dataclasses.replace(EVERYTHING, keep_last_batch=True)
    if what == "alternating":
        return dataclasses.replace(EVERYTHING, flip_order=what)
    if what == "balanced":
        return dataclasses.replace(EVERYTHING, sampling="balanced", loss="focal")
    return dataclasses.replace(EVERYTHING, optimizer=what, learning_rate=0.01)


@pytest.mark.parametrize(("what", "steps"), CUTS)
def test_a_continued_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, what, steps):
    recipe = altered(what)
    whole, outcome = trained(recipe)
    file = tmp_path / "checkpoint.pt"
    net = network()
    breaking(net, steps)
    with pytest.raises(Interrupted):
        trained(recipe, net, file=file, every_s=0)
    assert file.exists()
    net = network(seed=99)  # the checkpoint decides, not the initialisation
    seen = 0

    def count(module, inputs):
        nonlocal seen
        seen += module.training

    net.register_forward_pre_hook(count)
    continued, again = trained(recipe, net, file=file)
    assert seen == (12 if what == "kept" else 9) - steps  # nothing done is done again
    assert same(whole, continued)
    for key in ("val/accuracy", "val/loss", "train/loss", "work/multiply_adds"):
        assert again.metrics[key] == outcome.metrics[key]


def test_an_interruption_while_reporting_tells_the_epoch_again(tmp_path):
    file, told = tmp_path / "checkpoint.pt", []

    def first(step, metrics):
        told.append((step, metrics["val/loss"]))
        if step == 2:
            raise Interrupted
        return True

    with pytest.raises(Interrupted):
        trained(file=file, on_epoch=first)
    net, _ = trained(net=network(seed=99), file=file, on_epoch=lambda s, m: told.append((s, m["val/loss"])) or True)
    assert [step for step, _ in told] == [1, 2, 2, 3]
    assert told[1] == told[2]
    assert same(net, trained()[0])


def test_cost_is_summed_over_attempts(tmp_path, clock):
    file = tmp_path / "checkpoint.pt"

    def stop(step, metrics):
        raise Interrupted

    with pytest.raises(Interrupted):
        trained(file=file, limits=Limits(since=time.monotonic() - 50), on_epoch=stop, flops=1000.0)
    _, outcome = trained(file=file, on_epoch=lambda step, metrics: clock.move(0.1) or True, flops=1000.0)
    assert outcome.charged.worker_seconds == pytest.approx(50.2)  # epochs 1, told again, and 2; 3 is measured then
    assert outcome.charged.worker_seconds == outcome.metrics["time/worker_s"]
    assert outcome.charged.multiply_adds == 3 * 3 * 192 * 1000.0  # epochs, forward + backward, 3 batches of 64


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_a_checkpoint_that_cannot_be_used_is_said_and_recorded(tmp_path, damage, caplog):
    file = tmp_path / "checkpoint.pt"
    trained(epochs=2, file=file, seed=8 if damage == "foreign" else 5)
    if damage != "foreign":
        whole = file.read_bytes()
        file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello"}[damage])
    with caplog.at_level(logging.WARNING):
        net, outcome = trained(epochs=2, file=file)
    assert outcome.checkpoint_lost
    assert "start" in caplog.text
    assert same(net, trained(epochs=2)[0])
    assert not trained(epochs=2, file=file)[1].checkpoint_lost


def test_a_finished_training_is_not_done_again(tmp_path):
    file = tmp_path / "checkpoint.pt"
    net, _ = trained(file=file)
    again = network(seed=99)
    breaking(again, 0)
    _, outcome = trained(net=again, file=file)
    assert outcome.steps_done == 3
    assert same(net, again)


@pytest.mark.parametrize(("at_end", "written"), [(False, 0), (True, 1)])
def test_a_short_training_writes_one_checkpoint_at_most_and_is_the_same(tmp_path, monkeypatch, at_end, written):
    files = []
    monkeypatch.setattr(state, "_write", lambda file, content, write=state._write: files.append(write(file, content)))
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", epoch_s=600.0, at_end=at_end)
    net, _ = trained(checkpoint=checkpoint)
    assert len(files) == written and same(net, trained()[0])
    again = network(seed=99)
    if written:
        breaking(again, 0)  # nothing is trained
    assert trained(net=again, checkpoint=checkpoint)[1].steps_done == 3 and (not written or same(net, again))


def test_false_ends_the_training():
    _, outcome = trained(epochs=5, on_epoch=lambda step, metrics: step < 2)
    assert (outcome.steps_done, outcome.stopped) == (2, True)


def test_validation_and_the_outcome_are_on_the_averaged_weights():
    recipe = Recipe(learning_rate=0.05, batch_size=16, ema_decay=0.9, schedule="constant", precision="fp32")
    averaged, outcome = trained(recipe)
    plain, bare = trained(dataclasses.replace(recipe, ema_decay=0.0))
    assert outcome.metrics["train/loss"] == bare.metrics["train/loss"]  # the average does not touch the training
    assert outcome.metrics["val/loss"] != bare.metrics["val/loss"]
    assert not same(averaged, plain)
    from nasforge.training.scoring import score

    assert score(averaged, splits()[1])["loss"] == pytest.approx(outcome.metrics["val/loss"], rel=1e-5)


def test_a_network_that_was_trained_before_is_not_initialised():
    recipe = Recipe(learning_rate=1e-9, init="orthogonal", weight_decay=0.0, batch_size=300)
    kept, _ = trained(recipe, epochs=1, fresh=False)
    assert torch.allclose(kept[0].weight, network()[0].weight, atol=1e-6)
    drawn, _ = trained(recipe, epochs=1)
    assert not torch.allclose(drawn[0].weight, network()[0].weight, atol=0.1)
    assert same(drawn, trained(recipe, net=network(seed=7), epochs=1)[0])  # the seed of the training decides


def test_early_stopping_trains_no_further_and_is_compared_at_every_epoch(tmp_path):
    recipe = Recipe(learning_rate=1e-9, batch_size=64, early_stopping=2, schedule="constant")  # never any better
    told = []
    net = network()
    trained_steps = breaking(net, 9)  # more than three epochs would raise
    _, outcome = trained(recipe, net, epochs=6, on_epoch=lambda step, m: told.append((step, m)) or True, flops=1.0)
    trained_steps.remove()
    assert [step for step, _ in told] == [1, 2, 3, 4, 5, 6]
    assert [m["train/epochs"] for _, m in told] == [1, 2, 3, 3, 3, 3]
    assert all(m == told[2][1] for _, m in told[3:])
    assert (outcome.steps_done, outcome.stopped) == (6, False)
    assert outcome.charged.multiply_adds == 3 * 3 * 192

    file = tmp_path / "checkpoint.pt"
    pruned = trained(recipe, epochs=6, file=file, on_epoch=lambda step, m: step < 4)[1]
    assert (pruned.steps_done, pruned.stopped) == (4, True)  # a pruner sees it at every rung
    continued = network(seed=9)
    breaking(continued, 0)
    assert same(trained(recipe, continued, epochs=6, file=file)[0], net)


@pytest.mark.parametrize(("metric", "value", "epochs"), [("loss", 0.0, 3), ("accuracy", 1.0, 3)])
def test_early_stopping_looks_at_its_metric(metric, value, epochs):
    recipe = Recipe(learning_rate=0.1, batch_size=16, early_stopping=epochs, early_stopping_metric=metric)
    _, outcome = trained(recipe, epochs=3)
    assert outcome.metrics["train/epochs"] == 3  # it gets better all the time


def test_divergence_is_named_at_once_with_advice():
    net = network()
    breaking(net, 40)
    with raises(TrainingFailed, "failed", None, "1e+30") as caught:
        trained(Recipe(learning_rate=1e30, batch_size=16), net=net, epochs=50)
    assert caught.value.failure.cause == "diverged"
    assert caught.value.charged.worker_seconds > 0


def test_the_time_limit():
    with raises(TrainingFailed, "failed", None, "10 s", "epoch 1") as caught:
        trained(limits=Limits(seconds=10, since=time.monotonic() - 11))
    assert caught.value.failure.cause == "timeout"
    assert caught.value.charged.worker_seconds >= 11


class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.inner = network()
        self.error = error

    def forward(self, x):
        if self.training:
            raise self.error
        return self.inner(x)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
    ],
)
def test_no_memory_left_is_named(error):
    with pytest.raises(TrainingFailed) as caught:
        trained(net=Failing(error), recipe=Recipe())
    assert caught.value.failure.cause == "out_of_memory"


def test_other_errors_are_not_dressed_up():
    with pytest.raises(RuntimeError, match="something else"):
        trained(net=Failing(RuntimeError("something else")), recipe=Recipe())


class Viewing(nn.Module):
    """Needs torch's usual memory layout."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(512, 10)

    def forward(self, images):
        maps = self.conv(images)
        return self.linear(maps.view(maps.shape[0], -1))


def test_a_network_that_does_not_take_channels_last_is_told_what_to_set():
    with raises(TrainingFailed, "failed", None, "channels_last", ".reshape") as caught:
        trained(net=Viewing(), recipe=Recipe(channels_last=True))
    assert caught.value.failure.cause == "invalid_shape"
    trained(net=Viewing(), recipe=Recipe(channels_last=False))


def test_shapes_that_do_not_fit_are_named():
    with raises(TrainingFailed, "failed", None, "1 x 8 x 8") as caught:
        trained(net=nn.Sequential(nn.Flatten(), nn.Linear(5, 10)), recipe=Recipe())
    assert caught.value.failure.cause == "invalid_shape"
    with raises(TrainingFailed, "failed", None, (2, 7), (2, 10)) as caught:
        trained(net=network(classes=7))
    assert caught.value.failure.cause == "invalid_shape"


def test_a_recipe_that_does_not_fit_is_refused():
    with raises(ConfigError, "range", "train.crop_pixels", 9, 8):
        trained(Recipe(crop_pixels=9))
    bare = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with raises(ConfigError, "unsupported", "train.dropout"):
        trained(Recipe(dropout=0.5), net=bare)
    with raises(ConfigError, "unsupported", "train.zero_init"):
        trained(Recipe(zero_init=True), net=bare)


def test_a_batch_larger_than_the_split_is_one_step():
    _, outcome = trained(Recipe(batch_size=10_000), epochs=1, flops=1.0)
    assert outcome.metrics["work/multiply_adds"] == 3 * 240


def test_every_speed_setting_trains():
    for precision in ("fp32", "bf16"):
        for channels_last in (True, False):
            recipe = Recipe(batch_size=64, precision=precision, channels_last=channels_last)
            _, outcome = trained(recipe, epochs=1)
            assert outcome.steps_done == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_trains_and_continues(tmp_path):
    net, outcome = trained(dataclasses.replace(EVERYTHING, precision="auto"), device="cuda", epochs=4)
    assert outcome.steps_done == 4
    assert next(net.parameters()).device.type == "cuda"
    broken = network()
    breaking(broken, 4)
    with pytest.raises(Interrupted):
        trained(net=broken, device="cuda", file=tmp_path / "c.pt", every_s=0)
    assert trained(device="cuda", file=tmp_path / "c.pt")[1].steps_done == 3


def test_a_step_is_as_long_as_the_gradients_norm_is_let():
    data = load_data(DataConfig("digits", images=300, validation=0.2)).train
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.5, "schedule": "constant"}
    moved = {}
    for clip in (0.0, 0.1):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        before = nn.utils.parameters_to_vector(net.parameters()).detach().clone()
        recipe = Recipe(**plain, clip_norm=clip, batch_size=len(data), precision="fp32", precise_bn=0, warmup_epochs=0)
        train(net, data, recipe, epochs=1, seed=0)
        moved[clip] = nn.utils.parameters_to_vector(net.parameters()).detach() - before
    assert moved[0.1].norm().item() == pytest.approx(0.5 * 0.1, rel=1e-3)
    assert moved[0.0].norm() > 2 * moved[0.1].norm()
    assert torch.allclose(moved[0.1] / moved[0.1].norm(), moved[0.0] / moved[0.0].norm(), atol=1e-5)
