"""One worker, in this process: the shortest runner, for tests, debugging and one small machine."""

from __future__ import annotations

from functools import partial

from nasforge.core.errors import DeviceLost
from nasforge.core.protocols import Evaluator
from nasforge.experiment.experiment import Experiment
from nasforge.runners.work import perform


def run(experiment: Experiment, evaluator: Evaluator) -> None:
    """Run the experiment, one job after the other."""
    while (job := experiment.next()) is not None:
        try:
            result = perform(evaluator, job, partial(experiment.report, job.number, job.attempt))
        except DeviceLost:
            experiment.fault(job.number)
            raise
        if not experiment.closed(job.number):
            experiment.tell(job.number, job.attempt, result)
