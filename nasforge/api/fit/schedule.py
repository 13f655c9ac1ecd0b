"""The schedule of a fit: functions of seconds and counts alone; `nasforge.api.fit.work` measures and calls them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nasforge.core.errors import ConfigError
from nasforge.core.ranges import Range, check_number, check_whole
from nasforge.core.recipe import FEWEST_STEPS

PRESETS = {"quick": 0.6, "balanced": 1.0, "thorough": 1.8}
"""Name -> how long a training in the search is, relative to `balanced`."""

FOLDED = 2000
"""Below this number of images, candidates are compared on folds, else on one validation split."""
TEST_SHARE = 0.2
"""Of all images, where the data bring no test split."""
VALIDATION_SHARE = 0.2
"""Of the other images, where the data bring no validation split."""
IMBALANCED = 3.0
"""Above this ratio of the largest to the smallest class, the balanced accuracy is compared."""
MOST_EPOCHS = 120
LONGER = 6.0
"""Length of a last training for which time is kept, as a multiple of one in the search."""
SPARE = 3.0
"""Longest last training, as a multiple of that one, where time is left over."""
LAST_STEPS = 1800
"""Optimizer steps that it may have however short that one was."""
LAST_EPOCHS = 30
"""Epochs, likewise."""
_OVERHEAD = 1.15
"""Time of validation and the rest of an epoch, in addition to its steps."""
_LATE = 1.5
"""A last training of the fewest epochs may take so much longer than its forecast."""
_OVERRUN = 0.05
"""Share of the whole time that a longer one may take beyond what is left for it."""
_AGAIN = 2.6
"""Two last trainings on all images, relative to one training in the search."""
_LAST = (0.2, 0.65)
"""Least and largest share of the time that is kept for the last trainings, as far as they can use it."""
_BEFORE = 40.0
"""Seconds of a fit of which nothing is kept: start, images, baselines, a first candidate."""
_TIERS = (
    (3, FEWEST_STEPS, 1.0),
    (3, FEWEST_STEPS, 0.5),
    (1, FEWEST_STEPS, 0.5),
    (1, FEWEST_STEPS // 2, 0.25),
    (1, FEWEST_STEPS // 4, 0.1),
)
"""From the longest plan to the shortest: candidates that it has time for, fewest steps of a training, and what share of
its usual length a training has."""
_LEARNT = 1 - VALIDATION_SHARE
"""Share of the images that a training on one split learns from."""
_ENOUGH = 1.3
"""Passes over all images below which the search uses a share of them."""
_PASSES = 3
"""Passes over a share: a training that is late ends with an epoch."""
_CANDIDATE = {True: 0.14, False: 0.07}
"""Whether there are folds -> share of the whole time that one candidate's trainings take."""
BESIDE = 0.25
"""Share of the time for the last trainings that the reference gets, if it is not the winner."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def seconds_of(text: str | float) -> float:
    """`10m`, `90s`, `2h`, or a number of seconds.

    Raises:
        ConfigError: it is no time.
    """
    if not isinstance(text, str) and text in Range(over=0):
        return float(text)
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h|)\s*", str(text).lower())
    if match is None:
        raise ConfigError(
            f"time: got {text!r}, expected a number with its unit; write it like 90s, 10m or 2h",
            kind="type",
            key="time",
        )
    if not float(match[1]):
        raise ConfigError(f"time: got {text!r}, must be above 0, such as 90s, 10m or 2h", kind="range", key="time")
    return float(match[1]) * _UNITS[match[2]]


@dataclass(frozen=True)
class Plan:
    """Plan of the remaining time.

    Attributes:
        folds: on which candidates are compared; 1: on one validation split.
        epochs: of one training in the search: on one fold's images, or on the only split's.
        steps: optimizer steps of it.
        training: seconds of it, as forecast.
        images: to train and validate that the search uses, a stratified share; None: all.
    """

    folds: int
    epochs: int
    steps: int
    training: float
    images: int | None = None

    def __post_init__(self) -> None:
        for name in ("folds", "epochs", "steps"):
            check_whole(getattr(self, name), f"plan: {name}", 1, error=ValueError)
        if self.images is not None:
            check_whole(self.images, "plan: images", 1, error=ValueError)
        check_number(self.training, "plan: training", over=0, error=ValueError)


def end_of(seconds: float) -> float:
    """Seconds that the test split, the export and the report need."""
    return min(10.0 + 0.02 * seconds, 0.25 * seconds)


def search_until(seconds: float, plan: Plan) -> float:
    """Return the end of the search in seconds of the fit; the last trainings follow.

    Args:
        seconds: of the whole fit.
        plan: of the search.
    """
    return seconds - end_of(seconds) - last_of(seconds, plan)


def last_of(seconds: float, plan: Plan) -> float:
    """Return the seconds that are kept for the last trainings.

    A network gains more from a long last training than from a few more candidates, so a short fit keeps most
    of its time.

    Args:
        seconds: of the whole fit.
        plan: of the search.
    """
    least, most = _LAST[0] * seconds, _LAST[1] * max(seconds - _BEFORE, 0.0)
    useful = plan.training * most_epochs(plan.epochs, plan.steps) / plan.epochs
    return max(_AGAIN * plan.training, least, min(most, useful))


def most_epochs(epochs: int, steps: int) -> int:
    """Return the epochs of a last training for which time is kept.

    Args:
        epochs: of a training in the search.
        steps: of it.
    """
    return math.ceil(max(LONGER * epochs, LAST_EPOCHS, LAST_STEPS * epochs / steps))


def baseline_seconds(seconds: float) -> float:
    """Seconds that scikit-learn's models may take."""
    return min(max(3.0, 0.05 * seconds), 0.15 * seconds, 60.0)


def plan_of(
    seconds: float,
    used: float,
    per_step: float,
    images: int,
    batch_size: int,
    folds: Sequence[int],
    preset: str,
    fewest: int = FOLDED,
) -> Plan | None:
    """Return the first plan of `_TIERS`, with most folds, that leaves time for the last trainings.

    The last trainings, of the winner and of the reference, on all images, are at least as long as one in the search.

    Args:
        seconds: of the whole fit.
        used: so far.
        per_step: seconds of one optimizer step, measured.
        images: to train and validate.
        batch_size: images per step.
        folds: numbers of folds that are possible, the largest first; 1 is a single validation split.
        preset: of `PRESETS`.
        fewest: images of a stratified share, at least.

    Returns:
        None: there is too little time for any.
    """
    left = seconds - end_of(seconds) - baseline_seconds(seconds) - used
    for candidates, least, share in _TIERS:
        for count in folds:
            seconds_each = max(least, share * PRESETS[preset] * _CANDIDATE[count > 1] * seconds / count / per_step)
            sample = _sample(seconds_each * batch_size, images, fewest) if count == 1 else None
            learnt = round((sample or images) * (_LEARNT if count == 1 else (count - 1) / count))
            epochs, steps = _length(seconds_each, learnt, batch_size)
            training = steps * per_step * _OVERHEAD
            plan = Plan(count, epochs, steps, training, sample)
            if candidates * count * training + last_of(seconds, plan) <= left:
                return plan
    return None


def _sample(seen: float, images: int, fewest: int) -> int | None:
    """Return the size of the share that a training passes `_PASSES` times; None where it may pass all images.

    Args:
        seen: images that a training sees, with repetition.
        images: to train and validate.
        fewest: images of a share, at least.
    """
    if seen >= _ENOUGH * _LEARNT * images:
        return None
    sample = max(fewest, math.ceil(seen / _PASSES / _LEARNT))
    return sample if sample < images else None


def least_seconds(used: float, per_step: float, images: int, batch_size: int, folds: int) -> float:
    """Seconds of a fit for which there is a plan, about; the arguments are those of `plan_of`."""
    epoch = math.ceil(_LEARNT * images / batch_size)
    training = max(FEWEST_STEPS // 4 + epoch, epoch) * per_step * _OVERHEAD
    return 1.5 * (used + (min(folds, 2) + _AGAIN) * training + 12)


def _length(steps: float, images: int, batch_size: int) -> tuple[int, int]:
    """Epochs and steps of a training of about this many steps."""
    each = max(1, math.ceil(images / batch_size))
    most = max(MOST_EPOCHS, math.ceil(FEWEST_STEPS / each))
    epochs = min(most, max(1, round(steps / each + 0.2)))
    return epochs, epochs * each


def last_epochs(plan: Plan, seconds: float, second_per_epoch: float, fewest: int) -> int:
    """Epochs of the last training: longer than in the search where time is left.

    Args:
        plan: of the search.
        seconds: that are left for it.
        second_per_epoch: of it, on all images.
        fewest: epochs that it has at least.
    """
    affordable = int(seconds / max(second_per_epoch, 1e-9))
    return max(fewest, min(affordable, round(SPARE * most_epochs(plan.epochs, plan.steps))))


def last_share(plan: Plan, seconds: float, second_per_image: float, images: int) -> tuple[int | None, int]:
    """Images and epochs of the last training after a search on a share: at least as long, on as many as time allows.

    Args:
        plan: of the search.
        seconds: that are left for it.
        second_per_image: of it.
        images: all of them.

    Returns:
        The size of the share, None for all images; epochs.
    """
    assert plan.images is not None  # noqa: S101
    seen = seconds / max(second_per_image, 1e-9)
    if seen >= _ENOUGH * images:
        return None, min(round(seen / images), LAST_EPOCHS)
    share = max(plan.images, int(seen / _PASSES))
    return (share, max(plan.epochs, _PASSES)) if share < images else (None, _PASSES)


def last_training_may_take(fewest_epochs: int, allowed: float, seconds: float, second_per_epoch: float) -> float:
    """Seconds after which the last training ends with the epoch, so that the fit keeps its time within a tenth.

    Args:
        fewest_epochs: epochs that the last training has at least.
        allowed: seconds that are left for it.
        seconds: of the whole fit.
        second_per_epoch: as forecast, on all images.
    """
    return max(allowed + _OVERRUN * seconds, _LATE * fewest_epochs * second_per_epoch)


def folds_of(images: int, smallest_class: int) -> int:
    """Most folds on which candidates are compared; 1 for a single validation split."""
    if images >= FOLDED or smallest_class < 2:
        return 1
    return min(5, smallest_class)
