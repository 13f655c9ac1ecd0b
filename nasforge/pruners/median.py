"""The median stopping rule: stop a trial that is worse than half of the others were on average by then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from nasforge.core.errors import ConfigError
from nasforge.core.ranges import check_whole
from nasforge.pruners.standing import Crowds
from nasforge.settings.spec import SearchSpec


class Median:
    """Median rule: stops a trial whose best report is worse than the median of the others' average reports.

    Golovin et al., "Google Vizier: A Service for Black-Box Optimization" (https://doi.org/10.1145/3097983.3098043).
    With several objectives "worse than the median" means: more than half of the others are in earlier non-dominated
    fronts.

    Args:
        spec: nothing is stopped before its ladder's first rung with epochs or after its last.
        warmup_trials: other trials that must have reached the step before a trial is pruned.
    """

    def __init__(self, spec: SearchSpec, *, warmup_trials: int = 5) -> None:
        check_whole(warmup_trials, "pruner 'median': warmup_trials", 1)
        trained = [rung.epochs for rung in spec.ladder if not rung.proxies]
        if not trained:
            raise ConfigError(
                "pruner 'median': the ladder trains nothing, so there is nothing to stop; use the pruner none",
                kind="conflict",
                key="pruner",
            )
        self._first = trained[0]
        self._last = spec.ladder[-1].epochs
        self._warmup_trials = warmup_trials
        self._crowds = Crowds(lambda reports, at: _columns(reports, at, _average))

    def prune(self, history: Mapping[int, Mapping[int, tuple[float, ...]]], number: int, step: int) -> bool:
        """Return whether more than half of the trials that reached `step` were better until then."""
        if not self._first <= step < self._last or step not in history.get(number, {}):
            return False
        others = self._crowds.others(history, number, step)
        if len(others) < self._warmup_trials:
            return False
        best = _columns(history[number], step, max)
        return others.ahead(best, len(others) / 2) > len(others) / 2


def _columns(
    reports: Mapping[int, tuple[float, ...]], step: int, combine: Callable[[Iterable[float]], float]
) -> tuple[float, ...]:
    """Return every objective's reports up to `step`, combined to one number."""
    rows = [values for at, values in reports.items() if at <= step]
    return tuple(combine(column) for column in zip(*rows, strict=True))


def _average(column: Iterable[float]) -> float:
    numbers = list(column)
    return sum(numbers) / len(numbers)
