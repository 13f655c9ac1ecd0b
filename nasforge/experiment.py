"""A search in progress: the rules between strategy and runner, and the only writer of the journal."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nasforge.admission import Check, admission, rejection
from nasforge.core.errors import JournalError, SearchError
from nasforge.core.events import (
    Asked,
    Checked,
    Event,
    Extended,
    Header,
    Interrupted,
    Reported,
    Started,
    TestOpened,
    Told,
    header_of,
)
from nasforge.core.goals import Budget
from nasforge.core.protocols import Pruner, Strategy, Tracker
from nasforge.core.trial import RETRIED, Charge, Measure, Result, Trial
from nasforge.job import Job, trial_seed
from nasforge.journal import Journal, dumps, loads
from nasforge.judging import judged, why_everything_breaks, why_nothing_is_admitted
from nasforge.retention import Retention
from nasforge.state import State, differing, pruned_result

VOLATILE = ("budget", "runner", "tracking_uri")
"""Settings that may differ when a search is continued: they change neither what is asked nor what is measured."""


class Experiment:
    """Budget, constraints, retries, pruning and resume; runners call `next`, `report` and `tell`, nothing else.

        while (job := experiment.next()) is not None:          # one worker
            result = evaluator(job.proposal, report)           # report(step, metrics) -> experiment.report(...)
            experiment.tell(job.number, job.attempt, result)

    With several workers None means "wait" while trials run and "finished" when none does.
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
        max_rejections_in_a_row: int = 1000,
        max_unbuildable_in_a_row: int = 50,
        max_faults_in_a_row: int = 6,
        keep_weights: int | None = 5,
        sync: bool = True,
    ) -> None:
        """Open `folder`: a new experiment, or the continuation of the one that is in it.

        Args:
            folder: where the journal and the artifacts live.
            header: what this search is; when continued it must equal the journal's but for the settings in `VOLATILE`.
            strategy: fresh; the journal is replayed into it.
            check: costs of a proposal.
            pruner: stops hopeless trials; None for never.
            trackers: watch every new event.
            max_attempts: attempts without a report after which a trial has failed with cause `crash`.
            max_rejections_in_a_row: after so many the search ends with advice; a continued one may try as many again.
            max_unbuildable_in_a_row: so many proposals that cannot be built end it too.
            max_faults_in_a_row: so many trials that break before their first report end the search.
            keep_weights: how many finished trials keep their weights on disk (the front first, then the best); None
                where nothing is to be deleted.
            sync: as in `Journal`.

        Raises:
            JournalError: locked, corrupt, or written by a different search.
        """
        self.folder = folder.absolute()
        header = replace(header, config=loads(dumps(dict(header.config))))
        self._strategy = strategy
        self.check = check
        self._pruner = pruner
        self._trackers = list(trackers)
        self._max_attempts = max_attempts
        self._retention: Retention | None = None
        if keep_weights is not None:
            self._retention = Retention(self.folder, keep_weights, getattr(strategy, "wanted", None))
        self._waiting: list[int] = []
        self._writing = False
        self._stop_after: BaseException | None = None
        self._out: set[int] = set()
        self._stopping = False
        self.journal = Journal(self.folder, sync=sync)
        try:
            self.resumed = bool(self.journal.events)
            if self.resumed:
                self._replay(self.journal.events, header)
            else:
                self.state = State(header)
                self._write(header)
            self._budget = Budget(**header.config["budget"])
            self._repaired = False
            unbuildable = self.state.unbuildable_in_a_row
            self._rejections_allowed = self.state.rejected_in_a_row - unbuildable + max_rejections_in_a_row
            self._unbuildable_allowed = unbuildable + max_unbuildable_in_a_row
            self._faults_allowed = self.state.faults_in_a_row + max_faults_in_a_row
        except BaseException:
            self.journal.close()
            raise

    # --- what a runner calls ----------------------------------------------------------------------------------------

    def next(self) -> Job | None:
        """The next job; None: nothing now, and the end when nothing runs.

        Raises:
            SearchError: nothing feasible is found, or every trial breaks at once.
        """
        if not self._repaired:
            self._repair()
        if self.state.faults_in_a_row >= self._faults_allowed:
            raise SearchError(why_everything_breaks(self.state))
        if self._waiting:
            return self._start(self._waiting.pop(0))
        while not self._stopping and not self.state.spent:
            number = len(self.state.trials)
            proposal = self._strategy.ask(number)
            if proposal is None:
                return None
            self._write(Asked(number, proposal))
            if self._admit(number):
                return self._start(number)
            violating = self.state.rejected_in_a_row - self.state.unbuildable_in_a_row
            too_many = violating >= self._rejections_allowed
            if too_many or self.state.unbuildable_in_a_row >= self._unbuildable_allowed:
                raise SearchError(why_nothing_is_admitted(self.state))
        return None

    def report(self, number: int, attempt: int, step: int, metrics: Mapping[str, float]) -> bool:
        """A running trial's metrics after `step`; False: stop it, it is closed as pruned.

        A step that an earlier attempt reported already keeps what was said first.
        """
        trial = self.state.trials[number]
        if trial.result is not None or attempt != trial.attempts:
            return False
        for earlier in trial.steps:
            if earlier.step == step:
                return not earlier.stop
        stop = self._prunes(trial, step, metrics)
        self._write(Reported(number, attempt, step, dict(metrics), "stop" if stop else "continue"))
        if stop:
            self._close(number, pruned_result(self.state.trials[number]))
        return not stop

    def tell(self, number: int, attempt: int, result: Result) -> None:
        """The outcome of a job. A lost worker's trial is put back to be tried again; a lost attempt's word is ignored.

        Raises:
            SearchError: the trial is closed already.
        """
        trial = self.state.trials[number]
        if trial.result is not None:
            raise SearchError(f"trial {number} was told twice: it is closed as '{trial.result.status}'")
        if attempt != trial.attempts:
            return
        self._out.discard(number)
        if result.error and result.error.cause in RETRIED and trial.idle_attempts < self._max_attempts:
            self._waiting.append(number)
            return
        self._close(number, judged(trial, result, self.state))

    def closed(self, number: int) -> bool:
        """Whether a trial has its result."""
        return self.state.trials[number].result is not None

    @property
    def running(self) -> int:
        """Jobs handed out and not told."""
        return len(self._out)

    @property
    def wanted(self) -> int:
        """How many trials the budget's limit on them leaves to run; 0 when there is nothing to do."""
        left = max(0.0, self._budget.trials - self.state.accepted) + len(self.state.open_trials)
        return int(min(left, sys.maxsize))

    @property
    def stopping(self) -> bool:
        """Whether asking has been stopped."""
        return self._stopping

    def stop(self) -> None:
        """Ask for nothing more; what runs is finished, what waits for another attempt too."""
        self._stopping = True

    def stop_now(self, stop: BaseException) -> None:
        """Raise `stop`, for a signal's handler: here, or right after the event that is being written."""
        if self._writing:
            self._stop_after = stop
        else:
            raise stop

    def interrupt(self) -> None:
        """The driver stops now, on request: attempts under way do not count against their trials."""
        for number in sorted(self._out):
            self._write(Interrupted(number, self.state.trials[number].attempts))
        self._out.clear()

    def open_test(self, finalist: str, measure: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
        """Let a retrained network meet the sealed test part, once; later calls return what was found then.

        The opening is journaled before it happens and its figures after; a crash between the two leaves an opening
        without figures on record, and the next call measures the same network again.

        Args:
            finalist: name of the retrained network.
            measure: computes the test metrics.
        """
        if not self.state.tests.get(finalist):
            self._write(TestOpened(finalist, {}))  # on record before anyone looks
            self._write(TestOpened(finalist, dict(measure())))
        return self.state.tests[finalist]

    def close(self) -> None:
        """Release the journal."""
        self.journal.close()

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write(self, event: Event) -> Event:
        """Journal, apply, tell strategy and trackers; everyone gets the event as the journal will give it back."""
        self._writing = True
        try:
            event = self.journal.append(event)
            if not isinstance(event, Header):
                self.state.apply(event)
            if isinstance(event, Started):  # before a stop that waits for the end of this line: `interrupt` names it
                self._out.add(event.number)
            if isinstance(event, Told):
                self._strategy.tell(event.number, event.result)
        finally:
            self._writing = False
        for tracker in tuple(self._trackers):
            try:
                tracker.on_event(event)
            except Exception as error:
                self._trackers.remove(tracker)
                warnings.warn(f"a tracker failed and hears nothing more: {type(error).__name__}: {error}", stacklevel=2)
        if self._stop_after is not None:
            stop, self._stop_after = self._stop_after, None
            raise stop
        return event

    def _start(self, number: int) -> Job:
        trial = self.state.trials[number]
        attempt = trial.attempts + 1
        self._write(Started(number, attempt))
        seed = trial_seed(self.state.header.seed, number)
        return Job(number, attempt, trial.proposal, seed, trial.costs, self.folder)

    def _admit(self, number: int) -> bool:
        """Check costs against constraints; a trial that does not pass is closed at once, uncharged."""
        found = admission(self.state.trials[number].proposal, self.check, self.state)
        self._write(Checked(number, found.costs, found.verdict))
        if found.refusal is not None:
            self._close(number, found.refusal)
        return found.refusal is None

    def _prunes(self, trial: Trial, step: int, metrics: Mapping[str, float]) -> bool:
        if self._pruner is None or not isinstance(trial.proposal, Measure) or trial.proposal.rung >= 0:
            return False  # what is asked for at a rung by name is judged there, by the strategy
        values = self.state.values_of({**trial.costs, **metrics})
        if values is None or step >= self.state.rung_of(trial.proposal).epochs:
            return False
        history = self.state.rivals(trial).with_report(trial.number, step, values)
        return self._pruner.prune(history, trial.number, step)

    def _close(self, number: int, result: Result) -> None:
        self._out.discard(number)
        steps = self.state.trials[number].steps
        if steps:  # a failure says nothing of what it cost: its reports do
            known = steps[-1].charged
            seconds = max(known.worker_seconds, result.charged.worker_seconds)
            result = replace(result, charged=Charge(seconds, max(known.multiply_adds, result.charged.multiply_adds)))
        self._write(Told(number, result))
        self._retain(number)

    def _retain(self, number: int) -> None:
        if self._retention is not None:
            self._retention.closed(self.state.trials[number], self.state)

    # --- opening ----------------------------------------------------------------------------------------------------

    def _replay(self, events: list[Event], header: Header) -> None:
        old = header_of(events)
        changed = differing(old.config, header.config, VOLATILE)
        if old.data_hash != header.data_hash:
            changed.append("the data (same source, other content)")
        if changed:
            raise JournalError(
                f"{self.folder}: holds another search; different: {'; '.join(changed)}. Use the settings it was "
                "started with to continue it, or another --name for a new one"
            )
        self.state = State(old)
        for line, event in enumerate(events[1:], 2):
            self.state.take(event, line)
            if isinstance(event, Asked):
                self._strategy.recall(event.number, event.proposal)
            elif isinstance(event, Told):
                self._strategy.tell(event.number, event.result)
                self._retain(event.number)

    def _repair(self) -> None:
        """Bring what the last driver left half done to a point from which `next` can go on."""
        self._repaired = True
        if self._budget != self.state.budget:
            self._write(Extended(self._budget.to_json()))
        for trial in self.state.open_trials:
            number = trial.number
            if trial.steps and trial.steps[-1].stop:
                self._close(number, pruned_result(trial))
            elif trial.verdict == "rejected":
                self._close(number, rejection(trial.costs, self.state))
            elif trial.verdict != "accepted":
                if self._admit(number):
                    self._waiting.append(number)
            elif trial.idle_attempts >= self._max_attempts:
                killed = Result.failed("crash", "the driver or its worker was killed")
                self._close(number, judged(trial, killed, self.state))
            else:
                self._waiting.append(number)
