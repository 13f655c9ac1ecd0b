"""A search in progress: the rules between strategy and runner, and the only writer of the journal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from nasforge import registry
from nasforge.core import checks
from nasforge.core.architecture import Architecture
from nasforge.core.errors import EventError, JournalError, NasforgeError, SearchError, SpaceError, described
from nasforge.core.events import (
    FAULT,
    KILL,
    SPACE,
    STRATEGY,
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
from nasforge.core.goals import Budget
from nasforge.core.importing import files_named
from nasforge.core.ladder import Rung, is_last
from nasforge.core.protocols import Pruner, Strategy, Tracker
from nasforge.core.space import LISTED, SearchSpace
from nasforge.core.trial import RETRIED, Measure, Proposal, Result, Score, Trial
from nasforge.experiment.job import Job, trial_seed
from nasforge.experiment.journal import Journal, corrupt, dumps, loads, read_header
from nasforge.experiment.retention import Retention
from nasforge.experiment.state import State, differing, pruned_result
from nasforge.experiment.verdicts import (
    Check,
    admission,
    everything_breaks,
    invalid_report,
    judged,
    nothing_is_admitted,
    rejection,
)
from nasforge.settings.experiment import NO_PRUNER, places_of

VOLATILE = ("budget", "runner", "tracking_uri")
"""Settings that may differ when a search is resumed: the budget changes no proposal so far, and the runner only the
last digits on a CPU, where torch may get other threads."""


class Experiment:
    """Budget, constraints, retries, pruning and resume; runners call `next`, `report` and `tell`, nothing else.

        while (job := experiment.next()) is not None:          # one worker
            result = evaluator(job.proposal, report)           # report(step, metrics) -> experiment.report(...)
            experiment.tell(job.number, job.attempt, result)

    With several workers None means "wait" while trials run and "finished" when none does.

    Attributes:
        state: what the journal adds up to; its header is the first driver's.
        now: this driver's header.
        resumed: whether the journal was there before.
    """

    def __init__(
        self,
        folder: Path,
        header: Header,
        strategy: Strategy,
        *,
        check: Check,
        pruner: Pruner | None = None,
        trackers: Sequence[Tracker] = (),
        max_attempts: int = 2,
        max_kills: int = 10,
        max_rejections_in_a_row: int = 1000,
        max_unbuildable_in_a_row: int = 50,
        max_faults_in_a_row: int = 6,
        keep_weights: int | None = 5,
        sync: bool = True,
        space: SearchSpace | None = None,
    ) -> None:
        """Open `folder`: a new experiment, or the continuation of the one that is in it.

        Args:
            folder: where the journal and the artifacts live.
            header: what this search is; when continued it must equal the journal's but for the settings in `VOLATILE`
                and the place of the data, where their content is the same.
            strategy: fresh; the journal is replayed into it.
            check: costs of a proposal.
            pruner: stops trials that are unlikely to win; None: no trial is stopped.
            trackers: watch every new event.
            max_attempts: attempts without a report after which a trial has failed with cause `crash`. One that ended
                with its driver does not count.
            max_kills: drivers that were killed in a row while a trial ran, without a report, after which it has failed
                with cause `crash`: its network may be what kills them, and must not stop the search for ever.
            max_rejections_in_a_row: the search ends with advice after this many; a resumed one may try as many again.
            max_unbuildable_in_a_row: this many proposals that cannot be built end it too.
            max_faults_in_a_row: this many trials that fail before their first report end the search.
            keep_weights: how many finished trials keep their weights on disk (the front first, then the best); None
                where nothing is to be deleted.
            sync: as in `Journal`.
            space: what a user's strategy proposes must be points of it, and the search ends when all its points were
                asked for, unless the strategy has a true attribute `repeats`; None: neither.

        Raises:
            JournalError: locked, corrupt, or written by a different search.
        """
        self.folder = folder.absolute()
        header = replace(header, config=loads(dumps(dict(header.config))))
        self.now = header
        self._strategy = strategy
        self.check = check
        self._pruner = pruner
        self._trackers = list(trackers)
        self._max_attempts = max_attempts
        self._max_kills = max_kills
        self._retention: Retention | None = None
        if keep_weights is not None:
            self._retention = Retention(self.folder, keep_weights, getattr(strategy, "wanted", None))
        self._waiting: list[int] = []
        self._writing = False
        self._stop_after: BaseException | None = None
        self._interrupted = False
        self._out: set[int] = set()
        self._stopping = False
        self._exhausted = False
        ends = space is not None and space.size <= LISTED and not getattr(strategy, "repeats", False)
        self._ends_with = space if ends else None
        self._space = space
        self._asked: set[str] = set()
        self._foreign = {kind: _is_foreign(kind, header.config[kind]) for kind in ("strategy", "pruner")}
        self.journal = Journal(self.folder, sync=sync)
        try:
            self.resumed = bool(self.journal.events)
            if self.resumed:
                self._replay(self.journal.events, header)
            else:
                self.state = State(header, self.folder)
                self._write(header)
            self._config = header.config
            self._budget = Budget(**header.config["budget"])
            self._repaired = False
            self._rejections_allowed = self.state.rejected_in_a_row + max_rejections_in_a_row
            self._unbuildable_allowed = self.state.unbuildable_in_a_row + max_unbuildable_in_a_row
            self._faults_allowed = self.state.faults_in_a_row + max_faults_in_a_row
        except BaseException:
            self.journal.close()
            raise

    # --- what a runner calls ----------------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """Return the next job; None: no job now, and the end of the search if no job is running.

        Raises:
            SearchError: nothing feasible is found, every trial fails at once, or a proposal is invalid.
        """
        if not self._repaired:
            self._repair()
        if self.state.faults_in_a_row >= self._faults_allowed:
            raise everything_breaks(self.state)
        if self._waiting:
            return self._start(self._waiting.pop(0))
        while not self._stopping and not self.state.spent and not self._exhausted:
            number = len(self.state.trials)
            with self._plugin("strategy", f"asked for trial {number}"):
                proposal = self._strategy.ask(number)
            if proposal is None:
                return None
            asked = self._checked_proposal(Asked(number, proposal))
            if self._exhausts(asked.proposal):
                with self._plugin("strategy", f"it took back trial {number}"):
                    self._strategy.withdraw(number)
                if not self.state.accepted:
                    raise nothing_is_admitted(self.state)
                return None
            self._write(asked)
            if self._admit(number):
                return self._start(number)
            too_many = self.state.rejected_in_a_row >= self._rejections_allowed
            if too_many or self.state.unbuildable_in_a_row >= self._unbuildable_allowed:
                raise nothing_is_admitted(self.state)
        return None

    def report(
        self,
        number: int,
        attempt: int,
        step: int,
        metrics: Mapping[str, float],
        alphas: Mapping[str, Sequence[float]] | None = None,
    ) -> bool:
        """Report a running trial's metrics after `step`; returns False when the trial is closed and must stop.

        It is closed as pruned, or as failed if the report is invalid. A step that an earlier attempt reported keeps its
        first report.
        """
        trial = self.state.trials[number]
        if trial.result is not None or attempt != trial.attempts:
            return False
        try:
            step, metrics, rows = checks.report(step, metrics, alphas)
        except EventError as error:
            self._close(number, invalid_report(error))
            return False
        for earlier in trial.steps:
            if earlier.step == step:
                return not earlier.stop
        reported = Reported(number, attempt, step, metrics, "continue", rows)
        problem = self.state.contradiction(reported)
        if problem:
            self._close(number, invalid_report(problem))
            return False
        stop = self._prunes(trial, step, metrics)
        self._write(replace(reported, decision="stop") if stop else reported)
        if stop:
            self._close(number, pruned_result(self.state.trials[number]))
        return not stop

    def tell(self, number: int, attempt: int, result: Result) -> None:
        """Record the outcome of a job. A lost worker's trial is retried; results of superseded attempts are ignored.

        An invalid result closes the trial as failed.

        Raises:
            SearchError: the trial is closed already.
        """
        trial = self.state.trials[number]
        if trial.result is not None:
            raise SearchError(
                f"trial {number} got a second result, but it is closed as '{trial.result.status}'", kind="duplicate"
            )
        if attempt != trial.attempts:
            return
        try:
            result = checks.result(result)
        except EventError as error:
            self._close(number, invalid_report(error, result))
            return
        if result.error and result.error.cause in RETRIED and trial.idle_attempts < self._max_attempts:
            self.fault(number)
            self._waiting.append(number)
            return
        outcome = judged(trial, result, self.state)
        problem = self.state.misfit(trial, outcome)
        self._close(number, invalid_report(f"trial {number}{problem}", result) if problem else outcome)

    def closed(self, number: int) -> bool:
        """Return whether a trial has its result."""
        return self.state.trials[number].result is not None

    @property
    def running(self) -> int:
        """Jobs handed out and not told."""
        return len(self._out)

    @property
    def trials_left(self) -> int:
        """Number of trials that the limit on trials leaves to run; 0 when another limit or the goal is reached."""
        spent = self.state.spent and self._budget == self.state.budget  # a larger budget may not be journaled yet
        left = 0.0 if spent else max(0.0, self._budget.trials - self.state.accepted)
        return int(min(left + len(self.state.open_trials), sys.maxsize))

    @property
    def stopping(self) -> bool:
        """True if no more proposals are asked for."""
        return self._stopping

    @property
    def exhausted(self) -> bool:
        """True if asking has ended because every point of the space was proposed."""
        return self._exhausted

    def stop(self) -> None:
        """Ask for nothing more; what runs is finished, what waits for another attempt too."""
        self._stopping = True

    def stop_now(self, stop: BaseException) -> None:
        """Raise `stop`, for a signal's handler: here, or right after the event that is being written.

        Code that swallows it meets it again after the next event. Once `interrupt` has begun this does nothing.
        """
        if self._interrupted:
            return
        self._stop_after = stop
        if not self._writing:
            raise stop

    def interrupt(self) -> None:
        """Stop the driver on request: attempts in progress do not count against their trials."""
        self._interrupted, self._stop_after = True, None
        for number in sorted(self._out):
            self._write(Interrupted(number, self.state.trials[number].attempts))
        self._out.clear()

    def open_test(self, finalist: str, measure: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Measure a retrained network on the sealed test split, once; later calls return the same metrics.

        The opening is journaled before it happens, and its metrics afterwards. After a crash between the two, the next
        call measures the same network again.

        Args:
            finalist: name of the retrained network.
            measure: computes the test metrics.
        """
        if not self.state.tests.get(finalist):
            self._write(TestOpened(finalist, {}))  # on record before anyone looks
            self._write(TestOpened(finalist, dict(measure())))
        return self.state.tests[finalist]

    def note_place_of_data(self, config: Mapping[str, Any]) -> None:
        """Journal the place of the data in a header's `config`, if the journal names another one."""
        places = places_of(self.state.header.config, config)
        if any(self.state.header.config[key] != value for key, value in places.items()):
            self._write(Moved(places))

    def end(self) -> None:
        """Journal that a search with budget left has ended, once a runner has found no job and no trial is open."""
        state = self.state
        if self.journal.schema > 1 and not (self._stopping or state.done or state.open_trials):
            self._write(Ended(SPACE if self._exhausted else STRATEGY))

    def fault(self, number: int) -> None:
        """Record that the attempt in progress has ended its worker, or spoilt this process; unlike a kill it counts."""
        if self.journal.schema > 1:
            self._write(Interrupted(number, self.state.trials[number].attempts, FAULT))
        self._out.discard(number)

    def close(self) -> None:
        """Release the journal."""
        self.journal.close()

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _remember(self, proposal: Proposal) -> None:
        if self._ends_with is not None and _is_whole(proposal, self.state.ladder):
            self._asked.add(proposal.architecture.point_id)

    def _exhausts(self, proposal: Proposal) -> bool:
        """Return whether the strategy repeats a point because it has proposed every point of the space."""
        if self._ends_with is not None and _is_whole(proposal, self.state.ladder):
            again = proposal.architecture.point_id in self._asked
            self._exhausted = again and self._asked.issuperset(self._ends_with.distinct)
        return self._exhausted

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write(self, event: Event) -> Event:
        """Write and apply an event, then tell strategy and trackers; all get it as the journal stores it."""
        self._writing = True
        try:
            event = self.journal.append(event)
            if not isinstance(event, Header):
                self.state.apply(event)
            if isinstance(event, Asked):
                self._remember(event.proposal)
            # `interrupt` asks who is out, after a stop that waits for the end of this line
            if isinstance(event, Started):
                self._out.add(event.number)
            elif isinstance(event, Interrupted):
                self._out.discard(event.number)
            if isinstance(event, Told):
                self._tell(event)
        finally:
            self._writing = False
        for tracker in tuple(self._trackers):
            try:
                tracker.on_event(event)
            except Exception as error:
                self._trackers.remove(tracker)
                warnings.warn(f"a tracker failed and hears nothing more: {type(error).__name__}: {error}", stacklevel=2)
        if self._stop_after is not None:
            raise self._stop_after
        return event

    def _tell(self, told: Told) -> None:
        with self._plugin("strategy", f"it was told of trial {told.number}"):
            # a plug-in must not change what the search remembers
            self._strategy.tell(told.number, deepcopy(told.result) if self._foreign["strategy"] else told.result)

    @contextmanager
    def _plugin(self, kind: str, when: str) -> Iterator[None]:
        """Call a strategy or a pruner; what one that is not ours raises ends the search, with its place.

        Raises:
            SearchError: in words, with what to do.
        """
        try:
            yield
        except NasforgeError:
            raise
        except (Exception, SystemExit) as error:
            if not self._foreign[kind]:
                raise
            name = self.state.header.config[kind]["name"]
            raise SearchError(
                f"the {kind} '{name}' failed when {when}: {described(error)}. {_CORRECT}", kind="failed", key=kind
            ) from error

    def _checked_proposal(self, asked: Asked) -> Asked:
        """Return the strategy's proposal; an invalid one is refused before it is written to the journal."""
        try:
            asked = Asked(asked.number, checks.proposal(asked.proposal))
            problem = self.state.contradiction(asked)
            if self._space is not None and self._foreign["strategy"]:  # ours draw from the space
                for architecture in _points_of(asked.proposal):
                    self._space.point(architecture.values)
        except (EventError, SpaceError) as error:
            problem = str(error)
        if problem:
            raise SearchError(
                f"the strategy's proposal for trial {asked.number} is invalid: {problem}. {_CORRECT}",
                kind="invalid",
                key="strategy",
            )
        return asked

    def _start(self, number: int) -> Job:
        trial = self.state.trials[number]
        attempt = trial.attempts + 1
        self._write(Started(number, attempt))
        seed = trial_seed(self.state.header.seed, number)
        return Job(number, attempt, trial.proposal, seed, trial.costs, self.folder)

    def _admit(self, number: int) -> bool:
        """Check costs against constraints; a trial that does not pass is closed at once, uncharged."""
        admitted = admission(self.state.trials[number].proposal, self.check, self.state)
        self._write(Checked(number, admitted.costs, admitted.verdict))
        if admitted.refusal is not None:
            self._close(number, admitted.refusal)
        return admitted.refusal is None

    def _prunes(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> bool:
        if self._pruner is None or not isinstance(trial.proposal, Measure) or trial.proposal.rung != -1:
            return False  # the strategy itself judges a proposal of a named rung
        values = self.state.values_of(metrics, trial.costs)
        if values is None or step >= self.state.rung_of(trial.proposal).epochs:
            return False
        history = self.state.rivals(trial).with_report(trial.number, step, values)
        with self._plugin("pruner", f"trial {trial.number} had reported step {step}"):
            stops = self._pruner.prune(history, trial.number, step)
        if type(stops).__name__ not in ("bool", "bool_"):  # numpy's, whose name has changed
            raise SearchError(
                f"the pruner '{self._config['pruner']['name']}' answered {stops!r}, expected True or False. {_CORRECT}",
                kind="type",
                key="pruner",
            )
        return bool(stops)

    def _close(self, number: int, result: Result) -> None:
        self._out.discard(number)
        steps = self.state.trials[number].steps
        if steps:  # a failure says nothing of what it cost: its reports do
            result = replace(result, charged=result.charged.at_least(steps[-1].charged))
        self._write(Told(number, result))
        self._retain(number)

    def _retain(self, number: int) -> None:
        if self._retention is not None:
            self._retention.closed(self.state.trials[number], self.state)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _replay(self, events: list[Event], header: Header) -> None:
        old = header_of(events)
        moved = places_of(old.config, header.config) if old.data_hash == header.data_hash != "" else {}
        changed = differing({**old.config, **moved}, header.config, VOLATILE)
        if old.data_hash != header.data_hash:
            changed.append(f"the data ({old.why_other_data})")
        if changed:
            raise JournalError(
                f"{self.folder}: holds another search, which differs in {'; '.join(changed)}. Use its settings to "
                "continue it, or another --name for a new search",
                kind="changed",
                key=changed[0].removeprefix("the ").partition(" ")[0],
            )
        self.state = State(old, self.folder)
        for line, event in enumerate(events[1:], 2):
            self.state.take(event, line)
            try:
                if isinstance(event, Asked):
                    self._remember(event.proposal)
                    with self._plugin("strategy", f"it recalled trial {event.number}"):
                        self._strategy.recall(event.number, event.proposal)
                elif isinstance(event, Told):
                    self._tell(event)
            except NasforgeError:
                raise
            except Exception as error:
                problem = f"strategy '{old.config['strategy']['name']}' cannot follow: {type(error).__name__}: {error}"
                raise corrupt(self.journal.path, line, EventError(problem, kind="failed")) from error
            if isinstance(event, Told):
                self._retain(event.number)

    def _repair(self) -> None:
        """Complete the last driver's unfinished work, so that `next` can continue."""
        self._repaired = True
        if self._budget != self.state.budget:
            self._write(Extended(self._budget.to_json()))
        self.note_place_of_data(self._config)
        if self.journal.schema > 1:  # schema 1 knows no causes: there a kill counts against the trial
            for trial in self.state.begun_trials:
                self._write(Interrupted(trial.number, trial.attempts, KILL))
        for trial in self.state.open_trials:
            number = trial.number
            if trial.steps and trial.steps[-1].stop:
                self._close(number, pruned_result(trial))
            elif trial.verdict == "rejected":
                self._close(number, rejection(trial.costs, self.state))
            elif trial.verdict == "failed":
                admitted = admission(trial.proposal, self.check, self.state)
                again = "its check failed before the driver was killed, and does not any more"
                broken = admitted.refusal is not None and admitted.refusal.error is not None
                self._close(number, admitted.refusal if broken and admitted.refusal else Result.failed("error", again))
            elif trial.verdict != "accepted":
                if self._admit(number):
                    self._waiting.append(number)
            elif trial.kills >= self._max_kills or trial.idle_attempts >= self._max_attempts:
                times = f"{trial.kills} times in a row " if trial.kills > 1 else ""
                killed = Result.failed("crash", f"the driver or its worker was killed {times}while it ran")
                self._close(number, judged(trial, killed, self.state))
            else:
                self._waiting.append(number)


_CORRECT = "Correct its code, then run the same command to continue: the journal is whole"


def _points_of(proposal: Proposal) -> tuple[Architecture, ...]:
    if isinstance(proposal, Score):
        return proposal.architectures
    return (proposal.architecture,) if isinstance(proposal, Measure) else ()


def _is_foreign(kind: str, named: Mapping[str, Any]) -> bool:
    """Return whether a strategy or a pruner, or one that it is made of, is no part of this package."""
    name = str(named["name"])
    ours = name in (*registry.BUILT_IN[kind], NO_PRUNER) or name.startswith("nasforge.")
    return not ours or bool(files_named(named))


def _is_whole(proposal: Proposal, ladder: Sequence[Rung]) -> TypeGuard[Measure]:
    """Return whether a proposal is a training from an initialisation to the last rung, or a look-up."""
    return isinstance(proposal, Measure) and is_last(proposal.rung, ladder) and proposal.weights is None


# --- after the search ------------------------------------------------------------------------------------------------


class _Silent:
    """A strategy that asks for nothing more."""

    def ask(self, number: int) -> Proposal | None:
        return None

    def recall(self, number: int, proposal: Proposal) -> None:
        pass

    def tell(self, number: int, result: Result) -> None:
        pass

    def withdraw(self, number: int) -> None:
        pass


def reopen(folder: Path, trackers: Sequence[Tracker] = ()) -> Experiment:
    """Open and lock an existing experiment, which proposes and deletes nothing: only a resumed search knows its needs.

    Args:
        folder: of the experiment.
        trackers: watch every new event.

    Raises:
        JournalError: no experiment there, locked, or corrupt.
    """
    header = read_header(folder)
    return Experiment(folder, header, _Silent(), check=lambda proposal: {}, trackers=trackers, keep_weights=None)
