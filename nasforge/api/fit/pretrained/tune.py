"""Fine-tuning of a pretrained network that has a linear classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from timm.layers import freeze_batch_norm_2d, unfreeze_batch_norm_2d

from nasforge.api.fit.pretrained.probe import BATCH, Head
from nasforge.core.recipe import Recipe
from nasforge.data import Split
from nasforge.exporters.network_folder import Calibration, Network, load, save_network
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import train
from nasforge.training.state import EPOCH_CHECKPOINT_S, Checkpoint

_TRAINING = 3.5
"""Seconds of a training step relative to a forward pass of the same images, with the optimizer."""
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 15


def recipe_of_tuning(edge: int, *, balanced: bool) -> Recipe:
    """Return how a network is fine-tuned for images of `edge` pixels."""
    return Recipe(
        optimizer="adamw",
        learning_rate=1e-4,
        weight_decay=0.05,
        batch_size=BATCH,
        keep_last_batch=True,
        schedule="one_cycle",
        crop_pixels=edge // 16,
        label_smoothing=0.1,
        class_weights="balanced" if balanced else "none",
    )


def epochs_of_tuning(seconds: float, second_per_image: float, first: int, pool: int) -> int:
    """Return the epochs for which a network is fine-tuned on `first` images and again on `pool`; 0: there is no time.

    Args:
        seconds: for both trainings.
        second_per_image: of a forward pass.
        first: images of the training that shows whether it helps.
        pool: images of the training whose network is kept.
    """
    epochs = int(seconds / (_TRAINING * second_per_image * (first + pool)))
    return min(epochs, _MOST_EPOCHS) if epochs >= _FEWEST_EPOCHS else 0


def tuned(
    folder: Path,
    split: Split,
    recipe: Recipe,
    epochs: int,
    *,
    head: Head | None,
    seed: int,
    device: torch.device,
    checkpoint: Path | None,
    tick: Callable[[], object],
) -> Network | None:
    """Return the network of `folder`, trained on a split; None if it diverged or met its deadline.

    Batch normalisation keeps its statistics and weights: the classifier has learnt from features computed by these.

    Args:
        folder: of the probed network.
        split: to train on.
        recipe: how.
        epochs: how long.
        head: the classifier to begin with; None: the one in the folder.
        seed: of order and augmentation.
        device: where.
        checkpoint: file to continue from; None: it starts again after an interruption.
        tick: called after every epoch.
    """
    network = load(folder)
    about = network.description
    if head is not None:
        head.put_into(network.body)

    def on_epoch(*_: object) -> bool:
        tick()
        return True

    body = freeze_batch_norm_2d(network.body)
    try:
        done = train(
            body.train(),
            replace(split, mean=about.mean, std=about.std),
            recipe,
            epochs=epochs,
            seed=seed,
            device=device,
            checkpoint=Checkpoint(checkpoint, epoch_s=EPOCH_CHECKPOINT_S),
            on_epoch=on_epoch,
            fresh=False,
        )
    except TrainingFailed:
        return None
    network.body = unfreeze_batch_norm_2d(body)
    return network.eval() if done.steps_done == epochs else None


def save_tuned(folder: Path, network: Network, recipe: Recipe, epochs: int, calibration: Calibration | None) -> Path:
    """Keep a fine-tuned network in a folder, with the calibration of its answers."""
    about = network.description
    trained = {**about.trained, "recipe": asdict(recipe), "epochs": epochs}
    return save_network(folder, network, replace(about, trained=trained, calibration=calibration))
