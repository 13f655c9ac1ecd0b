"""Output of commands: tables and sentences for people, or JSON, and nothing else on stdout."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from nasforge.core.command_line import command_for, command_line, quoted
from nasforge.core.errors import readable
from nasforge.core.ladder import Unit
from nasforge.core.metrics import form_of
from nasforge.core.space import Choice, Domain, Float
from nasforge.core.trial import ENSEMBLE, Trial
from nasforge.experiment.state import State
from nasforge.views import tables
from nasforge.views.plain import plain
from nasforge.views.rounding import fixed

_PIPE_WIDTH = 160


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
        content: what `--json` prints: an object, or a list.
        code: exit code.
        more: makes further content, where that takes long and only `--json` shows it.
    """

    content: Mapping[str, Any] | list[Any] = field(default_factory=dict)
    code: int = 0
    more: Callable[[], Mapping[str, Any]] | None = None


STOPPED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""


def stopped(reason: BaseException | str, words: Sequence[str]) -> Outcome:
    """Return the end of a command that was stopped: says by which words it is continued."""
    command = command_line(*words)
    text = f"{reason}: {command}"
    if command != quoted(["nasforge", *words]):
        text += "\n(the password is left out: write it into the command again, or into the environment)"
    say(text)
    return Outcome({"error": text}, STOPPED)


def all_unreadable(reasons: Mapping[str, str]) -> Outcome:
    """Return the outcome of a command that could read none of its images, in the form of any other error.

    Args:
        reasons: file -> why it cannot be read; at least one.
    """
    common = {"kind": "unreadable", "key": "images"}
    problems = [{"error": f"{file}: {reason}", **common} for file, reason in reasons.items()]
    if len(problems) == 1:
        return Outcome(problems[0], 1)
    error = f"none of the {len(problems)} images can be read. The first: {problems[0]['error']}"
    return Outcome({"error": error, **common, "problems": problems}, 1)


class _Plain(Console):
    """A console that interprets nothing in a text: no markup, and no codes for the terminal.

    Messages and names may come from a journal of somebody else's.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Return what is printed, codes left out but for the console's."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(readable(segment.text), segment.style)


def out() -> Console:
    """Return the console of answers; it is silent under `only_json`, which makes the two streams one."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return _Plain(quiet=sys.stdout is sys.stderr, width=width)


def log() -> Console:
    """Return the console of progress and errors."""
    return _Plain(stderr=True)


def say(text: str) -> None:
    """Print a sentence for the user while something runs."""
    log().print(Text(text, style="yellow"), soft_wrap=True)


def line(text: str = "", style: str = "") -> None:
    """Print a line of a command's answer, neither wrapped nor interpreted."""
    out().print(Text(text, style=style), soft_wrap=True)


def commands_after(folder: Path, state: State) -> list[str]:
    """Return the commands that work with the best network of an experiment."""
    commands = []
    if state.header.config.get("data") is not None:  # what was looked up in a table has no images to be trained on
        commands.append(command_for(folder, "retrain"))
    if state.best and state.best.result and {"weights", ENSEMBLE} & {*state.best.result.artifacts}:
        commands.append(command_for(folder, "export", "--to", "onnx,torch_export,safetensors"))
    return commands


def next_commands(commands: Sequence[str]) -> None:
    """Print the commands that a user may type next, one a line."""
    line("Next:", style="bold")
    for command in commands:
        line(f"  {command}")


@contextmanager
def only_json(enabled: bool) -> Iterator[int]:
    """Send everything that anybody prints to stderr, C libraries and child processes too; yields the real stdout.

    Args:
        enabled: False changes nothing.
    """
    sys.stdout.flush()
    if not enabled:
        yield 1
        return
    real, python_stdout = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        yield real
    finally:
        sys.stdout = python_stdout
        os.dup2(real, 1)
        os.close(real)


def write_json(content: Mapping[str, Any] | list[Any], descriptor: int) -> OSError | None:
    """Write an object or a list as JSON and a newline, NaN and infinities as null. Returns what went wrong."""
    text = json.dumps(plain(content), allow_nan=False, ensure_ascii=False, indent=1) + "\n"
    data = text.encode(errors="backslashreplace")  # of a file's name that is not UTF-8, and JSON escapes it likewise
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        return error
    return None


def table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    left: Sequence[str] = (),
    narrow: bool = False,
) -> None:
    """Print a table, numbers right, texts and the columns in `left` left. In a pipe it is as wide as it needs to be.

    With `narrow` there are no lines between the columns, so that more fits into 80 characters.
    """
    console = out()
    form: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True} if narrow else {}
    shown = Table(title=title, title_justify="left", title_style="bold", header_style="bold", expand=False, **form)
    for index, column in enumerate(columns):
        numeric = column not in left and all(
            isinstance(row[index], (int, float)) or _looks_numeric(row[index]) for row in rows
        )
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    console.print(shown)


def _looks_numeric(cell: Any) -> bool:
    text = str(cell).strip().removeprefix("<").rstrip("%skMG")
    try:
        float(text or "0")
    except ValueError:
        return text in ("-", "")
    return True


def whole_text(value: float) -> str:
    """Return a count of trials, of which every one matters: `1045` -> `1,045`."""
    return fixed(value, form=",") if math.isfinite(value) else "-"


def count_text(value: float) -> str:
    """`40000000` -> `40.0M`."""
    if not math.isfinite(value):
        return "-"
    if abs(value) < 1e3:
        return f"{value:g}"
    for bound, unit in ((1e3, "k"), (1e6, "M"), (1e9, "G")):
        text = fixed(value / bound, 1)
        if abs(float(text)) < 1e3:
            return f"{text}{unit}"
    return f"{fixed(value / 1e12, 1)}T"


def size_json(key: str, size: float) -> dict[str, float | None]:
    """Return the size of a space for `--json`: `key`, null beyond 10^308, and its logarithm, null if infinite."""
    return {key: size, f"{key}_log10": math.log10(size) if size < math.inf else None}


def metric_text(value: float | None, key: str) -> str:
    """Return a metric as people read it."""
    if value is None or not math.isfinite(value):
        return "-"
    form = form_of(key)
    if form == "count":
        return count_text(value)
    if form == "seconds":
        return fixed(value, 1)
    if 0 < abs(value) < 1e-3:  # the errors of some tables
        return f"{value:.3e}"
    return fixed(value, 4 if abs(value) < 100 else 1)


def domain_text(domain: Domain) -> str:
    """Return the values of a decision as text."""
    if isinstance(domain, Choice):
        return ", ".join(str(option) for option in domain.options)
    low, high = domain.ends
    step = domain.step if isinstance(domain, Float) or domain.step > 1 else None
    text = f"{_number_text(low)} .. {_number_text(high)}"
    text += f" in steps of {_number_text(step)}" if step else ""
    text += f" ({_number_text(domain.high)} is not reached)" if step and not math.isclose(high, domain.high) else ""
    return text + (" (logarithmic)" if domain.log else "")


def _number_text(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def trial_json(trial: Trial, unit: Unit = "epochs") -> dict[str, Any]:
    """Return a trial as `show --json` gives it."""
    architecture, result = trial.architecture, trial.result
    return {
        **tables.row(trial, unit),
        "point_id": architecture.point_id if architecture else "",
        "architecture": architecture.to_json() if architecture else None,
        "attempts": trial.attempts,
        "charged": result.charged.to_json() if result else None,
        "error": result.error.to_json() if result and result.error else None,
        "violations": dict(result.violations) if result else {},
    }


def state_json(state: State) -> dict[str, Any]:
    """Return an experiment as `search --json` gives it."""
    best = state.best
    return {
        "experiment": state.name,
        "trials": state.counts(),
        "best": trial_json(best, tables.unit_of(state)) if best else None,
        "front": [trial.number for trial in state.front()] if len(state.objectives) > 1 else None,
        "objectives": [str(objective) for objective in state.objectives],
        "constraints": [str(constraint) for constraint in state.constraints],
        "targets": [str(target) for target in state.targets],
        "targets_met": not state.missed(best) if best and state.targets else None,
        "charged": state.charged.to_json(),
        "until": {str(goal): value for goal, value in state.budget.goals.items()},
        "reached_by": state.reached_by,
        "tests": state.tests,
    }
