"""Figures of a row with their intervals, and the choice of the winner: the cheapest within the noise of the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasforge.exporters.network_folder import Calibration
from nasforge.tasks.metrics import balanced_accuracy, macro_f1
from nasforge.views.statistics import wilson

_RESAMPLES = 1000


def figures(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """`METRICS` and `loss`, the mean cross-entropy; the balanced accuracy over images of one class is NaN.

    Args:
        truth: N class numbers.
        probabilities: N x classes.
    """
    chosen = probabilities.argmax(1)
    present = np.unique(truth)
    return {
        "accuracy": float((chosen == truth).mean()),
        "balanced_accuracy": balanced_accuracy(truth, chosen) if len(present) > 1 else math.nan,
        "f1_macro": macro_f1(truth, chosen),
        "loss": float(-_log_likelihood(truth, probabilities).mean()),
    }


def intervals(truth: np.ndarray, probabilities: np.ndarray, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of `METRICS`: Wilson's for the accuracy, the others from bootstrap samples of the images.

    Those of a metric that is NaN are NaN, see `figures`.
    """
    chosen = probabilities.argmax(1)
    rng = np.random.default_rng(seed)
    classes = probabilities.shape[1]
    # a bootstrap sample of the images is a multinomial sample of the confusion matrix's cells, of which most may be 0
    cells, counts = np.unique(truth * classes + chosen, return_counts=True)
    samples = rng.multinomial(len(truth), counts / len(truth), size=_RESAMPLES)
    row, column = np.divmod(cells, classes)
    of_truth, of_chosen = _summed(samples, row, classes), _summed(samples, column, classes)
    right = _summed(samples[:, row == column], row[row == column], classes)
    there = of_truth > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = np.where(there, right / of_truth, 0.0).sum(1) / there.sum(1)
        f1 = np.where(there, 2 * right / (of_truth + of_chosen), 0.0).sum(1) / there.sum(1)
    return {
        "accuracy": wilson(int((chosen == truth).sum()), len(truth)),
        "balanced_accuracy": _middle(recall) if len(np.unique(truth)) > 1 else (math.nan, math.nan),
        "f1_macro": _middle(f1),
    }


def _summed(samples: np.ndarray, keys: np.ndarray, classes: int) -> np.ndarray:
    """Return the sums of samples x cells over the cells of every class, samples x classes; `keys` are their classes."""
    sums = np.zeros((len(samples), classes), np.int64)
    order = np.argsort(keys, kind="stable")
    present, starts = np.unique(keys[order], return_index=True)
    if len(present):
        sums[:, present] = np.add.reduceat(samples[:, order], starts, axis=1)
    return sums


def _middle(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def per_image(metric: str, truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the summand of every image to a metric that is larger for better: their mean is the metric.

    Args:
        metric: `accuracy`, `balanced_accuracy`, `f1_macro`, or `loss`, which is then the mean log-likelihood.
        truth: N class numbers.
        probabilities: N x classes.
    """
    if metric == "loss":
        return _log_likelihood(truth, probabilities)
    if metric == "f1_macro":
        return _f1_macro(truth, probabilities.argmax(1), probabilities.shape[1])
    right: np.ndarray = (probabilities.argmax(1) == truth).astype(float)
    if metric == "accuracy":
        return right
    counts = np.bincount(truth, minlength=probabilities.shape[1])
    weighted: np.ndarray = right * len(truth) / (counts[truth] * (counts > 0).sum())
    return weighted


def _f1_macro(truth: np.ndarray, chosen: np.ndarray, classes: int) -> np.ndarray:
    """Return macro F1 plus the influence of every image on it.

    Macro F1 is no mean over images. Its influence values have the mean 0, and the standard error of their differences
    is that of the infinitesimal jackknife ("The Jackknife, the Bootstrap and Other Resampling Plans", Efron 1982,
    https://doi.org/10.1137/1.9781611970319, chapter 6).

    Args:
        truth: N class numbers.
        chosen: N class numbers.
        classes: how many there are; those that `truth` lacks do not count.
    """
    right = chosen == truth
    hits = np.bincount(truth[right], minlength=classes) / len(truth)
    both = (np.bincount(truth, minlength=classes) + np.bincount(chosen, minlength=classes)) / len(truth)
    present = np.bincount(truth, minlength=classes) > 0
    # F1 of class k is 2 h / b, so an image changes it by 2 dh / b - (2 h / b) db / b
    per_unit = np.divide(1.0, both, out=np.zeros(classes), where=present)
    f1 = 2 * hits * per_unit
    change = 2 * right * per_unit[truth] - (f1 * per_unit)[truth] - (f1 * per_unit)[chosen]
    influenced: np.ndarray = (f1.sum() + change) / present.sum()
    return influenced


def _log_likelihood(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    certain: np.ndarray = np.log(np.maximum(probabilities[np.arange(len(truth)), truth].astype(float), 1e-4))
    return certain


@dataclass(frozen=True)
class Choice:
    """Which of some candidates wins.

    Attributes:
        winner: its name.
        best: the name of the one with the best figure.
        behind: how much the winner's figure is below the best.
        error: one standard error of this difference over the same images.
        compared: number of candidates.
    """

    winner: str
    best: str
    behind: float
    error: float
    compared: int


CLEARLY = 2.0
"""Standard errors by which a later candidate of equal cost must be ahead."""


def choose(scores: Mapping[str, np.ndarray], costs: Mapping[str, float]) -> Choice:
    """Return the cheapest candidate within one standard error of the best, paired over the same images.

    Of those that cost as much as the best, the first within `CLEARLY` standard errors is chosen. The portfolio is in
    the order that long trainings have shown, and short ones favour recipes with little regularisation.

    Args:
        scores: name -> `per_image` of the candidate, in the order of their trials; all over the same images.
        costs: name -> multiply-adds.
    """
    best = max(scores, key=lambda name: (scores[name].mean(), -costs[name]))
    near = []
    for place, (name, of_images) in enumerate(scores.items()):
        behind = scores[best] - of_images
        error = float(behind.std(ddof=1) / math.sqrt(len(behind))) if len(behind) > 1 else 0.0
        if behind.mean() <= (CLEARLY if costs[name] == costs[best] else 1) * error:
            near.append((costs[name], place, name, float(behind.mean()), error))
    _, _, winner, behind_by, error = min(near)
    return Choice(winner, best, behind_by, error, len(scores))


def is_ahead(one: np.ndarray, other: np.ndarray) -> bool:
    """Tell whether the mean of `one` is above that of `other` by more than a paired standard error."""
    ahead = one - other
    return bool(ahead.mean() > ahead.std(ddof=1) / math.sqrt(len(ahead)))


def is_constant(truth: np.ndarray, probabilities: np.ndarray) -> bool:
    """Tell whether a network is no better than one that always gives the same answer.

    The lower 95 % bounds decide: of the accuracy against the largest class's share, and of the balanced accuracy
    against 1 / classes. A network that weighs small classes may be below the first and has learnt all the same.
    """
    low = {name: ends[0] for name, ends in intervals(truth, probabilities).items()}
    counts = np.bincount(truth, minlength=probabilities.shape[1])
    if (counts > 0).sum() < 2:
        return False  # images of one class cannot tell
    constant = low["accuracy"] <= counts.max() / len(truth)
    return bool(constant and low["balanced_accuracy"] <= 1 / (counts > 0).sum())


def temperature_of(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the divisor of logits that makes probabilities as sure as they are right.

    "On Calibration of Modern Neural Networks", Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2. Of N
    images the target is 1 - 1 / (N + 2) for the truth, as in "Probabilistic Outputs for Support Vector Machines", Platt
    1999: without a wrong answer among few, 1 would make all answers certain.
    """
    from scipy.optimize import minimize_scalar

    logits = np.log(np.maximum(probabilities.astype(float), 1e-6))
    images, classes = logits.shape
    doubt = 1 / (images + 2)
    targets = np.full((images, classes), doubt / max(1, classes - 1))
    targets[np.arange(images), truth] = 1 - doubt

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        scaled = scaled - scaled.max(1, keepdims=True)
        normalised = scaled - np.log(np.exp(scaled).sum(1, keepdims=True))
        return float(-(targets * normalised).sum(1).mean())

    return float(math.exp(minimize_scalar(loss, bounds=(-2.5, 2.5), method="bounded").x))


def calibrate(truth: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Return the calibration that answers on images ask for that the network was not trained on."""
    temperature = temperature_of(truth, probabilities)
    return Calibration(temperature, unsure_below(truth, calibrated(probabilities, temperature)))


def calibrated(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of logits divided by the temperature."""
    scaled = np.log(np.maximum(probabilities.astype(float), 1e-6)) / temperature
    raised = np.exp(scaled - scaled.max(1, keepdims=True))
    divided: np.ndarray = raised / raised.sum(1, keepdims=True)
    return divided


def unsure_below(truth: np.ndarray, probabilities: np.ndarray, accuracy: float = 0.95) -> float:
    """Return the least probability from which on a share `accuracy` of the answers is right; 0 if all are so good."""
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    order = np.argsort(-sure, kind="stable")
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    ends = np.flatnonzero(np.append(np.diff(sure[order]) != 0, True))  # equal probabilities are on one side
    good = ends[shares[ends] >= accuracy]
    if not len(good):
        return 1.0
    return 0.0 if good[-1] == len(order) - 1 else float(sure[order][good[-1]])


@dataclass(frozen=True)
class Confusion:
    """Images of one class that are taken for another one."""

    truth: int
    taken_for: int
    images: int
    share: float


def confusions(truth: np.ndarray, probabilities: np.ndarray, most: int = 5) -> list[Confusion]:
    """Return the pairs of classes that are confused most often, at least twice each."""
    classes = probabilities.shape[1]
    matrix = np.bincount(truth * classes + probabilities.argmax(1), minlength=classes**2).reshape(classes, classes)
    counts = matrix.sum(1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), classes) for place in order]
    return [Confusion(a, b, int(matrix[a, b]), float(matrix[a, b] / counts[a])) for a, b in pairs if matrix[a, b] > 1]


def doubtful(truth: np.ndarray, answers: Sequence[np.ndarray], most: int = 20) -> list[tuple[int, int, float]]:
    """Images whose label is probably wrong: networks that have not seen them agree on another class.

    "Confident Learning", Northcutt et al. 2019, https://arxiv.org/abs/1911.00068, in its simplest form: the mean
    probability of the other class is above the mean of that class over the images that carry its label.

    Args:
        truth: N class numbers, as the labels say.
        answers: out-of-fold probabilities of several networks, N x classes each.
        most: largest number of them, the surest first.

    Returns:
        (position, likely class, its mean probability).
    """
    mean = np.mean([answer.astype(float) for answer in answers], axis=0)
    chosen = mean.argmax(1)
    usual = np.array([mean[truth == k, k].mean() if (truth == k).any() else 1.0 for k in range(mean.shape[1])])
    rows = np.flatnonzero((chosen != truth) & (mean.max(1) >= np.maximum(usual[chosen], 0.5) - 1e-6))
    rows = rows[np.argsort(-mean[rows].max(1), kind="stable")][:most]
    return [(int(row), int(chosen[row]), float(mean[row, chosen[row]])) for row in rows]
