"""Which options of a decision survive: how often they were proposed, over the search."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from nasforge.core.space import Choice, Domain, SearchSpace
from nasforge.experiment.state import State
from nasforge.strategies.choosers import at
from nasforge.strategies.options import BINS, count, option_of
from nasforge.views.rounding import percent
from nasforge.views.svg import Axis, Plot, Point, missing, number_text, short

_WINDOWS = 24
_MOST_OPTIONS = 8
OPTION_LETTERS = 32
"""Letters of an option in a legend."""


def option_texts(domain: Domain) -> list[str]:
    """Return a name for each option of a domain, as `nasforge.strategies.options` counts them."""
    if isinstance(domain, Choice):
        return [short(str(option), OPTION_LETTERS) for option in domain.options]
    if domain.size <= BINS:
        return [number_text(domain.low + index * (domain.step or 0)) for index in range(count(domain))]
    ends = [number_text(float(at(domain, index / BINS))) for index in range(BINS + 1)]
    return [f"{low} to {high}" for low, high in pairwise(ends)]


def survival_chart(state: State, key: str) -> str:
    """Draw how often each option of a decision was proposed, over the search; ranges are cut into a few parts."""
    domain, asked = _asked(state, key)
    options = sorted(option for option, _ in Counter(asked).most_common(_MOST_OPTIONS))
    texts = option_texts(domain)
    if len(options) < 2:
        return missing(_unvaried(key, [texts[option] for option in options], len(asked)))
    rows = [(texts[option], _shares(asked, option)) for option in options]
    return shares_chart(f"Share of the options of {key} in the proposals", "proposal", rows)


def nothing_to_draw(state: State, key: str) -> str:
    """Return one sentence on a decision that has not varied and that no finished trial has; empty for any other."""
    if any(key in t.architecture.values for t in state.finished() if t.architecture):
        return ""
    domain, asked = _asked(state, key)
    options = sorted(set(asked))
    if len(options) > 1:
        return ""
    texts = option_texts(domain)
    sentence = _unvaried(key, [texts[option] for option in options], len(asked))
    if not asked:
        return sentence
    unfinished = "Of these none has finished." if len(asked) > 1 else "It has not finished."
    return f"{sentence} {unfinished}"


def _asked(state: State, key: str) -> tuple[Domain, list[int]]:
    """Return the domain of a decision, and the index of its option in every trial that has it, in order of number."""
    domain = SearchSpace.from_json(state.header.config["space"]).domains[key]
    trials = [t for t in state.trials.values() if t.architecture and key in t.architecture.values]
    return domain, [option_of(domain, t.architecture.values[key]) for t in trials if t.architecture]


def _unvaried(key: str, options: Sequence[str], trials: int) -> str:
    """Return the sentence on a decision of which at most one option was proposed.

    Args:
        key: of the decision.
        options: that were proposed.
        trials: number of trials that have the decision.
    """
    if not options:
        return f"No trial has {key} so far."
    return (
        f"{key} is {options[0]} in {f'all {trials:,} trials' if trials > 1 else 'the only trial'} with this decision."
    )


def shares_chart(label: str, across: str, rows: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> str:
    """Draw shares of options as lines.

    Args:
        label: one sentence for people who hear the page.
        across: title of the horizontal axis.
        rows: name of each option, and the points of its line, with shares between 0 and 1.
    """
    places = [place for _, row in rows for place, _ in row]
    plot = Plot(
        label,
        Axis.of(across, [0, *places], whole=True),
        Axis("share", 0.0, 1.0, text=percent),
        width=420,
        height=260,
    )
    for index, (name, row) in enumerate(rows):
        plot.line(f"s{index % 8} thick", row, name=name, title=name)
        if len(row) == 1:
            plot.points(f"s{index % 8}", [Point(*row[0], name)])
    return plot.svg()


def _shares(asked: Sequence[int], option: int) -> list[tuple[float, float]]:
    size = max(1, math.ceil(len(asked) / _WINDOWS))
    windows = [(begin, asked[begin : begin + size]) for begin in range(0, len(asked), size)]
    return [(begin + len(window) / 2, window.count(option) / len(window)) for begin, window in windows]
