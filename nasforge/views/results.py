"""Result of a search: the sentence that says what came out, and the networks that met the test split."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasforge.core.command_line import command_for, command_line, runs_dir_option
from nasforge.core.layout import BEST, DESCRIPTION
from nasforge.core.metrics import short_name
from nasforge.core.paths import inside
from nasforge.core.trial import Measure, Trial
from nasforge.core.trust import view
from nasforge.experiment.state import State
from nasforge.settings.experiment import name_from
from nasforge.settings.search_command import search_words
from nasforge.views.learnt import sentences_about
from nasforge.views.rounding import percent, significant
from nasforge.views.statistics import Spread, spread
from nasforge.views.svg import Bar, bars
from nasforge.views.texts import metric_text, metric_title

_SHARES = frozenset(
    f"test/{name}"
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "roc_auc")
)
"""Metrics between 0 and 1: an interval of theirs ends there."""
_KIND_TEXTS = {
    "trial": "found by the search",
    "found": "found by the search",
    "reference": "hand-designed network",
    "random": "drawn at random from the search",
    "sklearn": "baseline without a network",
    "majority": "baseline: the same answer for every image",
}
_KINDS = ("trial", "reference", "random", "ensemble")
"""Kinds of networks in the order of the table, after the winner."""


def kind_text(kind: str) -> str:
    """Return what a network is, for people, from its kind in the rows of a search or a fit."""
    return _KIND_TEXTS.get(kind, kind)


def networks_on_test(state: State, finalists: Path) -> list[dict[str, Any]]:
    """Return the retrained networks with their results on the test split, over the seeds; the winner first.

    Each row has `name`, `network`, `kind` (`trial`, `reference`, `random`, `ensemble` or `other`), `metric`, `value`
    (the mean), `n` (seeds), `low` and `high` (the 95 % interval of the mean), `params`, `flops` and `won`. There is no
    interval with one seed, nor where all seeds have the same value. Of a network that was retrained for several numbers
    of epochs or by several recipes, the row has the latest.

    Args:
        state: of the search.
        finalists: folder of the retrained networks.
    """
    key = test_metric(state)
    groups = retrained_alike(state.tests, key)
    ranked = [(t, t.architecture) for t in reversed(state.ranking()) if t.architecture]
    by_name = {point.short_id: t for t, point in ranked}
    abouts = {
        name: next(filter(None, (description_of(finalists, test) for test in tests)), {})
        for name, tests in groups.items()
    }
    titles = {name: f"trial {trial.number}" for name, trial in by_name.items()}
    won = [name for name, trial in by_name.items() if trial is state.best and name in groups]
    for name in groups:
        trial = _widened(abouts[name], state)
        if trial is not None:
            titles[name] = f"trial {trial.number}, widened"
            won += [name] if trial is state.best else []
    if len(won) > 1:
        in_best = finalist_in_best(finalists.parent)
        won = [name for name in won if in_best in groups[name]] or won[:1]
    rows = []
    for name, tests in groups.items():
        one, over, about = by_name.get(name), spread(list(tests.values())), abouts[name]
        reference, _, of = name.partition("-for-")
        if name in titles:
            kind = "random" if about.get("trained", {}).get("role") == "random" else "trial"
            title = titles[name]
        elif of:
            kind, title = "reference", f"{reference}, reference of {titles.get(of, of.partition('-')[0])}"
        else:
            members = re.match(r"ensemble-of-(\d+)-", name)
            kind, title = ("ensemble", f"ensemble of {members[1]}") if members else ("other", name)
        low, high = interval_of(key, over) or (None, None)
        costs = one.metrics if one is not None else about.get("metrics", {})
        rows.append(
            {
                "name": title,
                "network": reference,
                "kind": kind,
                "value": over.mean,
                "n": over.n,
                "metric": key,
                "low": low,
                "high": high,
                "params": _number(costs.get("cost/params")),
                "flops": _number(costs.get("cost/flops")),
                "won": name in won,
            }
        )
    order = {kind: place for place, kind in enumerate(_KINDS)}
    rows.sort(key=lambda row: (not row["won"], order.get(str(row["kind"]), len(order))))
    return rows


def test_metric(state: State) -> str:
    """Return the metric of the test split by which networks are compared: the first objective, else accuracy."""
    key = "test/" + state.objectives[0].metric.partition("/")[2]
    return key if any(key in metrics for metrics in state.tests.values()) else "test/accuracy"


def interval_of(key: str, over: Spread) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of a metric's mean; None with one seed, or where all have the same value."""
    margin = over.shown_margin
    if margin is None:
        return None
    least, most = (0.0, 1.0) if key in _SHARES else (-math.inf, math.inf)
    return max(least, over.mean - margin), min(most, over.mean + margin)


def retrained_alike(tests: Mapping[str, Mapping[str, float]], key: str) -> dict[str, dict[str, float]]:
    """Return network -> retraining -> a metric, over the seeds of the epochs and the recipe that were tested last.

    Args:
        tests: of a search: retraining -> its metrics on the test split, in the order of the tests.
        key: of the metric.
    """
    of_network: dict[str, dict[str, dict[str, float]]] = {}
    for name, metrics in tests.items():
        if key in metrics:
            seed = re.fullmatch(r"(.+)-seed\d+-(e\d+(?:-r[0-9a-f]{6})?)", name)
            network, training = seed.groups() if seed else (name, "")
            trainings = of_network.setdefault(network, {})
            trainings[training] = {**trainings.pop(training, {}), name: metrics[key]}  # the latest one is last
    return {network: list(trainings.values())[-1] for network, trainings in of_network.items()}


def _widened(about: Mapping[str, Any], state: State) -> Trial | None:
    """Return the trial whose network was widened to this one; None for any other network."""
    trained = about.get("trained", {})
    number = trained.get("trial")
    return state.trials.get(number) if isinstance(number, int) and trained.get("widened") else None


def finalist_in_best(experiment: Path) -> str:
    """Return the name of the retrained network in `best/`; empty where nothing says which one that is."""
    return str(description_of(experiment, BEST).get("trained", {}).get("finalist", ""))


def description_of(finalists: Path, name: str) -> Mapping[str, Any]:
    """Return the description of a retrained network, as its file says; empty where it cannot be read.

    Args:
        finalists: folder of the retrained networks, which a link in it must not leave.
        name: of the network.
    """
    path = inside(finalists, Path(name, DESCRIPTION))
    if Path(name).name != name or path is None:
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and all(_is_object(content, key) for key in _OBJECTS) else {}


_OBJECTS = ("trained", "metrics")


def _is_object(content: Mapping[str, Any], key: str) -> bool:
    return isinstance(content.get(key, {}), dict)


def _number(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # a damaged file: a whole number of hundreds of digits
        return None


def note_on_seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return what the answers of the winner are, where its figure is a mean of several seeds; else empty.

    Args:
        rows: of `networks_on_test`.
    """
    won = next((row for row in rows if row["won"]), None)
    if won is None or (won["n"] or 1) < 2:
        return ""
    return f"These are the answers of the network in best/, one of the {won['n']} that the mean above is of."


def bars_of_test(rows: Sequence[Mapping[str, Any]], measure: str = "accuracy") -> str:
    """Draw test results as bars with intervals; empty where there are none."""
    if not rows:
        return ""
    ends = [end for row in rows for end in (row["value"], row["low"], row["high"]) if end is not None]
    low = max(0.0, min(ends) - 0.15 * (max(ends) - min(ends)) - 0.01) if min(ends) > 0.3 else 0.0
    drawn = [
        Bar(
            row["name"],
            row["value"],
            metric_text(row["value"], row.get("metric", "test/accuracy")),
            "best" if row["won"] else "finished",
            row["low"],
            row["high"],
        )
        for row in rows
    ]
    return bars(f"Test {measure} with its interval", drawn, low=low)


# --- sentences -------------------------------------------------------------------------------------------------------


def outcome_sentence(state: State, tested: Sequence[Mapping[str, Any]], standing: str) -> str:
    """Return one sentence or two that say what came out, or how far the search is.

    Args:
        state: of the search.
        tested: rows of `networks_on_test`.
        standing: `running`, `reading` (its journal is not read to the end), `finished` or `stopped`.
    """
    won = next((row for row in tested if row["won"]), None)
    if won is not None:
        return _test_sentence(won, tested)
    best = state.best
    if best is None:
        if standing == "running":
            return "The search runs. It has no result yet."
        return f"The search has no result: {state.why_no_best}."
    goals = [
        f"{metric_title(goal.metric)} {metric_text(best.metrics.get(goal.metric), goal.metric)}"
        for goal in state.objectives
    ]
    so_far = " so far" if standing in ("running", "reading") else ""
    finished = len(state.finished())
    of = f"the best of {finished:,} fully measured points" if finished > 1 else "the only fully measured point"
    text = f"Trial {best.number} is {of}{so_far}: {', '.join(goals)}."
    front = state.front() if len(state.objectives) > 1 else []
    if len(front) > 1:
        text += f" {len(front)} trials are on the Pareto front."
    if state.header.config.get("data") is not None:
        text += " It has not met the test split."
    return text


def _test_sentence(won: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    interval = "" if won["low"] is None else f" (95 % interval {_shown(won, won['low'])} to {_shown(won, won['high'])})"
    references = [row for row in rows if row["kind"] == "reference"]
    of_winner = [row for row in references if row["name"].endswith(f"of {won['name']}")]
    compared = "".join(
        f" The reference {row['network']} reaches {_shown(row, row['value'])}." for row in of_winner or references[:1]
    )
    what = f"{_shown(won, won['value'])} {short_name(won['metric'])} on the test split"
    several = "the same with each of the" if won["low"] is None else "the mean of"
    seeds = f"{several} {won['n']} seeds" if won["n"] > 1 else "with one seed"
    return f"The best network reaches {what}{interval}, {seeds}.{compared}"


def _shown(row: Mapping[str, Any], value: float) -> str:
    return percent(value, 1) if row["metric"] in _SHARES else significant(value, 4)


def remarks(state: State) -> list[str]:
    """Return what a reader must know to judge the result, in sentences: that nothing was learnt, what limits it."""
    return [*sentences_about(state), *limit_remarks(state)]


def limit_remarks(state: State) -> list[str]:
    """Return what limits the result: missed targets, weights of a supernet, a goal that was not reached."""
    best = state.best
    sentences = []
    missed = [] if best is None else state.missed(best)
    if best is not None and missed:
        costs = [f"{t.metric.removeprefix('cost/')} {metric_text(best.metrics[t.metric], t.metric)}" for t in missed]
        limits = ", ".join(target.text for target in state.targets)
        sentences.append(f"No trial meets {limits}: the best has {', '.join(costs)}.")
    if best is not None and isinstance(best.proposal, Measure) and best.proposal.weights:
        steps = best.result.steps_done if best.result else 0
        if not steps:
            sentences.append(
                "These values use the supernet's weights; no network has been trained from scratch. Retrain the best."
            )
    goals = [f"{goal} {metric_text(value, goal.metric)}" for goal, value in state.budget.goals.items()]
    if goals and state.reached_by is not None:
        sentences.append(f"Trial {state.reached_by} reached the goal: {', '.join(goals)}.")
    elif goals and state.spent:
        sentences.append(f"No trial reached the goal within the budget: {', '.join(goals)}.")
    return sentences


def commands_for(folder: Path, state: State) -> list[tuple[str, str]]:
    """Return what one can do with a search: a title and the command to type, one after the other.

    Args:
        folder: of the search.
        state: of the search.
    """
    best = state.best
    with view():
        words = search_words(state.header.config)
    name = ("--name", name_from(f"{state.name}-again"), *runs_dir_option(folder.parent))
    commands = [("Search again, under another name", command_line(*words, *name))] if words else []
    if best is None:
        return [*commands, ("See all of it", command_for(folder, "show"))]
    number, has_network = str(best.number), (folder / BEST / DESCRIPTION).is_file()
    if has_network:
        commands.append(("Name the class of new images", command_for(folder, "predict", "image.jpg")))
    commands.append(("Repeat the best trial and compare", command_for(folder, "show", "--trial", number, "--rerun")))
    if state.header.config.get("data") is not None:  # a table has no images to train on
        commands.append(("Retrain the best from scratch and test it", command_for(folder, "retrain")))
    if has_network:
        commands.append(("Export the best network", command_for(folder, "export", "--to", "onnx")))
    return commands
