import numpy as np
import pytest
import torch
from torch import nn

from nasforge.data.part import Part
from nasforge.training.scoring import score


class Fixed(nn.Module):
    """Logits read from the first pixel: the answers are known."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, x):
        return self.logits[x[:, 0, 0, 0].round().long()]


def test_figures_by_hand():
    pixels = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(2, 2)
    part = Part(pixels, np.arange(4), torch.tensor([0, 0, 1, 2]), 3, mean=(0.0,), std=(1 / 255,))
    logits = torch.tensor([[2.0, 0, 0], [0, 2.0, 0], [0, 2.0, 0], [0, 0, 2.0]])  # answers 0, 1, 1, 2
    network = Fixed(logits).train()
    found = score(network, part, batch_size=3)
    assert found["accuracy"] == 0.75
    assert found["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    right, wrong = -np.log(np.exp(2) / (np.exp(2) + 2)), -np.log(1 / (np.exp(2) + 2))
    assert found["loss"] == pytest.approx((3 * right + wrong) / 4, rel=1e-5)
    assert network.training


def test_scoring_changes_no_statistics():
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(4, 3)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    pixels = np.random.default_rng(0).integers(0, 256, (9, 1, 1, 2), dtype=np.uint8)
    score(network, Part(pixels, np.arange(9), torch.arange(9) % 3, 3, (0.5,), (0.2,)))
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in before.items())
