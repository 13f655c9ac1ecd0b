"""Search spaces: domains, decisions that may be conditional, and the one walk over them.

A space is never asked to mutate, cross over or encode. It has `decide(choose)`; whatever makes a point is a chooser.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

from nasforge.core.architecture import TRAIN, Architecture, Value, digest
from nasforge.core.errors import SpaceError, did_you_mean


def _same(a: Value, b: Value) -> bool:
    """Equality that keeps `True` and `1` apart, but not `1` and `1.0`."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


@dataclass(frozen=True)
class Choice:
    """One of several options; an option may open further decisions.

    Attributes:
        options: the values, at least one, all different.
        branches: for each option, the decisions that are active only under it.
    """

    options: tuple[Value, ...]
    branches: tuple[tuple[Decision, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.options:
            raise SpaceError("a choice needs at least one option")
        for index, option in enumerate(self.options):
            if not isinstance(option, (bool, int, float, str)):
                raise SpaceError(f"option {option!r} must be a string, a number or a truth value")
            if any(_same(option, earlier) for earlier in self.options[:index]):
                raise SpaceError(f"option {option!r} is listed twice")
        if self.branches and len(self.branches) != len(self.options):
            raise SpaceError(f"{len(self.branches)} branches for {len(self.options)} options")
        if not self.branches:
            object.__setattr__(self, "branches", ((),) * len(self.options))

    def check(self, value: Any) -> Value:
        """The option equal to `value`. Raises SpaceError when there is none."""
        for option in self.options:
            if _same(option, value):
                return option
        raise SpaceError(f"got {value!r}, allowed: {', '.join(repr(option) for option in self.options)}")

    def branch(self, value: Value) -> tuple[Decision, ...]:
        """The decisions that `value` opens."""
        for option, branch in zip(self.options, self.branches, strict=True):
            if _same(option, value):
                return branch
        return ()

    def sample(self, rng: random.Random) -> Value:
        """A uniform draw."""
        return self.options[rng.randrange(len(self.options))]

    @property
    def size(self) -> float:
        """Number of values of this decision alone."""
        return len(self.options)

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value."""
        return self.options

    def only(self, value: Value) -> Choice:
        """The same choice with `value` as its one option."""
        option = self.check(value)
        return Choice((option,), (self.branch(option),))

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, see `domain_from_json`."""
        return {
            "kind": "choice",
            "options": list(self.options),
            "branches": [[decision.to_json() for decision in branch] for branch in self.branches],
        }


@dataclass(frozen=True)
class Int:
    """A whole number in `low..high`, both included.

    Attributes:
        step: distance of neighbouring values, counted from `low`; 1 with `log`.
        log: draw uniformly in the logarithm; `low` must be positive.
    """

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        if any(isinstance(n, bool) or not isinstance(n, int) for n in (self.low, self.high, self.step)):
            raise SpaceError(f"an int range needs whole numbers, got {self.low!r}..{self.high!r} step {self.step!r}")
        if self.low > self.high:
            raise SpaceError(f"low {self.low} is above high {self.high}")
        if self.step < 1:
            raise SpaceError(f"step must be at least 1, got {self.step}")
        if self.log and self.low < 1:
            raise SpaceError(f"a logarithmic range needs low >= 1, got {self.low}")
        if self.log and self.step != 1:
            raise SpaceError("a logarithmic range takes no step")

    def check(self, value: Any) -> Value:
        """`value` as an int. Raises SpaceError outside the range or between steps."""
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not whole:
            raise SpaceError(f"got {value!r}, allowed: a whole number in {self.low}..{self.high}")
        number = int(value)
        if not self.low <= number <= self.high or (number - self.low) % self.step:
            raise SpaceError(f"got {number}, allowed: {self.low}..{self.high} in steps of {self.step}")
        return number

    def branch(self, value: Value) -> tuple[Decision, ...]:
        """Numbers open no further decisions."""
        return ()

    def sample(self, rng: random.Random) -> Value:
        """A uniform draw, in the logarithm where asked for."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5 + 1e-12), math.log(self.high + 0.5)))
            return min(self.high, max(self.low, round(drawn)))
        return self.low + self.step * rng.randrange(int(self.size))

    @property
    def size(self) -> float:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value, rising."""
        return tuple(range(self.low, self.high + 1, self.step))

    def only(self, value: Value) -> Int:
        """The same range with `value` as its one member."""
        number = int(self.check(value))
        return Int(number, number, log=self.log)

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, see `domain_from_json`."""
        return {"kind": "int", "low": self.low, "high": self.high, "step": self.step, "log": self.log}


@dataclass(frozen=True)
class Float:
    """A real number in `low..high`, both included.

    Attributes:
        step: if given, only `low + k * step`.
        log: draw uniformly in the logarithm; `low` must be positive; takes no step.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def __post_init__(self) -> None:
        for number in (self.low, self.high) + (() if self.step is None else (self.step,)):
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise SpaceError(f"a float range needs finite numbers, got {number!r}")
        if self.low > self.high:
            raise SpaceError(f"low {self.low} is above high {self.high}")
        if self.step is not None and self.step <= 0:
            raise SpaceError(f"step must be positive, got {self.step}")
        if self.log and self.low <= 0:
            raise SpaceError(f"a logarithmic range needs low > 0, got {self.low}")
        if self.log and self.step is not None:
            raise SpaceError("a logarithmic range takes no step")
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def check(self, value: Any) -> Value:
        """`value` as a float. Raises SpaceError outside the range or between steps."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            raise SpaceError(f"got {value!r}, allowed: a number in {self.low}..{self.high}")
        if self.step is None:
            return float(value)
        nearest = self._at(round((value - self.low) / self.step))
        if not math.isclose(nearest, value, rel_tol=1e-9, abs_tol=1e-12):
            raise SpaceError(f"got {value!r}, allowed: {self.low}..{self.high} in steps of {self.step}")
        return nearest

    def _at(self, index: int) -> float:
        return round(self.low + index * (self.step or 0.0), 12)

    def branch(self, value: Value) -> tuple[Decision, ...]:
        """Numbers open no further decisions."""
        return ()

    def sample(self, rng: random.Random) -> Value:
        """A uniform draw, in the logarithm where asked for."""
        if self.step is not None:
            return self._at(rng.randrange(int(self.size)))
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            drawn = rng.uniform(self.low, self.high)
        return min(self.high, max(self.low, drawn))

    @property
    def size(self) -> float:
        """Number of values; infinite for a continuous range."""
        if self.low == self.high:
            return 1
        return math.inf if self.step is None else math.floor((self.high - self.low) / self.step + 1e-9) + 1

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value, rising; none for a continuous range, which cannot be listed."""
        if self.low == self.high:
            return (self.low,)
        return () if self.step is None else tuple(self._at(index) for index in range(int(self.size)))

    def only(self, value: Value) -> Float:
        """The same range with `value` as its one member."""
        number = float(self.check(value))
        return Float(number, number, log=self.log)

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, see `domain_from_json`."""
        return {"kind": "float", "low": self.low, "high": self.high, "step": self.step, "log": self.log}


Domain: TypeAlias = Choice | Int | Float
Choose: TypeAlias = Callable[[str, Domain], Value]
"""Anything that makes a point: given a decision's key and domain, it returns a value of that domain."""


@dataclass(frozen=True)
class Decision:
    """A named question that every point answers while the decision is active."""

    key: str
    domain: Domain

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"key": self.key, "domain": self.domain.to_json()}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Decision:
        """The inverse of `to_json`."""
        return Decision(content["key"], domain_from_json(content["domain"]))

    @property
    def size(self) -> float:
        """Number of sub-points below this decision."""
        if not isinstance(self.domain, Choice):
            return self.domain.size
        return sum(_product(branch) for branch in self.domain.branches)


def _product(decisions: tuple[Decision, ...]) -> float:
    return math.prod(decision.size for decision in decisions)


def domain_from_json(content: Mapping[str, Any]) -> Domain:
    """The inverse of a domain's `to_json`. Raises SpaceError for an unknown kind."""
    match content["kind"]:
        case "choice":
            branches = tuple(tuple(Decision.from_json(d) for d in branch) for branch in content["branches"])
            return Choice(tuple(content["options"]), branches)
        case "int":
            return Int(content["low"], content["high"], content["step"], content["log"])
        case "float":
            return Float(content["low"], content["high"], content["step"], content["log"])
        case other:
            raise SpaceError(f"unknown kind of domain {other!r}")


@dataclass(frozen=True)
class SearchSpace:
    """All networks and recipes that a search may propose.

    Attributes:
        name: what users call it.
        decisions: top-level decisions; conditional ones hang below the options of a `Choice`.
        builder: `module:function` of the model builder, called as `build(pick, in_channels=, classes=, **arguments)`.
        arguments: fixed arguments of the builder.
        defaults: values of recipe settings (`train.*`) that are not decisions, and of decisions for `default_point`.
        canonical: `module:function`, torch-free, from the `model.*` values (keys without prefix) to a text that
            isomorphic networks share; empty where every point is its own network.
        text: `module:function`, torch-free, from the `model.*` values to the text by which the literature and its
            tables name the network; empty where there is none.
        derive: `module:function`, torch-free, from alphas to architectures in order of decreasing score, as
            `nasforge.strategies.derivation.by_odds`, which is used where this is empty.
    """

    name: str
    decisions: tuple[Decision, ...]
    builder: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Value] = field(default_factory=dict)
    canonical: str = ""
    text: str = ""
    derive: str = ""

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for decision in self.all_decisions():
            if decision.key in seen:
                raise SpaceError(f"space '{self.name}': decision '{decision.key}' is declared twice")
            seen.add(decision.key)

    def all_decisions(self) -> Iterator[Decision]:
        """Every decision, active or not, parents before the decisions that their options open."""

        def walk(decisions: tuple[Decision, ...]) -> Iterator[Decision]:
            for decision in decisions:
                yield decision
                if isinstance(decision.domain, Choice):
                    for branch in decision.domain.branches:
                        yield from walk(branch)

        return walk(self.decisions)

    @cached_property
    def domains(self) -> Mapping[str, Domain]:
        """Key -> domain of every decision, active or not."""
        return {decision.key: decision.domain for decision in self.all_decisions()}

    @property
    def size(self) -> float:
        """Number of points; infinite with a continuous decision."""
        return _product(self.decisions)

    def decide(self, choose: Choose) -> Architecture:
        """Walk the active decisions, ask `choose` for each, check what it says.

        A decision with one value left is taken without asking.

        Raises:
            SpaceError: `choose` returned a value outside the domain.
        """
        values: dict[str, Value] = {}

        def walk(decisions: tuple[Decision, ...]) -> None:
            for decision in decisions:
                domain = decision.domain
                chosen = _single(domain) if domain.size == 1 else choose(decision.key, domain)
                try:
                    value = domain.check(chosen)
                except SpaceError as error:
                    raise SpaceError(f"space '{self.name}', decision '{decision.key}': {error}") from None
                values[decision.key] = value
                walk(domain.branch(value))

        walk(self.decisions)
        architecture = Architecture(values)
        if not self.canonical:
            return architecture
        return Architecture(values, self._canonical_form(architecture.model))

    @cached_property
    def _canonical_form(self) -> Callable[[Mapping[str, Value]], str]:
        return self.function("canonical")

    def function(self, field: str) -> Callable[..., Any]:
        """What the field `canonical`, `text` or `derive` names.

        Raises:
            SpaceError: it cannot be imported.
        """
        reference = getattr(self, field)
        module, _, name = reference.partition(":")
        try:
            return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
        except (ImportError, AttributeError, ValueError) as error:
            raise SpaceError(f"space '{self.name}': cannot load {field} '{reference}': {error}") from None

    def sample(self, rng: random.Random) -> Architecture:
        """A point whose every active decision is drawn from its own domain."""
        return self.decide(lambda key, domain: domain.sample(rng))

    def point(self, values: Mapping[str, Any]) -> Architecture:
        """The point with exactly these values.

        Raises:
            SpaceError: a value is missing, unknown, outside its domain, or of a decision that is not active.
        """

        def choose(key: str, domain: Domain) -> Value:
            if key not in values:
                raise SpaceError(f"space '{self.name}': the point has no value for '{key}'")
            return values[key]  # type: ignore[no-any-return]

        architecture = self.decide(choose)
        for key, value in values.items():
            if key not in self.domains:
                raise SpaceError(f"space '{self.name}' has no decision '{key}'; {did_you_mean(key, self.domains)}")
            if key not in architecture.values:
                raise SpaceError(f"space '{self.name}': '{key}' is not active in this point; leave it out")
            self.domains[key].check(value)
            if not _same(architecture.values[key], value):
                only = architecture.values[key]
                raise SpaceError(f"space '{self.name}': '{key}' can only be {only!r}, got {value!r}")
        return architecture

    def default_point(self) -> Architecture:
        """The point of the declared defaults; where there is none, the first option or the middle of the range."""
        return self.decide(lambda key, domain: self.default_of(key))

    def default_of(self, key: str) -> Value:
        """The declared default of a decision, active or not; else its first option or the middle of its range.

        So it is where the decision was fixed at another value than the default.
        """
        domain = self.domains[key]
        try:
            return domain.check(self.defaults[key])
        except (KeyError, SpaceError):
            return _middle(domain)

    def fixed(self, values: Mapping[str, Any]) -> SearchSpace:
        """A smaller space in which the decisions named in `values` have that one value left.

        Raises:
            SpaceError: an unknown key, or a value outside its domain.
        """
        for key, value in values.items():
            if key not in self.domains:
                raise SpaceError(f"space '{self.name}' has no decision '{key}'; {did_you_mean(key, self.domains)}")
            try:
                self.domains[key].check(value)
            except SpaceError as error:
                raise SpaceError(f"space '{self.name}', decision '{key}': {error}") from None

        def narrow(decision: Decision) -> Decision:
            domain = decision.domain.only(values[decision.key]) if decision.key in values else decision.domain
            if isinstance(domain, Choice):
                domain = Choice(domain.options, tuple(tuple(narrow(d) for d in branch) for branch in domain.branches))
            return Decision(decision.key, domain)

        return replace(self, decisions=tuple(narrow(decision) for decision in self.decisions))

    def with_recipe(self, recipe: SearchSpace) -> SearchSpace:
        """This space's networks with another space's recipe: its `train.*` decisions and its defaults of `train.*`.

        Defaults of settings that the recipe does not name stay as they are here.
        """
        train = {key: value for key, value in recipe.defaults.items() if key.startswith(TRAIN)}
        return replace(
            self,
            decisions=(
                *(decision for decision in self.decisions if not decision.key.startswith(TRAIN)),
                *(decision for decision in recipe.decisions if decision.key.startswith(TRAIN)),
            ),
            defaults={**self.defaults, **train},
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, see `from_json`."""
        content = {
            "name": self.name,
            "builder": self.builder,
            "arguments": dict(self.arguments),
            "defaults": dict(self.defaults),
            "canonical": self.canonical,
            "decisions": [decision.to_json() for decision in self.decisions],
        }
        return content | {key: getattr(self, key) for key in ("text", "derive") if getattr(self, key)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_json`."""
        return SearchSpace(
            name=content["name"],
            decisions=tuple(Decision.from_json(decision) for decision in content["decisions"]),
            builder=content["builder"],
            arguments=content["arguments"],
            defaults=content["defaults"],
            canonical=content["canonical"],
            text=content.get("text", ""),
            derive=content.get("derive", ""),
        )

    @property
    def fingerprint(self) -> str:
        """Hash of the whole space; two spaces that could propose or build differently never share it."""
        return digest(self.to_json())


def _single(domain: Domain) -> Value:
    return domain.options[0] if isinstance(domain, Choice) else domain.low


def _middle(domain: Domain) -> Value:
    match domain:
        case Choice():
            return domain.options[0]
        case Int():
            return domain.low + domain.step * int((domain.size - 1) // 2)
        case Float(step=None):
            return math.sqrt(domain.low * domain.high) if domain.log else (domain.low + domain.high) / 2
        case _:
            return domain._at(int((domain.size - 1) // 2))
