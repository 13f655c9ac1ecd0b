"""Workers on this machine or on a Ray cluster, through Ray Tune. The only file that knows Ray.

Tune schedules and places; it decides and remembers nothing. Its searcher and scheduler are two thin adapters that call
the experiment's `next`, `report` and `tell`, so our journal stays the truth. What Ray Tune does on its own account and
what therefore is switched off here is listed in docs/architecture.md.
"""

from __future__ import annotations

import logging
import os
import queue
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

for _name, _setting in {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # no state of Tune's own
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose=0
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}.items():
    os.environ.setdefault(_name, _setting)

import ray  # noqa: E402  (the settings above are read at import)
from ray import tune  # noqa: E402
from ray.tune.schedulers import TrialScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from nasforge.core.architecture import Architecture  # noqa: E402
from nasforge.core.errors import ConfigError, SearchError, did_you_mean  # noqa: E402
from nasforge.core.protocols import Evaluator  # noqa: E402
from nasforge.core.trial import Measure, Result  # noqa: E402
from nasforge.evaluators.cost_check import CostCheck  # noqa: E402
from nasforge.experiment import Experiment, Job  # noqa: E402
from nasforge.journal import dumps, loads  # noqa: E402
from nasforge.runners.work import perform  # noqa: E402

_CONTINUE: str = TrialScheduler.CONTINUE
_STOP: str = TrialScheduler.STOP
DEFAULT_RESOURCES: dict[str, dict[str, float]] = {"measure": {"cpu": 1}, "train_shared": {"cpu": 1}}


def run(
    experiment: Experiment,
    evaluator: Evaluator,
    *,
    address: str | None = None,
    max_concurrent_trials: int | None = None,
    resources: Mapping[str, Mapping[str, float]] | None = None,
    cpus: int | None = None,
    logical_gpus: int | None = None,
) -> None:
    """Work through the experiment on Ray workers.

    Args:
        experiment: open.
        evaluator: is pickled to every worker process once and kept there from trial to trial.
        address: of a running cluster (`auto`, `ray://host:10001`, `host:6379`); None starts Ray on this machine.
        max_concurrent_trials: None for as many as the cluster's resources hold.
        resources: per kind of job (`measure`, `train_shared`), what a worker takes: `{cpu: 1, gpu: 0.25}`. Where
            nothing is said a job takes one CPU, and on a cluster with GPUs one GPU.
        cpus: CPUs of a Ray started here; None for all.
        logical_gpus: GPUs that a Ray started here is told to have; None for those that are there.

    Raises:
        ConfigError: unknown kind or resource, or more than any node has.
        SearchError: the cluster cannot be reached, or its workers cannot import what they need.
    """
    if isinstance(max_concurrent_trials, bool) or (max_concurrent_trials is not None and max_concurrent_trials < 1):
        raise ConfigError(f"runner: max_concurrent_trials must be at least 1, got {max_concurrent_trials!r}")
    started = _connect(address, cpus, logical_gpus)
    try:
        wanted = _resources(resources)
        slots = max_concurrent_trials or _slots(wanted["measure"])
        shipped = ray.put(evaluator)
        _try_out(experiment, shipped, wanted["measure"])
        if isinstance(experiment.check, CostCheck) and experiment.check.times:
            experiment.check.latency = _remote_latency(shipped, wanted["measure"])
        _fit(_Bridge(experiment), shipped, wanted, slots)
    finally:
        if started:
            ray.shutdown()


# --- the driver's side ----------------------------------------------------------------------------------------------


class _Bridge:
    """Carries calls between Tune's callbacks and the experiment; keeps the first exception for after `fit`.

    Tune swallows what a callback raises and runs the trial again, so nothing may leave here as an exception.
    """

    def __init__(self, experiment: Experiment) -> None:
        self.experiment = experiment
        self.error: BaseException | None = None
        self.jobs: dict[str, Job] = {}

    def suggest(self, trial_id: str) -> Any:
        try:
            if self.error:
                return Searcher.FINISHED
            job = self.experiment.next()
            if job is None:
                return None if self.experiment.running else Searcher.FINISHED
            self.jobs[trial_id] = job
            kind = "measure" if isinstance(job.proposal, Measure) else "train_shared"
            return {"number": job.number, "kind": kind, "job": dumps(job.to_json())}
        except BaseException as error:
            self.error = error
            return Searcher.FINISHED

    def report(self, trial_id: str, message: str) -> str:
        try:
            job, (step, metrics) = self.jobs[trial_id], loads(message)
            if self.error is None and self.experiment.report(job.number, job.attempt, step, metrics):
                return _CONTINUE
        except BaseException as error:
            self.error = self.error or error
        return _STOP

    def complete(self, trial_id: str, message: str | None) -> None:
        """`message`: the result; None when the worker was lost."""
        job = self.jobs.pop(trial_id, None)
        try:
            if job is None or self.error or self.experiment.closed(job.number):
                return
            if message is None:
                result = Result.failed("crash", "the worker process died")
            else:
                result = Result.from_json(loads(message))
            self.experiment.tell(job.number, job.attempt, result)
        except BaseException as error:
            self.error = self.error or error


class _AskNext(Searcher):  # type: ignore[misc]
    """Tune's searcher: asks the experiment. Its pickled form is empty, for Tune copies searchers."""

    def __init__(self, bridge: _Bridge | None = None) -> None:
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


class _Decide(TrialScheduler):  # type: ignore[misc]
    """Tune's scheduler: first come, first served; whether a trial goes on is the experiment's decision."""

    def __init__(self, bridge: _Bridge | None = None) -> None:
        super().__init__()
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bridge": None}

    def set_search_properties(self, metric: Any, mode: Any, **spec: Any) -> bool:
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        pass

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        pass

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
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


class _StopOnError(tune.Stopper):  # type: ignore[misc]
    """Ends `fit` as soon as a callback has failed."""

    def __init__(self, bridge: _Bridge | None = None) -> None:
        self._bridge = bridge

    def __getstate__(self) -> dict[str, Any]:
        return {"_bridge": None}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge is not None and self._bridge.error is not None


def _fit(bridge: _Bridge, shipped: Any, wanted: Mapping[str, Mapping[str, float]], slots: int) -> None:
    def placement(config: Mapping[str, Any]) -> Any:
        return tune.PlacementGroupFactory([_bundle(wanted[config["kind"]])])

    trainable = tune.with_resources(tune.with_parameters(_Worker, shipped=[shipped]), placement)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what failed is in the journal, said once
    with tempfile.TemporaryDirectory(prefix="nasforge-ray-") as scratch:
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_AskNext(bridge),
                scheduler=_Decide(bridge),
                num_samples=-1,
                max_concurrent_trials=slots,
                reuse_actors=True,
                trial_name_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
                trial_dirname_creator=lambda trial: f"trial-{trial.config['number']}-{trial.trial_id}",
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=scratch,
                verbose=0,
                stop=_StopOnError(bridge),
                failure_config=tune.FailureConfig(max_failures=0),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()
    if bridge.error is not None:
        raise bridge.error


def _connect(address: str | None, cpus: int | None, logical_gpus: int | None) -> bool:
    """Reach Ray; returns whether it was started here (and is to be shut down here)."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        else:
            os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # a cluster of this user on this machine only
            ray.init(address="local", num_cpus=cpus, num_gpus=logical_gpus, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at '{address}'" if address else "Ray on this machine"
        raise SearchError(f"{where} cannot be reached: {error}. Check --address, or use --runner local") from None
    return True


def _resources(given: Mapping[str, Mapping[str, float]] | None) -> dict[str, dict[str, float]]:
    cluster = ray.cluster_resources()
    wanted = {kind: dict(amounts) for kind, amounts in DEFAULT_RESOURCES.items()}
    if cluster.get("GPU", 0) >= 1:
        wanted = {kind: {**amounts, "gpu": 1} for kind, amounts in wanted.items()}
    for kind, amounts in (given or {}).items():
        if kind not in wanted:
            raise ConfigError(f"runner: resources for unknown kind of job '{kind}'; {did_you_mean(kind, wanted)}")
        if not isinstance(amounts, Mapping):
            raise ConfigError(f"runner: resources of '{kind}' must be a mapping such as {{cpu: 1, gpu: 0.25}}")
        for name, amount in amounts.items():
            if isinstance(amount, bool) or not isinstance(amount, (int, float)) or amount < 0:
                raise ConfigError(
                    f"runner: resources of '{kind}': {name} must be a number of at least 0, got {amount!r}"
                )
        wanted[kind] = dict(amounts)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for kind, amounts in wanted.items():
        bundle = _bundle(amounts)
        if not any(all(node.get(name, 0) >= amount for name, amount in bundle.items()) for node in nodes):
            largest = {name: max(node.get(name, 0) for node in nodes) for name in bundle}
            raise ConfigError(f"runner: a '{kind}' job asks for {bundle}, but the largest node has {largest}")
    return wanted


def _bundle(amounts: Mapping[str, float]) -> dict[str, float]:
    names = {"cpu": "CPU", "gpu": "GPU"}
    return {names.get(name, name): amount for name, amount in amounts.items() if amount > 0} or {"CPU": 0.01}


def _slots(amounts: Mapping[str, float]) -> int:
    bundle = _bundle(amounts)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return max(1, sum(int(min(node.get(n, 0) / amount + 1e-9 for n, amount in bundle.items())) for node in nodes))


def _options(amounts: Mapping[str, float]) -> dict[str, Any]:
    bundle = _bundle(amounts)
    others = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0), "resources": others, "max_retries": 0}


def _try_out(experiment: Experiment, shipped: Any, amounts: Mapping[str, float]) -> None:
    """Before the first ask: can a worker import the evaluator, and does it see the same data and the same folder?"""

    def look(evaluator: Any, folder: str) -> tuple[str, bool]:
        return getattr(evaluator, "data_hash", ""), Path(folder).is_dir()

    try:
        data_hash, sees_folder = ray.get(ray.remote(**_options(amounts))(look).remote(shipped, str(experiment.folder)))
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        last = str(cause).strip().splitlines()[-1] if str(cause).strip() else type(cause).__name__
        raise SearchError(
            f"a worker cannot load the evaluator: {last}. Install the same packages on every node"
        ) from None
    if not sees_folder:
        raise SearchError(
            f"a worker does not see {experiment.folder}; on a cluster --runs-dir must lie on storage that all nodes see"
        )
    if data_hash != experiment.state.header.data_hash:
        raise SearchError("a worker sees other data than this process; the data must be the same on every node")


def _remote_latency(shipped: Any, amounts: Mapping[str, float]) -> Any:
    def time(evaluator: Any, content: dict[str, Any]) -> float:
        return float(evaluator.latency_ms(Architecture.from_json(content)))

    timed = ray.remote(**_options(amounts))(time)

    def latency(architecture: Architecture) -> float:
        return float(ray.get(timed.remote(shipped, architecture.to_json())))

    return latency


# --- the worker's side ----------------------------------------------------------------------------------------------


class _Worker(tune.Trainable):  # type: ignore[misc]
    """A worker process: keeps the evaluator, and with it the data, from trial to trial.

    The evaluator calls `report` from within; Tune wants one result per `step()`. So the evaluator runs in a thread that
    waits at every report until Tune comes back, which means "continue", or resets this worker, which means "stop".
    """

    _reported: bool

    def setup(self, config: dict[str, Any], shipped: list[Any]) -> None:
        self._evaluator: Evaluator = ray.get(shipped[0])
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self._begin(new_config)
        return True

    def step(self) -> dict[str, Any]:
        if self._reported:
            self._decisions.put(True)
        step, content = self._messages.get()
        self._reported = step is not None
        if step is not None:
            return {"report": dumps([step, content]), "result": None, "unused": 0.0}
        return {"report": None, "result": dumps(content), "done": True, "unused": 0.0}

    def cleanup(self) -> None:
        self._end()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass

    def _begin(self, config: dict[str, Any]) -> None:
        job = Job.from_json(loads(config["job"]))
        self._messages: queue.SimpleQueue[tuple[int | None, Any]] = queue.SimpleQueue()
        self._decisions: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._reported = False
        messages, decisions = self._messages, self._decisions

        def send(step: int, metrics: Mapping[str, float]) -> bool:
            messages.put((step, dict(metrics)))
            return decisions.get()

        def work() -> None:
            messages.put((None, perform(self._evaluator, job, send).to_json()))

        self._thread = threading.Thread(target=work, name=f"trial-{job.number}", daemon=True)
        self._thread.start()

    def _end(self) -> None:
        """Stop the trial that Tune has let go: at its next report, or at once if it waits at one."""
        self._decisions.put(False)
        self._thread.join(timeout=30)
