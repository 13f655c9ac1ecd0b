"""A fit from its first phase to its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nasforge.api.export import Exported
from nasforge.api.fit.baselines import OnTest, measure_baselines
from nasforge.api.fit.choice import choose_winner
from nasforge.api.fit.curve import learning_curve, share_of_last
from nasforge.api.fit.last import train_last
from nasforge.api.fit.log import FitLog, Request
from nasforge.api.fit.plan import write_plan
from nasforge.api.fit.pretrained.phases import linear_of, measure_pretrained, tune_last
from nasforge.api.fit.report import write_report
from nasforge.api.fit.rows import Row, ranked
from nasforge.api.fit.schedule import BESIDE
from nasforge.api.fit.search import candidates_of, search
from nasforge.api.fit.ship import answer_of, calibration_of, keep_best, ship, test_answers_of, tested_once
from nasforge.api.fit.work import Work, phase
from nasforge.core.layout import BEST, REPORT
from nasforge.core.say import Say
from nasforge.training.device import device_of, torch_threads


def run(log: FitLog, request: Request, seconds: float, tracking_uri: str, say: Say) -> None:
    """Do what is left of a fit, up to the line `finished` in its log.

    Args:
        log: of the fit, open.
        request: what is asked for.
        seconds: of the whole fit, all sessions together.
        tracking_uri: of MLflow, or `none`.
        say: takes a line for the user.

    Raises:
        NasforgeError: a user's mistake, in words; a device that does not exist here is one before any work.
    """
    with torch_threads():
        _run(Work(log, request, seconds, tracking_uri, say), say)


def _run(work: Work, say: Say) -> None:
    log, request = work.log, work.request
    device_of(request.device)  # one that this machine has not, fails before any work
    with phase(log, "images"):
        if request.pretrained:
            work.backbones  # noqa: B018  (a download that fails, fails before any work)
        work.prepare()
        work.whole  # noqa: B018  (decodes)
    with phase(log, "yardsticks"):
        others = measure_baselines(work)
    with phase(log, "pretrained"):
        probed = measure_pretrained(work)
    write_plan(work.folder, log)
    with phase(log, "search"):
        state = search(work)
    candidates = [*candidates_of(work, state), *probed]
    tried = sum(trial.attempts > 0 for trial in state.trials.values()) + len(probed)
    plain = next((c.row for c in candidates if c.row.kind == "reference"), None)
    folders: dict[str, Path] = {}
    portion = share_of_last(request.preset)
    with phase(log, "last training"):
        while True:
            chosen = choose_winner(work, candidates, others, tried)
            winner = next(c.row for c in candidates if c.row.name == chosen["winner"])
            beside = plain if winner.kind != "reference" else None  # the winner may be the reference, trained otherwise
            until = float(chosen["until"])
            share = portion * (1 - BESIDE if beside else 1.0)
            if winner.kind == "pretrained":
                folders[winner.name], problem = tune_last(work, winner, until, share), ""
            else:
                folders[winner.name], problem = train_last(work, state, winner, until, share)
            if not problem:
                break
            say(f"The last training of {winner.name} failed, so it cannot win: {problem}")
            log.write("unfit", trial=winner.trial, problem=problem)
        networks = [winner]
        if beside is not None:
            folders[beside.name], problem = train_last(work, state, beside, until, portion)
            if problem:
                say(f"The last training of {beside.name} failed, so it has no row: {problem}")
            else:
                networks.append(beside)
        for other in probed:
            if other.row.name != winner.name:
                folders[other.row.name] = linear_of(work, other.row)
                networks.append(other.row)
    with phase(log, "learning curve"):
        curve = learning_curve(work, state, next(c for c in candidates if c.row.name == winner.name))
    calibration = calibration_of(folders[winner.name], chosen)
    with phase(log, "test"):
        rows = []
        for row in networks:
            folder = folders[row.name]
            temperature = calibration.temperature if row is winner else 1.0
            rows.append(tested_once(work, row, folder.name, answer_of(work, folder, temperature)))
        on_test = OnTest(work.pool, request.seed)
        for other in others:
            name = other.row.name
            rows.append(tested_once(work, other.row, name, partial(on_test.answers, name)))
    rows = ranked(rows, work.shown_metric)
    won = next(row for row in rows if row.name == chosen["winner"])
    keep_best(work, folders[won.name], calibration, won)
    with phase(log, "export"):
        exported = ship(work)
    content = {**_content(work, chosen, rows, exported), "unsure_below": calibration.unsure_below, **curve}
    with phase(log, "report"):
        write_report(work.folder / REPORT, work, content, test_answers_of(work, folders[won.name].name))
    content["seconds"] = round(log.used, 1)
    log.write("finished", seconds=work.seconds, content=content)


def _content(work: Work, chosen: Mapping[str, Any], rows: Sequence[Row], exported: Exported) -> dict[str, Any]:
    """Return the object of `--json`; paths inside the fit's folder are relative to it."""
    return {
        "schema": 1,
        "seconds": 0.0,
        "classes": list(work.data.class_names),
        "split": {
            "train": len(work.pool) if work.folds > 1 else len(work.whole.train),
            "validation": len(work.data.validation) if work.folds == 1 else 0,
            "test": work.data.test_images,
            "folds": work.folds,
        },
        "metric": work.metric,
        "rows": [row.to_json() for row in rows],
        "winner": chosen["winner"],
        "reason": chosen["reason"],
        "tried": chosen["tried"],
        "compared": chosen["compared"],
        "beaten_by": chosen["beaten_by"],
        "nothing_learnt": chosen["nothing_learnt"],
        "test_seen_before": chosen["tested_before"],
        "confused": chosen["confused"],
        "doubtful": chosen["doubtful"],
        "left_out": {**work.inspection["unreadable"], **work.inspection["left_out"]},
        "data_hash": work.whole.fingerprint,
        "resumed": work.log.resumed,
        "network": BEST,
        "exported": {name: file.name for name, file in exported.files.items()},
        "report": REPORT,
    }
