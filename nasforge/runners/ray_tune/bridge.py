"""Between Tune's callbacks and the experiment: the searcher asks, the scheduler decides, both through the bridge."""

from __future__ import annotations

import math
import time
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from nasforge.core.errors import SearchError
from nasforge.core.say import Say, to_stderr
from nasforge.core.trial import Result
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.job import Job
from nasforge.experiment.journal import dumps, loads
from nasforge.runners.ray_tune.cluster import Cluster
from nasforge.runners.ray_tune.worker import LAST_WORDS
from nasforge.runners.resources import kind_of

_CONTINUE: str = TrialScheduler.CONTINUE
_STOP: str = TrialScheduler.STOP
WARM_UP_S = 60.0
"""Seconds that started workers wait for the others before the search begins without them."""
_DEAD_STARTS = 5
"""Number of workers dying in a row while they start after which no more are started."""


class ClusterLost(BaseException):
    """Loss of Ray. It leaves Tune's loop at once: Tune would wait for processes that have ended."""


class Bridge:
    """Bridge from Tune's callbacks to the experiment; keeps the first exception for after `fit`.

    Tune swallows what a callback raises and runs the trial again, so nothing may leave here as an exception.
    """

    def __init__(self, experiment: Experiment, workers: int, cluster: Cluster, say: Say = to_stderr) -> None:
        self.experiment = experiment
        self._cluster = cluster
        self._say = say
        self.error: BaseException | None = None
        self.jobs: dict[str, Job] = {}
        self._workers = workers
        self._most_jobs = math.inf
        self._called: set[str] = set()
        self._starts = 0
        self._dead_starts = 0
        self._warm: set[str] = set()
        self._begun = 0
        self._dismissed = 0
        self._over = False
        self._losses: dict[str, Result] = {}
        self._warm_since: float | None = None

    def suggest(self, trial_id: str) -> Any:
        try:
            if self.error:
                return Searcher.FINISHED
            if len(self._called) < self._workers and not self.experiment.stopping:
                self._called.add(trial_id)
                self._starts += 1
                return {"number": -self._starts, "kind": "measure", "job": ""}
            if len(self.jobs) >= self._most_jobs:
                return None
            job = self.experiment.next()
            if job is None:
                self._over = not self.experiment.running
                return Searcher.FINISHED if self._over else None
            self.jobs[trial_id] = job
            self._begun += 1
            return {"number": job.number, "kind": kind_of(job.proposal), "job": dumps(job.to_json())}
        except BaseException as error:
            self.error = error
            return Searcher.FINISHED

    def warm(self, trial_id: str, message: str) -> str:
        """Hold a started worker until all have started, then release them one by one, each to a trial.

        Otherwise Tune would put a trial that waits for its worker to start on one that has just become free, and kill
        the other while it starts; with trials shorter than a start there would never be a second worker.
        """
        content = loads(message)
        if content["problem"]:
            self.error = self.error or SearchError(content["problem"], kind="failed")
            return _STOP
        if trial_id not in self._warm:
            self._warm.add(trial_id)
            self._dead_starts = 0
            self._most_jobs = max(self._most_jobs, len(self._warm))
        self._warm_since = self._warm_since or time.monotonic()
        late = time.monotonic() - self._warm_since > WARM_UP_S
        all_here_and_last_at_work = len(self._warm) >= self._workers and self._begun >= self._dismissed
        if late or self._over or self.error or all_here_and_last_at_work:
            self._dismissed += 1
            return _STOP
        return _CONTINUE

    def report(self, trial_id: str, message: str) -> str:
        try:
            job, (step, metrics, alphas) = self.jobs[trial_id], loads(message)
            if self.error is None and self.experiment.report(job.number, job.attempt, step, metrics, alphas):
                return _CONTINUE
        except BaseException as error:
            self.error = self.error or error
        return _STOP

    def lost(self, trial: Any) -> None:
        """Record a lost worker, before Tune calls `complete`. With its node it was preempted, alone it crashed."""
        try:
            error = trial.get_error()
        except Exception as unreadable:
            error = unreadable
        message = str(error)
        if getattr(error, "preempted", False) or "node has died" in message or "node was terminated" in message:
            self._losses[trial.trial_id] = Result.failed("preempted", "the worker's node went away")

    def complete(self, trial_id: str, message: str | None) -> None:
        """Record the result in `message`; None when the worker was lost."""
        job = self.jobs.pop(trial_id, None)
        try:
            if message is None and self._cluster.lost:
                return  # it died with Ray, which `check` will find
            if job is None and message is None and trial_id not in self._warm:
                self._start_another(trial_id)
            if job is None or self.error or self.experiment.closed(job.number):
                return
            if message is None:
                result = self._losses.pop(trial_id, Result.failed("crash", _reason(job)))
            else:
                result = Result.from_json(loads(message))
            self.experiment.tell(job.number, job.attempt, result)
        except BaseException as error:
            self.error = self.error or error

    def _start_another(self, trial_id: str) -> None:
        """Let `suggest` start a worker in place of one that died while it started.

        After several such deaths in a row the search continues with the workers that have started.

        Raises:
            SearchError: none has started.
        """
        self._called.discard(trial_id)
        self._dead_starts += 1
        if self._dead_starts < _DEAD_STARTS:
            return
        if not self._warm:
            raise SearchError(
                f"{self._dead_starts} worker processes in a row died while they started. Read Ray's logs in "
                f"{self._cluster.keep_logs()}; if memory is short, set fewer workers with --max-concurrent",
                kind="failed",
            )
        if len(self._warm) < self._workers:
            self._say(
                f"Note: {self._dead_starts} worker processes in a row died while they started, so the search continues "
                f"with {len(self._warm)} of {self._workers} workers. Ray's logs are in {self._cluster.keep_logs()}."
            )
            self._workers = self._most_jobs = len(self._warm)
        self._dead_starts = 0

    def check(self) -> bool:
        """Tell Tune to stop because of an error.

        Raises:
            ClusterLost: Ray is gone.
            KeyboardInterrupt: the user stops the search at once; Tune would wait for trials that run.
        """
        if isinstance(self.error, KeyboardInterrupt):
            raise self.error
        if lost := self._cluster.lost:
            raise ClusterLost(lost)
        return self.error is not None


def _reason(job: Job) -> str:
    """Return why a job's worker died, as far as it could say."""
    words = job.folder / LAST_WORDS
    return words.read_text() if words.is_file() else "the worker process died"


class AskNext(Searcher):  # type: ignore[misc]
    """Tune's searcher, which asks the experiment. Its pickled form is empty, since Tune copies searchers."""

    def __init__(self, bridge: Bridge | None = None) -> None:
        super().__init__(metric="unused", mode="max")
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bridge": None}

    def set_search_properties(self, metric: Any, mode: Any, config: Any, **spec: Any) -> bool:
        return True

    def suggest(self, trial_id: str) -> Any:
        return self._bridge.suggest(trial_id) if self._bridge else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        pass  # reports go through the scheduler, which alone may stop a trial

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if self._bridge:
            self._bridge.complete(trial_id, None if error or not result else result.get("result"))

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class Decide(TrialScheduler):  # type: ignore[misc]
    """Tune's scheduler: first come, first served; the experiment decides whether a trial continues."""

    def __init__(self, bridge: Bridge | None = None) -> None:
        super().__init__()
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bridge": None}

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        pass

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if self._bridge:
            self._bridge.lost(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if self._bridge and result.get("warm"):
            return self._bridge.warm(trial.trial_id, result["warm"])
        if self._bridge and result.get("report"):
            return self._bridge.report(trial.trial_id, result["report"])
        return _CONTINUE

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        pass

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        pass

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        for trial in tune_controller.get_trials():
            if trial.status == "PENDING":
                return trial
        return None

    def debug_string(self) -> str:
        return "NASForge"

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class StopOnError(tune.Stopper):  # type: ignore[misc]
    """Stopper that ends `fit` as soon as a callback has failed."""

    def __init__(self, bridge: Bridge | None = None) -> None:
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        return {"_bridge": None}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge is not None and self._bridge.check()
