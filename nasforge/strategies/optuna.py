"""Any of Optuna's samplers over our search spaces. The only module of strategies that imports optuna.

The study lives in memory and is rebuilt from our journal, which is much faster than any storage of Optuna's own.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.space import Choice, Choose, Domain, Float, Int
from nasforge.core.trial import Measure, Origin, Proposal, Result
from nasforge.settings.spec import SearchSpec
from nasforge.strategies.choosers import Seen, at, following, generator, measured, position, unseen_neighbour

SAMPLERS = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "nsgaii": "NSGAIISampler",
    "nsgaiii": "NSGAIIISampler",
    "qmc": "QMCSampler",
    "random": "RandomSampler",
}
"""Our name -> class in `optuna.samplers`."""

# These write into a trial when they sample it, so a recalled trial has to be sampled too. The others read only
# what trials were and what came out; TPE only where it samples decisions in groups.
_WRITING = frozenset({"cmaes", "nsgaii", "nsgaiii", "qmc"})
_OURS = frozenset({"self", "seed", "constraints_func", "independent_sampler"})
# These learn from rejections. The genetic ones look at complete trials alone, and at the values of those that keep the
# constraints alone; a Gaussian process would need values that were never measured.
_CONSTRAINED = {"tpe": TrialState.PRUNED, "nsgaii": TrialState.COMPLETE, "nsgaiii": TrialState.COMPLETE}
# These list every value of a range of whole numbers. Billions of values would fill the memory.
_LISTING = frozenset({"gp"})
_VIOLATION = "violation"


class OptunaSampler:
    """Sampler of Optuna, over `model.*`, `train.*` or both.

    Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework" (https://arxiv.org/abs/1907.10902).
    Options that are all numbers are ordered for it. A point that was seen already is replaced by an unseen neighbour.
    Optuna hears of failures as FAIL, of pruned trials as PRUNED. TPE, NSGA-II and NSGA-III learn from rejections by
    their violation; the other samplers see them as FAIL. Every ask builds its sampler from the study alone, so every
    search can be resumed.

    Args:
        spec: space and seed of the search. Any number of objectives for tpe, gp, nsgaii, nsgaiii, qmc and random; one
            for cmaes.
        sampler: `tpe`, `gp`, `cmaes`, `nsgaii`, `nsgaiii`, `qmc` or `random`.
        distinct: replace a repeated point by an unseen neighbour; a recipe may repeat.
        first: values of the first point; the sampler draws the decisions that it leaves out.
        options: of the sampler's class, as Optuna documents them (`n_startup_trials`, `multivariate`, ...).
    """

    def __init__(
        self,
        spec: SearchSpec,
        *,
        sampler: str = "tpe",
        distinct: bool = True,
        first: Mapping[str, Value] | None = None,
        **options: Any,
    ) -> None:
        if sampler not in SAMPLERS:
            raise ConfigError(
                f"strategy optuna: unknown sampler '{sampler}'; {did_you_mean(str(sampler), SAMPLERS)}",
                kind="unknown",
                key="strategy.sampler",
            )
        objectives = len(spec.objectives)
        if sampler == "cmaes" and objectives != 1:
            raise ConfigError(
                f"strategy optuna: cmaes takes one objective, got {objectives}; use tpe, gp or nsgaii",
                kind="unsupported",
                key="strategy.sampler",
            )
        self._space = spec.space
        self._seed = spec.seed
        self._name = sampler
        self._distinct = distinct
        self.repeats = not distinct
        self._first = first or {}
        for key in self._first:
            if key not in spec.space.domains:
                raise ConfigError(
                    f"strategy optuna: first names '{key}'; {did_you_mean(key, spec.space.domains)}",
                    kind="unknown",
                    key="strategy.first",
                )
        self._options = options
        self._writes = sampler in _WRITING or (sampler == "tpe" and bool(options.get("group")))
        self._class = getattr(optuna.samplers, SAMPLERS[sampler])
        self._check_options()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._objectives = objectives
        self._begin()

    def ask(self, number: int) -> Proposal | None:
        """Propose the sampler's suggestion, or an unseen neighbour of it."""
        if self._first and not self._seen:
            point = self._space.decide(following(self._first, generator(self._seed, number)))
            self._note(number, self._enqueued(point), point)
            return Measure(point, origin=Origin(operator="start"))
        trial, suggested = self._suggestion(number)
        if self._distinct and suggested.point_id in self._seen:
            self._study.tell(trial, state=TrialState.FAIL)
            point = unseen_neighbour(self._space, suggested, generator(self._seed, number), self._seen)
            trial = self._enqueued(point)
        else:
            point = suggested
        self._note(number, trial, point)
        return Measure(point, origin=Origin(operator="suggested" if point is suggested else "neighbour"))

    def recall(self, number: int, proposal: Proposal) -> None:
        """Add a recalled proposal to the study."""
        point = measured(proposal)
        trial = None
        if self._writes and (self._seen or not self._first):
            trial, suggested = self._suggestion(number)
            if suggested.values != point.values:
                self._study.tell(trial, state=TrialState.FAIL)
                trial = None
        self._note(number, trial or self._enqueued(point), point)

    def tell(self, number: int, result: Result) -> None:
        """Tell the study a result in Optuna's terms."""
        trial = self._running.pop(number)
        self._log.append((number, result))
        if result.status == "rejected" and self._name in _CONSTRAINED:
            trial.set_constraint(_VIOLATION, result.metrics["constraint/violation"])
            state = _CONSTRAINED[self._name]
            unread = [0.0] * len(self._study.directions) if state == TrialState.COMPLETE else None
            self._study.tell(trial, unread, state=state)
        elif result.values is None or not all(math.isfinite(value) for value in result.values):
            self._study.tell(trial, state=TrialState.FAIL)
        elif result.status == "pruned":
            if len(result.values) == 1:  # Optuna takes no reports with several objectives
                trial.report(result.values[0], result.steps_done)
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, list(result.values))

    def withdraw(self, number: int) -> None:
        """Forget the latest proposal: a study cannot, so it is rebuilt from everything before."""
        log = self._log[:-1]
        self._begin()
        for earlier, content in log:
            if isinstance(content, Result):
                self.tell(earlier, content)
            else:
                self.recall(earlier, Measure(content))

    def _begin(self) -> None:
        """Start with an empty study."""
        self._study = optuna.create_study(directions=["maximize"] * self._objectives, sampler=self._sampler(0))
        self._running: dict[int, Trial] = {}
        self._seen = Seen()
        self._log: list[tuple[int, Architecture | Result]] = []

    def _note(self, number: int, trial: Trial, point: Architecture) -> None:
        self._running[number] = trial
        self._seen.note(point)
        self._log.append((number, point))

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """Make the sampler of ask `number`: a new one each time, so that its only memory is the study."""
        seed = generator(self._seed, number).randrange(2**32)
        ours: dict[str, Any] = {"seed": seed}
        if self._name == "qmc":
            # One scrambled sequence for the whole search; Optuna keeps the place in it in the study.
            ours = {"scramble": True, "seed": self._seed % 2**32}
            ours["independent_sampler"] = optuna.samplers.RandomSampler(seed=seed)
        if self._name in ("qmc", "cmaes", "gp"):
            ours["warn_independent_sampling"] = False
        ours = {key: value for key, value in ours.items() if key in inspect.signature(self._class).parameters}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            try:
                return self._class(**{**ours, **self._options})
            except ImportError as error:
                raise ConfigError(
                    f"strategy optuna: sampler '{self._name}' needs a package that is not installed: {error}. "
                    "Install it",
                    kind="missing",
                    key="strategy.sampler",
                ) from error
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"strategy optuna: sampler '{self._name}': {error}", kind="failed", key="strategy.sampler"
                ) from error

    def _check_options(self) -> None:
        allowed = [name for name in inspect.signature(self._class).parameters if name not in _OURS]
        for option in self._options:
            if option not in allowed:
                raise ConfigError(
                    f"strategy optuna: sampler '{self._name}' has no option '{option}'; "
                    f"{did_you_mean(option, allowed)}",
                    kind="unknown",
                    key=option,
                )
        if self._name == "cmaes":
            try:
                __import__("cmaes")
            except ImportError:
                raise ConfigError(
                    "strategy optuna: sampler 'cmaes' needs the package cmaes; run: pip install cmaes",
                    kind="missing",
                    key="strategy.sampler",
                ) from None

    def _suggestion(self, number: int) -> tuple[Trial, Architecture]:
        domains = self._space.domains
        self._study.sampler = self._sampler(number)
        trial = self._study.ask()
        point = self._space.decide(self._chooser(trial))
        if any(trial.params[key] != value for key, value in point.values.items() if _is_rounded(domains[key])):
            # The study learns from the point itself, as the study of a continued search does.
            self._study.tell(trial, state=TrialState.FAIL)
            trial = self._enqueued(point)
        return trial, point

    def _chooser(self, trial: Trial) -> Choose:
        return _suggesting(trial, listing=self._name in _LISTING)

    def _enqueued(self, point: Architecture) -> Trial:
        """Return a trial of the study with exactly this point."""
        domains = self._space.domains
        fixed = {k: _to_optuna(domains[k], v) for k, v in point.values.items() if domains[k].size > 1}
        self._study.enqueue_trial(fixed)
        trial = self._study.ask()
        self._space.decide(self._chooser(trial))
        if self._writes:
            _ = trial.relative_params  # sampled for what it writes into the trial
        return trial


def _is_rounded(domain: Domain) -> bool:
    """Return whether a sampler may suggest what is no number of a range: between two, or another last digit."""
    return isinstance(domain, (Int, Float)) and domain.step is not None and domain.size > 1


def _suggesting(trial: Trial, *, listing: bool) -> Choose:
    """Return a chooser that asks an Optuna trial.

    Options go by their place, since Optuna takes `1` and `True` for the same; numbers by their place in ascending
    order, so that a sampler knows which are near each other. Ranges go without an end that their steps do not reach,
    of which Optuna would warn. Fine ranges go as real numbers, whole numbers only where the sampler lists them.

    Args:
        trial: of Optuna.
        listing: the sampler lists every value of a range of whole numbers.
    """

    def choose(key: str, domain: Domain) -> Value:
        match domain:
            case Choice() if domain.ordered:
                return list(domain.ranks)[int(trial.suggest_int(key, 0, len(domain.options) - 1))]
            case Choice():
                return domain.options[int(trial.suggest_categorical(key, range(len(domain.options))))]
            case Int() if listing and domain.is_fine:
                place = trial.suggest_float(key, *domain.ends, log=domain.log) - domain.low
                return int(domain.values[round(place / domain.step)])
            case Int():
                return int(trial.suggest_int(key, *domain.ends, step=domain.step, log=domain.log))
            case _ if domain.step is not None and domain.is_fine:
                return at(domain, position(domain, trial.suggest_float(key, *domain.ends)))
            case _:
                return float(trial.suggest_float(key, *domain.ends, step=domain.step, log=domain.log))

    return choose


def _to_optuna(domain: Domain, value: Value) -> Value:
    if not isinstance(domain, Choice):
        return value
    return domain.ranks[domain.check(value)] if domain.ordered else domain.place(value)
