"""One trial, as `nasforge show NAME --trial N` prints it; `--rerun` trains it again."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasforge.cli.output import Outcome, line, log, metric_text, table, trial_json
from nasforge.core.trial import Result, Score, Trial
from nasforge.experiment.journal import search_name
from nasforge.experiment.state import load_state
from nasforge.views import health, tables, trial_log
from nasforge.views.reader import standing_of
from nasforge.views.rounding import fixed, percent
from nasforge.views.texts import excess_text, status_text

_SHOWN = 30


def _show_health(trial: Trial) -> list[str]:
    """Print the diagnostics of the latest report, if there are any, and return the advice."""
    advice = health.advice(trial)
    if advice:
        latest = next(step for step in reversed(trial.steps) if any(k.startswith(health.HEALTH) for k in step.metrics))
        rows = [
            (
                row["part"],
                *("" if row[key] is None else f"{row[key]:.3g}" for key in ("gradient_norm", "activation")),
                "" if row["dead_relus"] is None else percent(row["dead_relus"]),
            )
            for row in health.parts(latest.metrics)
        ]
        columns = ("part", "gradient norm", "activation (rms)", "dead ReLUs")
        table(f"Health after epoch {latest.step}", columns, rows, left=("part",))
        for sentence in advice:
            line(f"  {sentence}")
    return advice


def _show_scores(proposal: Score, result: Result | None) -> list[dict[str, Any]]:
    """Print the zero-cost scores of a batch of networks, and return all of them with the networks' ids."""
    line(f"Scores {len(proposal.architectures)} networks without training.")
    scores = result.scores if result is not None else ()
    scored: list[dict[str, Any]] = [
        {"arch_id": point.arch_id, "point_id": point.point_id, "metrics": dict(metrics)}
        for point, metrics in zip(proposal.architectures, scores, strict=False)
    ]
    keys = sorted({key for row in scored for key in row["metrics"]})
    rows = [[row["arch_id"], *(metric_text(row["metrics"].get(key), key) for key in keys)] for row in scored[:_SHOWN]]
    if rows:
        more = f" (the first {_SHOWN} of {len(scored)})" if len(scored) > _SHOWN else ""
        table(f"Scores{more}", ("arch_id", *keys), rows, left=("arch_id",))
    return scored


def _show_classes(folder: Path, trial: Trial) -> dict[str, Any] | None:
    """Print precision, recall and F1 of every class, if the trial wrote them, and return them with the confusion."""
    artifact = trial.result.artifacts.get("classes") if trial.result else None
    if artifact is None:
        return None
    file = artifact.inside(folder)
    if not file.is_file():
        line("The metrics of each class were deleted with the trial's weights. Only the best trials keep them.")
        return None
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        names = [row["class"] for row in content["classes"]]
        rows = []
        for index, row in enumerate(content["classes"]):
            answered = zip(names, content["confusion"][index], strict=True)
            wrong = {name: count for name, count in answered if name != row["class"]}
            taken = max(wrong, key=wrong.__getitem__, default="")
            mistaken_for = f"{taken} ({wrong[taken]})" if wrong.get(taken) else ""
            figures = [fixed(row[key], 4) for key in _FIGURES]
            rows.append((float(row["f1"]), (str(row["class"]), str(row["images"]), *figures, mistaken_for)))
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        line(f"{file}: damaged ({type(error).__name__}), so the metrics of each class are not shown.", style="yellow")
        return None
    worst = [shown for _, shown in sorted(rows, key=lambda pair: pair[0])[:_SHOWN]]
    more = f", the {_SHOWN} worst of {len(rows)}" if len(rows) > _SHOWN else ""
    columns = ("class", "images", *_FIGURES, "most often taken for")
    table(f"Classes on the validation split, by F1{more}", columns, worst, left=("class", "most often taken for"))
    return content


_FIGURES = ("precision", "recall", "f1")


def show_trial(
    folder: Path, number: int, draw: Path | None = None, data: Mapping[str, str] | None = None, trust: bool = False
) -> Outcome:
    """One trial, whole; its network drawn into the file `draw`, for `data` if they were moved."""
    state = load_state(folder)
    trial = state.trial(number)
    content = trial_json(trial, tables.unit_of(state))
    line(f"Trial {number}: {status_text(trial.status, standing_of(folder, state))}", style="bold")
    if trial.architecture is not None:
        line(f"arch_id {trial.architecture.arch_id}, point_id {trial.architecture.point_id}")
        table("Decisions", ("decision", "value"), list(trial.architecture.values.items()), left=("decision", "value"))
    elif isinstance(trial.proposal, Score):
        content["scores"] = _show_scores(trial.proposal, trial.result)
    else:
        line("trains a supernet")
    if trial.steps:
        keys = sorted({key for step in trial.steps for key in step.metrics if not key.startswith(health.HEALTH)})
        body = [[str(s.step), *(metric_text(s.metrics.get(k), k) for k in keys)] for s in trial.steps]
        table("Reports", (tables.steps_of(state).removesuffix("s") or "step", *keys), body)
    if trial.metrics:
        table(
            "Metrics",
            ("metric", "value"),
            [(k, metric_text(v, k)) for k, v in sorted(trial.metrics.items()) if not k.startswith(health.HEALTH)],
            left=("metric",),
        )
    content["advice"] = _show_health(trial)
    content["classes"] = _show_classes(folder, trial)
    for limit, excess in (trial.result.violations if trial.result else {}).items():
        line(f"Rejected: {excess_text(limit, excess)}", style="red")
    if trial.result and trial.result.error:
        error = trial.result.error
        line(f"{error.cause}: {error.message}", style="red")
        line(f"Advice: {error.advice}")
    if draw is not None:
        from nasforge.cli.describe import draw_network
        from nasforge.views.parts import parts_of_trial

        shown = parts_of_trial(folder, state, trial, data, trust=trust)
        draw_network(f"{search_name(folder)}, trial {number}", shown, draw)
    content["steps"] = [{"step": step.step, "metrics": dict(step.metrics), "stop": step.stop} for step in trial.steps]
    return Outcome({"experiment": search_name(folder), **content})


def show_log(folder: Path, number: int) -> Outcome:
    """Print what happened to a trial, event by event, and the tracebacks of its attempts."""
    log_lines, raised = trial_log.log_of(folder, number), trial_log.tracebacks(folder, number)
    rows = []
    for entry in log_lines:
        when = "-" if entry.at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
        shown = {key: value for key, value in entry.metrics.items() if not key.startswith(health.HEALTH)}
        metrics = ", ".join(f"{key} {metric_text(value, key)}" for key, value in sorted(shown.items()))
        rows.append((when, entry.event, f"{entry.text}; {metrics}" if metrics else entry.text))
    table(f"Trial {number} of {search_name(folder)}", ("time", "event", "what"), rows, left=("time", "event", "what"))
    for attempt, text in raised:
        line(f"Traceback of attempt {attempt}:", style="bold")
        line(text.rstrip())
    content = {
        "trial": number,
        "log": [entry.to_json() for entry in log_lines],
        "tracebacks": [{"attempt": attempt, "text": text} for attempt, text in raised],
    }
    return Outcome({"experiment": search_name(folder), **content})


def repeat_trial(folder: Path, number: int, data: Mapping[str, str], trust: bool = False) -> Outcome:
    """Repeat a trial on `data`, if they were moved, and compare."""
    from nasforge.api.rerun import rerun as repeat

    log().print(f"Repeating trial {number} of '{search_name(folder)}' ...")
    comparison = repeat(folder, number, data, trust=trust)
    if comparison.equal:
        line(
            f"Trial {number} came out again the same: {len(comparison.compared)} metrics equal to the last bit "
            f"({comparison.device})."
        )
    else:
        line(
            f"Trial {number} came out differently (status then: {comparison.status[0]}, now: {comparison.status[1]}).",
            style="red",
        )
        rows = [(key, repr(then), repr(now)) for key, (then, now) in comparison.differing.items()]
        if rows:
            table("Differing metrics", ("step/metric", "then", "now"), rows, left=("step/metric",))
        if comparison.device.startswith("cuda"):
            line("On a GPU the order of sums varies, so small differences are normal there; on a CPU there are none.")
        else:
            line(
                "On a CPU the order of sums depends on torch's threads. Small differences are normal where it had "
                "another number of them: by another OMP_NUM_THREADS, or where another runner continued the search."
            )
    content = {"experiment": search_name(folder), "rerun": comparison.to_json()}
    return Outcome(content, code=0 if comparison.equal else 1)
