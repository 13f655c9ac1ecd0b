"""The rows of a fit's table: every network and baseline with its figures on the folds and on the test split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

METRICS = ("accuracy", "balanced_accuracy", "f1_macro")
"""Every row has them."""
Kind = Literal["found", "reference", "pretrained", "sklearn", "majority"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        name: unique in the table.
        kind: what it is.
        val: `METRICS` on images that it was not trained on: out-of-fold, or of the validation split.
        test: the same on the test split; empty until it was opened.
        test_ci95: 95 % intervals of `test`.
        params: of a network; None for others.
        flops: multiply-adds of one image.
        seconds: of training for `val`.
        trial: number in the search; None for what is not of it.
    """

    name: str
    kind: Kind
    val: Mapping[str, float]
    test: Mapping[str, float] = field(default_factory=dict)
    test_ci95: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    params: float | None = None
    flops: float | None = None
    seconds: float = 0.0
    trial: int | None = None

    def tested(self, truth: np.ndarray, probabilities: np.ndarray) -> Row:
        """Return the row with its figures on the test split."""
        from nasforge.api.fit.judging import intervals

        return replace(self, test=metrics_of(truth, probabilities), test_ci95=intervals(truth, probabilities))

    def to_json(self) -> dict[str, Any]:
        """JSON-able form, the one of `--json`."""
        content = asdict(self)
        content["test_ci95"] = {key: list(ends) for key, ends in self.test_ci95.items()}
        return content

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Row:
        """The inverse of `to_json`."""
        ends = {key: (float(low), float(high)) for key, (low, high) in content["test_ci95"].items()}
        return Row(**{**content, "test_ci95": ends})


def ranked(rows: Iterable[Row], metric: str) -> list[Row]:
    """Return the rows, the best by one of the `METRICS` on the folds first."""
    return sorted(rows, key=lambda row: -row.val[metric])


def metrics_of(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return the `METRICS` of answers."""
    from nasforge.api.fit.judging import figures

    every = figures(truth, probabilities)
    return {name: every[name] for name in METRICS}
