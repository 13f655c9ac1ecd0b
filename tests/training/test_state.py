"""What a checkpoint holds, and that files of earlier versions continue. `test_loop` continues from every place."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_loop import EVERYTHING, Interrupted, breaking, network, splits, trained

from nasforge.core.architecture import digest
from nasforge.training.loop import train
from nasforge.training.meter import Limits, Meter
from nasforge.training.phases import Course, Phase
from nasforge.training.state import Checkpoint, TrainingState

GENERATOR = torch.Generator()

OLD = Path(__file__).parents[1] / "old_runs" / "within_epoch.pt"
"""Written by version 0.1.0 after 4 of 9 steps of `test_loop.trained`, 3 steps an epoch."""


def test_a_checkpoint_of_an_earlier_version_continues_within_its_epoch(tmp_path):
    whole, _ = trained(flops=1000.0)
    file = tmp_path / "checkpoint.pt"
    shutil.copyfile(OLD, file)
    net = network(seed=99)
    handle = breaking(net, 5)  # a sixth step would raise
    _, outcome = trained(net=net, file=file, flops=1000.0)
    handle.remove()
    assert not outcome.checkpoint_lost
    assert outcome.charged.multiply_adds == 3 * 3 * 192 * 1000.0
    for key, tensor in whole.state_dict().items():  # not bit for bit: another processor may have taken the first steps
        assert torch.allclose(tensor.float(), net.state_dict()[key].float(), atol=1e-4), key


def test_a_checkpoint_holds_what_earlier_versions_read(tmp_path):
    file = tmp_path / "checkpoint.pt"
    net = network()
    breaking(net, 4)
    with pytest.raises(Interrupted):
        trained(net=net, file=file, every_s=0, flops=1000.0)
    old, new = (torch.load(path, weights_only=True) for path in (OLD, file))
    assert {key for key, value in old.items() if value is not None} == new.keys()
    assert old["progress"].keys() == new["progress"].keys()
    assert (old["identity"], old["lineage"]) == (new["identity"], new["lineage"])


def test_a_start_from_a_gpu_continues_on_a_cpu_with_new_generators(tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    trained(file=first, limits=Limits(until=1))
    written = torch.load(first, weights_only=True)
    of_a_gpu = torch.zeros(16, dtype=torch.uint8)
    torch.save({**written, "augmenting": of_a_gpu, "dropout_cuda": of_a_gpu}, second)
    a, b = network(), network()
    for net in (a, b):
        train(net, splits()[0], EVERYTHING, epochs=3, seed=5, checkpoint=Checkpoint(start=second))
    assert all(torch.equal(tensor, b.state_dict()[key]) for key, tensor in a.state_dict().items())
    assert any(not torch.equal(tensor, written["network"][key]) for key, tensor in a.state_dict().items())


def test_a_checkpoint_that_version_0_1_0_wrote_on_a_gpu_continues(tmp_path, monkeypatch):
    recipe, course, net = EVERYTHING, Course([Phase(3, splits()[0], None, 0.0)], EVERYTHING), network()
    shapes = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
    settings, phases = recipe.identifying(), course.to_json()
    written = torch.load(OLD, weights_only=True)
    assert "host" not in written
    of_a_gpu = torch.full((16,), 7, dtype=torch.uint8)
    forged = {**written, "identity": digest([settings, phases, 5, shapes, "cuda"]), "dropout_cuda": of_a_gpu}
    torch.save(forged, tmp_path / "checkpoint.pt")

    really, restored = torch.Generator, []
    monkeypatch.setattr(torch, "Generator", lambda device=None: really())  # there is none of CUDA here
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append(state))
    options = {"seed": 5, "device": torch.device("cuda"), "hooks": [], "meter": Meter(Limits())}
    state = TrainingState(net, recipe, course, checkpoint=Checkpoint(tmp_path / "checkpoint.pt"), **options)
    began = state.host.get_state()
    state.load()
    assert state.resumed and not state.checkpoint_lost
    assert (state.progress.epoch, state.progress.position) == (1, 1)
    assert torch.equal(restored[0], of_a_gpu)
    assert torch.equal(state.host.get_state(), began), "that version had no such generator"
    for key, tensor in written["network"].items():
        assert torch.equal(tensor, net.state_dict()[key]), key


def test_precision_identifies_a_training_on_a_gpu_alone(monkeypatch):
    def identity(device, capability=(8, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
        monkeypatch.setattr(torch, "Generator", lambda device=None: GENERATOR)  # there is none of CUDA here
        net, split = network(), splits()[0]
        course = Course([Phase(3, split, None, 0.0)], EVERYTHING)
        recipe = replace(EVERYTHING, precision="auto")
        options = {"seed": 5, "device": torch.device(device), "hooks": [], "meter": Meter(Limits())}
        return TrainingState(net, recipe, course, checkpoint=Checkpoint(), **options)._identity

    assert identity("cuda", (8, 0)) != identity("cuda", (7, 5))
    assert identity("cpu", (8, 0)) == identity("cpu", (7, 5))


def test_what_python_has_to_know_is_drawn_on_the_cpu(monkeypatch):
    really = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: really())  # there is none of CUDA here
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    course = Course([Phase(3, splits()[0], None, 0.0)], EVERYTHING)

    def state(device):
        options = {"seed": 5, "device": torch.device(device), "hooks": [], "meter": Meter(Limits())}
        return TrainingState(network(), EVERYTHING, course, checkpoint=Checkpoint(), **options)

    alone, with_gpu = state("cpu"), state("cuda")
    assert alone.host is alone.augmenting, "a training on a CPU draws as it always has"
    assert with_gpu.host is not with_gpu.augmenting
    assert not torch.equal(with_gpu.host.get_state(), with_gpu.augmenting.get_state())
