"""One search as a comparison sees it: what it had charged and what its best was, after every trial that was closed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasforge.core.architecture import Architecture
from nasforge.core.events import Event, Header, header_of
from nasforge.core.ladder import Rung, is_last
from nasforge.core.trial import Measure, TrainShared, Trial
from nasforge.experiment.state import State
from nasforge.views.results import retrained_alike, test_metric

AXES = ("trials", "worker_seconds", "multiply_adds")
"""What a budget is charged in."""

Final = Callable[[Architecture], float]
"""The final figure of a network, which no search sees."""


@dataclass(frozen=True)
class Trajectory:
    """Everything that a comparison needs of one search, by closed accepted trials in the order of closing.

    Attributes:
        experiment: its name.
        facts: what must be equal in searches that are compared.
        parts: strategy, pruner and evaluator, each with name and options.
        seed: of the search.
        charged: axis -> cumulative charge; shared trainings, pruned and failed trials are in it.
        signal: the incumbent's first objective as it was measured; NaN before the first.
        steps: the fidelity at which the incumbent was measured.
        inherited: whether the incumbent was measured on weights that were not trained from an initialisation; one that
            went on from a checkpoint was.
        shared: whether weights were shared in it: a supernet trained, or a measure on inherited ones.
        final: the incumbent's final figure by the table; None without one.
        test: the incumbent's mean on the sealed test split; None where nothing was retrained.
        points: each trial's objectives to maximise if it finished at the search's greatest fidelity, else None.
        counts: trials by status.
        running: whether trials were open when it was read.
        reach: axis -> how far the search can be compared: beyond, it was not allowed to go or has not come yet.
        spent: whether its budget is.
        best: the last incumbent's architecture, as JSON; None where nothing has finished.
        pieces: whether trials were asked for at a lower rung, so that one is a part of a training.
        config: of the journal's header, with the place of the data in force.
        test_metric: of `test`.
    """

    experiment: str
    facts: Mapping[str, Any]
    parts: Mapping[str, Any]
    seed: int
    charged: Mapping[str, Sequence[float]]
    signal: Sequence[float]
    steps: Sequence[int]
    inherited: Sequence[bool]
    shared: bool
    final: Sequence[float] | None
    test: Sequence[float] | None
    points: Sequence[tuple[float, ...] | None]
    counts: Mapping[str, int]
    running: bool
    reach: Mapping[str, float]
    spent: bool
    best: Mapping[str, Any] | None = None
    pieces: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    test_metric: str = ""

    @property
    def fidelity(self) -> int:
        """Of the incumbent at the end; -1 where nothing has finished."""
        return self.steps[-1] if self.steps else -1

    @property
    def kind(self) -> tuple[str, int, bool]:
        """Return the kind of its signal: evaluator, fidelity, inherited weights or not. Only equal ones are compared.

        The evaluator `shared_weights` answers a measure without weights as `training` does.
        """
        inherited = any(one for one, steps in zip(self.inherited, self.steps, strict=True) if steps == self.fidelity)
        name = self.parts["evaluator"]["name"]
        return ("training" if name == "shared_weights" else name, self.fidelity, inherited)


_FACTS = ("data", "ladder", "objectives", "constraints", "targets", "recipe")
_PARTS = ("strategy", "pruner", "evaluator")


def trajectory(events: Sequence[Event], final: Final | None = None, folder: Path | None = None) -> Trajectory:
    """Fold a journal. The incumbent is the first of `State.ranking()` at that moment.

    Args:
        events: the journal, its header first.
        final: asked once for each network that was ever the incumbent.
        folder: of the experiment, as in `State`.

    Raises:
        JournalError: the events contradict each other.
    """
    header = header_of(events)
    state = State(header, folder)
    for line, event in enumerate(events[1:], 2):
        state.take(event, line)
    return trajectory_of(state, header, final)


def trajectory_of(state: State, header: Header, final: Final | None = None) -> Trajectory:
    """Return the trajectory of a journal that is folded already.

    Args:
        state: after all events.
        header: the first event.
        final: as in `trajectory`.
    """
    closed: list[Trial] = []
    incumbents: list[Trial | None] = []
    best: Trial | None = None
    for trial in map(state.trials.__getitem__, state.closed):
        if trial.verdict != "accepted":
            continue  # neither started nor charged
        if trial.comparable and (best is None or state.merit(trial) > state.merit(best)):
            best = trial
        closed.append(trial)
        incumbents.append(best)
    charged = _cumulative(closed)
    goal = state.objectives[0]
    steps = [-1 if trial is None or trial.result is None else trial.result.steps_done for trial in incumbents]
    last = steps[-1] if steps else -1
    config = header.config
    return Trajectory(
        experiment=state.name,
        facts={"space": header.space_hash, "data_hash": header.data_hash, **{key: config.get(key) for key in _FACTS}},
        parts={key: config[key] for key in _PARTS},
        seed=header.seed,
        charged=charged,
        signal=[math.nan if trial is None else trial.metrics[goal.metric] for trial in incumbents],
        steps=steps,
        inherited=[trial is not None and trial.inherits for trial in incumbents],
        shared=any(isinstance(trial.proposal, TrainShared) or trial.inherits for trial in closed),
        final=None if final is None else _each(incumbents, final),
        test=_each(incumbents, lambda point: _tested(state, point)) if state.tests else None,
        points=[t.result.values if t.comparable and t.result and t.result.steps_done == last else None for t in closed],
        counts=state.counts(),
        running=bool(state.open_trials),
        reach={axis: _reach(state, axis, charged[axis]) for axis in AXES},
        spent=state.spent,
        best=None if best is None or best.architecture is None else best.architecture.to_json(),
        pieces=any(_is_piece(trial, state.ladder) for trial in closed),
        config=state.header.config,
        test_metric=test_metric(state),
    )


def _is_piece(trial: Trial, ladder: Sequence[Rung]) -> bool:
    """Return whether it ends below the last rung by its own proposal."""
    proposal = trial.proposal
    return isinstance(proposal, Measure) and not is_last(proposal.rung, ladder)


def _cumulative(closed: Sequence[Trial]) -> dict[str, list[float]]:
    seconds = operations = 0.0
    sums: dict[str, list[float]] = {axis: [] for axis in AXES}
    for count, trial in enumerate(closed, 1):
        assert trial.result is not None  # noqa: S101  (it was told)
        seconds += trial.result.charged.worker_seconds
        operations += trial.result.charged.multiply_adds
        for axis, amount in zip(AXES, (float(count), seconds, operations), strict=True):
            sums[axis].append(amount)
    return sums


def _reach(state: State, axis: str, charged: Sequence[float]) -> float:
    """As far as it has come while it runs; to its limit once its budget is spent; a search that ended by itself, with
    budget left, would have had nothing more to spend: its last incumbent stands to the limit. So does one that has
    reached its goal."""
    limit = getattr(state.budget, axis)
    done = charged[-1] if charged else 0.0
    if state.open_trials or (state.spent and state.reached_by is None):
        return float(min(done, limit))
    return float(limit)


def _each(incumbents: Sequence[Trial | None], figure: Final) -> list[float]:
    known: dict[int, float] = {}
    values = []
    for trial in incumbents:
        if trial is None or trial.architecture is None:
            values.append(math.nan)
            continue
        if trial.number not in known:
            known[trial.number] = float(figure(trial.architecture))
        values.append(known[trial.number])
    return values


def _tested(state: State, point: Architecture) -> float:
    """Mean over the seeds with which this point was retrained last; NaN where it was not."""
    values = retrained_alike(state.tests, test_metric(state)).get(point.short_id, {}).values()
    return sum(values) / len(values) if values else math.nan
