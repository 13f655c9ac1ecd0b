"""A point of a search space: what was decided, and the two hashes that name it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

from nasforge.core.errors import SpaceError

Value: TypeAlias = bool | int | float | str
"""Values that a decision may take."""

MODEL = "model."
TRAIN = "train."

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))


def digest(content: Any) -> str:
    """Return twelve hexadecimal digits that identify a JSON-able content."""
    return hashlib.sha256(_ENCODER.encode(content).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Architecture:
    """All decisions of one point: `model.*` names the network, `train.*` the recipe.

    Attributes:
        values: every active decision, key -> value, in the order the space walks them.
        canonical: where the space knows isomorphic networks, the text that all of them share.
    """

    values: Mapping[str, Value]
    canonical: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))

    def part(self, prefix: str) -> dict[str, Value]:
        """Return the decisions whose key starts with `prefix`, without it."""
        return {key.removeprefix(prefix): value for key, value in self.values.items() if key.startswith(prefix)}

    @property
    def model(self) -> dict[str, Value]:
        """The network's decisions, keys without `model.`."""
        return self.part(MODEL)

    @property
    def train(self) -> dict[str, Value]:
        """The recipe's decisions, keys without `train.`."""
        return self.part(TRAIN)

    @cached_property
    def arch_id(self) -> str:
        """Hash of the canonical `model.*` decisions: equal for equal networks, whatever their recipe."""
        return digest(self.canonical if self.canonical is not None else self.model)

    @cached_property
    def point_id(self) -> str:
        """Hash of all decisions: the network by its canonical form, and its recipe."""
        return digest([self.arch_id, {k: v for k, v in self.values.items() if not k.startswith(MODEL)}])

    @property
    def short_id(self) -> str:
        """Name of the retrained networks of this point: `arch_id` and the beginning of `point_id`."""
        return f"{self.arch_id}-{self.point_id[:6]}"

    @property
    def key(self) -> Hashable:
        """Key that is equal for two points of one space exactly when `point_id` is, made in a tenth of its time."""
        values = self.values
        if self.canonical is not None:
            values = {key: value for key, value in values.items() if not key.startswith(MODEL)}
        return (self.canonical, tuple(values), tuple(values.values()), tuple(map(type, values.values())))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able object that `from_json` turns back into an equal architecture."""
        content: dict[str, Any] = {"values": dict(self.values)}
        if self.canonical is not None:
            content["canonical"] = self.canonical
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Architecture:
        """Rebuild the object from its `to_json` form.

        Raises:
            SpaceError: `content` has no mapping `values`.
        """
        values = content.get("values") if isinstance(content, (dict, Mapping)) else None
        if not isinstance(values, (dict, Mapping)):  # a check for a dict is many times faster than one for a Mapping
            raise SpaceError(
                "an architecture needs a mapping 'values' from decision keys to values", kind="type", key="values"
            )
        return Architecture(values, content.get("canonical"))

    def __reduce__(self) -> tuple[Any, ...]:
        return Architecture, (dict(self.values), self.canonical)

    def __hash__(self) -> int:
        return hash(self.point_id)
