"""The leaderboard of a fit in MLflow: a run for each of its rows, next to the trials of its search. No mlflow here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nasforge.views.mlflow.runs import Runs, Writes

_ROLES = {"found": "found", "reference": "reference"}
_BASELINE = "baseline"
"""Role of the rows that no search has found: pretrained networks, classifiers of scikit-learn, the largest class."""


def leaderboard_writes(content: Mapping[str, Any], runs: Runs, earlier: Iterable[str] = ()) -> dict[str, Writes]:
    """Return what is to be written for the rows of a fit, and on the run of its search for the winner.

    Args:
        content: of the result, as `nasforge fit --json` prints it.
        runs: of the fit's search, with its journal folded in.
        earlier: names of the rows that were written before; a continued fit may have others.
    """
    writes: dict[str, Writes] = {}
    trials = runs.state.trials if runs.state else {}
    step = len(trials)  # MLflow shows the metric of the last step, and a continued fit has more trials
    for row in content["rows"]:
        run = writes.setdefault(f"row/{row['name']}", _run(row["name"], runs))
        metrics = _metrics_of(row)
        run.measure(metrics, step, row["seconds"])
        run.describe({"kind": row["kind"]} | ({} if row["trial"] is None else {"trial": str(row["trial"])}))
        architecture = trials[row["trial"]].architecture if row["trial"] in trials else None
        if architecture is not None:
            run.decide(architecture)
        winner = row["name"] == content["winner"]
        run.tags.update(runs.common_tags(_ROLES.get(row["kind"], _BASELINE)))
        run.tags.update({"nasforge.status": "finished", "nasforge.winner": "true" if winner else "false"})
        run.status, run.done, run.seconds = "FINISHED", True, row["seconds"]
        if winner:
            summary = runs.summary(writes)
            summary.measure(metrics, step, runs.seconds)
            summary.tags.update({"nasforge.winner": row["name"], "nasforge.reason": content["reason"]})
    for name in earlier:
        if f"row/{name}" not in writes:
            run = writes.setdefault(f"row/{name}", _run(name, runs))
            run.tags.update({"nasforge.status": "superseded", "nasforge.winner": "false"})
    return writes


def _run(name: str, runs: Runs) -> Writes:
    return Writes(f"{runs.name} {name}".strip(), {"nasforge.row": name}, exists=True)


def _metrics_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of a row under the keys that trials and retrained networks have."""
    metrics = {f"val/{key}": value for key, value in row["val"].items()}
    metrics |= {f"test/{key}": value for key, value in row["test"].items()}
    for key, (low, high) in row["test_ci95"].items():
        metrics |= {f"test/{key}_low": low, f"test/{key}_high": high}
    metrics |= {f"cost/{key}": row[key] for key in ("params", "flops") if row[key] is not None}
    return {**metrics, "time/train_s": row["seconds"]}
