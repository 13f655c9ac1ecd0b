"""Evaluators for tests of the command line: no training, known answers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasforge.core.about import About
from nasforge.core.trial import Proposal, Result
from nasforge.settings.experiment import resolve
from nasforge.settings.spec import SearchSpec
from nasforge.testing.toys import Planted

SPACE = """\
name: nested
builder: staged
decisions:
  model:
    block:
      choice:
        identity:
        conv: {kernel: [1, 3, 5]}
    depth: {int: [1, 8]}
    width: [8, 16, 32, 64]
  train:
    learning_rate: {float: [0.0001, 1.0], log: true}
"""
SHIFT = 0.0
"""Added to what `shifting` reports, so that a repetition differs."""
SIGNALS: list[int] = []
"""What `signalled` sends to its own process."""
SENDERS: list[threading.Event] = []


@dataclass
class Gated(Planted):
    """Every trial waits for a file."""

    gate: str = ""

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        while not Path(self.gate).exists():
            time.sleep(0.01)
        return super().__call__(proposal, report)


def planted(spec: SearchSpec, *, seconds: float = 0.0, fail: Sequence[int] = (), gate: str = "") -> Planted:
    settings = {"epochs": spec.ladder[-1].epochs, "seconds": seconds, "fail": tuple(fail)}
    return Gated(**settings, gate=gate) if gate else Planted(**settings)


class Noisy:
    """Prints where it should not."""

    about = About()

    def __init__(self, spec: SearchSpec) -> None:
        self.inner = Planted(epochs=spec.ladder[-1].epochs)

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        print("noise from Python")
        os.write(1, b"noise from C\n")
        os.system("echo noise from a child")
        return self.inner(proposal, report)


class Shifting(Planted):
    """Reports something else once SHIFT is set."""

    def metrics_of(self, values: Mapping[str, Any], seed: int, step: int) -> dict[str, float]:
        metrics = super().metrics_of(values, seed, step)
        return {**metrics, "val/accuracy": metrics["val/accuracy"] + SHIFT, "time/train_s": time.monotonic()}


def shifting(spec: SearchSpec) -> Shifting:
    return Shifting(epochs=spec.ladder[-1].epochs)


class Signalled(Planted):
    """In trial 1 its process gets the signals that are in SIGNALS, once, in quick succession."""

    def __call__(self, proposal: Proposal, report: Any) -> Result:
        if report.number == 1 and SIGNALS:
            signals, SIGNALS[:] = list(SIGNALS), []
            send(signals)
        return super().__call__(proposal, report)


def send(signals: Sequence[int]) -> None:
    """Send signals to this process from another thread: the second may come while the first is handled."""
    all_sent = threading.Event()

    def send_all() -> None:
        for number in signals:
            os.kill(os.getpid(), number)
            time.sleep(0.005)
        all_sent.set()

    SENDERS.append(all_sent)
    threading.Thread(target=send_all).start()
    all_sent.wait()  # until the first signal raises something here


def wait_for_senders() -> None:
    """Wait until all signals are sent.

    A `Thread.join` that a signal interrupts takes its thread for ended (https://github.com/python/cpython/issues/89437),
    so events are waited for.
    """
    while SENDERS:
        SENDERS.pop().wait()


def signalled(spec: SearchSpec) -> Signalled:
    return Signalled(epochs=spec.ladder[-1].epochs)


def write_space(folder: Path) -> Path:
    path = folder / "nested.yaml"
    path.write_text(SPACE)
    return path


def config_at(tmp_path, **settings):
    """An experiment of `planted` trials in `tmp_path`."""
    defaults = {
        "space": str(write_space(tmp_path)),
        "evaluator": "cli_toys:planted",
        "runner": "local",
        "tracking_uri": "none",
        "runs_dir": tmp_path / "runs",
        "name": "toy",
    }
    return resolve({**defaults, **settings})
