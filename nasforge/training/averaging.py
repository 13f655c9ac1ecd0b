"""Averaged weights, which are validated and saved: a moving average, or the mean of the last epochs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasforge.core.recipe import Recipe
from nasforge.training.hooks import Hook


class MovingAverage(Hook):
    """Exponential average of weights and statistics; its decay rises with the steps, so short trainings profit too."""

    name = "average"

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._average = ModelEmaV3(network, decay=decay, use_warmup=True)
        state = network.state_dict(keep_vars=True)  # making one takes longer than a step of a small network's average
        once = {id(tensor): key for key, tensor in state.items()}.values()  # a shared tensor has several keys
        self._numbers = [key for key in once if state[key].is_floating_point()]
        self._counts = [key for key in once if not state[key].is_floating_point()]
        self._of_average, self._of_latest = _owners(self.network, state), _owners(network, state)

    @property
    def network(self) -> nn.Module:
        """The averaged network."""
        network: nn.Module = self._average.module
        return network

    def after_step(self, network: nn.Module, done: int) -> None:
        """Move towards `network`."""
        averages, latest = self._pairs(self._numbers)
        with torch.no_grad():
            torch._foreach_lerp_(averages, latest, weight=1.0 - self._average.get_decay(done))

    def after_epoch(self, network: nn.Module, done: int) -> None:
        """Take the whole numbers, such as counts of batches."""
        for average, latest in zip(*self._pairs(self._counts), strict=True):
            average.copy_(latest)

    def _pairs(self, keys: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the tensors of the average and of the network as they are now."""
        names = [key.rpartition(".")[2] for key in keys]
        return (
            [self._of_average[key][name] for key, name in zip(keys, names, strict=True)],
            [self._of_latest[key][name] for key, name in zip(keys, names, strict=True)],
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return the averaged network's tensors."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved state."""
        self.network.load_state_dict(state)


def _owners(network: nn.Module, keys: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return for each key of a state the dictionary of the module that holds the tensor."""
    owners = {}
    for key in keys:
        place, _, name = key.rpartition(".")
        module = network.get_submodule(place)
        owners[key] = module._parameters if name in module._parameters else module._buffers
    return owners


class LastEpochs(Hook):
    """The plain mean of the weights at the end of each of the last epochs; its batch statistics must be measured again.

    "Averaging Weights Leads to Wider Optima and Better Generalization", Izmailov et al. 2018,
    https://arxiv.org/abs/1803.05407. Their rate stays high meanwhile: take schedule `constant`, `step` or a low decay.
    """

    name = "average"

    def __init__(self, network: nn.Module, first: int) -> None:
        """Prepare averaging from the end of epoch `first` on, counted from 1."""
        self._average = AveragedModel(network)
        self._first = first

    @property
    def network(self) -> nn.Module | None:
        """The averaged network; None before epoch `first`."""
        return self._average.module if self._average.n_averaged else None

    def after_epoch(self, network: nn.Module, done: int) -> None:
        """Add `network` to the mean from epoch `first` on."""
        if done >= self._first:
            self._average.update_parameters(network)

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged network's tensors, and of how many epochs it is the mean."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._average.load_state_dict(state)


def average_of(network: nn.Module, recipe: Recipe, epochs: int) -> MovingAverage | LastEpochs | None:
    """Return the average that a recipe asks for; None where it asks for none.

    Args:
        network: on the device of the training.
        recipe: a moving average, or one of the last epochs, not both.
        epochs: of the whole training.
    """
    if recipe.swa_share:
        return LastEpochs(network, epochs - max(1, round(recipe.swa_share * epochs)) + 1)
    return MovingAverage(network, recipe.ema_decay) if recipe.ema_decay else None
