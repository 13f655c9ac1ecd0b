"""Baselines without a network: the largest class, and scikit-learn on colour histograms and small pixels.

They show whether a network is worth its cost. A baseline never becomes `best/`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch.nn.functional import adaptive_avg_pool2d

from nasforge.api.fit import judging
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import baseline_seconds
from nasforge.core.metrics import short_name
from nasforge.data.division import at_most
from nasforge.data.npz import write_npz
from nasforge.data.split import Split
from nasforge.views.rounding import fixed

if TYPE_CHECKING:
    from nasforge.api.fit.work import Answered, Work

MAJORITY, FOREST = "largest class", "random forest"
_EDGE = 16
"""Side of the shrunk images, in pixels."""
_BINS = 8
_MOST = 4000
"""Images that a baseline learns from at most: an SVM's time grows with their square."""
_MOST_CLASSES = 100
"""Number of classes above which only the forest is measured: an SVM has a classifier for every pair of them."""
_PIECE = 2048
"""Rows of the SVM's kernel that are in memory at once."""
_TIMED, _TIMED_ASKED, _GROWTH = 1000, 200, 1.5
"""Images that a classifier learns from and answers to be timed; its time grows with this power of their number."""


class SVM:
    """scikit-learn's SVC on standardised features, with its default kernel computed by matrix products.

    libsvm computes the kernel pair by pair. The answers are equal; for 2,000 images and 5,000 questions of 824 features
    it took a tenth of the time (4 s instead of 38 s, one core).
    """

    classes_: np.ndarray

    def __init__(self, seed: int) -> None:
        self._scaler = StandardScaler()
        self._machine = SVC(C=10.0, kernel="precomputed", random_state=seed)

    def fit(self, x: np.ndarray, y: np.ndarray) -> SVM:
        """Learn from `x`, N x features, with classes `y`."""
        self._known = self._scaler.fit_transform(x)
        self._gamma = 1.0 / (self._known.shape[1] * max(float(self._known.var()), 1e-12))  # gamma="scale"
        self._machine.fit(rbf_kernel(self._known, gamma=self._gamma), y)
        self.classes_ = self._machine.classes_
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return the class of each row of `x`."""
        asked = self._scaler.transform(x)
        pieces = [asked[at : at + _PIECE] for at in range(0, len(asked), _PIECE)]
        answers = [self._machine.predict(rbf_kernel(piece, self._known, gamma=self._gamma)) for piece in pieces]
        return np.concatenate(answers)


Make = Callable[[int], object]

MODELS: dict[str, Make] = {
    "SVM": SVM,
    FOREST: lambda seed: RandomForestClassifier(300, random_state=seed, n_jobs=-1),
    "logistic regression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200)),
}
"""Name -> a classifier with scikit-learn's interface."""


def features(split: Split) -> np.ndarray:
    """Small pixels and colour histograms of a split's images, N x features, float32."""
    pieces = []
    for start in range(0, len(split), 1024):
        images = split.take(slice(start, start + 1024))
        pixels = adaptive_avg_pool2d(images.float() / 255, min(_EDGE, *images.shape[2:])).flatten(1)
        pieces.append(np.concatenate([pixels.numpy(), _histograms(images.numpy())], axis=1))
    return np.concatenate(pieces).astype(np.float32)


def _histograms(images: np.ndarray) -> np.ndarray:
    """Share of the pixels in each bin of each channel, and of coloured images in each cell of the colour cube."""
    count, channels = images.shape[:2]
    levels = (images.reshape(count, channels, -1) // (256 // _BINS)).astype(np.int64)
    single = [_counted(levels[:, channel], _BINS) for channel in range(channels)]
    if channels == 3:
        coarse = levels // 2
        single.append(_counted((coarse[:, 0] * 4 + coarse[:, 1]) * 4 + coarse[:, 2], 64))
    rooted: np.ndarray = np.sqrt(np.concatenate(single, axis=1))
    return rooted


def _counted(values: np.ndarray, bins: int) -> np.ndarray:
    rows = np.arange(len(values))[:, None] * bins
    counts = np.bincount((values + rows).ravel(), minlength=len(values) * bins)
    shares: np.ndarray = counts.reshape(len(values), bins) / values.shape[1]
    return shares


def majority(train: Split, asked: Split) -> np.ndarray:
    """Return the classes' shares in `train` for every image of `asked`, N x classes."""
    shares = np.bincount(train.labels.numpy(), minlength=train.classes) / len(train)
    return np.tile(shares, (len(asked), 1))


def answer(make: Make, train: tuple[np.ndarray, np.ndarray], asked: np.ndarray, classes: int, seed: int) -> np.ndarray:
    """Train a classifier on `train` and return its probabilities for `asked`, N x classes.

    Those without probabilities give 1 to the class that they choose, less a little.
    """
    x, y = train
    model = make(seed)
    _fit(model, x, y)
    known = model.classes_  # type: ignore[attr-defined]
    probabilities = np.full((len(asked), classes), 0.01 / classes)
    if hasattr(model, "predict_proba"):
        probabilities[:, known] += 0.99 * model.predict_proba(asked)
    else:
        probabilities[np.arange(len(asked)), model.predict(asked)] += 0.99  # type: ignore[attr-defined]
    divided: np.ndarray = probabilities / probabilities.sum(1, keepdims=True)
    return divided


def _few(train: Split, seed: int) -> Split:
    """Return a sample of the images, as many as a baseline learns from, the same share of every class."""
    if len(train) <= _MOST:
        return train
    return train.subset(torch.from_numpy(at_most(train.labels.numpy(), _MOST, seed)))


def _fit(model: object, x: np.ndarray, y: np.ndarray) -> None:
    with warnings.catch_warnings():  # many classes of few images are what the user has
        warnings.filterwarnings("ignore", "The number of unique classes is greater")
        model.fit(x, y)  # type: ignore[attr-defined]


def _forecast(make: Make, x: np.ndarray, y: np.ndarray, asked: int, seed: int) -> float:
    """Forecast the seconds of a classifier by one that learns from a few images; 0 where all are few."""
    if len(x) < 2 * _TIMED or len(np.unique(y[:_TIMED])) < 2:
        return 0.0
    began = time.monotonic()
    model = make(seed)
    _fit(model, x[:_TIMED], y[:_TIMED])
    fitted = time.monotonic()
    model.predict(x[:_TIMED_ASKED])  # type: ignore[attr-defined]
    answered = (time.monotonic() - fitted) / _TIMED_ASKED * asked
    return float((fitted - began + answered) * (len(x) / _TIMED) ** _GROWTH)


def on_folds(
    splits: Sequence[tuple[Split, Split]], seconds: float, seed: int, tested: int = 0
) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray], float]]:
    """Baseline after baseline: its name, (places of the images, probabilities) over all folds, and its seconds.

    Args:
        splits: what is trained on and what is asked, disjoint over the folds.
        seconds: those for which the first fold says that all would take longer are left out.
        seed: of what is random in them.
        tested: images of the test split, which must be answered in this time too.
    """
    places = np.concatenate([asked.index for _, asked in splits])
    yield MAJORITY, (places, np.concatenate([majority(train, asked) for train, asked in splits])), 0.0
    end = time.monotonic() + seconds
    taught = [_few(train, seed) for train, _ in splits]
    known = [(features(train), features(asked)) for train, (_, asked) in zip(taught, splits, strict=True)]
    for name, make in MODELS.items():
        if taught[0].classes > _MOST_CLASSES and name != FOREST:
            continue
        began = time.monotonic()
        if _forecast(make, known[0][0], taught[0].labels.numpy(), max(len(known[0][1]), tested), seed) > end - began:
            continue
        answers = []
        for train, (x, asked) in zip(taught, known, strict=True):
            answers.append(answer(make, (x, train.labels.numpy()), asked, train.classes, seed))
            left = len(splits) - len(answers)
            if time.monotonic() + left * (time.monotonic() - began) / len(answers) > end:
                break
        if len(answers) == len(splits):
            yield name, (places, np.concatenate(answers)), time.monotonic() - began


class OnTest:
    """The baselines, taught by all images but those of the test split; features are computed once for all of them."""

    def __init__(self, train: Split, seed: int) -> None:
        """Take the images to learn from; nothing is computed yet."""
        self._train, self._seed = train, seed
        self._features_of_test: tuple[Split, np.ndarray] | None = None

    @cached_property
    def _taught(self) -> Split:
        return _few(self._train, self._seed)

    @cached_property
    def _known(self) -> np.ndarray:
        return features(self._taught)

    def answers(self, name: str, test: Split) -> np.ndarray:
        """Train a baseline and return its probabilities for the test split, N x classes."""
        if name == MAJORITY:
            return majority(self._train, test)
        if self._features_of_test is None or self._features_of_test[0] is not test:
            self._features_of_test = (test, features(test))
        known = (self._known, self._taught.labels.numpy())
        return answer(MODELS[name], known, self._features_of_test[1], self._taught.classes, self._seed)


def measure_baselines(work: Work) -> list[Answered]:
    """Return the largest class and scikit-learn's models, on the same folds as the networks."""
    kept = work.folder / "yardsticks.npz"
    if not work.log.last("yardsticks"):
        kept_answers: dict[str, np.ndarray] = {}
        rows = []
        allowed = baseline_seconds(work.seconds)
        for name, (places, probabilities), seconds in on_folds(
            work.splits, allowed, work.request.seed, work.data.test_images
        ):
            kept_answers[name] = work.in_order(places, probabilities)
            kind = "majority" if name == MAJORITY else "sklearn"
            rows.append({"name": name, "kind": kind, "seconds": seconds})
        write_npz(kept, kept_answers)
        work.log.write("yardsticks", rows=rows)
        values = {
            name: judging.figures(work.truth, answers)[work.shown_metric] for name, answers in kept_answers.items()
        }
        best = max(values, key=lambda name: values[name])
        work.say(f"best baseline: {best}, {short_name(work.shown_metric)} {fixed(values[best], 4)}")
    entry = work.log.last("yardsticks")
    assert entry is not None  # noqa: S101
    with np.load(kept, allow_pickle=False) as file:
        return [work.answered(Row(val={}, **about), file[about["name"]]) for about in entry["rows"]]
