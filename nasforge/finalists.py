"""After the search: retrain the best from scratch, measure each once on the sealed test part, keep the first."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasforge.config import DataConfig, ExperimentConfig
from nasforge.core.architecture import Architecture
from nasforge.core.errors import ExportError, JournalError, SearchError
from nasforge.core.protocols import Pick, Tracker
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.costs import costs_of
from nasforge.data import ImageData, load_data
from nasforge.experiment import Experiment, reopen
from nasforge.exporters.best import config_of, describe, write_best
from nasforge.exporters.network_folder import DESCRIPTION, TRAIN_AND_VALIDATION, load, save_network
from nasforge.models.network import build
from nasforge.models.reference import resnet, resnet_of_flops
from nasforge.state import State, load_state
from nasforge.training.device import device_of
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import train
from nasforge.training.recipe import Recipe, recipe_of
from nasforge.training.scoring import score

__all__ = ["Finalist", "Retrained", "Spread", "build_reference", "retrain", "write_best"]

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Told (name of the network being retrained, epochs done, epochs in all, metrics)."""


@dataclass(frozen=True)
class Spread:
    """One metric over the seeds.

    Attributes:
        mean: over the seeds.
        std: sample standard deviation; None with one seed, which says nothing of the spread.
        n: number of seeds.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Retrained:
    """A network retrained from scratch with several seeds.

    Attributes:
        name: `arch_id` of a finalist, or the reference's name.
        networks: names of the retrained networks, one per seed; each has a folder in `finalists/`.
        costs: `cost/params`, `cost/flops`, `cost/memory_mb`.
        test: `test/accuracy`, `test/loss`, `test/f1_macro` over the seeds.
        failures: why some seeds have no figures, in words.
    """

    name: str
    networks: tuple[str, ...]
    costs: Mapping[str, float]
    test: Mapping[str, Spread]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finalist:
    """One of the best of a search, retrained, and a ResNet of about its FLOPs retrained by the same recipe and seeds.

    Attributes:
        rank: from 1.
        number: its trial.
        architecture: the point.
        epochs: of every retraining.
        found: the trial's metrics in the search.
        retrained: the finalist's own figures.
        reference: the ResNet's.
    """

    rank: int
    number: int
    architecture: Architecture
    epochs: int
    found: Mapping[str, float]
    retrained: Retrained
    reference: Retrained

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {
            "rank": self.rank,
            "number": self.number,
            "arch_id": self.architecture.arch_id,
            "architecture": self.architecture.to_json(),
            "epochs": self.epochs,
            "found": dict(self.found),
            "retrained": asdict(self.retrained),
            "reference": asdict(self.reference),
        }


def retrain(
    folder: Path | str,
    *,
    top: int = 1,
    seeds: int = 2,
    epochs: int | None = None,
    device: str = "auto",
    progress: Progress = lambda name, epoch, epochs, metrics: None,
    trackers: Sequence[Tracker] = (),
) -> list[Finalist]:
    """Retrain the best architectures of a search and measure each retrained network on the sealed test part, once.

    Each is trained from scratch on all train and validation images (also those that the setting `images` kept from the
    search), its last epoch is kept: nothing is selected. The same call continues after an interruption; what has met
    the test part is neither trained nor measured again. The first seed of the best becomes `best/`.

    Args:
        folder: `runs/<experiment>`.
        top: how many: of the ranking, or with several objectives of the Pareto front first.
        seeds: trainings of each.
        epochs: of each training; three times the search's longest where left out.
        device: `auto`, `cpu`, `cuda`...
        progress: told after every epoch.
        trackers: told of every opening of the test part.

    Returns:
        Best first, each beside its reference.

    Raises:
        SearchError: nothing to retrain, or no training of the best succeeded.
        JournalError: the experiment is running, or its data have changed.
        DataError: the data cannot be loaded.
    """
    folder = Path(folder)
    for name, number in (("top", top), ("seeds", seeds), ("epochs", 1 if epochs is None else epochs)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise SearchError(f"retrain: {name} must be a whole number of at least 1, got {number!r}")
    state = load_state(folder)
    config = config_of(folder, state)
    if config.data is None or not config.space.builder:
        raise SearchError(f"{folder}: this search trained no networks on images, there is nothing to retrain")
    chosen = _top(state, top)
    if not chosen:
        counts = ", ".join(f"{count} {status}" for status, count in state.counts().items() if count)
        raise SearchError(f"{folder}: no finished trial to retrain ({counts or 'no trials'}); continue the search")
    place = device_of(device)
    if state.header.data_hash not in ("", load_data(config.data).fingerprint):
        raise JournalError(f"{folder}: the data have changed since the search; a comparison with it would mean nothing")
    with reopen(folder, trackers) as experiment:
        whole = replace(config.data, images=None)
        data = load_data(whole)
        length = epochs or 3 * config.ladder[-1].epochs
        work = _Retraining(experiment, whole, data, length, seeds, place, progress)
        finalists = [work.finalist(rank, trial, config) for rank, trial in enumerate(chosen, 1)]
        _keep_best(folder, finalists[0])
    return finalists


def build_reference(pick: Pick, *, in_channels: int, classes: int, depth: int, width: int) -> nn.Module:
    """Builder of a ResNet of given depth and width, so that references are network folders like finalists."""
    return resnet(depth, width, in_channels=in_channels, classes=classes)


@dataclass(frozen=True)
class _Retraining:
    """What all trainings of one `retrain` share."""

    experiment: Experiment
    config: DataConfig
    data: ImageData
    epochs: int
    seeds: int
    device: torch.device
    progress: Progress

    def finalist(self, rank: int, trial: Trial, config: ExperimentConfig) -> Finalist:
        """Retrain one trial's network and its reference."""
        architecture = trial.architecture
        assert architecture is not None  # noqa: S101  (only measures are ranked)
        recipe = recipe_of(config.space, architecture, config.recipe)
        point = architecture.point_id[:6]
        name = f"{architecture.arch_id}-{point}"
        retrained = self._all_seeds(architecture.arch_id, name, config.space, architecture, recipe)
        reference_name, reference_space = self._reference(retrained.costs["cost/flops"])
        reference = self._all_seeds(
            reference_name,
            f"{re.sub('[^A-Za-z0-9.]+', '-', reference_name)}-for-{name}",
            reference_space,
            Architecture({}),
            recipe,
        )
        return Finalist(rank, trial.number, architecture, self.epochs, trial.metrics, retrained, reference)

    def _reference(self, flops: float) -> tuple[str, SearchSpace]:
        """The ResNet nearest to `flops`: its name, and the space of which it is the only network."""
        name, network = resnet_of_flops(flops, shape=self.data.shape, classes=len(self.data.class_names))
        stage, classifier = network.get_submodule("stage0"), network.get_submodule("classifier")
        assert isinstance(stage, nn.Sequential) and isinstance(classifier, nn.Linear)  # noqa: S101  (built just now)
        arguments = {"depth": len(stage), "width": classifier.in_features // 4}
        return name, SearchSpace(name, (), builder=f"{__name__}:build_reference", arguments=arguments)

    def _all_seeds(
        self, label: str, name: str, space: SearchSpace, architecture: Architecture, recipe: Recipe
    ) -> Retrained:
        costs = costs_of(lambda: self._untrained(space, architecture, 0), self.data.shape, recipe.batch_size)
        networks, tests, failures = [], [], []
        for seed in range(self.seeds):
            network = f"{name}-seed{seed}-e{self.epochs}"
            try:
                tests.append(self._one(network, space, architecture, recipe, seed, costs))
                networks.append(network)
            except TrainingFailed as error:
                failures.append(f"{network}: {error}")
        keys = tests[0] if tests else ()
        test = {key: _spread([metrics[key] for metrics in tests]) for key in keys}
        return Retrained(label, tuple(networks), costs, test, tuple(failures))

    def _one(
        self,
        name: str,
        space: SearchSpace,
        architecture: Architecture,
        recipe: Recipe,
        seed: int,
        costs: Mapping[str, float],
    ) -> Mapping[str, float]:
        """Train, save, test: each step is skipped when an earlier call has done it."""
        folder = self.experiment.folder / "finalists" / name
        done = self.experiment.state.tests.get(name) or None  # empty: opened, and then the process was killed
        if done is None and not (folder / DESCRIPTION).is_file():
            self._train(folder, name, space, architecture, recipe, seed, costs)
        if done is None:
            done = self.experiment.open_test(name, lambda: self._test(folder))
        if (folder / DESCRIPTION).is_file():
            network = load(folder)
            about = network.description
            if any(key not in about.metrics for key in done):
                save_network(folder, network, replace(about, metrics={**about.metrics, **done}))
        return done

    def _train(
        self,
        folder: Path,
        name: str,
        space: SearchSpace,
        architecture: Architecture,
        recipe: Recipe,
        seed: int,
        costs: Mapping[str, float],
    ) -> None:
        network = self._untrained(space, architecture, seed)

        def on_epoch(epoch: int, metrics: Mapping[str, float]) -> bool:
            self.progress(name, epoch, self.epochs, metrics)
            return True

        trained = train(
            network,
            self.data.train_and_validation(),
            recipe,
            epochs=self.epochs,
            seed=seed,
            device=self.device,
            checkpoint=folder / "checkpoint.pt",
            on_epoch=on_epoch,
            flops=costs["cost/flops"],
        )
        about = {
            "finalist": name,
            "data": asdict(self.config),
            "parts": TRAIN_AND_VALIDATION,
            "epochs": self.epochs,
            "seed": seed,
            "recipe": asdict(recipe),
        }
        metrics = {**costs, **trained.metrics}
        save_network(folder, network, describe(space, architecture, self.data, metrics, about))

    def _test(self, folder: Path) -> dict[str, float]:
        """What the sealed part says of the network as it lies on disk, in fp32."""
        network = load(folder, self.device)
        found = score(network.body, self.data.open_test(), device=self.device)
        return {f"test/{key}": value for key, value in found.items()}

    def _untrained(self, space: SearchSpace, architecture: Architecture, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(space, architecture, in_channels=self.data.shape[0], classes=len(self.data.class_names))


def _top(state: State, top: int) -> list[Trial]:
    """The Pareto front first where there are several objectives, then the ranking; `top` of them at most."""
    ranked = state.ranking()
    if len(state.objectives) > 1:
        front = state.front()
        numbers = {trial.number for trial in front}
        ranked = [*front, *(trial for trial in ranked if trial.number not in numbers)]
    return ranked[:top]


def _keep_best(folder: Path, first: Finalist) -> None:
    """Make the first network of the best finalist `best/`."""
    if not first.retrained.networks:
        raise SearchError(
            f"retraining the best failed with every seed; best/ is as it was. {first.retrained.failures[0]}"
        )
    source = folder / "finalists" / first.retrained.networks[0]
    try:
        network = load(source)
    except ExportError as error:
        raise SearchError(
            f"{error}. It met the test part, so it is not trained again; retrain with other --epochs or more --seeds"
        ) from None
    save_network(folder / "best", network, network.description)


def _spread(values: Sequence[float]) -> Spread:
    known = [value for value in values if not math.isnan(value)]
    if len(known) < len(values):
        return Spread(math.nan, None, len(values))
    return Spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))
