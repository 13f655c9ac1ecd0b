"""The view of a running search: a live table on a terminal, one line per closed trial elsewhere."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from nasforge.cli.output import count_text, metric_text, whole_text
from nasforge.core.events import Event, Header, Interrupted, Told
from nasforge.core.metrics import BUDGETS, better
from nasforge.core.trial import Score, TrainShared, Trial
from nasforge.experiment.experiment import Experiment
from nasforge.experiment.state import State
from nasforge.views.rounding import fixed
from nasforge.views.tables import steps_of
from nasforge.views.texts import seconds_text

_SHOWN = 8
_UNBUILDABLE = 3
_OF_A_SUPERNET = ("train/loss", "supernet/accuracy", "supernet/derived_accuracy", "alphas/skips")


class Watch:
    """A tracker that draws on `console` what the experiment's state says after each event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._state: State | None = None
        self._live: Live | None = None
        self._budget = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.fields[left]}"),
            console=console,
        )
        self._tasks: dict[str, object] = {}
        self._standing = ""
        self._lock = threading.Lock()
        self._drawn = 0.0

    def on_open(self, experiment: Experiment) -> None:
        """Print whether the opened experiment resumes an earlier session."""
        self._state = experiment.state
        counts = experiment.state.counts()
        done = sum(counts.values()) - counts["running"]
        name = experiment.state.name
        if experiment.resumed:
            running = f", {counts['running']} were running" if counts["running"] else ""
            title = f"Continuing '{name}': {done} trials are done{running}."
        else:
            title = f"Searching '{name}' in {experiment.folder}"
        self._console.print(Text(title, style="bold"), soft_wrap=True)
        self._draw(force=True)

    def attach(self, state: State, standing: str = "", name: str = "") -> None:
        """Show another process's search.

        Args:
            state: of the search, as far as its journal is read.
            standing: its times, below the counts.
            name: of the search for the user; empty: its own.
        """
        if self._state is None:
            self._console.print(Text(f"Watching '{name or state.name}'. Ctrl-C stops watching, not the search."))
        self._state, self._standing = state, standing
        self._draw(force=True)

    def tell(self, trial: Trial) -> None:
        """Print the line of a trial that was closed, where there is no live table."""
        if self._live is None and self._state is not None and trial.status != "rejected":
            self._console.print(Text(self._line(self._state, trial)), soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a sentence for the user above the table."""
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    @contextmanager
    def shown(self) -> Iterator[Watch]:
        """Draws while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        with Live(Text("starting ..."), console=self._console, refresh_per_second=4, transient=True) as live:
            self._live = live
            try:
                yield self
            finally:
                self._live = None

    def on_event(self, event: Event) -> None:
        """Draw, or write a line when a trial is closed."""
        state = self._state
        if state is None or isinstance(event, Header):
            return
        if isinstance(event, Told) and event.result.metrics.get("alphas/collapsed"):
            self.say(
                f"trial {event.number}: the supernet's alphas collapsed to options without weights, so its training "
                "ended early. The derived networks are probably poor. Try gdas or drnas, fewer epochs, or "
                "strategy.warmup_epochs"
            )
        if self._live is not None:
            self._draw(force=isinstance(event, (Told, Interrupted)))
        elif isinstance(event, Told):
            trial = state.trials[event.number]
            # a partial table may have thousands of points without a row
            in_vain = trial.verdict == "failed" and state.unbuildable_in_a_row > _UNBUILDABLE
            if trial.status != "rejected" and not in_vain:
                self._console.print(Text(self._line(state, trial)), soft_wrap=True)

    def _draw(self, *, force: bool) -> None:
        now = time.monotonic()
        state = self._state
        if self._live is None or state is None or (not force and now - self._drawn < 0.2):
            return
        self._drawn = now
        with self._lock:
            self._live.update(Group(*self._parts(state)))

    def _parts(self, state: State) -> list[RenderableType]:
        parts: list[RenderableType] = [self._trials(state), self._progress(state), Text(self._summary(state))]
        return [*parts, Text(self._standing)] if self._standing else parts

    def _trials(self, state: State) -> Table:
        table = Table(expand=False, header_style="bold")
        steps = steps_of(state).removesuffix("s")
        columns = (
            "trial",
            "status",
            *([steps] if steps else []),
            *self._metrics(state),
            "params",
            "flops",
            "seconds",
        )
        for column in columns:
            table.add_column(column, justify="left" if column == "status" else "right")
        closed = (t for t in reversed(state.trials.values()) if t.result and t.status != "rejected")
        latest = islice(closed, max(2, _SHOWN - len(state.open_trials)))
        recent = sorted([*latest, *state.open_trials], key=lambda t: t.number)
        best = state.best
        for trial in recent[-_SHOWN:]:
            style = {"running": "cyan", "failed": "red", "pruned": "dim"}.get(trial.status, "")
            if best is not None and trial.number == best.number:
                style = "bold green"
            metrics = trial.metrics
            cells = [metric_text(metrics.get(key), key) for key in self._metrics(state)]
            table.add_row(
                *(str(trial.number), trial.status, *([str(trial.steps_done)] if steps else []), *cells),
                *(
                    metric_text(metrics.get("cost/params"), "cost/params"),
                    metric_text(metrics.get("cost/flops"), "cost/flops"),
                ),
                f"{_seconds(trial):.1f}",
                style=style,
            )
        return table

    def _progress(self, state: State) -> Progress:
        charged = state.charged
        amounts = {
            BUDGETS["trials"]: (float(state.accepted - len(state.open_trials)), state.budget.trials, whole_text),
            BUDGETS["worker_seconds"]: (charged.worker_seconds, state.budget.worker_seconds, seconds_text),
            BUDGETS["multiply_adds"]: (charged.multiply_adds, state.budget.multiply_adds, count_text),
        }
        for name, (done, limit, text) in amounts.items():
            if math.isinf(limit):
                continue
            left = f"{text(max(0.0, done))} of {text(limit)}"
            if name not in self._tasks:
                self._tasks[name] = self._budget.add_task(name, total=limit, left=left)
            self._budget.update(self._tasks[name], completed=min(done, limit), total=limit, left=left)  # type: ignore[arg-type]
        return self._budget

    def _summary(self, state: State) -> str:
        counts = state.counts()
        best = state.best
        counts_text = ", ".join(f"{counts[status]} {status}" for status in counts if counts[status]) or "no trials yet"
        if best is None:
            return counts_text
        goal = state.objectives[0]
        value = metric_text(best.metrics.get(goal.metric), goal.metric)
        return f"{counts_text}. Best {goal.metric} ({better(goal.maximise)}): {value} (trial {best.number})"

    def _line(self, state: State, trial: Trial) -> str:
        metrics = trial.metrics
        shared = isinstance(trial.proposal, TrainShared)
        keys = [key for key in _OF_A_SUPERNET if key in metrics] if shared else self._metrics(state)
        values = "  ".join(f"{key} {metric_text(metrics.get(key), key)}" for key in keys)
        if isinstance(trial.proposal, Score):
            values = f"scored {len(trial.proposal.architectures)} networks"
        costs = "  ".join(
            f"{name} {metric_text(metrics['cost/' + name], 'cost/' + name)}"
            for name in ("params", "flops")
            if "cost/" + name in metrics
        )
        limit = state.budget.trials
        closed = state.accepted - len(state.open_trials)
        of = f"{closed}/{limit:g}" if math.isfinite(limit) else f"{closed}"
        line = f"[{of}] trial {trial.number:<4} {trial.status:<8} {values}  {costs}  {_seconds(trial):.1f} s"
        error = trial.result.error if trial.result else None
        return f"{line}  {error.cause}: {error.message}" if error else line

    @staticmethod
    def _metrics(state: State) -> list[str]:
        shown = [objective.metric for objective in state.objectives]
        return [key for key in shown if key not in ("cost/params", "cost/flops")] or shown[:1]


def _seconds(trial: Trial) -> float:
    if trial.result is not None:
        return trial.result.charged.worker_seconds
    return trial.steps[-1].charged.worker_seconds if trial.steps else 0.0


class RetrainProgress:
    """The progress of a retraining: bars on a terminal, some lines per network elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=40),
            TextColumn("{task.fields[progress]}"),
            console=console,
        )
        self._tasks: dict[str, object] = {}

    @contextmanager
    def shown(self) -> Iterator[RetrainProgress]:
        """Draws while the block runs."""
        if not self._console.is_terminal:
            yield self
            return
        with self._bars:
            yield self

    def __call__(self, name: str, epoch: int, epochs: int, metrics: object) -> None:
        """One more epoch of the network `name`; `metrics`: key -> number."""
        loss = metrics.get("train/loss") if isinstance(metrics, dict) else None
        text = f"epoch {epoch}/{epochs}" + (f"  train/loss {fixed(loss, 4)}" if loss is not None else "")
        if not self._console.is_terminal:
            if epoch in (1, epochs) or epoch % max(1, epochs // 5) == 0:
                self._console.print(Text(f"retraining {name}: {text}"), soft_wrap=True)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=epochs, progress=text)
        self._bars.update(self._tasks[name], completed=epoch, progress=text)  # type: ignore[arg-type]
