"""What every runner does with a job on a worker: call the evaluator, turn whatever comes into a Result."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from nasforge.core.errors import ConfigError, NasforgeError, RecipeError, SearchError
from nasforge.core.protocols import Evaluator
from nasforge.core.trial import CONTRADICTION, Measure, Result
from nasforge.job import Job

Send = Callable[[int, Mapping[str, float]], bool]


class JobReport:
    """The `Report` of a job; `send` carries (step, metrics) to the experiment and brings back whether to go on."""

    def __init__(self, job: Job, send: Send) -> None:
        self._job = job
        self._send = send
        self.stopped = False
        self.broken: BaseException | None = None

    @property
    def number(self) -> int:
        """The trial."""
        return self._job.number

    @property
    def attempt(self) -> int:
        """From 1."""
        return self._job.attempt

    @property
    def seed(self) -> int:
        """Of the trial's training."""
        return self._job.seed

    @property
    def experiment(self) -> Path:
        """The experiment's folder."""
        return self._job.experiment

    @property
    def checkpoint(self) -> Path:
        """The trial's training checkpoint."""
        self._job.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        return self._job.checkpoint

    @property
    def folder(self) -> Path:
        """This attempt's own folder."""
        self._job.folder.mkdir(parents=True, exist_ok=True)
        return self._job.folder

    @property
    def costs(self) -> Mapping[str, float]:
        """What the check found."""
        return self._job.costs

    def __call__(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Say how it stands; False means stop. Once stopped, nothing more is sent.

        Raises:
            ConfigError: a metric is not a number.
        """
        plain = _plain(metrics)
        if not self.stopped:
            try:
                self.stopped = not self._send(step, plain)
            except BaseException as error:
                self.broken = error  # the driver's, not the evaluator's: `perform` lets it through
                raise
        return not self.stopped


def perform(evaluator: Evaluator, job: Job, send: Send) -> Result:
    """The evaluator's result; an exception becomes a failure with cause `error`, its traceback a file beside it.

    Raises:
        ConfigError: the evaluator or its settings are wrong, whatever the point.
        SearchError: the disk is full.
    """
    report = JobReport(job, send)
    try:
        result = evaluator(job.proposal, report)
        if not isinstance(result, Result):
            raise ConfigError(f"the evaluator returned {type(result).__name__}, not a nasforge.core.trial.Result")
        return replace(result, metrics=_plain(result.metrics), also=tuple(_plain(metrics) for metrics in result.also))
    except ConfigError as error:
        if isinstance(error, RecipeError) and isinstance(job.proposal, Measure):
            return Result.failed("error", str(error), CONTRADICTION)
        raise  # no other trial would fare better
    except Exception as error:
        if report.broken is not None:
            raise
        if _no_room(error):
            raise SearchError(
                f"no space left on the device while trial {job.number} ran ({job.experiment}). Nothing finished is "
                "lost: make room, then run the same command"
            ) from error
        if isinstance(error, NasforgeError):
            return Result.failed("error", str(error), "mend the setting that the message names")
        place = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        try:
            (report.folder / "traceback.txt").write_text(traceback.format_exc())
            advice = f"the whole traceback is in {job.folder / 'traceback.txt'}"
        except OSError as unwritable:
            advice = f"its traceback could not be written: {unwritable}"
        return Result.failed("error", message, advice)


def _plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as JSON has them: numpy's and torch's scalars become floats."""
    plain = {}
    for key, value in metrics.items():
        try:
            plain[str(key)] = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"the evaluator's metric '{key}' is not a number: {value!r}") from None
    return plain


def _no_room(error: BaseException | None) -> bool:
    """Whether a full disk or quota is at the bottom of it; libraries in other languages say it in words only."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
