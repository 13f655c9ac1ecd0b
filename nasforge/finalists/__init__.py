"""After the search: retrain the best from scratch, measure each once on the sealed test part, keep the first."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nasforge import registry
from nasforge.config import DataConfig, ExperimentConfig, Named
from nasforge.core.architecture import Architecture, digest
from nasforge.core.errors import ConfigError, ExportError, JournalError, SearchError, did_you_mean
from nasforge.core.protocols import Tracker
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.costs import costs_of
from nasforge.data import ImageData, load_data
from nasforge.experiment import Experiment
from nasforge.exporters.best import config_of, describe, write_best
from nasforge.exporters.network_folder import DESCRIPTION, TRAIN_AND_VALIDATION, load, save_network
from nasforge.finalists.choice import drawn_of, ranked_of
from nasforge.finalists.networks import (
    Outcomes,
    Progress,
    Retraining,
    build_reference,
    measure,
    one_after_another,
    reference_of,
    train_network,
    untrained,
)
from nasforge.finalists.verdict import Ensemble, Finalist, Finalists, Retrained, Spread, judged, spread
from nasforge.models.ensemble import ensemble_space
from nasforge.models.network import build
from nasforge.reopening import reopen
from nasforge.state import load_state
from nasforge.training.data_parallel import check_batch
from nasforge.training.device import device_of
from nasforge.training.recipe import Recipe, recipe_of

_RUNNERS = ("local", "ray_tune")
Trainer = Callable[[Sequence[Retraining], Progress], Outcomes]

__all__ = ["Finalist", "Finalists", "Retrained", "Spread", "build_reference", "retrain", "write_best"]


def retrain(
    folder: Path | str,
    *,
    top: int = 1,
    random: int = 0,
    seeds: int = 2,
    epochs: int | None = None,
    tta: str = "none",
    device: str = "auto",
    runner: str | Mapping[str, Any] = "local",
    progress: Progress = lambda name, epoch, epochs, metrics: None,
    trackers: Sequence[Tracker] = (),
) -> Finalists:
    """Retrain the best architectures of a search and measure each retrained network on the sealed test part, once.

    Each is trained from scratch on all train and validation images (also those that the setting `images` kept from the
    search), its last epoch is kept: nothing is selected. The same call continues after an interruption; what has met
    the test part is neither trained nor measured again. The first seed of the best becomes `best/`.

    Args:
        folder: `runs/<experiment>`.
        top: how many: of the ranking, or with several objectives of the Pareto front first.
        random: how many more, drawn from the other finished trials: what the search's choice is worth shows against
            them. Always the same ones of the same search.
        seeds: trainings of each.
        epochs: of each training; three times the search's longest where left out.
        tta: `flip`: measure also the mean answer for an image and its mirror image, in the same opening; or `none`.
        device: `auto`, `cpu`, `cuda`...
        runner: `local`: one training after the other in this process. `ray_tune`: side by side on Ray workers, with the
            options that a search's runner has, and `workers_per_network`: each training by so many workers at once,
            with the outcome of one worker up to the order of sums.
        progress: told after every epoch.
        trackers: told of every opening of the test part.

    Returns:
        The best, each beside its reference, those drawn at random, the ensemble of the best, and what all that says.

    Raises:
        SearchError: nothing to retrain, or no training of the best succeeded.
        JournalError: the experiment is running, or its data have changed.
        DataError: the data cannot be loaded.
    """
    folder = Path(folder)
    for name, number, least in (("top", top, 1), ("random", random, 0), ("seeds", seeds, 1), ("epochs", epochs, 1)):
        if number is None and name == "epochs":
            continue
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise SearchError(f"retrain: {name} must be a whole number of at least {least}, got {number!r}")
    if tta not in ("none", "flip"):
        raise SearchError(f"retrain: tta must be none or flip, got {tta!r}")
    trainer = _trainer(Named.parse(runner, "runner"))
    state = load_state(folder)
    config = config_of(folder, state)
    if config.data is None or not config.space.builder:
        raise SearchError(f"{folder}: this search trained no networks on images, there is nothing to retrain")
    ranked = ranked_of(state)
    if not ranked:
        raise SearchError(f"{folder}: nothing to retrain: {state.why_no_best}")
    drawn = drawn_of(ranked, top, random, config.seed)
    place = device_of(device)
    if state.header.data_hash not in ("", load_data(config.data).fingerprint):
        raise JournalError(f"{folder}: the data have changed since the search; a comparison with it would mean nothing")
    with reopen(folder, trackers) as experiment:
        whole = replace(config.data, images=None)
        length = epochs or 3 * config.epochs
        work = _Work(experiment, config, whole, load_data(whole), length, seeds, tta, device, place, trainer)
        finalists = work.finalists(ranked[:top], drawn, ranked, progress)
        _keep_best(folder, finalists[0])
    return finalists


def _trainer(runner: Named) -> Trainer:
    """What trains, by a runner's name and options.

    Raises:
        ConfigError: no such runner or option.
    """
    if runner.name == "local":
        if runner.options:
            raise ConfigError(f"retrain: runner local has no options, got {', '.join(runner.options)}; use ray_tune")
        return one_after_another
    if runner.name != "ray_tune":
        raise ConfigError(f"retrain: runner '{runner.name}' trains no networks; {did_you_mean(runner.name, _RUNNERS)}")
    side_by_side = "nasforge.runners.ray_tune.trainings:side_by_side"
    registry.check_options("runner", side_by_side, runner.options, taken=3)
    workers = runner.options.get("workers_per_network", 1)

    def on_workers(retrainings: Sequence[Retraining], progress: Progress) -> Outcomes:
        for retraining in retrainings:
            check_batch(retraining.recipe, workers)
        return registry.make("runner", side_by_side, runner.options, train_network, retrainings, progress)  # type: ignore[no-any-return]

    return on_workers


@dataclass(frozen=True)
class _Network:
    """One architecture with all its seeds."""

    label: str
    costs: Mapping[str, float]
    retrainings: tuple[Retraining, ...]


@dataclass(frozen=True)
class _Work:
    """What all trainings of one `retrain` share."""

    experiment: Experiment
    config: ExperimentConfig
    data_config: DataConfig
    data: ImageData
    epochs: int
    seeds: int
    tta: str
    device: str
    place: torch.device
    trainer: Trainer
    failures: dict[str, str] = field(default_factory=dict)

    def finalists(
        self, top: Sequence[Trial], drawn: Sequence[Trial], ranked: Sequence[Trial], progress: Progress
    ) -> Finalists:
        """Train and measure everything, then say what it means."""
        planned = [(trial, *self._plan(trial, with_reference=True)) for trial in top]
        planned += [(trial, *self._plan(trial, with_reference=False)) for trial in drawn]
        networks = [network for _, *those in planned for network in those if network is not None]
        self._meet([retraining for network in networks for retraining in network.retrainings], progress)
        ranks = {trial.number: rank for rank, trial in enumerate(ranked, 1)}
        found = [
            self._finalist(ranks[trial.number], trial, network, reference) for trial, network, reference in planned
        ]
        best = found[: len(top)]
        return judged(best, found[len(top) :], self._ensemble(best), self.config.objectives[self._judged_by])

    @property
    def _judged_by(self) -> int:
        """Which objective: the first that was measured on images, not a cost."""
        measured = (i for i, objective in enumerate(self.config.objectives) if objective.metric.startswith("val/"))
        return next(measured, 0)

    # --- what is to be trained --------------------------------------------------------------------------------------

    def _plan(self, trial: Trial, *, with_reference: bool) -> tuple[_Network, _Network | None]:
        """One trial's network and its reference."""
        architecture = trial.architecture
        assert architecture is not None  # noqa: S101  (only measures are ranked)
        recipe = recipe_of(self.config.space, architecture, self.config.recipe)
        name = f"{architecture.arch_id}-{architecture.point_id[:6]}"
        network = self._network(architecture.arch_id, name, self.config.space, architecture, recipe)
        if not with_reference:
            return network, None
        classes, builder = len(self.data.class_names), f"{__name__}:build_reference"
        label, space = reference_of(network.costs["cost/flops"], self.data.shape, classes, builder)
        reference = f"{re.sub('[^A-Za-z0-9.]+', '-', label)}-for-{name}"
        # it was never trained before, so nothing of it may stay as it begins
        learning = replace(recipe, frozen_stages=0)
        return network, self._network(label, reference, space, Architecture({}), learning)

    def _measured(self, folder: Path) -> dict[str, float]:
        network = load(folder, self.place).body
        return measure(network, self.data_config, self.place, self.tta, self.config.objectives)

    def _network(
        self, label: str, name: str, space: SearchSpace, architecture: Architecture, recipe: Recipe
    ) -> _Network:
        channels, names = self.data.shape[0], self.data.class_names
        costs = costs_of(lambda: untrained(space, architecture, 0, channels, names), self.data.shape, recipe.batch_size)
        of_seeds = []
        for seed in range(self.seeds):
            whole_name = f"{name}-seed{seed}-e{self.epochs}"
            folder = self.experiment.folder / "finalists" / whole_name
            where = (self.data_config, costs, self.device, self.data.fingerprint)
            of_seeds.append(Retraining(whole_name, folder, space, architecture, recipe, seed, self.epochs, *where))
        return _Network(label, costs, tuple(of_seeds))

    # --- trained and measured, each once ----------------------------------------------------------------------------

    def _meet(self, retrainings: Sequence[Retraining], progress: Progress) -> None:
        """Train what is not trained, and let every network meet the test part; only this process writes the journal."""
        for retraining in retrainings:
            if self._tested(retraining.name) or retraining.trained:
                self._test(retraining)
        waiting = [r for r in retrainings if not self._tested(r.name)]
        for retraining, failure in self.trainer(waiting, progress):
            if failure:
                self.failures[retraining.name] = failure
            else:
                self._test(retraining)

    def _tested(self, name: str) -> Mapping[str, float] | None:
        """Its figures; None also where the test part was opened and the process killed before they were written."""
        return self.experiment.state.tests.get(name) or None

    def _test(self, retraining: Retraining) -> None:
        """Open the test part for a network as it lies on disk, if that has not been done; note the figures there."""
        folder = retraining.folder
        done = self._tested(retraining.name)
        if done is None:
            done = self.experiment.open_test(
                retraining.name,
                lambda: self._measured(folder),
            )
        _note(folder, done)

    # --- what came out ----------------------------------------------------------------------------------------------

    def _finalist(self, rank: int, trial: Trial, network: _Network, reference: _Network | None) -> Finalist:
        assert trial.architecture is not None  # noqa: S101  (only measures are ranked)
        return Finalist(
            rank,
            trial.number,
            trial.architecture,
            self.epochs,
            trial.metrics,
            trial.result.values[self._judged_by] if trial.result and trial.result.values else float("nan"),
            self._retrained(network),
            self._retrained(reference) if reference else None,
        )

    def _retrained(self, network: _Network) -> Retrained:
        names, tests, failures = [], [], []
        for retraining in network.retrainings:
            found = self._tested(retraining.name)
            if found is None:
                failures.append(f"{retraining.name}: {self.failures[retraining.name]}")
                continue
            names.append(retraining.name)
            tests.append(found)
        keys = [key for key in (tests[0] if tests else ()) if all(key in metrics for metrics in tests)]
        if tests and self.tta == "flip" and "test_flip/accuracy" not in keys:
            failures.append(
                f"{network.label}: met the test part before without flips and is not measured again; retrain with "
                "other --epochs for figures with flips"
            )
        test = {key: spread([metrics[key] for metrics in tests]) for key in keys}
        return Retrained(network.label, tuple(names), network.costs, test, tuple(failures))

    def _ensemble(self, best: Sequence[Finalist]) -> Ensemble | None:
        """The first network of each of the best as one; it meets the test part once, like any other."""
        members = [finalist.retrained.networks[0] for finalist in best if finalist.retrained.networks]
        if len(members) < 2:
            return None
        name = f"ensemble-of-{len(members)}-{digest(members)[:12]}"
        folder = self.experiment.folder / "finalists" / name
        costs = {
            key: sum(finalist.retrained.costs[key] for finalist in best if finalist.retrained.networks)
            for key in ("cost/params", "cost/flops")
        }
        if not (folder / DESCRIPTION).is_file() and not self._tested(name):
            self._join(folder, name, members, costs)
        done = self._tested(name) or self.experiment.open_test(name, lambda: self._measured(folder))
        _note(folder, done)
        return Ensemble(name, tuple(members), costs, done)

    def _join(self, folder: Path, name: str, members: Sequence[str], costs: Mapping[str, float]) -> None:
        """Write the ensemble as a network folder of its own."""
        networks = [load(self.experiment.folder / "finalists" / member) for member in members]
        space = ensemble_space([(n.description.space, n.architecture) for n in networks])
        whole = build(space, Architecture({}), in_channels=self.data.shape[0], classes=len(self.data.class_names))
        for slot, network in zip(whole.get_submodule("members").children(), networks, strict=True):
            slot.load_state_dict(network.body.state_dict())
        about: dict[str, Any] = {
            "finalist": name,
            "members": list(members),
            "data": asdict(self.data_config),
            "parts": TRAIN_AND_VALIDATION,
            "epochs": self.epochs,
        }
        save_network(folder, whole, describe(space, Architecture({}), self.data, costs, about))


def _note(folder: Path, figures: Mapping[str, float]) -> None:
    """Write what the test part said beside the network, if it is still there."""
    if (folder / DESCRIPTION).is_file():
        network = load(folder)
        about = network.description
        if any(key not in about.metrics for key in figures):
            save_network(folder, network, replace(about, metrics={**about.metrics, **figures}))


def _keep_best(folder: Path, first: Finalist) -> None:
    """Make the first network of the best finalist `best/`, which may be it already."""
    if not first.retrained.networks:
        raise SearchError(
            f"retraining the best failed with every seed; best/ is as it was. {first.retrained.failures[0]}"
        )
    source = folder / "finalists" / first.retrained.networks[0]
    try:
        network = load(source)
    except ExportError as error:
        if _is_best(folder, source.name):
            return
        raise SearchError(
            f"{error}. It met the test part, so it is not trained again; retrain with other --epochs or more --seeds"
        ) from None
    save_network(folder / "best", network, network.description)


def _is_best(folder: Path, name: str) -> bool:
    """Whether `best/` holds this retrained network, whole."""
    try:
        return load(folder / "best").description.trained.get("finalist") == name
    except ExportError:
        return False
