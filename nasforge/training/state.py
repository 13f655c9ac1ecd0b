"""A training's state: all that a checkpoint holds, with one save, one load and one way to continue."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nasforge.core.architecture import digest
from nasforge.core.errors import DataError, SearchError
from nasforge.core.recipe import CHANGEABLE, Recipe
from nasforge.core.trial import TRAINING_COSTS
from nasforge.data.augment import alternating
from nasforge.data.split import Split
from nasforge.training.device import uses_bf16
from nasforge.training.hooks import Hook
from nasforge.training.meter import Meter
from nasforge.training.optimisation import adopt, optimizer_of, schedule_of
from nasforge.training.phases import Course, order_of

log = logging.getLogger(__name__)

CHECKPOINT_S = 60.0
EPOCH_CHECKPOINT_S = 5.0
"""Seconds of work that a killed training may lose where the ends of epochs write no checkpoint more often. A checkpoint
takes .02 to .1 s, as long as many a small epoch."""


@dataclass(frozen=True)
class Checkpoint:
    """Files that a training continues from and writes.

    Attributes:
        file: the training continues from this file, and writes it at the end of epochs; None: no checkpoint.
        every_s: seconds after which `file` is also written inside an epoch.
        start: checkpoint of another training, to continue from while `file` does not exist; None: from scratch. With
            the same recipe, both together equal one training that never stopped. Only the work done here is charged.
        epoch_s: seconds since `file` was written, or the training began, after which the end of an epoch writes it. A
            training that another one is to continue always writes it at its end.
        at_end: True to write `file` at the end of the last epoch in any case. The same training, called again, then
            gives its network and metrics back at once; one that was late continues under a later deadline.
    """

    file: Path | None = None
    every_s: float = CHECKPOINT_S
    start: Path | None = None
    epoch_s: float = 0.0
    at_end: bool = False


@dataclass
class Progress:
    """Position of a training, and its last metrics.

    Attributes:
        epoch: epochs done.
        position: steps done in this epoch.
        loss_sum: sum of the losses of this epoch's images.
        images_seen: images of this epoch so far.
        best: best value of the metric that early stopping compares, higher is better.
        stale: epochs since then.
        metrics: metrics of the last epoch.
    """

    epoch: int = 0
    position: int = 0
    loss_sum: float = 0.0
    images_seen: int = 0
    best: float = -math.inf
    stale: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def judge(self, metrics: Mapping[str, float], recipe: Recipe) -> None:
        """Count the epochs without improvement of the metric that the recipe's early stopping compares."""
        value = metrics[f"val/{recipe.early_stopping_metric}"]
        value = -value if recipe.early_stopping_metric == "loss" else value
        self.stale = 0 if value > self.best else self.stale + 1
        self.best = max(value, self.best)

    def end_epoch(self, metrics: dict[str, float]) -> None:
        """Move to the place before the next epoch's first step."""
        self.epoch += 1
        self.position, self.loss_sum, self.images_seen = 0, 0.0, 0
        self.metrics = metrics


class TrainingState:
    """Everything that decides how a training continues. A checkpoint holds all of it.

    Attributes:
        network: network that is trained, on its device.
        optimizer: optimizer of its weights.
        schedule: timm's scheduler, counted in steps.
        hooks: hooks, whose state is saved under their names.
        ordering: generator of the order of images.
        augmenting: generator of augmentation, on the device.
        host: generator of what Python has to know of augmentation and mixing, on the CPU; without a GPU it is
            `augmenting`.
        progress: place of the training.
        meter: costs of the training.
        late: True when the training has ended by its deadline.
        resumed: True when `load` continued from the training's own file.
        checkpoint_lost: True when `load` met a file that it could not use.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        course: Course,
        *,
        seed: int,
        device: torch.device,
        hooks: Sequence[Hook],
        meter: Meter,
        checkpoint: Checkpoint,
    ) -> None:
        """Make the state in which a training begins."""
        self.network = network
        self.optimizer = optimizer_of(network, recipe)
        self.schedule = schedule_of(self.optimizer, recipe, course.epochs, course.full_steps)
        self.hooks = hooks
        self.ordering = torch.Generator().manual_seed(derived_seed(seed, "order"))
        self.augmenting = torch.Generator(device).manual_seed(derived_seed(seed, "augment"))
        self.host = self.augmenting
        if device.type == "cuda":
            self.host = torch.Generator().manual_seed(derived_seed(seed, "host"))
        self.progress = Progress()
        self.meter = meter
        self.late = False
        self.resumed = False
        self.checkpoint_lost = False
        self._recipe = recipe
        self._seed = seed
        self._device = device
        self._checkpoint = checkpoint
        self._saved_at = time.monotonic()
        self._epochs_ordering = self.ordering.get_state()
        settings, phases = recipe.identifying(), course.to_json()
        shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
        # a GPU of another generation may not multiply in bf16; checkpoints of CPUs have always left this out
        precision = ["bf16" if uses_bf16(recipe, device) else "fp32"] if device.type == "cuda" else []
        self._identity = digest([settings, phases, seed, shapes, device.type, *precision])
        self._earlier_identity = digest([settings, phases, seed, shapes, device.type])  # of version 0.1.0 on a GPU
        self._lineage = {"recipe": settings, "course": phases, "network": digest(shapes)}

    def order(self, split: Split, steps: int) -> Tensor:
        """Return the positions in `split` of the images that this epoch has yet to train on."""
        self._epochs_ordering = self.ordering.get_state()
        images = order_of(split, steps * self._recipe.batch_size, self._recipe.sampling, self.ordering)
        return images[self.progress.position * self._recipe.batch_size :]

    def mirrored(self, split: Split, order: Tensor) -> Tensor | None:
        """Return which of these positions in `split` this epoch mirrors (bool); None where it draws them by batch."""
        if self._recipe.flip_order != "alternating":
            return None
        return alternating(len(split), self.progress.epoch, derived_seed(self._seed, "flip"))[order]

    def save_is_due(self) -> bool:
        """Return True when the last checkpoint is older than it may become inside an epoch."""
        return self._checkpoint.file is not None and time.monotonic() - self._saved_at >= self._checkpoint.every_s

    def save_epoch(self, *, is_last: bool, to_be_continued: bool) -> None:
        """Write the checkpoint at the end of an epoch, if the last one is old or it is read after the training.

        Args:
            is_last: this epoch is the last one of this training.
            to_be_continued: it is, and another training has epochs left.
        """
        is_read = to_be_continued or (is_last and self._checkpoint.at_end)
        if is_read or time.monotonic() - self._saved_at >= self._checkpoint.epoch_s:
            self.save()

    def save(self) -> None:
        """Write the checkpoint, if this training has one."""
        if self._checkpoint.file is None:
            return
        within_epoch = self.progress.position > 0
        content: dict[str, Any] = {
            "identity": self._identity,
            "lineage": self._lineage,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ordering": self._epochs_ordering if within_epoch else self.ordering.get_state(),
            "augmenting": self.augmenting.get_state(),
            "dropout": torch.get_rng_state(),
            "progress": {**asdict(self.progress), **self.meter.state_dict()},
            **({"late_until": self.meter.until} if self.late else {}),
            **{hook.name: state for hook in self.hooks if (state := hook.state_dict()) is not None},
        }
        if self._device.type == "cuda":
            content["dropout_cuda"] = torch.cuda.get_rng_state(self._device)
            content["host"] = self.host.get_state()
        _write(self._checkpoint.file, content)
        self._saved_at = time.monotonic()

    def load(self) -> None:
        """Continue from the training's own file, else from its start; without either, start from scratch.

        Raises:
            DataError: the start cannot be read.
            SearchError: the start is of another network, or of a recipe that differs in more than may change.
        """
        saved = None
        if self._checkpoint.file is not None and self._checkpoint.file.exists():
            saved = _read_checkpoint(self._checkpoint.file, (self._identity, self._earlier_identity))
            self.checkpoint_lost = saved is None
        self.resumed = saved is not None
        if saved is None and self._checkpoint.start is not None:
            saved = _read_start(self._checkpoint.start, self._lineage)
        if saved is not None:
            self._continue_from(saved)

    def _continue_from(self, saved: Mapping[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        adopt(self.optimizer, saved["optimizer"])
        for hook in self.hooks:
            if hook.state_dict() is not None:
                hook.load_state_dict(saved[hook.name])
        self.ordering.set_state(saved["ordering"])
        on_cuda = self._device.type == "cuda"
        if on_cuda == (saved.get("dropout_cuda") is not None):
            self.augmenting.set_state(saved["augmenting"])
            torch.set_rng_state(saved["dropout"])
            if on_cuda:
                torch.cuda.set_rng_state(saved["dropout_cuda"], self._device)
                if "host" in saved:  # version 0.1.0 had none
                    self.host.set_state(saved["host"])
        else:  # a CPU's generator cannot take the state of a GPU's, nor the other way round
            place = f"{saved['progress']['epoch']}/{saved['progress']['position']}"
            self.host.manual_seed(derived_seed(self._seed, f"host/{place}"))  # on a CPU the next line's generator
            self.augmenting.manual_seed(derived_seed(self._seed, f"augment/{place}"))
            torch.manual_seed(derived_seed(self._seed, f"dropout/{place}"))
        costs = self.meter.state_dict()
        self.progress = Progress(**{key: value for key, value in saved["progress"].items() if key not in costs})
        if self.resumed:
            self.schedule.load_state_dict(saved["schedule"])
            self.meter.load_state_dict({key: saved["progress"][key] for key in costs})
            self.late = saved.get("late_until", -math.inf) >= self.meter.until
            return
        # another training has paid for the way here
        self.progress.metrics = {key: 0.0 if key in TRAINING_COSTS else v for key, v in self.progress.metrics.items()}
        if saved["lineage"]["recipe"] != self._lineage["recipe"]:
            self.progress.best, self.progress.stale = -math.inf, 0  # the changed recipe may still improve


def derived_seed(seed: int, purpose: str) -> int:
    """Return the seed of one of several independent generators."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8]) % 2**63


def _write(file: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint whole or not at all: to a temporary name, forced to the disk, then renamed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    with temporary.open("wb") as stream:
        torch.save(dict(content), stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)


def _read_checkpoint(file: Path, identities: Sequence[str]) -> dict[str, Any] | None:
    """Return the content of a training's own checkpoint; None, with a warning, where it cannot be used.

    Args:
        file: the checkpoint.
        identities: those under which this version and earlier ones wrote checkpoints of this training.
    """
    try:
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        saved_identity = saved["identity"]
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).partition("\n")[0]
        log.warning("checkpoint %s cannot be read (%s); the training starts again from its beginning", file, reason)
        return None
    if saved_identity not in identities:
        log.warning("checkpoint %s belongs to another training; this one starts from its beginning", file)
        return None
    return saved


def _read_start(file: Path, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of the checkpoint with which another training ended.

    Args:
        file: the checkpoint.
        lineage: `recipe`, `course` and `network` of this training, as checkpoints hold them.

    Raises:
        DataError: the file cannot be read.
        SearchError: it is of another network or ladder, or of a recipe that differs in more than may change.
    """
    try:
        saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        earlier = saved["lineage"]
    except Exception as error:  # a damaged file can make the unpickler raise anything
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"checkpoint {file} cannot be read: {reason}; run the trial that wrote it again", kind="unreadable"
        ) from error
    if earlier["network"] != lineage["network"]:
        raise SearchError(
            f"checkpoint {file} is of another network; a training resumes only with the same model.* decisions",
            kind="changed",
        )
    if earlier["course"] != lineage["course"]:
        raise SearchError(
            f"checkpoint {file} was trained on another ladder or on other images; use those of the search",
            kind="changed",
        )
    before, now = earlier["recipe"], lineage["recipe"]
    changed = [name for name in {**now, **before} if now.get(name) != before.get(name) and name not in CHANGEABLE]
    if changed:
        changes = ", ".join(f"{name} was {before.get(name, False)!r}, is {now.get(name, False)!r}" for name in changed)
        raise SearchError(
            f"checkpoint {file} cannot be continued: {changes}. "
            f"Change only these during training: {', '.join(sorted(CHANGEABLE))}",
            kind="changed",
        )
    return saved
