"""Before the search: what it would cost, from points that are checked and one that is trained for a moment.

Nothing is written into the runs folder.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from nasforge.api.assembly import (
    make_check,
    make_evaluator,
    make_pruner,
    make_strategy,
    preflight,
    suited_to_images,
    worker_threads,
)
from nasforge.api.starts import with_starts
from nasforge.core.about import About, about_of
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, RecipeError, SearchError
from nasforge.core.ladder import Rung, whole_epochs
from nasforge.core.space import LISTED
from nasforge.core.trial import Measure, Proposal, Result, TrainShared
from nasforge.experiment.job import Job, trial_seed
from nasforge.experiment.verdicts import Check
from nasforge.runners.resources import workers_on
from nasforge.runners.work import perform
from nasforge.settings.experiment import ExperimentConfig
from nasforge.strategies.pieces import mean_piece
from nasforge.views.statistics import wilson

PROBE_IMAGES = 2000
"""Most images that a probe trains on; its seconds are scaled to all of them."""


@dataclass(frozen=True)
class Forecast:
    """Forecast of the cost of a search.

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
        trials: of the budget, or as many as the strategy or a small space has; infinite where another limit is set.
        workers: trials that run at the same time.
        seconds: of the whole search without the pruner, within the budget.
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
    config = with_starts(suited_to_images(config))
    evaluator = make_evaluator(config)
    preflight(config, evaluator)
    shared = _supernets(config)
    make_pruner(config)
    check = make_check(config, evaluator)
    feasible, unbuildable, sampled = [], 0, 0
    end = time.monotonic() + check_seconds
    smallest: dict[str, float] = {}
    problem = ""
    while sampled < samples and (sampled < 10 or time.monotonic() < end):
        point = config.space.sample(Random(f"forecast/{config.seed}/{sampled}"))
        sampled += 1
        try:
            costs = check(Measure(point))
        except (BuildError, RecipeError) as error:
            unbuildable += 1
            problem = problem or str(error)
            continue
        smallest = {key: min(value, smallest.get(key, math.inf)) for key, value in costs.items()}
        if not any(limit.violation(costs) for limit in config.constraints):
            feasible.append(point)
    probe = _probe_point(config, check, feasible)
    if probe is None and unbuildable == sampled:
        raise SearchError(
            f"none of {sampled} random points can be built for this input. The first: {problem}. Correct the space or "
            "its builder",
            kind="failed",
        )
    if probe is None:
        limits = ", ".join(limit.text for limit in config.constraints)
        seen = ", ".join(
            f"{limit.metric.removeprefix('cost/')} {smallest[limit.metric]:,.15g}"
            for limit in config.constraints
            if limit.metric in smallest
        )
        raise SearchError(
            f"none of {sampled} random points is feasible ({unbuildable} cannot be built; constraints: "
            f"{limits or 'none'}; smallest costs seen: {seen or 'none'}). Relax the constraint, or narrow the space",
            kind="empty",
            key="constraints",
        )
    costs = dict(check(Measure(probe)))
    seconds, per_trial, epochs = _charge_per_trial(config, probe, costs)
    workers = count_workers(config)
    shared_seconds = _seconds_per_supernet(config, shared[0]) if shared else 0.0
    piece, trials = _piece(config, evaluator, costs)
    if not shared and piece == 1.0 and not getattr(make_strategy(config), "repeats", False):
        trials = min(trials, config.space.size if config.space.size <= LISTED else math.inf)
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
    device = config.evaluator.options.get("device", "auto")
    if options.get("address"):
        from nasforge.runners.ray_tune.cluster import cluster, resources_of, slots_of

        with cluster(options["address"]):
            return min(most, slots_of(resources_of(resources, device)["measure"]))
    gpus = 0 if device == "cpu" else options.get("logical_gpus")
    if gpus is None:
        gpus = _gpus()
    available = {"cpu": float(options.get("cpus") or os.cpu_count() or 1), "gpu": float(gpus)}
    usual = {"cpu": 1.0, **({"gpu": 1.0} if gpus else {})}
    needed = resources.get("measure") or resources.get("train_shared") or usual
    counted = {name: amount for name, amount in needed.items() if name in available and amount > 0}
    return min(most, max(1, workers_on(available, counted, ("gpu",)))) if counted else 1


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _probe_point(config: ExperimentConfig, check: Check, feasible: list[Architecture]) -> Architecture | None:
    """Return the default point if it is feasible, else the first feasible one drawn."""
    default = config.space.default_point()
    try:
        costs = check(Measure(default))
        if not any(limit.violation(costs) for limit in config.constraints):
            return default
    except (BuildError, RecipeError):
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
    whole = whole_epochs(trained, edge=_edge(about_of(evaluator)))
    # A step computes forward, and twice as much backward.
    return epoch * scale * whole, 3 * costs.get("cost/flops", 0.0) * images * whole, epochs


def _piece(config: ExperimentConfig, evaluator: Any, costs: Mapping[str, float]) -> tuple[float, float]:
    """Return the mean share of a whole training that a trial takes, and the number of trials."""
    strategy = make_strategy(config)
    if not hasattr(strategy, "wanted"):
        return 1.0, config.budget.trials
    return mean_piece(
        strategy,
        config.ladder,
        trials=config.budget.trials,
        objectives=len(config.objectives),
        costs=costs,
        edge=_edge(about_of(evaluator)),
        checkpoints=config.evaluator.name == "training",
    )


def _small(config: ExperimentConfig) -> tuple[Any, int, float]:
    """Return an evaluator of two epochs of few images, the images of the search, and how many times more these are."""
    scale, images = 1.0, 0
    small = replace(config, ladder=(Rung(2),))
    if config.data is not None:
        images = about_of(make_evaluator(config)).images
        if images > PROBE_IMAGES:
            small = replace(small, data=replace(config.data, images=PROBE_IMAGES))
            scale = images / about_of(make_evaluator(small)).images
    return make_evaluator(small), images, scale


def _epoch_seconds(
    config: ExperimentConfig, evaluator: Any, proposal: Proposal, costs: Mapping[str, float]
) -> tuple[float, Result, bool]:
    """Seconds of the second epoch (of the whole where no epochs are reported), the result, whether any was reported."""
    times: list[float] = []

    def send(step: int, metrics: Mapping[str, float], alphas: object = None) -> bool:
        times.append(time.monotonic())
        return len(times) < 2

    with tempfile.TemporaryDirectory(prefix="nasforge-probe-") as folder, worker_threads(config, proposal):
        began = time.monotonic()
        result = perform(evaluator, Job(0, 1, proposal, trial_seed(config.seed, 0), costs, Path(folder)), send)
        spent = time.monotonic() - began
    if result.error:
        raise SearchError(
            f"the probe failed ({result.error.cause}): {result.error.message}. {result.error.advice}", kind="failed"
        )
    return times[1] - times[0] if len(times) > 1 else spent, result, bool(times)


def _supernets(config: ExperimentConfig) -> list[TrainShared]:
    """Return the trainings of supernets that the strategy begins with."""
    strategy = make_strategy(config)
    supernets: list[TrainShared] = []
    while isinstance(proposal := strategy.ask(len(supernets)), TrainShared):
        supernets.append(proposal)
    return supernets


def _seconds_per_supernet(config: ExperimentConfig, proposal: TrainShared) -> float:
    """Seconds of a supernet's training: two of its epochs on few images, scaled like a trial's."""
    evaluator, _, scale = _small(config)
    settings = {**proposal.settings, **({"warmup_epochs": 0} if "warmup_epochs" in proposal.settings else {})}
    epoch, _, _ = _epoch_seconds(config, evaluator, replace(proposal, epochs=2, settings=settings), {})
    return epoch * scale * proposal.epochs


def _edge(about: About) -> int:
    """Height of an evaluator's images, or their width where that is less; 0 where it has none."""
    return 0 if about.shape is None else min(about.shape[1:])
