"""Strategies compared honestly: experiments already run, or a campaign at equal charge, random always in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasforge.api.assembly import make_pruner, make_strategy, preflight, suited_to_images, with_goal
from nasforge.api.compare.campaign import (
    Progress,
    SearchOutcome,
    evaluator_of,
    folder_name,
    optimum_or_note,
    parse_strategies,
    read_search,
    run_all,
    same_search,
    worst_of,
)
from nasforge.api.search import say_notes
from nasforge.api.starts import with_starts
from nasforge.api.stopping import terminable
from nasforge.core.about import about_of
from nasforge.core.architecture import Architecture
from nasforge.core.command_line import command_for
from nasforge.core.errors import ConfigError, NasforgeError, TrackingError, did_you_mean
from nasforge.core.layout import JOURNAL
from nasforge.core.paths import whole_path
from nasforge.core.ranges import check_whole
from nasforge.core.say import Say, to_stderr
from nasforge.core.tracking_uri import NO_TRACKING, admit_store, chosen_uri
from nasforge.core.trust import foreign, from_user
from nasforge.experiment.journal import dumps, experiments_in
from nasforge.experiment.places import COMPARISON, folder_of, kind_of, search_of
from nasforge.settings.experiment import DEFAULTS, ExperimentConfig, Named, check_experiment_name, resolve
from nasforge.settings.values import NO_STARTS
from nasforge.settings.yaml_file import Document
from nasforge.views.groups import groups_of, label_of, some
from nasforge.views.plain import plain
from nasforge.views.trajectory import AXES, Trajectory

if TYPE_CHECKING:
    from nasforge.views.comparison_records import Comparison
    from nasforge.views.parts import Part

__all__ = ["compare"]

CAMPAIGN_DEFAULTS = {**DEFAULTS, "runner": "local"}
"""Of the searches of a campaign, which share the processors by `workers`."""
_MOST_SEEDS = 100_000
"""Searches per strategy of a campaign at most: all of them are kept in memory."""
_PAGE, _PICTURE = "comparison.html", "comparison.png"


def compare(
    experiments: Sequence[str | Path] = (),
    *,
    strategies: str | Sequence[str | Mapping[str, Any] | Named] | None = None,
    seeds: int | Sequence[int] = 10,
    name: str | None = None,
    axis: str = "trials",
    at: Sequence[float] = (),
    workers: int = 1,
    runs_dir: Path | str = "runs",
    tracking_uri: str | None = None,
    document: Document | None = None,
    progress: Progress = lambda name, done, total: None,
    say: Say = to_stderr,
    trust: bool = False,
    **settings: Any,
) -> Comparison:
    """Compare strategies over seeds at equal charge; writes `comparison.json`, a page and a picture.

    Example:
        >>> nasforge.compare(["evolution-s0", "evolution-s1", "random-s0", "random-s1"])
        >>> found = nasforge.compare(strategies="random,evolution(sample=3)", seeds=20, space="tiny", data="digits",
        ...                          budget={"trials": 30}, name="campaign")
        >>> found.rows[0].label, found.rows[0].summary.mean

    Args:
        experiments: searches already run: names in `runs_dir`, folders, or campaigns, which stand for all of theirs.
        strategies: or names of strategies to run, `evolution(sample=3)` or mappings with `name`; `random` is added.
        seeds: their number, from 0, or the seeds themselves.
        name: of the campaign; its folder in `runs_dir` takes searches and files. The same call continues it.
        axis: what is charged: `trials`, `worker_seconds` or `multiply_adds`.
        at: checkpoints of the table; left out, the whole charge that all have in common.
        workers: searches at the same time, each in a process of its own (a script then needs the usual
            `if __name__ == "__main__":`); 1 is this process.
        runs_dir: where experiments live.
        tracking_uri: MLflow's, as in `nasforge.resolve`; `none` for no tracking.
        document: the YAML file that settings came from, for line numbers.
        progress: told of every search that is done.
        say: takes what the user should know.
        trust: you agree to run the code that the journals of `experiments` name; code that a search of yours used needs
            no consent.
        settings: of every search, as in `nasforge.resolve`; the runner is `local` unless given.

    Raises:
        ConfigError: nothing to compare, searches that are not of the same problem, or a wrong setting.
        JournalError: no such experiment, or it is corrupt.
        TrackingError: MLflow cannot keep runs at that URI.
        StopNow: Ctrl-C; the same call continues.
    """
    if axis not in AXES:
        raise ConfigError(f"--axis: unknown axis '{axis}'; {did_you_mean(axis, AXES)}", kind="unknown", key="axis")
    check_whole(workers, "--workers", 1)
    place = whole_path(runs_dir)
    uri = chosen_uri(tracking_uri)
    with from_user(say):
        admit_store(uri, place)
    failed: dict[str, str] = {}
    notes: list[str] = []
    if strategies is not None:
        if experiments:
            raise ConfigError(
                "compare experiments already run, or --strategies to run, not both", kind="conflict", key="strategies"
            )
        with from_user(say):
            folder = comparison_folder((), name, place, campaign=True)
            configs = campaign_configs(strategies, seeds, folder, settings, document)
            _check_points(at, configs[0].budget.limits.get(axis, math.inf), axis)
            if not folder.exists():
                say_notes(about_of(evaluator_of(configs[0])), say)
            with terminable():
                outcomes = run_all(configs, workers=workers, progress=progress)
        searches, failed = _sorted_out(configs, outcomes)
    else:
        if settings:
            raise ConfigError(
                f"{', '.join(sorted(settings))}: settings of a campaign; name its --strategies",
                kind="missing",
                key="strategies",
            )
        folders = _folders(experiments, place)
        folder = comparison_folder(experiments, name, place, campaign=False)
        if (folder / JOURNAL).is_file():
            raise ConfigError(
                f"{folder} holds an experiment; choose another --name for the comparison", kind="conflict", key="name"
            )
        with ExitStack() as loaded:
            for path in dict.fromkeys(path.parent for path in folders):
                loaded.enter_context(foreign(path, trust=trust))
            searches = []
            for done, (name_of, path) in enumerate(_names(folders).items(), 1):
                searches.append(read_search(path, name_of))
                progress(name_of, done, len(folders))
            config = ExperimentConfig.from_json(folders[0].name, searches[0].config, folders[0].parent)
            searches, notes = _each_once(searches, _names(folders))
            return _report(folder, searches, config, failed, notes, axis=axis, at=at, tracking_uri=uri, say=say)
    return _report(folder, searches, configs[0], failed, notes, axis=axis, at=at, tracking_uri=uri, say=say)


def _report(
    folder: Path,
    searches: Sequence[Trajectory],
    config: ExperimentConfig,
    failed: Mapping[str, str],
    notes: list[str],
    *,
    axis: str,
    at: Sequence[float],
    tracking_uri: str | None,
    say: Say,
) -> Comparison:
    """Compute, write the files, tell MLflow."""
    from nasforge.views.comparison import compare_groups
    from nasforge.views.comparison_page import write_page, write_picture

    optimum = optimum_or_note(config, notes)
    comparison = compare_groups(
        folder.name,
        groups_of(searches),
        axis=axis,
        at=at,
        optimum=optimum,
        worst=None if optimum is None else worst_of(config),
        notes=notes,
        failed=failed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    content = plain(comparison.to_json())
    (folder / COMPARISON).write_text(json.dumps(content, allow_nan=False, indent=1) + "\n")
    for earlier in (_PAGE, _PICTURE):  # if this comparison cannot be drawn, no earlier drawing is left next to it
        (folder / earlier).unlink(missing_ok=True)
    networks: dict[str, list[Part]] = {}
    try:
        networks = _networks(comparison, config)
    except NasforgeError as error:
        say(f"the best networks cannot be drawn: {error}")
    try:
        write_page(comparison, folder / _PAGE, networks)
        write_picture(comparison, folder / _PICTURE)
    except NasforgeError as error:
        say(str(error))
    if tracking_uri != NO_TRACKING:
        from nasforge.views.mlflow.campaigns import track_campaign

        later = f"The comparison is in {folder}. Deliver it later: {command_for(folder, 'track')}"
        try:
            track_campaign(folder, content, tracking_uri, say=say)
        except TrackingError as error:
            say(f"{error}. {later}")
        except KeyboardInterrupt:
            say(f"MLflow does not have all runs of '{folder.name}'. {later}")
    return comparison


def _networks(comparison: Comparison, config: ExperimentConfig) -> dict[str, list[Part]]:
    """Return the best network of each strategy, layer by layer; none if a table answered for unbuilt networks."""
    from nasforge.data import load_data
    from nasforge.views.parts import parts_of

    if config.data is None or not config.space.builder:
        return {}
    data = load_data(config.data)
    best = {label: about["best"]["architecture"] for label, about in comparison.strategies.items() if about["best"]}
    return {
        label: parts_of(config.space, Architecture.from_json(content), data.shape, len(data.class_names))
        for label, content in best.items()
    }


def comparison_folder(
    experiments: Sequence[str | Path], name: str | None, runs_dir: Path | str, *, campaign: bool
) -> Path:
    """Return the folder of a comparison's files: that of its campaign, even if it is only shown again, or a new one."""
    place = whole_path(runs_dir)
    if not campaign and name is None and len(experiments) == 1:
        again = folder_of(experiments[0], runs_dir)
        if kind_of(again) == "campaign":
            return again
    return place / check_experiment_name(name or ("campaign" if campaign else "comparison"))


# --- a campaign ------------------------------------------------------------------------------------------------------


def campaign_configs(
    strategies: str | Sequence[str | Mapping[str, Any] | Named],
    seeds: int | Sequence[int],
    folder: Path,
    settings: Mapping[str, Any],
    document: Document | None = None,
) -> list[ExperimentConfig]:
    """One configuration per strategy and seed, all of the same problem; seed by seed, so that an early look is fair.

    Raises:
        ConfigError: a strategy, an option or a setting is wrong.
    """
    named = parse_strategies(strategies)
    if all(label_of(one) != "random" for one in named):
        named = [Named("random"), *named]
    numbers = _seeds(seeds)
    if (folder / JOURNAL).is_file():
        raise ConfigError(
            f"{folder} holds one experiment; choose another --name for the campaign", kind="conflict", key="name"
        )
    for key in ("strategy", "seed", "name"):
        if settings.get(key) is not None:
            raise ConfigError(
                f"{key}: a campaign sets it itself; see --strategies, --seeds and --name", kind="conflict", key=key
            )
    if settings.get("tune") is not None:
        raise ConfigError(
            "tune: name the pair as a strategy: --strategies 'joint(model=evolution,recipe=optuna)'",
            kind="conflict",
            key="tune",
        )
    runner = settings.get("runner") or CAMPAIGN_DEFAULTS["runner"]
    common = {"start_from": NO_STARTS, **settings, "runs_dir": folder, "tracking_uri": "none", "runner": runner}
    firsts = [resolve({**common, "strategy": one, "seed": 0, "name": folder_name(one, 0)}, document) for one in named]
    firsts = [with_starts(suited_to_images(config)) for config in firsts]
    for place, config in enumerate(firsts):
        make_strategy(config)  # reports a wrong option before anything runs
        make_pruner(config)
        evaluator = evaluator_of(config)
        firsts[place] = with_goal(config, evaluator)
        try:
            preflight(config, evaluator)
        except NasforgeError as error:
            raise ConfigError(
                f"--strategies: {label_of(config.strategy)}: {error}", kind=error.kind, key="strategies"
            ) from None
    return [
        replace(config, seed=seed, name=check_experiment_name(folder_name(config.strategy, seed)))
        for seed in numbers
        for config in firsts
    ]


def _check_points(at: Sequence[float], limit: float, axis: str) -> None:
    """Raises ConfigError for a checkpoint that no search can reach, before any of them runs."""
    for point in at:
        if not 0 < point <= limit:
            known = f" and up to the budget of {limit:g} {axis.replace('_', ' ')}" if math.isfinite(limit) else ""
            raise ConfigError(f"--at {point:g}: checkpoints lie above 0{known}", kind="range", key="at")


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int):
        return list(range(check_whole(seeds, "--seeds", 1, _MOST_SEEDS)))
    checked = [check_whole(seed, "--seeds: each seed", 0) for seed in seeds]
    if not checked:
        raise ConfigError("--seeds: the list is empty, expected whole numbers of at least 0", kind="empty", key="seeds")
    if len(set(checked)) < len(checked):
        raise ConfigError(f"--seeds: a seed is given twice in {seeds!r}", kind="duplicate", key="seeds")
    return checked


def _sorted_out(
    configs: Sequence[ExperimentConfig], outcomes: Sequence[SearchOutcome]
) -> tuple[list[Trajectory], dict[str, str]]:
    failed = {c.name: o.failure for c, o in zip(configs, outcomes, strict=True) if o.failure}
    searches = [outcome.trajectory for outcome in outcomes if outcome.trajectory is not None]
    if not searches:
        first = next(iter(failed.items()))
        raise ConfigError(f"every search failed; {first[0]}: {first[1]}", kind="failed")
    return searches, failed


# --- experiments already run -----------------------------------------------------------------------------------------


def _folders(experiments: Sequence[str | Path], runs_dir: Path) -> list[Path]:
    if not experiments:
        raise ConfigError(
            "compare: no experiments are named. Name some, or run them: --space SPACE --strategies a,b,c",
            kind="missing",
        )
    folders: list[Path] = []
    for experiment in experiments:
        folder = folder_of(experiment, runs_dir)
        folders += experiments_in(folder) or [search_of(experiment, runs_dir)]
    if len(set(folders)) < len(folders):
        twice = sorted({path.name for path in folders if folders.count(path) > 1})
        raise ConfigError(f"given twice: {', '.join(twice)}", kind="duplicate")
    return folders


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the name of each experiment: its folder, with its campaign's if there are several, or the whole path."""
    if len({path.parent for path in folders}) == 1:
        return {path.name: path for path in folders}
    short = [f"{path.parent.name}/{path.name}" for path in folders]
    return {name if short.count(name) == 1 else str(path): path for name, path in zip(short, folders, strict=True)}


def _each_once(searches: Sequence[Trajectory], folders: Mapping[str, Path]) -> tuple[list[Trajectory], list[str]]:
    """Return the searches without those that another journal has too, and a note that names these."""
    known: dict[str, list[Trajectory]] = {}
    kept: list[Trajectory] = []
    copies: list[str] = []
    for search in searches:
        alike = known.setdefault(dumps([search.facts, search.parts, search.seed]), [])
        place = folders[search.experiment]
        twin = next((one for one in alike if same_search(folders[one.experiment], place)), None)
        if twin is None:
            kept.append(search)
            alike.append(search)
        else:
            copies.append(f"{search.experiment} (as {twin.experiment})")
    return kept, [f"the same search in two journals counts once; left out: {some(copies)}"] if copies else []
