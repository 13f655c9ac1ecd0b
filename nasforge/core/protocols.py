"""The whole set of interfaces. Read this page first.

    strategy --ask--> Proposal --check costs--> Job --evaluator--> Result --tell--> strategy

An `Experiment` (nasforge/experiment/) stands in the middle and writes the journal; a runner moves jobs to workers.
All of these are protocols: nothing is inherited. Proposals and results are plain data (nasforge/core/trial.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nasforge.core.about import About
from nasforge.core.architecture import Architecture, Value
from nasforge.core.events import Event
from nasforge.core.goals import Constraint
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Proposal, Result


class Strategy(Protocol):
    """Chooser of the next trials. Pure Python; never trains, never sees the budget.

    A factory makes it from a `nasforge.settings.spec.SearchSpec` and its own options.

    A worked example, one worker, two trials:

        ask(0) -> Measure(a)      tell(0, finished, values=(0.71,))
        ask(1) -> Measure(b)      tell(1, failed)
        ask(2) -> None            nothing is running: the strategy has finished

    After a crash the same strategy is built again and the journal replayed, in the order of its lines:

        recall(0, Measure(a))     tell(0, ...)     recall(1, Measure(b))     tell(1, ...)

    and `ask(2)` must give what it would have given. Therefore the randomness of ask n is `Random(f"{seed}/{n}")`.

    One that resumes other trials' checkpoints may have a method `wanted() -> Collection[Artifact]`: those that it
    may yet name in a proposal. All others are deleted; without it, they are kept as long as the trial's weights.

    A search of a space of at most 20,000 points ends when every point was asked for. A strategy that trains points
    again on purpose has a true attribute `repeats` and ends its search itself.
    """

    def ask(self, number: int) -> Proposal | None:
        """Return the proposal of trial `number`; None changes nothing and waits for more results."""
        ...

    def recall(self, number: int, proposal: Proposal) -> None:
        """Adopt a proposal that the journal has as this strategy's, without computing it again."""
        ...

    def tell(self, number: int, result: Result) -> None:
        """Learn an outcome, in any order; `values` are to be maximised, failures and rejections come too."""
        ...

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal, of trial `number`: it is in no journal, and no result comes.

        What follows is as if it had never been asked or recalled. A proposal that a constraint rejects is not
        withdrawn: it is in the journal, and `tell` brings the result `rejected`.
        """
        ...


class Report(Protocol):
    """The evaluator's handle on its job: facts about it, and progress reporting."""

    @property
    def number(self) -> int:
        """The trial."""
        ...

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        ...

    @property
    def seed(self) -> int:
        """Seed of this trial's training; the same for every attempt and when the trial is repeated."""
        ...

    @property
    def experiment(self) -> Path:
        """The experiment's folder; artifacts' paths are relative to it."""
        ...

    @property
    def checkpoint(self) -> Path:
        """The trial's training checkpoint, whether or not it exists; shared by all attempts."""
        ...

    @property
    def folder(self) -> Path:
        """This attempt's own folder for artifacts; made on first use."""
        ...

    @property
    def costs(self) -> Mapping[str, float]:
        """The costs that the check found (`cost/params`, `cost/flops`, ...)."""
        ...

    def __call__(
        self, step: int, metrics: Mapping[str, float], alphas: Mapping[str, Sequence[float]] | None = None
    ) -> bool:
        """Report metrics after `step`; returns False when the trial must stop (it is closed, return anything).

        Args:
            step: a whole number; it grows from report to report, and counts what `about.unit` names.
            metrics: key -> number. `time/worker_s` and `work/multiply_adds`, counted since the trial began, are
                charged to the budget.
            alphas: architecture parameters of a supernet, decision key -> one number per option; for views.
        """
        ...


class Evaluator(Protocol):
    """Measurement of proposals. Must be picklable; loads its data on first use and keeps them.

    A factory makes it from a `nasforge.settings.spec.SearchSpec` and its own options. It may also fit the protocols
    `Checks`, `Timed`, `Preflight` and `Tabulated` below.
    """

    @property
    def about(self) -> About:
        """The facts that a search must know; an attribute of the class will do. It may load the data."""
        ...

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Return the outcome; a failure is a Result too, an exception counts as a failure with cause `error`."""
        ...


@runtime_checkable
class Checks(Protocol):
    """Optional for an evaluator: it knows the costs of a proposal itself, without building the network."""

    def check(self, proposal: Proposal) -> Mapping[str, float]:
        """Return the costs of a proposal (`cost/params`, ...), before anything is trained.

        Raises:
            BuildError: the proposal cannot be measured; its trial fails, uncharged.
        """
        ...


@runtime_checkable
class Timed(Protocol):
    """Optional for an evaluator: it times networks, for limits on `latency_ms`."""

    def latency_ms(self, architecture: Architecture) -> float:
        """Return the median milliseconds of one image's forward pass on this worker's device."""
        ...


@runtime_checkable
class Preflight(Protocol):
    """Optional for an evaluator: it refuses what no trial could do, before there is a journal."""

    def preflight(self, proposal: Proposal) -> None:
        """Raise ConfigError or BuildError if the strategy's first proposal cannot work."""
        ...


@runtime_checkable
class Tabulated(Protocol):
    """Optional for an evaluator: it knows all results, so `compare` measures how far a search is from the best one.

    Attributes:
        metric: the metric whose best and worst values it knows.
        final_metric: name of a number that no search sees, such as a test accuracy; None if there is none.
    """

    metric: str
    final_metric: str | None

    def optimum(self, limits: Sequence[Constraint] = ()) -> float | None:
        """Return the best value among the points within these limits; None where there is no such point."""
        ...

    def worst(self, limits: Sequence[Constraint] = ()) -> float | None:
        """Return the worst value among the points within these limits; None where there is no such point."""
        ...

    def final(self, architecture: Architecture) -> float:
        """Return `final_metric` of a point."""
        ...


class Pruner(Protocol):
    """Rule that stops running trials that are not worth finishing.

    A factory makes it from a `nasforge.settings.spec.SearchSpec` and its own options.
    """

    def prune(self, history: Mapping[int, Mapping[int, tuple[float, ...]]], number: int, step: int) -> bool:
        """Return True to stop trial `number` after `step`; `history`: trial -> step -> values to maximise.

        The search hands over a `nasforge.core.history.Pending`, with an index by step.
        """
        ...


class Tracker(Protocol):
    """Watches. Losing a tracker loses nothing; it must never slow a search."""

    def on_event(self, event: Event) -> None:
        """Handle one event that is already in the journal."""
        ...


class Exporter(Protocol):
    """Writer of a trained network in one format. The registry holds its class, made without arguments."""

    def write(self, model: Any, example: Any, path: Path) -> Path:
        """Write `model` and return the file.

        Args:
            model: an nn.Module in eval mode.
            example: a batch of inputs, N x C x H x W.
            path: where to, without the format's suffix. Files that belong to the format go into the same folder.
        """
        ...

    def reload(self, path: Path) -> Callable[[Any], Any]:
        """Return the file as a function from a batch of images to logits; the export is verified by it."""
        ...

    def snippet(self, file: str, shape: tuple[int, int, int]) -> str:
        """Return Python code that loads the file and runs it, for the model card.

        Args:
            file: name of the file, in the folder of the card.
            shape: channels, height, width of an image.
        """
        ...


class Reference(Protocol):
    """A hand-designed network, scaled to the costs of a network that was found."""

    def __call__(self, flops: float, *, shape: tuple[int, int, int], classes: int) -> tuple[str, SearchSpace]:
        """Return its name, and a space without decisions whose builder makes it.

        Args:
            flops: multiply-adds for one image that it should have.
            shape: channels, height, width of an image.
            classes: number of logits.
        """
        ...


class Figure(Protocol):
    """Drawing of a search for the dashboard."""

    def __call__(self, state: Any) -> Any:
        """Return a figure of Plotly for a `nasforge.experiment.state.State`; its name is the title."""
        ...


class Pick(Protocol):
    """Question of a model builder. `Fixed` answers with an architecture's option, `Mixed` with all of them."""

    def __call__(self, key: str, options: Mapping[Value, Callable[[], Any]]) -> Any:
        """Build the module for decision `key` (without `model.`): the decided option, or a mixture of all."""
        ...

    def width(self, key: str, maximum: int | None = None) -> int:
        """Return the number of channels decided for `key`; `maximum` is checked if it is set."""
        ...

    def value(self, key: str) -> int | float:
        """Return the number decided for `key`, such as a dropout rate. A supernet refuses a decision with several."""
        ...
