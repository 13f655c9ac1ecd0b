"""The speed of a step: neither the first step nor other work on the machine counts."""

import numpy as np
import pytest
import torch

from nasforge.api.fit import speed
from nasforge.core.recipe import Recipe
from nasforge.data.split import Split


@pytest.mark.parametrize(
    ("durations", "trainings", "fastest"),
    [
        ([5.0, 0.6, 0.3, 0.4], 4, 0.05),  # a slow first step, and other work during one training
        ([30.0, 6.0], 2, 1.0),  # a slow machine is not timed twice
    ],
)
def test_the_first_step_and_other_work_do_not_count(monkeypatch, durations, trainings, fastest):
    clock, lengths = [0.0], []

    def train(network, split, recipe, **_):
        clock[0] += durations[len(lengths)]
        lengths.append(len(split))

    monkeypatch.setattr(speed, "train", train)
    monkeypatch.setattr(speed.time, "monotonic", lambda: clock[0])
    pixels = np.zeros((300, 1, 4, 4), np.uint8)
    split = Split(pixels, np.arange(300), torch.zeros(300, dtype=torch.int64), 2, (0.5,), (0.3,))
    seconds = speed.second_per_step(torch.nn.Identity(), split, Recipe(batch_size=32), torch.device("cpu"))
    assert seconds == pytest.approx(fastest)
    assert lengths == [32, *[6 * 32] * (trainings - 1)]
