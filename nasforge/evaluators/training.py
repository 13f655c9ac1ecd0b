"""The evaluator that trains: builds the network of a proposal, trains it on its rung, says how good it is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from nasforge.core.about import About
from nasforge.core.architecture import TRAIN, Architecture
from nasforge.core.errors import BuildError, ConfigError, Problem, RecipeError, SearchError
from nasforge.core.goals import Objective
from nasforge.core.protocols import Report
from nasforge.core.ranges import Range, check_flag, check_number, check_whole
from nasforge.core.recipe import Recipe, check_recipes, extreme_points, recipe_of
from nasforge.core.trial import CHECKPOINT, TRAINING_COSTS, Measure, Proposal, Result, Score, TrainShared
from nasforge.data import ImageData, Split, load_data
from nasforge.data.decoded import classes_have
from nasforge.evaluators.guarded import forward_ms, guarded, needed
from nasforge.evaluators.zero_cost import ZeroCost
from nasforge.models.costs import count_flops, memory_mb, on_meta
from nasforge.models.network import build, fresh_and_whole
from nasforge.settings.spec import SearchSpec
from nasforge.tasks.classification import CLASSIFICATION
from nasforge.tasks.metrics import by_class
from nasforge.tasks.task import Answers, Task, task_of
from nasforge.training.artifacts import (
    file_of,
    load_weights,
    save_answers,
    save_checkpoint,
    save_json,
    save_weights,
)
from nasforge.training.device import device_of, free_memory_mb, free_share_mb, memory_format, uses_bf16
from nasforge.training.failures import SMALLER
from nasforge.training.fitting import check_fits
from nasforge.training.loop import train
from nasforge.training.meter import Limits
from nasforge.training.phases import Phase
from nasforge.training.probe import probe_of
from nasforge.training.remarks import remarks_on
from nasforge.training.scoring import Validation, answers
from nasforge.training.state import EPOCH_CHECKPOINT_S, Checkpoint


class Training:
    """Evaluator that trains every architecture from an initialisation (or the proposal's weights) and validates it.

    Light to pickle: data are loaded on the first call and kept in the process for the next.
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        device: str = "auto",
        threads: int | None = None,
        time_limit_s: float | None = None,
        extra_metrics: Sequence[str] = (),
        per_class: bool = False,
        keep_answers: bool = False,
        validate_at: Sequence[int] | None = None,
        cuda_graphs: bool = False,
    ) -> None:
        """Check the settings; load nothing.

        Args:
            spec: the facts of the search; what its objectives need is measured.
            device: `auto`, `cpu`, `cuda`, `cuda:1`...
            threads: torch threads during a trial; None: as they are.
            time_limit_s: time limit of a trial in seconds, over all attempts; None: no limit.
            extra_metrics: further metrics: `val/roc_auc`, `val/recall_macro`, `val/recall_of_3` (the number of a
                class).
            per_class: keep precision, recall and F1 of every class, and the confusion matrix, next to the weights.
            keep_answers: keep the predicted probabilities of the validation images next to the weights (artifact
                `answers`).
            validate_at: epochs to validate after, in addition to the ladder's and the last; None: after every epoch. A
                pruner judges a trial only at epochs that are validated.
            cuda_graphs: on a GPU, record the forward and backward pass of each network and replay them. This saves the
                launches of small networks. Networks that cannot be recorded are trained as usual, with a warning.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        if threads is not None:
            check_whole(threads, "evaluator 'training': threads", 1)
        if time_limit_s is not None:
            check_number(time_limit_s, "evaluator 'training': time_limit_s", over=0)
        self.spec = spec
        self.space = spec.space
        self.data = needed(spec.data, "training")
        self.ladder = spec.ladder
        self.recipe = spec.recipe
        self.device = device
        self.threads = threads
        self.time_limit_s = time_limit_s
        self.extra = _extra_figures(self.task, spec.objectives, extra_metrics)
        scores = dict.fromkeys((*self.task.metrics, *self.task.on_request, *self.extra))
        self.metrics = (*(f"val/{name}" for name in scores), "train/loss", *TRAINING_COSTS)
        self.per_class = check_flag(per_class, "evaluator: per_class")
        self.keep_answers = check_flag(keep_answers, "evaluator: keep_answers")
        self.validate_at = _epochs_to_validate(validate_at, spec)
        self.cuda_graphs = check_flag(cuda_graphs, "evaluator: cuda_graphs")
        if any(rung.proxies for rung in self.ladder):
            self._scoring()  # are there such proxies?
        check_recipes(self.space, self.recipe)

    @property
    def task(self) -> Task:
        """Loss and metrics of the networks."""
        return task_of(self.spec.task)

    def _data_hash(self) -> str:
        """Load the data, check that ladder and metrics fit them, and return the fingerprint of data and split.

        Raises:
            ConfigError: a metric is of a class that the data do not have, or a rung's resolution is not a lower one.
        """
        data = load_data(self.data)
        for name in self.extra:
            number = name.rpartition("_of_")[2]
            if number.isdecimal() and int(number) >= len(data.class_names):
                some = ", ".join(f"{place}: {text}" for place, text in enumerate(data.class_names[:12]))
                raise ConfigError(
                    f"metric val/{name}: expected one of {len(data.class_names)} classes, numbered {some}",
                    kind="range",
                    key=f"val/{name}",
                )
        for rung in self.ladder:
            if rung.resolution is not None and rung.resolution >= min(data.shape[1:]):
                raise ConfigError(
                    f"ladder: the images have {data.shape[1]} x {data.shape[2]} pixels, so a rung at resolution "
                    f"{rung.resolution} is not a lower one; choose less, or leave it out",
                    kind="range",
                    key="ladder",
                )
        return data.fingerprint

    @property
    def about(self) -> About:
        """The facts of this evaluator; loads the data. Notes are on the data, and on settings without effect."""
        data_hash, data = self._data_hash(), load_data(self.data)
        return About(
            metrics=self.metrics,
            data_hash=data_hash,
            shape=data.shape,
            classes=len(data.class_names),
            images=len(data.train),
            image_counts=data.counts(data.validation),
            device=self.device,
            notes=(*self.data_notes(), *self.recipe_notes),
        )

    @property
    def recipe_notes(self) -> tuple[str, ...]:
        """Sentences on settings of the recipe that have no effect."""
        return remarks_on(self.space, self.recipe, self.ladder[-1].epochs)

    def data_notes(self, validation: Split | None = None) -> tuple[str, ...]:
        """Return notes on data that are not read or not measured; `validation` as in `check_measured`."""
        data = load_data(self.data)
        absent = (data.validation if validation is None else validation).absent
        if not absent:
            return data.notes
        whose = classes_have([data.class_names[number] for number in absent])
        return (*data.notes, f"data {self.data.source}: {whose} no validation images, so metrics leave them out")

    def check_measured(self, validation: Split | None = None) -> None:
        """Refuse metrics that the validation split cannot tell, since it lacks their class.

        Args:
            validation: what candidates are compared on; None for the data's own validation split.

        Raises:
            ConfigError: there is such a metric.
        """
        data = load_data(self.data)
        validation = data.validation if validation is None else validation
        for name in self.task.unmeasured(self.extra, validation):
            number = name.rpartition("_of_")[2]
            whose = f"class '{data.class_names[int(number)]}'" if number.isdecimal() else "every class but one"
            raise ConfigError(
                f"metric val/{name}: {whose} has no validation images, so all candidates would have the same value. "
                "Add validation images, or choose another metric",
                kind="empty",
                key=f"val/{name}",
            )

    def latency_ms(self, architecture: Architecture) -> float:
        """Return the median milliseconds of one image's forward pass on this worker's device, untrained, fp32."""
        return forward_ms(self.space, architecture, self.data, self.device, self.threads)

    def preflight(self, proposal: Proposal) -> None:
        """Refuse what no trial could do: see `check_first`."""
        self.check_first(proposal)

    def check_first(self, proposal: Proposal, validation: Split | None = None) -> None:
        """Refuse what no trial could do: a recipe that does not fit the default network, scores without proxies.

        Args:
            proposal: the first one of the strategy.
            validation: the images that candidates are compared on; None for the data's own validation split.

        Raises:
            ConfigError: the only network of the space cannot be built; the default recipe is not for the default
                network or the images, nor, where there is no other network, an end of one of the recipe's decisions; or
                a batch of zero-cost scores comes first where no rung of the ladder has proxies.
        """
        self._check_recipes()
        self.check_measured(validation)
        if isinstance(proposal, Score) and not self.ladder[proposal.rung].proxies:
            raise ConfigError(
                "the strategy begins with zero-cost scores, but the ladder has no rung for them: let it begin with one "
                "(ladder: [{proxies: [synflow, naswot]}, {epochs: 3}]), or leave the strategy's zero_cost out",
                kind="missing",
                key="ladder",
            )

    def _check_recipes(self) -> None:
        data, point = load_data(self.data), self.space.default_point()
        several = any(domain.size > 1 for key, domain in self.space.domains.items() if not key.startswith(TRAIN))
        try:
            classes = len(data.class_names)
            network = on_meta(lambda: build(self.space, point, in_channels=data.shape[0], classes=classes))
            if not several:
                memory_mb(network, data.shape, 2, classes=classes)  # takes the images, answers, and saves all of itself
        except BuildError as error:
            if several or not self.space.builder:
                return  # the check of every proposal says so
            raise ConfigError(
                f"the space's only network cannot be built for these images: {error}", kind="failed"
            ) from error
        check_fits(network, recipe_of(self.space, point, self.recipe), data.train)
        if several:
            return  # what one network does not take another one may
        problems: list[Problem] = []
        for extreme in extreme_points(self.space):
            try:
                check_fits(network, recipe_of(self.space, extreme, self.recipe), data.train)
            except RecipeError as error:
                problems += (problem for problem in error.problems if problem not in problems)
        if problems:
            raise RecipeError(problems)

    def __call__(self, proposal: Proposal, report: Report) -> Result:
        """Train and report after every epoch; failures come back as results with their cause."""
        began = time.monotonic()
        if isinstance(proposal, TrainShared):
            raise SearchError(
                "evaluator 'training' cannot train a supernet; use evaluator 'shared_weights'",
                kind="unsupported",
                key="evaluator",
            )
        if self.ladder[proposal.rung].proxies:
            return self._scoring()(proposal, report)
        if isinstance(proposal, Score):
            raise SearchError(
                "evaluator 'training' trains one architecture per trial; use a rung of proxies for a batch",
                kind="unsupported",
                key="evaluator",
            )
        device = device_of(self.device)

        advice = "constrain the space or correct its builder"
        return guarded(
            lambda: self._measure(proposal, report, device, began), device, began, advice, threads=self.threads
        )

    def _scoring(self) -> ZeroCost:
        """Make the evaluator for rungs of proxies."""
        return ZeroCost(replace(self.spec, objectives=()), device=self.device, threads=self.threads)

    def _measure(self, proposal: Measure, report: Report, device: torch.device, began: float) -> Result:
        if device.type == "cuda":  # the images are there before the free memory is looked at
            for split in (load_data(self.data).train, load_data(self.data).validation):
                if split.fits_on(device):
                    split.on(device)
        recipe = recipe_of(self.space, proposal.architecture, self.recipe)
        needed_mb, free_mb = report.costs.get("cost/memory_mb"), free_memory_mb(device)
        if needed_mb is not None and device.type == "cuda" and uses_bf16(recipe, device):
            needed_mb /= 2  # the estimate is for fp32; what autograd keeps may be half as large, nothing gets smaller
        if needed_mb is not None and free_mb is not None and needed_mb > free_mb:
            message = f"training needs about {needed_mb:.0f} MB, {device} has {free_mb:.0f} MB free"
            if needed_mb <= (free_share_mb(device) or 0.0):
                return Result.failed("preempted", f"{message}, since other processes have taken more than their share")
            return Result.failed("out_of_memory", message, SMALLER)
        data = load_data(self.data)
        network = self._network(proposal, report, data)
        until, epochs = self.ladder[proposal.rung].epochs, self.ladder[-1].epochs
        trained = train(
            network,
            data.train,
            recipe,
            epochs=epochs,
            earlier=self._cheaper_phases(network, data, report.costs.get("cost/flops", 0.0)),
            seed=report.seed,
            device=device,
            validation=Validation(data.validation, self.extra, self.validate_at),
            checkpoint=Checkpoint(report.checkpoint, start=_start(proposal, report), epoch_s=EPOCH_CHECKPOINT_S),
            on_epoch=report,
            flops=report.costs.get("cost/flops", 0.0),
            limits=Limits(until, self.time_limit_s, began),
            fresh=proposal.weights is None,
            task=self.task,
            cuda_graphs=self.cuda_graphs,
        )
        lost = {"work/checkpoints_lost": 1.0} if trained.checkpoint_lost else {}
        artifacts = {}
        if not trained.stopped:
            artifacts["weights"] = save_weights(network.state_dict(), report, probe=probe_of(network, data.shape))
            if until < epochs:
                artifacts[CHECKPOINT] = save_checkpoint(report.checkpoint, report)
            if self.per_class or self.keep_answers:
                answers = answers_of(network, data.validation, recipe, device, self.task)
                if self.per_class:
                    artifacts["classes"] = save_json(by_class(answers, data.class_names), report, "classes")
                if self.keep_answers:
                    artifacts["answers"] = save_answers([(data.validation, answers)], report)
        return Result(
            "pruned" if trained.stopped else "finished",
            metrics={**report.costs, **trained.metrics, **lost},
            steps_done=trained.steps_done,
            charged=trained.charged,
            artifacts=artifacts,
        )

    def _cheaper_phases(self, network: nn.Module, data: ImageData, flops: float) -> list[Phase]:
        """Return the phases on fewer or smaller images before the full one; smaller ones validate on their like."""
        phases = []
        for rung in self.ladder:
            if rung.proxies or rung.full:
                continue
            images, counted = data, flops
            if rung.resolution is not None:
                images = load_data(replace(self.data, resolution=rung.resolution))
                counted = float(count_flops(network, images.shape))
            split, validation = images.share_of_train(rung.share), images.validation
            split = replace(split, mean=data.mean, std=data.std)  # normalised as all images are
            validation = replace(validation, mean=data.mean, std=data.std)
            phases.append(Phase(rung.epochs, split, validation, counted))
        return phases

    def _network(self, proposal: Measure, report: Report, data: ImageData) -> nn.Module:
        classes = len(data.class_names)
        network = fresh_and_whole(self.space, proposal.architecture, report.seed, shape=data.shape, classes=classes)
        if proposal.weights is not None and not proposal.weights.is_checkpoint:
            state = load_weights(report.experiment, proposal.weights)
            try:
                network.load_state_dict(state)
            except RuntimeError as error:
                reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
                raise SearchError(
                    f"weights {proposal.weights.path} do not fit this architecture ({reason}); "
                    "weights of a supernet are for evaluator 'shared_weights'",
                    kind="changed",
                ) from error
        return network


def answers_of(
    network: nn.Module, split: Split, recipe: Recipe, device: torch.device, task: Task = CLASSIFICATION
) -> Answers:
    """Compute a network's answers on a split, in the arithmetic of its training."""
    layout, bf16 = memory_format(recipe, device), uses_bf16(recipe, device)
    return answers(network, split, device=device, bf16=bf16, memory_format=layout, task=task)


def _extra_figures(task: Task, objectives: Sequence[Objective], extra_metrics: Sequence[str]) -> tuple[str, ...]:
    """Return the further metrics that an objective needs or the user asks for."""
    texts = not isinstance(extra_metrics, str) and all(isinstance(metric, str) for metric in extra_metrics)
    if not texts or len(task.requested(extra_metrics)) < len({*extra_metrics}):
        allowed = ", ".join(f"val/{name}" for name in task.on_request)
        raise ConfigError(
            f"evaluator: extra_metrics must be a list of {allowed}, or of one class by its number (val/recall_of_3, "
            f"precision, f1), got {extra_metrics!r}",
            kind="unknown",
            key="evaluator.extra_metrics",
        )
    return task.requested([*extra_metrics, *(objective.metric for objective in objectives)])


def _epochs_to_validate(validate_at: Sequence[int] | None, spec: SearchSpec) -> frozenset[int] | None:
    """Return the epochs after which a training is validated before its last one; None: after every epoch."""
    if validate_at is None:
        return None
    is_list = isinstance(validate_at, (list, tuple))
    if not is_list or not all(epoch in Range(whole=True, least=1) for epoch in validate_at):
        raise ConfigError(
            f"evaluator 'training': validate_at must be a list of whole numbers above 0, got {validate_at!r}. Name the "
            "epochs to validate after, like [3, 10]",
            kind="type",
            key="evaluator.validate_at",
        )
    return frozenset({*validate_at, *(rung.epochs for rung in spec.ladder if not rung.proxies)})


def _start(proposal: Measure, report: Report) -> Path | None:
    """Load the checkpoint that a proposal resumes; None if it resumes none."""
    if proposal.weights is None or not proposal.weights.is_checkpoint:
        return None
    return file_of(report.experiment, proposal.weights)
