"""Plain sentences about what accuracies show: that nothing was learnt, or that too few images rank the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nasforge.core.recipe import recipe_of, steps_of
from nasforge.core.trial import Trial
from nasforge.data import load_data
from nasforge.data.split import Split
from nasforge.experiment.state import State
from nasforge.settings.experiment import TRAININGS, ExperimentConfig
from nasforge.views.statistics import wilson

FEWEST_IMAGES = 200
"""Below this number of validation images, the accuracies of good trials differ only by chance."""
FEWEST_STEPS = 300
"""Below this number of optimizer steps, a network has often learnt nothing yet."""
_ACCURACY = "val/accuracy"
_COMPARED = 5
_EVALUATORS = ("training", "shared_weights", *TRAININGS)


def sentences_about(state: State, config: ExperimentConfig) -> list[str]:
    """Return warnings about the trials of a search whose networks were trained on images, most important first."""
    best = state.best
    if config.data is None or config.evaluator.name not in _EVALUATORS or best is None or best.architecture is None:
        return []
    if _ACCURACY not in best.metrics or not best.result or not best.result.steps_done:
        return []
    data = load_data(config.data)
    split = data.validation
    if config.evaluator.name == "cross_validation":
        split = data.train_and_validation()
    steps = _steps(best, config, len(data.train))
    verdict = nothing_learnt(f"{_ACCURACY} of the best trial", best.metrics[_ACCURACY], len(split), split, steps)
    accuracies = [trial.metrics[_ACCURACY] for trial in state.ranking()[:_COMPARED] if _ACCURACY in trial.metrics]
    coarse = too_coarse(accuracies, len(split))
    return [sentence for sentence in (verdict, coarse) if sentence]


def nothing_learnt(what: str, accuracy: float, images: int, labelled: Split, steps: int | None) -> str:
    """Return a warning where an accuracy may be that of a network that always gives the same answer; else "".

    Args:
        what: the accuracy, as a subject of the sentence.
        accuracy: the share of right answers.
        images: how many it was measured on.
        labelled: images that tell how large the classes are.
        steps: optimizer steps of the training; None where they are not known.
    """
    sizes = torch.bincount(labelled.labels, minlength=labelled.classes)
    baseline = max(int(sizes.max()) / max(1, len(labelled)), 1 / labelled.classes)
    low, high = wilson(accuracy * images, images)
    if low > baseline:
        return ""
    sentence = (
        f"Nothing was learnt: {what} is {accuracy:.3f} on {images:,} images (95 % interval {low:.3f} .. {high:.3f}), "
        f"and always answering the largest class gives {baseline:.3f}."
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
    differ = f", and the best {len(accuracies)} trials differ by {spread:.3f}" if spread < error else ""
    return (
        f"The validation split is too coarse to rank the trials: it has {images:,} images, so an accuracy of "
        f"{best:.3f} has a standard error of {error:.3f}{differ}. Use --cv 5, or validate on more images."
    )


def _steps(trial: Trial, config: ExperimentConfig, images: int) -> int | None:
    """Return the optimizer steps of a trial's training."""
    if trial.architecture is None or trial.result is None:
        return None
    epochs = config.epochs if config.trainings > 1 else trial.result.steps_done
    return epochs * steps_of(images, recipe_of(config.space, trial.architecture, config.recipe))
