"""Resources that the jobs of a search ask for, and how many jobs a machine holds at the same time."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nasforge.core.trial import Proposal, TrainShared

KINDS = ("measure", "train_shared")
"""Kinds of jobs that can have resources of their own."""
Resources = Mapping[str, Mapping[str, float]]
"""Kind of job -> name of a resource -> amount."""
UNITS = 10_000
"""Number of parts into which Ray divides 1 of a resource; it drops what is smaller."""


def kind_of(proposal: Proposal) -> str:
    """Return the kind of job that a proposal is."""
    return "train_shared" if isinstance(proposal, TrainShared) else "measure"


def asked_for(overrides: Resources | None) -> Resources:
    """Return the user's resources by kind; those of one kind are those of the other one too, unless it has its own."""
    if overrides and len(overrides) == 1 and set(overrides) < set(KINDS):
        return dict.fromkeys(KINDS, *overrides.values())
    return overrides or {}


def workers_on(machine: Mapping[str, float], amounts: Mapping[str, float], devices: Collection[str]) -> int:
    """Return how many workers a machine holds; 0 if it holds none.

    A share of a device lies on one device: two GPUs hold two workers of 0.6 GPUs, not three.

    Args:
        machine: its resources.
        amounts: resources of a worker, above 0; at least one.
        devices: names of the resources that are devices, such as GPUs.
    """
    counts = []
    for name, amount in amounts.items():
        available, needed = int(machine.get(name, 0) * UNITS), max(1, int(amount * UNITS))
        if name in devices and needed < UNITS:
            counts.append(available // UNITS * (UNITS // needed))
        else:
            counts.append(available // needed)
    return min(counts)
