"""Results of a comparison as plain records; `comparison.json` holds them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from nasforge.core.goals import Objective
from nasforge.views.statistics import PairedTest, Summary

_POINTS = 200


@dataclass(frozen=True)
class Curve:
    """A figure of a strategy over the charge: mean over its seeds with a bootstrap band; NaN where a seed has none yet.

    Attributes:
        label: of the strategy.
        quantity: `signal`, `final` or `hypervolume`.
        x: the charge.
        mean: over the seeds.
        low: lower end of the 95 % band.
        high: upper end.
    """

    label: str
    quantity: str
    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class Row:
    """A figure of a strategy at a checkpoint.

    Attributes:
        at: the charge.
        quantity: `signal`, `regret`, `final`, `test` or `hypervolume`.
        label: of the strategy.
        summary: over the seeds.
        seeds: those that have a value.
        values: theirs, in the same order.
        against_random: paired over common seeds; None for random itself, without it, and where signals of different
            kinds cannot be compared.
    """

    at: float
    quantity: str
    label: str
    summary: Summary
    seeds: list[int]
    values: list[float]
    against_random: PairedTest | None


@dataclass(frozen=True)
class ToOptimum:
    """Charged trials until the best of a table is found.

    Attributes:
        label: of the strategy.
        n: seeds.
        found: share of them that found it within `cap`.
        mean: a miss counts as `cap`.
        median: likewise.
        cap: charged trials that every search had.
    """

    label: str
    n: int
    found: float
    mean: float
    median: float
    cap: float


@dataclass(frozen=True)
class Comparison:
    """Results of a comparison.

    Attributes:
        name: of the campaign.
        objectives: as in the searches; the first one is the signal.
        axis: what is charged: `trials`, `worker_seconds` or `multiply_adds`.
        end: how far all strategies can be compared.
        strategies: label -> strategy, seeds, experiments, fidelity, counts of trials, what was charged, and the best
            network of all its seeds.
        final: what the final figure is, as the table names it; empty without one.
        final_maximised: whether more of it is better.
        curves: anytime curves.
        rows: the table, at every checkpoint best first.
        optimum: the best signal in the table; None where the evaluator has no table.
        worst: its worst signal; None where it does not say.
        to_optimum: one per strategy; empty without a table.
        reference: hypervolume's reference point, in the objectives' own units: the worst of all measured.
        ideal: the best of all measured; hypervolumes are shares of the box between the two.
        notes: what a reader must know to judge the figures.
        failed: search -> why it ended early.
    """

    name: str
    objectives: list[str]
    axis: str
    end: float
    strategies: dict[str, dict[str, Any]]
    final: str
    final_maximised: bool
    curves: list[Curve]
    rows: list[Row]
    optimum: float | None
    worst: float | None
    to_optimum: list[ToOptimum]
    reference: list[float] | None
    ideal: list[float] | None
    notes: list[str]
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """JSON-able but for NaN."""
        return asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Comparison:
        """Rebuild a comparison from its `comparison.json`, in which null stands for NaN.

        Raises:
            AttributeError, ConfigError, KeyError, TypeError, ValueError: it is none.
        """
        curves = [
            Curve(str(c["label"]), str(c["quantity"]), *(_floats(c[key]) for key in ("x", "mean", "low", "high")))
            for c in content["curves"]
        ]
        rows = [
            Row(
                _float(row["at"]),
                str(row["quantity"]),
                str(row["label"]),
                _summary(row["summary"]),
                [int(seed) for seed in row["seeds"]],
                _floats(row["values"]),
                None if row["against_random"] is None else _paired(row["against_random"]),
            )
            for row in content["rows"]
        ]
        strategies = {
            str(label): {
                **about,
                "name": str(about["name"]),
                "experiments": [str(name) for name in about["experiments"]],
                "seeds": [int(seed) for seed in about["seeds"]],
            }
            for label, about in content["strategies"].items()
        }
        if any(len(about["seeds"]) != len(about["experiments"]) for about in strategies.values()):
            raise ValueError("a strategy has one experiment for each seed")
        if not {curve.label for curve in curves} | {row.label for row in rows} <= strategies.keys():
            raise ValueError("a figure of a strategy that is none of its own")
        to_optimum = [
            ToOptimum(
                str(one["label"]),
                int(one["n"]),
                *(_float(one[key]) for key in ("found", "mean", "median", "cap")),
            )
            for one in content["to_optimum"]
        ]
        return Comparison(
            name=str(content["name"]),
            objectives=[str(Objective.parse(text)) for text in content["objectives"]],
            axis=str(content["axis"]),
            end=_float(content["end"]),
            strategies=strategies,
            final=str(content["final"]),
            final_maximised=bool(content["final_maximised"]),
            curves=curves,
            rows=rows,
            optimum=None if content["optimum"] is None else _float(content["optimum"]),
            worst=None if content["worst"] is None else _float(content["worst"]),
            to_optimum=to_optimum,
            reference=None if content["reference"] is None else _floats(content["reference"]),
            ideal=None if content["ideal"] is None else _floats(content["ideal"]),
            notes=[str(note) for note in content["notes"]],
            failed={str(name): str(why) for name, why in content["failed"].items()},
        )


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _floats(values: Iterable[Any]) -> list[float]:
    return [_float(value) for value in values]


def _summary(content: Mapping[str, Any]) -> Summary:
    std, error, bound = (
        None if content[key] is None else float(content[key]) for key in ("std", "standard_error", "bound")
    )
    mean, median, best = (_float(content[key]) for key in ("mean", "median", "best"))
    return Summary(int(content["n"]), mean, std, error, bound, median, best)


def _paired(content: Mapping[str, Any]) -> PairedTest:
    keys = [field.name for field in fields(PairedTest) if field.name != "n"]
    return PairedTest(int(content["n"]), **{key: _float(content[key]) for key in keys})


def metrics_of(content: Mapping[str, Any], label: str) -> list[tuple[str, int, float]]:
    """Return a strategy's figures as (key, step, value) for a tracker.

    Mean curves are `campaign/<quantity>`, the table at the last checkpoint is `campaign/<quantity>/<figure>`.

    Args:
        content: of a comparison, as JSON.
        label: of the strategy.
    """
    rows: list[tuple[str, int, float | None]] = []
    for curve in content["curves"]:
        if curve["label"] == label:
            x, mean = curve["x"], curve["mean"]
            kept = sorted({*range(0, len(x), max(1, len(x) // _POINTS)), len(x) - 1})
            rows += [(f"campaign/{curve['quantity']}", int(x[i]), mean[i]) for i in kept]
    last = max((row["at"] for row in content["rows"]), default=0.0)
    for row in content["rows"]:
        if row["label"] == label and row["at"] == last:
            values = {key: row["summary"][key] for key in ("mean", "std", "bound", "median", "best")}
            test = row["against_random"]
            values["p_wilcoxon_holm"] = test["p_wilcoxon_holm"] if test else None
            rows += [(f"campaign/{row['quantity']}/{key}", int(last), value) for key, value in values.items()]
    for one in content["to_optimum"]:
        if one["label"] == label:
            rows += [(f"campaign/to_optimum/{key}", 0, one[key]) for key in ("mean", "found")]
    return _numbers(rows)


def metrics_of_search(content: Mapping[str, Any], label: str, seed: int) -> list[tuple[str, int, float]]:
    """Return what one search of a strategy has at each checkpoint, as `metrics_of` returns the strategy's."""
    return _numbers(
        (f"campaign/{row['quantity']}", int(row["at"]), value)
        for row in content["rows"]
        if row["label"] == label
        for other, value in zip(row["seeds"], row["values"], strict=True)
        if other == seed
    )


def _numbers(rows: Iterable[tuple[str, int, float | None]]) -> list[tuple[str, int, float]]:
    return [(key, step, value) for key, step, value in rows if value is not None and math.isfinite(value)]
