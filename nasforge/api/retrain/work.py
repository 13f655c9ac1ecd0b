"""The work of one `retrain`: what is to be trained, who meets the test split, what came out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasforge.api.retrain.choice import Chosen
from nasforge.api.retrain.networks import VIEWS, Progress, Retraining, Trainer, measure
from nasforge.api.retrain.verdict import Ensemble, Finalist, Finalists, Retrained, judged, mean_of
from nasforge.core.architecture import Architecture, Value, digest
from nasforge.core.errors import ConfigError
from nasforge.core.layout import DESCRIPTION, FINALISTS
from nasforge.core.protocols import Reference
from nasforge.core.recipe import SETTINGS, Recipe, recipe_of, steps_of
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.core.trust import typed
from nasforge.data import ImageData
from nasforge.experiment.experiment import Experiment
from nasforge.exporters.best import describe
from nasforge.exporters.network_folder import TRAIN_AND_VALIDATION, description_of, load, save_network
from nasforge.models.costs import costs_of, on_meta
from nasforge.models.ensemble import Ensemble as EnsembleNetwork
from nasforge.models.ensemble import ensemble_space
from nasforge.models.network import build, fresh
from nasforge.models.reference import FAR
from nasforge.models.textbook import Textbook
from nasforge.settings.experiment import DataConfig, ExperimentConfig
from nasforge.training.failures import TrainingFailed, as_training_failures
from nasforge.training.fitting import check_fits
from nasforge.views.answers import answers_file
from nasforge.views.learnt import nothing_learnt
from nasforge.views.statistics import spread


@dataclass(frozen=True)
class _Training:
    """The recipe of a network and its references, and which of its settings the search did not have."""

    recipe: Recipe
    changed: Mapping[str, Value]

    @staticmethod
    def of(searched: Recipe, changes: Mapping[str, Value]) -> _Training:
        """Replace settings of the search's recipe.

        Raises:
            RecipeError: unknown settings, bad values, or settings that exclude each other.
        """
        recipe = Recipe.of({**asdict(searched), **changes})
        changed: dict[str, Value] = {}
        for key in sorted(changes):
            value: Value = getattr(recipe, key)
            if value != getattr(searched, key):
                changed[key] = float(value) if SETTINGS[key].kind is float else value  # 1 is 1.0
        return _Training(recipe, changed)

    @property
    def ending(self) -> str:
        """The end of a network's name, so that no training is taken for one by another recipe."""
        return f"-r{digest(self.changed)[:6]}" if self.changed else ""


@dataclass(frozen=True)
class _Network:
    """One architecture with all its seeds, and sentences about it."""

    label: str
    costs: Mapping[str, float]
    retrainings: tuple[Retraining, ...]
    changed: Mapping[str, Value]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """State that all trainings of one `retrain` share."""

    experiment: Experiment
    config: ExperimentConfig
    data_config: DataConfig
    data: ImageData
    epochs: int
    seeds: int
    changes: Mapping[str, Value]
    tta: tuple[str, ...]
    device: str
    place: torch.device
    trainer: Trainer
    references: Mapping[str, Reference]
    failures: dict[str, str] = field(default_factory=dict)

    def finalists(self, chosen: Sequence[Chosen], ranked: Sequence[Trial], progress: Progress) -> Finalists:
        """Train and measure everything, then say what it means."""
        planned = [(one, *self._plan(one)) for one in chosen]
        networks = [network for _, first, references in planned for network in (first, *references.values())]
        self._meet([retraining for network in networks for retraining in network.retrainings], progress)
        ranks = {trial.number: rank for rank, trial in enumerate(ranked, 1)}
        finalists = [
            (one.drawn, self._finalist(ranks[one.trial.number], one, network, references))
            for one, network, references in planned
        ]
        best = [finalist for drawn, finalist in finalists if not drawn]
        others = [finalist for drawn, finalist in finalists if drawn]
        objective = self.config.objectives[self._judged_by]
        verdict = judged(best, others, self._ensemble(best), objective, tuple(self.references))
        return replace(verdict, warning=self._warning(best[0], planned[0][1].retrainings[0].recipe))

    def _warning(self, best: Finalist, recipe: Recipe) -> str:
        """Say that the best has learnt nothing, where that is so; classes are counted on the training images."""
        accuracy, learnt_on = mean_of(best.retrained), self.data.train_and_validation()
        if accuracy is None:
            return ""
        steps = self.epochs * steps_of(len(learnt_on), recipe)
        return nothing_learnt(
            f"test/accuracy of {best.retrained.name}",
            accuracy,
            self.data.test_images,
            self.data.counts(learnt_on).constant,
            steps,
        )

    @property
    def _judged_by(self) -> int:
        """Which objective: the first that was measured on images, not a cost."""
        measured = (i for i, objective in enumerate(self.config.objectives) if objective.metric.startswith("val/"))
        return next(measured, 0)

    # --- what is to be trained --------------------------------------------------------------------------------------

    def _plan(self, chosen: Chosen) -> tuple[_Network, dict[str, _Network]]:
        """One trial's network and its references, by the names under which the user asked for them."""
        architecture = chosen.architecture
        searched = recipe_of(self.config.space, architecture, self.config.recipe)
        training = _Training.of(searched, self.changes)
        if training.changed:
            self._check_fits(architecture, training.recipe)
        name = architecture.short_id
        role = "random" if chosen.drawn else "found"
        network = self._network(architecture.arch_id, name, self.config.space, architecture, training, chosen, role)
        network = replace(network, notes=chosen.notes)
        references: dict[str, _Network] = {}
        for asked, reference in self.references.items() if not chosen.drawn else ():
            references[asked] = self._reference(asked, reference, network, name, training, chosen)
            labels = [one.label for one in references.values()]
            if len(set(labels)) < len(labels):
                raise ConfigError(
                    f"retrain: the references {', '.join(references)} are both named {labels[-1]}; leave one out",
                    kind="duplicate",
                    key="reference",
                )
        return network, references

    def _check_fits(self, architecture: Architecture, recipe: Recipe) -> None:
        """Refuse a recipe that a network cannot take before its reference meets the test split.

        Raises:
            RecipeError: one of the settings is not for this network or these images.
        """
        channels, classes = self.data.shape[0], len(self.data.class_names)
        network = on_meta(lambda: build(self.config.space, architecture, in_channels=channels, classes=classes))
        check_fits(network, recipe, self.data.train_and_validation())

    def _reference(
        self, asked: str, reference: Reference, network: _Network, name: str, training: _Training, chosen: Chosen
    ) -> _Network:
        """Return a reference that is scaled to a network, whose folders are named `name`."""
        flops, classes = network.costs["cost/flops"], len(self.data.class_names)
        with typed():
            answer: object = reference(flops, shape=self.data.shape, classes=classes)
        match answer:
            case (str(label), SearchSpace() as space) if not any(d.size > 1 for d in space.domains.values()):
                pass
            case _:
                raise ConfigError(
                    f"reference '{asked}' answered {answer!r}, expected a name and a space without open decisions",
                    kind="type",
                    key="reference",
                )
        folder = f"{re.sub('[^A-Za-z0-9.]+', '-', label)}-for-{name}"
        # it was never trained before, so nothing of it may stay as it begins
        learning = replace(training, recipe=replace(training.recipe, frozen_stages=0))
        with typed():  # who names a reference agrees to the builder and the blocks of its space
            scaled = self._network(label, folder, space, Architecture({}), learning, chosen, "reference", asked)
        ratio = scaled.costs["cost/flops"] / flops
        remark = f"{label} has {ratio:.3g} times the multiply-adds of {network.label}" if abs(ratio - 1) > FAR else ""
        if isinstance(reference, Textbook):
            remark = reference.remark(scaled.costs["cost/flops"], flops, network.label) or remark
        return replace(scaled, notes=(remark,) if remark else ())

    def _measured(self, folder: Path) -> dict[str, float]:
        network = load(folder, self.place)
        answers = answers_file(self.experiment.folder, folder.name)
        about = network.description.trained
        members = [description_of(folder.parent / name).trained for name in about.get("members", ())]
        recipes = [trained.get("recipe", {}) for trained in members or [about]]
        what = (self.data_config, self.place, self.tta, self.config.objectives, self.config.task)
        with as_training_failures(TrainingFailed, self.place):
            return measure(network.body, *what, answers, recipes)

    def _network(
        self,
        label: str,
        name: str,
        space: SearchSpace,
        architecture: Architecture,
        training: _Training,
        chosen: Chosen,
        role: str,
        reference: str = "",
    ) -> _Network:
        channels, classes = self.data.shape[0], len(self.data.class_names)

        def network() -> nn.Module:
            return fresh(space, architecture, 0, in_channels=channels, classes=classes)

        costs = costs_of(network, self.data.shape, training.recipe.batch_size)
        widened = {} if role == "reference" else chosen.widened
        of_seeds = []
        for seed in range(self.seeds):
            whole_name = f"{name}-seed{seed}-e{self.epochs}{training.ending}"
            folder = self.experiment.folder / FINALISTS / whole_name
            where = (self.data_config, costs, self.device, self.data.fingerprint)
            what = (whole_name, folder, space, architecture, training.recipe, seed, self.epochs)
            of_seeds.append(Retraining(*what, *where, role, chosen.trial.number, widened, self.config.task, reference))
        return _Network(label, costs, tuple(of_seeds), training.changed)

    # --- trained and measured, each once ----------------------------------------------------------------------------

    def _meet(self, retrainings: Sequence[Retraining], progress: Progress) -> None:
        """Train the untrained networks and test every network; only this process writes the journal."""
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
        """Its figures; None also where the test split was opened and the process killed before they were written."""
        return self.experiment.state.tests.get(name) or None

    def _test(self, retraining: Retraining) -> None:
        """Open the test split for a network as it lies on disk, if that has not been done; note the figures there."""
        folder = retraining.folder
        done = self._tested(retraining.name)
        if done is None:
            done = self.experiment.open_test(
                retraining.name,
                lambda: self._measured(folder),
            )
        _note(folder, done)

    # --- what came out ----------------------------------------------------------------------------------------------

    def _finalist(self, rank: int, chosen: Chosen, network: _Network, references: Mapping[str, _Network]) -> Finalist:
        trial = chosen.trial
        compared = {asked: self._retrained(reference) for asked, reference in references.items()}
        return Finalist(
            rank,
            trial.number,
            chosen.architecture,
            self.epochs,
            trial.metrics,
            trial.result.values[self._judged_by] if trial.result and trial.result.values else float("nan"),
            self._retrained(network),
            next(iter(compared.values()), None),
            dict(list(compared.items())[1:]),
            network.changed,
            chosen.widened,
        )

    def _retrained(self, network: _Network) -> Retrained:
        names, tests, failures = [], [], []
        for retraining in network.retrainings:
            tested = self._tested(retraining.name)
            if tested is None:
                failures.append(f"{retraining.name}: {self.failures[retraining.name]}")
                continue
            names.append(retraining.name)
            tests.append(tested)
        keys = [key for key in (tests[0] if tests else ()) if all(key in metrics for metrics in tests)]
        missing = [kind for kind in self.tta if tests and f"test_{kind}/accuracy" not in keys]
        if missing:
            views = " and ".join(VIEWS[kind].title for kind in missing)
            failures.append(
                f"{network.label}: was measured on the test split without {views}, and no network is measured twice. "
                f"Retrain with another number of --epochs to measure {views} too"
            )
        test = {key: spread([metrics[key] for metrics in tests]) for key in keys}
        return Retrained(network.label, tuple(names), network.costs, test, tuple(failures), network.notes)

    def _ensemble(self, best: Sequence[Finalist]) -> Ensemble | None:
        """Return the first network of each of the best as one; it meets the test split once, like any other."""
        members = [finalist.retrained.networks[0] for finalist in best if finalist.retrained.networks]
        if len(members) < 2:
            return None
        name = f"ensemble-of-{len(members)}-{digest(members)[:12]}"
        folder = self.experiment.folder / FINALISTS / name
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
        networks = [load(self.experiment.folder / FINALISTS / member) for member in members]
        space = ensemble_space([(n.description.space, n.architecture) for n in networks])
        whole = EnsembleNetwork([network.body for network in networks])
        about: dict[str, Any] = {
            "finalist": name,
            "members": list(members),
            "data": asdict(self.data_config),
            "parts": TRAIN_AND_VALIDATION,
            "epochs": self.epochs,
        }
        save_network(folder, whole, describe(space, Architecture({}), self.data, costs, about))


def _note(folder: Path, figures: Mapping[str, float]) -> None:
    """Write the test metrics next to the network, if it is still there."""
    if (folder / DESCRIPTION).is_file():
        network = load(folder)
        about = network.description
        if any(key not in about.metrics for key in figures):
            save_network(folder, network, replace(about, metrics={**about.metrics, **figures}))
