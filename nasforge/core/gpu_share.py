"""The share of the GPUs that this process may use.

A runner that places several workers on one GPU says here what each of them may take. What computes asks for it.
"""

from __future__ import annotations


class _Lent:
    """The share of this process."""

    gpus: float | None = None


def lend(gpus: float | None) -> None:
    """Limit the GPUs that this process uses.

    Args:
        gpus: 0: none, device `auto` is the CPU; 0.25: a quarter of the memory of one; None: every GPU that it sees.
    """
    _Lent.gpus = gpus


def lent() -> float | None:
    """Return how many GPUs this process may use; None: every one that it sees."""
    return _Lent.gpus


def share_of_card() -> float:
    """Return which share of its card's memory this process may use, above 0 and at most 1."""
    return _Lent.gpus if _Lent.gpus is not None and 0 < _Lent.gpus < 1 else 1.0
