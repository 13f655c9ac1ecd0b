"""Resources that the jobs of a search ask for, before a cluster is known."""

from __future__ import annotations

from collections.abc import Mapping

from nasforge.core.trial import Proposal, TrainShared

KINDS = ("measure", "train_shared")
"""Kinds of jobs that can have resources of their own."""
Resources = Mapping[str, Mapping[str, float]]
"""Kind of job -> name of a resource -> amount."""


def kind_of(proposal: Proposal) -> str:
    """Return the kind of job that a proposal is."""
    return "train_shared" if isinstance(proposal, TrainShared) else "measure"


def asked_for(overrides: Resources | None) -> Resources:
    """Return the user's resources by kind; those of one kind are those of the other one too, unless it has its own."""
    if overrides and len(overrides) == 1 and set(overrides) < set(KINDS):
        return dict.fromkeys(KINDS, *overrides.values())
    return overrides or {}
