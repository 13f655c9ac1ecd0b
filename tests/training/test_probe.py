import json

import pytest
import torch
from torch import nn

from nasforge.training.probe import Probe, mismatch, probe_of

SHAPE = (3, 8, 8)


def network(classes=10, **settings):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, **{"padding": 1, **settings}),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(24, classes),
    )


def same_weights(other, original):
    other.load_state_dict(original.state_dict())
    return other


def test_the_same_network_has_the_same_probe_and_stays_as_it_is():
    trained = network()
    trained[1].eval()
    modes = [module.training for module in trained.modules()]
    before = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    probe = probe_of(trained, SHAPE)
    assert torch.equal(torch.rand(3), expected)
    assert probe is not None and probe.images == 2 and len(probe.logits) == 20
    assert [module.training for module in trained.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in trained.state_dict().items())
    assert mismatch(same_weights(network(), trained), probe, SHAPE) == ""
    assert Probe.from_json(json.loads(json.dumps(probe.to_json()))) == probe


@pytest.mark.parametrize(
    "settings", [{"padding_mode": "circular"}, {"dilation": 2, "padding": 2}, {"stride": 2}], ids=str
)
def test_another_network_with_the_same_weights_is_told(settings):
    trained = network()
    probe = probe_of(trained, SHAPE)
    assert probe is not None
    assert "in place of" in mismatch(same_weights(network(**settings), trained), probe, SHAPE)


def test_another_activation_is_told_and_rounding_is_not():
    trained = network()
    probe = probe_of(trained, SHAPE)
    assert probe is not None
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1 + 1e-5)
    assert mismatch(trained, probe, SHAPE) == ""
    trained[2] = nn.Tanh()
    assert mismatch(trained, probe, SHAPE)
    trained[2] = nn.Linear(3, 3)
    assert "fails" in mismatch(trained, probe, SHAPE)
    assert "number of logits" in mismatch(network(classes=3), probe, SHAPE)


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1).mean(1, keepdim=True) * float("nan"),
        lambda x: torch.rand(len(x), 4),
        lambda x: (x.flatten(1)[:, :4] * 1e7).sin(),
        lambda x: x @ torch.ones(7, 7),
        lambda x: {"logits": x},
        lambda x: x[:, :0],
    ],
    ids=["not finite", "random", "sensitive to rounding", "fails", "no tensor", "empty"],
)
def test_there_is_no_probe_that_the_same_network_could_fail(function):
    assert probe_of(Applied(function), SHAPE) is None


def test_large_images_cost_one_forward_pass_or_none():
    def pooled(x):
        seen.append(len(x))
        return x.mean((2, 3))

    seen = []
    probe = probe_of(Applied(pooled), (3, 400, 400))
    assert probe is not None and probe.images == 1 and set(seen) == {1}
    assert mismatch(Applied(pooled), probe, (3, 400, 400)) == ""
    seen.clear()
    assert probe_of(Applied(pooled), (3, 2000, 2000)) is None and not seen


def test_of_many_logits_some_are_kept():
    wide = network(classes=1000)
    probe = probe_of(wide, SHAPE)
    assert probe is not None and 32 < len(probe.logits) <= 64 and mismatch(wide, probe, SHAPE) == ""
    probe = probe_of(Applied(lambda x: x), SHAPE)  # one output per pixel
    assert probe is not None and len(probe.logits) <= 64


def test_a_module_that_keeps_a_tensor_of_its_first_images_keeps_none_of_the_probe():
    class Keeps(nn.Module):
        grid = None

        def forward(self, x):
            if self.grid is None:
                self.grid = torch.ones_like(x[0])
            return (x + self.grid).mean((2, 3))

    trained = Keeps()
    probe = probe_of(trained, SHAPE)
    assert probe is not None and mismatch(trained, probe, SHAPE) == "" and trained.grid is None


def test_reduced_precision_of_the_user_changes_no_probe():
    trained = network()
    probe = probe_of(trained, SHAPE)
    torch.set_float32_matmul_precision("medium")
    try:
        assert probe_of(trained, SHAPE) == probe
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"images": 2},
        {"images": 10**9, "logits": [1.0]},
        {"images": True, "logits": [1.0]},
        {"images": 2, "logits": []},
        {"images": 2, "logits": ["a"]},
        {"images": 2, "logits": [float("nan")]},
        {"images": 2, "logits": [0.0] * 65},
        [],
    ],
    ids=str,
)
def test_a_damaged_probe_is_refused(content):
    with pytest.raises((LookupError, TypeError, ValueError)):
        Probe.from_json(content)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_network_on_a_gpu_has_the_probe_of_the_cpu():
    trained = network()
    on_cpu = probe_of(trained, SHAPE)
    assert on_cpu is not None
    moved = trained.to("cuda")
    assert probe_of(moved, SHAPE) == on_cpu
    assert next(moved.parameters()).is_cuda
