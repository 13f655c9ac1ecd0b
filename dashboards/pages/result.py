"""Result of a search or of a fit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasforge.core.command_line import command_for
from nasforge.dashboards.library import View, fit_result
from nasforge.dashboards.pages.bars import bars_of
from nasforge.dashboards.pages.base import headline
from nasforge.dashboards.pages.confusion import confusions
from nasforge.dashboards.pages.fit import fit_content
from nasforge.experiment.journal import loads
from nasforge.experiment.state import State
from nasforge.views import tables
from nasforge.views.statistics import spread

_SHARES = frozenset(
    f"test/{name}"
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "roc_auc")
)
"""Metrics between 0 and 1: an interval of theirs ends there."""


def result(view: View) -> dict[str, Any]:
    """Result of a search or of a fit."""
    state, entry = view.state, view.entry
    outcome = fit_result(entry)
    content = {**headline(view, "result"), **fit_content(entry, outcome)}
    best = state.best
    commands = list(content["commands"])
    if best is not None and outcome is None:
        again = command_for(entry.folder, "show", "--trial", str(best.number), "--rerun")
        commands.append(("Repeat the training of the best trial and compare", again))
        if entry.kind != "fit":
            commands.append(("Retrain the best from scratch and test it", command_for(entry.folder, "retrain")))
            commands.append(("Export it", command_for(entry.folder, "export", "--to", "onnx")))
    tested = _tested(state, entry.folder / "finalists")
    if tested and not content["rows"]:
        content |= {"rows": tested, "bars": bars_of(tested), "sentence": _sentence(tested)}
        content["measure"] = _measure(tested[0]["metric"])
    return {
        **content,
        "commands": commands,
        "leaders": tables.leaderboard(state, 5),
        "decisions": tables.decisions(best) if best else [],
        "columns": [goal.metric for goal in state.objectives],
        "best": best,
        "matrix": confusions(entry, outcome),
    }


def _tested(state: State, finalists: Path) -> list[dict[str, Any]]:
    """Retrained networks with their test accuracy over the seeds: the finalists in order of merit, then the rest."""
    key = "test/" + state.objectives[0].metric.partition("/")[2]
    if not any(key in metrics for metrics in state.tests.values()):
        key = "test/accuracy"
    groups: dict[str, list[float]] = {}
    folders: dict[str, Path] = {}
    for name, metrics in state.tests.items():
        if key in metrics:
            network = re.sub(r"-seed\d+-e\d+$", "", name)
            groups.setdefault(network, []).append(metrics[key])
            folders.setdefault(network, finalists / name)
    ranked = [(t, t.architecture) for t in reversed(state.ranking()) if t.architecture]
    by_name = {f"{point.arch_id}-{point.point_id[:6]}": t for t, point in ranked}
    best = state.best
    rows = []
    for name, values in groups.items():
        one, over = by_name.get(name), spread(values)
        reference, _, of = name.partition("-for-")
        if one is not None:
            kind, title = "trial", f"trial {one.number}"
        elif of:
            of_trial = by_name.get(of)
            whose = f"trial {of_trial.number}" if of_trial else of.partition("-")[0]
            kind, title = "reference", f"{reference}, reference of {whose}"
        else:
            kind, title = ("ensemble" if name.startswith("ensemble-of-") else "other"), name
        margin = over.margin
        bounds = (0.0, 1.0) if key in _SHARES else (-math.inf, math.inf)
        costs = one.metrics if one is not None else _costs(folders[name])
        row = {
            "name": title,
            "network": reference,
            "kind": kind,
            "value": over.mean,
            "n": over.n,
            "metric": key,
            "low": None if margin is None else max(bounds[0], over.mean - margin),
            "high": None if margin is None else min(bounds[1], over.mean + margin),
            "params": costs.get("cost/params"),
            "flops": costs.get("cost/flops"),
            "won": bool(one and best and one.number == best.number),
        }
        rows.append(row)
    rows.sort(key=lambda row: (not row["won"], row["kind"] != "trial", row["kind"] != "reference"))
    return rows


def _costs(folder: Path) -> dict[str, float]:
    """Return the costs that the description of a retrained network names; none where it cannot be read."""
    path = folder / "network.json"
    if not path.resolve().is_relative_to(folder.parent.resolve()):
        return {}
    try:
        metrics = loads(path.read_text())["metrics"]
        return {key: float(metrics[key]) for key in ("cost/params", "cost/flops") if key in metrics}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _measure(key: str) -> str:
    return key.partition("/")[2].replace("_", " ")


def _sentence(rows: Sequence[Mapping[str, Any]]) -> str:
    won = next((row for row in rows if row["won"]), None)
    if won is None:
        return ""
    interval = "" if won["low"] is None else f" (95 % interval {won['low']:.1%} to {won['high']:.1%})"
    reference = next((row for row in rows if row["kind"] == "reference"), None)
    beside = "" if reference is None else f" The reference {reference['network']} reaches {reference['value']:.1%}."
    what = f"{won['value']:.1%} {_measure(won['metric'])} on the test split"
    seeds = f"{won['n']} seeds" if won["n"] > 1 else "one seed"
    return f"The best network reaches {what}{interval}, the mean of {seeds}.{beside}"
