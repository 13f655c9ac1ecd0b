"""The command line. Thin: options in, the public API, then tables for people or JSON (`--json`)."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from importlib.metadata import version
from inspect import cleandoc
from typing import Annotated, Any

import typer
from rich.text import Text
from typer.exceptions import TyperException

from nasforge.cli.process import check_working_folder, safe_streams  # first, for it leaves a deleted working folder

# isort: split
from nasforge import __version__
from nasforge.api.stopping import CONTINUES, stops_ignored, terminable
from nasforge.cli import output
from nasforge.cli.calibrate import calibrate
from nasforge.cli.compare import compare
from nasforge.cli.dashboard import dashboard
from nasforge.cli.describe import describe
from nasforge.cli.explain import explain
from nasforge.cli.export import export
from nasforge.cli.fit import fit
from nasforge.cli.inspect import inspect
from nasforge.cli.list import list_all
from nasforge.cli.mlflow import mlflow
from nasforge.cli.output import Outcome
from nasforge.cli.predict import predict
from nasforge.cli.report import report
from nasforge.cli.retrain import retrain
from nasforge.cli.search import search
from nasforge.cli.show import show
from nasforge.cli.spaces import spaces
from nasforge.cli.strategies import strategies
from nasforge.cli.track import track
from nasforge.cli.tune import tune
from nasforge.cli.watch import watch
from nasforge.core.checks import cut
from nasforge.core.command_line import command_line
from nasforge.core.errors import ConfigError, NasforgeError

app = typer.Typer(
    name="nasforge",
    help="Search for image networks; train, test and export the best. Every command has examples in its --help.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # the commands inherit them
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

COMMANDS: dict[str, Callable[..., Outcome]] = {
    "fit": fit,
    "search": search,
    "calibrate": calibrate,
    "compare": compare,
    "tune": tune,
    "inspect": inspect,
    "predict": predict,
    "explain": explain,
    "list": list_all,
    "report": report,
    "show": show,
    "watch": watch,
    "describe": describe,
    "spaces": spaces,
    "strategies": strategies,
    "retrain": retrain,
    "export": export,
    "track": track,
    "mlflow": mlflow,
    "dashboard": dashboard,
}
"""Name -> the function of its file, in the order of the help."""


def _print_versions(show_version: bool) -> None:
    if show_version:
        python = ".".join(map(str, sys.version_info[:3]))
        output.line(f"nasforge {__version__}, Python {python}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the versions of NASForge, Python and torch.",
            callback=_print_versions,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _help_of(command: Callable[..., Outcome]) -> str:
    """Return the help of a command: its docstring, whose paragraphs the terminal wraps; examples keep their lines."""
    paragraphs = cleandoc(command.__doc__ or "").split("\n\n")
    lines = (text.removeprefix("\b\n") if text.startswith("\b") else text.replace("\n", " ") for text in paragraphs)
    return "\n\n".join(lines)


for _name, _command in COMMANDS.items():
    app.command(_name, help=_help_of(_command))(_command)

_CONTINUED = ("fit", "search", "tune", "calibrate", "compare", "retrain", "track")
"""Commands that resume where they were stopped."""
_KEPT: list[ExitStack] = []
"""Handlers of signals that stay; without a reference Python would restore the former ones."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 1 (nothing to show), 2 (a user's mistake), 130 (stopped)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    wants_json = "--json" in words
    with safe_streams() as stream, ExitStack() as signals:
        signals.enter_context(terminable())
        with output.only_json(wants_json) as stdout:
            outcome = _run(words)
            if outcome.code == output.STOPPED:
                signals.enter_context(stops_ignored())  # it is stopping, and says so once
                if arguments is None:
                    _KEPT.append(signals.pop_all())  # to the end of the process
            if outcome.code == output.STOPPED and not outcome.content:
                outcome = _interrupted(words)
            unwritten = None
            if wants_json and outcome.content:
                content = outcome.content
                if isinstance(content, Mapping) and outcome.more:
                    content = {**content, **outcome.more()}
                unwritten = output.write_json(content, stdout)
        stream.flush()
        return _unwritable(unwritten or stream.error, outcome.code)


def _unwritable(error: OSError | None, code: int) -> int:
    """Exit code after an attempt to write the answer to stdout. A reader that has gone, as `head`, needs no message."""
    if error is not None and not isinstance(error, BrokenPipeError):
        _failed(f"the answer cannot be written to stdout: {error.strerror}. Make room, then run the same command")
    return code or int(error is not None)


def _run(arguments: list[str]) -> Outcome:
    try:
        check_working_folder()
        result = app(args=arguments, prog_name="nasforge", standalone_mode=False, obj=arguments)
        return result if isinstance(result, Outcome) else Outcome(code=int(result or 0))
    except TyperException as error:
        message = error.format_message().rstrip(".")
        command = _command_of(arguments)
        known = [command] if command in COMMANDS else []
        message = f"{message}{'' if message.endswith('?') else '.'} See: {command_line(*known, '--help')}"
        kind, key = _kind_and_key(error, command)
        return _failed(message, kind=kind, key=key)
    except ConfigError as error:
        problems = [{"error": str(p), "kind": p.kind, "key": p.key} for p in error.problems]
        return _failed(str(error), kind=error.kind, key=error.key, problems=problems)
    except NasforgeError as error:
        return _failed(str(error), kind=error.kind, key=error.key)
    except KeyboardInterrupt:
        return Outcome(code=output.STOPPED)
    except Exception as error:  # a plug-in's or ours: the traceback helps to fix it
        kept = f". {CONTINUES.capitalize()}" if _command_of(arguments) in _CONTINUED else ""
        if isinstance(error, OSError) and error.errno in _OF_FILES and error.filename:
            advice, kind = _OF_FILES[error.errno]
            return _failed(f"{os.fsdecode(error.filename)}: {error.strerror}. {advice}{kept}", kind=kind)
        traceback.print_exc()
        return _failed(f"unexpected {type(error).__name__}: {error}{kept}", 1, kind="failed")


_OF_FILES = {
    errno.EACCES: ("Allow this user to read and write there, or name another place", "unreadable"),
    errno.EPERM: ("Allow this user to read and write there, or name another place", "unreadable"),
    errno.EROFS: ("Name a folder that can be written", "failed"),
    errno.ENOSPC: ("Make room", "failed"),
    errno.EDQUOT: ("Make room", "failed"),
    errno.ENAMETOOLONG: ("Name it in fewer letters", "invalid"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR, errno.EISDIR), ("Move it away, or name another place", "conflict")),
}
"""Errors of the system about a file that the user can fix: what to do, and the kind."""


_OF_PYDANTIC = {
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "range"),
    **dict.fromkeys(("enum", "literal_error"), "unknown"),
}
"""Kinds of pydantic's errors, by which typer checks values; the others are of kind `type`."""


def _kind_and_key(error: TyperException, command: str) -> tuple[str, str | None]:
    """Return the kind and the key of a mistake that typer sees: `max_trials` of `--max-trials`, or `command`.

    Args:
        error: typer's error.
        command: the first word; empty where there is none.
    """
    if (parameter := getattr(error, "param", None)) is not None:
        if hasattr(error, "param_type"):  # only of a missing argument or option
            return "missing", parameter.name
        reasons: list[Any] = getattr(error.__cause__, "errors", list)()
        return _OF_PYDANTIC.get(reasons[0]["type"] if reasons else "", "type"), parameter.name
    if (option := getattr(error, "option_name", None)) is not None:
        key = option.lstrip("-").replace("-", "_")
        if hasattr(error, "possibilities"):  # only of an unknown option
            return "unknown", key
        return ("missing" if "requires" in str(error) else "type"), key
    if command not in COMMANDS:
        return "unknown" if command else "missing", "command"
    return "unknown", "arguments"


def _command_of(arguments: Sequence[str]) -> str:
    """Return the first word that is no option; empty where there is none."""
    return next((word for word in arguments if not word.startswith("-")), "")


def _interrupted(arguments: list[str]) -> Outcome:
    """Return the outcome after Ctrl-C where no command listens for it."""
    if _command_of(arguments) in _CONTINUED:
        return output.stopped(f"stopped; {CONTINUES}", arguments)
    return _failed("stopped", output.STOPPED)


def _failed(
    message: str,
    code: int = 2,
    *,
    kind: str = "invalid",
    key: str | None = None,
    problems: Sequence[Mapping[str, Any]] = (),
) -> Outcome:
    """Print an error, and return it for `--json`: with its kind, its key, and its problems where it has several."""
    message = cut(message)
    output.log().print(Text(message if code == output.STOPPED else f"error: {message}", style="red"), soft_wrap=True)
    if code == output.STOPPED:
        return Outcome({"error": message}, code)
    several = {"problems": list(problems)} if len(problems) > 1 else {}
    return Outcome({"error": message, "kind": kind, "key": key, **several}, code)


if __name__ == "__main__":
    sys.exit(main())
