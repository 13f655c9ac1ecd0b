"""Several trainings per architecture, averaged: on the folds of a cross-validation, or with several seeds.

A step of such a trial is a training that is done, its value the mean so far; so a pruner looks after every fold, and
compares trials with equally many of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from nasforge.core.about import About
from nasforge.core.architecture import Architecture, digest
from nasforge.core.errors import ConfigError, DataError, SearchError
from nasforge.core.ladder import Rung, Unit
from nasforge.core.protocols import Report
from nasforge.core.ranges import check_flag, check_whole
from nasforge.core.recipe import recipe_of
from nasforge.core.trial import (
    ENSEMBLE,
    TRAINING_COSTS,
    Charge,
    Measure,
    Proposal,
    Result,
    Score,
    Status,
    TrainShared,
)
from nasforge.data import ImageData, load_data
from nasforge.data.groups import per_class
from nasforge.data.split import Split
from nasforge.evaluators.guarded import guarded, needed
from nasforge.evaluators.training import Training, answers_of
from nasforge.models.ensemble import Ensemble
from nasforge.models.network import fresh_and_whole
from nasforge.settings.experiment import DataConfig
from nasforge.settings.spec import SearchSpec
from nasforge.tasks.task import Answers
from nasforge.training.artifacts import save_answers, save_weights
from nasforge.training.device import device_of
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import Trained, train
from nasforge.training.meter import Limits
from nasforge.training.probe import probe_of
from nasforge.training.scoring import Validation
from nasforge.training.state import EPOCH_CHECKPOINT_S, Checkpoint

Fold = tuple[Split, Split]
"""The training split and the validation split of one training."""

Divide = Callable[[ImageData, int, DataConfig], Sequence[Fold]]
"""Function of the data, the number of trainings and the data's settings to the splits of each. Picklable."""

_SPREAD = "val/accuracy_std"


class Averaged:
    """Evaluator that trains every architecture several times, reports the mean after each and keeps an ensemble.

    Made by `cross_validation` and `repeated_seeds`.
    """

    def __init__(
        self,
        name: str,
        training: Training,
        epochs: int,
        count: int,
        divide: Divide,
        unit: Unit,
        keep_answers: bool = False,
    ) -> None:
        """Store the splits.

        Args:
            name: of the evaluator.
            training: the evaluator of a single training, with the settings of all.
            epochs: epochs of each training.
            count: trainings.
            divide: says on what each is trained and validated.
            unit: name of the trainings in messages and reports.
            keep_answers: keep the predicted probabilities of every image, by the network that has not seen it (artifact
                `answers`).
        """
        self.training = training
        self._name = name
        self._epochs = epochs
        self._count = count
        self._divide = divide
        self._unit = unit
        self._keep_answers = keep_answers

    @property
    def about(self) -> About:
        """The facts of this evaluator; loads the data, and makes sure that they can be divided so."""
        about = self.training.about
        notes = (*self.training.data_notes(self._validation), *self.training.recipe_notes)
        data = load_data(self.training.data)
        trained_on, validation = self._divide(data, self._count, self.training.data)[0]
        counts = data.counts(data.train_and_validation() if self._unit == "folds" else validation)
        counts = replace(counts, train=len(trained_on))  # without the images of a fold
        return replace(
            about, metrics=(*self.training.metrics, _SPREAD), notes=notes, unit=self._unit, image_counts=counts
        )

    def latency_ms(self, architecture: Architecture) -> float:
        """Return the median milliseconds of one image's forward pass on this worker's device."""
        return self.training.latency_ms(architecture)

    def preflight(self, proposal: Proposal) -> None:
        """Refuse what no trial could do. Raises ConfigError."""
        self.training.check_first(proposal, self._validation)

    @property
    def _validation(self) -> Split:
        """Validation images of the first training; those of the others have the same classes."""
        return self._divide(load_data(self.training.data), self._count, self.training.data)[0][1]

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Train one network after the other, reporting the mean after each; failures come back as results."""
        began = time.monotonic()
        if isinstance(proposal, TrainShared):
            raise SearchError(
                f"evaluator '{self._name}' cannot train a supernet; use evaluator 'shared_weights'",
                kind="unsupported",
                key="evaluator",
            )
        if isinstance(proposal, Score) or proposal.weights is not None:
            raise SearchError(
                f"evaluator '{self._name}' trains one architecture per trial, from its initialisation; "
                "use evaluator 'training'",
                kind="unsupported",
                key="evaluator",
            )
        device = device_of(self.training.device)
        advice = "constrain the space or correct its builder"
        return guarded(
            lambda: self._measure(proposal, report, device, began), device, began, advice, threads=self.training.threads
        )

    def _measure(self, proposal: Measure, report: Report, device: torch.device, began: float) -> Result:
        training = self.training
        data = load_data(training.data)
        splits = self._divide(data, self._count, training.data)
        trainings = range(1, self._count + 1)[proposal.rung]  # the rung's index counts trainings
        members, done, answers = [], list[Trained](), list[tuple[Split, Answers]]()
        since = began
        for number, (trained_on, validation) in enumerate(splits[:trainings], 1):
            seed = int(digest([report.seed, number]), 16) % 2**31
            classes = len(data.class_names)
            network = fresh_and_whole(training.space, proposal.architecture, seed, shape=data.shape, classes=classes)
            spent = sum((trained.charged for trained in done), Charge())
            left_s = training.time_limit_s and max(training.time_limit_s - spent.worker_seconds, 1e-9)
            try:
                done.append(
                    train(
                        network,
                        trained_on,
                        recipe_of(training.space, proposal.architecture, training.recipe),
                        epochs=self._epochs,
                        seed=seed,
                        device=device,
                        validation=Validation(validation, training.extra, at=()),  # pruners see whole trainings
                        # one that is complete gives its network and figures back at once when the trial is continued
                        checkpoint=Checkpoint(
                            report.checkpoint.with_name(f"{report.checkpoint.name}.{number}"),
                            epoch_s=EPOCH_CHECKPOINT_S,
                            at_end=True,
                        ),
                        flops=report.costs.get("cost/flops", 0.0),
                        limits=Limits(seconds=left_s, since=since),
                        task=training.task,
                    )
                )
            except TrainingFailed as error:
                failure = error.failure
                message = f"training {number} of {self._count}: {failure.message}"
                raise TrainingFailed(failure.cause, message, failure.advice, spent + error.charged) from error
            if self._keep_answers:
                recipe = recipe_of(training.space, proposal.architecture, training.recipe)
                answers.append((validation, answers_of(network, validation, recipe, device, training.task)))
            members.append(network.cpu())
            for each in (trained_on, validation):
                if each is not data.train and each is not data.validation:
                    each.release()  # the next fold's images lie on the device in other splits
            since = time.monotonic()
            if not report(number, _mean(done)):
                return _result("pruned", done, report)
        whole = Ensemble(members)
        weights = save_weights(whole.state_dict(), report, ENSEMBLE, probe_of(whole, data.shape))
        artifacts = {ENSEMBLE: weights, **({"answers": save_answers(answers, report)} if answers else {})}
        return replace(_result("finished", done, report), artifacts=artifacts)


def cross_validation(
    spec: SearchSpec,
    *,
    device: str = "auto",
    threads: int | None = None,
    time_limit_s: float | None = None,
    folds: int = 5,
    epochs: int = 3,
    extra_metrics: Sequence[str] = (),
    keep_answers: bool = False,
) -> Averaged:
    """Cross-validate in stratified folds over the train and validation splits; the test split stays sealed.

    The folds are the same for all trials (by the data's seed). Images are normalised by the statistics of the train
    split, in every fold. Settings are checked, nothing is loaded.

    Args:
        spec: the facts of the search; its ladder counts folds: 1, 2, ... `folds`. What its objectives need is measured.
        device: `auto`, `cpu`, `cuda`, `cuda:1`...
        threads: torch threads during a trial; None: as they are.
        time_limit_s: time limit of a trial in seconds, over all trainings and attempts; None: no limit.
        folds: number of folds.
        epochs: epochs of each training.
        extra_metrics: further metrics: `val/roc_auc`, `val/recall_macro`, `val/recall_of_3` (the number of a class).
        keep_answers: keep the predicted probabilities of every image, by the network that has not seen it (artifact
            `answers`).

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    _check_ladder("cross_validation", "folds", folds, spec)
    training = _single(spec, epochs, device, threads, time_limit_s, extra_metrics)
    return Averaged(
        "cross_validation",
        training,
        epochs,
        folds,
        in_folds,
        "folds",
        check_flag(keep_answers, "evaluator: keep_answers"),
    )


def repeated_seeds(
    spec: SearchSpec,
    *,
    device: str = "auto",
    threads: int | None = None,
    time_limit_s: float | None = None,
    repeats: int = 3,
    epochs: int = 3,
    extra_metrics: Sequence[str] = (),
) -> Averaged:
    """Train every architecture several times with other seeds, on the same images: less noise for more work.

    Args:
        spec: the facts of the search; its ladder counts repeats: 1, 2, ... `repeats`. What its objectives need is
            measured.
        device: `auto`, `cpu`, `cuda`, `cuda:1`...
        threads: torch threads during a trial; None: as they are.
        time_limit_s: time limit of a trial in seconds, over all trainings and attempts; None: no limit.
        repeats: trainings per network.
        epochs: epochs of each training.
        extra_metrics: further metrics: `val/roc_auc`, `val/recall_macro`, `val/recall_of_3` (the number of a class).

    Raises:
        ConfigError: a setting is unknown or out of range.
    """
    _check_ladder("repeated_seeds", "repeats", repeats, spec)
    training = _single(spec, epochs, device, threads, time_limit_s, extra_metrics)
    return Averaged("repeated_seeds", training, epochs, repeats, as_it_is, "repeats")


def _single(
    spec: SearchSpec,
    epochs: int,
    device: str,
    threads: int | None,
    time_limit_s: float | None,
    extra_metrics: Sequence[str],
) -> Training:
    """Return the evaluator of a single training, with the settings of all."""
    return Training(
        replace(spec, ladder=(Rung(epochs),)),
        device=device,
        threads=threads,
        time_limit_s=time_limit_s,
        extra_metrics=extra_metrics,
    )


def in_folds(data: ImageData, count: int, config: DataConfig) -> list[Fold]:
    """Split train and validation together into stratified folds; each validates once, groups stay in one fold.

    Raises:
        DataError: a class has fewer images, or fewer groups, than there are folds.
    """
    whole = data.train_and_validation()
    counts, what = whole.labels.bincount(minlength=whole.classes), "image(s)"
    groups = data.groups_of(whole)
    if groups is not None:
        counts = torch.from_numpy(per_class(whole.labels.numpy(), groups, whole.classes))
        what = "group(s) of images that stay together (near duplicates, patients, videos)"
    scarce = int(counts.min())
    if scarce < count:
        raise DataError(
            f"data {config.source}: class '{data.class_names[int(counts.argmin())]}' has {scarce} {what} to train and "
            f"validate, too few for {count} folds. Use fewer folds, or add images",
            kind="empty",
        )
    if groups is None:
        folds = StratifiedKFold(count, shuffle=True, random_state=config.seed).split(whole.labels, whole.labels)
    else:
        folds = _grouped_folds(whole.labels.numpy(), groups, count, config)
    return [(whole.subset(torch.from_numpy(a)), whole.subset(torch.from_numpy(b))) for a, b in folds]


def _grouped_folds(
    labels: np.ndarray, groups: np.ndarray, count: int, config: DataConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return stratified folds with each group in one fold, and every class in all.

    Raises:
        DataError: large groups leave a fold without a class.
    """
    folder = StratifiedGroupKFold(count, shuffle=True, random_state=config.seed)
    folds = [(np.asarray(a), np.asarray(b)) for a, b in folder.split(labels, labels, groups)]
    classes = len(np.unique(labels))
    if any(len(np.unique(labels[side])) < classes for fold in folds for side in fold):
        raise DataError(
            f"data {config.source}: images of one group stay together, so {count} folds cannot hold every class. "
            "Use fewer folds, or add images",
            kind="empty",
        )
    return folds


def as_it_is(data: ImageData, count: int, config: DataConfig) -> list[Fold]:
    """Return the data's own split every time."""
    return [(data.train, data.validation)] * count


def _check_ladder(name: str, what: str, count: int, spec: SearchSpec) -> None:
    """Refuse a search that an evaluator of several trainings cannot do: raises ConfigError."""
    needed(spec.data, name)
    if any(rung.proxies or not rung.full for rung in spec.ladder):
        raise ConfigError(
            f"evaluator '{name}': its rungs count trainings; leave proxies, share and resolution out",
            kind="conflict",
            key="ladder",
        )
    check_whole(count, f"evaluator '{name}': {what}", 2)
    if [rung.epochs for rung in spec.ladder] != list(range(1, count + 1)):
        raise ConfigError(
            f"evaluator '{name}': its ladder must be of {what}, 1 to {count}; leave ladder out",
            kind="conflict",
            key="ladder",
        )


def _result(status: Status, done: Sequence[Trained], report: Report) -> Result:
    lost = sum(trained.checkpoint_lost for trained in done)
    metrics = {**report.costs, **_mean(done), **({"work/checkpoints_lost": float(lost)} if lost else {})}
    charged = sum((trained.charged for trained in done), Charge())
    return Result(status, metrics, None, len(done), charged)


def _mean(done: Sequence[Trained]) -> dict[str, float]:
    """Return the means over the trainings; costs are summed."""
    means = {}
    for key in done[0].metrics:
        values = [trained.metrics[key] for trained in done]
        means[key] = sum(values) if key in TRAINING_COSTS else statistics.fmean(values)
    if len(done) > 1:
        means[_SPREAD] = statistics.stdev(trained.metrics["val/accuracy"] for trained in done)
    return means
