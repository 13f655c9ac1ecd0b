"""The training loop, to be read from top to bottom."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from nasforge.core.architecture import digest
from nasforge.core.recipe import Recipe
from nasforge.core.trial import Cause, Charge
from nasforge.data.part import Part
from nasforge.training import checkpoint as checkpoints
from nasforge.training.augmentation import augmented, check_images
from nasforge.training.averaging import average_of
from nasforge.training.deadline import deadline_now
from nasforge.training.depth import freeze, set_drop_path, set_dropout
from nasforge.training.device import memory_format, uses_bf16, without_overrun
from nasforge.training.failures import TrainingFailed, check_shapes, typed
from nasforge.training.health import Health, where_not_finite
from nasforge.training.imbalance import order_of
from nasforge.training.initialisation import initialise
from nasforge.training.losses import criterion_of
from nasforge.training.mixing import mixing_of
from nasforge.training.optimisation import adopt, optimizer_of, schedule_of
from nasforge.training.phases import Course, Phase
from nasforge.training.progress import Progress
from nasforge.training.recalibration import RECALIBRATION_BATCHES, recalibrate
from nasforge.training.scoring import score

CHECKPOINT_S = 60.0
CUDA_CHECK_STEPS = 16
"""On a GPU the loss is looked at so often: every look waits for the device."""

OnEpoch = Callable[[int, Mapping[str, float]], bool]


class Alternating(Protocol):
    """What is trained in turn with the weights, on data of its own (nasforge/supernet/bilevel.py)."""

    @property
    def settled(self) -> bool:
        """Whether there is nothing more to train; the loop ends after this epoch."""
        ...

    def step(self, number: int, inputs: Tensor, labels: Tensor, learning_rate: float) -> None:
        """Called before step `number` of the weights, with its batch (normalised) and the weights' learning rate."""
        ...

    def epoch(self, done: int) -> Mapping[str, float]:
        """Metrics after `done` epochs; called once at the end of each."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values for the training's checkpoint."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        ...


@dataclass(frozen=True)
class Trained:
    """What a training came to. The network itself holds the weights, averaged ones where the recipe says so.

    Attributes:
        metrics: of the last epoch, as reported.
        steps_done: epochs done; those after an early stop count, for the network is then as it was.
        charged: cost of all attempts, as far as their checkpoints tell.
        stopped: `on_epoch` ended it early.
        checkpoint_lost: there was a checkpoint that could not be used.
    """

    metrics: Mapping[str, float]
    steps_done: int
    charged: Charge
    stopped: bool
    checkpoint_lost: bool


def train(
    network: nn.Module,
    part: Part,
    recipe: Recipe,
    *,
    epochs: int,
    seed: int,
    device: torch.device | str = "cpu",
    validation: Part | None = None,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    flops: float = 0.0,
    time_limit_s: float | None = None,
    since: float | None = None,
    checkpoint_s: float = CHECKPOINT_S,
    alternating: Alternating | None = None,
    earlier: Sequence[Phase] = (),
    until: int | None = None,
    start: Path | None = None,
    fresh: bool = True,
    extra: Collection[str] = (),
    validate_at_end: bool = False,
) -> Trained:
    """Train `network` in place; a training that is late by `nasforge.training.deadline` ends with its epoch.

    On a CPU the outcome depends on the arguments alone (and on torch's number of threads): a training that was
    interrupted anywhere and called again with the same `checkpoint` ends with the same bits as one that was not.

    Args:
        network: takes normalised images N x C x H x W, gives logits N x classes.
        part: to train on.
        recipe: how.
        epochs: passes over `part`; the schedule spans them.
        seed: of order, augmentation and dropout.
        device: where.
        validation: scored after every epoch, on the averaged weights where the recipe has them.
        checkpoint: file to continue from and to write at every epoch's end and every `checkpoint_s` seconds.
        on_epoch: told (epochs done, metrics), the last epoch again after an interruption; False ends the training.
        flops: multiply-adds of one image forward; a training step is charged three times that (forward, backward).
        time_limit_s: seconds that all attempts together may take.
        since: `time.monotonic()` of when this attempt's work began, where that was before the call.
        checkpoint_s: see `checkpoint`.
        alternating: takes a step before each of the weights'.
        earlier: phases on fewer or smaller images, before `part` is trained on for the epochs that are left.
        until: end after so many of the `epochs`; `checkpoint` is then the `start` of whoever goes on.
        start: checkpoint of another training, to go on where it ended: equal to a training that never stopped where
            the recipe is the same. Only what is done here is charged.
        extra: figures to validate by, beside the usual ones (`nasforge.training.scoring.EXTRA`).
        fresh: the network is new, so the recipe may initialise it; else its weights are kept.
        validate_at_end: score `validation` after the last epoch alone, not after every one; a recipe that stops early
            needs every one.

    Raises:
        TrainingFailed: diverged, timeout, out_of_memory or invalid_shape.
        ConfigError: the recipe does not fit the network or the images.
        SearchError: `start` is of another network, or of a recipe that differs in more than may change on the way.
    """
    device = torch.device(device)
    began = time.monotonic() if since is None else since
    latest = deadline_now()
    bf16, layout = uses_bf16(recipe, device), memory_format(without_overrun(recipe, device, network), device)
    check_images(recipe, part)
    set_dropout(network, recipe.dropout)
    set_drop_path(network, recipe.drop_path)
    if fresh:
        initialise(network, recipe, _derive(seed, "init"))
    course = Course([*earlier, Phase(epochs, part, validation, flops)], recipe)
    end = epochs if until is None else until

    health = Health(network) if recipe.health else None
    criterion, mixing = criterion_of(recipe, part, device), mixing_of(network, recipe)

    # --- everything that a checkpoint holds -----------------------------------------------------------------------
    network.to(device).to(memory_format=layout)
    frozen = freeze(network, recipe.frozen_stages)
    optimizer = optimizer_of(network, recipe)
    schedule = schedule_of(optimizer, recipe, epochs, course.full_steps)
    average = average_of(network, recipe, epochs)
    ordering = torch.Generator().manual_seed(_derive(seed, "order"))
    augmenting = torch.Generator(device).manual_seed(_derive(seed, "augment"))
    progress = Progress()
    shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    settings = recipe.identifying()
    identity = digest([settings, course.to_json(), seed, shapes, device.type])
    lineage = {"recipe": settings, "course": course.to_json(), "network": digest(shapes)}
    saved, lost = checkpoints.load(checkpoint, identity) if checkpoint else (None, False)
    begun = saved is not None
    if saved is None and start is not None:
        saved = checkpoints.continued(start, lineage)
    earlier_s = 0.0

    def fail(cause: Cause, message: str, advice: str) -> TrainingFailed:
        progress.worker_s = earlier_s + time.monotonic() - began
        return TrainingFailed(cause, message, advice, progress.charged)

    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda), typed(fail, device):
        torch.manual_seed(_derive(seed, "dropout"))
        if saved:
            network.load_state_dict(saved["network"])
            adopt(optimizer, saved["optimizer"])
            if begun:
                schedule.load_state_dict(saved["schedule"])
            if average:
                average.load_state_dict(saved["average"])
            ordering.set_state(saved["ordering"])
            augmenting.set_state(saved["augmenting"])
            torch.set_rng_state(saved["dropout"])
            if alternating:
                alternating.load_state_dict(saved["alternating"])
            if device.type == "cuda":
                torch.cuda.set_rng_state(saved["dropout_cuda"], device)
            progress = Progress(**saved["progress"])
            if not begun:
                progress = progress.uncharged()
                if saved["lineage"]["recipe"] != lineage["recipe"]:
                    progress.best, progress.stale = -math.inf, 0  # patience with the old one is not for the new one
            earlier_s = progress.worker_s

        def save(order_state: Tensor) -> None:
            if checkpoint is None:
                return
            state: dict[str, Any] = {
                "identity": identity,
                "lineage": lineage,
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "average": average.state_dict() if average else None,
                "ordering": order_state,
                "augmenting": augmenting.get_state(),
                "dropout": torch.get_rng_state(),
                "alternating": alternating.state_dict() if alternating else None,
                "progress": asdict(progress),
            }
            if device.type == "cuda":
                state["dropout_cuda"] = torch.cuda.get_rng_state(device)
            checkpoints.save(checkpoint, state)

        def done(stopped: bool) -> Trained:
            if average and average.network:
                network.load_state_dict(average.network.state_dict())
            return Trained(progress.metrics, progress.epoch, progress.charged, stopped, lost)

        # an interruption may have come between saving and telling
        again = begun and progress.position == 0 and on_epoch is not None
        if again and on_epoch and not on_epoch(progress.epoch, progress.metrics):
            return done(stopped=True)

        for phase in course.phases:
            check_shapes(network, phase.part, device, layout, fail)

        # --- epochs -----------------------------------------------------------------------------------------------
        last_saved = time.monotonic()
        network.train()
        for module in frozen:
            module.eval()
        while progress.epoch < end and not (alternating and alternating.settled):
            if recipe.early_stopping and progress.stale >= recipe.early_stopping:
                progress.epoch += 1  # the network stays as it is, so that it can be compared after any epoch
                save(ordering.get_state())
                if on_epoch and not on_epoch(progress.epoch, progress.metrics):
                    return done(stopped=True)
                continue

            phase, steps = course.phase(progress.epoch), course.steps(progress.epoch)
            augmentation = course.recipe(progress.epoch)
            order_state = ordering.get_state()
            order = order_of(phase.part, steps * recipe.batch_size, recipe.sampling, ordering)
            remaining = order[progress.position * recipe.batch_size :]
            loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
            resumed_s, epoch_began = progress.train_s, time.monotonic()

            for images, labels in phase.part.batches(remaining, recipe.batch_size, device):
                number = course.place(progress.epoch, progress.position)
                schedule.step_update(number)
                inputs = augmented(images, part, augmentation, augmenting).contiguous(memory_format=layout)
                if alternating:  # on images as they are: it has no mixed labels
                    alternating.step(number, inputs, labels, max(group["lr"] for group in optimizer.param_groups))
                look = health and progress.position == steps - 1
                watching = health.watching() if health and look else nullcontext()
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16), watching:
                    mix = mixing(inputs, augmenting) if mixing else None
                    logits = (mix.logits(network, inputs) if mix else network(inputs)).float()
                loss = mix.loss(criterion, logits, labels) if mix else criterion(logits, labels)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                if health and look:
                    health.after_backward()
                if recipe.clip_norm:
                    nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
                optimizer.step()
                progress.position += 1
                if average:
                    average.after_step(network, course.done(progress.epoch, progress.position))

                loss_sum += loss.detach() * len(labels)
                progress.images_seen += len(labels)
                progress.multiply_adds += 3 * phase.flops * len(labels)
                if device.type != "cuda" or progress.position % CUDA_CHECK_STEPS == 0:
                    progress.loss_sum = loss_sum.item()
                    if not math.isfinite(progress.loss_sum):
                        raise fail("diverged", *_diverged("training", progress, recipe, network, inputs))
                now = time.monotonic()
                progress.train_s = resumed_s + now - epoch_began
                progress.worker_s = earlier_s + now - began
                if time_limit_s is not None and progress.worker_s > time_limit_s:
                    message = f"over the limit of {time_limit_s:g} s in epoch {progress.epoch + 1} of {epochs}"
                    raise fail("timeout", message, "raise the time limit, train fewer epochs or constrain flops")
                if now - last_saved >= checkpoint_s and progress.position < steps:
                    progress.loss_sum = loss_sum.item()
                    save(order_state)
                    last_saved = time.monotonic()

            # --- the epoch's end: validate, save, report -------------------------------------------------------------
            progress.loss_sum = loss_sum.item()
            train_loss = progress.loss_sum / progress.images_seen
            metrics = {"train/loss": train_loss}
            if average:
                average.after_epoch(network, progress.epoch + 1)
            judged = (average and average.network) or network
            batches = recipe.precise_bn or (RECALIBRATION_BATCHES if recipe.swa_share and judged is not network else 0)
            late = latest is not None and time.monotonic() > latest
            is_last = progress.epoch + 1 == end or late
            validates = phase.validation is not None and (is_last or not validate_at_end or recipe.early_stopping > 0)
            if batches and (validates or is_last):
                recalibrate(judged, phase.part, augmentation, device=device, batches=batches)
            if validates and phase.validation is not None:
                found = score(judged, phase.validation, extra=extra, device=device, bf16=bf16, memory_format=layout)
                metrics |= {f"val/{key}": value for key, value in found.items()}
            if alternating:
                metrics |= alternating.epoch(progress.epoch + 1)
            if not all(math.isfinite(value) for value in metrics.values()):
                raise fail("diverged", *_diverged("validation", progress, recipe, network, inputs))
            if health:
                metrics |= health.metrics()
            progress.worker_s = earlier_s + time.monotonic() - began
            metrics["time/train_s"] = progress.train_s
            metrics["time/worker_s"] = progress.worker_s
            metrics["work/multiply_adds"] = progress.multiply_adds
            progress.epoch += 1
            if recipe.early_stopping and phase is course.phases[-1] and phase.validation is not None:
                progress.judge(metrics, recipe)
                metrics["train/epochs"] = progress.epoch
            progress.position, progress.loss_sum, progress.images_seen = 0, 0.0, 0
            progress.metrics = metrics
            save(ordering.get_state())
            last_saved = time.monotonic()
            if on_epoch and not on_epoch(progress.epoch, metrics):
                return done(stopped=True)
            if late:
                break
        return done(stopped=False)


def _diverged(where: str, progress: Progress, recipe: Recipe, network: nn.Module, inputs: Tensor) -> tuple[str, str]:
    message = (
        f"the {where} loss became infinite or not a number in epoch {progress.epoch + 1}, step {progress.position}"
    )
    place = where_not_finite(network, inputs)
    message += f"; first in {place}" if place else ""
    advice = f"lower the learning rate (it is {recipe.learning_rate:g})"
    return message, advice if recipe.clip_norm else advice + ", or set clip_norm"


def _derive(seed: int, purpose: str) -> int:
    """A seed for one of several independent generators."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) % 2**63
