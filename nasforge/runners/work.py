"""Common work of every runner on a worker: call the evaluator, turn any outcome into a Result."""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from nasforge.core import checks
from nasforge.core.errors import (
    ConfigError,
    DeviceLost,
    EventError,
    NasforgeError,
    RecipeError,
    SearchError,
    StopNow,
    described,
)
from nasforge.core.protocols import Evaluator
from nasforge.core.trial import CONTRADICTION, Measure, Result
from nasforge.experiment.job import Job
from nasforge.experiment.verdicts import invalid_report

Alphas = Mapping[str, tuple[float, ...]] | None
Send = Callable[..., bool]
"""Takes step, metrics and, of a supernet alone, alphas; returns whether to continue."""


class JobReport:
    """The `Report` of a job; `send` carries (step, metrics, alphas) to the experiment and returns whether to continue.

    Attributes:
        stopped: whether the trial is to stop; nothing more is sent then.
        broken: what `send` raised.
        wrong: what was reported that no journal can hold.
    """

    def __init__(self, job: Job, send: Send) -> None:
        self._job = job
        self._send = send
        self._process = os.getpid()
        self.stopped = False
        self.broken: BaseException | None = None
        self.wrong: EventError | None = None

    @property
    def number(self) -> int:
        """The trial."""
        return self._job.number

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
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
        """Costs that the check measured."""
        return self._job.costs

    def __call__(
        self, step: int, metrics: Mapping[str, float], alphas: Mapping[str, Sequence[float]] | None = None
    ) -> bool:
        """Report metrics after `step`; returns False when the trial must stop. Once stopped, nothing more is sent.

        Raises:
            EventError: the step, a metric or an alpha is none; the trial has failed.
            ConfigError: this is another process than the evaluator was called in.
        """
        if os.getpid() != self._process:
            raise ConfigError(
                "report was called in a child process; call it in the process of the evaluator", kind="unsupported"
            )
        try:
            step, plain, rows = checks.report(step, metrics, alphas)
        except EventError as error:
            self.wrong, self.stopped = self.wrong or error, True
            raise
        if not self.stopped:
            try:
                self.stopped = not self._send(step, _floats(plain), *([rows] if rows else []))
            except BaseException as error:
                self.broken = error  # the driver's, not the evaluator's: `perform` lets it through
                raise
        return not self.stopped


def perform(evaluator: Evaluator, job: Job, send: Send) -> Result:
    """Return the evaluator's result; an exception becomes a failure of cause `error`, its traceback a file.

    So does an answer that no journal can hold, such as a text for a metric or a negative charge, and so do `sys.exit`
    and `os._exit`. A child process that the evaluator forked ends here: only the parent continues.

    Raises:
        ConfigError: the evaluator or its settings are wrong, whatever the point.
        SearchError: the disk is full.
        DeviceLost: a GPU has failed, and this process can do no other job.
        KeyboardInterrupt: the user stops the search.
    """
    report = JobReport(job, send)
    answer: object = None
    try:
        with _in_one_process():
            answer = evaluator(job.proposal, report)
        if report.broken is not None:  # the evaluator has swallowed it
            raise report.broken
        if report.wrong is not None:  # and the evaluator ignored the exception
            return invalid_report(report.wrong, answer)
        result = checks.result(answer)
        return replace(result, metrics=_floats(result.metrics), scores=tuple(map(_floats, result.scores)))
    except EventError as error:
        return invalid_report(error, answer)
    except ConfigError as error:
        if isinstance(error, RecipeError) and isinstance(job.proposal, Measure):
            return Result.failed("error", str(error), CONTRADICTION)
        raise  # no other trial would fare better
    except BaseException as error:
        if report.broken is not None or _is_the_users(error):
            raise
        if (stop := _stop_behind(error)) is not None:
            raise stop from error
        if report.wrong is not None:
            return invalid_report(report.wrong)
        if _no_room(error):
            raise SearchError(
                f"no space left on the device while trial {job.number} ran ({job.experiment}). Nothing finished is "
                "lost: make room, then run the same command",
                kind="failed",
            ) from error
        if (lost := _lost_device(error)) is not None:
            raise lost from error
        if isinstance(error, NasforgeError):
            return Result.failed("error", str(error), "correct the setting that the message names")
        message = described(error)
        try:
            (report.folder / "traceback.txt").write_text(traceback.format_exc())
            advice = f"the whole traceback is in {job.folder / 'traceback.txt'}"
        except OSError as unwritable:
            advice = f"its traceback could not be written: {unwritable}"
        return Result.failed("error", message, advice)


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    """Convert measured metrics, counts among them, to floats."""
    return {key: float(value) for key, value in metrics.items()}


def _is_the_users(error: BaseException) -> bool:
    """Return whether an exception is a stop that the user asked for, not the evaluator's."""
    if not isinstance(error, KeyboardInterrupt) or isinstance(error, StopNow):
        return isinstance(error, StopNow)
    in_main_thread = threading.current_thread() is threading.main_thread()
    return in_main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _stop_behind(error: BaseException) -> StopNow | None:
    """Return the user's stop that an exception displaced: torch raises another when a stop interrupts a file."""
    behind: BaseException | None = error
    while behind is not None and not isinstance(behind, StopNow):
        behind = behind.__cause__ or behind.__context__
    return behind


def _lost_device(error: BaseException) -> DeviceLost | None:
    """Return the failure of a GPU that an exception tells of; a user's evaluator may let torch's own through."""
    if isinstance(error, DeviceLost):
        return error
    if "torch" not in sys.modules:  # an import for nothing: then the evaluator has not used a GPU
        return None
    from nasforge.training.failures import device_lost

    return device_lost(error)


@contextmanager
def _in_one_process() -> Iterator[None]:
    """Keep this process alive, and nothing but this process, while an evaluator works in this thread."""
    process, thread, really_exit = os.getpid(), threading.get_ident(), os._exit
    working = True

    def exit_now(status: int) -> NoReturn:
        if working and os.getpid() == process and threading.get_ident() == thread:
            raise SystemExit(f"os._exit({status})")
        really_exit(status)

    os._exit = exit_now
    error: BaseException | None = None
    try:
        yield
    except BaseException as raised:
        error = raised
        raise
    finally:
        working = False
        if os._exit is exit_now:
            os._exit = really_exit
        if os.getpid() != process:
            _end_child(error)


def _end_child(error: BaseException | None) -> NoReturn:
    """End a forked process as Python would, but without the rest of the driver that it has a copy of."""
    status = 0 if error is None else 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    elif error is not None:
        traceback.print_exception(error)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(status)


def _no_room(error: BaseException | None) -> bool:
    """Return whether a full disk or quota is the cause; libraries in other languages only say so in words."""
    while error is not None:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
