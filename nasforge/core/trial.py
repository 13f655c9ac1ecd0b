"""Messages between strategy, experiment and evaluator: proposals, reports, results, and the record of a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import DataError
from nasforge.core.paths import inside
from nasforge.core.space import SearchSpace

Status: TypeAlias = Literal["finished", "pruned", "failed", "rejected"]
"""End of a trial: trained to the end, stopped early, failed, or violated a constraint before it started."""

Cause: TypeAlias = Literal[
    "diverged", "out_of_memory", "invalid_shape", "timeout", "crash", "preempted", "error", "missing_metric"
]
"""Cause of a trial's failure. Only `crash` and `preempted` are the infrastructure's fault and retried."""

CAUSES: tuple[str, ...] = get_args(Cause)
RETRIED: frozenset[str] = frozenset({"crash", "preempted"})


ENSEMBLE = "ensemble"
"""The artifact with the weights of several networks of one architecture, whose answers are averaged."""

CONTRADICTION = "narrow the decision, or nest it below the options of another one that it goes with"
"""Advice on an invalid recipe that a space allows."""

VIOLATION = "constraint/violation"
"""The metric of a rejection: by how much its costs exceed the constraints, the sum of relative excesses."""

CHARGES = ("time/worker_s", "work/multiply_adds")
"""Metrics that are charged to the budget."""

TRAINING_COSTS = ("time/train_s", *CHARGES)
"""Metrics of what a training cost; those of several trainings add up."""

CHECKPOINT = "checkpoint"
"""Artifact from which another trial resumes a training: weights, optimizer, averages, generators, epochs done."""

_Made = TypeVar("_Made")


def made(kind: type[_Made], fields: dict[str, Any]) -> _Made:
    """Make an object of a frozen dataclass from all of its fields.

    The dataclass' own constructor sets its fields one by one through `object.__setattr__`. Long journals make millions
    of objects, for which that was a third of the time.
    """
    content = object.__new__(kind)
    object.__setattr__(content, "__dict__", fields)
    return content


@dataclass(frozen=True)
class Artifact:
    """A file that a trial left behind.

    Attributes:
        path: relative to the experiment's folder, below `artifacts/`.
        sha256: hexadecimal digest of its content.
        size: bytes.
    """

    path: str
    sha256: str
    size: int

    @property
    def is_checkpoint(self) -> bool:
        """True if it is the complete state of a training, not weights alone."""
        return self.path.endswith(f"/{CHECKPOINT}.pt")

    def inside(self, folder: Path) -> Path:
        """Return the path in an experiment's folder, whether or not the file exists.

        Raises:
            DataError: a symbolic link on the way leads out of the folder.
        """
        file = inside(folder, self.path)
        if file is None:
            raise DataError(
                f"artifact {self.path} lies outside the experiment's folder {folder}: a link leads out of it. "
                "Replace the link by the files themselves",
                kind="untrusted",
            )
        return file

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {"path": self.path, "sha256": self.sha256, "size": self.size}

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Artifact | None:
        """Rebuild the object from its `to_json` form; None stays None."""
        return None if content is None else Artifact(content["path"], content["sha256"], content["size"])


@dataclass(frozen=True)
class Charge:
    """Cost of a piece of work.

    Attributes:
        worker_seconds: time a worker spent on it.
        multiply_adds: multiply-adds computed, forward and backward.
    """

    worker_seconds: float = 0.0
    multiply_adds: float = 0.0

    def __add__(self, other: Charge) -> Charge:
        return Charge.of(self.worker_seconds + other.worker_seconds, self.multiply_adds + other.multiply_adds)

    def at_least(self, other: Charge) -> Charge:
        """Return the greater amount of each kind."""
        seconds = max(self.worker_seconds, other.worker_seconds)
        return Charge.of(seconds, max(self.multiply_adds, other.multiply_adds))

    @staticmethod
    def of(worker_seconds: float, multiply_adds: float) -> Charge:
        """Make a charge in a third of the constructor's time."""
        return made(Charge, {"worker_seconds": worker_seconds, "multiply_adds": multiply_adds})

    def to_json(self) -> dict[str, float]:
        """Return the JSON-able form."""
        return {"worker_seconds": self.worker_seconds, "multiply_adds": self.multiply_adds}

    @staticmethod
    def from_json(content: Mapping[str, float]) -> Charge:
        """Rebuild the object from its `to_json` form."""
        if len(content) == 2:
            return Charge.of(content["worker_seconds"], content["multiply_adds"])
        return Charge(**content)


@dataclass(frozen=True)
class Forecast:
    """Forecast of a proposal's outcome, as a normal score: the quantile of the normal distribution at a rank's share.

    0 is the median of all trials told before, 1.28 is better than 90 % of them.

    Attributes:
        mean: expected score.
        deviation: standard deviation of the outcome, at least 0.
        weights: of the objectives, where there are several: the rank is that of the worst weighted objective, see
            `nasforge.strategies.weighted_ranks`. Empty with one objective.
    """

    mean: float
    deviation: float
    weights: tuple[float, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form without empty weights."""
        weights = {"weights": list(self.weights)} if self.weights else {}
        return {"mean": self.mean, "deviation": self.deviation, **weights}

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Forecast | None:
        """Rebuild the object from its `to_json` form; None stays None."""
        if content is None:
            return None
        fields = dict(content)
        return Forecast(**{**fields, "weights": tuple(fields.get("weights", ()))})


@dataclass(frozen=True)
class Origin:
    """Origin of a proposal in its strategy; only views read it.

    Attributes:
        parents: numbers of the trials that it was made from.
        operator: how it was made: `sampled`, `start`, `mutation`, `crossover`, `neighbour`...
        start: number of the trial that began this descent; None where there is none.
        strategy: the inner strategy that proposed it, where a strategy has several.
        forecast: the outcome that a predictor expects; None where there is none.
        policy: decision key -> probability of each of its options, by the policy that drew this proposal; None where
            there is none, or where it was not noted.
    """

    parents: tuple[int, ...] = ()
    operator: str = ""
    start: int | None = None
    strategy: str = ""
    forecast: Forecast | None = None
    policy: Mapping[str, tuple[float, ...]] | None = field(default=None, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form without empty fields."""
        content = {"parents": list(self.parents), "operator": self.operator, "strategy": self.strategy}
        return {
            **{name: value for name, value in content.items() if value},
            **({} if self.start is None else {"start": self.start}),
            **({} if self.forecast is None else {"forecast": self.forecast.to_json()}),
            **({"policy": {key: list(row) for key, row in self.policy.items()}} if self.policy else {}),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Origin | None:
        """Rebuild the object from its `to_json` form; None and an empty mapping become None."""
        if not content:
            return None
        if not content.keys() <= _ORIGIN:
            raise TypeError(f"an origin has {', '.join(sorted(_ORIGIN))}, got {', '.join(content)}")
        policy = content.get("policy")
        fields = {
            "parents": tuple(content.get("parents", ())),
            "operator": content.get("operator", ""),
            "start": content.get("start"),
            "strategy": content.get("strategy", ""),
            "forecast": Forecast.from_json(content.get("forecast")),
            "policy": {key: tuple(row) for key, row in policy.items()} if policy else None,
        }
        return made(Origin, fields)


_ORIGIN = set(Origin.__dataclass_fields__)


@dataclass(frozen=True)
class Measure:
    """Proposal: find out how good this architecture is.

    Attributes:
        architecture: the point.
        rung: index into the experiment's ladder; -1 is the last rung, on the way to which a pruner may stop it. One
            that is named is reached, unless training fails. A lower one is the beginning of the same training, and
            leaves the artifact `checkpoint`.
        weights: start from these (a supernet's, or the `checkpoint` of a trial at a lower rung, whose training then
            continues) instead of an initialisation.
        origin: how the strategy came to it; None where it does not say. Proposals that differ in this alone are equal.
    """

    architecture: Architecture
    rung: int = -1
    weights: Artifact | None = None
    origin: Origin | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, see `proposal_from_json`."""
        return {
            "kind": "measure",
            "architecture": self.architecture.to_json(),
            "rung": self.rung,
            "weights": self.weights.to_json() if self.weights else None,
            **({"origin": origin} if self.origin and (origin := self.origin.to_json()) else {}),
        }


@dataclass(frozen=True)
class Score:
    """Proposal: score untrained networks by the proxies of a rung, all in one job; one takes too little time for a job.

    Attributes:
        architectures: the points, at least one.
        rung: index of a rung of proxies in the experiment's ladder.
        origin: how the strategy came to them; None where it does not say. It takes no part in equality.
    """

    architectures: tuple[Architecture, ...]
    rung: int = 0
    origin: Origin | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, see `proposal_from_json`."""
        return {
            "kind": "score",
            "architectures": [architecture.to_json() for architecture in self.architectures],
            "rung": self.rung,
            **({"origin": origin} if self.origin and (origin := self.origin.to_json()) else {}),
        }

    def to_schema_1(self) -> dict[str, Any]:
        """Return the form of schema 1: a Measure of the first point that has the others under `also`."""
        first, *others = [architecture.to_json() for architecture in self.architectures]
        return {"kind": "measure", "architecture": first, "rung": self.rung, "weights": None, "also": others}


@dataclass(frozen=True)
class TrainShared:
    """Proposal: train one supernet over a space; its Result carries `alphas` and an artifact `weights`.

    Attributes:
        space: the space that the supernet mixes.
        relaxation: registered name: how the options of a decision are combined (`uniform`: one random path a step).
        epochs: passes over the training split.
        weights: continue from these.
        paths: restrict the sampled paths to these architectures.
        alphas: initial architecture parameters, decision key -> one number per option.
        cost_terms: metric -> weight of its expectation in the loss.
        settings: of the relaxation, as it documents them.
    """

    space: SearchSpace
    relaxation: str
    epochs: int
    weights: Artifact | None = None
    paths: tuple[Architecture, ...] = ()
    alphas: Mapping[str, tuple[float, ...]] | None = None
    cost_terms: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Value] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, see `proposal_from_json`."""
        return {
            "kind": "train_shared",
            "space": self.space.to_json(),
            "relaxation": self.relaxation,
            "epochs": self.epochs,
            "weights": self.weights.to_json() if self.weights else None,
            "paths": [path.to_json() for path in self.paths],
            "alphas": None if self.alphas is None else {key: list(row) for key, row in self.alphas.items()},
            "cost_terms": dict(self.cost_terms),
            "settings": dict(self.settings),
        }


Proposal: TypeAlias = Measure | Score | TrainShared


def proposal_from_json(content: Mapping[str, Any]) -> Proposal:
    """Rebuild a proposal from its `to_json` form; a Measure with `also`, as version 0.1.0 wrote, is a Score."""
    if content["kind"] == "measure":
        architecture = Architecture.from_json(content["architecture"])
        origin = Origin.from_json(content.get("origin"))
        if "also" in content:
            others = [Architecture.from_json(other) for other in content["also"]]
            return Score((architecture, *others), content["rung"], origin)
        weights = Artifact.from_json(content["weights"])
        fields = {"architecture": architecture, "rung": content["rung"], "weights": weights, "origin": origin}
        return made(Measure, fields)
    if content["kind"] == "score":
        points = tuple(Architecture.from_json(architecture) for architecture in content["architectures"])
        return Score(points, content["rung"], Origin.from_json(content.get("origin")))
    weights = Artifact.from_json(content["weights"])
    return TrainShared(
        space=SearchSpace.from_json(content["space"]),
        relaxation=content["relaxation"],
        epochs=content["epochs"],
        weights=weights,
        paths=tuple(Architecture.from_json(path) for path in content["paths"]),
        alphas=None if content["alphas"] is None else {k: tuple(row) for k, row in content["alphas"].items()},
        cost_terms=content["cost_terms"],
        settings=content.get("settings", {}),
    )


@dataclass(frozen=True)
class Failure:
    """Cause of a trial's failure, in words for its owner.

    Attributes:
        cause: one of `CAUSES`.
        message: what happened, where.
        advice: what to do about it.
    """

    cause: Cause
    message: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the JSON-able form."""
        return {"cause": self.cause, "message": self.message, "advice": self.advice}

    @staticmethod
    def from_json(content: Mapping[str, Any] | None) -> Failure | None:
        """Rebuild the object from its `to_json` form; None stays None."""
        return None if content is None else Failure(content["cause"], content["message"], content["advice"])


@dataclass(frozen=True)
class Result:
    """Outcome of an evaluator: its metrics, or the cause of its failure.

    Attributes:
        status: see `Status`.
        metrics: key -> number, keys as in MLflow (`val/accuracy`, `cost/flops`); a rejection has
            `constraint/violation`, the sum of relative excesses.
        values: the objectives' metrics oriented to maximise; None unless finished or pruned after a report, and at a
            rung of proxies that are not the objectives. The experiment fills it in, evaluators leave it out.
        steps_done: fidelity reached (epochs); results of different `steps_done` are not compared.
        charged: what it cost.
        artifacts: name -> file.
        alphas: architecture parameters of a trained supernet, decision key -> one number per option.
        error: set exactly when `status` is `failed`.
        scores: of a Score: the metrics of each of its architectures, in their order; `metrics` has what the job took.
        violations: why it was rejected: constraint -> relative excess (0.25: a quarter above the bound). Empty for all
            else, and in journals of schema 1.
    """

    status: Status
    metrics: Mapping[str, float] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    steps_done: int = 0
    charged: Charge = Charge()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    alphas: Mapping[str, tuple[float, ...]] | None = None
    error: Failure | None = None
    scores: tuple[Mapping[str, float], ...] = ()
    violations: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form; the journal encodes NaN and infinities."""
        return {
            "status": self.status,
            "metrics": dict(self.metrics),
            "values": None if self.values is None else list(self.values),
            "steps_done": self.steps_done,
            "charged": self.charged.to_json(),
            "artifacts": {name: artifact.to_json() for name, artifact in self.artifacts.items()},
            "alphas": None if self.alphas is None else {key: list(row) for key, row in self.alphas.items()},
            "error": self.error.to_json() if self.error else None,
            **({"scores": [dict(metrics) for metrics in self.scores]} if self.scores else {}),
            **({"violations": dict(self.violations)} if self.violations else {}),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Result:
        """Rebuild the object from its `to_json` form; one with `also`, as version 0.1.0 wrote, is that of a Score."""
        artifacts: dict[str, Any] = {name: Artifact.from_json(item) for name, item in content["artifacts"].items()}
        metrics, scores = content["metrics"], tuple(content.get("scores", ()))
        if "also" in content:
            first = {key: value for key, value in metrics.items() if key not in CHARGES}
            metrics = {key: value for key, value in metrics.items() if key in CHARGES}
            scores = (first, *content["also"])
        fields = {
            "status": content["status"],
            "metrics": metrics,
            "values": None if content["values"] is None else tuple(content["values"]),
            "steps_done": content["steps_done"],
            "charged": Charge.from_json(content["charged"]),
            "artifacts": artifacts,
            "alphas": None if content["alphas"] is None else {k: tuple(row) for k, row in content["alphas"].items()},
            "error": Failure.from_json(content["error"]),
            "scores": scores,
            "violations": content.get("violations", {}),
        }
        return made(Result, fields)

    def to_schema_1(self) -> dict[str, Any]:
        """Return the form of schema 1: the first point's scores among the metrics, the others under `also`."""
        content = self.to_json()
        content.pop("violations", None)
        scores = content.pop("scores", None)
        if scores is None:
            return content
        return {**content, "metrics": {**scores[0], **content["metrics"]}, "also": scores[1:]}

    @staticmethod
    def failed(cause: Cause, message: str, advice: str = "", charged: Charge = Charge()) -> Result:
        """Make a failure with its cause."""
        return Result("failed", charged=charged, error=Failure(cause, message, advice))

    @property
    def usable(self) -> bool:
        """True if `values` may be compared: measured, and no NaN among them."""
        return self.values is not None and not any(math.isnan(value) for value in self.values)


@dataclass(frozen=True)
class Step:
    """One report of a running trial: after `step` epochs these were the metrics.

    Attributes:
        metrics: key -> number.
        values: the objectives oriented to maximise, None where a metric is missing or NaN.
        charged: cost since the trial began, from the metrics `time/worker_s` and `work/multiply_adds`.
        stop: the pruner's decision.
        attempt: the attempt that reported it.
    """

    step: int
    metrics: Mapping[str, float]
    values: tuple[float, ...] | None
    charged: Charge
    stop: bool
    attempt: int = 1


@dataclass(frozen=True)
class Trial:
    """All that the journal says of one number.

    Attributes:
        number: from 0, in the order asked.
        proposal: what was asked.
        costs: what the check found.
        verdict: `accepted`, `rejected` or `failed`; empty before the check.
        attempts: jobs handed out.
        idle_attempts: those since the last report, without those that ended with their driver.
        kills: drivers that were killed while it ran, since the last report.
        steps: reports, in order.
        result: None while it waits or runs.
    """

    number: int
    proposal: Proposal
    costs: Mapping[str, float] = field(default_factory=dict)
    verdict: str = ""
    attempts: int = 0
    idle_attempts: int = 0
    kills: int = 0
    steps: tuple[Step, ...] = ()
    result: Result | None = None

    @property
    def status(self) -> str:
        """`running` or the result's status."""
        return self.result.status if self.result else "running"

    @property
    def steps_done(self) -> int:
        """Steps that it has been trained for, as far as that is reported."""
        if self.result is not None:
            return self.result.steps_done
        return self.steps[-1].step if self.steps else 0

    @property
    def architecture(self) -> Architecture | None:
        """The point of a Measure; None for other proposals."""
        return self.proposal.architecture if isinstance(self.proposal, Measure) else None

    @property
    def weights(self) -> Artifact | None:
        """The weights that its proposal starts from; None for an initialisation."""
        return None if isinstance(self.proposal, Score) else self.proposal.weights

    @property
    def inherits(self) -> bool:
        """True if it is measured on a supernet's weights; False for one that continues from a checkpoint."""
        return isinstance(self.proposal, Measure) and self.weights is not None and not self.weights.is_checkpoint

    @property
    def comparable(self) -> bool:
        """True if it is a finished measurement whose values may be compared."""
        result = self.result
        return bool(self.architecture and result and result.status == "finished" and result.usable)

    @property
    def metrics(self) -> dict[str, float]:
        """Costs, then the latest reported metrics, then the result's."""
        last = self.steps[-1].metrics if self.steps else {}
        return {**self.costs, **last, **(self.result.metrics if self.result else {})}

    def metric(self, key: str) -> float | None:
        """Return one of `metrics`, without making the whole mapping; None where it is not there."""
        if self.result is not None and key in self.result.metrics:
            return self.result.metrics[key]
        if self.steps and key in self.steps[-1].metrics:
            return self.steps[-1].metrics[key]
        return self.costs.get(key)

    def changed(self, **changes: Any) -> Trial:
        """Return the trial with other attributes, four times as fast as `dataclasses.replace`."""
        return made(Trial, {**self.__dict__, **changes})
