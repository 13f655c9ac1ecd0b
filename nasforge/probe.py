"""Before and after the search, outside of it: what a search would cost, and whether a trial comes out again the same.

Neither writes anything into the runs folder.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from nasforge.compose import foresee, make_check, make_evaluator, make_pruner, make_strategy
from nasforge.config import ExperimentConfig
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, JournalError, NasforgeError, RecipeError, SearchError
from nasforge.core.goals import Rung, whole_epochs
from nasforge.core.trial import Artifact, Measure, Proposal, Result, TrainShared, Trial
from nasforge.experiment import Check, Job, trial_seed
from nasforge.runners.work import perform
from nasforge.state import load_state
from nasforge.strategies.pieces import mean_piece

PROBE_IMAGES = 2000
"""A probe trains on at most so many images; its seconds are scaled to all of them."""
_Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations


@dataclass(frozen=True)
class Forecast:
    """What a search would spend.

    Attributes:
        points: size of the space; infinite with a continuous decision.
        sampled: points drawn at random and checked.
        feasible: of these, the ones that keep all constraints.
        unbuildable: of these, the ones that no network can be built from, or that contradict themselves.
        interval: 95 % interval of the feasible share (Wilson).
        probe: the point that was trained.
        probe_costs: its costs.
        seconds_per_trial: of one worker, trained to the last rung; the probe's, scaled.
        epochs: of such a trial; 0 where the evaluator reports none.
        trials: of the budget, or as many as the strategy has; infinite where only another limit is set.
        workers: trials that run at the same time.
        seconds: of the whole search with the pruner off, as long as the budget lets it.
        supernets: trainings of a supernet that the strategy begins with, trials of the budget; `enas` asks for more.
        supernet_seconds: of one of them.
        piece: what a trial is on average of one to the last rung, where trials go on from each other's checkpoints.
    """

    points: float
    sampled: int
    feasible: int
    unbuildable: int
    interval: tuple[float, float]
    probe: Architecture
    probe_costs: Mapping[str, float]
    seconds_per_trial: float
    epochs: int
    trials: float
    workers: int
    seconds: float
    supernets: int = 0
    supernet_seconds: float = 0.0
    piece: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            **{key: value for key, value in vars(self).items() if key not in ("interval", "probe")},
            "feasible_share": self.feasible / self.sampled,
            "feasible_share_interval": list(self.interval),
            "probe": self.probe.to_json(),
        }


def forecast(config: ExperimentConfig, *, samples: int = 200, check_seconds: float = 30.0) -> Forecast:
    """Say what a search would spend, from random points that are checked and one that is trained for a moment.

    Args:
        config: of the search.
        samples: points to check.
        check_seconds: no more points are checked after so long.

    Raises:
        SearchError: none of the points sampled is feasible, or the probe failed.
        NasforgeError: the configuration does not make a search.
    """
    evaluator = make_evaluator(config)
    foresee(config, evaluator)
    shared = _supernets(config)
    make_pruner(config)
    check = make_check(config, evaluator)
    feasible, unbuildable, sampled = [], 0, 0
    end = time.monotonic() + check_seconds
    smallest: dict[str, float] = {}
    while sampled < samples and (sampled < 10 or time.monotonic() < end):
        point = config.space.sample(Random(f"forecast/{config.seed}/{sampled}"))
        sampled += 1
        try:
            costs = check(Measure(point))
        except (BuildError, RecipeError):
            unbuildable += 1
            continue
        smallest = {key: min(value, smallest.get(key, math.inf)) for key, value in costs.items()}
        if not any(limit.violation(costs) for limit in config.constraints):
            feasible.append(point)
    probe = _probe_point(config, check, feasible)
    if probe is None:
        limits = ", ".join(str(limit) for limit in config.constraints)
        seen = ", ".join(
            f"{limit.metric.removeprefix('cost/')} {smallest[limit.metric]:,.15g}"
            for limit in config.constraints
            if limit.metric in smallest
        )
        raise SearchError(
            f"none of {sampled} random points is feasible ({unbuildable} cannot be built; constraints: "
            f"{limits or 'none'}; smallest costs seen: {seen or 'none'}). Relax the constraint, or narrow the space"
        )
    costs = dict(check(Measure(probe)))
    seconds, per_trial, epochs = _charge_per_trial(config, probe, costs)
    workers = count_workers(config)
    shared_seconds = _seconds_per_supernet(config, shared[0]) if shared else 0.0
    piece, trials = _piece(config, evaluator, costs)
    supernets = min(len(shared), trials)
    trained_s = supernets * shared_seconds + (trials - supernets) * piece * seconds
    limits_s = [trained_s / workers, config.budget.worker_seconds / workers]
    if math.isfinite(config.budget.multiply_adds) and per_trial:
        limits_s.append(config.budget.multiply_adds / per_trial * seconds / workers)
    return Forecast(
        points=config.space.size,
        sampled=sampled,
        feasible=len(feasible),
        unbuildable=unbuildable,
        interval=wilson(len(feasible), sampled),
        probe=probe,
        probe_costs=costs,
        seconds_per_trial=seconds,
        epochs=epochs,
        trials=trials,
        workers=workers,
        seconds=min(limits_s),
        supernets=len(shared),
        supernet_seconds=shared_seconds,
        piece=piece,
    )


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share. Wilson 1927; see https://en.wikipedia.org/wiki/Binomial_proportion_confidence_interval."""
    share = successes / n
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def count_workers(config: ExperimentConfig) -> int:
    """Trials that run at the same time: of the local runner one, of Ray as many as CPUs and GPUs allow.

    A cluster at an address is joined to count; for this machine nothing is started.

    Raises:
        SearchError: the cluster cannot be reached.
        ConfigError: no node has what a worker is to take.
    """
    if config.runner.name != "ray_tune":
        return 1
    options = config.runner.options
    most = int(options.get("max_concurrent_trials") or sys.maxsize)
    resources = options.get("resources") or {}
    if options.get("address"):
        from nasforge.runners.ray_tune.cluster import connect, resources_of, slots_of

        connect(options["address"], None, None)
        return min(most, slots_of(resources_of(resources)["measure"]))
    gpus = options.get("logical_gpus")
    if gpus is None:
        gpus = _gpus()
    available = {"cpu": float(options.get("cpus") or os.cpu_count() or 1), "gpu": float(gpus)}
    wanted = resources.get("measure", {"cpu": 1.0, **({"gpu": 1.0} if gpus else {})})
    slots = [available[name] / amount for name, amount in wanted.items() if name in available and amount > 0]
    return min(most, max(1, int(min(slots, default=1) + 1e-9)))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _probe_point(config: ExperimentConfig, check: Check, feasible: list[Architecture]) -> Architecture | None:
    """The default point if it is feasible, else the first feasible one drawn."""
    default = config.space.default_point()
    try:
        costs = check(Measure(default))
        if not any(limit.violation(costs) for limit in config.constraints):
            return default
    except BuildError:
        pass
    return next(iter(feasible), None)


def _charge_per_trial(
    config: ExperimentConfig, point: Architecture, costs: Mapping[str, float]
) -> tuple[float, float, int]:
    """Seconds, multiply-adds and epochs of one trial.

    Two epochs of few images are trained; the second one's time is scaled to all images and to the last rung's epochs.
    What an evaluator that reports no epochs charges is taken as it is.
    """
    if config.trainings > 1:
        seconds, multiply_adds, epochs = _charge_per_trial(config.single, point, costs)
        return config.trainings * seconds, config.trainings * multiply_adds, epochs
    evaluator, images, scale = _small(config)
    epoch, result, reported = _epoch_seconds(config, evaluator, Measure(point, rung=0), costs)
    if not reported:
        return epoch, result.charged.multiply_adds, 0
    epochs = config.ladder[-1].epochs
    trained = [rung for rung in config.ladder if not rung.proxies]
    whole = whole_epochs(trained, edge=min(getattr(evaluator, "shape", (0, 0, 0))[1:]))
    # A step computes forward, and twice as much backward.
    return epoch * scale * whole, 3 * costs.get("cost/flops", 0.0) * images * whole, epochs


def _piece(config: ExperimentConfig, evaluator: Any, costs: Mapping[str, float]) -> tuple[float, float]:
    """What a trial is of a whole training on average, and how many there are."""
    strategy = make_strategy(config)
    if not hasattr(strategy, "wanted"):
        return 1.0, config.budget.trials
    return mean_piece(
        strategy,
        config.ladder,
        trials=config.budget.trials,
        objectives=len(config.objectives),
        costs=costs,
        edge=min(getattr(evaluator, "shape", (0, 0, 0))[1:]),
        checkpoints=config.evaluator.name == "training",
    )


def _small(config: ExperimentConfig) -> tuple[Any, int, float]:
    """An evaluator of two epochs of few images, the images of the search, and how many times more these are."""
    scale, images = 1.0, 0
    small = replace(config, ladder=(Rung(2),))
    if config.data is not None:
        images = _images(make_evaluator(config))
        if images > PROBE_IMAGES:
            small = replace(small, data=replace(config.data, images=PROBE_IMAGES))
            scale = images / _images(make_evaluator(small))
    return make_evaluator(small), images, scale


def _epoch_seconds(
    config: ExperimentConfig, evaluator: Any, proposal: Proposal, costs: Mapping[str, float]
) -> tuple[float, Result, bool]:
    """Seconds of the second epoch (of the whole where no epochs are reported), the result, whether any was reported."""
    times: list[float] = []

    def send(step: int, metrics: Mapping[str, float]) -> bool:
        times.append(time.monotonic())
        return len(times) < 2

    with tempfile.TemporaryDirectory(prefix="nasforge-probe-") as folder, worker_threads(config):
        began = time.monotonic()
        result = perform(evaluator, Job(0, 1, proposal, trial_seed(config.seed, 0), costs, Path(folder)), send)
        spent = time.monotonic() - began
    if result.error:
        raise SearchError(f"the probe failed ({result.error.cause}): {result.error.message}. {result.error.advice}")
    return times[1] - times[0] if len(times) > 1 else spent, result, bool(times)


def _supernets(config: ExperimentConfig) -> list[TrainShared]:
    """The trainings of supernets that the strategy begins with."""
    strategy = make_strategy(config)
    found: list[TrainShared] = []
    while isinstance(proposal := strategy.ask(len(found)), TrainShared):
        found.append(proposal)
    return found


def _seconds_per_supernet(config: ExperimentConfig, proposal: TrainShared) -> float:
    """Seconds of a supernet's training: two of its epochs on few images, scaled like a trial's."""
    evaluator, _, scale = _small(config)
    settings = {**proposal.settings, **({"warmup_epochs": 0} if "warmup_epochs" in proposal.settings else {})}
    epoch, _, _ = _epoch_seconds(config, evaluator, replace(proposal, epochs=2, settings=settings), {})
    return epoch * scale * proposal.epochs


def _images(evaluator: Any) -> int:
    """Training images that an evaluator's trials see, 0 where it has none; loads the data."""
    if getattr(evaluator, "data", None) is None:
        return 0
    from nasforge.data import load_data

    return len(load_data(evaluator.data).train)


@contextmanager
def worker_threads(config: ExperimentConfig) -> Iterator[None]:
    """Torch with as many threads as a worker of this search has, since sums on a CPU depend on them."""
    if config.runner.name != "ray_tune":
        yield
        return
    import torch

    wanted = (config.runner.options.get("resources") or {}).get("measure", {}).get("cpu", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(wanted)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class Comparison:
    """A trial and its repetition.

    Attributes:
        number: the trial.
        status: of the trial and of its repetition.
        compared: metric -> (then, now), times left out; `step/metric` for the reports on the way.
        device: what the repetition ran on.
    """

    number: int
    status: tuple[str, str]
    compared: Mapping[str, tuple[float, float]]
    device: str

    @property
    def differing(self) -> dict[str, tuple[float, float]]:
        """Metrics that are not equal to the last bit."""
        return {
            key: (then, now)
            for key, (then, now) in self.compared.items()
            if then != now and not (math.isnan(then) and math.isnan(now))
        }

    @property
    def equal(self) -> bool:
        """Whether the trial came out again the same."""
        return self.status[0] == self.status[1] and not self.differing

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        differing = {key: {"then": then, "now": now} for key, (then, now) in self.differing.items()}
        return {
            "number": self.number,
            "equal": self.equal,
            "status": {"then": self.status[0], "now": self.status[1]},
            "compared": len(self.compared),
            "differing": differing,
            "device": self.device,
        }


def rerun(folder: Path, number: int) -> Comparison:
    """Repeat a trial with its seed in a temporary folder and compare what it reported; on a CPU it is equal.

    A pruned trial is stopped where it was stopped.

    Args:
        folder: of the experiment.
        number: of the trial.

    Raises:
        JournalError: no such trial, it is not closed, or the data are not the ones it was trained on.
        SearchError: there is nothing to repeat.
    """
    state = load_state(folder)
    config = ExperimentConfig.from_json(folder.name, state.header.config, folder.absolute().parent)
    trial = state.trials.get(number)
    if trial is None:
        raise JournalError(f"{folder}: there is no trial {number}; they go from 0 to {len(state.trials) - 1}")
    if trial.result is None:
        raise JournalError(f"{folder}: trial {number} is not closed yet, there is nothing to compare with")
    evaluator = make_evaluator(config)
    if getattr(evaluator, "data_hash", "") != state.header.data_hash:
        raise JournalError(f"{folder}: the data have changed since (same source, other content)")
    if trial.verdict != "accepted":
        return _check_again(trial, make_check(config, evaluator))
    last_step = trial.steps[-1].step if trial.steps and trial.steps[-1].stop else math.inf
    steps: dict[int, dict[str, float]] = {}

    def send(step: int, metrics: Mapping[str, float]) -> bool:
        steps[step] = dict(metrics)
        return step < last_step

    with tempfile.TemporaryDirectory(prefix="nasforge-rerun-") as temporary, worker_threads(config):
        place = Path(temporary)
        weights = trial.proposal.weights
        if weights is not None:
            _copy(folder, weights, place)
        job = Job(number, 1, trial.proposal, trial_seed(state.header.seed, number), trial.costs, place)
        result = perform(evaluator, job, send)
    compared = {
        f"{step.step}/{key}": (value, steps.get(step.step, {}).get(key, math.nan))
        for step in trial.steps
        for key, value in step.metrics.items()
    }
    if result.status == "finished":
        compared |= {key: (value, result.metrics.get(key, math.nan)) for key, value in trial.result.metrics.items()}
        for index, (then, again) in enumerate(zip(trial.result.also, result.also, strict=True), 1):
            compared |= {f"also {index}/{key}": (value, again.get(key, math.nan)) for key, value in then.items()}
    now = "pruned" if steps and max(steps) >= last_step else result.status
    return Comparison(
        number, (_status(trial.result), _status(result, now)), _without_times(compared), _device(evaluator)
    )


def _status(result: Result, status: str | None = None) -> str:
    status = status or result.status
    return f"{status} ({result.error.cause})" if result.error and status == "failed" else status


def _check_again(trial: Trial, check: Check) -> Comparison:
    """A trial that never started: its costs are found again."""
    try:
        now = dict(check(trial.proposal))
        status = trial.status
    except NasforgeError:
        now, status = {}, "failed"
    compared = {key: (value, now.get(key, math.nan)) for key, value in trial.costs.items()}
    return Comparison(trial.number, (trial.status, status), _without_times(compared), "meta")


def _without_times(compared: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Without what differs from run to run, and without what the experiment works out from the costs."""
    apart = ("time/", "latency", "constraint/")
    return {key: pair for key, pair in compared.items() if not any(text in key for text in apart)}


def _copy(folder: Path, artifact: Artifact, place: Path) -> None:
    source, target = folder / artifact.path, place / artifact.path
    if not source.is_file():
        raise SearchError(f"{source}: the weights that this trial started from are gone, it cannot be repeated")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _device(evaluator: Any) -> str:
    name = getattr(evaluator, "device", None)
    if name is None:
        return "cpu"
    from nasforge.training.device import device_of

    return str(device_of(name))
