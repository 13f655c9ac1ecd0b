"""Domains of decisions: options, whole numbers and reals; and decisions, which options may open."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

from nasforge.core.architecture import Value
from nasforge.core.errors import SpaceError
from nasforge.core.ranges import LARGEST, is_number, is_whole


def same(a: Value, b: Value) -> bool:
    """Compare two values, keeping `True` and `1` apart, but not `1` and `1.0`."""
    return a == b and isinstance(a, bool) == isinstance(b, bool)


def _name(value: Value) -> tuple[bool, Value]:
    """Return a key that is equal for two values exactly where they are the `same`."""
    return isinstance(value, bool), value


_SHOWN = 50
_FINE = 1e6
_EXACT = 2**53
"""Whole numbers beyond it are not exact as floats, which JSON, Optuna and scales of ranges use."""


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
            raise SpaceError("a choice has no options; list at least one", kind="empty")
        for option in self.options:
            if not isinstance(option, (bool, int, float, str)):
                raise SpaceError(f"option {option!r} must be a string, a number or a truth value", kind="type")
            if not isinstance(option, str) and not abs(option) <= LARGEST:
                raise SpaceError(f"option {_short(option)} must be a finite number within -1e300..1e300", kind="range")
        for index, option in enumerate(self.options):
            if self._places[_name(option)] != index:
                raise SpaceError(f"option {option!r} is listed twice; remove one", kind="duplicate")
        if self.branches and len(self.branches) != len(self.options):
            raise SpaceError(
                f"got {len(self.branches)} branches for {len(self.options)} options; give one for each option, or none",
                kind="range",
            )
        if not self.branches:
            object.__setattr__(self, "branches", ((),) * len(self.options))

    def check(self, value: Any) -> Value:
        """Return the option equal to `value`. Raises SpaceError if there is none."""
        return self.options[self.place(value)]

    def place(self, value: Any) -> int:
        """Return the index of the option equal to `value`. Raises SpaceError if there is none."""
        place = self._place(value)
        if place is None:
            allowed = ", ".join(map(repr, self.options[:_SHOWN]))
            more = f" and {len(self.options) - _SHOWN:,} more" if len(self.options) > _SHOWN else ""
            raise SpaceError(f"got {value!r}, allowed: {allowed}{more}", kind="unknown")
        return place

    def others(self, value: Value) -> list[Value]:
        """Return all options but `value`, in their order. Raises SpaceError if it is none of them."""
        place = self.place(value)
        return [*self.options[:place], *self.options[place + 1 :]]

    def branch(self, value: Value) -> tuple[Decision, ...]:
        """Return the decisions that `value` opens."""
        place = self._place(value)
        return () if place is None else self.branches[place]

    @cached_property
    def _places(self) -> Mapping[tuple[bool, Value], int]:
        """Index of each option. A table can have thousands, so each is looked up by its hash."""
        return {_name(option): place for place, option in enumerate(self.options)}

    def _place(self, value: Any) -> int | None:
        try:
            return self._places.get(_name(value))
        except TypeError:  # a list
            return None

    def sample(self, rng: random.Random) -> Value:
        """Draw an option uniformly."""
        return self.options[rng.randrange(len(self.options))]

    @property
    def size(self) -> float:
        """Number of values of this decision alone."""
        return len(self.options)

    @property
    def values(self) -> Sequence[Value]:
        """Every value."""
        return self.options

    @property
    def ends(self) -> tuple[Value, ...]:
        """The values at which a setting may be invalid: all options, since they have no order."""
        return self.options

    @cached_property
    def ordered(self) -> bool:
        """True if the options are numbers, and enough of them for their order to be informative."""
        numbers = all(map(is_number, self.options))
        return numbers and len(self.options) > 2

    @cached_property
    def ranks(self) -> Mapping[Value, int]:
        """Place of each option in ascending order; only where they are `ordered`."""
        return {option: rank for rank, option in enumerate(sorted(self.options, key=float))}

    @property
    def middle(self) -> Value:
        """The first option: options have no order."""
        return self.options[0]

    def only(self, value: Value) -> Choice:
        """Return the same choice with `value` as its only option."""
        option = self.check(value)
        return Choice((option,), (self.branch(option),))

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, see `domain_from_json`."""
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
        if not all(map(is_whole, (self.low, self.high, self.step))):
            raise SpaceError(
                f"an int range needs whole numbers, got {self.low!r}..{self.high!r} step {self.step!r}", kind="type"
            )
        if self.low > self.high:
            raise SpaceError(f"low {self.low} is above high {self.high}; exchange them", kind="range")
        if max(-self.low, self.high) > _EXACT:
            raise SpaceError(
                f"an int range must lie within -2^53..2^53, got {_short(self.low)}..{_short(self.high)}", kind="range"
            )
        if self.step < 1:
            raise SpaceError(f"step must be at least 1, got {self.step}", kind="range")
        if self.log and self.low < 1:
            raise SpaceError(f"a logarithmic range needs low >= 1, got {self.low}", kind="range")
        if self.log and self.step != 1:
            raise SpaceError("a logarithmic range takes no step; leave out log or step", kind="conflict")

    def check(self, value: Any) -> Value:
        """Return `value` as an int. Raises SpaceError outside the range or between steps."""
        if not is_whole(value) and not (isinstance(value, float) and value.is_integer()):
            raise SpaceError(f"got {value!r}, allowed: a whole number in {self.low}..{self.high}", kind="type")
        number = int(value)
        if not self.low <= number <= self.high or (number - self.low) % self.step:
            raise SpaceError(
                f"got {number}, allowed: {self.low}..{self.values[-1]} in steps of {self.step}", kind="range"
            )
        return number

    def branch(self, value: Value) -> tuple[Decision, ...]:
        """Return no decisions: numbers open none."""
        return ()

    def sample(self, rng: random.Random) -> Value:
        """Draw a value uniformly, or uniformly in its logarithm."""
        if self.log:
            drawn = math.exp(rng.uniform(math.log(self.low - 0.5 + 1e-12), math.log(self.high + 0.5)))
            return min(self.high, max(self.low, round(drawn)))
        return self.low + self.step * rng.randrange(int(self.size))

    @property
    def size(self) -> float:
        """Number of values."""
        return len(self.values)

    @property
    def values(self) -> Sequence[int]:
        """Every value, rising; a `range`, so that billions of them take no memory."""
        return range(self.low, self.high + 1, self.step)

    @property
    def ends(self) -> tuple[int, int]:
        """The lowest and the highest value, as the steps reach it."""
        return self.low, self.values[-1]

    @property
    def is_fine(self) -> bool:
        """True if there are more values than a library should list."""
        return self.size > _FINE

    @property
    def middle(self) -> Value:
        """The value in the middle, the lower of two; the geometric mean of the ends with `log`."""
        if self.log:
            return min(self.high, max(self.low, round(math.sqrt(self.low * self.high))))
        return self.low + self.step * int((self.size - 1) // 2)

    def only(self, value: Value) -> Int:
        """Return the same range with `value` as its only member."""
        number = int(self.check(value))
        return Int(number, number, log=self.log)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, see `domain_from_json`."""
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
            if not is_number(number) or not abs(number) <= LARGEST:
                raise SpaceError(
                    f"a float range needs finite numbers within -1e300..1e300, got {_short(number)}", kind="range"
                )
        if self.low > self.high:
            raise SpaceError(f"low {self.low} is above high {self.high}; exchange them", kind="range")
        if self.step is not None and self.step <= 0:
            raise SpaceError(f"step must be positive, got {self.step}", kind="range")
        if self.log and self.low <= 0:
            raise SpaceError(f"a logarithmic range needs low > 0, got {self.low}", kind="range")
        if self.log and self.step is not None:
            raise SpaceError("a logarithmic range takes no step; leave out log or step", kind="conflict")
        if self.log and not math.isfinite(self.high / self.low):
            raise SpaceError(
                f"a logarithmic range spans at most 300 powers of ten, got {self.low}..{self.high}", kind="range"
            )
        if self.step is not None and (self.high - self.low) / self.step > _EXACT:
            raise SpaceError(
                f"step {self.step} divides {self.low}..{self.high} into more than 2^53 values; raise step", kind="range"
            )
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    def check(self, value: Any) -> Value:
        """Return `value` as a float. Raises SpaceError outside the range or between steps."""
        if not is_number(value) or not self.low <= value <= self.high:
            raise SpaceError(f"got {value!r}, allowed: a number in {self.low}..{self.high}", kind="range")
        if self.step is None:
            return float(value)
        nearest = self._at(round((value - self.low) / self.step))
        if not math.isclose(nearest, value, rel_tol=1e-9, abs_tol=min(1e-12, self.step * 1e-6)):
            raise SpaceError(
                f"got {value!r}, allowed: {self.low}..{self.ends[-1]} in steps of {self.step}", kind="range"
            )
        return nearest

    def _at(self, index: int) -> float:
        step = self.step or 0.0
        digits = 12 if step >= 1e-6 else 12 - math.floor(math.log10(step))
        return min(self.high, max(self.low, round(self.low + index * step, digits)))

    def branch(self, value: Value) -> tuple[Decision, ...]:
        """Return no decisions: numbers open none."""
        return ()

    def sample(self, rng: random.Random) -> Value:
        """Draw a value uniformly, or uniformly in its logarithm."""
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
    def values(self) -> Sequence[float]:
        """Every value, rising; none for a continuous range, which cannot be listed."""
        if self.low == self.high:
            return (self.low,)
        return () if self.step is None else tuple(self._at(index) for index in range(int(self.size)))

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest value, as the steps reach it."""
        if self.low == self.high or self.step is None:
            return self.low, self.high
        return self._at(0), self._at(int(self.size) - 1)

    @property
    def is_fine(self) -> bool:
        """True if the values are so close that libraries which divide by the step consider some of them invalid."""
        return self.size > _FINE

    @property
    def middle(self) -> Value:
        """The value in the middle, on the logarithmic scale where there is one."""
        if self.step is not None:
            return self._at(int((self.size - 1) // 2))
        if not self.log:
            return (self.low + self.high) / 2
        product = self.low * self.high  # overflows, or vanishes, at the far ends of what a float holds
        return math.sqrt(product) if 1e-300 < product < math.inf else math.sqrt(self.low) * math.sqrt(self.high)

    def only(self, value: Value) -> Float:
        """Return the same range with `value` as its only member."""
        number = float(self.check(value))
        return Float(number, number, log=self.log)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form, see `domain_from_json`."""
        return {"kind": "float", "low": self.low, "high": self.high, "step": self.step, "log": self.log}


Domain: TypeAlias = Choice | Int | Float


@dataclass(frozen=True)
class Decision:
    """A named question that every point answers while the decision is active."""

    key: str
    domain: Domain

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {"key": self.key, "domain": self.domain.to_json()}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Decision:
        """Rebuild the object from its `to_json` form."""
        return Decision(content["key"], domain_from_json(content["domain"]))

    @property
    def size(self) -> float:
        """Number of sub-points below this decision, as `product_of` counts them."""
        if not isinstance(self.domain, Choice):
            return self.domain.size
        return _finite(sum, (product_of(branch) for branch in self.domain.branches))


def product_of(decisions: tuple[Decision, ...]) -> float:
    """Return the number of points of independent decisions.

    An exact whole number (an int), however large; `math.inf` with a continuous decision. An int may be too large for a
    float: compare it, but do not compute with floats.
    """
    return _finite(math.prod, (decision.size for decision in decisions))


def _finite(combine: Callable[[list[float]], float], sizes: Iterable[float]) -> float:
    """Combine sizes; infinite if one of them is, since Python cannot add a huge int to a float."""
    listed = list(sizes)
    return math.inf if math.inf in listed else combine(listed)


def _short(number: object) -> str:
    """Format a number for a message; of one with hundreds of digits only the beginning."""
    if is_whole(number) and abs(number) >= 10**24:
        return f"a number of about 10^{math.log10(abs(number)):.0f}"
    return repr(number)


def domain_from_json(content: Mapping[str, Any]) -> Domain:
    """Rebuild a domain from its `to_json` form. Raises SpaceError for an unknown kind."""
    match content["kind"]:
        case "choice":
            branches = tuple(tuple(Decision.from_json(d) for d in branch) for branch in content["branches"])
            return Choice(tuple(content["options"]), branches)
        case "int":
            return Int(content["low"], content["high"], content["step"], content["log"])
        case "float":
            return Float(content["low"], content["high"], content["step"], content["log"])
        case other:
            raise SpaceError(f"unknown kind of domain {other!r}, expected choice, int or float", kind="unknown")
