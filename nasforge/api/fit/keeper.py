"""Ends the search of a fit in time: nothing starts whose forecast does not fit."""

from __future__ import annotations

import math
import time

from nasforge.api.fit.log import FitLog
from nasforge.core.errors import JournalError, StopNow, TimeOver
from nasforge.core.events import Checked, Event, Reported, Told
from nasforge.core.metrics import short_name
from nasforge.core.say import Say
from nasforge.experiment.experiment import Experiment
from nasforge.views.rounding import fixed

_NEVER_STOPPED = 3
"""Trials that must have come as far before ASHA stops one."""
_GRACE = 0.02
"""Share of the time of the fit by which a training that was forecast to fit may be late."""
_SHOWN = ("val/accuracy", "val/f1_macro")
_LOOKING, _FIRST = 0.25, 0.5
"""Shares of the time of the last trainings in which a first candidate within the limits is looked for, and trained."""
_CAUTION = 1.1
"""A forecast from other networks is taken so much longer."""


class Keeper:
    """A tracker that knows the end and forecasts every training by those that were seen.

    Attributes:
        ended: whether it has ended the search.
    """

    def __init__(
        self,
        log: FitLog,
        end: float,
        trainings: int,
        say: Say,
        last: float = 0.0,
        needed: float = 0.0,
    ) -> None:
        """Take what is known before the search.

        Args:
            log: of the fit, whose clock counts.
            end: of the search, in seconds of the fit.
            trainings: of one candidate.
            say: takes a line for the user.
            last: seconds after that end that are kept for the last trainings. Where limits refuse every candidate
                before the end, the first one takes a share of them.
            needed: forecast of the seconds of one candidate's trainings.
        """
        self._last, self._needed = last, needed
        self._log, self._end, self._trainings, self._say = log, end, trainings, say
        self._seen: list[tuple[float, float]] = []  # (multiply-adds, seconds of one training)
        self._experiment: Experiment | None = None
        self._grace = _GRACE * end
        self.ended = False

    def watch(self, experiment: Experiment) -> None:
        """Take the experiment that is to be ended, and learn from the trials that it has."""
        self._experiment = experiment
        for number in list(experiment.state.trials):
            self._learn(number)
        if self._seen and self._log.used + self._forecast(0.0) > self._end:
            self._stop()

    def deadline(self) -> float | None:
        """`time.monotonic()` by which a training that begins now must end.

        The trainings of a first candidate share the time of the search, so that there is one at its end.
        """
        if self._experiment is None:
            return None
        left = max(self._end - self._log.used, 0.0)
        trials = self._experiment.state.trials.values()
        if any(trial.comparable for trial in trials):
            return time.monotonic() + left + self._grace
        done = max((trial.steps[-1].step for trial in self._experiment.state.open_trials if trial.steps), default=0)
        together = self._trainings - done if self._trainings > 1 else 1
        return time.monotonic() + left / max(1, together)

    def on_event(self, event: Event) -> None:
        """Look at the clock before a training begins."""
        if self._experiment is None:
            return
        if isinstance(event, Told):
            self._learn(event.number)
            try:
                self._tell(event.number)
            except JournalError as error:  # the experiment would go on without its clock
                self._experiment.stop_now(StopNow(str(error)))
        if isinstance(event, Checked) and event.verdict != "accepted":
            looking = 0.0 if self._experiment.state.accepted else _LOOKING * self._last
            if self._log.used > self._end + looking:
                self._stop()
        elif isinstance(event, Checked) and self._experiment.state.accepted == 1:
            self._end = max(self._end, min(self._log.used + self._needed, self._end + _FIRST * self._last))
        if isinstance(event, Reported) and self._is_too_late():
            self._stop()
        if not self._seen:  # a first candidate is always tried
            return
        if isinstance(event, Checked) and event.verdict == "accepted":
            # ASHA stops none of the first candidates, so they need all their folds
            trainings = self._trainings if event.number < _NEVER_STOPPED else min(2, self._trainings)
            if self._log.used + trainings * self._forecast(event.costs.get("cost/flops", 0.0)) > self._end:
                self._stop()
        elif isinstance(event, Reported) and event.decision == "continue" and event.step < self._trainings:
            seconds = event.metrics.get("time/worker_s", 0.0) / event.step
            if self._log.used + seconds > self._end:
                self._stop()

    def _is_too_late(self) -> bool:
        """Tell whether a training has met its deadline, where it is not needed for a first result."""
        assert self._experiment is not None  # noqa: S101
        late = self._log.used > self._end + self._grace
        return late and any(trial.comparable for trial in self._experiment.state.trials.values())

    def _learn(self, number: int) -> None:
        assert self._experiment is not None  # noqa: S101
        trial = self._experiment.state.trials[number]
        if trial.result is not None and trial.steps and self._trainings > 1:
            seconds = trial.steps[-1].metrics.get("time/worker_s", math.nan) / trial.steps[-1].step
        elif trial.result is not None and trial.result.status == "finished":
            seconds = trial.result.charged.worker_seconds
        else:
            return
        if math.isfinite(seconds) and seconds > 0:
            self._seen.append((max(trial.costs.get("cost/flops", 1.0), 1.0), seconds))

    def _forecast(self, flops: float) -> float:
        """Forecast the seconds of one training by the trainings seen; `flops` are multiply-adds, 0 for the fastest."""
        if flops <= 0:
            return min(seconds for _, seconds in self._seen)
        near, seconds = min(self._seen, key=lambda pair: abs(math.log(pair[0] / flops)))
        return seconds * max(0.5, flops / near) * _CAUTION

    def _tell(self, number: int) -> None:
        assert self._experiment is not None  # noqa: S101
        trial = self._experiment.state.trials[number]
        result = trial.result
        if result is None or trial.verdict != "accepted":
            return
        self._log.write("trial", number=number, status=result.status)
        comparable = [other.number for other in self._experiment.state.trials.values() if other.comparable]
        if comparable == [number] and self._log.used >= self._end:
            self._log.write("late", trial=number)
            self._say(
                f"candidate {number} was much slower than forecast: its trainings ended early, and no other is tried. "
                "Give more --time"
            )
        figures = [f"{short_name(key)} {fixed(result.metrics[key], 4)}" for key in _SHOWN if key in result.metrics]
        best = " (best so far)" if self._experiment.state.best is trial else ""
        cause = "" if result.error is None else f": {result.error.message}"
        shown = ", ".join([f"{result.status}{cause}", *figures])
        left = max(0.0, self._end - self._log.used)
        self._say(f"candidate {number}: {shown}{best}; {left:.0f} s left for the search")

    def _stop(self) -> None:
        assert self._experiment is not None  # noqa: S101
        self.ended = True
        self._experiment.stop_now(TimeOver("the time of the search is over"))
