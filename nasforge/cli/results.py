"""Behind the commands: call the public API, print what it found, hand back the JSON object."""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasforge.cli.output import (
    Outcome,
    commands_after,
    count_text,
    line,
    log,
    metric_text,
    next_commands,
    seconds_text,
    size_json,
    size_text,
    state_json,
    table,
    trial_json,
)
from nasforge.cli.trial import show_classes, show_health
from nasforge.cli.watch import Watch
from nasforge.core.command_line import command_for, command_line, runs_dir_option
from nasforge.core.errors import JournalError
from nasforge.core.metrics import better
from nasforge.core.paths import whole_path
from nasforge.core.tracking_uri import NO_TRACKING, ui_command
from nasforge.core.trial import Measure, Trial
from nasforge.experiment.journal import JOURNAL, experiment_of, experiments_in, fit_of, without_collection
from nasforge.experiment.state import State, load_state
from nasforge.settings.experiment import ExperimentConfig, check_name
from nasforge.views import tables
from nasforge.views.health import HEALTH

_LIMITS = {"trials": "trials", "worker_seconds": "worker time", "multiply_adds": "multiply-adds"}


def search(config: ExperimentConfig) -> Outcome:
    """Run or continue a search and say what came out."""
    from nasforge.api.search import search as run

    watch = Watch(log())
    with watch.shown():
        state = run(config, trackers=[watch], say=watch.say, on_open=watch.on_open)
    _print_summary(state)
    best = state.best
    if best is not None:
        _print_network(best)
    _print_next(config, state)
    folder = config.folder
    return Outcome({**state_json(state), "folder": str(folder)}, code=0 if best is not None else 1)


def dry_run(config: ExperimentConfig) -> Outcome:
    """Say what a search would spend."""
    from nasforge.api.forecast import forecast

    log().print("Checking random points and training one for a moment ...")
    found = forecast(config)
    low, high = found.interval
    trained = f"{found.epochs} epochs, " if found.epochs else ""
    line(f"Dry run of '{config.name}': nothing was written.", style="bold")
    rows = [
        ("points of the space", size_text(found.points)),
        (
            "feasible share",
            f"{found.feasible / found.sampled:.0%} of {found.sampled} random points "
            f"(95 % interval {low:.0%} .. {high:.0%})",
        ),
        ("cannot be built", f"{found.unbuildable} of {found.sampled}"),
        (
            "probe",
            ", ".join(f"{k.removeprefix('cost/')} {metric_text(k, v)}" for k, v in found.probe_costs.items()) or "-",
        ),
        ("seconds per trial", f"{found.seconds_per_trial:.1f} ({trained}one worker)"),
        ("trials", f"{found.trials:,.0f}" if math.isfinite(found.trials) else "until another limit is reached"),
        *([("a trial is", f"{found.piece:.0%} of that: trials go on from checkpoints")] if found.piece < 1 else []),
        ("workers", str(found.workers)),
        ("expected in all", f"{seconds_text(found.seconds)} with the pruner off; it saves a part of that"),
    ]
    if found.supernets:
        count = f"{found.supernets} supernets to begin with" if found.supernets > 1 else "one to begin with"
        said = f"{found.supernet_seconds:.1f} ({count}; measures on its weights take less than a trial)"
        rows.insert(5, ("seconds per supernet", said))
    table("What it would cost", ("what", "how much"), rows, left=("what", "how much"))
    return Outcome({"experiment": config.name, "dry_run": True, **found.to_json(), **size_json("points", found.points)})


def show(folder: Path, top: int) -> Outcome:
    """An experiment."""
    with without_collection():
        outcome = _shown(load_state(folder), top)
        gc.freeze()  # the command ends soon: no collection needs to look through the state of a long search
        return outcome


def _shown(state: State, top: int) -> Outcome:
    _print_summary(state, top)
    failures = tables.failures(state)
    if failures:
        rows = []
        for found in failures:
            numbers = ", ".join(str(number) for number in found["trials"][:8])
            more = " ..." if found["count"] > 8 else ""
            rows.append((found["cause"], str(found["count"]), numbers + more, found["message"], found["advice"]))
        table("Failures", ("cause", "count", "trials", "last message", "advice"), rows)
    if state.tests:
        keys = sorted({key for metrics in state.tests.values() for key in metrics})
        body = [[name, *(metric_text(key, metrics.get(key)) for key in keys)] for name, metrics in state.tests.items()]
        table("Met the sealed test part", ("network", *keys), body, left=("network",))
    _print_budget(state)
    return Outcome(
        {**state_json(state), "counts": state.counts()},
        more=lambda: {"trials": [trial_json(state.trials[number]) for number in sorted(state.trials)]},
    )


def campaign_of(name: str, runs_dir: Path) -> list[Path]:
    """The searches of a campaign; none where `name` is an experiment, or nothing at all."""
    folder = whole_path(runs_dir) / check_name(name)
    return [] if (experiment_of(folder) / JOURNAL).is_file() else experiments_in(folder)


def show_campaign(name: str, runs_dir: Path, searches: Sequence[Path]) -> Outcome:
    """The searches of a campaign, one line each."""
    rows: list[Sequence[str]] = []
    content: list[dict[str, Any]] = []
    goals: dict[str, str] = {}
    for path in searches:
        try:
            state = load_state(path)
        except JournalError as error:
            content.append({"experiment": path.name, "problem": str(error)})
            rows.append((path.name, "-", "-", "-", f"cannot be read: {error}"))
            continue
        goal, best = state.objectives[0], state.best
        goals[str(goal)] = goal.metric
        counts = {status: count for status, count in state.counts().items() if count}
        value = "-" if best is None else metric_text(goal.metric, best.metrics.get(goal.metric))
        trials = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no trials yet"
        strategy = state.header.config["strategy"]["name"]
        rows.append((path.name, strategy, str(state.header.seed), value, trials))
        content.append(
            {
                "experiment": path.name,
                "strategy": strategy,
                "seed": state.header.seed,
                "trials": counts,
                "best": None if best is None else trial_json(best),
            }
        )
    table(
        f"{name}: a campaign of {len(rows)} searches",
        ("search", "strategy", "seed", f"best {', '.join(goals)}" if goals else "best", "trials"),
        rows,
        left=("search", "strategy", "trials"),
    )
    line(f"Compare the strategies: {command_for(whole_path(runs_dir) / name, 'compare')}")
    line(f"Look at one of them: {command_for(searches[0], 'show')}")
    return Outcome({"campaign": name, "searches": content})


def show_trial(
    folder: Path, number: int, draw: Path | None = None, data: Mapping[str, str] | None = None, trust: bool = False
) -> Outcome:
    """One trial, whole; its network drawn into the file `draw`, for `data` if they were moved."""
    state = load_state(folder)
    trial = state.trials.get(number)
    if trial is None:
        raise JournalError(f"'{folder.name}' has no trial {number}; they go from 0 to {len(state.trials) - 1}")
    content = trial_json(trial)
    line(f"Trial {number}: {trial.status}", style="bold")
    if trial.architecture is not None:
        line(f"arch_id {trial.architecture.arch_id}, point_id {trial.architecture.point_id}")
        table("Decisions", ("decision", "value"), list(trial.architecture.values.items()), left=("decision", "value"))
    else:
        line("trains a supernet")
    if trial.steps:
        keys = sorted({key for step in trial.steps for key in step.metrics if not key.startswith(HEALTH)})
        body = [[str(s.step), *(metric_text(k, s.metrics.get(k)) for k in keys)] for s in trial.steps]
        table("Reports", (tables.steps_of(state).removesuffix("s") or "step", *keys), body)
    if trial.metrics:
        table(
            "Metrics",
            ("metric", "value"),
            [(k, metric_text(k, v)) for k, v in sorted(trial.metrics.items()) if not k.startswith(HEALTH)],
            left=("metric",),
        )
    content["advice"] = show_health(trial)
    content["classes"] = show_classes(folder, trial)
    for limit, excess in (trial.result.violations if trial.result else {}).items():
        line(f"Rejected: {limit} is exceeded by {excess:.1%}", style="red")
    if trial.result and trial.result.error:
        error = trial.result.error
        line(f"{error.cause}: {error.message}", style="red")
        line(f"Advice: {error.advice}")
    if draw is not None:
        from nasforge.cli.describe import draw_networks
        from nasforge.views.parts import parts_of_trial

        draw_networks({f"{folder.name}, trial {number}": parts_of_trial(folder, state, trial, data, trust=trust)}, draw)
    content["steps"] = [{"step": step.step, "metrics": dict(step.metrics), "stop": step.stop} for step in trial.steps]
    return Outcome({"experiment": folder.name, **content})


def rerun(folder: Path, number: int, data: Mapping[str, str], trust: bool = False) -> Outcome:
    """Repeat a trial on `data`, if they were moved, and compare."""
    from nasforge.api.repeat import rerun as repeat

    log().print(f"Repeating trial {number} of '{folder.name}' ...")
    found = repeat(folder, number, data, trust=trust)
    if found.equal:
        line(
            f"Trial {number} came out again the same: {len(found.compared)} metrics equal to the last bit "
            f"({found.device})."
        )
    else:
        line(
            f"Trial {number} came out differently (status then: {found.status[0]}, now: {found.status[1]}).",
            style="red",
        )
        rows = [(key, repr(then), repr(now)) for key, (then, now) in found.differing.items()]
        if rows:
            table("Differing metrics", ("step/metric", "then", "now"), rows, left=("step/metric",))
        if found.device.startswith("cuda"):
            line("On a GPU the order of sums varies, so small differences are normal there; on a CPU there are none.")
    return Outcome({"experiment": folder.name, "rerun": found.to_json()}, code=0 if found.equal else 1)


def export(
    folder: Path, formats: Sequence[str], out_folder: Path, data: Mapping[str, str], trust: bool = False
) -> Outcome:
    """Ship the best network, verified on `data` if they were moved."""
    from nasforge.api.export import CARDS
    from nasforge.api.export import export as run

    log().print(f"Exporting the best network of '{folder.name}', comparing each file with it ...")
    content = run(folder, formats, out_folder, data, trust=trust)
    rows = []
    for name, path in content["files"].items():
        agreement = content["verified"][name]
        rows.append([name, path, f"{agreement['accuracy']:.4f}"])
    table(
        f"Exported, each verified on {content['images']} validation images",
        ("format", "file", "accuracy"),
        rows,
        left=("format", "file"),
    )
    if content["trained_on_these"]:
        line("It was retrained on these images too: they prove that the files agree, not how good the network is.")
    card = Path(content["card"])
    if card.name != CARDS[0]:
        line(f"{card.with_name(CARDS[0])} is not as an export wrote it and stays as it is.", style="yellow")
    line(f"Model card: {card}")
    return Outcome({"experiment": folder.name, **content})


def track(folder: Path, uri: str | None) -> Outcome:
    """Catch MLflow up."""
    from nasforge.views.mlflow.tracker import destination
    from nasforge.views.mlflow.tracker import track as deliver

    place = destination(folder, uri)
    name = (fit_of(folder) or folder).name
    count = deliver(folder, place, name)
    line(f"{count} events of '{name}' delivered." if count else f"MLflow has all of '{name}' already.")
    line(f"Look at them: {ui_command(place, folder.parent)}")
    return Outcome({"experiment": name, "delivered": count})


def dashboard(runs_dir: Path, port: int) -> Outcome:
    """Run the web page until it is stopped."""
    from nasforge.dashboards.launch import launch

    line(f"The dashboard is at http://127.0.0.1:{port}; Ctrl-C ends it.")
    return Outcome(code=launch(whole_path(runs_dir), port))


# --- what several commands print -------------------------------------------------------------------------------------


def _print_summary(state: State, top: int = 5) -> None:
    counts = state.counts()
    said = ", ".join(f"{count} {status}" for status, count in counts.items() if count) or "no trials yet"
    line(f"{state.name}: {said}", style="bold")
    ranked = len(state.ranking())
    if ranked:
        _leaderboard(f"Best trials ({min(top, ranked)} of {ranked})", state, tables.leaderboard(state, top))
    if len(state.objectives) > 1 and ranked:
        _leaderboard("Pareto front", state, tables.pareto_front(state))
    _print_goal(state)
    best = state.best
    missed = [] if best is None else state.missed(best)
    if best is not None and missed:
        costs = [f"{t.metric.removeprefix('cost/')} {metric_text(t.metric, best.metrics[t.metric])}" for t in missed]
        limits = ", ".join(map(str, state.targets))
        line(f"None of them meets {limits}: the best has {', '.join(costs)}", style="yellow")
    if best is not None and isinstance(best.proposal, Measure) and best.proposal.weights and not _epochs(best):
        line(
            "They were measured on the supernet's weights; none is trained for itself yet. That begins after as many "
            "as strategy.measures says: go on with a larger budget, or retrain the best",
            style="yellow",
        )


def _print_goal(state: State) -> None:
    """Whether the search has reached what its budget's `until` says."""
    goals = [f"{goal} {metric_text(goal.metric, value)}" for goal, value in state.budget.goals.items()]
    if not goals:
        return
    if state.reached_by is not None:
        line(f"Reached by trial {state.reached_by}: {', '.join(goals)}.", style="bold")
    elif state.spent:
        line(f"Not reached within the budget: {', '.join(goals)}. A larger one goes on.", style="yellow")


def _epochs(trial: Trial) -> int:
    return trial.result.steps_done if trial.result else 0


def _leaderboard(title: str, state: State, found: Sequence[dict[str, Any]]) -> None:
    goals = {objective.metric: better(objective.maximise) for objective in state.objectives}
    title += ": " + ", ".join(f"{direction} {metric}" for metric, direction in goals.items())
    keys = [*goals]
    keys += [key for key in ("val/accuracy", "cost/params", "cost/flops", "time/train_s") if key not in keys]
    keys = [key for key in keys if any(key in row["metrics"] for row in found)]
    steps = tables.steps_of(state)
    rows = []
    for row in found:
        cells = [metric_text(key, row["metrics"].get(key)) for key in keys]
        done = [str(row["epochs"])] if steps else []
        rows.append([str(row["number"]), row["arch_id"], *done, *cells])
    table(title, ("trial", "arch_id", *([steps] if steps else []), *keys), rows, left=("arch_id",))


def _print_network(trial: Trial) -> None:
    """What the winner looks like: the network's decisions part by part, then the recipe's."""
    if trial.architecture is None:
        return
    parts: dict[str, list[str]] = {}
    for key, value in trial.architecture.model.items():
        part, dot, rest = key.partition(".")
        parts.setdefault(part if dot else "", []).append(f"{rest or key} {value}")
    recipe = [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in trial.architecture.train.items()]
    line()
    line(f"The best network (trial {trial.number}, arch_id {trial.architecture.arch_id}):", style="bold")
    for part, said in parts.items():
        line(f"  {part or 'all':<8} {', '.join(said)}")
    if recipe:
        line(f"  {'recipe':<8} {', '.join(recipe)}")


def _print_budget(state: State) -> None:
    rows = []
    texts = {"trials": count_text, "worker_seconds": seconds_text, "multiply_adds": count_text}
    for name, used in state.used.items():
        limit, text = getattr(state.budget, name), texts[name]
        rows.append((_LIMITS[name], text(used), text(limit) if math.isfinite(limit) else "no limit"))
    best = state.best
    for goal, value in state.budget.goals.items():
        reached = None if best is None else best.metrics.get(goal.metric)
        rows.append((f"until {goal}", metric_text(goal.metric, reached), metric_text(goal.metric, value)))
    table("Budget", ("what", "spent", "limit"), rows, left=("what",))


def _print_next(config: ExperimentConfig, state: State) -> None:
    folder = config.folder
    if state.best is None:
        said = state.why_no_best
        line(f"{said[0].upper()}{said[1:]}. See: {command_for(folder, 'show')}", style="yellow")
        return
    commands = commands_after(folder, state)
    commands.append(command_line("dashboard", *runs_dir_option(config.runs_dir)))
    if config.tracking_uri != NO_TRACKING:
        commands.append(ui_command(config.tracking_uri, config.runs_dir))
    line()
    next_commands(commands)
