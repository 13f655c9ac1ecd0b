"""YAML files as plain values with line numbers, so that every message can say where."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nasforge.core.errors import ConfigError, Problem
from nasforge.core.importing import look_beside


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as a number and keeps what else looks like a word: `on`, `no`, `8:16:24`, `010`."""


_SCALARS = {
    "bool": (r"true|True|false|False", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""Of YAML 1.2, without the 1.1 that PyYAML reads: `8:16:24` to base 60, `010` to base 8, `1_2` as 12."""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in _SCALARS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))


@dataclass(frozen=True)
class Document:
    """A parsed YAML file.

    Attributes:
        content: plain Python values.
        lines: path of keys and indices -> line, from 1.
        file: where it was read from.
    """

    content: Any
    lines: Mapping[tuple[Any, ...], int]
    file: str

    def problem(self, message: str, path: tuple[Any, ...]) -> Problem:
        """A problem at `path`, with the line of the nearest enclosing key that has one."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        return Problem(message, self.file, self.lines.get(known), ".".join(str(part) for part in path) or None)


def absolute_path(text: str, folder: Path | None = None) -> str:
    """A path as workers see it, whose working folder is another; a name (no slash, no suffix) stays a name.

    Args:
        text: from the user.
        folder: where to look first, for paths in a file; else the working folder.
    """
    path = Path(text).expanduser()
    if "/" not in text and not path.suffix:
        return text
    beside = folder / path if folder else path
    return str((beside if beside.exists() else path).absolute())


def read_yaml(path: Path) -> Document:
    """Parse a file.

    Raises:
        ConfigError: the file is missing, is not YAML, or repeats a key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([Problem("no such file", str(path))]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([Problem(f"cannot be read as text: {error}", str(path))]) from None
    lines: dict[tuple[Any, ...], int] = {}
    problems: list[Problem] = []
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ConfigError([Problem(f"not valid YAML: {error.__class__.__name__}: {error}", str(path))]) from None

    def plain(node: yaml.Node, path_: tuple[Any, ...]) -> Any:
        lines.setdefault(path_, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            content: dict[Any, Any] = {}
            for key_node, value_node in node.value:
                key = loader.construct_object(key_node, deep=True)
                line = key_node.start_mark.line + 1
                if not isinstance(key, (str, int, float, bool)):
                    problems.append(Problem(f"a key must be a word or a number, got {key!r}", str(path), line))
                    continue
                if key in content:
                    problems.append(Problem("given twice", str(path), line, ".".join(map(str, (*path_, key)))))
                lines[(*path_, key)] = line
                content[key] = plain(value_node, (*path_, key))
            return content
        if isinstance(node, yaml.SequenceNode):
            return [plain(item, (*path_, index)) for index, item in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    try:
        root = loader.get_single_node()
        content = plain(root, ()) if root is not None else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error)
        raise ConfigError([Problem(f"not valid YAML: {what}", str(path), mark.line + 1 if mark else None)]) from None
    except RecursionError:
        raise ConfigError([Problem("nested too deeply, or an alias that contains itself", str(path))]) from None
    finally:
        loader.dispose()
    if problems:
        raise ConfigError(problems)
    look_beside(content, path)
    return Document(content, lines, str(path))


def parse_value(text: str) -> Any:
    """A value from a command line as JSON (`20`, `1e-3`, `true`, `[1, 2]`); whatever is not JSON is a text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
