"""Commands as text: a command that a message tells the user to type runs when it is pasted into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from nasforge.core.uri import without_secrets

_RUNS_DIR = "runs"


def command_line(*words: str | Path) -> str:
    """Return the command `nasforge WORDS`, quoted for a shell, without the secrets of URIs.

    Example:
        >>> command_line("describe", "my space.yaml")
        "nasforge describe 'my space.yaml'"
    """
    return quoted(["nasforge", *(_without_secrets(str(word)) for word in words)])


def quoted(words: Iterable[str]) -> str:
    """Quote words for a shell. A word that a terminal cannot print or paste becomes bash's $'...'."""
    return " ".join(shlex.quote(word) if word.isprintable() else _with_escapes(word) for word in words)


def _with_escapes(word: str) -> str:
    escaped = (
        f"\\{letter}" if letter in "\\'" else letter if letter.isprintable() else _bytes_of(letter) for letter in word
    )
    return f"$'{''.join(escaped)}'"


def _bytes_of(letter: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def command_for(folder: Path, command: str, *options: str) -> str:
    """Return a command about the experiment in `folder`, quoted; with --runs-dir unless that is the default.

    Example:
        >>> command_for(Path("/data/my runs/first"), "show")
        "nasforge show first --runs-dir '/data/my runs'"
    """
    return command_line(command, folder.name, *options, *runs_dir_option(folder.parent))


def runs_dir_option(runs_dir: Path) -> list[str]:
    """Return the option that selects a runs folder; no words for the default, `runs` in the working folder."""
    place = runs_dir.absolute()
    return [] if place == Path(_RUNS_DIR).absolute() else ["--runs-dir", str(place)]


def _without_secrets(word: str) -> str:
    option, equals, value = word.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={without_secrets(value)}"
    return without_secrets(word)
