"""Plain sentences about what accuracies show: that nothing was learnt, or that too few images rank the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nasforge.core.errors import NasforgeError
from nasforge.core.image_counts import FEWEST_IMAGES, ImageCounts
from nasforge.core.recipe import FEWEST_STEPS, recipe_of, steps_of
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.experiment.state import State
from nasforge.settings.experiment import TRAININGS
from nasforge.views.rounding import fixed
from nasforge.views.statistics import wilson

_ACCURACY = "val/accuracy"
_COMPARED = 5


def sentences_about(state: State, counts: ImageCounts | None = None) -> list[str]:
    """Return warnings about the trials of a search whose networks were trained on images, most important first.

    Args:
        state: of the search.
        counts: numbers of images, where the journal may lack them as an earlier version began it.
    """
    best, counts = state.best, state.header.image_counts or counts
    if counts is None or best is None or best.architecture is None:
        return []
    if _ACCURACY not in best.metrics or not best.result or not best.result.steps_done:
        return []
    accuracy, steps = best.metrics[_ACCURACY], _steps(best, state, counts.train)
    what = f"{_ACCURACY} of the best trial"
    verdict = nothing_learnt(what, accuracy, counts.validated, counts.constant, steps)
    accuracies = [trial.metrics[_ACCURACY] for trial in state.ranking()[:_COMPARED] if _ACCURACY in trial.metrics]
    coarse = too_coarse(accuracies, counts.validated)
    return [sentence for sentence in (verdict, coarse) if sentence]


def nothing_learnt(what: str, accuracy: float, images: int, constant: float, steps: int | None) -> str:
    """Return a warning where an accuracy may be that of a network that always gives the same answer; else "".

    Args:
        what: the accuracy, as a subject of the sentence.
        accuracy: the share of right answers.
        images: how many it was measured on.
        constant: the accuracy of always answering the largest class.
        steps: optimizer steps of the training; None where they are not known.
    """
    low, high = wilson(accuracy * images, images)
    if low > constant:
        return ""
    sentence = (
        f"Nothing was learnt: {what} is {fixed(accuracy, 4)} on {images:,} images (95 % interval {fixed(low, 4)} to "
        f"{fixed(high, 4)}), and always answering the largest class gives {fixed(constant, 4)}."
    )
    if steps is not None and steps < FEWEST_STEPS:
        count = f"{steps} optimizer step{'s' * (steps > 1)}"
        return f"{sentence} The network trained for {count} only: raise --epochs, or lower train.batch_size."
    return f"{sentence} Try other learning rates, and check the labels."


def too_coarse(accuracies: Sequence[float], images: int) -> str:
    """Return a warning where so few images cannot tell the best trials apart; else "".

    Args:
        accuracies: of the best trials, the best one first.
        images: how many they were validated on.
    """
    if len(accuracies) < 2:
        return ""
    best, spread = accuracies[0], max(accuracies) - min(accuracies)
    error = math.sqrt(best * (1 - best) / images)
    if images >= FEWEST_IMAGES and error <= spread:
        return ""
    differ = f", and the best {len(accuracies)} trials differ by {fixed(spread, 4)}" if spread < error else ""
    low, high = wilson(best * images, images)
    doubt = (
        f"a standard error of {fixed(error, 4)}" if error else f"a 95 % interval of {fixed(low, 4)} to {fixed(high, 4)}"
    )
    return (
        f"The validation split is too coarse to rank the trials: it has {images:,} images, so an accuracy of "
        f"{fixed(best, 4)} has {doubt}{differ}. Use --cv 5, or validate on more images."
    )


def _steps(trial: Trial, state: State, images: int) -> int | None:
    """Return the optimizer steps of a trial's training; None where this version cannot read its recipe."""
    if trial.architecture is None or trial.result is None:
        return None
    config, epochs = state.header.config, trial.result.steps_done
    if config["evaluator"]["name"] in TRAININGS:  # its steps are whole trainings
        epochs = int(config["evaluator"]["options"]["epochs"])
    try:
        recipe = recipe_of(SearchSpace.from_json(config["space"]), trial.architecture, config["recipe"])
    except NasforgeError:
        return None
    return epochs * steps_of(images, recipe)
