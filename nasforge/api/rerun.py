"""After the search: whether a trial, repeated, comes out the same. Nothing is written into the runs folder."""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasforge.api.assembly import make_check, make_evaluator, worker_threads
from nasforge.core.about import About, about_of
from nasforge.core.errors import JournalError, SearchError
from nasforge.core.trial import Artifact, Result, Trial
from nasforge.core.trust import foreign
from nasforge.experiment.job import Job, trial_seed
from nasforge.experiment.state import State, load_state
from nasforge.experiment.verdicts import Check, admission
from nasforge.runners.work import Alphas, perform


@dataclass(frozen=True)
class Repetition:
    """A trial and its repetition.

    Attributes:
        number: the trial.
        status: of the trial and of its repetition.
        compared: metric -> (then, now), times left out; `step/metric` for the reports on the way.
        device: what the repetition ran on.
    """

    number: int
    status: tuple[str, str]
    compared: Mapping[str, tuple[float, float]]
    device: str

    @property
    def differing(self) -> dict[str, tuple[float, float]]:
        """Metrics that are not equal to the last bit."""
        return {
            key: (then, now)
            for key, (then, now) in self.compared.items()
            if then != now and not (math.isnan(then) and math.isnan(now))
        }

    @property
    def equal(self) -> bool:
        """True if the trial came out again the same."""
        return self.status[0] == self.status[1] and not self.differing

    def to_json(self) -> dict[str, Any]:
        """JSON-able form."""
        differing = {key: {"then": then, "now": now} for key, (then, now) in self.differing.items()}
        return {
            "number": self.number,
            "equal": self.equal,
            "status": {"then": self.status[0], "now": self.status[1]},
            "compared": len(self.compared),
            "differing": differing,
            "device": self.device,
        }


def rerun(
    folder: Path, number: int, data: str | Path | Mapping[str, str] | None = None, *, trust: bool = False
) -> Repetition:
    """Repeat a trial with its seed in a temporary folder and compare what it reported; on a CPU it is equal.

    A pruned trial is stopped where it was stopped.

    Args:
        folder: of the experiment.
        number: of the trial.
        data: where the images lie now, if they were moved, as in `retrain`.
        trust: you agree to run the code that the journal names; code that a search of yours used needs no consent.

    Raises:
        TrustError: the journal names code that you have not agreed to run.
        JournalError: no such trial, it is not closed, or the data are not the ones it was trained on.
        SearchError: there is nothing to repeat.
    """
    with foreign(folder.absolute().parent, trust=trust):
        return _rerun(folder, number, data)


def _rerun(folder: Path, number: int, data: str | Path | Mapping[str, str] | None) -> Repetition:
    state = load_state(folder)
    config = state.config.with_data_at(data)
    trial = state.trial(number)
    if trial.result is None:
        raise JournalError(
            f"{folder}: trial {number} is not closed yet, there is nothing to compare with", kind="empty", key="trial"
        )
    evaluator = make_evaluator(config)
    about = about_of(evaluator)
    if about.data_hash != state.header.data_hash:
        raise JournalError(
            f"{folder}: the data have changed since ({state.header.why_other_data})", kind="changed", key="data"
        )
    if trial.verdict != "accepted":
        return _check_again(trial, make_check(config, evaluator), state)
    last_step = trial.steps[-1].step if trial.steps and trial.steps[-1].stop else math.inf
    steps: dict[int, dict[str, float]] = {}

    def send(step: int, metrics: Mapping[str, float], alphas: Alphas = None) -> bool:
        steps[step] = dict(metrics)
        return step < last_step

    with tempfile.TemporaryDirectory(prefix="nasforge-rerun-") as temporary, worker_threads(config, trial.proposal):
        place = Path(temporary)
        weights = trial.weights
        if weights is not None:
            _copy(folder, weights, place)
        job = Job(number, 1, trial.proposal, trial_seed(state.header.seed, number), trial.costs, place)
        result = perform(evaluator, job, send)
    compared = {
        f"{step.step}/{key}": (value, steps.get(step.step, {}).get(key, math.nan))
        for step in trial.steps
        for key, value in step.metrics.items()
    }
    if result.status == "finished":
        compared |= {key: (value, result.metrics.get(key, math.nan)) for key, value in trial.result.metrics.items()}
        fewer: tuple[Mapping[str, float], ...] = ({},) * (len(trial.result.scores) - len(result.scores))
        for index, (then, again) in enumerate(zip(trial.result.scores, result.scores + fewer, strict=False)):
            compared |= {f"score {index}/{key}": (value, again.get(key, math.nan)) for key, value in then.items()}
    now = "pruned" if steps and max(steps) >= last_step else result.status
    return Repetition(number, (_status(trial.result), _status(result, now)), _without_times(compared), _device(about))


def _status(result: Result, status: str | None = None) -> str:
    status = status or result.status
    return f"{status} ({result.error.cause})" if result.error and status == "failed" else status


def _check_again(trial: Trial, check: Check, state: State) -> Repetition:
    """Check a trial that never started once more."""
    verdict = admission(trial.proposal, check, state)
    compared = {key: (value, verdict.costs.get(key, math.nan)) for key, value in trial.costs.items()}
    status = verdict.refusal.status if verdict.refusal else verdict.verdict
    return Repetition(trial.number, (trial.status, status), _without_times(compared), "meta")


def _without_times(compared: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Without what differs from run to run, and without what the experiment works out from the costs."""
    apart = ("time/", "latency", "constraint/")
    return {key: pair for key, pair in compared.items() if not any(text in key for text in apart)}


def _copy(folder: Path, artifact: Artifact, place: Path) -> None:
    source, target = artifact.inside(folder), place / artifact.path
    if not source.is_file():
        raise SearchError(
            f"{source}: the weights that this trial started from are gone, it cannot be repeated", kind="missing"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _device(about: About) -> str:
    if not about.device:
        return "cpu"
    from nasforge.training.device import device_of

    return str(device_of(about.device))
