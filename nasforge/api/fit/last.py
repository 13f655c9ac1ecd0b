"""The last training of a candidate, on all images but those of the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.api.fit.log import FINALISTS
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import last_epochs, last_share, last_training_may_take
from nasforge.api.retrain.networks import Retraining, train_network
from nasforge.core.architecture import Architecture
from nasforge.core.recipe import recipe_of
from nasforge.core.trial import Trial
from nasforge.data import load_data
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
        length = {"epochs": training.epochs} | ({"images": count} if training.data.images else {})
        work.log.write("trained", row=row.name, folder=folder, network=training.name, **length)
    return training.folder, problem


def _retraining(work: Work, state: State, trial: Trial, until: float, allowed: float) -> Retraining:
    config = work.config_of_search()
    assert trial.architecture is not None and trial.result is not None  # noqa: S101
    point: Architecture = trial.architecture
    recipe = recipe_of(config.space, point, config.recipe)
    name = f"{point.arch_id}-{point.point_id[:6]}"
    entry = work.log.last("last_training", network=name, until=until)
    if entry is None:
        per_image = _trained_seconds(trial) / work.folds / work.plan.epochs / len(work.splits[0][0])
        length, latest = _length(work, per_image, allowed)
        earlier = work.log.last("trained", network=name)
        if earlier is not None and _seen(work, earlier) >= _seen(work, length):
            length = {key: earlier.get(key) for key in length}  # a longer one is there already
        deadline = work.log.used + latest
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
        folder=work.folder / FINALISTS / (f"{name}-e{epochs}" + (f"-n{images}" if images else "")),
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


def _trained_seconds(trial: Trial) -> float:
    """Return the seconds of a trial's epochs, without what the last training has not: loading and validation."""
    assert trial.result is not None  # noqa: S101
    reported = trial.steps[-1].metrics if trial.steps else {}
    return reported.get("time/train_s", 0.0) or trial.result.charged.worker_seconds


def _length(work: Work, per_image: float, allowed: float) -> tuple[dict[str, int | None], float]:
    """Return epochs of a last training, the images of a share where it has not all, and the seconds it may take."""
    plan, pool = work.plan, len(work.pool)
    if plan.images is None:
        epochs = last_epochs(plan, allowed, per_image * pool)
        return {"epochs": epochs}, last_training_may_take(plan.epochs, allowed, work.seconds, per_image * pool)
    images, epochs = last_share(plan, allowed, per_image, pool)
    latest = last_training_may_take(plan.epochs, allowed, work.seconds, per_image * plan.images)
    return {"epochs": epochs, "images": images}, latest


def _seen(work: Work, length: Mapping[str, Any]) -> int:
    """Return the images that a last training sees, with repetition."""
    return int(length["epochs"]) * int(length.get("images") or len(work.pool))
