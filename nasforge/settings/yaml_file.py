"""YAML files as plain values with line numbers, so that every message can say where."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nasforge.core.errors import ConfigError, Problem
from nasforge.core.importing import look_beside

_TAG = "tag:yaml.org,2002:"
_BYTES, _NODES, _DEPTH = 10_000_000, 100_000, 100
"""Limits of a file: its size, its values with those that aliases repeat, and how deep they are nested."""


class _TooMuch(yaml.MarkedYAMLError):
    """The file exceeds a limit."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads `1e-4` as a number and keeps what else looks like a word: `on`, `no`, `8:16:24`, `010`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    @contextmanager
    def inside(self, mark: yaml.Mark | None) -> Iterator[None]:
        """Count one more value, nested in those that are being read. Raises _TooMuch."""
        self._nodes += 1
        self._depth += 1
        if self._nodes > _NODES:
            raise _TooMuch(problem=f"more than {_NODES:,} values (aliases count each time)", problem_mark=mark)
        if self._depth > _DEPTH:
            message = f"nested more than {_DEPTH} levels deep, or an alias that contains itself"
            raise _TooMuch(problem=message, problem_mark=mark)
        yield
        self._depth -= 1

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Count the nodes, so that a huge file is refused early; otherwise as in SafeLoader."""
        with self.inside(self.peek_event().start_mark):  # type: ignore[no-untyped-call]
            return super().compose_node(parent, index)

    def restart(self) -> None:
        """Count from zero again: the values of the file are counted first, then those that aliases repeat too."""
        self._nodes = 0


_SCALARS = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(?:0|[1-9][0-9]*|[1-9][0-9]{0,2}(?:_[0-9]{3})+|0x[0-9a-fA-F]+)", "-+0123456789"),
    "float": (
        r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))"
        r"|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
}
"""Numbers of YAML 1.2, without the 1.1 that PyYAML reads: `8:16:24` to base 60, `010` to base 8, `1_2` as 12."""
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _first) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"{_TAG}{_kind}", re.compile(f"^(?:{_pattern})$"), list(_first))


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

    def problem(self, message: str, path: tuple[Any, ...], kind: str) -> Problem:
        """Return a problem at `path`, of a kind of `KINDS`, with the line of the nearest enclosing key."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        key = ".".join(str(part) for part in path) or None
        return Problem(message, self.file, self.lines.get(known), key, kind)


def read_yaml(path: Path) -> Document:
    """Parse a file.

    Raises:
        ConfigError: the file is missing, is not YAML, repeats a key, or exceeds a limit.
    """
    document = _parsed(_text(path), str(path))
    look_beside(document.content, path)
    return document


def parse_value(text: str) -> Any:
    """Parse a value from a command line.

    JSON (`20`, `true`, `[1, 2]`) or what YAML reads as a number, a truth value or, in brackets, a list or a mapping
    (`.1`, `True`, `[relu, gelu]`); everything else is a text.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    scalar = any(re.fullmatch(pattern, text) for pattern, _ in _SCALARS.values())
    if not scalar and (text[:1], text[-1:]) not in {("[", "]"), ("{", "}")}:
        return text
    try:
        return _parsed(text, "").content
    except ConfigError:
        return text


def _text(path: Path) -> str:
    """Read a file's text: UTF-8, or UTF-16 with a byte order mark."""
    try:
        with path.open("rb") as file:
            content = file.read(_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError([Problem("no such file", str(path), kind="missing")]) from None
    except OSError as error:
        raise ConfigError(
            [Problem(f"cannot be read: {error.strerror or error}", str(path), kind="unreadable")]
        ) from None
    if len(content) > _BYTES:
        message = f"larger than {_BYTES // 10**6} MB, too large for a search space or an experiment"
        raise ConfigError([Problem(message, str(path), kind="unreadable")])
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        message = f"cannot be read as text: byte 0x{content[error.start]:02x} is not UTF-8. Save the file as UTF-8"
        raise ConfigError([Problem(message, str(path), None if wide else line, kind="unreadable")]) from None


def _parsed(text: str, file: str) -> Document:
    """Parse a document's text; messages name `file`."""
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        message = f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed"
        raise ConfigError([Problem(message, file, line, kind="unreadable")]) from None
    reader = _Reader(loader, file)
    try:
        root = loader.get_single_node()
        loader.restart()
        content = None if root is None else reader.value(root, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        message = error.problem or str(error)
        if not isinstance(error, _TooMuch):
            context = f"{error.context}, " if message.startswith("but ") else ""
            message = f"not valid YAML: {context}{message}"
        raise ConfigError([Problem(message, file, mark.line + 1 if mark else None, kind="unreadable")]) from None
    except (ValueError, OverflowError):  # a character beyond the last one, a version of thousands of digits
        message = "not valid YAML: a number in it is too large"
        raise ConfigError([Problem(message, file, loader.get_mark().line + 1, kind="unreadable")]) from None
    finally:
        loader.dispose()
    if reader.problems:
        raise ConfigError(list(dict.fromkeys(reader.problems)))
    return Document(content, reader.lines, file)


class _Reader:
    """Conversion of nodes to plain values, with their lines and problems.

    Attributes:
        lines: as in `Document`.
        problems: what is wrong, in the order of the file.
    """

    def __init__(self, loader: _Loader, file: str) -> None:
        self._loader = loader
        self._file = file
        self.lines: dict[tuple[Any, ...], int] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: tuple[Any, ...]) -> Any:
        """Return the plain value of a node; `path`: keys and indices from the root."""
        self.lines.setdefault(path, node.start_mark.line + 1)
        with self._loader.inside(node.start_mark):
            if isinstance(node, yaml.MappingNode):
                self._check_tag(node, "map", path)
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                self._check_tag(node, "seq", path)
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._scalar(node, path)

    def _report(self, message: str, node: yaml.Node, path: tuple[Any, ...], kind: str) -> None:
        key = ".".join(map(str, path)) or None
        self.problems.append(Problem(message, self._file or None, node.start_mark.line + 1, key, kind))

    def _check_tag(self, node: yaml.Node, kind: str, path: tuple[Any, ...]) -> None:
        if node.tag != _TAG + kind:
            self._report(f"unknown tag {node.tag.replace(_TAG, '!!')}; leave it out", node, path, "unsupported")

    def _scalar(self, node: yaml.Node, path: tuple[Any, ...]) -> Any:
        try:
            return self._loader.construct_object(node, deep=True)
        except yaml.YAMLError:
            self._report(f"unknown tag {node.tag.replace(_TAG, '!!')}; leave it out", node, path, "unsupported")
        except (ValueError, AttributeError, KeyError):  # `!!int x`, a number of thousands of digits
            self._report(
                f"got {str(node.value)[:40]!r}, which cannot be read as {node.tag.replace(_TAG, '')}",
                node,
                path,
                "type",
            )
        return None

    def _mapping(self, node: yaml.MappingNode, path: tuple[Any, ...]) -> dict[Any, Any]:
        """Return a mapping with its merged keys (`<<: *defaults`), which its own keys override."""
        content: dict[Any, Any] = {}
        keys: set[Any] = set()
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                if key_node.tag in keys:
                    self._report("given twice; write <<: [*one, *other]", key_node, (*path, "<<"), "duplicate")
                keys.add(key_node.tag)
                content = self._merged(value_node, path)
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self._scalar(key_node, path) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, (str, int, float, bool)):
                shown = repr(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                self._report(f"a key must be a word or a number, got {shown}", key_node, (), "type")
                continue
            if key in keys:
                self._report("given twice", key_node, (*path, key), "duplicate")
            keys.add(key)
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            content[key] = self.value(value_node, (*path, key))
        return content

    def _merged(self, node: yaml.Node, path: tuple[Any, ...]) -> dict[Any, Any]:
        """Return the keys of one or several mappings; the first one that has a key wins."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        content: dict[Any, Any] = {}
        for source in reversed(sources):
            if isinstance(source, yaml.MappingNode):
                with self._loader.inside(source.start_mark):
                    content |= self._mapping(source, path)
            else:
                self._report("needs a mapping or a list of mappings", source, (*path, "<<"), "type")
        return content
