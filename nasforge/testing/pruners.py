"""Conformance suite for pruners: run it on your own, as described in `nasforge.testing.strategies`.

A check takes what the registry takes, a factory called as `factory(spec)`.
"""

# ruff: noqa: S101 - a check reports failures by AssertionError, as tests do

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from nasforge.core.ladder import Rung
from nasforge.core.protocols import Pruner
from nasforge.core.space import SearchSpace
from nasforge.settings.spec import SearchSpec

Factory: TypeAlias = Callable[..., Pruner]
History: TypeAlias = dict[int, dict[int, tuple[float, ...]]]

LADDER = (Rung(1), Rung(3), Rung(9))
SPEC = SearchSpec(SearchSpace("pruned", ()), ladder=LADDER)
TRIALS = 27


def run_trials(pruner: Pruner, curves: dict[int, Callable[[int], tuple[float, ...]]]) -> History:
    """Train trials one after the other in order of number, each as long as the pruner lets it.

    Args:
        pruner: asked after every epoch.
        curves: trial -> epoch -> values to maximise.

    Returns:
        What was reported: trial -> epoch -> values.
    """
    history: History = {}
    for number, curve in curves.items():
        history[number] = {}
        for step in range(1, LADDER[-1].epochs + 1):
            history[number][step] = curve(step)
            if pruner.prune(history, number, step):
                break
    return history


def the_first_trial_is_never_stopped(factory: Factory) -> None:
    """Check that a trial continues when there is none to compare it with."""
    steps = len(run_trials(factory(SPEC), {0: lambda step: (0.1,)})[0])
    assert steps == LADDER[-1].epochs, f"the only trial was stopped at step {steps}"


def the_best_is_never_stopped(factory: Factory) -> None:
    """Check that the best trial at every step reaches the end, whenever it comes."""
    for position in (0, 5, TRIALS - 1):
        quality = {n: (2.0 if n == position else (n * 7 % TRIALS) / TRIALS) for n in range(TRIALS)}
        history = run_trials(factory(SPEC), {n: _rising(quality[n]) for n in quality})
        assert len(history[position]) == LADDER[-1].epochs, f"the best trial, number {position}, was stopped"


def bad_trials_are_stopped(factory: Factory) -> None:
    """Check that the worst trial is stopped when it comes after many better ones, and that work is saved in all."""
    history = run_trials(factory(SPEC), {n: _rising(1.0 - n / TRIALS) for n in range(TRIALS)})
    assert len(history[TRIALS - 1]) < LADDER[-1].epochs, "the worst trial of all was trained to the end"
    assert sum(map(len, history.values())) < TRIALS * LADDER[-1].epochs * 2 / 3, (
        "less than a third of the work is saved"
    )


def equal_trials_are_treated_alike(factory: Factory) -> None:
    """Check that equally good trials continue: none is worse than the rest."""
    history = run_trials(factory(SPEC), {n: _rising(0.5) for n in range(10)})
    stopped = [n for n, steps in history.items() if len(steps) < LADDER[-1].epochs]
    assert not stopped, f"trials {stopped} were stopped, although all are equal"


def nothing_is_stopped_at_the_end(factory: Factory) -> None:
    """Check that no trial is stopped after the last rung, where nothing is left to save."""
    last = LADDER[-1].epochs
    history: History = {
        n: {step: _rising(1.0 - n / TRIALS)(step) for step in range(1, last + 1)} for n in range(TRIALS)
    }
    stopped = [n for n in history if factory(SPEC).prune(history, n, last)]
    assert not stopped, f"trials {stopped} were stopped at the end, where nothing is left to save"


def a_missing_report_is_no_reason(factory: Factory) -> None:
    """Check that a trial without usable values at a step is not stopped for that."""
    history: History = {n: {1: (n / TRIALS,)} for n in range(TRIALS)}
    history[TRIALS] = {}
    assert not factory(SPEC).prune(history, TRIALS, 1), "a trial without a report was stopped"


def pruning_is_pure(factory: Factory) -> None:
    """Check that a question has one answer, from a new pruner too, and that the history does not change."""
    pruner = factory(SPEC)
    history = run_trials(pruner, {n: _rising((n * 7 % TRIALS) / TRIALS) for n in range(TRIALS)})
    before = copy.deepcopy(history)
    questions = [(number, step) for number in history for step in history[number]]
    answers = [pruner.prune(history, *question) for question in questions]
    again = [pruner.prune(history, *question) for question in questions]
    assert answers == again, "the same questions were answered differently the second time"
    by_new = [factory(SPEC).prune(history, *question) for question in reversed(questions)][::-1]
    assert answers == by_new, "new pruners answered differently from the one that had seen the trials"
    assert history == before, "the history was changed"


def several_objectives_keep_the_front(factory: Factory) -> None:
    """Check that with two objectives non-dominated trials continue, and often dominated ones are stopped."""
    curves: dict[int, Callable[[int], tuple[float, ...]]] = {}
    for n in range(TRIALS):
        share = n / TRIALS
        curves[2 * n] = lambda step, share=share: (share * step, (1 - share) * step)  # type: ignore[misc]
        curves[2 * n + 1] = lambda step, share=share: (share * step - 2, (1 - share) * step - 2)  # type: ignore[misc]
    # All of the front before the others: then the pruner alone decides how many of the others continue.
    order = sorted(curves, key=lambda number: number % 2)
    history = run_trials(factory(SPEC), {number: curves[number] for number in order})
    last = LADDER[-1].epochs
    assert all(len(history[2 * n]) == last for n in range(TRIALS)), "a non-dominated trial was stopped"
    assert any(len(history[2 * n + 1]) < last for n in range(TRIALS)), "no dominated trial was stopped"


def a_ladder_of_one_rung_stops_nothing(factory: Factory) -> None:
    """Check that nothing is stopped if the only rung is the end."""
    pruner = factory(replace(SPEC, ladder=(Rung(3),)))
    history: History = {n: dict.fromkeys((1, 2, 3), (1.0 - n / TRIALS,)) for n in range(TRIALS)}
    stopped = [step for step in (1, 2, 3) if pruner.prune(history, TRIALS - 1, step)]
    assert not stopped, f"a trial was stopped at steps {stopped}, although the only rung is the end"


CHECKS: tuple[Callable[[Factory], None], ...] = (
    the_first_trial_is_never_stopped,
    the_best_is_never_stopped,
    bad_trials_are_stopped,
    equal_trials_are_treated_alike,
    nothing_is_stopped_at_the_end,
    a_missing_report_is_no_reason,
    pruning_is_pure,
    several_objectives_keep_the_front,
    a_ladder_of_one_rung_stops_nothing,
)


def _rising(quality: float) -> Callable[[int], tuple[float, ...]]:
    """Return a learning curve: better trials are better from the first epoch on."""
    return lambda step: (quality * (1 - 0.5**step),)
