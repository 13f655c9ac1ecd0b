"""What only a GPU can show: memory that runs out, faults, waits, and numbers next to the CPU's.

They were written without one: rehearse their code on a CPU with NASFORGE_GPU_TESTS_ON=cpu, which skips what needs CUDA.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import nasforge
from nasforge import registry
from nasforge.core.alphas import Settings
from nasforge.core.ladder import Rung
from nasforge.core.recipe import Recipe
from nasforge.core.trial import Measure
from nasforge.data import load_data
from nasforge.evaluators.training import Training
from nasforge.models.network import build
from nasforge.models.reference import resnet
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.settings.spec import SearchSpec
from nasforge.supernet.bilevel import AlphaSteps
from nasforge.supernet.job import halves
from nasforge.supernet.network import build_supernet
from nasforge.supernet.relaxed import Relaxed
from nasforge.training.hooks import Step
from nasforge.training.loop import train
from nasforge.training.meter import Limits
from nasforge.training.scoring import Validation
from nasforge.training.state import Checkpoint

DEVICE = os.environ.get("NASFORGE_GPU_TESTS_ON", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA device"),
]
cuda_alone = pytest.mark.skipif(DEVICE != "cuda", reason="needs CUDA")
DATA = DataConfig("digits", images=400)
SPACE = load_space("tiny")
POINT = SPACE.default_point()
PLAIN = Recipe(batch_size=32, learning_rate=0.05, precise_bn=0)


class Report:
    """A job's report to nobody."""

    number, attempt, seed = 0, 1, 3

    def __init__(self, experiment: Path, **costs: float) -> None:
        self.experiment, self.costs = experiment, costs
        self.folder = experiment / "artifacts" / "0" / "attempt-1"
        self.checkpoint = experiment / "artifacts" / "0" / "checkpoint.pt"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, step, metrics):
        return True


def network():
    torch.manual_seed(0)
    return resnet(1, 8, in_channels=1, classes=10)


def trained(recipe=PLAIN, device=DEVICE, **options):
    net = network()
    validation = Validation(load_data(DATA).validation)
    settings = {"epochs": 2, "seed": 1, "validation": validation, **options}
    return net, train(net, load_data(DATA).train, recipe, device=device, **settings)


@cuda_alone
def test_a_network_that_does_not_fit_fails_and_the_next_one_is_well(tmp_path):
    def outcome(batch_size, name, **costs):
        evaluator = Training(SearchSpec(SPACE.fixed({"train.batch_size": 64}), DATA, [Rung(1)]), device="cuda")
        evaluator.recipe = {"batch_size": batch_size}
        return evaluator(Measure(POINT), Report(tmp_path / name, **costs))

    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            room = torch.cuda.get_device_properties(0).total_memory
            return self.body(x) + torch.empty(2 * room, dtype=torch.uint8, device=x.device)[0]

    from nasforge.training.failures import TrainingFailed

    held = torch.cuda.memory_allocated()
    with pytest.raises(TrainingFailed) as caught:
        train(Hungry(), load_data(DATA).train, PLAIN, epochs=1, seed=0, device="cuda")
    assert caught.value.failure.cause == "out_of_memory"
    foreseen = outcome(64, "foreseen", **{"cost/memory_mb": 1e9})
    assert foreseen.error and foreseen.error.cause == "out_of_memory"
    assert outcome(64, "well").status == "finished"
    assert torch.cuda.memory_allocated() <= held + 64 * 2**20


@cuda_alone
def test_an_assertion_that_fails_on_the_gpu_is_a_lost_device():
    code = """
import torch
from nasforge.core.errors import DeviceLost
from nasforge.training.failures import watching
device = torch.device("cuda")
try:
    with watching(device):
        torch.zeros(3, device=device)[torch.tensor([7], device=device)].item()
except DeviceLost as error:
    print("lost:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "lost: cuda has failed" in done.stdout, done.stdout + done.stderr


@cuda_alone
def test_a_worker_cannot_take_more_than_its_share():
    code = """
import torch
from nasforge.core.gpu_share import lend
from nasforge.training.device import device_of, share_mb
lend(0.25)
device = device_of("cuda")
torch.empty(int(share_mb(device) * 2**20 * 0.8), dtype=torch.uint8, device=device)
try:
    torch.empty(int(share_mb(device) * 2**20 * 1.2), dtype=torch.uint8, device=device)
except torch.OutOfMemoryError:
    print("limited")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "limited\n", done.stdout + done.stderr


@pytest.mark.parametrize(("first", "second"), [("cpu", DEVICE), (DEVICE, "cpu"), (DEVICE, DEVICE)])
def test_a_training_continues_on_another_kind_of_device(tmp_path, first, second):
    recipe = replace(PLAIN, mixup=0.2, randaugment=1, dropout=0.1)
    start = tmp_path / "start.pt"
    trained(recipe, first, epochs=3, checkpoint=Checkpoint(start), limits=Limits(until=1))
    _, outcome = trained(recipe, second, epochs=3, checkpoint=Checkpoint(tmp_path / "own.pt", start=start))
    assert outcome.steps_done == 3 and not outcome.checkpoint_lost


@pytest.mark.parametrize(
    "changes",
    [
        {"crop_pixels": 2, "flip": True, "vertical_flip": True, "rotation_degrees": 10.0},
        {"color_jitter": 0.2, "cutout_pixels": 3, "random_erasing": 0.3},
        {"randaugment": 2},
        {"mixup": 0.2, "cutmix": 1.0, "manifold_mixup": 1.0},
        {"ema_decay": 0.9, "precise_bn": 4},
        {"swa_share": 0.5},
        {"optimizer": "adamw", "learning_rate": 1e-3, "clip_norm": 1.0},
        {"optimizer": "muon", "learning_rate": 1e-3},
        {"label_smoothing": 0.1, "class_weights": "balanced"},
        {"dropout": 0.2, "drop_path": 0.1, "keep_last_batch": True},
        {"precision": "fp32", "channels_last": True},
    ],
)
def test_recipes_train(changes):
    _, outcome = trained(replace(PLAIN, **changes))
    assert outcome.steps_done == 2 and outcome.metrics["val/loss"] > 0


def test_the_first_losses_are_the_cpus():
    recipe = replace(PLAIN, precision="fp32", learning_rate=0.01)
    here, there = (trained(recipe, device, epochs=1)[1].metrics["train/loss"] for device in ("cpu", DEVICE))
    assert there == pytest.approx(here, rel=0.02)


@cuda_alone
@pytest.mark.parametrize(
    "changes", [{}, {"precision": "fp32"}, {"mixup": 0.2}, {"manifold_mixup": 1.0}, {"health": True}]
)
def test_cuda_graphs_train_as_the_eager_loop(changes, caplog):
    recipe = replace(PLAIN, batch_size=16, crop_pixels=1, flip=True, **changes)
    eager, recorded = (trained(recipe, cuda_graphs=graphs)[1].metrics for graphs in (False, True))
    assert "without CUDA graphs" not in caplog.text
    assert recorded["train/loss"] == pytest.approx(eager["train/loss"], rel=0.05)
    assert recorded["val/accuracy"] == pytest.approx(eager["val/accuracy"], abs=0.1)


@cuda_alone
def test_a_network_that_waits_for_the_gpu_trains_without_graphs(caplog):
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x):
            return self.body(x) * (1.0 if x.abs().max().item() >= 0 else 0.0)

    outcome = train(Reads(), load_data(DATA).train, PLAIN, epochs=1, seed=0, device="cuda", cuda_graphs=True)
    assert outcome.steps_done == 1 and "without CUDA graphs" in caplog.text


@pytest.mark.parametrize("name", registry.names("proxy"))
def test_proxies_are_the_cpus(name):
    images, labels = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 10
    from nasforge.training.device import without_tf32

    scores = []
    for device in ("cpu", DEVICE):
        net = build(SPACE, POINT, in_channels=1, classes=10)
        net.load_state_dict(STATE := scores[0][1] if scores else net.state_dict())
        net.to(device)
        torch.manual_seed(1)
        with without_tf32():
            scores.append((registry.get("proxy", name)(net, images.to(device), labels.to(device)), STATE))
    assert scores[1][0] == pytest.approx(scores[0][0], rel=0.02)


@cuda_alone
@pytest.mark.parametrize(
    "changes", [{}, {"mixup": 0.2, "cutmix": 1.0}, {"randaugment": 2}, {"ema_decay": 0.9}, {"clip_norm": 1.0}]
)
def test_a_step_does_not_wait_for_the_gpu(changes):
    recipe, split = replace(PLAIN, batch_size=8, crop_pixels=1, flip=True, **changes), load_data(DATA).train
    train(network(), split, recipe, epochs=1, seed=0, device="cuda")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            train(network(), split, recipe, epochs=3, seed=0, device="cuda")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in caught if "synchronizing" in str(w.message)]
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in waits}
    steps = 3 * (len(split) // 8)
    assert len(waits) < steps / 2, f"{len(waits)} waits in {steps} steps: {places}"


@pytest.mark.parametrize("second_order", [False, True])
@pytest.mark.parametrize("relaxation", ["softmax", "gumbel_hard", "dirichlet"])
def test_alphas_learn(relaxation, second_order):
    if second_order and relaxation != "softmax":
        pytest.skip("the second order is of softmax")
    space = load_space("nasbench201")
    space = replace(space, arguments={**space.arguments, "cells_per_stage": 1, "channels": 4})
    split = load_data(DATA).train
    for_weights, for_alphas = halves(split, 0.5, 0)
    gradients = []
    for device in ("cpu", DEVICE):
        torch.manual_seed(0)
        relaxed = Relaxed(build_supernet(space, 1, 10), relaxation)
        relaxed.supernet.to(device)
        settings = Settings(second_order=second_order)
        options = {"steps": 4, "epochs": 2, "batch_size": 16, "seed": 0, "device": torch.device(device)}
        steps = AlphaSteps(relaxed, for_alphas, settings, **options)
        inputs = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(2)).to(device)
        torch.manual_seed(3)
        steps.before_step(Step(0, False, inputs, for_weights.labels[:16].to(device), 0.01))
        gradients.append(torch.cat([alpha.grad for alpha in relaxed.alphas.values()]))
        assert all(alpha.device.type == "cpu" for alpha in relaxed.alphas.values())
    here, there = gradients
    assert torch.allclose(here, there, rtol=0.05, atol=0.02 * float(here.abs().max()))


def test_a_supernet_and_its_networks(tmp_path):
    default = POINT.values
    fixed = {key: value for key, value in default.items() if key.startswith("train.")}
    state = nasforge.search(
        space=SPACE.fixed({**fixed, "model.stage0.width": 8, "model.stage1.width": 12}),
        data={"source": "digits", "images": 300},
        strategy={"name": "spos", "epochs": 2, "measures": 2},
        evaluator={"name": "shared_weights", "device": DEVICE},
        runner="local",
        budget={"trials": 3},
        name="supernet",
        runs_dir=str(tmp_path),
        tracking_uri="none",
    )
    assert state.counts()["failed"] == 0 and state.counts()["finished"] >= 2


def test_a_latency_is_measured():
    evaluator = Training(SearchSpec(SPACE, DATA, [Rung(1)]), device=DEVICE)
    assert 0 < evaluator.latency_ms(POINT) < 1000
