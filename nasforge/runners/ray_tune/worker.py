"""The worker's side: a Tune trainable that keeps the evaluator and works on one job after the other."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import ray
from ray import tune

from nasforge.core.about import about_of
from nasforge.core.errors import DeviceLost, NasforgeError
from nasforge.core.importing import Places, adopt
from nasforge.core.protocols import Evaluator
from nasforge.core.trial import Result
from nasforge.experiment.job import Job
from nasforge.experiment.journal import dumps, loads
from nasforge.runners.ray_tune.cluster import lend_gpus
from nasforge.runners.work import Alphas, perform


class Worker(tune.Trainable):  # type: ignore[misc]
    """A worker process: keeps the evaluator, and with it the data, from trial to trial.

    The evaluator calls `report` from within; Tune wants one result per `step()`. So the evaluator runs in a thread that
    waits at every report until Tune comes back, which means "continue", or resets this worker, which means "stop".
    """

    def setup(
        self,
        config: dict[str, Any],
        shipped: list[Any],
        folder: str,
        data_hash: str,
        modules: Places,
        gpus: Mapping[str, float],
    ) -> None:
        # Begins no work: Tune makes workers that it then leaves idle, having put their trial on another one.
        adopt(modules)
        lend_gpus(gpus[config["kind"]])  # Tune gives a worker jobs with the same resources only
        self._shipped, self._folder, self._data_hash = shipped[0], folder, data_hash
        self._evaluator: Evaluator | None = None
        self._work: _Work | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self.config = new_config
        return True

    def step(self) -> dict[str, Any]:
        problem = self._ready()
        if not self.config["job"] or problem:
            time.sleep(0.05)
            return {"warm": dumps({"problem": problem}), "report": None, "result": None, "unused": 0.0}
        assert self._evaluator is not None  # noqa: S101  (_ready made sure)
        if self._work is None:
            self._work = _Work(self._evaluator, Job.from_json(loads(self.config["job"])))
        else:
            self._work.decisions.put(True)
        step, content = self._work.messages.get()
        if isinstance(content, str):  # what ends the search, in words
            return {"warm": dumps({"problem": content}), "report": None, "result": None, "unused": 0.0}
        if step is not None:
            return {"warm": None, "report": dumps([step, *content]), "result": None, "unused": 0.0}
        return {"warm": None, "report": None, "result": dumps(content), "done": True, "unused": 0.0}

    def _ready(self) -> str:
        """Load the evaluator and its data, once; returns a message if something is wrong here."""
        if self._evaluator is not None:
            return ""
        try:
            self._evaluator = ray.get(self._shipped)
            data_hash = about_of(self._evaluator).data_hash
        except Exception as error:
            cause = str(getattr(error, "cause", None) or error).strip()
            last = cause.splitlines()[-1] if cause else type(error).__name__
            return f"a worker cannot load the evaluator: {last}. Install the same packages and data on every node"
        if data_hash != self._data_hash:
            return "a worker sees other data than this process; the data must be the same on every node"
        if not Path(self._folder).is_dir():
            return f"a worker does not see {self._folder}; --runs-dir must lie on storage that all nodes see"
        return ""

    def cleanup(self) -> None:
        if self._work is not None:
            self._work.end()
        self._work = None

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        pass

    def load_checkpoint(self, checkpoint: Any) -> None:
        pass


LAST_WORDS = "device_lost.txt"
"""File of an attempt's folder that says why its worker ended itself."""


def end_process(error: DeviceLost, folder: Path | None = None) -> NoReturn:
    """End this process, whose GPU has failed, so that Ray starts another one; a file and stderr get the reason."""
    with suppress(OSError):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / LAST_WORDS).write_text(str(error))
    print(error, file=sys.stderr, flush=True)
    os._exit(1)


class _Work:
    """One job in a thread of its own, and the two queues between it and Tune."""

    def __init__(self, evaluator: Evaluator, job: Job) -> None:
        self.messages: queue.SimpleQueue[tuple[int | None, Any]] = queue.SimpleQueue()
        self.decisions: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def send(step: int, metrics: Mapping[str, float], alphas: Alphas = None) -> bool:
            self.messages.put((step, [dict(metrics), alphas]))
            return self.decisions.get()

        def work() -> None:
            try:
                result = perform(evaluator, job, send)
            except DeviceLost as error:
                end_process(error, job.folder)
            except NasforgeError as error:
                self.messages.put((None, str(error)))
                return
            except BaseException as error:  # SystemExit too: the waiting thread must hear of it
                result = Result.failed("error", f"the evaluator ended its thread: {type(error).__name__}: {error}")
            self.messages.put((None, result.to_json()))

        self._thread = threading.Thread(target=work, name=f"trial-{job.number}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop work that has not ended: Tune has let the trial go, which waits at a report."""
        self.decisions.put(False)
        self._thread.join(timeout=30)
