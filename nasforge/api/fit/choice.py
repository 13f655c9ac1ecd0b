"""The choice of the winner, from answers on images that no network was trained on, before any test."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nasforge.api.fit import judging
from nasforge.api.fit.judging import Choice, confusions, doubtful, is_constant, per_image
from nasforge.core.errors import SearchError
from nasforge.core.metrics import short_name

if TYPE_CHECKING:
    from nasforge.api.fit.work import Answered, Work


def choose_winner(work: Work, candidates: list[Answered], others: list[Answered], tried: int) -> Mapping[str, Any]:
    """Return the winner, from answers on images that no network was trained on, written down before any test."""
    entry = work.log.last("chosen")
    candidates = [c for c in candidates if not is_unfit(work, c.row.trial)]
    # an older version may have chosen a late one
    if entry and entry["until"] >= work.until and any(c.row.name == entry["winner"] for c in candidates):
        return entry
    if not candidates:
        raise SearchError(
            f"{work.folder}: the last training of every candidate failed. Give more --time", kind="failed", key="time"
        )
    candidates = sorted(candidates, key=lambda c: math.inf if c.row.trial is None else c.row.trial)
    metric = work.metric
    scores = {c.row.name: per_image(metric, work.truth, c.probabilities) for c in candidates}
    chosen = judging.choose(scores, {c.row.name: float(c.row.flops or math.inf) for c in candidates})
    winner = next(c for c in candidates if c.row.name == chosen.winner)
    # baselines without probabilities of their own are compared by what they choose
    shown = work.shown_metric
    its = per_image(shown, work.truth, winner.probabilities)
    ahead = [
        other.row.name for other in others if judging.is_ahead(per_image(shown, work.truth, other.probabilities), its)
    ]
    return work.log.write(
        "chosen",
        until=work.until,
        winner=chosen.winner,
        trial=winner.row.trial,
        reason=_why(chosen, metric, work.log.last("late", trial=winner.row.trial) is not None),
        compared=chosen.compared,
        tried=tried,
        beaten_by=ahead,
        nothing_learnt=is_constant(work.truth, winner.probabilities),
        **asdict(judging.calibrate(work.truth, winner.probabilities)),
        confused=[
            {
                "class": work.data.class_names[c.truth],
                "taken_for": work.data.class_names[c.taken_for],
                "images": c.images,
            }
            for c in confusions(work.truth, winner.probabilities)
        ],
        doubtful=[
            {
                "place": int(work.places[row]),
                "file": work.files[int(work.places[row])],
                "label": work.data.class_names[work.truth[row]],
                "likely": work.data.class_names[likely],
                "probability": probability,
            }
            for row, likely, probability in doubtful(work.truth, [c.probabilities for c in candidates])
        ],
        tested_before=work.log.last("opened") is not None,
    )


def is_unfit(work: Work, trial: int | None) -> bool:
    """Tell whether the last training of a trial failed; a pretrained network, of no trial, has its classifier."""
    return trial is not None and work.log.last("unfit", trial=trial) is not None


def _why(chosen: Choice, metric: str, late: bool) -> str:
    if chosen.compared == 1 and late:
        return "the only candidate that there was time for, and its trainings ended early"
    if chosen.compared == 1:
        return "the only candidate that was trained to the end"
    if chosen.winner == chosen.best:
        return f"the best {short_name(metric)} of {chosen.compared} candidates, and none is cheaper within the noise"
    return (
        f"the first of the cheapest of {chosen.compared} candidates that are not clearly behind the best, "
        f"{chosen.best} (by {chosen.behind:.4f} in {short_name(metric)}, standard error {chosen.error:.4f})"
    )
