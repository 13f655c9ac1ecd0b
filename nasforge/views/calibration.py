"""Reliability of short trainings: the facts about each rung in the journal of `nasforge calibrate`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nasforge.core.errors import SearchError
from nasforge.core.ladder import Rung
from nasforge.core.metrics import PROXY
from nasforge.core.space import SearchSpace
from nasforge.core.trial import Measure, Score, Trial
from nasforge.experiment.state import State
from nasforge.pruners.asha import ASHA
from nasforge.settings.spec import SearchSpec

Matrix = NDArray[np.float64]

KEPT_SHARE = 0.8
"""A rung is worth stopping at when it ranks networks at least so well as full training does, in its own repetition."""
_RESAMPLES = 1000
_SIMULATED = 50
RULE = (
    "the ladder begins at the cheapest rung from which on every rung's Spearman correlation is at least "
    f"{KEPT_SHARE:g} of what full training reaches with itself under other seeds"
)


@dataclass(frozen=True)
class Correlation:
    """A rank correlation over the networks, with its 95 % bootstrap interval (networks resampled)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class RungFacts:
    """Facts about one rung.

    Attributes:
        rung: as in the ladder: epochs, perhaps share and resolution.
        epochs: done there.
        cost: of a training until there, as a share of one to the end.
        seconds: of a worker until there, mean.
        noise: standard deviation between trainings of one network with different seeds, pooled; NaN with one seed.
        spread: standard deviation between the networks' means.
        spearman: with full training: of the other seeds where there are several, else of the same run.
        kendall: likewise.
        same_run: Spearman with the same run's end, which is what a pruner relies on.
    """

    rung: str
    epochs: int
    cost: float
    seconds: float
    noise: float
    spread: float
    spearman: Correlation
    kendall: Correlation
    same_run: float


@dataclass(frozen=True)
class Calibration:
    """The whole answer.

    Attributes:
        metric: what was compared, the first objective.
        networks: that were trained to the end by every seed.
        left_out: networks that were not.
        seeds: trainings of each.
        rungs: in order, the last one is full training.
        proxies: zero-cost score -> its Spearman correlation with full training, mean over the seeds.
        ladder: the recommended rungs, as a user writes them.
        trials: of the search whose cost is forecast.
        seconds_without: worker seconds of such a search without a pruner.
        seconds_with: with ASHA on the recommended ladder, simulated on the recorded trainings.
        share: the same in multiply-adds (or seconds, where none were counted), with as a share of without.
        lost: by how much worse the best of such a search is than without pruner, mean.
        advice: what to know before relying on it.
    """

    metric: str
    networks: int
    left_out: int
    seeds: int
    rungs: tuple[RungFacts, ...]
    proxies: Mapping[str, Correlation]
    ladder: tuple[Mapping[str, Any], ...]
    trials: int
    seconds_without: float
    seconds_with: float
    share: float
    lost: float
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        return {**asdict(self), "rule": RULE}


def calibration(state: State, *, trials: int = 100, eta: float = 3) -> Calibration:
    """Compute a calibration from the trainings of `strategies.repeated`.

    Args:
        state: of the experiment.
        trials: of the search whose cost is forecast.
        eta: of ASHA there.

    Raises:
        SearchError: fewer than three networks were trained to the end.
    """
    ladder = [rung for rung in state.ladder if not rung.proxies]
    groups, left_out = _groups(state, ladder)
    if len(groups) < 3:
        advice = "run the same command to continue"
        if state.done:  # which would find nothing to do
            advice = "correct the cause or ask for more --networks, under another --name"
        raise SearchError(
            f"only {len(groups)} network(s) were trained to the end by every seed, a rank correlation needs three; "
            f"see the failures with nasforge show, and {advice}",
            kind="empty",
        )
    seeds = len(groups[0])
    values = np.array([[[_at(t, rung.epochs).values[0] for rung in ladder] for t in g] for g in groups])
    charges = [[[_at(t, rung.epochs).charged for rung in ladder] for t in g] for g in groups]
    seconds = np.array([[[c.worker_seconds for c in run] for run in group] for group in charges])
    work = np.array([[[c.multiply_adds for c in run] for run in group] for group in charges])
    if not work[..., -1].all():
        work = seconds if seconds[..., -1].all() else np.broadcast_to([float(r.epochs) for r in ladder], values.shape)
    resampled = np.random.default_rng(0).integers(len(groups), size=(_RESAMPLES, len(groups)))
    rungs = []
    for index, rung in enumerate(ladder):
        at_rung, final = values[:, :, index], values[:, :, -1]
        rungs.append(
            RungFacts(
                rung=str(rung),
                epochs=rung.epochs,
                cost=float(work[..., index].mean() / work[..., -1].mean()),
                seconds=float(seconds[..., index].mean()),
                noise=float(np.sqrt(at_rung.var(axis=1, ddof=1).mean())) if seeds > 1 else math.nan,
                spread=float(at_rung.mean(axis=1).std(ddof=1)),
                spearman=_agreement(at_rung, final, spearman, resampled),
                kendall=_agreement(at_rung, final, kendall, resampled),
                same_run=float(np.mean([spearman(at_rung[:, s], final[:, s]) for s in range(seeds)])),
            )
        )
    first = _first_kept(rungs)
    kept = ladder[first:]
    simulated = _simulated(values[..., first:], work[..., first:], seconds[..., first:], kept, trials, eta)
    return Calibration(
        metric=state.objectives[0].metric,
        networks=len(groups),
        left_out=left_out,
        seeds=seeds,
        rungs=tuple(rungs),
        proxies=_proxies(state, groups, values[..., -1].mean(axis=1), resampled),
        ladder=tuple(rung.to_json() for rung in kept),
        trials=trials,
        seconds_without=trials * float(seconds[..., -1].mean()),
        advice=_advice(rungs, seeds, len(groups)),
        **simulated,
    )


# --- from the journal -------------------------------------------------------------------------------------------------


def _groups(state: State, ladder: Sequence[Rung]) -> tuple[list[list[Trial]], int]:
    """Return the trainings of each network that was trained to the end by every seed, and how many were not."""
    trainings: dict[str, list[Trial]] = {}
    for trial in state.trials.values():
        proposal = trial.proposal
        if trial.verdict == "accepted" and isinstance(proposal, Measure) and not state.ladder[proposal.rung].proxies:
            trainings.setdefault(proposal.architecture.point_id, []).append(trial)
    seeds = max(map(len, trainings.values()), default=0)

    def whole(trial: Trial) -> bool:
        known = {step.step for step in trial.steps if step.values is not None}
        return trial.status == "finished" and all(rung.epochs in known for rung in ladder)

    groups = [members for members in trainings.values() if len(members) == seeds and all(map(whole, members))]
    return groups, len(trainings) - len(groups)


def _at(trial: Trial, epochs: int) -> Any:
    return next(step for step in trial.steps if step.step == epochs)


def _proxies(state: State, groups: list[list[Trial]], final: Matrix, resampled: Any) -> dict[str, Correlation]:
    """Of the trial that scored all networks in one batch, if there is one."""
    correlations: dict[str, Correlation] = {}
    for trial in state.trials.values():
        proposal = trial.proposal
        if not (isinstance(proposal, Score) and trial.result and trial.status == "finished"):
            continue
        rows = dict(zip((p.point_id for p in proposal.architectures), trial.result.scores, strict=True))
        ids = [group[0].architecture.point_id for group in groups if group[0].architecture]
        for name in sorted(key for key in trial.result.scores[0] if key.startswith(PROXY)):
            scores = np.array([rows[point].get(name, math.nan) for point in ids])
            if not np.isnan(scores).any():
                correlations[name] = _agreement(scores[:, None], final[:, None], spearman, resampled)
    return correlations


# --- statistics -------------------------------------------------------------------------------------------------------


def spearman(x: Matrix, y: Matrix) -> Matrix:
    """Spearman's rank correlation along the last axis; NaN where one side is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(side, axis=-1) for side in (x, y))
    a, b = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: Matrix = (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return correlation


def kendall(x: Matrix, y: Matrix) -> Matrix:
    """Kendall's tau-b along the last axis; NaN where one side is constant."""
    a, b = (np.sign(side[..., :, None] - side[..., None, :]) for side in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation: Matrix = (a * b).sum(axis=(-1, -2)) / np.sqrt(
            (a**2).sum(axis=(-1, -2)) * (b**2).sum(axis=(-1, -2))
        )
    return correlation


def _agreement(at_rung: Matrix, final: Matrix, correlate: Any, resampled: Any) -> Correlation:
    """Of a rung with full training, (networks, seeds) each: mean over pairs of different seeds where there are some."""
    seeds = range(at_rung.shape[1])
    pairs = [(a, b) for a in seeds for b in seeds if a != b] or [(0, 0)]

    def mean(rows: Any) -> Any:
        return np.mean([correlate(at_rung[:, a][rows], final[:, b][rows]) for a, b in pairs], axis=0)

    drawn = mean(resampled)
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (math.nan, math.nan)
    return Correlation(float(mean(np.arange(len(at_rung)))), float(low), float(high))


def _first_kept(rungs: Sequence[RungFacts]) -> int:
    """Return the index at which the recommended ladder begins, by `RULE`."""
    threshold = KEPT_SHARE * rungs[-1].spearman.value
    first = len(rungs) - 1
    while (
        first > 0 and rungs[first - 1].spearman.value >= threshold > 0
    ):  # of an order that is none, nothing can be kept
        first -= 1
    return first


def _simulated(
    values: Matrix, work: Matrix, seconds: Matrix, ladder: Sequence[Rung], trials: int, eta: float
) -> dict[str, float]:
    """Simulate ASHA on random searches of recorded trainings: its cost, and the loss of the best."""
    runs = [(network, seed) for network in range(values.shape[0]) for seed in range(values.shape[1])]
    pruner = ASHA(SearchSpec(SearchSpace("recorded", ()), ladder=tuple(ladder)), eta=eta)
    shares, spent, lost = [], [], []
    for repetition in range(_SIMULATED):
        drawn = Random(repetition).choices(runs, k=trials)
        history: dict[int, dict[int, tuple[float, ...]]] = {}
        cost = worker_s = 0.0
        ends = []
        for number, run in enumerate(drawn):
            history[number] = {}
            for index, rung in enumerate(ladder):
                history[number][rung.epochs] = (float(values[run][index]),)
                if index + 1 < len(ladder) and pruner.prune(history, number, rung.epochs):
                    break
            else:
                ends.append(float(values[run][-1]))
            cost, worker_s = cost + float(work[run][index]), worker_s + float(seconds[run][index])
        shares.append(cost / sum(float(work[run][-1]) for run in drawn))
        spent.append(worker_s)
        lost.append(max(float(values[run][-1]) for run in drawn) - max(ends))
    return {"share": float(np.mean(shares)), "seconds_with": float(np.mean(spent)), "lost": float(np.mean(lost))}


def _advice(rungs: Sequence[RungFacts], seeds: int, networks: int) -> tuple[str, ...]:
    last, sentences = rungs[-1], []
    if math.isnan(last.spearman.value):
        sentences.append(
            "with one of the seeds all networks score alike at the end: nothing to order; train longer or on more "
            "images, or check that the networks learn at all (nasforge show)"
        )
    elif seeds == 1:
        sentences.append(
            "with one seed the noise of training is unknown, and correlations share the run's luck: --seeds 2"
        )
    elif last.spearman.value < 0.5:
        sentences.append(
            f"full training itself hardly orders these networks (Spearman {last.spearman.value:.2f} between seeds): "
            "their differences are within its noise; train longer, on more images, or search a wider space"
        )
    if last.spearman.high - last.spearman.low > 0.6:
        sentences.append(f"{networks} networks leave wide intervals: --networks {2 * networks} would tell more")
    return tuple(sentences)
