"""Points that are tried before a strategy proposes its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nasforge.core.architecture import Architecture
from nasforge.core.protocols import Strategy
from nasforge.core.trial import Measure, Origin, Proposal, Result


class Starting:
    """Any strategy, after the given points.

    The strategy learns of each point as if it had proposed it, by `recall`, and is told its result. So a replay needs
    nothing more.

    Args:
        strategy: proposes what comes after the points.
        points: are proposed first, in this order.
        rung: of their proposals: 0 for a strategy that resumes checkpoints, -1 for the last rung.
    """

    def __init__(self, strategy: Strategy, points: Sequence[Architecture], rung: int = -1) -> None:
        self._strategy = strategy
        self._points = tuple(points)
        self._rung = rung

    def __getattr__(self, name: str) -> Any:
        """Return the strategy's attributes beyond the protocol's methods, such as `wanted` or `repeats`."""
        if name.startswith("__") or name == "_strategy":  # while it is copied or unpickled
            raise AttributeError(name)
        return getattr(self._strategy, name)

    def ask(self, number: int) -> Proposal | None:
        """Return the next point, or what the strategy proposes once all points were proposed."""
        if number >= len(self._points):
            return self._strategy.ask(number)
        proposal = Measure(self._points[number], rung=self._rung, origin=Origin(operator="start"))
        self._strategy.recall(number, proposal)
        return proposal

    def recall(self, number: int, proposal: Proposal) -> None:
        """Let the strategy remember what was proposed."""
        self._strategy.recall(number, proposal)

    def tell(self, number: int, result: Result) -> None:
        """Let the strategy learn from it."""
        self._strategy.tell(number, result)

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal."""
        self._strategy.withdraw(number)
