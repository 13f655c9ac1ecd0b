"""The evaluator with shared weights: trains a supernet once, then scores architectures on what they inherit from it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from nasforge.core.about import About
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, one_line
from nasforge.core.protocols import Report
from nasforge.core.ranges import check_whole
from nasforge.core.recipe import Recipe, recipe_of
from nasforge.core.trial import Artifact, Charge, Measure, Proposal, Result, Score, TrainShared
from nasforge.data import load_data
from nasforge.evaluators.guarded import guarded, needed
from nasforge.evaluators.training import Training
from nasforge.models.costs import count_flops
from nasforge.models.network import build
from nasforge.settings.spec import SearchSpec
from nasforge.supernet.inheritance import inherit
from nasforge.supernet.job import check, check_shared, recipe_point, shared_training
from nasforge.supernet.network import Supernet, build_supernet, planned_supernet
from nasforge.supernet.paths import PATHS
from nasforge.supernet.relaxations import is_relaxation
from nasforge.supernet.relaxed import Relaxed, forward_flops
from nasforge.training.artifacts import load_weights, save_weights
from nasforge.training.device import device_of, memory_format, uses_bf16, without_overrun, without_stray_reads
from nasforge.training.loop import train
from nasforge.training.meter import Limits
from nasforge.training.probe import probe_of
from nasforge.training.recalibration import RECALIBRATION_BATCH_SIZE, RECALIBRATION_BATCHES, recalibrate
from nasforge.training.scoring import score
from nasforge.training.state import Checkpoint


class SharedWeights:
    """Evaluator that trains a supernet and measures networks on its weights, or trains them separately.

    `TrainShared`: trains the supernet of its space; the result has the artifact `weights`.
    `Measure` with such weights: the child inherits them, its BN statistics are measured again on a fixed number of
    training batches, and it is validated without any training; `steps_done` is 0.
    `Measure` without weights, or with a training's checkpoint: trained as by evaluator `training`.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        device: str = "auto",
        threads: int | None = None,
        time_limit_s: float | None = None,
        recalibration_batches: int = RECALIBRATION_BATCHES,
        extra_metrics: Sequence[str] = (),
    ) -> None:
        """Check the settings; load nothing.

        Args:
            spec: the facts of the search; its rungs are for measures without weights, and what its objectives need is
                measured.
            device: `auto`, `cpu`, `cuda`, `cuda:1`...
            threads: torch threads during a trial; None: as they are.
            time_limit_s: time limit of a trial in seconds, over all attempts; None: no limit.
            recalibration_batches: training batches for the batch statistics of a network on inherited weights.
            extra_metrics: further metrics: `val/roc_auc`, `val/recall_macro`, `val/recall_of_3` (the number of a
                class).

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        check_whole(recalibration_batches, "evaluator 'shared_weights': recalibration_batches", 1)
        data = needed(spec.data, "shared_weights")
        self.training = Training(
            spec, device=device, threads=threads, time_limit_s=time_limit_s, extra_metrics=extra_metrics
        )
        check_shared(recipe_of(spec.space, spec.space.default_point(), spec.recipe))
        self.data = data
        self.recalibration_batches = recalibration_batches
        self._kept: tuple[str, Mapping[str, torch.Tensor]] | None = None

    @property
    def about(self) -> About:
        """The facts of this evaluator; loads the data. Notes are on the data."""
        return replace(self.training.about, notes=self.training.data_notes())

    def latency_ms(self, architecture: Architecture) -> float:
        """Return the median time of one image on this worker's device."""
        return self.training.latency_ms(architecture)

    def preflight(self, proposal: Proposal) -> None:
        """Refuse an impossible training of a supernet, without data or memory: it is built on the meta device.

        Raises:
            BuildError, ConfigError: something in the space cannot be mixed, or not like this; it is named.
        """
        if not isinstance(proposal, TrainShared):
            self.training.preflight(proposal)
            return
        self.training.check_measured()
        recipe_of(proposal.space, recipe_point(proposal.space), self.training.recipe)
        with torch.random.fork_rng(devices=[]):
            data = load_data(self.data)
            supernet = planned_supernet(proposal.space, data.shape[0], len(data.class_names))
            check(proposal, supernet)
            if proposal.relaxation not in PATHS and is_relaxation(proposal.relaxation):
                forward_flops(Relaxed(supernet, proposal.relaxation), data.shape)  # do its options' shapes agree?

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Train a supernet, or measure on inherited weights; failures come back as results with their cause."""
        if isinstance(proposal, Score):
            return self.training(proposal, report)
        if isinstance(proposal, Measure) and (proposal.weights is None or proposal.weights.is_checkpoint):
            return self.training(proposal, report)
        began = time.monotonic()
        device = device_of(self.training.device)
        advice = "fix what cannot be mixed with space.fixed"

        def work() -> Result:
            if isinstance(proposal, TrainShared):
                return self._train_shared(proposal, report, device, began)
            return self._measure_inherited(proposal, report, device, began)

        return guarded(work, device, began, advice, threads=self.training.threads)

    def _train_shared(self, proposal: TrainShared, report: Report, device: torch.device, began: float) -> Result:
        recipe = recipe_of(proposal.space, recipe_point(proposal.space), self.training.recipe)
        recipe = replace(recipe, precise_bn=0)  # every path has statistics of its own, taken when it is measured
        data = load_data(self.data)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(report.seed)  # torch.manual_seed would change those of the GPUs too
            supernet = build_supernet(proposal.space, data.shape[0], len(data.class_names))
            if proposal.weights is not None:
                _load(supernet, report, proposal.weights)
            recipe = _sound(recipe, device, supernet, data.shape)
            shared = shared_training(proposal, supernet, data, recipe, report.seed, device, self.training.task)

        def on_epoch(step: int, metrics: Mapping[str, float]) -> bool:
            return report(step, metrics, shared.alphas.relaxed.plain) if shared.alphas else report(step, metrics)

        trained = train(
            shared.network,
            shared.split,
            recipe,
            epochs=proposal.epochs,
            seed=report.seed,
            device=device,
            checkpoint=Checkpoint(report.checkpoint),
            on_epoch=on_epoch,
            flops=shared.flops,
            limits=Limits(seconds=self.training.time_limit_s, since=began),
            hooks=[shared.alphas] if shared.alphas else [],
            fresh=proposal.weights is None,
            task=self.training.task,
        )
        lost = {"work/checkpoints_lost": 1.0} if trained.checkpoint_lost else {}
        return Result(
            "pruned" if trained.stopped else "finished",
            metrics={**trained.metrics, **lost},
            steps_done=trained.steps_done,
            charged=trained.charged,
            artifacts={} if trained.stopped else {"weights": save_weights(supernet.state_dict(), report)},
            alphas=shared.alphas.relaxed.plain if shared.alphas else None,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": None}

    def _weights(self, report: Report, weights: Artifact) -> Mapping[str, torch.Tensor]:
        """Load a supernet's tensors; this worker caches the latest for the next measures."""
        if self._kept is None or self._kept[0] != weights.sha256:
            self._kept = (weights.sha256, load_weights(report.experiment, weights))
        return self._kept[1]

    def _measure_inherited(self, proposal: Measure, report: Report, device: torch.device, began: float) -> Result:
        assert proposal.weights is not None  # noqa: S101 - the caller asked, for the type checker
        space, architecture = self.training.space, proposal.architecture
        data = load_data(self.data)
        child = build(space, architecture, in_channels=data.shape[0], classes=len(data.class_names))
        inherit(self._weights(report, proposal.weights), architecture, child)
        recipe = recipe_of(space, architecture, self.training.recipe)
        layout = memory_format(recipe, device)
        child.to(device)
        child.to(memory_format=layout)
        recalibrate(child, data.train, recipe, device=device, batches=self.recalibration_batches, layout=layout)
        bf16 = uses_bf16(recipe, device)
        extra = self.training.extra
        arithmetic = {"device": device, "bf16": bf16, "memory_format": layout}
        scores = score(child, data.validation, extra=extra, task=self.training.task, **arithmetic)
        flops = report.costs.get("cost/flops") or count_flops(child, data.shape)
        images = min(self.recalibration_batches * RECALIBRATION_BATCH_SIZE, len(data.train)) + len(data.validation)
        charged = Charge(time.monotonic() - began, flops * images)
        metrics = {f"val/{key}": value for key, value in scores.items()}
        metrics |= {"time/worker_s": charged.worker_seconds, "work/multiply_adds": charged.multiply_adds}
        return Result(
            "finished",
            metrics={**report.costs, **metrics},
            charged=charged,
            artifacts={"weights": save_weights(child.state_dict(), report, probe=probe_of(child, data.shape))},
        )


def _sound(recipe: Recipe, device: torch.device, supernet: Supernet, shape: tuple[int, ...]) -> Recipe:
    """Return the recipe without what torch's CPU kernels would break in some path of a supernet."""
    if device.type == "cpu" and uses_bf16(recipe, device):
        for path in supernet.covering():
            supernet.activate(path)
            recipe = without_stray_reads(recipe, device, supernet.running, {shape})
    return without_overrun(recipe, device, supernet.narrowest)


def _load(supernet: Supernet, report: Report, weights: Artifact) -> None:
    try:
        supernet.load_state_dict(load_weights(report.experiment, weights))
    except RuntimeError as error:
        raise BuildError(
            f"weights {weights.path} are not of a supernet of space '{supernet.space.name}' as it is fixed here: "
            f"{one_line(error, 200)}",
            kind="changed",
        ) from error
