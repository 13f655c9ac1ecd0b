"""Several virtual workers in this process: jobs end in the order of a table's clock, the same every time."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from functools import partial
from typing import TypeAlias

from nasforge.core.about import about_of
from nasforge.core.errors import ConfigError
from nasforge.core.events import Reported, Started, Told
from nasforge.core.protocols import Evaluator
from nasforge.core.ranges import check_whole
from nasforge.core.trial import Result
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.job import Job
from nasforge.runners.work import Alphas, perform

_Heard: TypeAlias = tuple[int, Mapping[str, float], Alphas]
_Moment: TypeAlias = tuple[float, int, Job, int]
"""When, the trial, its job, and the index of what happens then: a report, or the end."""


def run(experiment: Experiment, evaluator: Evaluator, *, max_concurrent_trials: int = 4) -> None:
    """Run the experiment as this many workers would, by the seconds that the evaluator charges.

    The virtual clock of syne-tune's simulator back end ("Syne Tune", Salinas et al. 2022,
    https://proceedings.mlr.press/v188/salinas22a.html): a job is evaluated when it starts, its reports and its end are
    heard at their virtual times, equal times in the order of the trials. A search that is continued takes up the clock
    from its journal, so it resumes as if it had never stopped.

    Args:
        experiment: what to run.
        evaluator: one that only looks up; a training would be run to its end before anything could stop it.
        max_concurrent_trials: number of virtual workers.

    Raises:
        ConfigError: another evaluator, or no worker.
    """
    workers = max_concurrent_trials
    check_whole(workers, "runner 'simulated': max_concurrent_trials", 1)
    if not about_of(evaluator).instant:
        raise ConfigError(
            "runner 'simulated' needs an evaluator that looks results up, such as lookup_table; use --runner local",
            kind="unsupported",
            key="runner",
        )
    now, starts = _clock(experiment)
    moments: list[_Moment] = []
    reports: dict[int, list[_Heard]] = {}
    results: dict[int, Result] = {}
    while True:
        while len(moments) < workers and (job := experiment.next()) is not None:
            reports[job.number] = []
            results[job.number] = perform(evaluator, job, partial(_hear, reports[job.number]))
            starts.setdefault(job.number, now)
            heapq.heappush(moments, _moment(job, 0, starts, reports, results))
        if not moments:
            return
        now, number, job, index = heapq.heappop(moments)
        if index < len(reports[number]):
            if experiment.report(number, job.attempt, *reports[number][index]):
                heapq.heappush(moments, _moment(job, index + 1, starts, reports, results))
        elif not experiment.closed(number):
            experiment.tell(number, job.attempt, results[number])


def _hear(heard: list[_Heard], step: int, metrics: Mapping[str, float], alphas: Alphas = None) -> bool:
    heard.append((step, metrics, alphas))
    return True


def _moment(
    job: Job,
    index: int,
    starts: Mapping[int, float],
    reports: Mapping[int, list[_Heard]],
    results: Mapping[int, Result],
) -> _Moment:
    """Return the next event of a job, no earlier than its reports before: a failure may charge nothing."""
    heard = reports[job.number]
    spent = max((metrics.get("time/worker_s", 0.0) for _, metrics, _ in heard[: index + 1]), default=0.0)
    if index == len(heard):
        spent = max(spent, results[job.number].charged.worker_seconds)
    return starts[job.number] + spent, job.number, job, index


def _clock(experiment: Experiment) -> tuple[float, dict[int, float]]:
    """Return the time that the journal has come to, and when each trial started."""
    now, starts, spent = 0.0, dict[int, float](), dict[int, float]()
    for event in experiment.journal.events:
        if isinstance(event, Started):
            starts.setdefault(event.number, now)
        elif isinstance(event, Reported):
            spent[event.number] = max(spent.get(event.number, 0.0), event.metrics.get("time/worker_s", 0.0))
            now = starts[event.number] + spent[event.number]
        elif isinstance(event, Told) and event.number in starts:
            now = starts[event.number] + event.result.charged.worker_seconds
    return now, starts
