"""Which trials of a search are retrained: the best, and some of the others at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from nasforge.core.architecture import MODEL, Architecture, Value
from nasforge.core.errors import SearchError
from nasforge.core.trial import Trial
from nasforge.experiment.state import State


@dataclass(frozen=True)
class Chosen:
    """A trial whose network is retrained.

    Attributes:
        trial: finished.
        architecture: the point that is trained: that of the trial, or a wider one.
        drawn: whether it was drawn at random; the others are the best.
        notes: sentences about it, for the user.
    """

    trial: Trial
    architecture: Architecture
    drawn: bool = False
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(trial: Trial, drawn: bool = False) -> Chosen:
        """Choose the network of a trial as it is."""
        assert trial.architecture is not None  # noqa: S101  (only measures are ranked)
        return Chosen(trial, trial.architecture, drawn)

    @property
    def widened(self) -> Mapping[str, Value]:
        """The decisions with other values than in the trial."""
        before = Chosen.of(self.trial).architecture.values
        return {key: value for key, value in self.architecture.values.items() if value != before.get(key)}


def ranked_of(state: State) -> list[Trial]:
    """Return the Pareto front first where there are several objectives, then the ranking; every network once.

    It stands there by its best recipe. Where the search had one network alone, its recipes are ranked.
    """
    ranked = state.ranking()
    if len(state.objectives) > 1:
        front = state.front()
        numbers = {trial.number for trial in front}
        ranked = [*front, *(trial for trial in ranked if trial.number not in numbers)]
    if all(domain.size == 1 for key, domain in state.config.space.domains.items() if key.startswith(MODEL)):
        return ranked
    by_network: dict[str, Trial] = {}
    for trial in ranked:
        if trial.architecture is not None:
            by_network.setdefault(trial.architecture.arch_id, trial)
    return list(by_network.values())


def drawn_of(ranked: Sequence[Trial], top: int, count: int, seed: int) -> list[Trial]:
    """Return `count` trials below the top, at random but always the same; more of them begin with the same ones.

    Raises:
        SearchError: there are fewer trials, below the top or at it.
    """
    if top > len(ranked):
        raise SearchError(
            f"retrain: the best {top} wanted, but {len(ranked)} finished at the full length (a network counts once); "
            f"ask for {len(ranked)} at most, or continue the search",
            kind="range",
            key="top",
        )
    others = sorted(ranked[top:], key=lambda trial: trial.number)
    if count > len(others):
        raise SearchError(
            f"retrain: {count} random trials wanted, but {len(ranked)} finished at the full length (a network counts "
            f"once) and {top} of them are the top; ask for {len(others)} at most, or continue the search",
            kind="range",
            key="random",
        )
    Random(f"{seed}/finalists").shuffle(others)
    return others[:count]
