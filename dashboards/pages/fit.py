"""The result of a fit, from its log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from nasforge.api.fit.log import entries_of, reading
from nasforge.core.command_line import command_for, command_line, runs_dir_option
from nasforge.core.layout import BEST
from nasforge.dashboards.library import Entry, fit_result, runs_now
from nasforge.dashboards.pages.errors import errors_of_fit
from nasforge.dashboards.pages.files import explanations, files_of
from nasforge.views.fit_remarks import more_photos, sentences_on, warnings_on
from nasforge.views.results import bars_of_test
from nasforge.views.rounding import percent


def fit_only(entry: Entry) -> dict[str, Any]:
    """Return a fit that has not begun to search, or had no need to."""
    outcome = fit_result(entry)
    with reading(entry.folder):
        shown = {**errors_of_fit(entry, outcome), **fit_content(entry, outcome)}
    return {
        "title": entry.name,
        "entry": entry,
        "kind": "fit",
        "live": entry.name,
        "facts": {},
        "standing": "finished" if outcome else "running" if runs_now(entry) else "stopped",
        "goals": [],
        "limits": [],
        "address": f"/{quote(entry.name)}",
        "leaders": [],
        "decisions": [],
        "columns": [],
        "best": None,
        "seeds": "",
        **shown,
    }


def fit_content(entry: Entry, outcome: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what the page of a result shows of a fit: rows, commands, decisions. A search has files only."""
    rows = []
    commands = []
    remarks = []
    sentence = ""
    if outcome is not None:
        for row in outcome["rows"]:
            low, high = row["test_ci95"]["accuracy"]
            rows.append(
                {
                    **{key: row[key] for key in ("name", "kind", "params", "flops")},
                    "value": row["test"]["accuracy"],
                    "low": low,
                    "high": high,
                    "n": None,
                    "won": row["name"] == outcome["winner"],
                }
            )
        won = next((row for row in rows if row["won"]), None)
        if won is not None:
            name = won["name"][:1].upper() + won["name"][1:]
            sentence = (
                f"{name} answers {percent(won['value'], 1)} of {outcome['split']['test']} test images correctly "
                f"(95 % interval {percent(won['low'], 1)} to {percent(won['high'], 1)})."
            )
        remarks = [*warnings_on(outcome), *([f"{photos}."] if (photos := more_photos(outcome)) else [])]
        source = entries_of(entry.folder)[0]["inputs"]["source"]
        plan = entry.folder / "plan.yaml"
        commands.append(("Name the class of new images", command_for(entry.folder, "predict", "image.jpg")))
        commands.append(("Open its report", command_for(entry.folder, "report", "--open")))
        if plan.is_file():
            words = ["fit", str(source), "--plan", str(plan)]
            commands.append(
                (
                    "Repeat it with the same decisions",
                    command_line(*words, "--name", f"{entry.name}-again", *runs_dir_option(entry.folder.parent)),
                )
            )
    files = files_of(entry)
    has_network = (entry.folder / BEST).is_dir()
    if has_network:
        commands.append(("Show where the network looks", command_for(entry.folder, "explain")))
    decisions, images = [], []
    if entry.kind == "fit":
        for line in entries_of(entry.folder):
            if line["kind"] == "inspected":
                images = sentences_on(line["inspection"])
            if line["kind"] == "decision":
                value = line["value"]  # a mapping is for `--plan`; its reason has it in words
                shown = "" if isinstance(value, Mapping) else value
                decisions.append((line["name"].replace("_", " "), shown, line.get("reason")))
            if line["kind"] == "chosen":
                decisions.append(("winner", line["winner"], line.get("reason")))
    return {
        "rows": rows,
        "bars": Markup(bars_of_test(rows)),  # noqa: S704
        "sentence": sentence,
        "remarks": remarks,
        "images": images,
        "measure": "accuracy",
        "commands": commands,
        "files": files,
        "has_report": entry.kind != "fit" or any(file.path == "report.html" for file in files),
        "fit_decisions": decisions,
        "has_network": has_network,
        "explained": explanations(entry),
    }
