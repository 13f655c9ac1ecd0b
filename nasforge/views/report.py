"""The report of a search: one page with what came out, and how. Its numbers are those of the dashboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from nasforge.core.command_line import command_for
from nasforge.core.layout import FINALISTS
from nasforge.core.metrics import BUDGETS, short_name
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Trial
from nasforge.experiment.state import State
from nasforge.settings.experiment import Named
from nasforge.views import charts, page, tables
from nasforge.views.answers import (
    best_answers_file,
    class_names,
    confusion_of,
    images_folder,
    read_answers,
    surest_mistakes,
)
from nasforge.views.groups import label_of
from nasforge.views.network_svg import cells_svg
from nasforge.views.reader import Reader
from nasforge.views.results import (
    bars_of_test,
    commands_for,
    networks_on_test,
    note_on_seeds,
    outcome_sentence,
    remarks,
)
from nasforge.views.svg import number_text
from nasforge.views.texts import (
    metric_text,
    metric_title,
    seconds_text,
    share_text,
    size_text,
    status_text,
    value_text,
    when_text,
)

_TRIALS_BYTES = 500_000
"""Bytes of the trials that a click shows. Of the others the page names the command."""
_FRONT_ROWS, _BEST_ROWS, _NUMBERS = 20, 10, 8


@dataclass(frozen=True)
class Extras:
    """Content of a report that needs more than files to be read: drawings and statistics.

    Attributes:
        winner: drawing of the winner next to its reference; empty for none.
        importance: drawing of the importance of decisions, or a sentence why there is none.
    """

    winner: str = ""
    importance: str = ""


@dataclass
class _Shown:
    """Trials that marks of the page lead to."""

    numbers: dict[int, None] = field(default_factory=dict)

    def link(self, number: int) -> str:
        self.numbers[number] = None
        return f"#trial-{number}"


def report_page(reader: Reader, extras: Extras) -> str:
    """Return the report of a search as HTML.

    Args:
        reader: has read the whole journal.
        extras: drawings.
    """
    state = reader.state
    assert state is not None  # noqa: S101  (`refresh` raises otherwise)
    folder, shown = reader.folder, _Shown()
    tested = networks_on_test(state, folder / FINALISTS)
    parts = [
        f'<h1>{escape(state.name)} <span class="state {reader.standing}">{reader.standing}</span></h1>',
        page.paragraph(outcome_sentence(state, tested, reader.standing), "lead"),
        *(page.paragraph(sentence, "note") for sentence in remarks(state)),
        _cost(reader),
        page.section("What was searched", page.pairs(_settings(reader))),
        _test_split(tested),
        page.section("The winner, layer by layer" if tested else "The best network, layer by layer", extras.winner),
        _progress(state, shown),
        _front(state, shown),
        _best(state, shown),
        _curves(state, shown),
        page.section("What mattered", extras.importance),
        _errors(folder, state, note_on_seeds(tested)),
        _failures(state),
        _repeat(folder, state),
        '<aside id="detail" role="status" hidden></aside>',
        page.data_script("trials", _trials(reader, state, shown)),
    ]
    return page.document(f"{state.name}: report", parts, page.SCRIPT.read_text(encoding="utf-8"))


def _cost(reader: Reader) -> str:
    state = reader.state
    assert state is not None  # noqa: S101
    effort, unit = tables.effort(state), tables.steps_of(state)
    items = [(status_text(status, reader.standing), f"{count:,}") for status, count in state.counts().items() if count]
    if unit:
        items.append((unit, f"{effort['steps']:,.0f}"))
    items.append((BUDGETS["worker_seconds"], seconds_text(effort["worker_seconds"])))
    if effort["multiply_adds"]:
        items.append(("multiply-adds", number_text(effort["multiply_adds"])))
    if reader.elapsed is not None:
        items.append(("elapsed", seconds_text(reader.elapsed)))
    used = tables.budget_used(state)
    items.append(("of the budget", share_text(used)) if used is not None else ("budget", "no"))
    return page.numbers(items)


def _settings(reader: Reader) -> list[tuple[str, str]]:
    """Return what a reader must know to judge the result: names and values."""
    state = reader.state
    assert state is not None  # noqa: S101
    config = state.header.config
    space = SearchSpace.from_json(config["space"])
    open_ = sum(domain.size > 1 for domain in space.domains.values())
    data = config.get("data") or {}
    about_data = [str(data.get("source", ""))] if data else []
    about_data += [f"{images:,} images to search with"] if (images := data.get("images")) else []
    about_data += [f"{side} × {side} pixels"] if (side := data.get("resolution")) else []
    limits = {**state.budget.limits, **{f"until {goal}": value for goal, value in state.budget.goals.items()}}
    rows = [
        ("space", f"{space.name}; open decisions: {open_}; points: {size_text(space.size)}"),
        ("data", ", ".join(about_data)),
        *((kind, label_of(Named(**config[kind]))) for kind in ("strategy", "evaluator", "pruner")),
        ("objectives", ", ".join(map(str, state.objectives))),
        ("constraints", ", ".join(limit.text for limit in state.constraints)),
        ("targets", ", ".join(limit.text for limit in state.targets)),
        ("ladder", f"{', '.join(map(str, state.ladder))} {tables.steps_of(state)}" if tables.steps_of(state) else ""),
        ("recipe", ", ".join(f"{key} {value_text(value)}" for key, value in config["recipe"].items())),
        ("budget", ", ".join(f"{name.replace('_', ' ')} {number_text(value)}" for name, value in limits.items())),
        ("seed", str(state.header.seed)),
        ("started", "" if reader.times.began is None else when_text(reader.times.began)),
        ("last event", "" if reader.times.latest is None else when_text(reader.times.latest)),
    ]
    return [(name, value) for name, value in rows if value]


def _test_split(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    measure = short_name(rows[0]["metric"])
    return page.section("On the test split", bars_of_test(rows, measure), page.tested(rows, measure))


def _progress(state: State, shown: _Shown) -> str:
    chart = charts.best_so_far_chart(state, shown.link, "trials", charts.summary)
    return page.section("Best so far", chart)


def _front(state: State, shown: _Shown) -> str:
    x, y = tables.front_axes(state)
    chart = charts.front_chart(state, shown.link, x, y, charts.summary)
    _, front = tables.in_two_metrics(state, x, y)
    rows = [(trial, [metric_text(trial.metric(x), x), metric_text(trial.metric(y), y)]) for trial in front or ()]
    hidden = len(rows) - _FRONT_ROWS
    rows = rows[:: max(1, -(-len(rows) // _FRONT_ROWS))]
    listed = _trial_table((metric_title(x), metric_title(y)), rows, shown) if rows else ""
    note = page.paragraph(f"The table has {len(rows)} of the {len(rows) + hidden} trials on it.", "dim")
    title = charts.front_name(state)
    return page.section(f"{title[0].upper()}{title[1:]}", chart, listed, note if hidden > 0 else "")


def _best(state: State, shown: _Shown) -> str:
    best = state.best
    if best is None:
        return ""
    keys = dict.fromkeys([*(goal.metric for goal in state.objectives), "cost/params", "cost/flops"])
    known = [key for key in keys if any(trial.metric(key) is not None for trial in state.ranking()[:_BEST_ROWS])]
    ranked = [(trial, [metric_text(trial.metric(key), key) for key in known]) for trial in state.ranking()[:_BEST_ROWS]]
    decisions = [(row["decision"], value_text(row["value"])) for row in tables.decisions(best)]
    cells = cells_svg(best.architecture.model) if best.architecture else ""
    return page.section(
        "Best trials",
        _trial_table([metric_title(key) for key in known], ranked, shown),
        f"<h3>Decisions of trial {best.number}</h3>{page.pairs(decisions)}" if decisions else "",
        f'<div class="cells">{cells}</div>' if cells else "",
    )


def _trial_table(columns: Sequence[str], rows: Sequence[tuple[Trial, Sequence[str]]], shown: _Shown) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    lines = "".join(
        f'<tr><th scope="row"><a href="{shown.link(trial.number)}">trial {trial.number}</a></th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for trial, cells in rows
    )
    return (
        f'<div class="wide"><table class="list"><thead><tr><th scope="col" class="text">trial</th>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _curves(state: State, shown: _Shown) -> str:
    metric = tables.curve_metric(state)
    if not metric or max((len(trial.steps) for trial in state.trials.values()), default=0) < 2:
        return ""
    return page.section("Learning curves", charts.curves_chart(state, shown.link, metric, charts.summary))


def _errors(folder: Path, state: State, note: str) -> str:
    answers = read_answers(best_answers_file(folder), folder)
    if answers is None:
        return ""
    names = class_names(folder)
    return page.section(
        "Where the winner errs on the test split",
        page.confusion(confusion_of(answers, names), note),
        page.mistakes(surest_mistakes(answers, names, images_folder(state))),
    )


def _failures(state: State) -> str:
    rows = [
        [row["cause"], f"{row['count']:,}", _numbers(row["trials"]), row["message"], row["advice"]]
        for row in tables.failures(state)
    ]
    rows += [
        [
            f"rejected: {row['limit']}",
            f"{row['count']:,}",
            _numbers(row["trials"]),
            "Costs are above this limit.",
            "Rejected proposals are not charged. Loosen the limit, or narrow the space if there are many.",
        ]
        for row in tables.rejections(state)
    ]
    if not rows:
        return page.section("Failures and rejections", page.paragraph("No trial has failed, and none was rejected."))
    columns = ("cause", "trials", "which", "last message", "what to do")
    return page.section("Failures and rejections", page.table(columns, rows, texts=columns[2:]))


def _numbers(trials: Sequence[int]) -> str:
    more = ", …" if len(trials) > _NUMBERS else ""
    return ", ".join(map(str, trials[:_NUMBERS])) + more


def _repeat(folder: Path, state: State) -> str:
    rows = commands_for(folder, state)
    versions = ", ".join(f"{package} {version}" for package, version in state.header.versions.items())
    return page.section(
        "Repeat it",
        page.commands(rows),
        page.paragraph(f"The search began with {versions}." if versions else "", "dim"),
        page.paragraph(
            f"Fingerprints: space {state.header.space_hash[:16]}"
            + (f", data {state.header.data_hash[:16]}." if state.header.data_hash else "."),
            "dim",
        ),
    )


def _trials(reader: Reader, state: State, shown: _Shown) -> dict[str, Any]:
    """Return the trials that a click shows: texts of their metrics, and indices of their decisions' values."""
    goals = [goal.metric for goal in state.objectives]
    metrics = [*dict.fromkeys([*goals, "cost/params", "cost/flops", "time/train_s"])]
    keys = [
        key for key, domain in SearchSpace.from_json(state.header.config["space"]).domains.items() if domain.size > 1
    ]
    options: list[dict[str, int]] = [{} for _ in keys]
    best_first = dict.fromkeys([*(trial.number for trial in state.ranking()[:_BEST_ROWS]), *shown.numbers])
    trials: dict[int, list[Any]] = {}
    size = 0
    for number in best_first:
        if number not in shown.numbers:
            continue
        trial = state.trials[number]
        values = trial.architecture.values if trial.architecture else {}
        texts = [metric_text(trial.metric(key), key) if trial.metric(key) is not None else "" for key in metrics]
        places = [
            known.setdefault(value_text(values[key]), len(known)) if key in values else -1
            for key, known in zip(keys, options, strict=True)
        ]
        trials[number] = [status_text(trial.status, reader.standing), texts, places]
        size += 30 + sum(map(len, texts)) + 10 * len(keys)
        if size > _TRIALS_BYTES:
            break
    return {
        "metrics": [metric_title(key) for key in metrics],
        "keys": keys,
        "options": [list(known) for known in options],
        "trials": trials,
        "command": command_for(reader.folder, "show", "--trial", "NUMBER"),
    }
