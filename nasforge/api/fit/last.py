"""The last training of a candidate, on all images but those of the test split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nasforge.api.fit.log import FINALISTS
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import end_of, last_epochs, last_training_may_take
from nasforge.core.architecture import Architecture
from nasforge.core.trial import Trial
from nasforge.costs import costs_of
from nasforge.finalists.networks import Retraining, train_network
from nasforge.models.network import build
from nasforge.training.recipe import recipe_of

if TYPE_CHECKING:
    from nasforge.api.fit.work import Work
    from nasforge.state import State


def train_last(work: Work, state: State, row: Row, until: float, share: float) -> tuple[Path, str]:
    """Train a candidate anew on all images but those of the test split.

    Args:
        state: of the search.
        row: the candidate.
        until: names the choice that this training follows.
        share: of the time that is left.

    Returns:
        The folder of the network, and why the training failed; empty where it is saved.
    """
    assert row.trial is not None  # noqa: S101
    allowed = max(work.seconds - end_of(work.seconds) - work.log.used, 0.0) * share
    training = _retraining(work, state, state.trials[row.trial], until, allowed)
    if training.trained:
        return training.folder, ""
    work.say(f"last training of {row.name}: {training.epochs} epochs on {len(work.pool)} images")
    with work.ends_by(training.name, until):
        problem = train_network(training, work.tick)
    if not problem:
        folder = training.folder.relative_to(work.folder).as_posix()
        work.log.write("trained", row=row.name, folder=folder, network=training.name, epochs=training.epochs)
    return training.folder, problem


def _retraining(work: Work, state: State, trial: Trial, until: float, allowed: float) -> Retraining:
    config = work.config_of_search()
    assert trial.architecture is not None and trial.result is not None  # noqa: S101
    point: Architecture = trial.architecture
    recipe = recipe_of(config.space, point, config.recipe)
    name = f"{point.arch_id}-{point.point_id[:6]}"
    of_fold = trial.result.charged.worker_seconds / work.folds / work.plan.epochs
    per_epoch = of_fold * len(work.pool) / len(work.splits[0][0])
    entry = work.log.last("last_training", network=name, until=until)
    if entry is None:
        epochs = last_epochs(work.plan, allowed, per_epoch)
        earlier = work.log.last("trained", network=name)
        if earlier is not None and earlier["epochs"] >= epochs:
            epochs = int(earlier["epochs"])  # a longer one is there already
        deadline = work.log.used + last_training_may_take(work.plan.epochs, allowed, work.seconds, per_epoch)
        entry = work.log.write("last_training", network=name, until=until, epochs=epochs, deadline=deadline)
    classes, channels = work.pool.classes, work.data.shape[0]
    costs = costs_of(
        lambda: build(config.space, point, in_channels=channels, classes=classes),
        work.data.shape,
        recipe.batch_size,
    )
    epochs = int(entry["epochs"])
    return Retraining(
        name=name,
        folder=work.folder / FINALISTS / f"{name}-e{epochs}",
        space=config.space,
        architecture=point,
        recipe=recipe,
        seed=work.request.seed,
        epochs=epochs,
        data=work.data_config,
        costs=costs,
        device=work.request.device,
        data_hash=work.data.fingerprint,
    )
