"""From a configuration to a running search: makes the parts, opens the experiment, runs it, writes the best network."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.api.starts import with_starts
from nasforge.api.stopping import CONTINUES, progress_of, search_signals
from nasforge.core import trust
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, DataError, StopNow, did_you_mean
from nasforge.core.events import SCHEMA, Header
from nasforge.core.goals import COSTS, OPTIMUM
from nasforge.core.protocols import Evaluator, Tracker
from nasforge.core.tracking_uri import NO_TRACKING
from nasforge.core.trial import ENSEMBLE, Proposal
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import has_begun
from nasforge.experiment.state import State
from nasforge.experiment.verdicts import Check
from nasforge.experiment.versions import differences, versions_of
from nasforge.models.resolution import BY_RESOLUTION, suited
from nasforge.settings.experiment import NO_PRUNER, ExperimentConfig, resolve, suited_evaluator
from nasforge.strategies.starting import Starting

_UNBUILDABLE_IN_A_ROW = 50
_LOOKED_UP_IN_A_ROW = 2000
"""Of a partial table, which may hold few of its space's points; asking it for one that it has not costs nothing."""
_COSTS = tuple(f"cost/{name}" for name in COSTS)
Say = Callable[[str], None]
"""Takes a sentence for the user."""


def search(
    config: ExperimentConfig | None = None,
    *,
    made_evaluator: Evaluator | None = None,
    trackers: Sequence[Tracker] = (),
    say: Say = lambda text: print(text, file=sys.stderr),
    on_open: Callable[[Experiment], None] = lambda experiment: None,
    patient: bool = True,
    **settings: Any,
) -> State:
    """Run a search, or continue the one of the same name.

    Example:
        >>> state = nasforge.search(space="tiny", data="digits", strategy="evolution", budget={"trials": 12})
        >>> state.best.metrics["val/accuracy"]

    Args:
        config: the whole configuration; or leave it out and give
        settings: as in `nasforge.resolve`.
        made_evaluator: by `make_evaluator` for this configuration, where several searches share one; else it is made
            here. One with a true attribute `instant` looks answers up in no time: events are then not waited for until
            they are on the disk, since a machine's crash costs no work.
        trackers: watch the events, beside MLflow.
        say: takes what the user should know while it runs.
        on_open: is given the experiment before the first trial.
        patient: Ctrl-C waits for the trials that run; else they end at once, and go on from their checkpoints later.

    Returns:
        The state at the end; `best` is in it, and as a network in the folder `best/` of the experiment.

    Raises:
        NasforgeError: a user's mistake, in words.
        StopNow: after Ctrl-C or SIGTERM, unless the search was complete all the same; the same call continues.
    """
    if config is not None and settings:
        raise ConfigError(f"give a configuration or settings, not both; got also {', '.join(settings)}")
    config = config or resolve(settings)
    with trust.own(say):
        return _search(config, made_evaluator, trackers, say, on_open, patient)


def _search(
    config: ExperimentConfig,
    made_evaluator: Evaluator | None,
    trackers: Sequence[Tracker],
    say: Say,
    on_open: Callable[[Experiment], None],
    patient: bool,
) -> State:
    registry.check_options("runner", config.runner.name, config.runner.options, taken=2)
    if address := config.runner.options.get("address"):
        admit_cluster(address)
    if ":" in config.space.builder and config.data is not None:
        registry.get("builder", config.space.builder)  # where only workers build, this process has the consent
    config = with_starts(suited_to_images(config))
    evaluator = made_evaluator or make_evaluator(config)
    config = with_goal(config, evaluator)
    folder = config.folder
    if not has_begun(folder):
        foresee(config, evaluator)
        say_remarks(evaluator, say)
    instant = bool(getattr(evaluator, "instant", False))
    with tracking(folder, config.tracking_uri, trackers, say, name=config.shown_name) as watching:
        experiment = Experiment(
            folder,
            make_header(config, evaluator),
            make_strategy(config),
            check=make_check(config, evaluator),
            pruner=make_pruner(config),
            trackers=watching,
            max_unbuildable_in_a_row=_LOOKED_UP_IN_A_ROW if instant else _UNBUILDABLE_IN_A_ROW,
            sync=not instant,
            space=config.space,
        )
        with experiment:
            for difference in differences(experiment.state.header.versions, experiment.now.versions):
                say(f"Note: {difference}.")
            on_open(experiment)
            with search_signals(experiment, say, patient) as asked:
                try:
                    registry.make("runner", config.runner.name, config.runner.options, experiment, evaluator)
                except KeyboardInterrupt:  # Ray and others make a plain one of a StopNow
                    experiment.interrupt()
                    if asked.now is not None:
                        raise asked.now from None
                    raise
            state = experiment.state
        if experiment.exhausted:
            count = len(config.space.distinct)
            points = f"all {count:,} points" if count > 1 else "the only point"
            say(f"The search has tried {points} of the space '{config.space.name}', so it ends")
    _write_best(config, state, say)
    if state.best is not None:
        from nasforge.views.learnt import sentences_about

        for sentence in sentences_about(state, config):
            say(sentence)
    if asked.soon and not (state.spent and not state.open_trials):
        raise StopNow(f"stopped {progress_of(state)}; {CONTINUES}")
    return state


def admit_cluster(address: Any) -> None:
    """Ask for consent to reach a Ray cluster, whose processes exchange pickled objects with this one.

    Raises:
        TrustError: its address is from a file, and the user has not agreed to it.
    """
    trust.admit(f"Ray at {address}", f"the Ray cluster at '{address}'")


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
            "with --data"
        )
    from nasforge.data import load_data

    return replace(config, space=suited(config.space, load_data(config.data).shape))


def make_evaluator(config: ExperimentConfig) -> Evaluator:
    """The evaluator of a configuration; one that takes `objectives` is told them.

    Raises:
        ConfigError: the settings do not fit it, or it does not report an objective.
    """
    config = suited_to_images(config)
    fixed = (config.space, config.data, config.ladder, config.recipe)
    named = config.evaluator
    given: dict[str, Any] = {}
    if "objectives" in registry.parameters_of("evaluator", named.name):
        given["objectives"] = config.objectives
    evaluator: Evaluator = registry.make("evaluator", named.name, named.options, *fixed, **given)
    reported = getattr(evaluator, "metrics", None)
    if reported is not None:
        for objective in config.objectives:
            _check_measured(objective.metric, "objective", {*reported, *_COSTS})
    return evaluator


class NoOptimum(ConfigError):
    """A table whose optimum says nothing of a search, or an evaluator without one."""


def has_optimum(config: ExperimentConfig) -> bool:
    """Whether the evaluator of a configuration is a table that knows its best signal."""
    return hasattr(registry.get("evaluator", config.evaluator.name), "optimum")


def optimum_of(config: ExperimentConfig, evaluator: Evaluator) -> float:
    """The best first objective that the search can find in its table.

    Raises:
        NoOptimum: in words, why the table does not say it.
    """
    table: Any = evaluator  # what follows is not in the protocol
    if not has_optimum(config):
        raise NoOptimum(f"the evaluator '{config.evaluator.name}' is no table, its optimum is not known")
    metric, wanted = getattr(table, "metric", "a metric that it does not name"), config.objectives[0].metric
    if metric != wanted:
        raise NoOptimum(f"the evaluator's optimum is of {metric}, the objective is {wanted}")
    if config.targets:  # the best so far may miss them, and be better than all that meet them
        raise NoOptimum("with soft targets the best so far is not the best signal")
    if not config.constraints:
        return float(table.optimum)
    limits = ", ".join(map(str, config.constraints))
    best_within = getattr(table, "best_within", None)
    if best_within is None:
        raise NoOptimum(f"the evaluator does not say what is best within {limits}")
    found = best_within(config.constraints)
    if found is None:
        raise NoOptimum(f"nothing in the table keeps {limits}")
    return float(found)


def with_goal(config: ExperimentConfig, evaluator: Evaluator) -> ExperimentConfig:
    """The configuration with a number where its budget says `until: optimum`.

    Raises:
        ConfigError: the optimum is not known; a metric of `until` is not measured; or no row of the table reaches it.
    """
    budget, goal = config.budget, config.objectives[0]
    if budget.until == OPTIMUM:
        try:
            until = {str(goal): optimum_of(config, evaluator)}
        except NoOptimum as error:
            raise ConfigError(f"budget: until {OPTIMUM}: {error}. Name a value: --until {goal.metric}=VALUE") from None
        return replace(config, budget=replace(budget, until=until))
    reported = getattr(evaluator, "metrics", None)
    if reported is not None:
        for wanted in budget.goals:
            _check_measured(wanted.metric, "until", {*reported, *_COSTS})
    wanted_value = budget.goals.get(goal)
    if wanted_value is not None and has_optimum(config):
        with suppress(NoOptimum):
            best = optimum_of(config, evaluator)
            if goal.oriented(best) < goal.oriented(wanted_value):
                raise ConfigError(
                    f"budget: until {goal.metric}={wanted_value:g}: the best in the table is {best:g}. Choose a value "
                    f"that it reaches, or --until {OPTIMUM}"
                )
    return config


def _check_measured(metric: str, what: str, known: Collection[str]) -> None:
    if metric not in known:
        raise ConfigError(f"{what} '{metric}' is not measured; {did_you_mean(metric, known)}")


def make_strategy(config: ExperimentConfig) -> Any:
    """The strategy of a configuration, fresh; one that takes `targets` or the `ladder` is given them.

    The points that the search begins with come before those of the strategy.
    """
    named = config.strategy
    needed, got = suited_evaluator(named.name), config.evaluator.name
    if needed != "training" and got in {*registry.BUILT_IN["evaluator"]} - {needed}:  # a user's own may train them too
        raise ConfigError(f"strategy '{named.name}' needs evaluator '{needed}', got '{got}'; leave the evaluator out")
    given: dict[str, Any] = {"seed": config.seed, "objectives": len(config.objectives)}
    own = {"targets": config.targets, "ladder": config.ladder}
    taken = registry.parameters_of("strategy", named.name)
    given |= {key: value for key, value in own.items() if key in taken}
    strategy = registry.make("strategy", named.name, named.options, config.space, **given)
    if config.start_from is None:
        return strategy
    points = [config.space.point(values) for values in config.start_from.points]
    return Starting(strategy, points, rung=0 if hasattr(strategy, "wanted") else -1)


def foresee(config: ExperimentConfig, evaluator: Evaluator) -> None:
    """Let the evaluator refuse what the strategy would ask for first, before there is a journal that says so."""
    refuse = getattr(evaluator, "foresee", None)
    first = make_strategy(config).ask(0) if refuse else None
    if refuse and first is not None:
        refuse(first)


def say_remarks(evaluator: Evaluator, say: Say) -> None:
    """Tell the user what the evaluator has to say before the first trial."""
    for remark in getattr(evaluator, "remarks", ()):
        say(f"Note: {remark}.")


def make_pruner(config: ExperimentConfig) -> Any:
    """The pruner of a configuration; None for `none`."""
    if config.pruner.name == NO_PRUNER:
        return None
    return registry.make("pruner", config.pruner.name, config.pruner.options, config.ladder)


def make_check(config: ExperimentConfig, evaluator: Evaluator) -> Check:
    """What finds a proposal's costs: networks are built on the meta device, unless the evaluator has its own check."""
    shape = getattr(evaluator, "shape", None)
    wanted = {limit.metric for limit in (*config.constraints, *config.targets)}
    wanted |= {objective.metric for objective in config.objectives if objective.metric in _COSTS}
    own = getattr(evaluator, "check_for", None)
    if own is not None:
        return own(wanted)  # type: ignore[no-any-return]
    if shape is None or not config.space.builder:
        if wanted:
            raise ConfigError(
                f"{', '.join(sorted(wanted))}: the evaluator '{config.evaluator.name}' builds no network to measure"
            )

        def nothing(proposal: Proposal) -> Mapping[str, float]:
            return {}

        return nothing
    from nasforge.evaluators.cost_check import CostCheck

    evaluator_: Any = evaluator
    times = "cost/latency_ms" in wanted
    return CostCheck(config.space, shape, evaluator_.classes, config.recipe, times=times, latency=evaluator_.latency_ms)


@contextmanager
def worker_threads(config: ExperimentConfig) -> Iterator[None]:
    """Torch with as many threads as a worker of this search has, since sums on a CPU depend on them."""
    if config.runner.name != "ray_tune":
        yield
        return
    import torch

    wanted = (config.runner.options.get("resources") or {}).get("measure", {}).get("cpu", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(wanted)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_header(config: ExperimentConfig, evaluator: Evaluator) -> Header:
    """The first line of the journal."""
    return Header(
        schema=SCHEMA,
        experiment=config.shown_name,
        config=config.to_json(),
        space_hash=config.space.fingerprint,
        seed=config.seed,
        versions=versions_of(config),
        data_hash=getattr(evaluator, "data_hash", ""),
    )


@contextmanager
def tracking(
    folder: Path, uri: str | None, given: Sequence[Tracker], say: Say, *, of_search: bool = True, name: str = ""
) -> Iterator[list[Tracker]]:
    """The user's trackers, and MLflow's unless `uri` is `none`; it is flushed at the end whatever happens.

    With `of_search` MLflow's run of the search says whether it failed or was stopped. `name` is the name of that run;
    empty for the folder's.
    """
    if uri == NO_TRACKING:
        yield list(given)
        return
    from nasforge.views.mlflow.tracker import MlflowTracker

    tracker = MlflowTracker(folder, uri, say=say, of_search=of_search, name=name)
    try:
        yield [*given, tracker]
    except BaseException as error:
        if of_search:
            tracker.ended_by(error)
        raise
    finally:
        tracker.close()


def _write_best(config: ExperimentConfig, state: State, say: Say) -> None:
    """The network folder `best/`; a finished search without its weights (copied, cleaned up) is a finished search."""
    best = state.best
    if best is None or best.result is None or not {"weights", ENSEMBLE} & {*best.result.artifacts}:
        return
    from nasforge.exporters.best import write_best

    try:
        write_best(config.folder, trust=True)
    except DataError as error:
        say(f"best/ is not written: {error}. Train the best network again: {command_for(config.folder, 'retrain')}")
