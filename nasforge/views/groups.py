"""The searches of a comparison by strategy: which ones can be tested against random, and what a reader must know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasforge.core.errors import ConfigError
from nasforge.experiment.journal import dumps
from nasforge.experiment.state import differing
from nasforge.settings.experiment import Named
from nasforge.settings.yaml_file import parse_value
from nasforge.views.comparison_records import Row
from nasforge.views.trajectory import Trajectory

BASELINE = "random"
_HARMLESS = ("device", "threads", "time_limit_s")


@dataclass(frozen=True)
class Group:
    """The searches of one strategy with one set of options.

    Attributes:
        label: `evolution(sample=3)`.
        strategy: name and options.
        searches: one per seed.
    """

    label: str
    strategy: Mapping[str, Any]
    searches: tuple[Trajectory, ...]


def label_of(named: Named) -> str:
    """Return a strategy's label with its options, `evolution(sample=3)`; different options never look alike."""
    options = ",".join(f"{key}={_shown(value)}" for key, value in sorted(named.options.items()))
    return f"{named.name}({options})" if options else named.name


def _shown(value: Any) -> str:
    plain = isinstance(value, str) and re.fullmatch(r"[\w.:/+-]+", value) and parse_value(value) == value
    return str(value) if plain else dumps(value)


def groups_of(searches: Sequence[Trajectory]) -> list[Group]:
    """Searches by strategy and options, in the order given; pruner and evaluator are named where they differ.

    Raises:
        ConfigError: not of the same problem, or a search that is there twice.
    """
    first = searches[0]
    for other in searches[1:]:
        changed = differing(first.facts, other.facts, ())
        mine, theirs = first.parts["evaluator"], other.parts["evaluator"]
        if mine["name"] == theirs["name"]:
            changed += [f"evaluator.{k}" for k in differing(mine["options"], theirs["options"], _HARMLESS)]
        if changed:
            raise ConfigError(
                f"'{first.experiment}' and '{other.experiment}' are not searches of the same problem; different: "
                f"{'; '.join(changed)}. Compare searches with the same space, data, ladder, objectives and limits",
                kind="conflict",
                key=changed[0].partition(" ")[0],
            )
    varied = [p for p in ("pruner", "evaluator") if len({json.dumps(s.parts[p]["name"]) for s in searches}) > 1]
    groups: dict[str, list[Trajectory]] = {}
    for search in searches:
        beside = [f"{part} {search.parts[part]['name']}" for part in varied]
        label = ", ".join([label_of(Named(**search.parts["strategy"])), *beside])
        twin = next((s for s in groups.get(label, ()) if s.seed == search.seed), None)
        if twin is not None:
            raise ConfigError(
                f"'{twin.experiment}' and '{search.experiment}' are both {label} with seed {search.seed}: one search, "
                "not two samples; name one of them",
                kind="duplicate",
            )
        groups.setdefault(label, []).append(search)
    return [
        Group(label, mine[0].parts["strategy"], tuple(sorted(mine, key=lambda search: search.seed)))
        for label, mine in groups.items()
    ]


def baseline_of(groups: Sequence[Group]) -> str:
    """Label of the first random search; empty without one."""
    return next((group.label for group in groups if group.strategy["name"] == BASELINE), "")


def like_baseline(groups: Sequence[Group]) -> set[str]:
    """Labels of the strategies whose signals are all of the one kind that random's are."""
    kinds = {group.label: {search.kind for search in group.searches} for group in groups}
    expected = kinds.get(baseline_of(groups), set())
    return {label for label, mine in kinds.items() if len(expected) == 1 and mine == expected}


def notes_of(groups: Sequence[Group], axis: str) -> list[str]:
    """Return the facts that a reader needs to judge the figures of the searches."""
    searches = [search for group in groups for search in group.searches]
    sentences = []
    running = [search.experiment for search in searches if search.running]
    if running:
        sentences.append(f"still running or interrupted, compared as far as they are: {some(running)}")
    short = [search.experiment for search in searches if not search.spent and not search.running]
    if short:
        left = "ended or were stopped with budget left"
        sentences.append(f"{left}; their best trial counts to the end: {some(short)}")
    sharing = [group.label for group in groups if any(search.shared for search in group.searches)]
    if sharing and axis == "trials":
        sentences.append(
            f"trials differ in cost with shared weights ({some(sharing)}): a supernet's training is one trial, "
            "and so is a measurement on its weights. Compare them with --axis worker_seconds"
        )
    pieces = [group.label for group in groups if any(search.pieces for search in group.searches)]
    if pieces and axis == "trials":
        sentences.append(
            f"trials differ in cost where each trains a piece ({some(pieces)}): every promotion is a trial. "
            "Compare them with --axis worker_seconds"
        )
    if not baseline_of(groups):
        sentences.append("without a random search, no strategy is tested")
    seeds = {tuple(sorted(search.seed for search in group.searches)) for group in groups}
    if len(seeds) > 1:
        sentences.append("the strategies have different seeds; tests use those that they share with random")
    if any(len(group.searches) < 5 for group in groups):
        sentences.append("a strategy with fewer than 5 seeds: its spread and its test are not reliable")
    return sentences


def without_figures(groups: Sequence[Group], rows: Sequence[Row], checkpoints: Sequence[float], axis: str) -> list[str]:
    """Return the note on strategies that have no row at a checkpoint, if there are any."""
    there = {(row.label, row.at) for row in rows if row.quantity == "signal"}
    empty = {group.label: [f"{at:g}" for at in checkpoints if (group.label, at) not in there] for group in groups}
    missing = [f"{label} at {', '.join(points)}" for label, points in empty.items() if points]
    if not missing:
        return []
    return [
        f"nothing to show of {'; '.join(missing)} {axis.replace('_', ' ')}: no trial of the greatest fidelity had "
        "finished within that charge (a budget may be overshot by the last trial, which then does not count); give "
        "a larger budget"
    ]


def left_out(rows: Sequence[Row]) -> list[str]:
    """Notes on seeds that have a signal and lack the final or the test figure: means and tests are of the others."""
    seeds = {(row.quantity, row.label, row.at): {*row.seeds} for row in rows}
    reasons = {"final": "the table has none for their best trial", "test": "their best trial was not retrained"}
    sentences = []
    for quantity in reasons.keys() & {row.quantity for row in rows}:
        missing: dict[str, set[int]] = {}
        for (kind, label, at), known in seeds.items():
            if kind == "signal" and known - seeds.get((quantity, label, at), set()):
                missing.setdefault(label, set()).update(known - seeds.get((quantity, label, at), set()))
        labels = [f"{label} (seed {some([str(seed) for seed in sorted(of)])})" for label, of in missing.items()]
        if labels:
            sentences.append(
                f"the '{quantity}' value is missing for {', '.join(labels)}: {reasons[quantity]}. Means and tests use "
                "the others"
            )
    return sorted(sentences)


def some(names: Sequence[str]) -> str:
    """Return the first few of the names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
