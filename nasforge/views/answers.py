"""Answers of a network on the test split: which classes it confuses, and its surest mistakes."""

from __future__ import annotations

import base64
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasforge.core.errors import DataError
from nasforge.core.layout import ANSWERS, BEST
from nasforge.core.paths import file_inside
from nasforge.data.image_file import SUFFIXES, thumbnail
from nasforge.experiment.state import State
from nasforge.views.results import description_of, finalist_in_best

"""Folder of all answers, in the folder of a fit or an experiment."""
MOST_IN_MATRIX = 30
"""Classes of a confusion matrix, at most; for more there are the pairs that are confused most often."""
_MOST_PAIRS = 12
_NEXT_TO_MATRIX = 3
_MOST_MISTAKES = 12
_EDGE = 96
"""Longer edge of a picture on a page, in pixels."""


@dataclass(frozen=True, eq=False)
class StoredAnswers:
    """Answers of one network to each image of the test split.

    Attributes:
        truth: N class numbers.
        probabilities: N x classes.
        ids: N names of images, or their positions in the test split.
        named: whether `ids` are names.
    """

    truth: np.ndarray
    probabilities: np.ndarray
    ids: Sequence[str]
    named: bool

    @property
    def chosen(self) -> np.ndarray:
        """N class numbers, the likeliest ones."""
        chosen: np.ndarray = self.probabilities.argmax(1)
        return chosen


@dataclass(frozen=True)
class Confusion:
    """Counts of the classes that a network takes for others.

    Attributes:
        names: of the classes.
        cells: a row for each class: its name, and for each answer the images and a shade of 0 to 9; empty for more
            than `MOST_IN_MATRIX` classes.
        wrong: images, their class and the answer, the most frequent pairs first.
        images: of the test split.
        right: of them.
    """

    names: Sequence[str]
    cells: Sequence[tuple[str, Sequence[tuple[int, int]]]]
    wrong: Sequence[tuple[int, str, str]]
    images: int
    right: int

    @property
    def listed(self) -> Sequence[tuple[int, str, str]]:
        """Return the pairs of `wrong` that a page lists: all, or a few next to the matrix, which has all."""
        return self.wrong[:_NEXT_TO_MATRIX] if self.cells else self.wrong


@dataclass(frozen=True)
class Mistake:
    """A wrong answer.

    Attributes:
        image: its name, or its place in the test split.
        truth: its class.
        answer: the class that the network names.
        probability: of that answer.
        picture: `data:` address of a small picture; empty where the file of the image is not there.
    """

    image: str
    truth: str
    answer: str
    probability: float
    picture: str = ""


def answers_file(experiment: Path, network: str) -> Path:
    """Return the file with the answers of a retrained network, or of a baseline of a fit."""
    return experiment / ANSWERS / f"{network.replace(' ', '_')}.npz"


def best_answers_file(experiment: Path) -> Path | None:
    """Return the file with the answers of the network in `best/`; None where nothing says which one that is."""
    finalist = finalist_in_best(experiment)
    return answers_file(experiment, finalist) if finalist and Path(finalist).name == finalist else None


def class_names(folder: Path) -> list[str]:
    """Return the classes of the network in `best/`, as its description says; empty where it cannot be read."""
    names = description_of(folder, BEST).get("class_names", [])
    return [str(name) for name in names] if isinstance(names, list) else []


def read_answers(path: Path | None, root: Path) -> StoredAnswers | None:
    """Read the answers of a network; None where there are none, or the file is damaged.

    Args:
        path: the file.
        root: folder of the fit or experiment, which the file must not leave by a link.
    """
    file = None if path is None else file_inside(root, path.absolute())
    if file is None:
        return None
    try:
        with np.load(file, allow_pickle=False) as stored:
            truth = np.asarray(stored["truth"]).astype(int)
            if "probabilities" in stored:
                probabilities = np.asarray(stored["probabilities"], dtype=np.float64)
            else:
                logits = np.asarray(stored["logits"], dtype=np.float64)
                raised = np.exp(logits - logits.max(1, keepdims=True))
                probabilities = raised / raised.sum(1, keepdims=True)
            ids = np.asarray(stored["ids"]) if "ids" in stored else np.arange(len(truth))
    except (OSError, ValueError, LookupError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        return None
    consistent = truth.ndim == ids.ndim == 1 and probabilities.ndim == 2
    consistent = consistent and len(truth) == len(probabilities) == len(ids) > 0
    if not consistent or truth.min() < 0 or truth.max() >= probabilities.shape[1]:
        return None
    return StoredAnswers(truth, probabilities, [str(one) for one in ids], ids.dtype.kind == "U")


def confusion_of(answers: StoredAnswers, names: Sequence[str]) -> Confusion:
    """Count which classes are taken for which.

    Args:
        answers: on the test split.
        names: of the classes; their numbers are shown where there are not as many as classes.
    """
    classes = answers.probabilities.shape[1]
    names = _names(names, classes)
    counts = np.zeros((classes, classes), dtype=int)
    np.add.at(counts, (answers.truth, answers.chosen), 1)
    wrong = [
        (int(counts[truth, taken]), names[truth], names[taken])
        for truth, taken in np.argwhere(counts).tolist()
        if truth != taken
    ]
    wrong.sort(key=lambda pair: -pair[0])
    cells: list[tuple[str, Sequence[tuple[int, int]]]] = []
    if classes <= MOST_IN_MATRIX:
        shades = np.ceil(9 * counts / counts.sum(1, keepdims=True).clip(min=1)).astype(int)
        cells = [
            (names[row], [(int(n), int(shade)) for n, shade in zip(counts[row], shades[row], strict=True)])
            for row in range(classes)
        ]
    return Confusion(names, cells, wrong[:_MOST_PAIRS], len(answers.truth), int(np.trace(counts)))


def surest_mistakes(
    answers: StoredAnswers,
    names: Sequence[str],
    images: Path | None = None,
    picture_of: Callable[[int], str] | None = None,
) -> list[Mistake]:
    """Return the wrong answers with the highest probability, the surest first.

    Args:
        answers: on the test split.
        names: of the classes.
        images: folder that the names of images belong to, where the pictures are taken from; None for no pictures.
        picture_of: returns the `data:` address of a picture by its place in `answers`; None to read it in `images`.
    """
    names = _names(names, answers.probabilities.shape[1])
    certainty = answers.probabilities.max(1)
    wrong = np.flatnonzero(answers.chosen != answers.truth)
    wrong = wrong[np.argsort(-certainty[wrong], kind="stable")][:_MOST_MISTAKES]
    mistakes = []
    for place in wrong.tolist():
        name = answers.ids[place]
        if picture_of is not None:
            picture = picture_of(place)
        else:
            picture = _picture(images, name) if answers.named and images is not None else ""
        mistakes.append(
            Mistake(
                name if answers.named else f"test image {name}",
                names[answers.truth[place]],
                names[answers.chosen[place]],
                float(certainty[place]),
                picture,
            )
        )
    return mistakes


def _names(names: Sequence[str], classes: int) -> Sequence[str]:
    return names if len(names) == classes else [str(number) for number in range(classes)]


def _picture(folder: Path, name: str) -> str:
    """Return a small picture as a `data:` address; empty where the folder has no such image."""
    path = file_inside(folder, name)
    if path is None or path.suffix.lower() not in SUFFIXES:
        return ""
    stream = io.BytesIO()
    try:
        thumbnail(path, _EDGE).save(stream, "JPEG", quality=80)
    except (DataError, OSError, ValueError):  # damaged since: the page needs no picture
        return ""
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def images_folder(state: State) -> Path | None:
    """Return the folder that a search has its images from; None where they come from no folder."""
    data = state.header.config.get("data") or {}
    path = Path(str(data.get("source", "")))
    return path if path.is_absolute() and os.path.isdir(path) else None  # noqa: PTH112  (a Path raises at a long name)
