"""Averaged weights, which are then what is validated and kept: a moving average, or the mean of the last epochs."""

from __future__ import annotations

from typing import Any, Protocol

from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from nasforge.core.recipe import Recipe


class Average(Protocol):
    """What follows the network while it is trained."""

    @property
    def network(self) -> nn.Module | None:
        """The averaged network; None before there is one."""
        ...

    def after_step(self, network: nn.Module, done: int) -> None:
        """Told after `done` steps."""
        ...

    def after_epoch(self, network: nn.Module, done: int) -> None:
        """Told after `done` epochs."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for the training's checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class MovingAverage:
    """An exponential one of weights and statistics; its decay rises with the steps, so short trainings profit too."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._average = ModelEmaV3(network, decay=decay, use_warmup=True)

    @property
    def network(self) -> nn.Module:
        """The averaged network."""
        network: nn.Module = self._average.module
        return network

    def after_step(self, network: nn.Module, done: int) -> None:
        """Move towards `network`."""
        self._average.update(network, step=done)

    def after_epoch(self, network: nn.Module, done: int) -> None:
        """Nothing: it follows every step."""

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged network's."""
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from there."""
        self.network.load_state_dict(state)


class LastEpochs:
    """The plain mean of the weights at the end of each of the last epochs; its batch statistics must be taken anew.

    "Averaging Weights Leads to Wider Optima and Better Generalization", Izmailov et al. 2018,
    https://arxiv.org/abs/1803.05407. Their rate stays high meanwhile: take schedule `constant`, `step` or a low decay.
    """

    def __init__(self, network: nn.Module, first: int) -> None:
        """Average from the end of epoch `first` (the first is 1) on."""
        self._average = AveragedModel(network)
        self._first = first

    @property
    def network(self) -> nn.Module | None:
        """The averaged network; None before epoch `first`."""
        return self._average.module if self._average.n_averaged else None

    def after_step(self, network: nn.Module, done: int) -> None:
        """Nothing: it follows epochs."""

    def after_epoch(self, network: nn.Module, done: int) -> None:
        """Take `network` into the mean, if it is time."""
        if done >= self._first:
            self._average.update_parameters(network)

    def state_dict(self) -> dict[str, Any]:
        """The averaged network's, and of how many it is the mean."""
        return self._average.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._average.load_state_dict(state)


def average_of(network: nn.Module, recipe: Recipe, epochs: int) -> Average | None:
    """The average that a recipe asks for; None where it asks for none.

    Args:
        network: on the device of the training.
        recipe: a moving average, or one of the last epochs, not both.
        epochs: of the whole training.
    """
    if recipe.swa_share:
        return LastEpochs(network, epochs - max(1, round(recipe.swa_share * epochs)) + 1)
    return MovingAverage(network, recipe.ema_decay) if recipe.ema_decay else None
