"""Policy of a search by reinforcement learning over time: probabilities of options, and how undecided it still is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple, TypeVar

from nasforge.core.space import Domain, SearchSpace
from nasforge.core.trial import TrainShared
from nasforge.experiment.state import State
from nasforge.views.rounding import percent
from nasforge.views.survival import option_texts
from nasforge.views.svg import Axis, Plot, Point, missing

_WINDOWS = 40
_MOST_OPTIONS = 8
_Row = TypeVar("_Row")


class Noted(NamedTuple):
    """Policy that a proposal was drawn from.

    Attributes:
        number: the trial.
        policy: decision -> probability of each option, of the decisions that the proposal has.
    """

    number: int
    policy: Mapping[str, tuple[float, ...]]


def policies_of(state: State) -> list[Noted]:
    """Return the policies that a journal holds, in order of trial; none where the strategy has no policy."""
    return [
        Noted(number, trial.proposal.origin.policy)
        for number, trial in state.trials.items()
        if not isinstance(trial.proposal, TrainShared) and trial.proposal.origin and trial.proposal.origin.policy
    ]


def undecided(chances: Sequence[float]) -> float:
    """Return the entropy of one decision as a share of the greatest one: 1 where all options are equally likely."""
    if len(chances) < 2:
        return 0.0
    return -sum(chance * math.log(chance) for chance in chances if chance > 0) / math.log(len(chances))


def most_decided(noted: Sequence[Noted]) -> list[tuple[str, float]]:
    """Return each decision with its share of the greatest entropy over the last tenth of the policies, lowest first."""
    latest: dict[str, list[float]] = {key: [] for _, policy in noted for key in policy}
    for _, policy in noted[-max(5, len(noted) // 10) :]:
        for key, chances in policy.items():
            latest[key].append(undecided(chances))
    shares = [(key, fmean(values) if values else 1.0) for key, values in latest.items()]
    return sorted(shares, key=lambda item: item[1])


def entropy_chart(noted: Sequence[Noted]) -> str:
    """Draw the mean entropy of the decisions over the trials: 100 % is an even policy, 0 % one that always agrees."""
    rows = [(float(number), fmean(map(undecided, policy.values()))) for number, policy in noted]
    if len(rows) < 2:
        return missing("The journal holds fewer than two policies so far.")
    plot = Plot(
        "Entropy of the policy over the trials",
        Axis.of("trial", [number for number, _ in rows], whole=True),
        Axis("entropy", 0.0, 1.0, text=percent),
        height=260,
    )
    plot.points("other", [Point(x, y, f"trial {x:.0f}: {percent(y)}") for x, y in rows], radius=2, thin=200)
    means = [(fmean(x for x, _ in window), fmean(y for _, y in window)) for window in _windows(rows)]
    plot.line("best", means, name="mean entropy of the decisions")
    return plot.svg()


def policy_chart(noted: Sequence[Noted], space: SearchSpace, key: str) -> str:
    """Draw the probabilities of one decision's options over the trials, as areas on top of each other.

    Args:
        noted: policies of a search.
        space: that is searched; names the options.
        key: the decision.
    """
    rows = [(number, policy[key]) for number, policy in noted if key in policy]
    count = len(rows[-1][1]) if rows else 0
    rows = [row for row in rows if len(row[1]) == count]
    if len(rows) < 2:
        return missing(f"The journal holds fewer than two policies of {key} so far.")
    windows = [
        (fmean(number for number, _ in window), [fmean(column) for column in zip(*(p for _, p in window), strict=True)])
        for window in _windows(rows)
    ]
    windows = [(float(rows[0][0]), windows[0][1]), *windows[1:-1], (float(rows[-1][0]), windows[-1][1])]
    names = _options(space.domains.get(key), count)
    likely = sorted(range(count), key=lambda option: -fmean(chances[option] for _, chances in windows))
    drawn = sorted(likely[: _MOST_OPTIONS - (count > _MOST_OPTIONS)])
    plot = Plot(
        f"Probabilities of the options of {key} over the trials",
        Axis.of("trial", [x for x, _ in windows], whole=True),
        Axis("probability", 0.0, 1.0, text=percent),
        width=420,
        height=260,
    )
    below = [0.0] * len(windows)
    for place, option in enumerate(drawn):
        above = [low + chances[option] for low, (_, chances) in zip(below, windows, strict=True)]
        title = f"{names[option]}: {percent(windows[0][1][option])} at first, {percent(windows[-1][1][option])} at last"
        _area(plot, f"s{place}", windows, below, above, names[option], title)
        below = above
    if len(drawn) < count:
        _area(plot, "s7", windows, below, [1.0] * len(windows), f"{count - len(drawn)} others", "all other options")
    return plot.svg()


def _area(
    plot: Plot,
    kind: str,
    windows: Sequence[tuple[float, Sequence[float]]],
    below: Sequence[float],
    above: Sequence[float],
    name: str,
    title: str,
) -> None:
    low = [(x, min(1.0, y)) for (x, _), y in zip(windows, below, strict=True)]
    high = [(x, min(1.0, y)) for (x, _), y in zip(windows, above, strict=True)]
    plot.band(f"area {kind}", low, high, name, title)


def _options(domain: Domain | None, count: int) -> list[str]:
    names = option_texts(domain) if domain is not None else []
    return names if len(names) == count else [f"option {index + 1}" for index in range(count)]


def _windows(rows: Sequence[_Row]) -> list[Sequence[_Row]]:
    """Cut rows into at most `_WINDOWS` parts of equal length."""
    size = math.ceil(len(rows) / _WINDOWS)
    return [rows[begin : begin + size] for begin in range(0, len(rows), size)]
