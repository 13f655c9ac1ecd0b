"""From a configuration to a running search: makes the parts, opens the experiment, runs it, writes the best network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.api.starts import with_starts
from nasforge.api.stopping import CONTINUES, progress_of, search_signals
from nasforge.core import trust
from nasforge.core.about import About, about_of
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, DataError, JournalError, StopNow, did_you_mean
from nasforge.core.events import SCHEMA, Header
from nasforge.core.goals import COSTS, OPTIMUM
from nasforge.core.ladder import in_unit
from nasforge.core.protocols import Checks, Evaluator, Preflight, Tabulated, Timed, Tracker
from nasforge.core.say import Say, to_stderr
from nasforge.core.tracking_uri import NO_TRACKING
from nasforge.core.trial import ENSEMBLE, Proposal
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import has_begun
from nasforge.experiment.state import State
from nasforge.experiment.verdicts import Check
from nasforge.experiment.versions import differences, versions_of
from nasforge.models.resolution import BY_RESOLUTION, suited
from nasforge.runners.resources import asked_for, kind_of
from nasforge.settings.experiment import NO_PRUNER, ExperimentConfig, resolve, suited_evaluator
from nasforge.strategies.named import strategy_of
from nasforge.strategies.starting import Starting

_UNBUILDABLE_IN_A_ROW = 50
_LOOKED_UP_IN_A_ROW = 2000
"""Of a partial table, which may hold few of its space's points; asking it for one that it has not costs nothing."""
_COSTS = tuple(f"cost/{name}" for name in COSTS)


def search(
    config: ExperimentConfig | None = None,
    *,
    made_evaluator: Evaluator | None = None,
    trackers: Sequence[Tracker] = (),
    say: Say = to_stderr,
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
            here.
        trackers: watch the events, in addition to MLflow.
        say: takes what the user should know while it runs.
        on_open: is given the experiment before the first trial.
        patient: Ctrl-C waits for the trials that run; else they end at once, and go on from their checkpoints later.

    Returns:
        The state at the end; `best` is in it, and as a network in the folder `best/` of the experiment.

    Raises:
        NasforgeError: a user's mistake, in words.
        StopNow: after Ctrl-C or SIGTERM, unless the search was complete all the same; the same call continues.
    """
    check_trackers(trackers)
    if config is not None and settings:
        raise ConfigError(
            f"give a configuration or settings, not both; got also {', '.join(settings)}", kind="conflict"
        )
    config = resolve(settings) if config is None else checked_config(config)
    with trust.from_user(say):
        return _search(config, made_evaluator, trackers, say, on_open, patient)


def check_trackers(trackers: Sequence[Tracker]) -> None:
    """Refuse anything but a sequence of trackers, before there is an experiment.

    Raises:
        ConfigError: it is one tracker, or something else.
    """
    if isinstance(trackers, Sequence) and all(callable(getattr(tracker, "on_event", None)) for tracker in trackers):
        return
    one = callable(getattr(trackers, "on_event", None))
    raise ConfigError(
        f"trackers: got {trackers!r}, expected a list of objects with a method on_event. "
        + ("Write trackers=[TRACKER]" if one else "See Tracker in nasforge/core/protocols.py"),
        kind="type",
        key="trackers",
    )


def checked_config(config: object) -> ExperimentConfig:
    """Return a whole configuration that a caller hands over.

    Raises:
        ConfigError: it is something else, such as a mapping of settings.
    """
    if isinstance(config, ExperimentConfig):
        return config
    raise ConfigError(
        f"config: got {type(config).__name__}, expected an ExperimentConfig. Write settings as keywords "
        "(space=..., data=...), or a mapping of them as **settings",
        kind="type",
        key="config",
    )


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
    about = about_of(evaluator)
    if not has_begun(folder):
        preflight(config, evaluator)
        say_notes(about, say)
    stop: StopNow | None = None
    try:
        with tracking(folder, config.tracking_uri, trackers, say, name=config.shown_name, patient=patient) as watching:
            experiment = Experiment(
                folder,
                make_header(config, about),
                make_strategy(config),
                check=make_check(config, evaluator),
                pruner=make_pruner(config),
                trackers=watching,
                max_unbuildable_in_a_row=_LOOKED_UP_IN_A_ROW if about.instant else _UNBUILDABLE_IN_A_ROW,
                sync=not about.instant,
                space=config.space,
            )
            with experiment:
                for difference in differences(experiment.state.header.versions, experiment.now.versions):
                    say(f"Note: {difference}.")
                if config.runner.name == "local":
                    say_what_was_killed(experiment.state, say)
                on_open(experiment)
                with search_signals(experiment, say, patient) as asked:
                    try:
                        registry.make("runner", config.runner.name, config.runner.options, experiment, evaluator)
                    except KeyboardInterrupt:  # Ray and others make a plain one of a StopNow
                        experiment.interrupt()
                        if asked.now is not None:
                            raise asked.now from None
                        raise
                    except Exception:  # of the whole search, such as a full disk: no trial is to blame
                        with suppress(JournalError):
                            experiment.interrupt()
                        raise
                experiment.end()
                state = experiment.state
            if experiment.exhausted:
                count = len(config.space.distinct)
                points = f"all {count:,} points" if count > 1 else "the only point"
                say(f"The search has tried {points} of the space '{config.space.name}', so it ends.")
            if asked.soon and not state.done:
                stop = StopNow(f"stopped {progress_of(state)}; {CONTINUES}")
                raise stop  # MLflow's run of the search says so
    except StopNow as error:
        if error is not stop:
            raise
    _write_best(config, state, say)
    if config.tracking_uri != NO_TRACKING:
        from nasforge.api.track import track_files

        track_files(folder, config.tracking_uri, state, say, stopped=stop is not None)
    if state.best is not None:
        from nasforge.views.learnt import sentences_about

        for sentence in sentences_about(state, about.image_counts):
            say(sentence)
    if stop is not None:
        raise stop
    return state


def admit_cluster(address: Any) -> None:
    """Ask for consent to reach a Ray cluster, whose processes exchange pickled objects with this one.

    Raises:
        TrustError: its address is from a file, and the user has not agreed to it.
    """
    trust.admit(f"Ray at {address}", f"runner 'ray_tune' at '{address}'")


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


def say_notes(about: About, say: Say) -> None:
    """Tell the user what the evaluator notes before the first trial."""
    for note in about.notes:
        say(f"Note: {note}.")


def say_what_was_killed(state: State, say: Say) -> None:
    """Tell the user of a trial during which this process ended again and again: its network may be the reason."""
    for trial in state.begun_trials:
        if trial.kills:
            say(
                f"Note: trial {trial.number} was running the last {trial.kills + 1} times that this search was killed. "
                "If its network needs too much memory, add --runner ray_tune: then only a worker is killed."
            )


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
    import torch

    cpus = asked_for(config.runner.options.get("resources")).get(kind_of(proposal), {}).get("cpu", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(cpus)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


@contextmanager
def tracking(
    folder: Path,
    uri: str | None,
    trackers: Sequence[Tracker],
    say: Say,
    *,
    of_search: bool = True,
    name: str = "",
    patient: bool = True,
) -> Iterator[list[Tracker]]:
    """The user's trackers, and MLflow's unless `uri` is `none`; it is flushed at the end whatever happens.

    With `of_search` MLflow's run of the search says whether it failed or was stopped. `name` is the name of that run;
    empty for the folder's. After a stop the delivery at the end takes a few seconds at most. Ctrl-C ends it; without
    `patient` it is raised again, for a caller who has more to do.
    """
    if uri == NO_TRACKING:
        yield list(trackers)
        return
    from nasforge.views.mlflow.tracker import MlflowTracker

    tracker = MlflowTracker(folder, uri, say=say, of_search=of_search, name=name)
    try:
        yield [*trackers, tracker]
    except BaseException as error:
        tracker.ended_by(error)
        raise
    finally:
        tracker.close()
        if tracker.stopped and not patient:
            raise KeyboardInterrupt


def _write_best(config: ExperimentConfig, state: State, say: Say) -> None:
    """Write the network folder `best/`; a finished search whose weights are gone is left as it is."""
    best = state.best
    if best is None or best.result is None or not {"weights", ENSEMBLE} & {*best.result.artifacts}:
        return
    from nasforge.exporters.best import write_best

    try:
        write_best(config.folder, trust=True, state=state)
    except DataError as error:
        say(f"best/ is not written: {error}. Train the best network again: {command_for(config.folder, 'retrain')}")
