"""The phases of a fit, one after the other. Each one is read back from the log where it was finished before."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from nasforge.api import search as compose
from nasforge.api.export import export
from nasforge.api.fit import judging, pretrained, yardsticks
from nasforge.api.fit.curve import reserved
from nasforge.api.fit.judging import Choice, calibrated, choose, confusions, doubtful, is_constant, per_image
from nasforge.api.fit.keeper import Keeper
from nasforge.api.fit.log import BEST, EXPORTED, FINALISTS, FitLog, Request
from nasforge.api.fit.rows import Row, metrics_of
from nasforge.api.fit.schedule import (
    FEWEST_VALIDATING,
    FOLDED,
    IMBALANCED,
    TEST_SHARE,
    VALIDATION_SHARE,
    Plan,
    end_of,
    folds_of,
    last_epochs,
    last_training_may_take,
    least_seconds,
    plan_of,
    search_until,
    shown_seconds,
    yardsticks_of,
)
from nasforge.api.fit.weights import backbones_of
from nasforge.api.inspect import Inspection, inspect
from nasforge.api.prepare import FILE, RESOLUTIONS, prepare, suggested_resolution
from nasforge.api.retrain.networks import Retraining, train_network
from nasforge.core.architecture import Architecture
from nasforge.core.errors import BuildError, ConfigError, DataError, JournalError, SearchError, StopNow
from nasforge.core.recipe import Recipe, recipe_of
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.data import ImageData, Part, load_data
from nasforge.data.npz import write_npz
from nasforge.evaluators.cross_validation import in_folds
from nasforge.experiment.journal import FIT, SEARCH
from nasforge.experiment.state import State, load_state
from nasforge.experiment.verdicts import why_nothing_is_admitted
from nasforge.exporters.network_folder import Calibration, load, save_network
from nasforge.models.costs import costs_of
from nasforge.models.network import build, fresh
from nasforge.settings.experiment import DataConfig, ExperimentConfig, load_space, resolve
from nasforge.training.artifacts import ANSWERS, file_of
from nasforge.training.deadline import trainings_end_by
from nasforge.training.device import device_of
from nasforge.training.loop import train

Say = Callable[[str], None]
_PATIENCE_S = 2.0
_TICK_S = 10.0
_MOST_CLASSES = 8


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

    # --- the data -----------------------------------------------------------------------------------------------------

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
        )
        self.log.write("inspected", inspection=inspection.to_json())
        for line in self.inspection_lines:
            self.say(line)
        resolution = self._decide("resolution", lambda: self._resolution(inspection))
        validation = VALIDATION_SHARE  # also where folds are used: `prepare` keeps groups on one side
        if inspection.images >= FOLDED / (1.0 if "test" in inspection.parts else 1 - TEST_SHARE):
            validation = min(VALIDATION_SHARE, max(0.1, FEWEST_VALIDATING / inspection.images))
        prepare(inspection, self.folder / "data", resolution, test=TEST_SHARE, validation=validation, seed=asked.seed)
        self.log.write("prepared")

    def _decide(self, name: str, make: Callable[[], tuple[Any, str]]) -> Any:
        """A decision: read back from the log, or taken from the given plan, or made."""
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
        found: Mapping[str, Any] = entry["inspection"]
        return found

    @property
    def inspection_lines(self) -> list[str]:
        """The inspection in sentences."""
        return sentences_on(self.inspection)

    @cached_property
    def data_config(self) -> DataConfig:
        """Of the decoded images."""
        return DataConfig(str(self.folder / "data" / FILE), validation=VALIDATION_SHARE, seed=self.request.seed)

    @cached_property
    def data(self) -> ImageData:
        """The decoded images, the test split sealed."""
        return load_data(self.data_config)

    @cached_property
    def pool(self) -> Part:
        """All images but those of the test split."""
        return self.data.train_and_validation()

    @cached_property
    def plan(self) -> Plan:
        """How candidates are trained and compared."""
        try:
            return Plan(**self._plans["plan"])
        except (TypeError, ValueError, KeyError) as error:
            raise JournalError(
                f"{self.folder / FIT}: the decision 'trainings' is corrupt ({error}). Restore the file from a backup, "
                "or use another --name"
            ) from None

    @cached_property
    def possible_folds(self) -> tuple[int, ...]:
        """Numbers of folds with every class in each and every group in one, the largest first; 1: none is possible."""
        if "validation" in self.inspection["parts"] or len(self.pool) >= FOLDED:
            return (1,)
        smallest = int(self.pool.labels.bincount(minlength=self.pool.classes).min())
        most = folds_of(len(self.pool), smallest)
        found = []
        for count in sorted({most, min(3, most), 2} - {1}, reverse=True) if most > 1 else ():
            with suppress(DataError):
                in_folds(self.data, count, self.data_config)
                found.append(count)
        return tuple(found) or (1,)

    @property
    def folds(self) -> int:
        """Number of folds that candidates are compared on; 1: the validation split."""
        return self.plan.folds

    @cached_property
    def _plans(self) -> Mapping[str, Any]:
        value: Mapping[str, Any] = self._decide("trainings", self._planned)
        return value

    @property
    def _until(self) -> float:
        """The end of the search in seconds of the fit; it follows the time of this call, folds and epochs do not."""
        return search_until(self.seconds, self.plan) - reserved(self.request.preset, self.seconds)

    def _planned(self) -> tuple[dict[str, Any], str]:
        """Measure the speed of the space's default network, and plan by it."""
        config = self._config(epochs=1, folds=1)
        point = config.space.default_point()
        recipe = recipe_of(config.space, point, config.recipe)
        part = self.data.train
        network = fresh(config.space, point, 0, in_channels=self.data.shape[0], classes=part.classes)
        threads, per_step = fastest_threads(network, part, recipe, device_of(self.request.device))
        folds = self.possible_folds
        plan = plan_of(
            self.seconds, self.log.used, per_step, len(self.pool), recipe.batch_size, folds, self.request.preset
        )
        if plan is None:
            least = (
                math.ceil(least_seconds(self.log.used, per_step, len(self.pool), recipe.batch_size, folds[0]) / 10) * 10
            )
            self.log.write("refused")
            raise ConfigError(
                f"time: {shown_seconds(self.seconds)} is too short: one step of the default network takes "
                f"{per_step * 1000:.0f} ms here, and a network needs some hundreds. Give --time {least}s at least"
            )
        where = f"on {plan.folds} folds" if plan.folds > 1 else "on one validation split"
        value = {"plan": asdict(plan), "threads": threads, "second_per_step": per_step}
        return value, (
            f"{plan.epochs} epochs {where}: {plan.steps} steps of {per_step * 1000:.0f} ms, about "
            f"{shown_seconds(plan.training)} each"
        )

    @cached_property
    def splits(self) -> list[tuple[Part, Part]]:
        """Pairs of the images to train on and the images to validate on."""
        if self.folds == 1:
            return [(self.data.train, self.data.validation)]
        return in_folds(self.data, self.folds, self.data_config)

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
                return self.request.objective.rpartition("/")[2], "as asked for"
            part = self.pool if self.possible_folds[0] > 1 else self.data.validation
            if len(part) < FEWEST_VALIDATING:
                return "loss", f"{len(part)} images are too few to compare shares of right answers"
            counts = np.bincount(part.labels.numpy())
            ratio = counts.max() / max(1, counts[counts > 0].min())
            if ratio > IMBALANCED:
                return "balanced_accuracy", f"the largest class has {ratio:.1f} times the images of the smallest"
            return "accuracy", "the classes are of similar size"

        metric: str = self._decide("metric", decided)
        return metric

    # --- the yardsticks -----------------------------------------------------------------------------------------------

    def measure_yardsticks(self) -> list[Answered]:
        """The largest class and scikit-learn's models, on the same folds as the networks."""
        kept = self.folder / "yardsticks.npz"
        if not self.log.last("yardsticks"):
            found: dict[str, np.ndarray] = {}
            rows = []
            allowed = yardsticks_of(self.seconds)
            for name, (places, given), seconds in yardsticks.on_folds(self.splits, allowed, self.request.seed):
                found[name] = self._in_order(places, given)
                kind = "majority" if name == yardsticks.MAJORITY else "sklearn"
                rows.append({"name": name, "kind": kind, "seconds": seconds})
            write_npz(kept, found)
            self.log.write("yardsticks", rows=rows)
            best = max(found, key=lambda name: per_image(self._ranked_by, self.truth, found[name]).mean())
            figure = judging.figures(self.truth, found[best])[self._shown_metric]
            self.say(f"best yardstick without a network: {best}, {self._shown_metric} {figure:.3f}")
        entry = self.log.last("yardsticks")
        assert entry is not None  # noqa: S101
        with np.load(kept, allow_pickle=False) as file:
            return [self._answered(Row(val={}, **about), file[about["name"]]) for about in entry["rows"]]

    # --- pretrained networks ------------------------------------------------------------------------------------------

    @cached_property
    def backbones(self) -> Mapping[str, str]:
        """The pretrained networks that take part: timm's name -> file of weights."""
        if not self.log.last("decision", name="pretrained") and (self.log.last("trial") or self.log.last("searched")):
            return {}  # the search began with an older version
        asked = self.request
        return self.log.decide(
            "pretrained", lambda: backbones_of(asked.weights, asked.backbone, asked.pretrained, self.say), self.say
        )

    def measure_pretrained(self) -> list[Answered]:
        """Linear classifiers on features of pretrained networks, on the same folds as the other networks."""
        found = []
        torch.set_num_threads(int(self._plans["threads"]))
        for name, file in self.backbones.items():
            entry = self.log.last("probed", backbone=name)
            if entry is None or entry.get("for_time", self.seconds) < self.seconds:
                entry = self.log.write("probed", backbone=name, **self._probed(name, Path(file)))
                self.say(f"pretrained {name}: {entry['said']}")
            if "row" in entry:
                with np.load(self._probe_file(name), allow_pickle=False) as kept:
                    found.append(self._answered(Row(**entry["row"], val={}), kept["probabilities"]))
        return found

    def _probed(self, name: str, file: Path) -> dict[str, Any]:
        """What the log says of a pretrained network; its network and answers are kept."""
        began = self.log.used
        spent = sum(entry.get("seconds", 0.0) for entry in self.log.entries if entry["kind"] == "probed")
        after_search = self._until - began - 2 * self.plan.folds * self.plan.training
        room = pretrained.Room(
            constraints=self.config_of_search().constraints,
            seconds=min(pretrained.SHARE * self.seconds - spent, after_search),
            after=end_of(self.seconds) / 2,
        )
        try:
            probed = pretrained.probe(
                name,
                file,
                self.data,
                self.data_config,
                self.splits,
                room,
                scratch=self._probe_file(name).with_suffix(".safetensors"),
                device=device_of(self.request.device),
                balanced=self._balanced,
                seed=self.request.seed,
            )
        except (pretrained.LeftOutError, BuildError, ConfigError) as error:
            late = {"for_time": self.seconds} if getattr(error, "for_time", False) else {}
            return {"said": f"left out: {error}", **late}
        given = self._in_order(probed.places, probed.probabilities)
        arrays = {"probabilities": given, "weight": probed.first.weight, "bias": probed.first.bias}
        write_npz(self._probe_file(name), arrays)
        save_network(self._probe_folder(name), probed.network, probed.network.description)
        figure = judging.figures(self.truth, given)[self._shown_metric]
        seconds = round(self.log.used - began, 2)
        row = {
            "name": f"{name} (pretrained)",
            "kind": "pretrained",
            "params": probed.costs["cost/params"],
            "flops": probed.costs["cost/flops"],
            "seconds": seconds,
        }
        said = f"a linear classifier on its features at {probed.resolution} pixels, {self._shown_metric} {figure:.3f}"
        return {
            "said": said,
            "row": row,
            "resolution": probed.resolution,
            "second_per_image": probed.second_per_image,
            "seconds": seconds,
        }

    def _probe_file(self, name: str) -> Path:
        """The answers of a pretrained network, and the classifier of its first split."""
        return self.folder / "pretrained" / f"{name}.npz"

    def _probe_folder(self, name: str) -> Path:
        """The pretrained network with its linear classifier."""
        return self.folder / FINALISTS / f"{name}-linear"

    def linear_of(self, row: Row) -> Path:
        """The folder of a pretrained network with its linear classifier."""
        return self._probe_folder(str(self._probe_of(row)["backbone"]))

    def _probe_of(self, row: Row) -> Mapping[str, Any]:
        """The line of the log on a pretrained network."""
        probed = (entry for entry in reversed(self.log.entries) if entry["kind"] == "probed")
        return next(entry for entry in probed if entry.get("row", {}).get("name") == row.name)

    def tune_last(self, row: Row, until: float, share: float) -> Path:
        """Fine-tune a pretrained network on all images but those of the test split, where time allows it and it helps.

        Args:
            row: the network.
            until: names the choice that this training follows.
            share: of the time that is left.

        Returns:
            The folder of the network: fine-tuned, or with its linear classifier.
        """
        probed, learnt = self._probe_of(row), self.splits[0][0]
        name, linear = str(probed["backbone"]), self.linear_of(row)
        entry = self.log.last("last_training", network=name, until=until)
        if entry is None:
            allowed = max(self.seconds - end_of(self.seconds) - self.log.used, 0.0) * share
            epochs = pretrained.epochs_of_tuning(
                allowed, float(probed["second_per_image"]), len(learnt), len(self.pool)
            )
            earlier = self.log.last("trained", network=name)
            if earlier is not None:
                epochs = max(epochs, int(earlier["epochs"]))
            deadline = self.log.used + allowed
            entry = self.log.write("last_training", network=name, until=until, epochs=epochs, deadline=deadline)
            length = f"{epochs} epochs of fine-tuning" if epochs else "none, the time is too short to fine-tune it"
            self.say(f"last training of {row.name}: {length}")
        epochs = int(entry["epochs"])
        done = self.log.last("trained", network=name, epochs=epochs)
        if done is None:
            with self._ends_by(name, until):
                folder = self._tuned(name, epochs) if epochs else linear
            place = folder.relative_to(self.folder).as_posix()
            done = self.log.write("trained", row=row.name, folder=place, network=name, epochs=epochs)
        return self.folder / str(done["folder"])

    def _tuned(self, name: str, epochs: int) -> Path:
        """Fine-tune on the first split, and on all images where the answers on its other images are better for it."""
        learnt, asked = self.splits[0]
        linear, folder = self._probe_folder(name), self.folder / FINALISTS / f"{name}-tuned-e{epochs}"
        recipe = pretrained.recipe_of_tuning(self.data.shape[1], balanced=self._balanced)
        device = device_of(self.request.device)
        with np.load(self._probe_file(name), allow_pickle=False) as kept:
            before, head = kept["probabilities"], pretrained.Head(kept["weight"], kept["bias"])
        settings: dict[str, Any] = {"seed": self.request.seed, "device": device, "tick": self._tick}
        entry = self.log.last("tuning", network=name, epochs=epochs)
        if entry is None:
            network = pretrained.tuned(linear, learnt, recipe, epochs, head=head, checkpoint=None, **settings)
            rows = np.searchsorted(self.places, asked.index)
            truth = asked.labels.numpy()
            figure = float(per_image(self._ranked_by, truth, before[rows]).mean())
            better = None
            if network is not None:
                given = pretrained.ask(network, asked, device)
                better = float(per_image(self._ranked_by, truth, given).mean())
            entry = self.log.write("tuning", network=name, epochs=epochs, before=figure, after=better)
        if entry["after"] is None or entry["after"] <= entry["before"]:
            self.say(f"{name} keeps its linear classifier: fine-tuning did not help on the first split")
            return linear
        checkpoint = folder.with_name(f"{folder.name}.pt")
        network = pretrained.tuned(linear, self.pool, recipe, epochs, head=None, checkpoint=checkpoint, **settings)
        if network is None:
            self.say(f"{name} keeps its linear classifier: fine-tuning was late, or diverged")
            return linear
        return pretrained.save_tuned(folder, network, recipe, epochs)

    @cached_property
    def _tick(self) -> Callable[..., None]:
        """Called during a training, it writes a line now and then: a kill must not make the seconds forgotten."""
        seen = [time.monotonic()]

        def tick(*_: object) -> None:
            if time.monotonic() - seen[0] > _TICK_S:
                seen[0] = time.monotonic()
                self.log.write("tick")

        return tick

    @property
    def _balanced(self) -> bool:
        """Whether classes of unequal size weigh the same."""
        return self.metric in ("balanced_accuracy", "f1_macro")

    @property
    def _ranked_by(self) -> str:
        """The metric as `per_image` has it: macro F1 is no mean over images, and goes with the balanced accuracy."""
        return "balanced_accuracy" if self.metric == "f1_macro" else self.metric

    @property
    def _shown_metric(self) -> str:
        return "accuracy" if self.metric == "loss" else self.metric

    def _in_order(self, places: np.ndarray, given: np.ndarray) -> np.ndarray:
        """Answers in the order of `places`."""
        ordered: np.ndarray = given[np.argsort(places)]
        return ordered

    def _answered(self, row: Row, given: np.ndarray) -> Answered:
        return Answered(replace(row, val=metrics_of(self.truth, given)), given)

    # --- the search ---------------------------------------------------------------------------------------------------

    def _config(self, *, epochs: int, folds: int | None = None, threads: int | None = None) -> ExperimentConfig:
        """Return the configuration of the search, its space resolved for these images."""
        objective = {"loss": "min:val/loss"}.get(self.metric, f"val/{self.metric}")
        balanced = {"class_weights": "balanced"} if self._balanced else {}
        folds = self.folds if folds is None else folds
        single = folds == 1
        name = "training" if single else "cross_validation"
        options: dict[str, Any] = {"keep_answers": True, "device": self.request.device}
        if threads is not None:
            options["threads"] = threads
        if not single:
            options |= {"folds": folds}
        at = [max(1, epochs // 3)] if single else [step for step in (1, 2) if step < folds]
        config = resolve(
            {
                "name": SEARCH,
                "space": load_space("photos"),
                "data": {
                    "source": self.data_config.source,
                    "validation": VALIDATION_SHARE,
                    "seed": self.request.seed,
                },
                "strategy": {"name": "evolution", "population": 8},
                "evaluator": {"name": name, **options},
                "pruner": {"name": "asha", "at": at},
                "runner": "local",
                "objectives": [objective],
                "constraints": list(self.request.constraints),
                "budget": {"worker_seconds": self.seconds},
                "start_from": "portfolio",
                "epochs": epochs,
                "recipe": balanced,
                "seed": self.request.seed,
                "runs_dir": str(self.folder),
                "tracking_uri": self.tracking_uri,
            }
        )
        return compose.suited_to_images(replace(config, title=self.folder.name))

    def config_of_search(self) -> ExperimentConfig:
        """Return the configuration by which candidates are trained."""
        return self._config(epochs=self.plan.epochs)

    @cached_property
    def space(self) -> SearchSpace:
        """The space of the search, resolved for these images."""
        return self.config_of_search().space

    def search(self) -> State:
        """Try candidates until the time for it is over, from the portfolio on."""
        plan, until = self.plan, self._until
        # the journal charges work, the log measures time: the keeper ends the search before the budget is charged
        threads = int(self._plans["threads"])
        torch.set_num_threads(threads)
        config = self._config(epochs=self.plan.epochs, threads=threads)
        entry = self.log.last("searched")
        if entry is not None and entry["until"] >= until:
            return load_state(config.folder)
        keeper = Keeper(self.log, until, plan.folds, self.say)
        try:
            with trainings_end_by(keeper.deadline):
                state = compose.search(
                    config, trackers=[keeper], say=self._quietly, on_open=keeper.watch, patient=False
                )
        except StopNow:
            if not keeper.ended or keeper.stopped_by_user:
                raise
            state = load_state(config.folder)
        if not state.accepted:
            raise SearchError(why_nothing_is_admitted(state))
        if not any(trial.comparable for trial in state.trials.values()):
            raise SearchError(
                f"{self.folder}: no network was trained to the end in time: {state.why_no_best}. Give more --time"
            )
        self.log.write("searched", until=until, trials=state.accepted)
        return state

    def _quietly(self, text: str) -> None:
        """Pass on what the search says, but for notes that the inspection has said already."""
        if not text.startswith("Note: data "):
            self.say(text)

    def candidates(self, state: State) -> list[Answered]:
        """The trials that were trained to the end on all folds, with their answers."""
        found = []
        default = self.space.default_point()
        for trial in state.trials.values():
            result = trial.result
            if not trial.comparable or result is None or ANSWERS not in result.artifacts or trial.architecture is None:
                continue
            tensors = load_file(file_of(self.folder / SEARCH, result.artifacts[ANSWERS]))
            given = self._in_order(tensors["images"].numpy(), tensors["probabilities"].float().numpy())
            plain = trial.architecture.model == default.model
            row = Row(
                name=f"{'plain ResNet' if plain else 'found'} (trial {trial.number})",
                kind="reference" if plain else "found",
                val={},
                params=trial.costs.get("cost/params"),
                flops=trial.costs.get("cost/flops"),
                seconds=result.charged.worker_seconds,
                trial=trial.number,
            )
            found.append(self._answered(row, given))
        return found

    # --- the choice, and what follows it ------------------------------------------------------------------------------

    def choose(self, candidates: list[Answered], others: list[Answered], tried: int) -> Mapping[str, Any]:
        """The winner, from answers on images that no network was trained on, written down before any test."""
        entry = self.log.last("chosen")
        if entry is not None and entry["until"] >= self._until and not self._is_unfit(entry["trial"]):
            return entry
        candidates = [c for c in candidates if not self._is_unfit(c.row.trial)]
        if not candidates:
            raise SearchError(f"{self.folder}: the last training of every candidate failed. Give more --time")
        metric = self._ranked_by
        scores = {c.row.name: per_image(metric, self.truth, c.probabilities) for c in candidates}
        chosen = choose(scores, {c.row.name: float(c.row.flops or math.inf) for c in candidates})
        winner = next(c for c in candidates if c.row.name == chosen.winner)
        # yardsticks without probabilities of their own are compared by what they choose
        shown = self._shown_metric if self._shown_metric != "f1_macro" else metric
        its = per_image(shown, self.truth, winner.probabilities)
        ahead = [
            other.row.name
            for other in others
            if judging.is_ahead(per_image(shown, self.truth, other.probabilities), its)
        ]
        temperature = judging.temperature_of(self.truth, winner.probabilities)
        sure = calibrated(winner.probabilities, temperature)
        return self.log.write(
            "chosen",
            until=self._until,
            winner=chosen.winner,
            trial=winner.row.trial,
            reason=_why(chosen, metric),
            compared=chosen.compared,
            tried=tried,
            beaten_by=ahead,
            nothing_learnt=is_constant(self.truth, winner.probabilities),
            temperature=temperature,
            unsure_below=judging.unsure_below(self.truth, sure),
            confused=[
                {
                    "class": self.data.class_names[c.truth],
                    "taken_for": self.data.class_names[c.taken_for],
                    "images": c.images,
                }
                for c in confusions(self.truth, winner.probabilities)
            ],
            doubtful=[
                {
                    "place": int(self.places[row]),
                    "file": self.files[int(self.places[row])],
                    "label": self.data.class_names[self.truth[row]],
                    "likely": self.data.class_names[likely],
                    "probability": probability,
                }
                for row, likely, probability in doubtful(self.truth, [c.probabilities for c in candidates])
            ],
            tested_before=self.log.last("opened") is not None,
        )

    def _is_unfit(self, trial: int | None) -> bool:
        """Tell whether the last training of a trial failed; a pretrained network, of no trial, has its classifier."""
        return trial is not None and self.log.last("unfit", trial=trial) is not None

    def train_last(self, state: State, row: Row, until: float, share: float) -> tuple[Path, str]:
        """Train a candidate anew on all images but those of the test split.

        Args:
            state: of the search.
            row: the candidate.
            until: names the choice that this training follows.
            share: of the time that is left.

        Returns:
            The folder of the network, and why the training failed; empty where it is saved.
        """
        assert row.trial is not None  # noqa: S101
        allowed = max(self.seconds - end_of(self.seconds) - self.log.used, 0.0) * share
        training = self._retraining(state, state.trials[row.trial], until, allowed)
        if training.trained:
            return training.folder, ""
        self.say(f"last training of {row.name}: {training.epochs} epochs on {len(self.pool)} images")
        with self._ends_by(training.name, until):
            problem = train_network(training, self._tick)
        if not problem:
            folder = training.folder.relative_to(self.folder).as_posix()
            self.log.write("trained", row=row.name, folder=folder, network=training.name, epochs=training.epochs)
        return training.folder, problem

    def _ends_by(self, network: str, until: float) -> AbstractContextManager[None]:
        """Give the trainings of a block the deadline that the log has for a network's last training."""
        entry = self.log.last("last_training", network=network, until=until)
        assert entry is not None  # noqa: S101  (it is written before)
        end = time.monotonic() + max(float(entry["deadline"]) - self.log.used, 1.0)
        return trainings_end_by(lambda: end)

    def _retraining(self, state: State, trial: Trial, until: float, allowed: float) -> Retraining:
        config = self.config_of_search()
        assert trial.architecture is not None and trial.result is not None  # noqa: S101
        point: Architecture = trial.architecture
        recipe = recipe_of(config.space, point, config.recipe)
        name = f"{point.arch_id}-{point.point_id[:6]}"
        of_fold = trial.result.charged.worker_seconds / self.folds / self.plan.epochs
        per_epoch = of_fold * len(self.pool) / len(self.splits[0][0])
        entry = self.log.last("last_training", network=name, until=until)
        if entry is None:
            epochs = last_epochs(self.plan, allowed, per_epoch)
            earlier = self.log.last("trained", network=name)
            if earlier is not None and earlier["epochs"] >= epochs:
                epochs = int(earlier["epochs"])  # a longer one is there already
            deadline = self.log.used + last_training_may_take(self.plan.epochs, allowed, self.seconds, per_epoch)
            entry = self.log.write("last_training", network=name, until=until, epochs=epochs, deadline=deadline)
        classes, channels = self.pool.classes, self.data.shape[0]
        costs = costs_of(
            lambda: build(config.space, point, in_channels=channels, classes=classes),
            self.data.shape,
            recipe.batch_size,
        )
        epochs = int(entry["epochs"])
        return Retraining(
            name=name,
            folder=self.folder / FINALISTS / f"{name}-e{epochs}",
            space=config.space,
            architecture=point,
            recipe=recipe,
            seed=self.request.seed,
            epochs=epochs,
            data=self.data_config,
            costs=costs,
            device=self.request.device,
            data_hash=self.data.fingerprint,
        )

    def test(self, row: Row, what: str, answer: Callable[[Part], np.ndarray]) -> Row:
        """The row with its figures on the test split, which it meets once; every meeting is on record before it.

        Args:
            row: without figures on the test split.
            what: names the trained network, or the yardstick.
            answer: asks it.
        """
        done = self.log.last("tested", what=what)
        if done is None:
            self.log.write("opened", row=row.name, what=what)
            part = self.data.open_test()
            given = answer(part)
            write_npz(self.test_answers_of(what), {"truth": part.labels.numpy(), "probabilities": given})
            tested = row.tested(part.labels.numpy(), given)
            done = self.log.write("tested", row=row.name, what=what, figures=tested.to_json())
        figures = Row.from_json(done["figures"])
        return replace(row, test=figures.test, test_ci95=figures.test_ci95)

    def test_answers_of(self, what: str) -> Path:
        """Return the file that keeps the answers of a row on the test split."""
        return self.folder / "answers" / f"{what.replace(' ', '_')}.npz"

    @cached_property
    def files(self) -> list[str]:
        """Names of the images, by their places in the source."""
        with np.load(self.data_config.source, allow_pickle=False) as found:
            return [str(name) for name in found["files"]]

    def answer_of(self, folder: Path, temperature: float = 1.0) -> Callable[[Part], np.ndarray]:
        """Return the function that asks the network in a folder."""

        def answer(part: Part) -> np.ndarray:
            place = device_of(self.request.device)
            return calibrated(pretrained.ask(load(folder, place), part, place), temperature)

        return answer

    def keep_best(self, folder: Path, chosen: Mapping[str, Any], row: Row) -> Path:
        """Make the winner `best/`, with its calibration and figures."""
        network = load(folder)
        metrics = {f"val/{key}": value for key, value in row.val.items()}
        metrics |= {f"test/{key}": value for key, value in row.test.items()}
        calibration = Calibration(float(chosen["temperature"]), float(chosen["unsure_below"]))
        about = network.description
        description = replace(about, metrics={**about.metrics, **metrics}, calibration=calibration)
        return save_network(self.folder / BEST, network, description)

    def export(self) -> dict[str, Any]:
        """Ship `best/`, verified."""
        return export(self.folder, ["onnx", "safetensors"], self.folder / EXPORTED)


def sentences_on(found: Mapping[str, Any]) -> list[str]:
    """Return an inspection, JSON-able, as sentences for the user."""
    classes = sorted(found["classes"].items(), key=lambda pair: -pair[1])
    some = ", ".join(f"{name} {count}" for name, count in classes[:_MOST_CLASSES])
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    lines = [f"{found['images']:,} images of {len(classes)} classes: {some}{more}"]
    listed = {
        "unreadable images, left out": [f"{name}: {reason}" for name, reason in found["unreadable"].items()],
        "classes left out": [f"{name}: {reason}" for name, reason in found["left_out"].items()],
        "equal images with different classes": [" = ".join(names) for names in found["two_labels"]],
        "equal images, kept on one side of every split": [" = ".join(names) for names in found["duplicates"]],
        "nearly equal images, kept on one side of every split": [
            " ~ ".join(names) for names in found["near_duplicates"]
        ],
    }
    lines += [f"{what}: {len(every)}, such as {every[0]}" for what, every in listed.items() if every]
    return [*lines, *found["notes"]]


def fastest_threads(network: torch.nn.Module, part: Part, recipe: Recipe, device: torch.device) -> tuple[int, float]:
    """Return the number of torch threads with which a step is fastest, one or all, and its seconds; torch keeps it.

    Small networks, and machines that do other work, are faster with one.
    """
    every = torch.get_num_threads()
    found = []
    for threads in sorted({1, every}):
        torch.set_num_threads(threads)
        found.append((second_per_step(network, part, recipe, device), threads))
    per_step, threads = min(found)
    torch.set_num_threads(threads)
    return threads, per_step


def second_per_step(network: torch.nn.Module, part: Part, recipe: Recipe, device: torch.device) -> float:
    """Seconds of one optimizer step, measured on a few batches after some that warm the machine up."""
    few = part.subset(torch.arange(min(len(part), 6 * recipe.batch_size)))
    steps = max(1, math.ceil(len(few) / recipe.batch_size))
    began = time.monotonic()
    train(network, few, recipe, epochs=1, seed=0, device=device)
    if time.monotonic() - began > _PATIENCE_S:  # a slow machine is not measured twice
        return (time.monotonic() - began) / steps
    began = time.monotonic()
    train(network, few, recipe, epochs=2, seed=0, device=device)
    return (time.monotonic() - began) / (2 * steps)


def _why(chosen: Choice, metric: str) -> str:
    if chosen.compared == 1:
        return "the only candidate that was trained to the end"
    if chosen.winner == chosen.best:
        return (
            f"the best {metric.replace('_', ' ')} of {chosen.compared} candidates, and none is cheaper within the noise"
        )
    return (
        f"the cheapest of {chosen.compared} candidates within one standard error ({chosen.error:.4f}) of the best, "
        f"{chosen.best}, {chosen.behind:.4f} behind it in {metric.replace('_', ' ')}"
    )


@contextmanager
def phase(log: FitLog, name: str) -> Iterator[None]:
    """Write down how long a phase took."""
    before = log.used
    yield
    log.write("phase", name=name, seconds=round(log.used - before, 2))
