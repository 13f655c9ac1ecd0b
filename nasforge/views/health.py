"""Advice from the diagnostics of a trial (`recipe: {health: true}`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasforge.core.trial import Trial
from nasforge.views.rounding import percent

HEALTH = "health/"
_COLUMNS = ("gradient_norm", "activation", "dead_relus")
DEAD = 0.5
LARGE_ACTIVATION, SMALL_ACTIVATION = 100.0, 1e-3
LARGE_GRADIENT = 100.0
VANISHED = 1e-3
"""Where advice begins: shares, root mean squares, norms, and the ratio of the smallest to the largest gradient."""


def parts(metrics: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row per part of the network: `part`, `gradient_norm`, `activation`, `dead_relus` (None: it has none)."""
    names = [key.removeprefix(HEALTH).rpartition(".")[0] for key in metrics if key.startswith(HEALTH) and "." in key]
    return [
        {"part": name, **{column: metrics.get(f"{HEALTH}{name}.{column}") for column in _COLUMNS}}
        for name in dict.fromkeys(names)
    ]


def advice(trial: Trial) -> list[str]:
    """Sentences about the latest report, worst first; one that says so where nothing is unusual.

    None at all for a trial without diagnostics.
    """
    steps = [step.metrics for step in trial.steps if any(key.startswith(HEALTH) for key in step.metrics)]
    if not steps:
        return []
    rows = parts(steps[-1])
    sentences = [*_gradients(rows, steps[-1]), *_relus(rows), *_activations(rows), *_loss(steps)]
    return sentences or ["nothing unusual: gradients reach every part, activations and ReLUs are alive"]


def _gradients(rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]) -> list[str]:
    sentences = []
    total = metrics.get(f"{HEALTH}gradient_norm", 0.0)
    if total > LARGE_GRADIENT:
        sentences.append(f"the gradient is large (norm {total:.3g}): set clip_norm: 1, or warm up for longer")
    norms = {row["part"]: row["gradient_norm"] for row in rows if row["gradient_norm"] is not None}
    if norms:
        weakest, strongest = min(norms, key=norms.__getitem__), max(norms, key=norms.__getitem__)
        if norms[weakest] < VANISHED * norms[strongest]:
            sizes = f"{norms[weakest]:.2g}, {strongest} has {norms[strongest]:.2g}"
            sentences.append(
                f"hardly any gradient reaches {weakest} ({sizes}): try init: he, or blocks with a shortcut"
            )
    return sentences


def _relus(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{percent(row['dead_relus'])} of the ReLUs of {row['part']} never fire: lower the learning rate, warm up for "
        "longer, or take an activation without a dead half (silu, gelu)"
        for row in rows
        if row["dead_relus"] is not None and row["dead_relus"] > DEAD
    ]


def _activations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    sentences = []
    for row in rows:
        size = row["activation"]
        if size is not None and size > LARGE_ACTIVATION:
            sentences.append(
                f"activations grow in {row['part']} (root mean square {size:.3g}): lower the learning rate"
            )
        if size is not None and size < SMALL_ACTIVATION:
            sentences.append(f"the signal dies in {row['part']} (root mean square {size:.2g}): try init: he")
    return sentences


def _loss(steps: Sequence[Mapping[str, float]]) -> list[str]:
    losses = [metrics["train/loss"] for metrics in steps if "train/loss" in metrics]
    if len(losses) > 1 and losses[-1] > 0.98 * losses[0]:
        return [f"the training loss hardly fell ({losses[0]:.3g} to {losses[-1]:.3g}): try another learning rate"]
    return []
