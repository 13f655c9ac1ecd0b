"""The ladder of fidelities: its rungs, and what a training to one of them costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from nasforge.core.errors import ConfigError
from nasforge.core.metrics import PROXY
from nasforge.core.ranges import check_number, check_whole, is_number

Unit: TypeAlias = Literal["epochs", "folds", "repeats"]
"""Units of a trial's steps: epochs of one training, or whole trainings of an evaluator that averages several."""

UNITS: tuple[Unit, ...] = get_args(Unit)


@dataclass(frozen=True)
class Rung:
    """One level of fidelity: train this long, or train nothing and score the fresh network by zero-cost proxies.

    A training passes the rungs one after the other and keeps its weights: epochs are counted through from its
    beginning. Up to a rung with `share` or `resolution` its epochs are cheaper ones.

    Attributes:
        epochs: steps done at its end, counted in `unit`; 0 exactly where there are proxies.
        proxies: their names; a Measure at this rung reports `zc/<name>` for each.
        share: of the training images that an epoch on the way to this rung passes over, stratified by class.
        resolution: height and width of the images on the way to this rung; None for the data's own.
        unit: what its steps count.
    """

    epochs: int = 0
    proxies: tuple[str, ...] = ()
    share: float = 1.0
    resolution: int | None = None
    unit: Unit = "epochs"

    def __post_init__(self) -> None:
        object.__setattr__(self, "proxies", _proxies(self.proxies))
        if self.proxies and self.epochs == 0 and is_number(self.epochs):
            return
        if self.proxies:
            raise ConfigError(
                f"ladder: a rung has epochs or proxies, not both; got proxies and epochs {self.epochs!r}",
                kind="conflict",
                key="ladder",
            )
        check_whole(self.epochs, f"ladder: {self.unit}", 1)
        check_number(self.share, "ladder: share", over=0, most=1)
        if self.resolution is not None:
            check_whole(self.resolution, "ladder: resolution", 1, 4096)

    @property
    def full(self) -> bool:
        """True if its epochs see all training images as they are."""
        return self.share == 1 and self.resolution is None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form that users write: `{"epochs": 3}`, `{"proxies": ["synflow"]}`, `{"folds": 2}`."""
        if self.proxies:
            return {"proxies": list(self.proxies)}
        return {
            self.unit: self.epochs,
            **({"share": self.share} if self.share < 1 else {}),
            **({"resolution": self.resolution} if self.resolution is not None else {}),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Rung:
        """Rebuild the object from its `to_json` form.

        Raises:
            ConfigError, TypeError: it is no rung.
        """
        unit: Unit = next((unit for unit in UNITS if unit in content), "epochs")
        return Rung(**{("epochs" if key == unit else key): value for key, value in content.items()}, unit=unit)

    def __str__(self) -> str:
        share = f" of {self.share:.4g}" if self.share < 1 else ""
        pixels = f" at {self.resolution}px" if self.resolution is not None else ""
        return "+".join(self.proxies) or f"{self.epochs}{share}{pixels}"


def _proxies(names: Any) -> tuple[str, ...]:
    """Check the names of proxies: each a text, none twice. Raises ConfigError."""
    wrong = f"ladder: proxies must be a list of different names such as [synflow, naswot], got {names!r}"
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(wrong, kind="type", key="ladder")
    if len(set(names)) < len(names):
        raise ConfigError(wrong, kind="duplicate", key="ladder")
    return tuple(names)


def proxy_metric(name: str) -> str:
    """Return the key under which a proxy is reported: `zc/synflow`; of `module:function(option=1)` `zc/function`."""
    return PROXY + name.partition("(")[0].rpartition(":")[2]


def ladder_to(epochs: int, eta: int = 3) -> tuple[Rung, ...]:
    """Return the geometric ladder that ends at `epochs`: `ladder_to(9)` is 1, 3, 9."""
    steps = [epochs]
    while steps[-1] // eta >= 1:
        steps.append(steps[-1] // eta)
    return tuple(Rung(step) for step in reversed(steps))


def is_last(rung: int, ladder: Sequence[Rung]) -> bool:
    """Return whether a proposal's `rung` is the ladder's last one: -1, or its index."""
    return rung in (-1, len(ladder) - 1)


def in_unit(ladder: Sequence[Rung], unit: Unit) -> tuple[Rung, ...]:
    """Return the ladder whose steps count `unit`."""
    return tuple(rung if rung.proxies else replace(rung, unit=unit) for rung in ladder)


def whole_epochs(ladder: Sequence[Rung], edge: int = 0) -> float:
    """Return the cost of a training to the last rung, in epochs of all images at full resolution.

    Args:
        ladder: its rungs with epochs, in order.
        edge: height of the images, for rungs of a lower resolution.
    """
    total, before = 0.0, 0
    for rung in ladder:
        pixels = (min(rung.resolution, edge) / edge) ** 2 if rung.resolution and edge else 1.0
        total += (rung.epochs - before) * rung.share * pixels
        before = rung.epochs
    return total
