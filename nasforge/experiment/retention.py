"""Retention of weights and checkpoints of closed trials that may still be needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from nasforge.core.errors import DataError
from nasforge.core.layout import ARTIFACTS
from nasforge.core.trial import CHECKPOINT, Artifact, Trial
from nasforge.experiment.state import State

_KEPT = (CHECKPOINT, "answers")
"""Artifacts that do not leave with the weights: checkpoints have a rule of their own, answers are small."""


class Retention:
    """Deletion of weights that better trials displace; a replayed journal gives the same set.

    Args:
        folder: the experiment's.
        keep: how many finished trials keep their weights: the front first, then the best.
        resumable: returns the checkpoints from which the strategy may still resume a trial; None: it resumes none, and
            checkpoints are deleted together with the weights.
    """

    def __init__(self, folder: Path, keep: int, resumable: Callable[[], Iterable[Artifact]] | None) -> None:
        self._folder, self._keep, self._resumable = folder, keep, resumable
        self._weighty: list[Trial] = []
        self._checkpoints: list[Artifact] = []

    def closed(self, trial: Trial, state: State) -> None:
        """Delete what nobody needs: the trial's own checkpoint now, weights and kept checkpoints when pushed out.

        Raises:
            DataError: a file to delete cannot be deleted, or a link on the way to it leads out of the folder.
        """
        result = trial.result
        for leftover in (self._folder / ARTIFACTS / str(trial.number)).glob(f"{CHECKPOINT}.pt*"):
            self._delete([Artifact(leftover.relative_to(self._folder).as_posix(), "", 0)])
        needed = {weights for trial in state.open_trials if (weights := trial.weights) is not None}
        if result is not None and result.status == "finished" and result.artifacts and result.values is not None:
            self._weighty.append(trial)
            if CHECKPOINT in result.artifacts:
                self._checkpoints.append(result.artifacts[CHECKPOINT])
        if len(self._weighty) > self._keep:
            kept = {held.number for held in state.front_of(self._weighty)}
            spare = [t for t in self._weighty if t.result and needed.isdisjoint(t.result.artifacts.values())]
            dropped = min(spare, key=lambda t: (t.number in kept, state.merit(t)), default=None)
            if dropped is not None and dropped.result is not None:
                self._weighty.remove(dropped)
                self._delete(held for name, held in dropped.result.artifacts.items() if name not in _KEPT)
        needed |= set(self._resumable() if self._resumable else self._of_the_weighty())
        for checkpoint in [held for held in self._checkpoints if held not in needed]:
            self._checkpoints.remove(checkpoint)
            self._delete([checkpoint])

    def _of_the_weighty(self) -> Iterable[Artifact]:
        results = (trial.result for trial in self._weighty)
        return (r.artifacts[CHECKPOINT] for r in results if r is not None and CHECKPOINT in r.artifacts)

    def _delete(self, artifacts: Iterable[Artifact]) -> None:
        for artifact in artifacts:
            file = artifact.inside(self._folder)
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise DataError(
                    f"artifact {file} cannot be deleted: {error.strerror}; allow to delete it", kind="failed"
                ) from None
