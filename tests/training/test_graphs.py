"""CUDA graphs next to the eager network, on a CPU: a recorder that acts as torch's does, and ones that fail."""

import logging
from dataclasses import replace

import pytest
import torch
from test_loop import EVERYTHING, network, splits

from nasforge.training import graphs, loop
from nasforge.training.loop import train

RECIPE = replace(EVERYTHING, ema_decay=0.0, precise_bn=0, mixup=0.0, cutmix=0.0, manifold_mixup=0.0)


class Recorder:
    """A stand-in for torch.cuda.make_graphed_callables: it warms up as that does, and counts the replays."""

    def __init__(self, factor=1.0, error=None):
        self.factor, self.error = factor, error
        self.recordings = self.replays = 0

    def __call__(self, module, sample_args, *, allow_unused_input, capture_error_mode):
        assert not torch.is_autocast_cache_enabled() or not torch.is_autocast_enabled()
        assert not hasattr(module, "_modules") or not module._forward_hooks
        self.recordings += 1
        for _ in range(3):
            module(*sample_args)  # changes batch statistics, and draws for dropout
        if self.error:
            raise self.error

        def replay(inputs):
            self.replays += 1
            return module(inputs) * self.factor

        return replay


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Graphs without a GPU; returns a function that sets the recorder."""
    monkeypatch.setattr(
        loop, "forward_of", lambda network, device, *, bf16, cuda_graphs: graphs.Graphs(network, bf16=bf16)
    )

    def recording(recorder):
        monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
        return recorder

    return recording


def trained(recipe=RECIPE, epochs=4, **options):
    net = network()
    metrics = []
    train(
        net,
        splits()[0],
        recipe,
        epochs=epochs,
        seed=5,
        on_epoch=lambda epoch, row: metrics.append({k: v for k, v in row.items() if "time/" not in k}) or True,
        **options,
    )
    return net, metrics


def same(a, b):
    return all(torch.equal(tensor, b.state_dict()[key]) for key, tensor in a.state_dict().items())


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.2, "cutmix": 1.0}, {"precision": "bf16"}, {"health": True}])
def test_a_recorded_training_equals_an_eager_one(on_the_cpu, monkeypatch, changes):
    recipe = replace(RECIPE, **changes)
    recorder = on_the_cpu(Recorder())
    recorded = trained(recipe, cuda_graphs=True)
    monkeypatch.undo()
    eager = trained(recipe)
    assert recorder.recordings == 1 and recorder.replays >= 5
    assert same(recorded[0], eager[0]), "recording changed statistics or random numbers"
    assert recorded[1] == eager[1]


@pytest.mark.parametrize(
    ("recorder", "reason"),
    [
        (Recorder(error=RuntimeError("CUDA error: operation not permitted when stream is capturing")), "reads numbers"),
        (Recorder(error=torch.OutOfMemoryError("CUDA out of memory")), "no memory left"),
        (Recorder(error=AssertionError("Buffers must not require gradients")), "Buffers must not"),
        (Recorder(factor=1.2), "recorded logits are not those of the network"),
        (Recorder(factor=float("nan")), "recorded logits are not those of the network"),
    ],
)
def test_what_cannot_be_recorded_is_trained_as_usual_aloud(on_the_cpu, monkeypatch, caplog, recorder, reason):
    on_the_cpu(recorder)
    with caplog.at_level(logging.WARNING):
        fallen_back = trained()
    (message,) = [record.getMessage() for record in caplog.records if "CUDA graphs" in record.getMessage()]
    assert reason in message and recorder.recordings == 1
    monkeypatch.undo()
    assert same(fallen_back[0], trained()[0])


def test_gradients_that_differ_are_noticed(on_the_cpu, caplog):
    class Detached(Recorder):
        def __call__(self, module, sample_args, **options):
            super().__call__(module, sample_args, **options)
            weights = list(module.parameters())[-1]
            return lambda inputs: module(inputs).detach() + 0 * weights.sum()

    on_the_cpu(Detached())
    trained(epochs=2)
    assert "the recorded gradients are not those of the network" in caplog.text


def test_a_network_with_hooks_in_eval_mode_or_of_another_shape_is_not_replayed(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", recorder)
    net = network().train()
    forward = graphs.Graphs(net, bf16=False)
    images = torch.randn(4, *splits()[0].shape)
    for _ in range(6):
        forward(images)
    assert recorder.recordings == 1
    replays = recorder.replays
    with torch.no_grad():
        forward(images)
    forward(images[:3])
    handle = net.register_forward_hook(lambda *arguments: None)
    forward(images)
    handle.remove()
    net.eval()
    forward(images)
    assert recorder.replays == replays
    net.train()
    forward(images)
    assert recorder.replays == replays + 1


def test_on_a_cpu_a_warning_says_that_there_are_none(caplog):
    assert same(trained(cuda_graphs=True, epochs=1)[0], trained(epochs=1)[0])
    assert "cuda_graphs has no effect on device cpu" in caplog.text


def test_a_network_with_hooks_of_its_own_is_not_recorded_and_the_log_says_so(caplog):
    net = network()
    net.register_forward_pre_hook(lambda *arguments: None)
    gpu = torch.device("cuda")
    assert graphs.forward_of(net, gpu, bf16=False, cuda_graphs=True) is net
    assert "without CUDA graphs (its modules have hooks" in caplog.text
    assert isinstance(graphs.forward_of(network(), gpu, bf16=False, cuda_graphs=True), graphs.Graphs)
