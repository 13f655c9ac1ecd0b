"""The training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import torch
from torch import Tensor, nn

from nasforge.core.recipe import Recipe
from nasforge.core.trial import Charge
from nasforge.data.split import Split
from nasforge.tasks.classification import CLASSIFICATION
from nasforge.tasks.task import Criterion, Task
from nasforge.training.augmentation import augmented, check_images
from nasforge.training.averaging import average_of
from nasforge.training.depth import freeze, set_drop_path, set_dropout
from nasforge.training.device import keep_freed_memory, memory_format, uses_bf16, without_overrun, without_stray_reads
from nasforge.training.failures import TrainingFailed, as_training_failures, check_shapes
from nasforge.training.graphs import Forward, forward_of
from nasforge.training.health import Health, where_not_finite
from nasforge.training.hooks import Hook, Step, around_forward
from nasforge.training.initialisation import initialise
from nasforge.training.meter import Limits, Meter
from nasforge.training.mixing import Mixing, mixing_of
from nasforge.training.phases import Course, Phase
from nasforge.training.recalibration import RECALIBRATION_BATCHES, recalibrate
from nasforge.training.scoring import Validation, score
from nasforge.training.state import Checkpoint, TrainingState, derived_seed

CUDA_CHECK_STEPS = 16
"""Steps between two looks at the loss on a GPU: each look waits for the device."""

OnEpoch = Callable[[int, Mapping[str, float]], bool]


@dataclass(frozen=True)
class Trained:
    """Outcome of a training. The network itself holds the weights, averaged ones where the recipe asks for them.

    Attributes:
        metrics: metrics of the last epoch, as reported.
        steps_done: epochs done. Epochs after an early stop count, because the network is then as it was.
        charged: cost of all attempts, as far as their checkpoints tell.
        stopped: True when `on_epoch` ended the training.
        checkpoint_lost: True when there was a checkpoint that could not be used.
    """

    metrics: Mapping[str, float]
    steps_done: int
    charged: Charge
    stopped: bool
    checkpoint_lost: bool


def train(
    network: nn.Module,
    split: Split,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    device: torch.device | str = "cpu",
    validation: Validation | None = None,
    flops: float = 0.0,
    earlier: Sequence[Phase] = (),
    fresh: bool = True,
    checkpoint: Checkpoint = Checkpoint(),
    limits: Limits = Limits(),
    hooks: Sequence[Hook] = (),
    on_epoch: OnEpoch = lambda epoch, metrics: True,
    task: Task = CLASSIFICATION,
    cuda_graphs: bool = False,
) -> Trained:
    """Train `network` in place.

    On a CPU the outcome depends on the arguments alone (and on torch's number of threads). A training that was
    interrupted anywhere and called again with the same `checkpoint` ends with the same bits as one that was not.

    Args:
        network: takes normalised images N x C x H x W, returns logits N x classes.
        split: images to train on.
        recipe: settings of the training.
        epochs: passes over `split`; the schedule spans them.
        seed: seed of order, augmentation and dropout.
        device: device of the training.
        validation: images, metrics and epochs of the network's scores, on the averaged weights where the recipe has
            them; None: the network is not scored.
        flops: multiply-adds of one image forward; a training step is charged three times that (forward, backward).
        earlier: phases on fewer or smaller images, before `split` is trained on for the epochs that are left.
        fresh: the network is new, so the recipe may initialise it; else its weights are kept.
        checkpoint: files to continue from and to write.
        limits: limits of time and epochs. After a deadline (`trainings_end_by`) the training ends with its epoch.
        hooks: code to call at fixed places, in addition to the recipe's averages and health.
        on_epoch: called with (epochs done, metrics), for the last epoch again after an interruption. False ends the
            training.
        task: what the network is trained for: its loss and metrics.
        cuda_graphs: on a GPU, record the forward and backward pass and replay them, which saves the launches of small
            networks (see `nasforge.training.graphs`). Python code in the network then runs only while it is recorded.

    Raises:
        TrainingFailed: diverged, timeout, out_of_memory or invalid_shape.
        ConfigError: the recipe does not fit the network or the images.
        SearchError: `checkpoint.start` is of another network, or of a recipe that differs in more than may change.
    """
    device, meter = torch.device(device), Meter(limits)
    shapes = {split.shape, *(phase.split.shape for phase in earlier)}
    sound = without_overrun(without_stray_reads(recipe, device, network, shapes), device, network)
    bf16, layout = uses_bf16(sound, device), memory_format(sound, device)
    check_images(recipe, split)
    if device.type == "cpu":
        keep_freed_memory()
    set_dropout(network, recipe.dropout)
    set_drop_path(network, recipe.drop_path)
    if fresh:
        initialise(network, recipe, derived_seed(seed, "init"))
    course = Course([*earlier, Phase(epochs, split, validation.split if validation else None, flops)], recipe)
    with as_training_failures(meter.fail, device):
        network.to(device).to(memory_format=layout)
        frozen = freeze(network, recipe.frozen_stages)  # before the optimizer: it takes what learns
        average = average_of(network, recipe, epochs)
        hooks = [*hooks, *([average] if average else []), *([Health(network)] if recipe.health else [])]
        state = TrainingState(
            network, recipe, course, seed=seed, device=device, hooks=hooks, meter=meter, checkpoint=checkpoint
        )
        loop = _Loop(
            state=state,
            recipe=recipe,
            course=course,
            end=epochs if limits.until is None else limits.until,
            validation=validation,
            frozen=frozen,
            forward=forward_of(network, device, bf16=bf16, cuda_graphs=cuda_graphs),
            device=device,
            bf16=bf16,
            layout=layout,
            criterion=task.criterion(recipe, split, device),
            task=task,
            mixing=mixing_of(network, recipe),
            on_epoch=on_epoch,
        )
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(derived_seed(seed, "dropout"))
            state.load()
            stopped = loop.run()
            if loop.judged is not network:
                network.load_state_dict(loop.judged.state_dict())
    return Trained(state.progress.metrics, state.progress.epoch, meter.charge, stopped, state.checkpoint_lost)


@dataclass(kw_only=True)
class _Loop:
    """Epochs and steps of one training.

    Attributes:
        state: everything that a checkpoint holds.
        recipe: settings of the training.
        course: images of every epoch.
        end: epochs after which the training ends.
        validation: images and metrics of the score; None: no score.
        frozen: modules that stay in eval mode.
        forward: forward pass of the network.
        device: device of the training.
        bf16: True to compute under bfloat16 autocast.
        layout: memory format of images and weights.
        criterion: loss.
        task: computes the metrics.
        mixing: draws the mix of each batch.
        on_epoch: called at the end of every epoch.
        loss_sum: sum of the losses of this epoch's images, on the device.
        inputs: latest batch.
    """

    state: TrainingState
    recipe: Recipe
    course: Course
    end: int
    validation: Validation | None
    frozen: Sequence[nn.Module]
    forward: Forward
    device: torch.device
    bf16: bool
    layout: torch.memory_format
    criterion: Criterion
    task: Task
    mixing: Mixing
    on_epoch: OnEpoch
    loss_sum: Tensor = field(init=False)
    inputs: Tensor = field(init=False)

    @property
    def judged(self) -> nn.Module:
        """Network that is validated and kept: the averaged one where there is one."""
        averaged = (hook.network for hook in self.state.hooks)
        return next((network for network in averaged if network is not None), self.state.network)

    @property
    def ended(self) -> bool:
        """True when there is no epoch left to train."""
        state = self.state
        return state.late or state.progress.epoch >= self.end or any(hook.settled for hook in state.hooks)

    def run(self) -> bool:
        """Train epoch after epoch. Return True when `on_epoch` ended the training."""
        state, progress, recipe = self.state, self.state.progress, self.recipe
        # an attempt may have been interrupted after it saved an epoch and before it reported it
        if state.resumed and progress.position == 0 and not self.on_epoch(progress.epoch, progress.metrics):
            return True
        for phase in self.course.phases:
            check_shapes(state.network, phase.split, self.device, self.layout, state.meter.fail)
        state.network.train()
        for module in self.frozen:
            module.eval()
        while not self.ended:
            if recipe.early_stopping and progress.stale >= recipe.early_stopping:
                progress.epoch += 1  # the network stays as it is, so that it can be compared after any epoch
            else:
                self.train_epoch()
                state.late = state.meter.late
                self.end_epoch(is_last=state.late or progress.epoch + 1 == self.end)
            is_last = self.ended
            state.save_epoch(is_last=is_last, to_be_continued=is_last and self.end < self.course.epochs)
            if not self.on_epoch(progress.epoch, progress.metrics):
                return True
        return False

    def train_epoch(self) -> None:
        """Train on the images of the epoch, or on what an interruption has left of them."""
        state, progress, recipe, course = self.state, self.state.progress, self.recipe, self.course
        network, optimizer, hooks, augmenting, host = (
            *(state.network, state.optimizer, state.hooks),
            *(state.augmenting, state.host),
        )
        phase, steps, whole = course.phase(progress.epoch), course.steps(progress.epoch), course.phases[-1].split
        augmentation, earlier_steps = course.recipe(progress.epoch), course.done(progress.epoch, 0)
        self.loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.device)
        state.meter.begin_epoch()
        order = state.order(phase.split, steps)
        mirrored = state.mirrored(phase.split, order)
        sides = repeat(None) if mirrored is None else torch.split(mirrored.to(self.device), recipe.batch_size)
        batches = phase.split.batches(order, recipe.batch_size, self.device)
        for (images, labels), side in zip(batches, sides, strict=False):
            number, is_last = course.place(progress.epoch, progress.position), progress.position == steps - 1
            state.schedule.step_update(number)
            inputs = augmented(images, whole, augmentation, augmenting, host, side).contiguous(
                memory_format=self.layout
            )
            mix = self.mixing(inputs, host)
            rate = max(group["lr"] for group in optimizer.param_groups)
            for hook in hooks:
                hook.before_step(Step(number, is_last, inputs, labels, rate))
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16), around_forward(hooks):
                logits = mix.logits(self.forward, inputs).float()
            loss = mix.loss(self.criterion, logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for hook in hooks:
                hook.after_backward()
            if recipe.clip_norm:
                nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            optimizer.step()
            progress.position += 1
            for hook in hooks:
                hook.after_step(network, earlier_steps + progress.position)
            self.count_step(phase, inputs, loss.detach(), is_last)

    def count_step(self, phase: Phase, inputs: Tensor, loss: Tensor, is_last: bool) -> None:
        """Count a step, look at loss and time, and save where that is due."""
        state, progress, meter = self.state, self.state.progress, self.state.meter
        self.inputs = inputs
        self.loss_sum += loss * len(inputs)
        progress.images_seen += len(inputs)
        meter.count_step(len(inputs), phase.flops)
        if self.device.type != "cuda" or progress.position % CUDA_CHECK_STEPS == 0:
            progress.loss_sum = self.loss_sum.item()
            if not math.isfinite(progress.loss_sum):
                raise self.diverged("training")
        if meter.over_limit:
            message = f"{meter.over_limit} in epoch {progress.epoch + 1} of {self.course.epochs}"
            advice = "raise the time limit, train fewer epochs or constrain flops"
            raise meter.fail("timeout", message, advice)
        if not is_last and state.save_is_due():
            progress.loss_sum = self.loss_sum.item()
            state.save()

    def end_epoch(self, is_last: bool) -> None:
        """Average, validate, and save the place before the next epoch."""
        state, progress, recipe = self.state, self.state.progress, self.recipe
        phase, done = self.course.phase(progress.epoch), progress.epoch + 1
        metrics = {"train/loss": self.loss_sum.item() / progress.images_seen}
        state.meter.end_steps()  # the line above has waited for the device
        for hook in state.hooks:
            hook.after_epoch(state.network, done)
        metrics |= self.scores(phase, is_last)
        for hook in state.hooks:
            metrics |= hook.metrics(done)
        # gradients that overflow may yet be clipped, so the figures of health do not show that a training diverged
        wrong = [key for key, value in metrics.items() if not (math.isfinite(value) or key.startswith("health/"))]
        if wrong and all(math.isfinite(metrics.get(key, 0.0)) for key in ("train/loss", "val/loss")):
            message = f"the metric {wrong[0]} is {metrics[wrong[0]]:g} in epoch {done}, and the losses are finite"
            raise state.meter.fail("error", message, "correct the task that computes it")
        if wrong:
            raise self.diverged("validation")
        metrics |= state.meter.metrics()
        if recipe.early_stopping and phase is self.course.phases[-1] and phase.validation is not None:
            progress.judge(metrics, recipe)
            metrics["train/epochs"] = done
        progress.end_epoch(metrics)

    def scores(self, phase: Phase, is_last: bool) -> dict[str, float]:
        """Return the metrics of the network on the validation images, with recomputed batch statistics if need be."""
        recipe, judged, extra = self.recipe, self.judged, self.validation.extra if self.validation else ()
        at = self.validation.at if self.validation else None
        is_due = is_last or at is None or self.state.progress.epoch + 1 in at or recipe.early_stopping > 0
        validates = phase.validation is not None and is_due
        averaged = recipe.swa_share > 0 and judged is not self.state.network
        batches = recipe.precise_bn or (RECALIBRATION_BATCHES if averaged else 0)
        if batches and (validates or is_last):
            augmentation = self.course.recipe(self.state.progress.epoch)
            recalibrate(judged, phase.split, augmentation, device=self.device, batches=batches, layout=self.layout)
        if not validates or phase.validation is None:
            return {}
        values = score(
            judged,
            phase.validation,
            extra=extra,
            task=self.task,
            device=self.device,
            bf16=self.bf16,
            memory_format=self.layout,
        )
        return {f"val/{key}": value for key, value in values.items()}

    def diverged(self, where: str) -> TrainingFailed:
        """Return the error that says where numbers became infinite."""
        progress = self.state.progress
        message = (
            f"the {where} loss became infinite or not a number in epoch {progress.epoch + 1}, step {progress.position}"
        )
        place = where_not_finite(self.state.network, self.inputs)
        message += f"; first in {place}" if place else ""
        advice = f"lower the learning rate (it is {self.recipe.learning_rate:g})"
        advice += "" if self.recipe.clip_norm else ", or set clip_norm"
        return self.state.meter.fail("diverged", message, advice)
