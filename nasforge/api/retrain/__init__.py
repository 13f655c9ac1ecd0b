"""After the search: retrain the best from scratch, measure each once on the sealed test split, keep the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasforge import registry
from nasforge.api.retrain.choice import Chosen, drawn_of, ranked_of
from nasforge.api.retrain.networks import (
    Outcomes,
    Progress,
    Retraining,
    Trainer,
    kinds_of,
    one_after_another,
    train_network,
)
from nasforge.api.retrain.verdict import Finalist, Finalists, Retrained
from nasforge.api.retrain.widening import all_widened
from nasforge.api.retrain.work import Work
from nasforge.api.search import check_trackers, tracking
from nasforge.api.track import track_results
from nasforge.core.architecture import Value
from nasforge.core.errors import ConfigError, ExportError, JournalError, SearchError, did_you_mean
from nasforge.core.layout import BEST, FINALISTS
from nasforge.core.protocols import Reference, Tracker
from nasforge.core.ranges import check_whole
from nasforge.core.say import Say, to_stderr
from nasforge.core.tracking_uri import admit_store
from nasforge.core.trust import foreign, typed
from nasforge.data import load_data
from nasforge.experiment.experiment import reopen
from nasforge.experiment.journal import read_header
from nasforge.experiment.places import search_of
from nasforge.exporters.network_folder import description_of, load, save_network
from nasforge.models.textbook import reference_named
from nasforge.settings.experiment import Named
from nasforge.settings.values import fixed_settings
from nasforge.training.data_parallel import check_batch
from nasforge.training.device import device_of
from nasforge.views.statistics import Spread

_RUNNERS = ("local", "ray_tune")

__all__ = ["Finalist", "Finalists", "Retrained", "Spread", "retrain"]


def retrain(
    experiment: str | Path,
    *,
    top: int = 1,
    random: int = 0,
    seeds: int = 2,
    epochs: int | None = None,
    recipe: Mapping[str, Value] | None = None,
    widen: bool = False,
    tta: str = "none",
    device: str = "auto",
    data: str | Path | Mapping[str, str] | None = None,
    runner: str | Mapping[str, Any] = "local",
    reference: str | Sequence[str] = "resnet",
    progress: Progress = lambda name, epoch, epochs, metrics: None,
    trackers: Sequence[Tracker] = (),
    say: Say = to_stderr,
    runs_dir: str | Path = "runs",
    trust: bool = False,
) -> Finalists:
    """Retrain the best architectures of a search and measure each retrained network on the sealed test split, once.

    Each is trained from scratch on all train and validation images (also those that the setting `images` kept from the
    search), its last epoch is kept: nothing is selected. The same call continues after an interruption; what has met
    the test split is neither trained nor measured again. The first seed of the best becomes `best/`.

    Args:
        experiment: the name of a search or a fit in `runs_dir`, or its folder.
        top: how many: of the ranking, or with several objectives of the Pareto front first.
        random: how many more, drawn from the other finished trials: what the search's choice is worth shows against
            them. Always the same ones of the same search.
        seeds: trainings of each.
        epochs: of each training; three times the search's longest where left out.
        recipe: settings that replace those of the search, such as `{"cutout_pixels": 8}`: long trainings often need
            more augmentation than short ones. They hold for the references too, and replace what the search decided.
        widen: train each network as wide as the limits of the search allow: its widths are raised step by step, so that
            the limit that is used least is used most. Searched narrow and trained wide, as Zoph et al. 2018,
            https://arxiv.org/abs/1707.07012. The references are scaled to the wider network.
        tta: `flip`: measure also the mean answer for an image and its mirror image, in the same opening, at twice the
            forward passes. `crops`: over ten views, the image and its shifts to the four corners, each mirrored too, at
            ten times the forward passes. `flip,crops`: both. `none`: neither.
        device: `auto`, `cpu`, `cuda`...
        data: where the images of the search lie now, if they were moved: a file or folder, or a mapping of `source` and
            `folder`; the experiment keeps the new place.
        runner: `local`: one training after the other in this process. `ray_tune`: side by side on Ray workers, with the
            options that a search's runner has, and `workers_per_network`: each training by this many workers together,
            with the outcome of one worker up to the order of sums.
        reference: what each of the best is compared with: names of hand-designed networks that are scaled to the same
            FLOPs, as a sequence or with commas between them. A name is registered (`resnet`, `vgg`), `timm:NAME`, or
            `module:function` of your own.
        progress: told after every epoch.
        trackers: told of every opening of the test split, next to MLflow's of the search.
        say: takes what the user should know.
        runs_dir: where experiments live.
        trust: you agree to run the code that the journal names; code that a search of yours used needs no consent.

    Returns:
        The best, each with its reference, those drawn at random, the ensemble of the best, and the verdict.

    Raises:
        TrustError: the journal names code that you have not agreed to run.
        ConfigError: an unknown runner, device or reference, an unknown option of the runner, a batch that its workers
            cannot share, or trackers that are no list.
        SearchError: a wrong `tta` or number, nothing to retrain, or no training of the best succeeded. With `widen`
            also: the search has no limits, or limits more than params, FLOPs and memory, or its space has no widths.
        RecipeError: unknown settings in `recipe`, bad values, or settings that exclude each other.
        JournalError: the experiment is running, or its data have changed.
        DataError: the data cannot be loaded.
    """
    check_trackers(trackers)
    folder = search_of(experiment, runs_dir)
    for name, number, least in (("top", top, 1), ("random", random, 0), ("seeds", seeds, 1), ("epochs", epochs, 1)):
        if number is not None or name != "epochs":
            check_whole(number, f"retrain: {name}", least, error=SearchError)
    views = kinds_of(tta)
    named = Named.parse(runner, "runner")
    trainer, changes = _trainer(named, device), fixed_settings(recipe or {})
    with typed():
        references = _references(reference)
    uri = read_header(folder).config.get("tracking_uri")  # MLflow hears of finalists where it heard of the search
    with foreign(folder.parent, trust=trust):
        admit_store(uri, folder.parent)
    with (
        foreign(folder.parent, trust=trust),
        tracking(folder, uri, trackers, say, of_search=False) as told,
        reopen(folder, told) as opened,
    ):
        state, config = opened.state, opened.state.config.with_data_at(data)
        if config.data is None or not config.space.builder:
            raise SearchError(
                f"{folder}: this search trained no networks on images, there is nothing to retrain",
                kind="unsupported",
            )
        ranked = ranked_of(state)
        if not ranked:
            raise SearchError(f"{folder}: nothing to retrain: {state.why_no_best}", kind="empty")
        drawn = drawn_of(ranked, top, random, config.seed)
        # with Ray this process only measures, and need not have the GPU that the workers have
        place = device_of("auto" if named.name == "ray_tune" and device.startswith("cuda") else device)
        if state.header.data_hash not in ("", load_data(config.data).fingerprint):
            raise JournalError(
                f"{folder}: the data have changed since the search ({state.header.why_other_data}); "
                "a comparison with it would mean nothing",
                kind="changed",
                key="data",
            )
        if data:
            opened.note_place_of_data(config.to_json())
        whole = replace(config.data, images=None)
        images = load_data(whole)
        chosen = [*map(Chosen.of, ranked[:top]), *(Chosen.of(trial, drawn=True) for trial in drawn)]
        if widen:
            chosen = all_widened(chosen, config, images)
        work = Work(
            opened,
            config,
            data_config=whole,
            data=images,
            epochs=epochs or 3 * config.epochs,
            seeds=seeds,
            changes=changes,
            tta=views,
            device=device,
            place=place,
            trainer=trainer,
            references=references,
        )
        finalists = work.finalists(chosen, ranked, progress)
        _keep_best(folder, finalists[0])
    track_results(folder, uri, say)
    return finalists


def _references(names: str | Sequence[str]) -> dict[str, Reference]:
    """Return the references by their names, in their order.

    Raises:
        ConfigError: no name, one that is unknown, or one that stands twice.
    """
    asked = [name.strip() for name in (names.split(",") if isinstance(names, str) else names)]
    twice = next((name for name in asked if asked.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"reference '{twice}' is named twice; name it once", kind="duplicate", key="reference")
    if not all(asked) or not asked:
        raise ConfigError(
            f"reference: got {names!r}, expected names with commas between them, such as resnet,vgg; "
            f"known: {', '.join(registry.names('reference'))}",
            kind="missing",
            key="reference",
        )
    return {name: reference_named(name) for name in asked}


def _trainer(runner: Named, device: str) -> Trainer:
    """Return the function that trains on `device`, from a runner's name and options.

    Raises:
        ConfigError: no such runner or option.
    """
    if runner.name == "local":
        if runner.options:
            raise ConfigError(
                f"retrain: runner local has no options, got {', '.join(runner.options)}; use ray_tune",
                kind="unknown",
                key="runner",
            )
        return one_after_another
    if runner.name != "ray_tune":
        raise ConfigError(
            f"retrain: runner '{runner.name}' trains no networks; {did_you_mean(runner.name, _RUNNERS)}",
            kind="unknown",
            key="runner",
        )
    side_by_side = "nasforge.runners.ray_tune.trainings:side_by_side"
    registry.check_options("runner", side_by_side, runner.options, taken=4)
    workers = runner.options.get("workers_per_network", 1)

    def on_workers(retrainings: Sequence[Retraining], progress: Progress) -> Outcomes:
        for retraining in retrainings:
            check_batch(retraining.recipe, workers, len(load_data(retraining.data).train_and_validation()))
        return registry.make("runner", side_by_side, runner.options, train_network, retrainings, progress, device)  # type: ignore[no-any-return]

    return on_workers


def _keep_best(folder: Path, first: Finalist) -> None:
    """Make the first network of the best finalist `best/`, which may be it already."""
    if not first.retrained.networks:
        raise SearchError(
            f"retraining the best failed with every seed; best/ is as it was. {first.retrained.failures[0]}",
            kind="failed",
        )
    source = folder / FINALISTS / first.retrained.networks[0]
    try:
        network = load(source)
    except ExportError as error:
        if _is_best(folder, source.name):
            return
        raise SearchError(
            f"{error}. It met the test split, so it is not trained again; retrain with other --epochs or more --seeds",
            kind="failed",
        ) from None
    save_network(folder / BEST, network, network.description)


def _is_best(folder: Path, name: str) -> bool:
    """Return whether `best/` holds this retrained network, whole."""
    try:
        return description_of(folder / BEST).trained.get("finalist") == name
    except ExportError:
        return False
