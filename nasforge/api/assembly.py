"""The parts of a search, made from its configuration: evaluator, strategy, pruner, check of costs, header."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from nasforge import registry
from nasforge.core.about import About, about_of
from nasforge.core.errors import ConfigError, did_you_mean
from nasforge.core.events import SCHEMA, Header
from nasforge.core.goals import COSTS, OPTIMUM
from nasforge.core.ladder import in_unit
from nasforge.core.protocols import Checks, Evaluator, Preflight, Tabulated, Timed
from nasforge.core.trial import Proposal
from nasforge.experiment.verdicts import Check
from nasforge.experiment.versions import versions_of
from nasforge.models.resolution import BY_RESOLUTION, suited
from nasforge.runners.resources import asked_for, kind_of
from nasforge.settings.experiment import NO_PRUNER, ExperimentConfig, suited_evaluator
from nasforge.strategies.named import strategy_of
from nasforge.strategies.starting import Starting

_COSTS = tuple(f"cost/{name}" for name in COSTS)


def suited_to_images(config: ExperimentConfig) -> ExperimentConfig:
    """Return the configuration with its space resolved for its images, see `nasforge.models.resolution.suited`.

    The header, the workers and the network folders thus hold plain numbers. Other spaces load no data here.

    Raises:
        ConfigError: the space follows the images, and there are no images.
    """
    if BY_RESOLUTION not in (*config.space.arguments.values(), *config.space.defaults.values()):
        return config
    if config.data is None:
        raise ConfigError(
            f"the space '{config.space.name}' follows the resolution of the images, and there are no images. Name them "
            "with --data",
            kind="missing",
            key="data",
        )
    from nasforge.data import load_data

    return replace(config, space=suited(config.space, load_data(config.data).shape))


def make_evaluator(config: ExperimentConfig) -> Evaluator:
    """Make the evaluator of a configuration.

    Raises:
        ConfigError: the settings do not fit it, it states no facts, or it does not report an objective or a cost.
    """
    named = config.evaluator
    evaluator: Evaluator = registry.make("evaluator", named.name, named.options, suited_to_images(config).spec)
    about = about_of(evaluator)
    _check_measured([goal.metric for goal in config.objectives], "objective", about)
    _check_measured([limit.metric for limit in (*config.constraints, *config.targets)], "constraint", about)
    return evaluator


class NoOptimum(ConfigError):
    """A table whose optimum says nothing of a search, or an evaluator without one."""


def optimum_of(config: ExperimentConfig, evaluator: Evaluator) -> float:
    """Return the best first objective that the search can find in its table.

    Raises:
        NoOptimum: in words, why the table does not say it.
    """
    if not isinstance(evaluator, Tabulated):
        raise NoOptimum(
            f"the evaluator '{config.evaluator.name}' is not a table, so its optimum is unknown", kind="unsupported"
        )
    metric = config.objectives[0].metric
    if evaluator.metric != metric:
        raise NoOptimum(
            f"the evaluator's optimum is of {evaluator.metric}, the objective is {metric}", kind="unsupported"
        )
    if config.targets:  # the best so far may miss them, and be better than all that meet them
        raise NoOptimum("with soft targets the best so far is not the best signal", kind="unsupported")
    optimum = evaluator.optimum(config.constraints)
    if optimum is None:
        limits = ", ".join(limit.text for limit in config.constraints)
        why = f"nothing in the table keeps {limits}" if limits else "no point of the space has a number"
        raise NoOptimum(why, kind="empty")
    return optimum


def with_goal(config: ExperimentConfig, evaluator: Evaluator) -> ExperimentConfig:
    """Return the configuration with the evaluator's unit of steps, and a number for `until: optimum`.

    Raises:
        ConfigError: the optimum is not known; a metric of `until` is not measured; or no row of the table reaches it.
    """
    about = about_of(evaluator)
    config = replace(config, ladder=in_unit(config.ladder, about.unit))
    budget, goal = config.budget, config.objectives[0]
    if budget.until == OPTIMUM:
        try:
            until = {str(goal): optimum_of(config, evaluator)}
        except NoOptimum as error:
            raise ConfigError(
                f"budget: until {OPTIMUM}: {error}. Name a value: --until {goal.metric}=VALUE",
                kind="missing",
                key="until",
            ) from None
        return replace(config, budget=replace(budget, until=until))
    _check_measured([limit.metric for limit in budget.goals], "until", about)
    bound = budget.goals.get(goal)
    if bound is not None and isinstance(evaluator, Tabulated):
        with suppress(NoOptimum):
            best = optimum_of(config, evaluator)
            if goal.oriented(best) < goal.oriented(bound):
                raise ConfigError(
                    f"budget: until {goal.metric}={bound:g}: the best in the table is {best:g}. Choose a value "
                    f"that it reaches, or --until {OPTIMUM}",
                    kind="range",
                    key="until",
                )
    return config


def _check_measured(metrics: Iterable[str], what: str, about: About) -> None:
    """Raises ConfigError for a metric that an evaluator does not report."""
    if about.metrics is None:
        return
    known = {*about.metrics, *about.costs, *_COSTS}
    for metric in metrics:
        if metric not in known:
            raise ConfigError(
                f"{what} '{metric}' is not measured; {did_you_mean(metric, known)}", kind="unknown", key=metric
            )


def make_strategy(config: ExperimentConfig) -> Any:
    """Make the strategy of a configuration.

    The points that the search begins with come before those of the strategy.
    """
    named = config.strategy
    needed, got = suited_evaluator(named.name), config.evaluator.name
    if needed != "training" and got in {*registry.BUILT_IN["evaluator"]} - {needed}:  # a user's own may train them too
        raise ConfigError(
            f"strategy '{named.name}' needs evaluator '{needed}', got '{got}'; leave the evaluator out",
            kind="conflict",
            key="evaluator",
        )
    strategy = strategy_of(named, config.spec)
    if config.start_from is None:
        return strategy
    points = [config.space.point(values) for values in config.start_from.points]
    return Starting(strategy, points, rung=0 if hasattr(strategy, "wanted") else -1)


def preflight(config: ExperimentConfig, evaluator: Evaluator) -> None:
    """Let the evaluator refuse the strategy's first proposal, before there is a journal."""
    if isinstance(evaluator, Preflight) and (first := make_strategy(config).ask(0)) is not None:
        evaluator.preflight(first)


def make_pruner(config: ExperimentConfig) -> Any:
    """Return the pruner of a configuration; None for `none`."""
    if config.pruner.name == NO_PRUNER:
        return None
    return registry.make("pruner", config.pruner.name, config.pruner.options, config.spec)


def make_check(config: ExperimentConfig, evaluator: Evaluator) -> Check:
    """Make the check of proposals' costs: the evaluator's own, or one that builds networks on the meta device.

    Raises:
        ConfigError: limits or objectives need a cost, and nothing can find it.
    """
    if isinstance(evaluator, Checks):
        return evaluator.check
    about, needed = about_of(evaluator), config.spec.costs
    if about.shape is None or about.classes is None or not config.space.builder:
        if needed:
            raise ConfigError(
                f"{', '.join(sorted(needed))}: the evaluator '{config.evaluator.name}' builds no network to measure",
                kind="unsupported",
                key="evaluator",
            )

        def nothing(proposal: Proposal) -> Mapping[str, float]:
            return {}

        return nothing
    from nasforge.evaluators.cost_check import CostCheck

    latency = None
    if "cost/latency_ms" in needed:
        if not isinstance(evaluator, Timed):
            raise ConfigError(
                f"cost/latency_ms: the evaluator '{config.evaluator.name}' does not time networks. Leave the "
                "limit out, or add the method latency_ms(architecture) to the evaluator",
                kind="unsupported",
                key="cost/latency_ms",
            )
        latency = evaluator.latency_ms
    return CostCheck(config.space, about.shape, about.classes, config.recipe, latency=latency)


@contextmanager
def worker_threads(config: ExperimentConfig, proposal: Proposal) -> Iterator[None]:
    """Torch with as many threads as a worker has for this proposal, since sums on a CPU depend on them."""
    if config.runner.name != "ray_tune":
        yield
        return
    from nasforge.training.device import torch_threads

    cpus = asked_for(config.runner.options.get("resources")).get(kind_of(proposal), {}).get("cpu", 1)
    with torch_threads(max(1, int(cpus))):
        yield


def make_header(config: ExperimentConfig, about: About) -> Header:
    """Return the first line of the journal."""
    return Header(
        schema=SCHEMA,
        experiment=config.shown_name,
        config=config.to_json(),
        space_hash=config.space.fingerprint,
        seed=config.seed,
        versions=versions_of(config),
        data_hash=about.data_hash,
        image_counts=about.image_counts,
    )
