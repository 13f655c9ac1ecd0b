"""Behind `show --importance` and `track --optuna`: the views that Optuna gives of an experiment."""

from __future__ import annotations

from pathlib import Path

from nasforge.cli.output import Outcome, line, table
from nasforge.core.command_line import quoted
from nasforge.core.uri import with_absolute_file, without_secrets
from nasforge.experiment.state import load_state
from nasforge.views import optuna_study

FIGURES = "figures"


def importance(folder: Path) -> Outcome:
    """Which decisions matter, and Optuna's figures of it."""
    state = load_state(folder)
    found = optuna_study.importances(state)
    for metric, shares in found.items():
        rows = [(key, f"{share:.3f}") for key, share in shares.items()]
        table("Importance (fANOVA)", ("decision", metric), rows, left=("decision",))
    best = state.best
    shown = set(next(iter(found.values())))
    beside = [key for key in best.architecture.values if key not in shown] if best and best.architecture else []
    if beside:
        line(f"Not in it, since they are fixed or not active in every finished trial: {', '.join(beside)}")
    files = optuna_study.write_figures(state, folder / FIGURES)
    line(f"In {folder / FIGURES}: {', '.join(path.name for path in files)}")
    return Outcome({"experiment": folder.name, "importance": found, "figures": [str(path) for path in files]})


def write_study(folder: Path, storage: str) -> Outcome:
    """An experiment for optuna-dashboard."""
    count = optuna_study.write_study(load_state(folder), storage)
    shown = without_secrets(with_absolute_file(storage))
    line(f"{count} trials of '{folder.name}' written to {shown}.")
    line(f"Look at them: pip install optuna-dashboard; optuna-dashboard {quoted([shown])}")
    return Outcome({"experiment": folder.name, "optuna": shown, "trials": count})
