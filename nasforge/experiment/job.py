"""Jobs that a runner hands to a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasforge.core.architecture import digest
from nasforge.core.layout import ARTIFACTS
from nasforge.core.trial import Proposal, proposal_from_json


@dataclass(frozen=True)
class Job:
    """One attempt at a trial, as a runner hands it to a worker.

    Attributes:
        number: the trial.
        attempt: from 1.
        proposal: what to do.
        seed: of the trial's training.
        costs: what the check found.
        experiment: absolute path of the experiment's folder.
    """

    number: int
    attempt: int
    proposal: Proposal
    seed: int
    costs: Mapping[str, float]
    experiment: Path

    @property
    def checkpoint(self) -> Path:
        """The trial's training checkpoint, shared by all attempts."""
        return self.experiment / ARTIFACTS / str(self.number) / "checkpoint.pt"

    @property
    def folder(self) -> Path:
        """This attempt's own folder."""
        return self.experiment / ARTIFACTS / str(self.number) / f"attempt-{self.attempt}"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {**vars(self), "proposal": self.proposal.to_json(), "experiment": str(self.experiment)}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Job:
        """Rebuild the object from its `to_json` form."""
        proposal = proposal_from_json(content["proposal"])
        return Job(**{**content, "proposal": proposal, "experiment": Path(content["experiment"])})


def trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial's training, from the search's seed and the trial's number."""
    return int(digest(["trial", seed, number]), 16) % 2**31
