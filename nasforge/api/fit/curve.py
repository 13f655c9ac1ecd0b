"""The learning curve: what more photos would give, measured by trainings of the winner on fewer of them.

They run in the time that the last trainings leave over, on the folds of the search; the test split takes no part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nasforge.core.recipe import recipe_of, steps_of
from nasforge.data.division import stratified
from nasforge.data.split import Split
from nasforge.evaluators.training import answers_of
from nasforge.models.network import fresh
from nasforge.training.device import device_of
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import train

if TYPE_CHECKING:
    from nasforge.api.fit.work import Answered, Work
    from nasforge.core.trial import Trial
    from nasforge.experiment.state import State

SHARES = (0.5, 0.25)
"""Of the training images of a fold; the larger one is measured first."""
THOROUGH = "thorough"
"""The preset that keeps time for the curve."""
FEWEST = 60
"""Images that a curve is measured on, at least."""
_RESERVED = 0.1
_OVERHEAD = 1.1
_RESAMPLES = 1000
_STEEPEST = 1.0
"""Largest exponent of the power law: an error in inverse proportion to the number of images."""


@dataclass(frozen=True)
class Point:
    """One point of the curve.

    Attributes:
        share: of a fold's training images.
        images: that the network learnt from, mean over the folds.
        accuracy: on images that it had not seen.
    """

    share: float
    images: int
    accuracy: float


@dataclass(frozen=True)
class Twice:
    """Forecast of the accuracy with twice as many photos.

    Attributes:
        gain: of the accuracy.
        low: lower end of its 95 % interval, from bootstrap samples of the images.
        high: upper end.
    """

    gain: float
    low: float
    high: float


def reserved(preset: str, seconds: float) -> float:
    """Return the seconds of a fit that are kept for the curve before the search ends."""
    return _RESERVED * seconds if preset == THOROUGH else 0.0


def share_of_last(preset: str) -> float:
    """Return the share of the time after the search that the last trainings may take."""
    return 0.6 if preset == THOROUGH else 1.0


def folds_within(seconds: float, training: float, validated: Sequence[int]) -> int:
    """Return the number of folds that can be trained on one share in time; 0 where they are too few to tell anything.

    Args:
        seconds: that are left.
        training: seconds of one training in the search.
        validated: images that each fold validates.
    """
    count = min(len(validated), int(seconds / max(_OVERHEAD * training, 1e-9)))
    return count if sum(validated[:count]) >= FEWEST else 0


def growth(images: Sequence[int], right: Sequence[np.ndarray], seed: int = 0) -> Twice:
    """Forecast the gain from twice the largest number of images by a power law of the error.

    "Deep Learning Scaling is Predictable, Empirically", Hestness et al. 2017, https://arxiv.org/abs/1712.00409.

    Args:
        images: numbers of training images, the largest last.
        right: for each number, which of the same N images were answered right.
        seed: of the bootstrap samples.
    """
    wrong = 1 - np.stack([np.asarray(row, dtype=float) for row in right])
    count = wrong.shape[1]
    samples = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    gain = float(_gains(images, wrong.sum(1)[None], count)[0])
    low, high = np.quantile(_gains(images, samples @ wrong.T, count), [0.025, 0.975])
    return Twice(gain, min(float(low), gain), max(float(high), gain))


def _gains(images: Sequence[int], wrong: np.ndarray, count: int) -> np.ndarray:
    """Gains by counts of wrong answers, S x numbers of images; half an answer is added, so that none is log 0."""
    errors = (wrong + 0.5) / (count + 1)
    at = np.log(np.asarray(images, dtype=float))
    centred = at - at.mean()
    slopes = (np.log(errors) @ centred) / (centred @ centred)
    exponents = np.clip(-slopes, 0.0, _STEEPEST)
    gains: np.ndarray = errors[:, -1] * (1 - 2.0**-exponents)
    return gains


def learning_curve(work: Work, state: State, winner: Answered) -> Mapping[str, Any]:
    """Return `learning_curve` and `twice` of a result; empty where there is no time or the winner is no trial.

    Args:
        work: the fit, after its last trainings.
        state: of the search.
        winner: with its answers on all folds.
    """
    trial = winner.row.trial
    if trial is None:
        return {}
    done = work.log.last("curve", trial=trial)
    if done is None or ("omitted" in done and done["time"] < work.seconds):
        content = _measured(work, state.trials[trial], winner)
        done = work.log.write("curve", trial=trial, time=work.seconds, **content)
    return {key: done[key] for key in ("learning_curve", "twice") if key in done}


def _measured(work: Work, trial: Trial, winner: Answered) -> dict[str, Any]:
    assert trial.result is not None  # noqa: S101  (it has won)
    if work.log.last("late", trial=trial.number):
        return {"omitted": "its trainings in the search ended early, so longer ones on fewer images show nothing"}
    if work.plan.images:
        return {"omitted": "the search used a share of the images, and there are more already"}
    training = trial.result.charged.worker_seconds / work.folds
    known = _known(work, trial)
    end = work.seconds - work.end
    count = folds_within(end - work.log.used, training, [len(asked) for _, asked in work.splits])
    folds = work.splits[: max(count, len({fold for fold, _ in known}))]
    measured = {1.0: [_right(asked, winner, work.places) for _, asked in folds]}
    for share in SHARES:
        missing = [fold for fold in range(len(folds)) if (fold, share) not in known]
        if work.log.used + _OVERHEAD * training * len(missing) > end:
            break
        for fold in missing:
            row = _trained(work, trial, fold, share, end)
            if row is None:
                break
            text = "".join(map(str, row.astype(int).tolist()))
            work.log.write("curved", trial=trial.number, fold=fold, share=share, right=text)
            known[fold, share] = row
        if any((fold, share) not in known for fold in range(len(folds))):
            break
        measured[share] = [known[fold, share] for fold in range(len(folds))]
    if not folds or len(measured) == 1:
        return {"omitted": f"{max(0.0, end - work.log.used):.0f} s are left, and a training takes {training:.0f} s"}
    points, right = [], []
    for share, rows in sorted(measured.items()):
        images = np.mean([len(share_of(split, share, work.request.seed)) for split, _ in folds])
        right.append(np.concatenate(rows))
        points.append(Point(share, round(float(images)), float(right[-1].mean())))
    twice = growth([point.images for point in points], right, work.request.seed)
    return {"learning_curve": [asdict(point) for point in points], "twice": asdict(twice)}


def _known(work: Work, trial: Trial) -> dict[tuple[int, float], np.ndarray]:
    """Return the results of an earlier session: (fold, share) -> which images were predicted correctly."""
    return {
        (entry["fold"], entry["share"]): np.array([letter == "1" for letter in entry["right"]])
        for entry in work.log.entries
        if entry["kind"] == "curved" and entry["trial"] == trial.number
    }


def _right(asked: Split, winner: Answered, places: np.ndarray) -> np.ndarray:
    """Which images of a fold the winner answered right in the search."""
    chosen = winner.probabilities[np.searchsorted(places, asked.index)].argmax(1)
    right: np.ndarray = chosen == asked.labels.numpy()
    return right


def share_of(split: Split, share: float, seed: int) -> Split:
    """Return a stratified share of a split, at least one image a class; a smaller share is within a larger one."""
    rows = stratified(split.labels.numpy(), share, split.classes, np.random.default_rng(seed))
    return split.subset(torch.from_numpy(np.sort(rows)))


def _trained(work: Work, trial: Trial, fold: int, share: float, end: float) -> np.ndarray | None:
    """Which images of a fold are answered right after a training on a share; None where it fails or is late."""
    assert trial.architecture is not None  # noqa: S101
    config = work.config_of_search()
    space, recipe = config.space, recipe_of(config.space, trial.architecture, config.recipe)
    split, asked = work.splits[fold]
    fewer = share_of(split, share, work.request.seed)
    # as many steps as in the search: else the curve would show shorter trainings, not fewer images
    epochs = max(1, round(work.plan.epochs * steps_of(len(split), recipe) / steps_of(len(fewer), recipe)))
    seed, device = work.request.seed + fold, device_of(work.request.device)
    network = fresh(space, trial.architecture, seed, in_channels=work.data.shape[0], classes=split.classes)
    latest = time.monotonic() + end - work.log.used
    try:
        trained = train(
            network,
            fewer,
            recipe,
            epochs=epochs,
            seed=seed,
            device=device,
            on_epoch=lambda epoch, metrics: epoch == epochs or time.monotonic() < latest,
        )
    except TrainingFailed:
        return None
    if trained.stopped:
        return None
    right: np.ndarray = answers_of(network, asked, recipe, device).chosen == asked.labels.numpy()
    return right
