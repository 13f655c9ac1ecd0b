"""Asynchronous successive halving: stop trials that are not among the best at their rung, without waiting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasforge.core.errors import ConfigError
from nasforge.core.ranges import Range, check_number
from nasforge.pruners.standing import Crowds
from nasforge.settings.spec import SearchSpec


class ASHA:
    """Asynchronous successive halving: stops a trial that is not in the top 1/eta at its rung.

    Li et al., "A System for Massively Parallel Hyperparameter Tuning" (https://arxiv.org/abs/1810.05934), in its
    stopping form: nothing waits for others, and a trial that continues keeps its worker. With several objectives trials
    are ranked by non-dominated front, and a whole front continues together. The first `eta - 1` trials of a rung
    continue.
    Ranks are kept between reports (nasforge/pruners/standing.py), so a report costs the same late in a search.

    Args:
        spec: the epochs of its ladder's rungs are where trials are stopped; the last is the end anyway.
        eta: keep one of every `eta` trials.
        at: steps to prune at: epochs, or folds, at least one before the last; None: the ladder's rungs.
    """

    def __init__(self, spec: SearchSpec, *, eta: float = 3, at: Sequence[int] | None = None) -> None:
        check_number(eta, "pruner 'asha': eta", over=1)
        if at is not None and (isinstance(at, str) or not all(step in Range(whole=True, least=1) for step in at)):
            raise ConfigError(
                f"pruner 'asha': at must be a list of whole numbers above 0, got {at!r}", kind="type", key="pruner.at"
            )
        if at is not None and not any(step < spec.ladder[-1].epochs for step in at):
            raise ConfigError(
                f"pruner 'asha': at {list(at)} names no step before the last, {spec.ladder[-1].epochs}, so no trial "
                "would be stopped. Name an earlier one, or use the pruner none",
                kind="range",
                key="pruner.at",
            )
        self._steps = {rung.epochs for rung in spec.ladder[:-1] if not rung.proxies} if at is None else set(at)
        self._eta = eta
        self._crowds = Crowds(lambda reports, at: reports[at])

    def prune(self, history: Mapping[int, Mapping[int, tuple[float, ...]]], number: int, step: int) -> bool:
        """Return whether the trials at this rung that rank before this one already fill the top 1/eta."""
        if step not in self._steps:
            return False
        values = history.get(number, {}).get(step)
        if values is None:
            return False
        others = self._crowds.others(history, number, step)
        reached = len(others) + 1
        return reached >= self._eta and others.ahead(values, reached / self._eta) >= reached / self._eta
