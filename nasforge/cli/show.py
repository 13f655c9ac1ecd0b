"""The command `show`: options in, the view that they ask for out."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nasforge.cli.fit import show_fit
from nasforge.cli.options import Json, MovedData, MovedDataDir, Name, RunsDir, Trust
from nasforge.cli.output import (
    Outcome,
    count_text,
    line,
    metric_text,
    state_json,
    table,
    trial_json,
    whole_text,
)
from nasforge.cli.settings import moved_data
from nasforge.cli.summary import print_summary
from nasforge.cli.trial import repeat_trial, show_log, show_trial
from nasforge.cli.watch import standing
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, JournalError
from nasforge.core.metrics import BUDGETS
from nasforge.core.trust import view
from nasforge.experiment.journal import experiments_in, search_name, without_collection
from nasforge.experiment.places import folder_of, kind_of, search_of
from nasforge.experiment.state import State, load_state
from nasforge.views import tables
from nasforge.views.reader import Reader
from nasforge.views.results import remarks
from nasforge.views.rounding import fixed
from nasforge.views.texts import seconds_text

_FIGURES = "figures"
_OF_A_TRIAL = {
    "--rerun": "repeats one trial",
    "--draw": "draws the network of one trial",
    "--log": "shows the log of one trial",
}
"""Options that need a trial, with what they do."""


def show(
    name: Name,
    trial: Annotated[int | None, typer.Option("--trial", metavar="N", help="Show one trial with all details.")] = None,
    rerun: Annotated[
        bool, typer.Option("--rerun", help="Train that trial again and compare. The exit code is 1 if it differs.")
    ] = False,
    log: Annotated[
        bool, typer.Option("--log", help="Show what happened to that trial, event by event, with its tracebacks.")
    ] = False,
    draw: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the network of that trial into a .html or .png file.")
    ] = None,
    importance: Annotated[
        bool, typer.Option("--importance", help="Show which decisions matter, and write NAME/figures/*.html.")
    ] = False,
    top: Annotated[int | None, typer.Option(min=1, help="Show N rows of the leaderboard. Default: 10.")] = None,
    data: MovedData = None,
    data_dir: MovedDataDir = None,
    runs_dir: RunsDir = Path("runs"),
    trust: Trust = False,
    as_json: Json = False,
) -> Outcome:
    """Show a search or a fit, even while it runs: leaderboard, Pareto front, failures, budget.

    [bold]Examples[/bold]

    \b
    nasforge show first
    nasforge show first --trial 7
    nasforge show first --trial 7 --log
    nasforge show first --trial 7 --rerun
    nasforge show first --trial 7 --draw network.png
    nasforge show first --importance
    nasforge show campaign
    nasforge show cells
    nasforge show cells/search
    nasforge show first --json
    """
    place = moved_data(data, data_dir)
    if top is not None and (trial is not None or importance):
        raise ConfigError(
            "--top is for the leaderboard of a search. Leave it out with --trial and --importance",
            kind="conflict",
            key="top",
        )
    if trial is None and not (importance or rerun or draw or log or place):
        with view():
            folder = folder_of(name, runs_dir)
            kind = kind_of(folder)
            if top is not None and kind != "search":
                raise ConfigError(
                    f"'{name}' is a {kind}, and --top is for the leaderboard of a search", kind="conflict", key="top"
                )
            if kind == "fit":
                return show_fit(folder)
            if searches := experiments_in(folder):
                return show_campaign(folder, searches)
    folder = search_of(name, runs_dir)
    if place and not rerun and draw is None:
        raise ConfigError("--data, --data-dir: only --rerun and --draw need the data", kind="conflict", key="data")
    of_one = {"--rerun": rerun, "--draw": draw is not None, "--log": log}
    chosen = [option for option, used in of_one.items() if used]
    if trial is None and chosen:
        raise ConfigError(
            f"{chosen[0]} {_OF_A_TRIAL[chosen[0]]}. Choose it with --trial N", kind="missing", key="trial"
        )
    if len(chosen) > 1:
        does = " and ".join(f"{option} {_OF_A_TRIAL[option]}" for option in chosen)
        raise ConfigError(f"{does}. Use one of them", kind="conflict")
    if importance and trial is not None:
        raise ConfigError("--importance shows all trials, --trial shows one. Use one of them", kind="conflict")
    if rerun and trial is not None:
        return repeat_trial(folder, trial, place, trust)
    if draw is not None and trial is not None:
        return show_trial(folder, trial, draw, place, trust)
    with view():
        if trial is not None:
            return show_log(folder, trial) if log else show_trial(folder, trial)
        if importance:
            return show_importance(folder)
        return show_experiment(folder, 10 if top is None else top)


def show_experiment(folder: Path, top: int) -> Outcome:
    """Return an experiment."""
    with without_collection():
        reader = Reader(folder)
        reader.refresh()
        outcome = _shown(reader, top)
        gc.freeze()  # the command ends soon: no collection needs to look through the state of a long search
        return outcome


def _shown(reader: Reader, top: int) -> Outcome:
    state = reader.state
    assert state is not None  # noqa: S101  (`refresh` raises otherwise)
    times = standing(reader)
    if times:
        line(f"{reader.standing.capitalize()}: {times}.")
    notes = remarks(state)
    print_summary(state, top, notes, name=search_name(reader.folder), standing=reader.standing)
    failures = tables.failures(state)
    if failures:
        rows = []
        for failure in failures:
            numbers = ", ".join(str(number) for number in failure["trials"][:8])
            more = " ..." if failure["count"] > 8 else ""
            rows.append(
                (failure["cause"], str(failure["count"]), numbers + more, failure["message"], failure["advice"])
            )
        table("Failures", ("cause", "count", "trials", "last message", "advice"), rows)
    if state.tests:
        keys = sorted({key for metrics in state.tests.values() for key in metrics})
        body = [[name, *(metric_text(metrics.get(key), key) for key in keys)] for name, metrics in state.tests.items()]
        table("Met the sealed test split", ("network", *keys), body, left=("network",))
    _print_budget(state)
    unit = tables.unit_of(state)
    return Outcome(
        {**state_json(state), "experiment": search_name(reader.folder), "counts": state.counts(), "remarks": notes},
        more=lambda: {"trials": [trial_json(trial, unit) for _, trial in sorted(state.trials.items())]},
    )


def show_campaign(folder: Path, searches: Sequence[Path]) -> Outcome:
    """Return the searches of a campaign, one line each."""
    rows: list[Sequence[str]] = []
    content: list[dict[str, Any]] = []
    bests: list[str] = []
    for path in searches:
        try:
            state = load_state(path)
        except JournalError as error:
            content.append({"experiment": path.name, "problem": str(error)})
            bests.append("")
            rows.append((path.name, "-", "-", "-", f"cannot be read: {error}"))
            continue
        goal, best = state.objectives[0], state.best
        counts = {status: count for status, count in state.counts().items() if count}
        value = "-" if best is None else metric_text(best.metrics.get(goal.metric), goal.metric)
        bests.append("" if best is None else str(goal))
        trials = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no trials yet"
        strategy = state.header.config["strategy"]["name"]
        rows.append((path.name, strategy, str(state.header.seed), value, trials))
        content.append(
            {
                "experiment": path.name,
                "strategy": strategy,
                "seed": state.header.seed,
                "trials": counts,
                "best": None if best is None else trial_json(best, tables.unit_of(state)),
            }
        )
    goals = dict.fromkeys(filter(None, bests))
    if len(goals) > 1:  # each number says in which metric it is
        rows = [(*row[:3], f"{row[3]} {goal}".rstrip(), row[4]) for row, goal in zip(rows, bests, strict=True)]
    table(
        f"{folder.name}: a campaign of {len(rows)} searches",
        ("search", "strategy", "seed", f"best {next(iter(goals))}" if len(goals) == 1 else "best", "trials"),
        rows,
        left=("search", "strategy", "trials"),
    )
    line(f"Compare the strategies: {command_for(folder, 'compare')}")
    line(f"Look at one of them: {command_for(searches[0], 'show')}")
    return Outcome({"campaign": folder.name, "searches": content})


def _print_budget(state: State) -> None:
    rows = []
    texts = {"trials": whole_text, "worker_seconds": seconds_text, "multiply_adds": count_text}
    for name, used in state.used.items():
        limit, text = getattr(state.budget, name), texts[name]
        rows.append((BUDGETS[name], text(used), text(limit) if math.isfinite(limit) else "no limit"))
    best = state.best
    for goal, value in state.budget.goals.items():
        reached = None if best is None else best.metrics.get(goal.metric)
        rows.append((f"until {goal}", metric_text(reached, goal.metric), metric_text(value, goal.metric)))
    table("Budget", ("what", "spent", "limit"), rows, left=("what",))


def show_importance(folder: Path) -> Outcome:
    """Which decisions matter, and Optuna's figures of it."""
    from nasforge.views import optuna_study

    state = load_state(folder)
    ranked = optuna_study.importances(state)
    for metric, shares in ranked.shares.items():
        rows = [(key, fixed(share, 3)) for key, share in shares.items()]
        table("Importance (fANOVA)", ("decision", metric), rows, left=("decision",))
    line(f"It is computed {ranked.basis}.")
    best = state.best
    shown = {key for shares in ranked.shares.values() for key in shares}
    beside = [key for key in best.architecture.values if key not in shown] if best and best.architecture else []
    if beside:
        why = "they are fixed, inactive in some finished trials, or cannot change it"
        line(f"Without importance, because {why}: {', '.join(beside)}")
    files = optuna_study.write_figures(state, ranked, folder / _FIGURES)
    line(f"In {folder / _FIGURES}: {', '.join(path.name for path in files)}")
    counts = {"trials": ranked.trials, "finished": ranked.finished}
    content = {"experiment": search_name(folder), "importance": ranked.shares, "importance_of": counts}
    return Outcome({**content, "figures": [str(path) for path in files]})
