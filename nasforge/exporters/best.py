"""`best/` of an experiment: the network of its best trial, until a retrained one takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nasforge.core.architecture import Architecture
from nasforge.core.command_line import command_for
from nasforge.core.errors import DataError, ExportError, SearchError, one_line
from nasforge.core.layout import BEST
from nasforge.core.recipe import recipe_of
from nasforge.core.space import SearchSpace
from nasforge.core.trial import ENSEMBLE
from nasforge.core.trust import foreign
from nasforge.data import ImageData, load_data
from nasforge.experiment.job import trial_seed
from nasforge.experiment.state import State, load_state
from nasforge.exporters.network_folder import TRAIN_AND_VALIDATION, Description, description_of, save_network
from nasforge.models.ensemble import ensemble_space
from nasforge.models.network import build, without_start
from nasforge.training.artifacts import load_probe, load_weights
from nasforge.training.probe import mismatch


def write_best(folder: Path | str, *, trust: bool = False, state: State | None = None) -> Path:
    """Write `best/` of an experiment from the weights that its best trial left.

    A retrained network of the same point that is there already is better and stays.

    Args:
        folder: `runs/<experiment>`.
        trust: you agree to run the code that its journal names.
        state: of the experiment; None to read its journal.

    Returns:
        The network folder.

    Raises:
        TrustError: the journal names code that you have not agreed to run.
        SearchError: there is no finished trial, or the best one left no weights.
        DataError: the weights or the data are damaged or missing, or the builder makes another network now.
    """
    with foreign(Path(folder).absolute().parent, trust=trust):
        return _write_best(Path(folder), state or load_state(Path(folder)))


def _write_best(folder: Path, state: State) -> Path:
    config = state.config
    trial = state.best
    if trial is None or trial.architecture is None or trial.result is None:
        raise SearchError(f"{folder}: there is no best network: {state.why_no_best}", kind="empty")
    artifact = trial.result.artifacts.get("weights") or trial.result.artifacts.get(ENSEMBLE)
    if artifact is None or config.data is None:
        raise SearchError(
            f"{folder}: the best trial ({trial.number}) has no trained weights. Run: {command_for(folder, 'retrain')}",
            kind="missing",
        )
    best = folder / BEST
    if _is_retrained(best, trial.architecture):
        return best
    data = load_data(config.data)
    tensors = load_weights(folder, artifact)
    space, point = config.space, trial.architecture
    if "weights" not in trial.result.artifacts:  # the models of all folds, as one network
        count = len({key.split(".")[1] for key in tensors})
        space, point = ensemble_space([(config.space, trial.architecture)] * count), Architecture({})
    network = build(space, point, in_channels=data.shape[0], classes=len(data.class_names))
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = one_line(error)
        raise DataError(
            f"{folder / artifact.path}: the weights do not fit trial {trial.number}: {reason}", kind="mismatch"
        ) from None
    if different := mismatch(network, load_probe(folder, artifact), data.shape):
        raise DataError(
            f"{folder / artifact.path}: builder '{config.space.builder}' makes another network now than in trial "
            f"{trial.number} ({different}); use the version of the builder that it was trained with",
            kind="mismatch",
            key="builder",
        )
    recipe = recipe_of(config.space, trial.architecture, config.recipe)
    trained = {
        "trial": trial.number,
        "data": asdict(config.data),
        "epochs": trial.result.steps_done if space is config.space else config.epochs,
        "seed": trial_seed(state.header.seed, trial.number),
        "recipe": asdict(recipe),
        # every image validates one member of such an ensemble, and the others have learnt from it
        **({"parts": TRAIN_AND_VALIDATION} if config.evaluator.name == "cross_validation" else {}),
    }
    return save_network(best, network, describe(space, point, data, trial.metrics, trained))


def _is_retrained(best: Path, architecture: Architecture) -> bool:
    """Return whether `best` holds an undamaged retrained network of this point."""
    try:
        about = description_of(best)
    except ExportError:
        return False
    return "finalist" in about.trained and about.architecture.point_id == architecture.point_id


def describe(
    space: SearchSpace,
    architecture: Architecture,
    data: ImageData,
    metrics: Mapping[str, float],
    trained: Mapping[str, Any],
) -> Description:
    """Return the description of a network trained on `data`."""
    known = {**trained, "data_hash": data.fingerprint}
    space = without_start(space)
    return Description(
        space, architecture, data.shape, data.class_names, data.mean, data.std, metrics, known, data.input
    )
