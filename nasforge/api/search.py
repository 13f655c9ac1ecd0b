"""A search: opens the experiment, runs it, writes the best network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.api.assembly import (
    make_check,
    make_evaluator,
    make_header,
    make_pruner,
    make_strategy,
    preflight,
    suited_to_images,
    with_goal,
)
from nasforge.api.starts import with_starts
from nasforge.api.stopping import CONTINUES, progress_of, search_signals
from nasforge.core import trust
from nasforge.core.about import About, about_of
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, DataError, JournalError, StopNow
from nasforge.core.protocols import Evaluator, Tracker
from nasforge.core.say import Say, to_stderr
from nasforge.core.tracking_uri import NO_TRACKING, admit_store
from nasforge.core.trial import ENSEMBLE
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.journal import has_begun
from nasforge.experiment.state import State
from nasforge.experiment.versions import differences
from nasforge.settings.experiment import ExperimentConfig, resolve

_UNBUILDABLE_IN_A_ROW = 50
_LOOKED_UP_IN_A_ROW = 2000
"""Of a partial table, which may hold few of its space's points; asking it for one that it has not costs nothing."""


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
    admit_store(config.tracking_uri, config.runs_dir)
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
