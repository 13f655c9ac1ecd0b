"""The summary of an experiment, as `search` and `show` print it: counts, leaderboard, Pareto front, goals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nasforge.cli.output import line, metric_text, table
from nasforge.core.metrics import better
from nasforge.experiment.state import State
from nasforge.views import tables
from nasforge.views.texts import status_text


def print_summary(
    state: State, top: int = 5, remarks: Sequence[str] = (), *, name: str = "", standing: str = "stopped"
) -> None:
    """Print the counts, the `top` best trials, the Pareto front and remarks on the result.

    Args:
        state: of the search.
        top: rows of the leaderboard.
        remarks: from `nasforge.views.results`.
        name: of the experiment for the user; empty: its own.
        standing: of the search, as in `Reader.standing`; open trials of a search that does not run are interrupted.
    """
    counts = [f"{count} {status_text(status, standing)}" for status, count in state.counts().items() if count]
    line(f"{name or state.name}: {', '.join(counts) or 'no trials yet'}", style="bold")
    ranked = len(state.ranking())
    if ranked:
        _leaderboard(f"Best trials ({min(top, ranked)} of {ranked})", state, tables.leaderboard(state, top))
    if len(state.objectives) > 1 and ranked:
        _leaderboard("Pareto front", state, tables.pareto_front(state))
    for sentence in remarks:
        line(sentence, style="yellow")


def _leaderboard(title: str, state: State, trials: Sequence[dict[str, Any]]) -> None:
    goals = {objective.metric: better(objective.maximise) for objective in state.objectives}
    title += ": " + ", ".join(f"{direction} {metric}" for metric, direction in goals.items())
    keys = [*goals]
    keys += [key for key in ("val/accuracy", "cost/params", "cost/flops", "time/train_s") if key not in keys]
    keys = [key for key in keys if any(key in row["metrics"] for row in trials)]
    steps = tables.steps_of(state)
    rows = []
    for row in trials:
        cells = [metric_text(row["metrics"].get(key), key) for key in keys]
        done = [str(row[steps])] if steps else []
        rows.append([str(row["number"]), row["arch_id"], *done, *cells])
    table(title, ("trial", "arch_id", *([steps] if steps else []), *keys), rows, left=("arch_id",))
