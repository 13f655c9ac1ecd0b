"""Search spaces: decisions that may be conditional, and the one walk over them.

A space is never asked to mutate, cross over or encode. It has `decide(choose)`; whatever makes a point is a chooser.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

from nasforge.core.architecture import TRAIN, Architecture, Value, digest
from nasforge.core.domains import Choice, Decision, Domain, Float, Int, product_of, same
from nasforge.core.errors import ConfigError, SpaceError, TrustError, did_you_mean
from nasforge.core.importing import load
from nasforge.core.ranges import shown

__all__ = ["Choice", "Choose", "Decision", "Domain", "Float", "Int", "SearchSpace"]

Choose: TypeAlias = Callable[[str, Domain], Value]
"""Anything that makes a point: given a decision's key and domain, it returns a value of that domain."""


LISTED = 20_000
"""Most points of a space that is listed completely where that helps."""


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
            `nasforge.core.alphas.by_odds`, which is used where this is empty.
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
                raise SpaceError(
                    f"space '{self.name}': decision '{decision.key}' is declared twice; rename one",
                    kind="duplicate",
                    key=decision.key,
                )
            seen.add(decision.key)

    def all_decisions(self) -> Iterator[Decision]:
        """Yield every decision, active or not, parents before the decisions that their options open."""

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
        """Number of points, as `nasforge.core.domains.product_of` counts them; infinite with a continuous decision."""
        return product_of(self.decisions)

    def points(self) -> Iterator[Architecture]:
        """Yield every point, the last decisions changing fastest; the space has no continuous decision."""
        for values in _assignments(self.decisions):
            yield self.decide(taking(values))

    @cached_property
    def distinct(self) -> Mapping[str, Architecture]:
        """`point_id` -> the first point that has it, of all points; empty where they are more than `LISTED`."""
        points: dict[str, Architecture] = {}
        for point in self.points() if self.size <= LISTED else ():
            points.setdefault(point.point_id, point)
        return points

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
                chosen = domain.values[0] if domain.size == 1 else choose(decision.key, domain)
                try:
                    value = domain.check(chosen)
                except SpaceError as error:
                    raise SpaceError(
                        f"space '{self.name}', decision '{decision.key}': {error}", kind=error.kind, key=decision.key
                    ) from None
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
        """Import the function that the field `canonical`, `text` or `derive` names.

        Raises:
            TrustError: a file names it, and the user has not agreed to run it.
            SpaceError: it cannot be imported.
        """
        reference = getattr(self, field)
        try:
            return load(reference, f"{field} '{reference}'")  # type: ignore[no-any-return]
        except TrustError:
            raise
        except ConfigError as error:
            raise SpaceError(f"space '{self.name}': {error}", kind=error.kind, key=error.key) from None

    def sample(self, rng: random.Random) -> Architecture:
        """Draw a point: every active decision from its domain."""
        return self.decide(lambda key, domain: domain.sample(rng))

    def point(self, values: Mapping[str, Any], *, with_defaults: bool = False) -> Architecture:
        """Return the point with exactly these values.

        Args:
            values: decision -> value.
            with_defaults: decisions without a value have their defaults; False: they are refused.

        Raises:
            SpaceError: a value is missing, unknown, outside its domain, or of a decision that is not active.
        """

        def choose(key: str, domain: Domain) -> Value:
            if key not in values and with_defaults:
                return self.default_of(key)
            if key not in values:
                raise SpaceError(
                    f"space '{self.name}': the point has no value for '{key}'; add one", kind="missing", key=key
                )
            return values[key]  # type: ignore[no-any-return]

        architecture = self.decide(choose)
        for key, value in values.items():
            if key not in self.domains:
                raise SpaceError(
                    f"space '{self.name}' has no decision '{key}'; {did_you_mean(key, self.domains)}",
                    kind="unknown",
                    key=key,
                )
            if key not in architecture.values:
                raise SpaceError(
                    f"space '{self.name}': '{key}' is not active in this point; leave it out", kind="conflict", key=key
                )
            self.domains[key].check(value)
            if not same(architecture.values[key], value):
                only = architecture.values[key]
                raise SpaceError(
                    f"space '{self.name}': '{key}' can only be {only!r}, got {value!r}", kind="range", key=key
                )
        return architecture

    def default_point(self) -> Architecture:
        """Return the point of the declared defaults; without one, the first option or the middle of the range."""
        return self.decide(lambda key, domain: self.default_of(key))

    def default_of(self, key: str) -> Value:
        """Return the declared default of any decision; without one, its first option or the middle of its range.

        A decision that was fixed (`fixed`) at another value than the declared default has that value.
        """
        domain = self.domains[key]
        try:
            return domain.check(self.defaults[key])
        except (KeyError, SpaceError):
            return domain.middle

    def fixed(self, values: Mapping[str, Any]) -> SearchSpace:
        """Return a smaller space in which the decisions in `values` have only that value.

        Raises:
            SpaceError: an unknown key, or a value outside its domain.
        """
        for key, value in values.items():
            if key not in self.domains:
                raise SpaceError(
                    f"space '{self.name}' has no decision '{key}'; {did_you_mean(key, self.domains)}",
                    kind="unknown",
                    key=key,
                )
            try:
                self.domains[key].check(value)
            except SpaceError as error:
                raise SpaceError(f"space '{self.name}', decision '{key}': {error}", kind=error.kind, key=key) from None

        def narrow(decision: Decision) -> Decision:
            domain = decision.domain.only(values[decision.key]) if decision.key in values else decision.domain
            if isinstance(domain, Choice):
                domain = Choice(domain.options, tuple(tuple(narrow(d) for d in branch) for branch in domain.branches))
            return Decision(decision.key, domain)

        return replace(self, decisions=tuple(narrow(decision) for decision in self.decisions))

    def with_recipe(self, recipe: SearchSpace) -> SearchSpace:
        """Return this space with another space's `train.*` decisions and defaults.

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
        """Return the JSON-able form, see `from_json`."""
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
        """Rebuild the object from its `to_json` form.

        Raises:
            SpaceError: a field has another type.
        """
        for key in ("builder", "canonical", "text", "derive"):
            if not isinstance(content.get(key, ""), str):
                raise SpaceError(f"{key} of a space must be a text, got {shown(content[key])}", kind="type", key=key)
        for key in ("arguments", "defaults"):
            value = content[key]
            if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
                raise SpaceError(
                    f"{key} of a space must be a mapping with texts as keys, got {shown(value)}", kind="type", key=key
                )
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

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the whole space; two spaces that could propose or build differently never share it."""
        return digest(self.to_json())

    def __hash__(self) -> int:
        return hash(self.fingerprint)


def taking(values: Mapping[str, Value]) -> Choose:
    """Return a chooser that takes these values, one for each decision that it is asked for."""
    return lambda key, domain: values[key]


def _assignments(decisions: tuple[Decision, ...]) -> Iterator[dict[str, Value]]:
    """Yield the values of all points below these decisions."""
    parts = []
    for decision in decisions:
        domain = decision.domain
        below = [(value, nested) for value in domain.values for nested in _assignments(domain.branch(value))]
        parts.append([{decision.key: value, **nested} for value, nested in below])
    for combined in itertools.product(*parts):
        yield {key: value for part in combined for key, value in part.items()}
