"""The last training of a candidate, on all images but those of the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import last_epochs, last_share, last_training_may_take
from nasforge.api.retrain.networks import Retraining, train_network
from nasforge.core.architecture import Architecture
from nasforge.core.layout import DESCRIPTION, FINALISTS
from nasforge.core.recipe import recipe_of
from nasforge.core.trial import Trial
from nasforge.data import load_data
from nasforge.exporters.network_folder import description_of
from nasforge.models.costs import costs_of
from nasforge.models.network import build
from nasforge.training.state import EPOCH_CHECKPOINT_S

if TYPE_CHECKING:
    from nasforge.api.fit.work import Work
    from nasforge.experiment.state import State


def train_last(work: Work, state: State, row: Row, until: float, share: float) -> tuple[Path, str]:
    """Train a candidate from scratch on all images except the test split.

    Args:
        state: of the search.
        row: the candidate.
        until: names the choice that this training follows.
        share: of the time that is left.

    Returns:
        The folder of the network, and why the training failed; empty where it is saved.
    """
    assert row.trial is not None  # noqa: S101
    allowed = max(work.seconds - work.end - work.log.used, 0.0) * share
    training = _retraining(work, state, state.trials[row.trial], until, allowed)
    if training.trained:
        return training.folder, ""
    count = training.data.images or len(work.pool)
    work.say(f"last training of {row.name}: {training.epochs} epochs on {count:,} images")
    with work.ends_by(training.name, until):
        problem = train_network(training, work.tick, EPOCH_CHECKPOINT_S)
    if not problem:
        folder = training.folder.relative_to(work.folder).as_posix()
        length = {"epochs": _epochs_done(training.folder), "planned": training.epochs}
        length |= {"images": count} if training.data.images else {}
        work.log.write("trained", row=row.name, folder=folder, network=training.name, **length)
    return training.folder, problem


def _retraining(work: Work, state: State, trial: Trial, until: float, allowed: float) -> Retraining:
    config = work.config_of_search()
    assert trial.architecture is not None and trial.result is not None  # noqa: S101
    point: Architecture = trial.architecture
    recipe = recipe_of(config.space, point, config.recipe)
    name = point.short_id

    def folder_of(epochs: int, images: int | None) -> Path:
        return work.folder / FINALISTS / (f"{name}-e{epochs}" + (f"-n{images}" if images else ""))

    entry = work.log.last("last_training", network=name, until=until)
    if entry is None:
        planned = work.folds * work.plan.epochs * len(work.splits[0][0])
        # as long as in the search, unless there was no time for that already
        fewest = 1 if work.log.last("late", trial=trial.number) else work.plan.epochs
        epochs, images, latest = _length(work, _seconds_per_image(trial, planned), allowed, fewest)
        earlier = work.log.last("trained", network=name)
        if earlier is not None and _seen(work, earlier) >= epochs * (images or len(work.pool)):
            # a longer one is there already, in the folder of the epochs that were planned for it
            epochs, images = earlier.get("planned", earlier["epochs"]), earlier.get("images")
        else:
            while _is_cut(folder_of(epochs, images), epochs):
                epochs += 1  # a training that ran out of time is not this one
        deadline = work.log.used + latest
        length = {"epochs": epochs} | ({"images": images} if images else {})
        entry = work.log.write("last_training", network=name, until=until, deadline=deadline, **length)
    classes, channels = work.pool.classes, work.whole.shape[0]
    costs = costs_of(
        lambda: build(config.space, point, in_channels=channels, classes=classes),
        work.whole.shape,
        recipe.batch_size,
    )
    epochs, images = int(entry["epochs"]), entry.get("images")
    data = replace(work.whole_config, images=images)
    return Retraining(
        name=name,
        folder=folder_of(epochs, images),
        space=config.space,
        architecture=point,
        recipe=recipe,
        seed=work.request.seed,
        epochs=epochs,
        data=data,
        costs=costs,
        device=work.request.device,
        data_hash=load_data(data).fingerprint,
    )


def _epochs_done(folder: Path) -> int:
    """Return the epochs of a network's training, which are fewer than planned where it ran out of time."""
    return int(description_of(folder).trained["epochs"])


def _is_cut(folder: Path, planned: int) -> bool:
    return (folder / DESCRIPTION).is_file() and _epochs_done(folder) < planned


def _seconds_per_image(trial: Trial, planned: int) -> float:
    """Return the seconds that a trial trained, without loading and validation, per image that it saw by then.

    Args:
        trial: a candidate; one that was late saw fewer images than planned.
        planned: images of all its epochs and folds, for trials whose FLOPs were not counted.
    """
    assert trial.result is not None  # noqa: S101
    reported, charged = trial.steps[-1].metrics if trial.steps else {}, trial.result.charged
    seconds = reported.get("time/train_s", 0.0) or charged.worker_seconds
    work = reported.get("work/multiply_adds", 0.0) or charged.multiply_adds
    flops = 3 * trial.costs.get("cost/flops", 0.0)  # forward and backward
    return seconds / (work / flops if work and flops else planned)


def _length(work: Work, per_image: float, allowed: float, fewest: int) -> tuple[int, int | None, float]:
    """Return epochs of a last training, the images of a share (None: all of them), and the seconds it may take."""
    plan, pool = work.plan, len(work.pool)
    if plan.images is None:
        epochs = last_epochs(plan, allowed, per_image * pool, fewest)
        return epochs, None, last_training_may_take(fewest, allowed, work.seconds, per_image * pool)
    images, epochs = last_share(plan, allowed, per_image, pool)
    latest = last_training_may_take(fewest, allowed, work.seconds, per_image * plan.images)
    return epochs, images, latest


def _seen(work: Work, entry: Mapping[str, Any]) -> int:
    """Return the images that a last training has seen, with repetition, from its line in the log."""
    return int(entry["epochs"]) * int(entry.get("images") or len(work.pool))
