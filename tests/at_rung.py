"""A strategy that names a rung of the ladder."""

from __future__ import annotations

from dataclasses import replace

from nasforge.core.trial import Measure, Proposal
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.random import Random

NAME = f"{__name__}:AtRung"
"""The strategy in settings, with the option `rung`."""


class AtRung(Random):
    """Proposes random points for one rung."""

    def __init__(self, spec: SearchSpec, *, rung: int) -> None:
        super().__init__(spec)
        self.rung = rung

    def ask(self, number: int) -> Proposal | None:
        proposal = super().ask(number)
        return replace(proposal, rung=self.rung) if isinstance(proposal, Measure) else proposal
