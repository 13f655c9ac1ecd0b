"""Fixed places of the training loop at which other code acts: health, averaged weights, alphas that learn in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """A step of the weights that is about to be taken.

    Attributes:
        number: place in the schedule, counted from 0.
        last: True for the last step of an epoch.
        inputs: N x C x H x W, augmented and normalised, not mixed.
        labels: N class numbers.
        learning_rate: highest rate of all parameters.
    """

    number: int
    last: bool
    inputs: Tensor
    labels: Tensor
    learning_rate: float


class Hook:
    """Base class of hooks. A subclass overrides the places that it needs.

    Attributes:
        name: key of the hook's state in checkpoints.
    """

    name: str

    @property
    def settled(self) -> bool:
        """True when there is nothing more to train: the loop then ends with this epoch."""
        return False

    @property
    def network(self) -> nn.Module | None:
        """Network to validate and to keep in place of the trained one; None: the trained one."""
        return None

    def before_step(self, step: Step) -> None:
        """Act before the forward pass of a step."""

    def around_forward(self) -> AbstractContextManager[None]:
        """Return a context in which the forward pass of the step runs."""
        return nullcontext()

    def after_backward(self) -> None:
        """Act on the gradients before they are clipped."""

    def after_step(self, network: nn.Module, done: int) -> None:
        """Act after the optimizer has taken `done` steps, over all epochs."""

    def after_epoch(self, network: nn.Module, done: int) -> None:
        """Act after `done` epochs, before the validation."""

    def metrics(self, done: int) -> Mapping[str, float]:
        """Return metrics after `done` epochs. The loop calls this once an epoch, after the validation."""
        return {}

    def state_dict(self) -> dict[str, Any] | None:
        """Return tensors and plain values for the checkpoint; None: there is nothing to save."""
        return None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""


@contextmanager
def around_forward(hooks: Sequence[Hook]) -> Iterator[None]:
    """Enter the contexts of all hooks for one forward pass."""
    with ExitStack() as stack:
        for hook in hooks:
            stack.enter_context(hook.around_forward())
        yield
