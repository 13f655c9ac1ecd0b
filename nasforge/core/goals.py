"""Goals of a search: objectives, constraints, targets and the budget."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nasforge.core.errors import ConfigError
from nasforge.core.metrics import ask_for_direction, better, direction
from nasforge.core.ranges import LARGEST, Range, check_number, is_whole

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
COSTS = ("params", "flops", "memory_mb", "latency_ms")
"""Costs of a network; a table may have columns of further costs."""
DEFAULT_METRIC = "val/accuracy"
"""The default objective of a search, and the default name of a table's signal."""


@dataclass(frozen=True)
class Objective:
    """A metric to optimise.

    Attributes:
        metric: its key, as in MLflow: `val/accuracy`, `cost/flops`.
        maximise: the direction.
    """

    metric: str
    maximise: bool

    @staticmethod
    def parse(text: str) -> Objective:
        """Parse `val/accuracy` or `cost/flops`, or with a direction `max:val/score` or `min:val/score`.

        Raises:
            ConfigError: not of this form, or a name that does not say its direction (nasforge/core/metrics.py).
        """
        word, colon, metric = text.partition(":")
        if colon and word in ("max", "min") and metric:
            return Objective(metric, word == "max")
        if colon or not text.strip():
            raise ConfigError(
                f"objective '{text}' must look like val/accuracy, cost/flops, max:NAME or min:NAME",
                kind="type",
                key="objectives",
            )
        maximise = direction(text)
        if maximise is None:
            raise ask_for_direction(text)
        return Objective(text, maximise)

    @staticmethod
    def recorded(text: str) -> Objective:
        """Return a journal's objective: with its direction, or with the direction of the rule of its time."""
        if text.startswith(("max:", "min:")):
            return Objective.parse(text)
        minimised = text.startswith(("cost/", "time/", "work/", "constraint/")) or text.endswith(
            ("loss", "error", "_std")
        )
        return Objective(text, not minimised)

    def oriented(self, value: float) -> float:
        """Return `value` with the sign for which more is better."""
        return value if self.maximise else -value

    def __str__(self) -> str:
        return f"{better(self.maximise)}:{self.metric}"


@dataclass(frozen=True)
class Constraint:
    """A hard limit `metric <= bound`, checked before anything is trained.

    Attributes:
        metric: `cost/params`, `cost/flops` (multiply-adds), `cost/memory_mb`, `cost/latency_ms`, or a table's own.
        bound: the largest value allowed, in the metric's unit.
    """

    metric: str
    bound: float

    @staticmethod
    def parse(text: str) -> Constraint:
        """Parse `flops<=40M`, `params<=300k`, `latency_ms<=5`, `memory_mb<=500`, `joules<=3`. Raises ConfigError."""
        match = re.fullmatch(
            r"\s*(?:cost/)?([\w.-]+)\s*<=\s*([0-9.]+(?:e[+-]?\d+)?)\s*([kmg]?)\s*", text, re.IGNORECASE
        )
        if not match:
            raise ConfigError(
                f"constraint '{text}' must look like flops<=40M, params<=300k, memory_mb<=500 or latency_ms<=5",
                kind="type",
                key="constraints",
            )
        try:
            bound = float(match[2]) * _UNITS[match[3].lower()]
        except ValueError:
            raise ConfigError(
                f"constraint '{text}': '{match[2]}' is not a number", kind="type", key="constraints"
            ) from None
        if not 0 < bound < math.inf:
            raise ConfigError(
                f"constraint '{text}': the bound must be a finite number above 0, got {bound:g}",
                kind="range",
                key="constraints",
            )
        name = match[1].lower() if match[1].lower() in COSTS else match[1]
        return Constraint(f"cost/{name}", bound)

    def met(self, costs: Mapping[str, float]) -> bool:
        """Return whether the cost is known and within the bound."""
        return costs.get(self.metric, math.nan) <= self.bound

    def violation(self, costs: Mapping[str, float]) -> float:
        """Return the relative excess: 0 when met, 0.25 for a quarter above the bound."""
        return max(0.0, costs[self.metric] / self.bound - 1.0)

    def __str__(self) -> str:
        return f"{self.metric.removeprefix('cost/')}<={self.bound:.15g}"

    @property
    def text(self) -> str:
        """For people: `flops<=40M`, where `str` has the `flops<=40000000` of journals. Both can be parsed."""
        if self.metric in ("cost/params", "cost/flops"):
            for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
                number = f"{self.bound / factor:.4g}"
                if self.bound >= factor and "e" not in number and math.isclose(float(number) * factor, self.bound):
                    return f"{self.metric.removeprefix('cost/')}<={number}{unit}"
        return str(self)


def text_of_limit(name: str) -> str:
    """Return `Constraint.text` for the name of a constraint in a journal; a name that is none stays as it is."""
    try:
        return Constraint.parse(name).text
    except ConfigError:
        return name


OPTIMUM = "optimum"
"""Value of `Budget.until`: the best signal of a table."""


@dataclass(frozen=True)
class Budget:
    """Limits on what a search may spend, counted from the journal, not from the clock; and values to stop at.

    Attributes:
        trials: accepted trials (rejected ones are free).
        worker_seconds: seconds that workers spent.
        multiply_adds: multiply-adds that workers computed.
        until: metric -> value; the search ends when a trial of the last rung reaches all of them. `OPTIMUM` stands for
            the best value of a table, until the table is known.
    """

    trials: float = math.inf
    worker_seconds: float = math.inf
    multiply_adds: float = math.inf
    until: Mapping[str, float] | str = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "until", _until(self.until))
        for name in ("trials", "worker_seconds", "multiply_adds"):
            amount = getattr(self, name)
            if is_whole(amount) and amount > LARGEST:
                raise ConfigError(
                    f"budget: {name} must be at most {LARGEST:g}; leave it out for no limit",
                    kind="range",
                    key=f"budget.{name}",
                )
            if amount != math.inf:
                check_number(amount, f"budget: {name}", over=0)
        if math.isfinite(self.trials) and self.trials != int(self.trials):
            raise ConfigError(
                f"budget: trials must be a whole number, got {self.trials!r}", kind="type", key="budget.trials"
            )

    @property
    def limits(self) -> dict[str, float]:
        """The finite limits, by name."""
        amounts = {name: getattr(self, name) for name in ("trials", "worker_seconds", "multiply_adds")}
        return {name: limit for name, limit in amounts.items() if math.isfinite(limit)}

    @property
    def goals(self) -> dict[Objective, float]:
        """The values of `until`, each metric with its direction.

        Raises:
            ConfigError: a metric's direction is neither named nor known.
        """
        if isinstance(self.until, str):
            return {}
        goals = {}
        for key, value in self.until.items():
            if ":" not in key and direction(key) is None:
                raise ask_for_direction(key, "budget: until", key="budget.until")
            goals[Objective.parse(key)] = value
        return goals

    def with_directions(self, objectives: Sequence[Objective]) -> Budget:
        """Return the same budget with a direction for every metric of `until`: the objective's, or that of its name."""
        if isinstance(self.until, str):
            return self
        known = {objective.metric: objective for objective in objectives}
        until = {str(known.get(key, key)): value for key, value in self.until.items()}
        goals = replace(self, until=until).goals
        if len({goal.metric for goal in goals}) < len(self.until):
            raise ConfigError(
                f"budget: until names a metric twice: {', '.join(self.until)}; remove one",
                kind="duplicate",
                key="budget.until",
            )
        return replace(self, until={str(goal): value for goal, value in goals.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form without infinite limits, and without `until` if it is empty."""
        return {**self.limits, **({"until": self.until} if self.until else {})}


def _until(content: Any) -> dict[str, float] | str:
    """Check the values at which a search stops. Raises ConfigError."""
    if content == OPTIMUM:
        return OPTIMUM
    if content is None:
        return {}
    if not isinstance(content, Mapping):
        raise ConfigError(
            f"budget: until must be a mapping such as {{val/accuracy: 0.95}}, or '{OPTIMUM}' of a table, got "
            f"{content!r}",
            kind="type",
            key="budget.until",
        )
    for key, value in content.items():
        if not isinstance(key, str) or not key.strip() or value not in Range():
            raise ConfigError(
                f"budget: until needs a number for each metric, as in {{val/accuracy: 0.95}}, got {key!r}: {value!r}",
                kind="type",
                key="budget.until",
            )
    return {key: float(value) for key, value in content.items()}
