"""A journal as a study of Optuna: for optuna-dashboard, for the importance of decisions, for Optuna's own figures.

A view, made when somebody asks for it: no search waits for it, and writing it again replaces it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nasforge.core.architecture import MODEL
from nasforge.core.errors import SearchError, TrackingError
from nasforge.core.space import Choice, Domain, Int, SearchSpace
from nasforge.core.trial import Trial
from nasforge.core.uri import hide_secrets, sqlite_file, with_absolute_file, without_secrets
from nasforge.experiment.state import State

_OURS = "nasforge.experiment"
_FEWEST = 4
_CONTOURS = 3
_FAR = 3.0
"""Bound of drawn values: their distance from the median, in multiples of the distance from the median to the best."""
MOST_EXPLAINED = 150
"""Finished trials that `importances` is computed from, at most. On `blocks`, 100 take 5 s, 200 take 28 s."""
_STATES = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL, "rejected": TrialState.FAIL}


@dataclass(frozen=True)
class Importances:
    """Importance of decisions.

    Attributes:
        shares: objective -> decision -> share of the objective's variance, largest first. All shares of an objective
            are 0 where it is the same in all trials.
        trials: number of trials that they are computed from.
        finished: number of finished trials of the last rung.
        study: has the finished trials that they are computed from.
    """

    shares: Mapping[str, Mapping[str, float]]
    trials: int
    finished: int
    study: optuna.Study

    @property
    def basis(self) -> str:
        """Return which trials they are computed from, in words."""
        if self.trials < self.finished:
            return f"from a random sample of {self.trials} of {self.finished:,} finished trials"
        return f"from all {self.finished:,} finished trials"


def write_study(state: State, storage: str) -> int:
    """Write an experiment to a storage of Optuna, in place of what was written of it before.

    Args:
        state: of the experiment.
        storage: as Optuna takes it, such as `sqlite:///runs/optuna.db`.

    Returns:
        The number of trials written.

    Raises:
        TrackingError: no storage, or it holds a study of this name that is not ours.
    """
    name = state.name
    shown = without_secrets(storage)
    storage = with_absolute_file(storage)
    file = sqlite_file(storage)
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        if name in optuna.get_all_study_names(storage):
            if optuna.load_study(study_name=name, storage=storage).user_attrs.get(_OURS) != name:
                raise TrackingError(
                    f"'{shown}' holds a study '{name}' that NASForge has not written; choose another storage",
                    kind="conflict",
                )
            optuna.delete_study(study_name=name, storage=storage)
        return len(study_of(state, storage).trials)
    except TrackingError:
        raise
    except Exception as error:  # whatever a database driver or a file system throws
        text = hide_secrets(str(error), storage).strip().partition("\n")[0]
        raise TrackingError(
            f"Optuna cannot write to '{shown}': {text}; it must look like sqlite:///runs/optuna.db", kind="failed"
        ) from None  # the cause may hold the password


def study_of(state: State, storage: str | None = None, numbers: Iterable[int] | None = None) -> optuna.Study:
    """Return a study with every measured trial: decisions that are open, objectives as they were measured, limits.

    Args:
        state: of the experiment.
        storage: as Optuna takes it; None: in memory.
        numbers: of the trials; None: all.
    """
    directions = ["maximize" if objective.maximise else "minimize" for objective in state.objectives]
    name = state.name
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(study_name=name, storage=storage, directions=directions)
        study.set_metric_names([objective.metric for objective in state.objectives])
        study.set_user_attr(_OURS, name)
        space = state.config.space
        deepest = _deepest(state)
        for number in sorted(state.trials if numbers is None else numbers):
            if state.trials[number].architecture is not None:
                study.add_trial(_frozen(state, state.trials[number], space, deepest))
    return study


def importances(state: State) -> Importances:
    """Return the share of each objective's variance that a decision explains by itself and in pairs.

    Hutter et al., "An Efficient Approach for Assessing Hyperparameter Importance" (fANOVA,
    https://proceedings.mlr.press/v32/hutter14.html). Decisions that are not active in every finished trial have none,
    and those of the recipe none for params and FLOPs. Its time grows faster than the number of trials, so of more than
    `MOST_EXPLAINED` a random sample is taken.

    Raises:
        SearchError: too few trials, or neither a decision nor an objective varies.
    """
    deepest = _deepest(state)
    numbers = [number for number, trial in sorted(state.trials.items()) if _is_whole(trial, deepest)]
    count = len(numbers)
    if count < _FEWEST:
        raise SearchError(
            f"importance needs at least {_FEWEST} finished trials of the last rung, '{state.name}' has {count}",
            kind="empty",
        )
    study = study_of(state, numbers=Random(0).sample(numbers, MOST_EXPLAINED) if count > MOST_EXPLAINED else numbers)
    finished = study.get_trials(deepcopy=False)
    varied = _varied(finished)
    if not varied:
        raise SearchError(f"no decision of '{state.name}' varies among its finished trials", kind="empty")
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    by_metric: dict[str, dict[str, float]] = {}
    for index, objective in enumerate(state.objectives):
        decisions = varied
        if objective.metric in ("cost/params", "cost/flops"):  # which no recipe changes; a table may hold only recipes
            decisions = [key for key in varied if key.startswith(MODEL)] or varied
        if len({trial.values[index] for trial in finished}) == 1:  # Optuna raises RuntimeError
            by_metric[objective.metric] = dict.fromkeys(decisions, 0.0)
            continue
        by_metric[objective.metric] = optuna.importance.get_param_importances(
            study, evaluator=evaluator, params=decisions, target=_target(index)
        )
    if not any(any(shares.values()) for shares in by_metric.values()):
        raise SearchError(
            f"all {len(finished)} finished trials of '{state.name}' have the same "
            f"{', '.join(by_metric)}: no decision explains a difference that is not there",
            kind="empty",
        )
    return Importances(by_metric, len(finished), count, study)


class _Known(optuna.importance.BaseImportanceEvaluator):  # type: ignore[misc]
    """Gives Optuna's figure the shares that are computed already."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = shares

    def evaluate(self, study: Any, params: Any = None, *, target: Any = None) -> dict[str, float]:
        """Return the shares, whatever the study."""
        return dict(self._shares)


def write_figures(state: State, ranked: Importances, folder: Path) -> list[Path]:
    """Write Optuna's figures as pages that need no network: importance, slice, parallel coordinates and contour.

    The title of the importance says which trials it is computed from; the other figures show all of them.

    Args:
        state: of the experiment.
        ranked: its importances.
        folder: made if it is missing.

    Returns:
        The files; those of a second objective carry its name.

    Raises:
        SearchError: plotly is missing.
    """
    visualization = optuna.visualization
    if not visualization.is_available():
        raise SearchError(
            "Optuna's figures need the package plotly; run: pip install 'nasforge[dashboard]'", kind="missing"
        )
    study = study_of(state)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for index, (metric, shares) in enumerate(ranked.shares.items()):
        if not any(shares.values()):
            continue
        params = list(shares)
        more: dict[str, Any] = {"target": _target(index), "target_name": metric}
        known: dict[str, Any] = {"evaluator": _Known(shares), "params": params}
        importance = visualization.plot_param_importances(ranked.study, **known, **more)
        importance.update_layout(title=f"Importance of decisions (fANOVA), {ranked.basis}")
        alone, label = _of_one_objective(study, index, metric)
        figures = {
            "importance": importance,
            "slice": visualization.plot_slice(study, params=params, **more),
            "parallel_coordinate": visualization.plot_parallel_coordinate(alone, params=params, target_name=label),
        }
        if len(params) > 1:
            figures["contour"] = visualization.plot_contour(alone, params=params[:_CONTOURS], target_name=label)
        for kind, figure in figures.items():
            suffix = "" if index == 0 else "-" + metric.replace("/", "_")
            files.append(folder / f"{kind}{suffix}.html")
            figure.write_html(files[-1], include_plotlyjs=True)
    return files


def _deepest(state: State) -> int:
    """Return the steps of the trials of the last rung."""
    return max((trial.result.steps_done for trial in state.finished() if trial.result), default=0)


def _is_whole(trial: Trial, deepest: int) -> bool:
    """Return whether a trial has a point and finished the last rung, which has `deepest` steps."""
    result = trial.result
    measured = trial.architecture is not None and result is not None and trial.status == "finished"
    return measured and result is not None and result.usable and result.steps_done == deepest


def _frozen(state: State, trial: Trial, space: SearchSpace, deepest: int) -> FrozenTrial:
    architecture, result = trial.architecture, trial.result
    assert architecture is not None  # noqa: S101  (the caller asked)
    open_ = {key: space.domains[key] for key in architecture.values if space.domains[key].size > 1}
    metrics = trial.metrics
    status = trial.status
    whole = _is_whole(trial, deepest)
    if whole:
        reached = TrialState.COMPLETE
    else:  # a finished trial of a lower rung cannot be compared with those of the last one
        reached = _STATES.get(status, TrialState.RUNNING if result is None else TrialState.PRUNED)
    single = len(state.objectives) == 1
    steps = {step.step: step.metrics.get(state.objectives[0].metric, math.nan) for step in trial.steps}
    attributes = {"nasforge.number": trial.number, "nasforge.status": status, "arch_id": architecture.arch_id}
    if result is not None and result.error is not None:
        attributes |= {"cause": result.error.cause, "message": result.error.message}
    limits = {limit.metric: limit.violation(metrics) for limit in state.constraints if limit.metric in metrics}
    return optuna.trial.create_trial(
        state=reached,
        values=[metrics[objective.metric] for objective in state.objectives] if whole else None,
        params={key: _value(domain, architecture.values[key]) for key, domain in open_.items()},
        distributions={key: _distribution(domain) for key, domain in open_.items()},
        user_attrs={**attributes, **{key: value for key, value in metrics.items() if math.isfinite(value)}},
        intermediate_values=steps if single else None,
        constraints=limits or None,
    )


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice():
            return CategoricalDistribution([_value(domain, option) for option in domain.options])
        case Int():
            return IntDistribution(*domain.ends, log=domain.log, step=domain.step)
        case _ if domain.is_fine:
            return FloatDistribution(domain.low, domain.high, log=domain.log)
        case _:
            return FloatDistribution(*domain.ends, step=domain.step)


def _value(domain: Domain, value: Any) -> Any:
    """Optuna takes `True` and `1` for the same option: truth values go by their names."""
    return str(value).lower() if isinstance(domain, Choice) and isinstance(value, bool) else value


def _target(index: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[index])


def _of_one_objective(study: optuna.Study, index: int, metric: str) -> tuple[optuna.Study, str]:
    """Return the finished trials with one objective, for figures whose colours must tell good from bad; and its label.

    Optuna takes the direction of the colours from a study of one objective only, and draws later trials over earlier
    ones: the best comes last. Values far behind the others are drawn at a bound, so that they do not take up the scale.
    """
    direction = study.directions[index]
    sign = 1.0 if direction is optuna.study.StudyDirection.MAXIMIZE else -1.0
    finished = [trial for trial in study.trials if trial.state is TrialState.COMPLETE]
    finished.sort(key=lambda trial: sign * trial.values[index])
    merits = [sign * trial.values[index] for trial in finished]
    middle, best = median(merits), merits[-1]
    bound = max(merits[0], middle - _FAR * (best - middle)) if best > middle else merits[0]
    alone = optuna.create_study(direction=direction)
    for trial, merit in zip(finished, merits, strict=True):
        value = sign * max(merit, bound)
        alone.add_trial(optuna.trial.create_trial(params=trial.params, distributions=trial.distributions, value=value))
    return alone, metric if bound == merits[0] else f"{metric} (worse ones at {sign * bound:.4g})"


def _varied(trials: list[FrozenTrial]) -> list[str]:
    """Decisions of every one of these trials that do not always have the same value."""
    shared = [key for key in trials[0].params if all(key in trial.params for trial in trials)]
    return [key for key in shared if len({str(trial.params[key]) for trial in trials}) > 1]
