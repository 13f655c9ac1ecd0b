"""A fit at work: images, splits, and how candidates are trained and compared. Other modules are its phases."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from nasforge.api.fit.curve import reserved
from nasforge.api.fit.log import FitLog, Request
from nasforge.api.fit.pretrained.weights import backbones_of
from nasforge.api.fit.rows import Row, metrics_of
from nasforge.api.fit.schedule import (
    FOLDED,
    IMBALANCED,
    TEST_SHARE,
    VALIDATION_SHARE,
    Plan,
    end_of,
    folds_of,
    least_seconds,
    plan_of,
    search_until,
)
from nasforge.api.fit.search import config_of
from nasforge.api.fit.speed import fastest_threads
from nasforge.api.inspect import Inspection, inspect
from nasforge.api.prepare import FILE, RESOLUTIONS, prepare, suggested_resolution
from nasforge.core.errors import ConfigError, DataError, JournalError
from nasforge.core.image_counts import FEWEST_IMAGES
from nasforge.core.layout import FIT, SEARCH
from nasforge.core.recipe import recipe_of
from nasforge.core.say import Say
from nasforge.core.space import SearchSpace
from nasforge.data import ImageData, Split, load_data
from nasforge.evaluators.cross_validation import in_folds
from nasforge.experiment.journal import has_begun
from nasforge.models.network import fresh
from nasforge.settings.experiment import DataConfig, ExperimentConfig
from nasforge.training.device import device_of
from nasforge.training.meter import trainings_end_by
from nasforge.views.fit_remarks import sentences_on
from nasforge.views.texts import seconds_text

_TICK_S = 10.0
_USUAL_BATCH = 32
_OF_CLASS = 20
"""Images of a class in a stratified share, at least, in the mean."""
_LOOK = 0.08
"""Share of the time that the look at the images may take; to decode them takes as long again."""
_MOST_TESTING = 10_000
"""Images that are sealed away as the test split, at most."""


@dataclass(frozen=True)
class Answered:
    """A row and its answers on the images that candidates are compared on, in the order of `Work.places`."""

    row: Row
    probabilities: np.ndarray


class Work:
    """A fit at work; its properties are what the log and the files say."""

    def __init__(self, log: FitLog, request: Request, seconds: float, tracking_uri: str | None, say: Say) -> None:
        """Take the open log.

        Args:
            log: of the fit.
            request: what is asked for.
            seconds: of the whole fit, all sessions together.
            tracking_uri: of MLflow.
            say: takes a line for the user.
        """
        self.log, self.request, self.seconds, self.say = log, request, seconds, say
        self.folder = log.folder
        self.tracking_uri = tracking_uri

    def prepare(self) -> None:
        """Inspect the images, decide their size, decode them once."""
        if self.log.last("prepared"):
            return
        asked = self.request
        inspection = inspect(
            asked.source,
            labels=asked.labels,
            image_column=asked.image_column,
            label_column=asked.label_column,
            group_column=asked.group_column,
            strict=asked.strict,
            seconds=_LOOK * self.seconds,
        )
        self.log.write("inspected", inspection=inspection.to_json())
        for line in self.inspection_lines:
            self.say(line)
        resolution = self.decide("resolution", lambda: self._resolution(inspection))
        validation = VALIDATION_SHARE  # also where folds are used: `prepare` keeps groups on one side
        if inspection.images >= FOLDED / (1.0 if "test" in inspection.parts else 1 - TEST_SHARE):
            validation = min(VALIDATION_SHARE, max(0.1, FEWEST_IMAGES / inspection.images))
        test = min(TEST_SHARE, _MOST_TESTING / inspection.images)
        prepare(inspection, self.folder / "data", resolution, test=test, validation=validation, seed=asked.seed)
        self.log.write("prepared")

    def decide(self, name: str, make: Callable[[], tuple[Any, str]]) -> Any:
        """Return a decision: read back from the log, or taken from the given plan, or made."""
        plan = self.request.plan or {}
        return self.log.decide(name, (lambda: (plan[name], "as the plan says")) if name in plan else make, self.say)

    def _resolution(self, inspection: Inspection) -> tuple[int, str]:
        size = suggested_resolution(inspection, self.seconds)
        median = inspection.shorter_side[1]
        larger = [other for other in RESOLUTIONS if size < other <= median]
        time_decides = f", and {larger[0]} would take too long to train" if larger else ""
        return size, f"the median shorter side is {median} pixels{time_decides}"

    @cached_property
    def inspection(self) -> Mapping[str, Any]:
        """The inspection, JSON-able."""
        entry = self.log.last("inspected")
        assert entry is not None  # noqa: S101  (`prepare` has been called)
        content: Mapping[str, Any] = entry["inspection"]
        return content

    @property
    def inspection_lines(self) -> list[str]:
        """The inspection in sentences."""
        return sentences_on(self.inspection)

    @cached_property
    def whole_config(self) -> DataConfig:
        """Of all decoded images."""
        return DataConfig(str(self.folder / "data" / FILE), validation=VALIDATION_SHARE, seed=self.request.seed)

    @cached_property
    def whole(self) -> ImageData:
        """All decoded images, the test split sealed."""
        return load_data(self.whole_config)

    @cached_property
    def pool(self) -> Split:
        """All images but those of the test split."""
        return self.whole.train_and_validation()

    @cached_property
    def data_config(self) -> DataConfig:
        """Of the images that candidates are trained and compared on: all, or a stratified share of them."""
        return replace(self.whole_config, images=self.plan.images)

    @cached_property
    def data(self) -> ImageData:
        """The images of `data_config`; its test split is that of `whole`."""
        return load_data(self.data_config)

    @cached_property
    def files(self) -> list[str]:
        """Names of the images, by their places in the source."""
        with np.load(self.data_config.source, allow_pickle=False) as arrays:
            return [str(name) for name in arrays["files"]]

    @cached_property
    def sample(self) -> Split:
        """The images of `pool` that the search uses: all, or a stratified share."""
        return self.data.train_and_validation()

    @cached_property
    def plan(self) -> Plan:
        """Plan by which candidates are trained and compared."""
        try:
            plan = Plan(**self.training_decision["plan"])
            # a plan may be another fit's, with more images
            return replace(plan, images=None) if plan.images and plan.images >= len(self.pool) else plan
        except (TypeError, ValueError, KeyError) as error:
            raise JournalError(
                f"{self.folder / FIT}: the decision 'trainings' is corrupt ({error}). Restore the file from a backup, "
                "or use another --name",
                kind="unreadable",
            ) from None

    @cached_property
    def possible_folds(self) -> tuple[int, ...]:
        """Numbers of folds with every class in each and every group in one, the largest first; 1: none is possible."""
        if "validation" in self.inspection["parts"] or len(self.pool) >= FOLDED:
            return (1,)
        smallest = int(self.pool.labels.bincount(minlength=self.pool.classes).min())
        most = folds_of(len(self.pool), smallest)
        counts = []
        for count in sorted({most, min(3, most), 2} - {1}, reverse=True) if most > 1 else ():
            with suppress(DataError):
                in_folds(self.whole, count, self.whole_config)
                counts.append(count)
        return tuple(counts) or (1,)

    @property
    def folds(self) -> int:
        """Number of folds that candidates are compared on; 1: the validation split."""
        return self.plan.folds

    @cached_property
    def training_decision(self) -> Mapping[str, Any]:
        """The decision on trainings: `plan`, `threads`, `second_per_step`."""
        value: Mapping[str, Any] = self.decide("trainings", self._planned)
        return value

    @property
    def until(self) -> float:
        """The end of the search in seconds of the fit; it follows the time of this call, folds and epochs do not."""
        late = self.end - end_of(self.seconds)
        return search_until(self.seconds, self.plan) - reserved(self.request.preset, self.seconds) - late

    @property
    def end(self) -> float:
        """Seconds that are kept for the test split, the export and the report; many test images need more of them."""
        testing = _testing(self.whole, float(self.training_decision["second_per_step"]))
        if entry := self.log.last("yardsticks"):
            testing += sum(row["seconds"] for row in entry["rows"]) / self.folds
        return max(end_of(self.seconds), end_of(self.seconds) / 2 + testing)

    def _planned(self) -> tuple[dict[str, Any], str]:
        """Measure the speed of the space's default network, and plan by it."""
        config = config_of(self, epochs=1, folds=1)
        point = config.space.default_point()
        recipe = recipe_of(config.space, point, config.recipe)
        split = self.whole.train
        network = fresh(config.space, point, 0, in_channels=self.whole.shape[0], classes=split.classes)
        threads, per_step = fastest_threads(network, split, recipe, device_of(self.request.device))
        folds = self.possible_folds
        used = self.log.used + max(0.0, _testing(self.whole, per_step) - end_of(self.seconds) / 2)
        fewest = max(FOLDED, _OF_CLASS * split.classes)
        plan = plan_of(
            self.seconds, used, per_step, len(self.pool), recipe.batch_size, folds, self.request.preset, fewest
        )
        if plan is None:
            least_images = min(len(self.pool), fewest)
            least = (
                math.ceil(least_seconds(self.log.used, per_step, least_images, recipe.batch_size, folds[0]) / 10) * 10
            )
            self.log.write("refused")
            raise ConfigError(
                f"time: {seconds_text(self.seconds)} is too short here: the start and the images have taken "
                f"{seconds_text(self.log.used)}, one step of the default network takes {per_step * 1000:.0f} ms, and "
                f"a network needs some hundreds of steps. Give --time {least}s at least",
                kind="range",
                key="time",
            )
        where = f"on {plan.folds} folds" if plan.folds > 1 else "on one validation split"
        if plan.images:
            where += f", with {plan.images:,} of {len(self.pool):,} images"
        about = {key: setting for key, setting in asdict(plan).items() if setting is not None}
        value = {"plan": about, "threads": threads, "second_per_step": per_step}
        return value, (
            f"{plan.epochs} epoch{'s' if plan.epochs > 1 else ''} {where}: {plan.steps} steps of "
            f"{per_step * 1000:.0f} ms, about {seconds_text(plan.training)} each"
        )

    @cached_property
    def splits(self) -> list[tuple[Split, Split]]:
        """Pairs of the images to train on and the images to validate on."""
        if self.folds == 1:
            return [(self.data.train, self.data.validation)]
        try:
            return in_folds(self.data, self.folds, self.data_config)
        except DataError as error:
            if "trainings" not in (self.request.plan or {}):
                raise
            raise ConfigError(
                f"plan: trainings.folds is {self.folds}, too many for these images ({error}). Delete all of trainings "
                "in the plan, and this fit decides it again",
                kind="range",
                key="trainings.folds",
            ) from None

    @cached_property
    def places(self) -> np.ndarray:
        """The images that candidates are compared on, by their places in the source, sorted."""
        return np.sort(np.concatenate([asked.index for _, asked in self.splits]))

    @cached_property
    def truth(self) -> np.ndarray:
        """Their classes."""
        known = dict(zip(self.pool.index.tolist(), self.pool.labels.tolist(), strict=True))
        return np.array([known[place] for place in self.places.tolist()])

    @cached_property
    def metric(self) -> str:
        """The metric by which candidates are compared: `accuracy`, `balanced_accuracy`, `f1_macro` or `loss`."""

        def decided() -> tuple[str, str]:
            if self.request.objective:
                return self.request.objective.rpartition("/")[2], "as you set it"
            split = self.pool if self.possible_folds[0] > 1 else self.whole.validation
            if len(split) < FEWEST_IMAGES:
                return "loss", f"accuracies on {len(split)} images are too coarse to compare"
            if self.imbalance > IMBALANCED:
                return (
                    "balanced_accuracy",
                    f"the largest class has {self.imbalance:.1f} times the images of the smallest",
                )
            return "accuracy", "the classes are of similar size"

        metric: str = self.decide("metric", decided)
        return metric

    @cached_property
    def imbalance(self) -> float:
        """Images of the largest class of the pool divided by those of its smallest."""
        counts = self.pool.labels.bincount()
        return float(counts.max() / max(1, int(counts[counts > 0].min())))

    @cached_property
    def class_weights(self) -> str | None:
        """The setting of the first candidates where the search decides it; None: one rule is for all candidates."""
        if not self.log.last("decision", name="class_weights") and has_begun(self.folder / SEARCH):
            return None  # the search began with an older version
        if self.imbalance <= IMBALANCED and "class_weights" not in (self.request.plan or {}):
            return None
        value = "balanced" if self.balanced else "none"
        why = f"the largest class has {self.imbalance:.1f} times the images of the smallest"
        reason = f"for the first candidates; the search tries both, as {why}"
        chosen: str = self.decide("class_weights", lambda: (value, reason))
        return chosen

    @property
    def balanced(self) -> bool:
        """True if classes of unequal size weigh the same."""
        return self.metric in ("balanced_accuracy", "f1_macro")

    @property
    def shown_metric(self) -> str:
        """The metric that lines on the screen name: shares say more than a log loss."""
        return "accuracy" if self.metric == "loss" else self.metric

    @cached_property
    def backbones(self) -> Mapping[str, str]:
        """The pretrained networks that take part: timm's name -> file of weights."""
        if not self.log.last("decision", name="pretrained") and (self.log.last("trial") or self.log.last("searched")):
            return {}  # the search began with an older version
        asked = self.request
        return self.log.decide(
            "pretrained", lambda: backbones_of(asked.weights, asked.backbone, asked.pretrained, self.say), self.say
        )

    def config_of_search(self) -> ExperimentConfig:
        """Return the configuration by which candidates are trained."""
        return config_of(self, epochs=self.plan.epochs)

    @cached_property
    def space(self) -> SearchSpace:
        """The space of the search, resolved for these images."""
        return self.config_of_search().space

    def in_order(self, places: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
        """Answers in the order of `places`."""
        ordered: np.ndarray = probabilities[np.argsort(places)]
        return ordered

    def answered(self, row: Row, probabilities: np.ndarray) -> Answered:
        """Return a row with its metrics by its answers, which are in the order of `places`."""
        return Answered(replace(row, val=metrics_of(self.truth, probabilities)), probabilities)

    def ends_by(self, network: str, until: float) -> AbstractContextManager[None]:
        """Give the trainings of a block the deadline that the log has for a network's last training."""
        entry = self.log.last("last_training", network=network, until=until)
        assert entry is not None  # noqa: S101  (it is written before)
        end = time.monotonic() + max(float(entry["deadline"]) - self.log.used, 1.0)
        return trainings_end_by(lambda: end, until)

    @cached_property
    def tick(self) -> Callable[..., None]:
        """Called during a training, it writes a line now and then: a kill must not make the seconds forgotten."""
        seen = [time.monotonic()]

        def tick(*_: object) -> None:
            if time.monotonic() - seen[0] > _TICK_S:
                seen[0] = time.monotonic()
                self.log.write("tick")

        return tick


def _testing(data: ImageData, per_step: float) -> float:
    """Forecast the seconds in which two networks answer the test split: a forward pass is a third of a step."""
    return 2 * data.test_images * per_step / _USUAL_BATCH / 3


@contextmanager
def phase(log: FitLog, name: str) -> Iterator[None]:
    """Write down how long a phase took."""
    before = log.used
    yield
    log.write("phase", name=name, seconds=round(log.used - before, 2))
