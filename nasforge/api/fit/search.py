"""The search of a fit: its configuration, its run until the time for it is over, and the candidates it leaves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from nasforge.api import search as searching
from nasforge.api.assembly import suited_to_images
from nasforge.api.fit.keeper import Keeper
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import VALIDATION_SHARE
from nasforge.api.starts import CLASS_WEIGHTS
from nasforge.core.errors import JournalError, SearchError, TimeOver
from nasforge.core.layout import SEARCH
from nasforge.core.say import Say
from nasforge.core.space import Choice, Decision, SearchSpace
from nasforge.experiment.journal import has_begun, read_header
from nasforge.experiment.state import State, load_state
from nasforge.experiment.verdicts import nothing_is_admitted
from nasforge.settings.experiment import NO_PRUNER, ExperimentConfig, load_space, resolve
from nasforge.training.artifacts import ANSWERS, file_of
from nasforge.training.meter import trainings_end_by

if TYPE_CHECKING:
    from nasforge.api.fit.work import Answered, Work
    from nasforge.core.trial import Trial


def config_of(work: Work, *, epochs: int, folds: int | None = None, threads: int | None = None) -> ExperimentConfig:
    """Return the configuration of the search, its space resolved for these images."""
    objective = {"loss": "min:val/loss"}.get(work.metric, f"val/{work.metric}")
    decided = work.class_weights is not None
    balanced = {"class_weights": "balanced"} if work.balanced and not decided else {}
    images = work.plan.images if folds is None else None
    folds = work.folds if folds is None else folds
    single = folds == 1
    name = "training" if single else "cross_validation"
    options: dict[str, Any] = {"keep_answers": True, "device": work.request.device}
    if threads is not None:
        options["threads"] = threads
    if not single:
        options |= {"folds": folds}
    at = [max(1, epochs // 3)] if single else [step for step in (1, 2) if step < folds]
    if single and not _validates_every_epoch(work):
        options["validate_at"] = at  # nothing reads the scores of other epochs
    config = resolve(
        {
            "name": SEARCH,
            "space": space_of(work),
            "data": {
                "source": work.whole_config.source,
                "validation": VALIDATION_SHARE,
                "seed": work.request.seed,
                **({"images": images} if images else {}),
            },
            "strategy": {"name": "evolution", "population": 8},
            "evaluator": {"name": name, **options},
            "pruner": {"name": "asha", "at": at} if epochs > 1 or not single else NO_PRUNER,
            "runner": "local",
            "objectives": [objective],
            "constraints": list(work.request.constraints),
            "budget": {"worker_seconds": work.seconds},
            "start_from": "portfolio",
            "epochs": epochs,
            "recipe": balanced,
            "seed": work.request.seed,
            "runs_dir": str(work.folder),
            "tracking_uri": work.tracking_uri,
        }
    )
    return suited_to_images(replace(config, title=work.folder.name))


def _validates_every_epoch(work: Work) -> bool:
    """Tell whether an older version has begun the search, in which trainings validate after every epoch."""
    folder = work.folder / SEARCH
    if not has_begun(folder):
        return False
    with suppress(JournalError):  # the search reports it
        return "validate_at" not in read_header(folder).config["evaluator"]["options"]
    return True


def space_of(work: Work) -> SearchSpace:
    """Return the space `photos`; where classes are of unequal size, their weights in the loss are a decision too."""
    space = load_space("photos")
    if work.class_weights is None:
        return space
    decision = Decision(CLASS_WEIGHTS, Choice(("none", "balanced")))
    return replace(
        space,
        decisions=(*space.decisions, decision),
        defaults={**space.defaults, CLASS_WEIGHTS: work.class_weights},
    )


def search(work: Work) -> State:
    """Try candidates until the time for it is over, from the portfolio on."""
    plan, until = work.plan, work.until
    # the journal charges work, the log measures time: the keeper ends the search before the budget is charged
    threads = int(work.training_decision["threads"])
    torch.set_num_threads(threads)
    config = config_of(work, epochs=work.plan.epochs, threads=threads)
    entry = work.log.last("searched")
    if entry is not None and entry["until"] >= until:
        return load_state(config.folder)
    last = max(work.seconds - work.end - until, 0.0)
    keeper = Keeper(work.log, until, plan.folds, work.say, last, plan.folds * plan.training)
    try:
        with trainings_end_by(keeper.deadline, until):
            state = searching.search(
                config, trackers=[keeper], say=_quietly(work.say), on_open=keeper.watch, patient=False
            )
    except TimeOver:  # the keeper's; a stop by the user goes on
        state = load_state(config.folder)
    if not state.accepted:
        advice = "Give more --time to look for smaller networks, or relax the constraint and use another --name"
        raise nothing_is_admitted(state, advice)
    if not any(trial.comparable for trial in state.trials.values()):
        raise SearchError(
            f"{work.folder}: no network was trained to the end in time: {state.why_no_best}. Give more --time",
            kind="empty",
            key="time",
        )
    work.log.write("searched", until=until, trials=state.accepted)
    return state


def _quietly(say: Say) -> Say:
    """Pass on the messages of the search, without notes on data, which are printed already, and on the runner."""
    return lambda text: None if text.startswith(("Note: data ", "Note: trial ")) else say(text)


def candidates_of(work: Work, state: State) -> list[Answered]:
    """Return the trials that were trained to the end on all folds, with their answers.

    A first candidate that was late is among them only where no trial is complete.
    """
    candidates = []
    default = work.space.default_point()
    for trial in _of_greatest_fidelity(work, state):
        result = trial.result
        if result is None or ANSWERS not in result.artifacts or trial.architecture is None:
            continue
        tensors = load_file(file_of(work.folder / SEARCH, result.artifacts[ANSWERS]))
        probabilities = work.in_order(tensors["images"].numpy(), tensors["probabilities"].float().numpy())
        plain = trial.architecture.model == default.model
        row = Row(
            name=f"{'plain ResNet' if plain else 'found'} (trial {trial.number})",
            kind="reference" if plain else "found",
            val={},
            params=trial.costs.get("cost/params"),
            flops=trial.costs.get("cost/flops"),
            seconds=result.charged.worker_seconds,
            trial=trial.number,
        )
        candidates.append(work.answered(row, probabilities))
    return candidates


def _of_greatest_fidelity(work: Work, state: State) -> list[Trial]:
    """Return the comparable trials of the greatest fidelity, late ones only where none is complete."""
    comparable = [trial for trial in state.trials.values() if trial.comparable]
    # on folds a late trial has as many steps as a complete one, of fewer epochs each
    complete = [trial for trial in comparable if work.log.last("late", trial=trial.number) is None] or comparable
    deepest = max((trial.steps_done for trial in complete), default=0)
    return [trial for trial in complete if trial.steps_done == deepest]
