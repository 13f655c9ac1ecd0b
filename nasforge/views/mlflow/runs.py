"""Runs of MLflow from a journal's events: of the search, of each trial and network. Plain data, no mlflow."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from nasforge.core.architecture import Architecture, digest
from nasforge.core.events import (
    Asked,
    Checked,
    Ended,
    Event,
    Extended,
    Header,
    Interrupted,
    Reported,
    Started,
    TestOpened,
    Told,
)
from nasforge.core.ladder import Rung
from nasforge.core.layout import FINALISTS
from nasforge.core.pareto import dominates
from nasforge.core.recipe import SETTINGS
from nasforge.core.trial import CHARGES, Measure, Proposal, Score, TrainShared, Trial
from nasforge.experiment.experiment import VOLATILE
from nasforge.experiment.state import State
from nasforge.views.results import description_of, interval_of
from nasforge.views.statistics import spread

PARENT = "search"
"""Key of the parent run; the others are `trial/<number>` and `finalist/<name>`."""

SEARCH_ROLE = "search"
"""Role of the run that sums up a search."""

ARCHITECTURE = "nasforge.architecture"
_SEED = re.compile(r"-seed\d+")
# MLflow's UI marks KILLED like FAILED, in red; a pruned trial has ended as it should.
_STATUS = {"finished": "FINISHED", "pruned": "FINISHED", "rejected": "KILLED", "failed": "FAILED"}
# Servers before MLflow 2 allow 500 characters in a parameter and 5,000 in a tag; newer ones more.
_PARAM_LENGTH = 500
TAG_LENGTH = 5000
_KEY_LENGTH = 250
_LARGEST_STEP = 2**62
_LONGEST_S = 1e9
_SEARCHING = (Asked, Started, Told, Extended, Ended)
"""Events that only a running search writes; work on its finalists writes others."""


@dataclass
class Writes:
    """Pending writes to one run. Writing them twice has the effect of writing them once.

    Attributes:
        name: shown in the UI.
        identity: tags that find the run again among those of its search.
        exists: whether the run was made by an earlier event, so that it is never made by these writes.
        params: never change.
        tags: may change, the last one counts.
        architecture: as JSON, empty for a run without one.
        metrics: (key, step, seconds after the run's start, value); times are those that workers spent, so they
            do not depend on when the event was delivered.
        renamed: name of a metric or parameter -> the name that MLflow takes instead.
        left_out: what cannot be written, one line each.
        status: MLflow's status to set, empty for none.
        done: nothing more is expected of this run.
        seconds: its duration, once it is done.
    """

    name: str
    identity: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    architecture: str = ""
    metrics: dict[tuple[str, int, float], float] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    status: str = ""
    done: bool = False
    seconds: float = 0.0
    exists: bool = False

    @property
    def whole(self) -> bool:
        """True if these are the first and the last writes of the run, and none of them needs MLflow's checks."""
        short = len(self.name) <= _KEY_LENGTH and len(self.architecture) <= TAG_LENGTH
        return self.done and not self.exists and short and all(map(math.isfinite, self.metrics.values()))

    def measure(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Add metrics after `step`."""
        if not isinstance(step, int) or abs(step) > _LARGEST_STEP:
            self.left_out.append(f"{self.name}: MLflow takes no step {step!r}")
            return
        time_s = _time(seconds)
        # a run's duration tells what is charged already
        for key, name in self._names(key for key in metrics if key not in CHARGES).items():
            try:
                self.metrics[(name, step, time_s)] = float(metrics[key])
            except (TypeError, ValueError, OverflowError):
                self.left_out.append(f"{self.name}: {name} is no number that MLflow can keep")

    def describe(self, params: Mapping[str, str]) -> None:
        """Add parameters."""
        self.params.update({name: params[key] for key, name in self._names(params).items()})

    def decide(self, architecture: Architecture) -> None:
        """Add the decisions of a network as parameters, and its ids."""
        self.describe(_flat("", architecture.values))
        self.tags.update({"nasforge.arch_id": architecture.arch_id, "nasforge.point_id": architecture.point_id})

    def _names(self, keys: Iterable[str]) -> dict[str, str]:
        names = allowed_keys(keys)
        self.renamed.update({key: name for key, name in names.items() if key != name})
        return names


class Runs:
    """Folds events into the state of the search and into writes, run by run."""

    def __init__(self, folder: Path | None = None) -> None:
        """Start before the first event.

        Args:
            folder: of the experiment, for what lies next to its retrained networks; None for a journal alone.
        """
        self.state: State | None = None
        self.position = 0
        self.searched = 0
        """Length of the journal up to the last event of a running search."""
        self.name = ""
        """What the names of runs begin with; empty: a trial's is `trial 37`, in the layout of earlier versions."""
        self._folder = folder
        self._closed: Counter[str] = Counter()
        self._best: Trial | None = None
        self._front: dict[int, tuple[float, ...]] = {}
        self._depth = 0
        self._tests: dict[str, dict[str, Mapping[str, float]]] = {}

    def fold(self, events: Iterable[Event], skip: int = 0) -> dict[str, Writes]:
        """Return the writes of the journal's next events; those before position `skip` are only counted."""
        writes: dict[str, Writes] = {}
        for event in events:
            sink = writes if self.position >= skip else {}
            self._apply(event, sink)
            self.position += 1
            if isinstance(event, _SEARCHING):
                self.searched = self.position
        return writes

    def _apply(self, event: Event, writes: dict[str, Writes]) -> None:
        if isinstance(event, Header):
            self.state = State(event)
            parent = self.summary(writes)
            parent.describe(_header_params(event))
            parent.tags.update(_header_tags(event) | _budget_tags(self.state))
            if self.name:
                parent.tags.update({"nasforge.experiment": self.name, "nasforge.role": SEARCH_ROLE})
            return
        state = self._state
        state.apply(event)
        match event:
            case Asked(number, proposal):
                run = self._trial(number, writes)
                run.exists = False
                run.describe(_proposal_params(proposal))
                run.tags.update(_proposal_tags(proposal))
                run.tags.update(self.common_tags("supernet" if isinstance(proposal, TrainShared) else "trial"))
                if isinstance(proposal, Measure):
                    run.architecture = json.dumps(proposal.architecture.to_json())
            case Checked(number, costs, verdict):
                run = self._trial(number, writes)
                run.tags["nasforge.check"] = verdict
                run.measure(costs, 0, 0.0)
            case Started(number, attempt):
                run = self._trial(number, writes)
                run.tags.update({"nasforge.status": "running", "nasforge.attempts": str(attempt)})
                run.status = "RUNNING"
            case Interrupted(number, attempt):
                run = self._trial(number, writes)
                run.tags["nasforge.status"] = "interrupted"
                run.status = "KILLED"
            case Reported(number, _, step, metrics, _):
                self._trial(number, writes).measure(metrics, step, metrics.get("time/worker_s", 0.0))
            case Told(number, _):
                self._close(number, writes)
            case Extended():
                self.summary(writes).tags.update(_budget_tags(state))
            case TestOpened(finalist, metrics) if metrics:
                self._tested(finalist, metrics, writes)

    def _tested(self, finalist: str, metrics: Mapping[str, float], writes: dict[str, Writes]) -> None:
        """Write a network that has met the test split, and on the search's run the mean over its seeds."""
        about = network_of(self._folder, finalist)
        trained = about.get("trained", {})
        role = _role_of(finalist, trained)
        name = f"{self.name} {role} {finalist}" if self.name else f"finalist {finalist}"
        run = writes.setdefault(f"finalist/{finalist}", Writes(name, {"nasforge.finalist": finalist}))
        costs = {key: value for key, value in about.get("metrics", {}).items() if key.startswith("cost/")}
        run.measure({**costs, **metrics}, 0, 0.0)
        run.describe(_flat("", {key: trained[key] for key in ("seed", "epochs") if key in trained}))
        run.describe(_flat("train", _not_default(trained.get("recipe"))))
        run.tags["nasforge.status"] = "finished"
        run.tags.update(self.common_tags(role))
        run.status, run.done = "FINISHED", True
        network = _SEED.sub("", finalist)
        seeds = self._tests.setdefault(network, {})
        seeds[finalist] = metrics
        if role not in ("found", "reference") or not self._is_of_best(finalist, trained):
            return
        prefix = "" if role == "found" else _prefix_of(trained)
        summary: dict[str, float] = {}
        for key in metrics:
            over = spread([test[key] for test in seeds.values() if key in test])
            summary[f"{prefix}{key}"] = over.mean
            if (interval := interval_of(key, over)) is not None:
                summary[f"{prefix}{key}_low"], summary[f"{prefix}{key}_high"] = interval
        self.summary(writes).measure(summary, len(seeds), self.seconds)

    def _is_of_best(self, finalist: str, trained: Mapping[str, Any]) -> bool:
        """Return whether a retrained network is that of the best trial, widened or not, or its reference."""
        if self._best is None or self._best.architecture is None:
            return False
        point = self._best.architecture  # folders of earlier versions do not say the trial
        return trained.get("trial") == self._best.number or point.short_id in finalist

    def _close(self, number: int, writes: dict[str, Writes]) -> None:
        state = self._state
        trial = state.trials[number]
        result = trial.result
        assert result is not None  # noqa: S101  (the event brought it)
        run = self._trial(number, writes)
        run.seconds = _time(result.charged.worker_seconds)
        run.status, run.done = _STATUS[result.status], True
        latest = {**trial.costs, **(trial.steps[-1].metrics if trial.steps else {})}
        news = {key: value for key, value in result.metrics.items() if latest.get(key) != value}
        run.measure(news, result.steps_done, run.seconds)
        for index, metrics in enumerate(result.scores):  # a batch as a curve, its first architecture at step 0
            run.measure(metrics, index, run.seconds)
        run.tags["nasforge.status"] = result.status
        if result.error:
            run.tags.update(
                {
                    "nasforge.cause": result.error.cause,
                    "nasforge.message": result.error.message,
                    "nasforge.advice": result.error.advice,
                }
            )
        self._closed[result.status] += 1
        closed = self._closed.total()
        self._compare(trial)
        if self.name:
            self._mark_front(trial, run, writes)
        parent = self.summary(writes)
        seconds = state.charged.worker_seconds
        parent.measure({f"trials/{status}": self._closed[status] for status in _STATUS}, closed, seconds)
        if self._best is not None:
            best = self._best
            known = [goal.metric for goal in state.objectives if goal.metric in best.metrics]
            parent.measure({f"best/{metric}": best.metrics[metric] for metric in known}, closed, seconds)
            parent.tags["nasforge.best_trial"] = str(best.number)
            if best.architecture:
                parent.tags["nasforge.best_arch_id"] = best.architecture.arch_id

    def _compare(self, trial: Trial) -> None:
        """Keep the first of `State.ranking()` without sorting all trials each time."""
        if not trial.comparable:
            return
        if self._best is None or self._state.merit(trial) > self._state.merit(self._best):
            self._best = trial

    def _mark_front(self, trial: Trial, run: Writes, writes: dict[str, Writes]) -> None:
        """Flag a closed trial as on the Pareto front or not, and those that it drives from it."""
        run.tags["nasforge.pareto"] = "false"
        result = trial.result
        if not trial.comparable or result is None or result.values is None or result.steps_done < self._depth:
            return
        values = result.values
        before = self._front if result.steps_done == self._depth else {}
        if any(other == values or dominates(other, values) for other in before.values()):
            return
        front = {number: other for number, other in before.items() if not dominates(values, other)}
        for number in self._front.keys() - front.keys():
            self._trial(number, writes).tags["nasforge.pareto"] = "false"
        self._front, self._depth = {**front, trial.number: values}, result.steps_done
        run.tags["nasforge.pareto"] = "true"

    def common_tags(self, role: str) -> dict[str, str]:
        """Return the tags of every run in addition to its search's; the layout of earlier versions has none."""
        if not self.name:
            return {}
        return {"nasforge.experiment": self.name, "nasforge.role": role, "nasforge.pareto": "false"}

    @property
    def seconds(self) -> float:
        """Seconds that all workers have spent on the search."""
        return _time(self._state.charged.worker_seconds)

    @property
    def _state(self) -> State:
        assert self.state is not None  # noqa: S101  (the journal's first line is its header)
        return self.state

    def summary(self, writes: dict[str, Writes]) -> Writes:
        """Return the writes of the search's own run."""
        return writes.setdefault(PARENT, Writes(self._state.header.experiment, {}))

    def _trial(self, number: int, writes: dict[str, Writes]) -> Writes:
        name = f"{self.name} #{number}" if self.name else f"trial {number}"
        return writes.setdefault(f"trial/{number}", Writes(name, {"nasforge.trial": str(number)}, exists=True))


def network_of(folder: Path | None, finalist: str) -> Mapping[str, Any]:
    """Return the description of a retrained network, as its file says; empty where it cannot be read."""
    return {} if folder is None else description_of(folder / FINALISTS, finalist)


def _prefix_of(trained: Mapping[str, Any]) -> str:
    """Return where the search's run has the metrics of a reference: `reference/`, or `reference/vgg/` of another one.

    The default reference, functions of the user's and those of earlier versions have `reference/`.
    """
    name = str(trained.get("reference", ""))
    if name.startswith("timm:"):
        return f"reference/{name.replace(':', '_')}/"
    return "reference/" if name in ("", "resnet") or ":" in name else f"reference/{name}/"


def _role_of(finalist: str, trained: Mapping[str, Any]) -> str:
    """Return what a retrained network is to the search; folders of earlier versions do not say it."""
    if "role" in trained:
        return str(trained["role"])
    if "members" in trained or finalist.startswith("ensemble-of-"):
        return "ensemble"
    return "reference" if "-for-" in finalist else "found"


@cache
def allowed_key(key: str) -> str:
    """The name of a metric, parameter or tag as MLflow takes it, which may treat names as paths of files.

    Characters that it forbids become `_`, parts without a name are left out, and a long name ends with a digest.
    """
    name = re.sub(r"[^\w\-. :/]", "_", key)
    name = "/".join(part for part in name.split("/") if part not in ("", ".", "..")) or "_"
    name = f"_{name}" if name.startswith("..") else name
    return name if len(name) <= _KEY_LENGTH else _told_apart(name, key)


def allowed_keys(keys: Iterable[str]) -> dict[str, str]:
    """Each key's name in MLflow; a name that is another key's already ends with a digest."""
    originals = list(keys)
    names: dict[str, str] = {key: key for key in originals if allowed_key(key) == key}
    for key in originals:
        name = allowed_key(key)
        if key not in names:
            names[key] = _told_apart(name, key) if name in names.values() else name
    return {key: names[key] for key in originals}


def _told_apart(name: str, key: str) -> str:
    end = f"-{digest(key)[:8]}"
    return name[: _KEY_LENGTH - len(end)] + end


def _time(seconds: Any) -> float:
    """Seconds that can be counted from the start of a run."""
    try:
        value = float(seconds)
    except (TypeError, ValueError, OverflowError):
        return 0.0
    return min(max(value, 0.0), _LONGEST_S) if math.isfinite(value) else 0.0


def plain_text(text: str) -> str:
    """Return a text that every database takes: without NUL characters and halves of surrogate pairs."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def _param(value: Any) -> str:
    text = plain_text(value if isinstance(value, str) else json.dumps(value, default=str))
    return text if len(text) <= _PARAM_LENGTH else text[: _PARAM_LENGTH - 1] + "…"


def _not_default(recipe: Any) -> dict[str, Any]:
    """Return the settings of a recipe, as a file has it, that are not the defaults."""
    settings = recipe if isinstance(recipe, Mapping) else {}
    return {key: value for key, value in settings.items() if key in SETTINGS and value != SETTINGS[key].default}


def _flat(prefix: str, content: Any) -> dict[str, str]:
    if isinstance(content, Mapping):
        flat: dict[str, str] = {}
        for key, value in content.items():
            flat.update(_flat(f"{prefix}.{key}" if prefix else str(key), value))
        return flat
    return {} if content is None else {prefix: _param(content)}


def _header_params(header: Header) -> dict[str, str]:
    config = {key: value for key, value in header.config.items() if key not in (*VOLATILE, "space", "ladder")}
    for kind in ("strategy", "evaluator", "pruner"):
        named = config.pop(kind, None)
        if named:
            config[kind] = named["name"]
            config[f"{kind} option"] = named["options"]
    for goals in ("objectives", "constraints", "targets"):
        config[goals] = ", ".join(config.get(goals, ())) or None
    ladder = [Rung.from_json(rung) for rung in header.config["ladder"]]
    config[f"ladder {ladder[-1].unit}"] = ", ".join(map(str, ladder))
    config["space"] = header.config["space"]["name"]
    config["space_hash"] = header.space_hash
    config["data_hash"] = header.data_hash or None
    return _flat("", config)


def _header_tags(header: Header) -> dict[str, str]:
    versions = {f"nasforge.version.{package}": version for package, version in header.versions.items()}
    runner = header.config.get("runner") or {}
    return {
        "nasforge.experiment": header.experiment,
        "nasforge.space": header.config["space"]["name"],
        "nasforge.runner": runner.get("name", ""),
        **versions,
    }


def _budget_tags(state: State) -> dict[str, str]:
    goals = {f"until.{goal}".replace(":", "."): value for goal, value in state.budget.goals.items()}
    return {f"nasforge.budget.{name}": f"{limit:g}" for name, limit in {**state.budget.limits, **goals}.items()}


def _proposal_params(proposal: Proposal) -> dict[str, str]:
    if isinstance(proposal, Measure):
        origin = proposal.origin
        # `nasforge calibrate` trains a network several times: the parameter groups its trials
        repeats = {"repeats": f"#{origin.parents[0]}"} if origin and origin.operator == "repeated" else {}
        return _flat("", proposal.architecture.values) | repeats
    if isinstance(proposal, Score):
        return {"architectures": str(len(proposal.architectures))}
    return {"relaxation": proposal.relaxation, "epochs": str(proposal.epochs)}


def _proposal_tags(proposal: Proposal) -> dict[str, str]:
    if isinstance(proposal, Score):
        return {"nasforge.proposal": "score", "nasforge.batch": str(len(proposal.architectures))}
    if not isinstance(proposal, Measure):
        return {"nasforge.proposal": "train_shared"}
    architecture = proposal.architecture
    return {
        "nasforge.proposal": "measure",
        "nasforge.arch_id": architecture.arch_id,
        "nasforge.point_id": architecture.point_id,
    }
