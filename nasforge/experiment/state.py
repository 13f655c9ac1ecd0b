"""State of an experiment, computed from its journal. `apply` alone changes it, live and on replay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.core import checks
from nasforge.core.errors import EventError, JournalError, SearchError
from nasforge.core.events import (
    FAULT,
    KILL,
    Asked,
    Checked,
    Ended,
    Event,
    Extended,
    Header,
    Interrupted,
    Moved,
    Reported,
    Started,
    TestOpened,
    Told,
    header_of,
)
from nasforge.core.goals import Budget, Constraint, Objective
from nasforge.core.history import History
from nasforge.core.ladder import Rung, is_last
from nasforge.core.layout import JOURNAL
from nasforge.core.pareto import front
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Charge, Measure, Result, Score, Step, TrainShared, Trial, made
from nasforge.experiment.journal import corrupt, experiment_of, lines_of, search_name, without_collection
from nasforge.experiment.places import places_of

if TYPE_CHECKING:
    from nasforge.settings.experiment import ExperimentConfig

REPEATED = "nasforge.strategies.repeated:Repeated"
"""The strategy of a calibration, as its journal names it."""
_NEW = vars(Trial(0, TrainShared(SearchSpace("", ()), "", 0)))
"""The fields of a trial that was just asked for, but for its number and its proposal."""


class State:
    """All trials of an experiment, its budget, and what has been charged.

    Attributes:
        header: the first line, with the place of the data in force.
        trials: number -> trial, in order of number.
        budget: the limits in force.
        ended: whether the search has nothing more to propose, though its budget may allow it.
        reached_by: the first trial that reaches what the budget's `until` says; None while none does.
        tests: finalist -> its metrics on the sealed test split.
        history: trial -> step -> values to maximise, for pruners.
        closed: trials with a result, in the order of their results.
        accepted: trials that passed the check; these are charged to the budget.
        rejected_in_a_row: rejections since the last accepted trial.
        unbuildable_in_a_row: proposals since the last one from which a network could be built.
        faults_in_a_row: trials that ended in a crash or an error before their first report, or without an objective's
            metric, since one that did not.
    """

    def __init__(self, header: Header, folder: Path | None = None) -> None:
        """Make the state after the first line.

        Args:
            header: the first line.
            folder: of the experiment, for its name and for messages; None for a journal without a folder.

        Raises:
            JournalError: the header's configuration is invalid.
        """
        config = header.config
        self.header = header
        self.path = None if folder is None else folder.absolute() / JOURNAL
        try:
            checks.config(config)
            self.objectives = tuple(Objective.recorded(text) for text in config["objectives"])
            self.constraints = tuple(Constraint.parse(text) for text in config["constraints"])
            self.targets = tuple(Constraint.parse(text) for text in config["targets"])
            self.ladder = tuple(Rung.from_json(rung) for rung in config["ladder"])
            self.budget = Budget(**config["budget"])
        except Exception as error:  # whatever the file says
            raise self._corrupt(1, error) from None
        self.trials: dict[int, Trial] = {}
        self.tests: dict[str, Mapping[str, float]] = {}
        self.closed: list[int] = []
        self.history = History()
        self.ended = False
        self.reached_by: int | None = None
        self.accepted = 0
        self.rejected_in_a_row = 0
        self.unbuildable_in_a_row = 0
        self.faults_in_a_row = 0
        self._config: ExperimentConfig | None = None
        self._closed_charge = Charge()
        self._open: set[int] = set()
        self._begun: set[int] = set()  # trials with an attempt that no event has ended
        self._counts: Counter[str] = Counter()
        self._best: int | None = None
        self._beyond: set[int] = set()  # trials whose costs miss a soft target
        self._apart = (History(), History())  # of those that meet all soft targets, and of the others
        self._ranking: list[Trial] | None = None
        self._unsorted: list[int] = []  # comparable trials that `finished` has not looked at
        self._deepest = 0
        self._best_of: dict[Hashable, int] = {}  # point -> the best trial of the greatest fidelity

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {status}" for status, count in self.counts().items() if count) or "no trials yet"
        best = "" if self.best is None else f", best: trial {self.best.number}"
        return f"<State of '{self.name}': {counts}{best}>"

    @property
    def name(self) -> str:
        """The experiment's name: its folder's, which may be a copy of another one."""
        return self.header.experiment if self.path is None else self.path.parent.name

    @property
    def is_calibration(self) -> bool:
        """True for the search of a calibration: one network, trained again and again."""
        name: str = self.header.config["strategy"]["name"]
        return name == REPEATED

    @property
    def config(self) -> ExperimentConfig:
        """Configuration of the experiment, with the place of its data and the budget in force; parsed on first use.

        Raises:
            JournalError: the header's configuration is invalid.
        """
        if self._config is None:
            from nasforge.settings.experiment import ExperimentConfig  # brings the reader of YAML files

            runs_dir = Path() if self.path is None else self.path.parent.parent
            try:
                config = ExperimentConfig.from_json(self.name, self.header.config, runs_dir)
            except EventError as error:
                raise self._corrupt(1, error) from None
            self._config = replace(config, budget=self.budget)
        return self._config

    def _corrupt(self, line: int, problem: object) -> JournalError:
        return corrupt(self.path or f"journal of '{self.header.experiment}'", line, problem)

    def apply(self, event: Event) -> None:
        """Apply one event."""
        match event:
            case Reported(number, attempt, step, metrics, decision):
                trial = self.trials[number]
                values = self.values_of(metrics, trial.costs)
                seconds, operations = metrics.get("time/worker_s", 0.0), metrics.get("work/multiply_adds", 0.0)
                charged = Charge.of(seconds, operations)
                if trial.steps:  # an attempt that begins anew counts from 0, and what was charged stays charged
                    charged = charged.at_least(trial.steps[-1].charged)
                fields = {"step": step, "metrics": metrics, "values": values, "attempt": attempt}
                report = made(Step, {**fields, "charged": charged, "stop": decision == "stop"})
                self.trials[number] = trial.changed(steps=(*trial.steps, report), idle_attempts=0, kills=0)
                if values is not None:
                    self.history.add(number, step, values)
                    if self.targets:
                        self._apart[number in self._beyond].add(number, step, values)
            case Told(number, result):
                trial = self.trials[number] = self.trials[number].changed(result=result)
                self.closed.append(number)
                self._open.discard(number)
                self._begun.discard(number)
                self._counts["running"] -= 1
                self._counts[result.status] += 1
                self._ranking = None
                if trial.comparable:
                    self._unsorted.append(number)
                    if self.best is None or self.merit(trial) > self.merit(self.best):
                        self._best = number
                if self.reached_by is None and self._reaches(trial):
                    self.reached_by = number
                self._closed_charge += result.charged
                broken = result.error is not None and result.error.cause in ("crash", "error", "missing_metric")
                if trial.verdict == "accepted":
                    unmeasured = result.error is not None and result.error.cause == "missing_metric"
                    fault = broken and (unmeasured or not trial.steps)
                    self.faults_in_a_row = self.faults_in_a_row + 1 if fault else 0
            case Asked(number, proposal):
                self.trials[number] = made(Trial, {**_NEW, "number": number, "proposal": proposal})
                self._open.add(number)
                self._counts["running"] += 1
                self.ended = False
            case Checked(number, costs, verdict):
                trial = self.trials[number]
                if trial.verdict:
                    return  # checked again after a crash: the first verdict stands
                self.trials[number] = trial.changed(costs=costs, verdict=verdict)
                if not all(target.met(costs) for target in self.targets if target.metric in costs):
                    self._beyond.add(number)
                self.accepted += verdict == "accepted"
                self.unbuildable_in_a_row = self.unbuildable_in_a_row + 1 if verdict == "failed" else 0
                self.rejected_in_a_row = (
                    0 if verdict == "accepted" else self.rejected_in_a_row + (verdict == "rejected")
                )
            case Started(number, attempt):
                trial = self.trials[number]
                self.trials[number] = trial.changed(attempts=attempt, idle_attempts=trial.idle_attempts + 1)
                self._begun.add(number)
            case Interrupted(number, _, cause):
                trial = self.trials[number]
                idle = max(0, trial.idle_attempts - (cause != FAULT))
                self.trials[number] = trial.changed(idle_attempts=idle, kills=trial.kills + (cause == KILL))
                self._begun.discard(number)
            case Extended(budget):
                self.budget = Budget(**budget)
                self._config = None
                self.reached_by = next((n for n, trial in self.trials.items() if self._reaches(trial)), None)
            case Moved(config):
                self.header = replace(self.header, config={**self.header.config, **config})
                self._config = None
            case Ended():
                self.ended = True
            case TestOpened(finalist, metrics):
                self.tests[finalist] = metrics

    def take(self, event: Event, line: int) -> None:
        """Apply the event on a line of a file, which may have been tampered with.

        Raises:
            JournalError: it cannot follow the events before it.
        """
        problem = self.contradiction(event)
        if problem:
            raise self._corrupt(line, problem)
        self.apply(event)

    def contradiction(self, event: Event) -> str:
        """Return why `event` contradicts the state, with the kind of line and the trial; empty if it does not."""
        if isinstance(event, Asked):
            problem = self._asked_problem(event)
        elif isinstance(event, Moved):
            return self._moved_problem(event)
        elif isinstance(event, (Header, Extended, Ended, TestOpened)):
            return ""
        else:
            problem = self._trial_problem(event)
        return f"'{event.kind}' of trial {event.number}{problem}" if problem else ""

    def _moved_problem(self, event: Moved) -> str:
        try:
            checks.config({**self.header.config, **event.config})
        except EventError as error:
            return f"'moved' to a place that is none: {error}"
        return ""

    def _asked_problem(self, event: Asked) -> str:
        if event.number != len(self.trials):
            return f" where {len(self.trials)} should follow"
        if isinstance(event.proposal, TrainShared):
            return ""
        rung, origin = event.proposal.rung, event.proposal.origin
        if not -len(self.ladder) <= rung < len(self.ladder):
            return f", rung {rung}, but the ladder has {len(self.ladder)} rung(s)"
        if origin is not None and any(parent >= event.number for parent in origin.parents):
            return f", whose parents {', '.join(map(str, origin.parents))} were not all asked before"
        return ""

    def _trial_problem(self, event: Checked | Started | Reported | Told | Interrupted) -> str:
        trial = self.trials.get(event.number)
        if trial is None:
            return ", which was never asked"
        if trial.result is not None:
            return "" if isinstance(event, Interrupted) and event.attempt <= trial.attempts else ", which is closed"
        if isinstance(event, Reported):
            if event.attempt > trial.attempts:
                return f", attempt {event.attempt}, which was never started"
            last = trial.steps[-1] if trial.steps else None
            if last is not None and last.attempt == event.attempt and event.step <= last.step:
                return f", step {event.step} after step {last.step} of the same attempt"
            return _misfit_alphas(trial, event.alphas)
        elif isinstance(event, Told):
            if not trial.verdict:
                return ", which was never checked"
            if trial.verdict == "accepted" and not trial.attempts:
                return ", which was never started"
            return self.misfit(trial, event.result)
        elif isinstance(event, Started):
            if trial.verdict != "accepted" or event.attempt != trial.attempts + 1:
                return f", attempt {event.attempt} after {trial.attempts}, check '{trial.verdict}'"
        elif isinstance(event, Interrupted) and event.attempt > trial.attempts:
            return f", attempt {event.attempt}, which was never started"
        return ""

    def misfit(self, trial: Trial, result: Result) -> str:
        """Return why `result` cannot belong to this trial, to follow the trial's number; empty if it can."""
        proposal = trial.proposal
        if result.status == "rejected" and trial.verdict == "accepted":
            return ", status 'rejected' of a proposal that was accepted"
        if isinstance(proposal, TrainShared):
            return _misfit_alphas(trial, result.alphas)
        if isinstance(proposal, Score):
            scored, points = len(result.scores), len(proposal.architectures)
            wrong = result.status == "finished" and scored != points
            return f", scores of {scored} architectures where {points} were asked for" if wrong else ""
        if result.values is not None:
            if len(result.values) != len(self.objectives):
                return f", {len(result.values)} values of {len(self.objectives)} objective(s)"
            if result.status == "finished":
                for goal in self.objectives:
                    if goal.metric not in result.metrics and goal.metric not in trial.metrics:
                        return f", values without the metric {goal.metric}"
        return ", scores of a batch where one architecture was asked for" if result.scores else ""

    def rung_of(self, proposal: Measure | Score) -> Rung:
        """Return the rung that a proposal names.

        Raises:
            SearchError: the ladder has none of that number.
        """
        if not -len(self.ladder) <= proposal.rung < len(self.ladder):
            raise SearchError(
                f"the strategy proposed rung {proposal.rung}, expected -{len(self.ladder)} to {len(self.ladder) - 1}",
                kind="range",
                key="rung",
            )
        return self.ladder[proposal.rung]

    def values_of(self, metrics: Mapping[str, float], costs: Mapping[str, float]) -> tuple[float, ...] | None:
        """Return the objectives oriented to maximise; None if one is missing, infinite or NaN.

        Args:
            metrics: measured.
            costs: of the check, for what was not measured.
        """
        values = []
        for objective in self.objectives:
            value = metrics.get(objective.metric)
            value = costs.get(objective.metric, math.nan) if value is None else value
            if not math.isfinite(value):
                return None
            values.append(objective.oriented(value))
        return tuple(values)

    @property
    def open_trials(self) -> list[Trial]:
        """Trials without a result, in order of number."""
        return [self.trials[number] for number in sorted(self._open)]

    @property
    def begun_trials(self) -> list[Trial]:
        """Trials with an attempt that no event has ended, in order of number: it runs, or its driver was killed."""
        return [self.trials[number] for number in sorted(self._begun)]

    @property
    def charged(self) -> Charge:
        """Cost so far; running trials count as far as they have reported."""
        total = self._closed_charge
        for number in self._open:
            steps = self.trials[number].steps
            total += steps[-1].charged if steps else Charge()
        return total

    @property
    def used(self) -> dict[str, float]:
        """Amount used of each limit of the budget, by its name."""
        charged = self.charged
        return {
            "trials": float(self.accepted),
            "worker_seconds": charged.worker_seconds,
            "multiply_adds": charged.multiply_adds,
        }

    @property
    def spent(self) -> bool:
        """True if the budget allows no further proposal: a limit or the goal is reached."""
        used = self.used
        return self.reached_by is not None or any(used[name] >= limit for name, limit in self.budget.limits.items())

    @property
    def done(self) -> bool:
        """True if no trial is left to run: the budget is spent, or there is nothing more to propose."""
        return (self.spent or self.ended) and not self._open

    def _reaches(self, trial: Trial) -> bool:
        """Return whether a finished trial of the last rung, with its own weights, reaches the values of `until`."""
        goals = self.budget.goals
        if not goals or not trial.comparable or trial.inherits or not isinstance(trial.proposal, Measure):
            return False
        if not is_last(trial.proposal.rung, self.ladder):
            return False
        metrics = trial.metrics
        return all(
            goal.oriented(metrics.get(goal.metric, math.nan)) >= goal.oriented(value) for goal, value in goals.items()
        )

    def trial(self, number: int) -> Trial:
        """Return the trial of a number that a user gives.

        Raises:
            JournalError: there is none of that number, or no trial at all.
        """
        if number in self.trials:
            return self.trials[number]
        name = self.name if self.path is None else search_name(self.path.parent)
        if not self.trials:
            raise JournalError(f"'{name}' has no trials yet. Run the search first", kind="empty", key="trial")
        raise JournalError(
            f"'{name}' has no trial {number}; they go from 0 to {len(self.trials) - 1}", kind="unknown", key="trial"
        )

    def counts(self) -> dict[str, int]:
        """Count the trials by status: finished, pruned, failed, rejected, running."""
        return {status: self._counts[status] for status in ("finished", "pruned", "failed", "rejected", "running")}

    def finished(self) -> list[Trial]:
        """Return finished measures that can be compared: of the greatest fidelity reached, the best one per point.

        They come in order of number.
        """
        for trial in map(self.trials.__getitem__, self._unsorted):
            if trial.result is None or trial.architecture is None or trial.result.steps_done < self._deepest:
                continue
            if trial.result.steps_done > self._deepest:
                self._deepest = trial.result.steps_done
                self._best_of.clear()
            key = trial.architecture.key
            held = self._best_of.get(key)
            if held is None or self.merit(trial) > self.merit(self.trials[held]):
                self._best_of[key] = trial.number
        self._unsorted.clear()
        return [self.trials[number] for number in sorted(self._best_of.values())]

    def ranking(self) -> list[Trial]:
        """Return finished trials, best first by the first objective; those that miss a soft target come last."""
        if self._ranking is None:
            self._ranking = sorted(self.finished(), key=self.merit, reverse=True)
        return list(self._ranking)

    def merit(self, trial: Trial) -> tuple[int, bool, tuple[float, ...], int]:
        """Return the sort key of a measure, more is better: fidelity, targets met, objectives, the earlier trial."""
        result = trial.result
        steps = result.steps_done if result else 0
        return (steps, not self.missed(trial), _values(trial), -trial.number)

    def missed(self, trial: Trial) -> list[Constraint]:
        """Return the soft targets that a trial misses, including those whose metric is unknown."""
        if not self.targets:
            return []
        metrics = trial.metrics
        return [target for target in self.targets if not target.met(metrics)]

    def rivals(self, trial: Trial) -> History:
        """Return the `history` to judge a trial by: trials that meet all soft targets if it does, else the others.

        Whatever misses one comes last on the leaderboard, and must not stop what meets them all.
        """
        return self._apart[trial.number in self._beyond] if self.targets else self.history

    def front(self) -> list[Trial]:
        """Return finished trials that no other dominates in the objectives, best first by the first one."""
        return self.front_of(self.ranking())

    @staticmethod
    def front_of(trials: list[Trial]) -> list[Trial]:
        """Return those of these finished trials that none of them dominates, in the same order."""
        return [trials[index] for index in front([_values(trial) for trial in trials])]

    @property
    def best(self) -> Trial | None:
        """First of the ranking; kept up to date, so that asking costs nothing."""
        return None if self._best is None else self.trials[self._best]

    @property
    def why_no_best(self) -> str:
        """Reason why there is no best network (yet), in words for a user."""
        shared = {t.number for t in self.trials.values() if isinstance(t.proposal, TrainShared)}
        trained = [number for number in sorted(shared) if self.trials[number].status == "finished"]
        if trained and len(trained) == len(self.trials):
            which = f"trial{'s' if len(trained) > 1 else ''} {', '.join(map(str, trained))}"
            how = "resume with a larger budget" if self.spent else "the same command resumes"
            return f"only a supernet was trained ({which}), no network measured yet; {how}"
        by_status = Counter(t.status for t in self.trials.values() if t.number not in trained)
        counts = [f"{count} {status}" for status, count in by_status.items()]
        counts += [f"{len(trained)} supernet{'s' if len(trained) > 1 else ''} trained"] if trained else []
        return f"no network finished ({', '.join(counts) or 'no trials'})"

    def failures(self) -> list[Trial]:
        """Return the failed trials."""
        return [trial for trial in self.trials.values() if trial.status == "failed"]


def _misfit_alphas(trial: Trial, alphas: Mapping[str, tuple[float, ...]] | None) -> str:
    """Return why alphas do not fit this trial's supernet, to follow the trial's number; empty if they fit."""
    if alphas and isinstance(trial.proposal, TrainShared):
        for key, row in alphas.items():
            domain = trial.proposal.space.domains.get(key)
            if domain is not None and len(row) != domain.size:
                return f", {len(row)} alphas of '{key}', which has {domain.size:g} options"
    return ""


def _values(trial: Trial) -> tuple[float, ...]:
    assert trial.result is not None and trial.result.values is not None  # noqa: S101  (finished() made sure)
    return trial.result.values


def replay(events: Iterable[Event], folder: Path | None = None) -> State:
    """Compute the state after these events, of which the first is a header.

    Args:
        events: of a journal.
        folder: as in `State`.

    Raises:
        JournalError: an event cannot follow those before it.
    """
    with without_collection():
        state: State | None = None
        for line, event in enumerate(events, 1):
            if state is None:
                state = State(header_of([event]), folder)
            else:
                state.take(event, line)
    assert state is not None  # noqa: S101  (a reader refuses journals without a header)
    return state


def load_state(experiment: str | Path, runs_dir: str | Path = "runs") -> State:
    """Read the state of a search, without a lock, also while it runs.

    Args:
        experiment: the name of a search or a fit in `runs_dir`, or its folder.
        runs_dir: where experiments live.

    Raises:
        JournalError: no journal there, or it is corrupt.
    """
    folders = map(experiment_of, places_of(experiment, runs_dir))
    folder = next((place for place in folders if (place / JOURNAL).is_file()), Path(experiment))
    return replay((line.event for line in lines_of(folder)), folder)


def pruned_result(trial: Trial) -> Result:
    """Return the result of a trial that was stopped after its last report."""
    last = trial.steps[-1]
    return Result("pruned", {**trial.costs, **last.metrics}, last.values, last.step, last.charged)


def differing(old: Mapping[str, Any], new: Mapping[str, Any], ignore: tuple[str, ...]) -> list[str]:
    """Return the keys in which two configurations differ, nested ones with dots; for messages."""
    keys = []
    for key in sorted({*old, *new}):
        if key in ignore or old.get(key) == new.get(key):
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            keys += [f"{key}.{inner}" for inner in differing(a, b, ())]
        else:
            keys.append(f"{key} (was {a!r}, now {b!r})" if len(repr(a)) + len(repr(b)) < 120 else key)
    return keys
