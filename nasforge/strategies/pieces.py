"""Cost forecast of strategies whose trials resume each other's checkpoints, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from nasforge.core.errors import SearchError
from nasforge.core.ladder import Rung, whole_epochs
from nasforge.core.protocols import Strategy
from nasforge.core.trial import CHECKPOINT, Artifact, Measure, Result

_MOST = 300


def mean_piece(
    strategy: Strategy,
    ladder: Sequence[Rung],
    *,
    trials: float,
    objectives: int,
    costs: Mapping[str, float],
    edge: int = 0,
    checkpoints: bool = True,
) -> tuple[float, float]:
    """Ask a strategy for its trials and tell it random results, one after the other.

    Args:
        strategy: fresh.
        ladder: its rungs, all with epochs.
        trials: of the budget; of more than 300 the first ones are asked for.
        objectives: how many.
        costs: metrics of every trial.
        edge: height of the images, as in `whole_epochs`.
        checkpoints: whether trials leave any; else each is trained from its beginning.

    Returns:
        What a trial costs on average, as a share of a training to the last rung, and how many trials there are: fewer
        than the budget's where the strategy finishes before.
    """
    whole = [whole_epochs(ladder[: index + 1], edge) for index in range(len(ladder))]
    rng = Random("pieces")
    number, spent = 0, 0.0
    while number < min(trials, _MOST):
        proposal = strategy.ask(number)
        if proposal is None:
            return (spent / number / whole[-1] if number else 1.0), number
        if not isinstance(proposal, Measure):
            raise SearchError(
                f"{type(strategy).__name__} resumes checkpoints and trains a supernet",
                kind="unsupported",
                key="strategy",
            )
        spent += whole[proposal.rung] - (whole[proposal.rung - 1] if proposal.weights else 0.0)
        values = tuple(rng.random() for _ in range(objectives))
        kept = {CHECKPOINT: Artifact(f"{number}.pt", "", 0)} if checkpoints and proposal.rung < len(ladder) - 1 else {}
        strategy.tell(number, Result("finished", costs, values, ladder[proposal.rung].epochs, artifacts=kept))
        number += 1
    return spent / number / whole[-1], trials
