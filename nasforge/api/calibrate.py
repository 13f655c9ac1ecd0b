"""Before a cluster is spent: a few random networks trained to the end, several times, and what each rung foretold."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasforge.api.search import checked_config, search
from nasforge.core.errors import ConfigError, ExportError
from nasforge.core.goals import Budget
from nasforge.core.ladder import Rung
from nasforge.core.protocols import Tracker
from nasforge.core.ranges import check_whole
from nasforge.core.say import Say, to_stderr
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.state import REPEATED
from nasforge.settings.experiment import ExperimentConfig, Named, name_after, name_from, resolve
from nasforge.views.calibration import Calibration, calibration
from nasforge.views.plain import plain

_REPLACED = ("strategy", "pruner", "budget", "start_from")


def calibrate(
    *,
    networks: int = 12,
    seeds: int = 2,
    proxies: Sequence[str] = (),
    trials: int = 100,
    config: ExperimentConfig | None = None,
    trackers: Sequence[Tracker] = (),
    say: Say = to_stderr,
    on_open: Callable[[Experiment], None] = lambda experiment: None,
    **settings: Any,
) -> Calibration:
    """Train random networks to the end, each by several seeds, and say how well the rungs foretell the end.

    An ordinary experiment, `calibrate-<space>-<data>-s<seed>` where it has no name: journaled, charged, continued by
    the same call, with its constraints and runner. It has no pruner, and its strategy is `strategies.repeated`. Its
    folder gets `calibration.json`, `calibration.html` and `calibration.png`.

    Example:
        >>> found = nasforge.calibrate(space="tiny", data="digits", networks=6, epochs=9)
        >>> found.ladder
        ({'epochs': 3}, {'epochs': 9})

    Args:
        networks: random ones that keep the constraints.
        seeds: trainings of each.
        proxies: zero-cost scores to compare as well.
        trials: of the search whose cost is forecast.
        config: a whole configuration, whose strategy, pruner and budget are replaced, under its name; or
        settings: as in `nasforge.resolve`, without those three and without `start_from`.
        trackers: watch the events, in addition to MLflow.
        say: takes what the user should know while it runs.
        on_open: is given the experiment before the first trial.

    Raises:
        NasforgeError: a user's mistake, in words.
        StopNow: as in `search`.
    """
    for key in _REPLACED:
        if settings.get(key) is not None:
            raise ConfigError(f"calibrate has its own {key}; leave it out", kind="conflict", key=key)
    named = config is not None or "name" in settings
    config = resolve({"strategy": REPEATED, **settings}) if config is None else checked_config(config)
    settings_asked = configured(config, networks, seeds, proxies, named=named)
    state = search(settings_asked, trackers=trackers, say=say, on_open=on_open)
    result = calibration(state, trials=trials)
    _write(result, settings_asked.folder, say)
    return result


def _write(result: Calibration, folder: Path, say: Say) -> None:
    """Write `calibration.json`, its page and its picture into the folder of the search."""
    from nasforge.views.calibration_page import draw_calibration, write_calibration

    content = {"experiment": folder.name, **plain(result.to_json())}
    (folder / "calibration.json").write_text(json.dumps(content, indent=1) + "\n")
    try:
        write_calibration(result, folder)
        draw_calibration(result, folder / "calibration.png")
    except ExportError as error:
        say(str(error))


def configured(
    config: ExperimentConfig, networks: int, seeds: int, proxies: Sequence[str], named: bool
) -> ExperimentConfig:
    """Return the experiment that calibrates what `config` would search.

    Raises:
        ConfigError: the numbers or the ladder do not do.
    """
    check_whole(networks, "networks", 3)
    check_whole(seeds, "seeds", 1)
    ladder = tuple(rung for rung in config.ladder if not rung.proxies)
    if len(ladder) < 2:
        raise ConfigError(
            "calibrate compares the rungs of a ladder, and this ladder has only one. Set --epochs 9 for the ladder "
            "1, 3, 9, or write your own ladder into a file for --config",
            kind="missing",
            key="epochs",
        )
    scores = Rung(proxies=tuple(proxies)) if proxies else next((r for r in config.ladder if r.proxies), None)
    options = {"networks": networks, "seeds": seeds, "scored": scores is not None}
    searched = name_after(config.space, config.data, f"s{config.seed}")
    return replace(
        config,
        name=config.name if named else name_from(f"calibrate-{searched}"),
        strategy=Named(REPEATED, options),
        pruner=Named("none"),
        ladder=(*((scores,) if scores else ()), *ladder),
        budget=Budget(trials=networks * seeds + (scores is not None)),
        start_from=None,
    )
