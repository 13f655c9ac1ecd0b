"""A search space's YAML file -> SearchSpace. Every problem is collected and shown at once, with file, line and key."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from nasforge.core.architecture import MODEL, TRAIN, Value
from nasforge.core.errors import ConfigError, Problem, SpaceError, did_you_mean
from nasforge.core.paths import absolute_path, home_expanded
from nasforge.core.ranges import check_flag
from nasforge.core.space import Choice, Decision, Domain, Float, Int, SearchSpace
from nasforge.settings.yaml_file import Document, read_yaml

_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_EXPANDED, _DECISIONS = 10_000, 20_000
"""Decisions that a range key may stand for, and that a space may have."""
_FUNCTIONS = ("canonical", "text", "derive")
LONGEST_NAME = 100
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
"""Name of a space or an experiment, safe as a folder's."""


def shipped_spaces() -> dict[str, Path]:
    """Name -> file of the spaces that come with NASForge."""
    folder = Path(str(files("nasforge.search_spaces")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with NASForge: spaces of `train.*` decisions alone."""
    folder = Path(str(files("nasforge.search_spaces"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def shipped_portfolios() -> dict[str, Path]:
    """Return the files of the portfolios that come with NASForge, by the name of their space."""
    folder = Path(str(files("nasforge.search_spaces"))) / "portfolios"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_portfolio(path: Path, images: int, *, limited: bool = False) -> list[dict[str, Value]]:
    """Return the points of a portfolio for this many training images, decision -> value, the most promising one first.

    Its file has `networks` and `recipes`, name -> decisions without prefix, and `portfolios`: lists of pairs of both,
    each for data `below` a number of images; the last one is for all other data. Pairs under `limited` follow where the
    search has constraints: they are small networks, of which random points have few.

    Raises:
        ConfigError: the file is malformed, or a pair names something unknown.
    """
    document = read_yaml(path)
    reader = _SpaceReader(document)
    try:
        parts = {
            MODEL: document.content["networks"],
            TRAIN: document.content["recipes"],
        }
        sizes = document.content["portfolios"]
        chosen = next(size for size in sizes if images < size.get("below", math.inf))
        return [
            {
                f"{prefix}{key}": value
                for (prefix, known), name in zip(parts.items(), pair, strict=True)
                for range_key, value in known[name].items()
                for key in reader.expand(range_key, ("portfolios",))
            }
            for pair in [*chosen["points"], *(document.content.get("limited", ()) if limited else ())]
        ]
    except (AttributeError, KeyError, StopIteration, TypeError, ValueError) as error:
        raise ConfigError(f"{path}: no portfolio: {type(error).__name__}: {error}", kind="unreadable") from None


def load_space(source: str | Path) -> SearchSpace:
    """Read the space of a YAML file, or a shipped one by name.

    Raises:
        ConfigError: with every problem of the file.
    """
    return _SpaceReader(_document(source, "search space", shipped_spaces())).read()


def load_recipe(source: str | Path) -> SearchSpace:
    """Read the recipe of a YAML file, or a shipped one by name: written as a space is, without a network.

    Raises:
        ConfigError: with every problem of the file, a decision or default of the network among them.
    """
    document = _document(source, "recipe", shipped_recipes())
    recipe = _SpaceReader(document).read()
    parts = [part for part in ("builder", "arguments", *_FUNCTIONS) if document.content.get(part)]
    problems = [document.problem("a recipe has no network; leave it out", (part,), "conflict") for part in parts]
    for part in ("decisions", "defaults"):
        if "model" in (document.content.get(part) or {}):
            problems.append(document.problem("a recipe has no network; leave it out", (part, "model"), "conflict"))
    if problems:
        raise ConfigError(problems)
    return recipe


def _document(source: str | Path, what: str, shipped: Mapping[str, Path]) -> Document:
    path = home_expanded(source)
    if len(str(source)) > 4096 or any(len(part) > 255 for part in path.parts):
        raise ConfigError(f"no {what} '{str(source)[:60]}...': the name is too long for a file", kind="invalid")
    is_there = path.exists() and not path.is_dir()  # a folder may well be called as a shipped one is
    if not is_there and path.suffix not in (".yaml", ".yml"):
        if str(source) not in shipped:
            raise ConfigError(
                f"no {what} '{source}': no such file; {did_you_mean(str(source), shipped)}", kind="unknown"
            )
        path = shipped[str(source)]
    return read_yaml(path)


class _SpaceReader:
    """One pass over a document that gathers decisions and problems."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []
        self.keys: set[str] = set()

    def report(self, message: str, path: tuple[Any, ...], kind: str) -> None:
        self.problems.append(self.document.problem(message, path, kind))

    def read(self) -> SearchSpace:
        content = self.document.content
        if not isinstance(content, dict):
            self.report("a search space is a mapping with name, builder and decisions", (), "type")
            raise ConfigError(self.problems)
        if "space" in content:
            self.report(
                "an experiment, not a search space; run it by: nasforge search --config FILE", ("space",), "type"
            )
            raise ConfigError(self.problems)
        allowed = ("name", "builder", "arguments", "decisions", "defaults", *_FUNCTIONS)
        for key in content:
            if key not in allowed:
                self.report(f"unknown; {did_you_mean(str(key), allowed)}", (key,), "unknown")
        if not isinstance(content.get("name"), str) or not content.get("name"):
            self.report(
                f"needs a text, got {content.get('name')!r}", ("name",), "type" if "name" in content else "missing"
            )
        builder = content.get("builder", "")  # a space that is only looked up in a table needs none
        if not isinstance(builder, str) or ("builder" in content and not builder):
            self.report(f"needs a text, got {builder!r}", ("builder",), "type")
        if isinstance(content.get("name"), str) and not NAME.fullmatch(content["name"]):
            self.report("may hold letters, digits, '.', '_' and '-' only", ("name",), "invalid")
        functions = {key: content.get(key, "") for key in _FUNCTIONS}
        for key, reference in functions.items():
            if not isinstance(reference, str) or (reference and ":" not in reference):
                self.report(f"must look like module:function, got {reference!r}", (key,), "type")
        arguments = self.with_whole_path(self.mapping(content.get("arguments"), ("arguments",)))
        decisions = self.sections(content.get("decisions"))
        defaults = self.defaults(content.get("defaults"), decisions)
        if not self.problems:
            try:
                return SearchSpace(content["name"], decisions, builder, arguments, defaults, **functions)
            except SpaceError as error:
                self.report(str(error), ("decisions",), error.kind)
        raise ConfigError(self.problems)

    def with_whole_path(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a builder's arguments with an absolute path of `weights`; it may be relative to the space's file."""
        weights = arguments.get("weights")
        if not isinstance(weights, str) or not weights:
            return arguments
        return {**arguments, "weights": absolute_path(weights, Path(self.document.file).parent)}

    def mapping(self, content: Any, path: tuple[Any, ...]) -> dict[str, Any]:
        if content is None:
            return {}
        if not isinstance(content, dict):
            self.report(f"must be a mapping, got {content!r}", path, "type")
            return {}
        return content

    def sections(self, content: Any) -> tuple[Decision, ...]:
        if not isinstance(content, dict) or not content:
            self.report(
                "needs a mapping with the sections 'model' and/or 'train'",
                ("decisions",),
                "type" if content else "missing",
            )
            return ()
        decisions: list[Decision] = []
        for section, entries in content.items():
            path = ("decisions", section)
            if section not in ("model", "train"):
                self.report("unknown section; allowed: model (the network), train (the recipe)", path, "unknown")
                continue
            decisions += self.decisions(self.mapping(entries, path), path, f"{section}.")
        return tuple(decisions)

    def decisions(self, entries: Mapping[Any, Any], path: tuple[Any, ...], prefix: str) -> list[Decision]:
        decisions = []
        for name, content in entries.items():
            for expanded in self.expand(str(name), (*path, name)):
                key = prefix + expanded
                if key in self.keys:
                    self.report(f"decision '{key}' is declared twice", (*path, name), "duplicate")
                    continue
                self.keys.add(key)
                if len(self.keys) > _DECISIONS:
                    self.report(f"the space has more than {_DECISIONS:,} decisions; open fewer", (*path, name), "range")
                    raise ConfigError(self.problems)
                domain = self.domain(content, (*path, name), key)
                if domain is not None:
                    decisions.append(Decision(key, domain))
        return decisions

    def expand(self, name: str, path: tuple[Any, ...]) -> Iterator[str]:
        """Expand `stage{0..1}.layer{1..2}` to stage0.layer1, stage0.layer2, stage1.layer1, stage1.layer2."""
        if re.search(r"[{}]", _RANGE.sub("", name)):
            self.report("a range key looks like stage{0..2}.width", path, "invalid")
            return
        ranges = [range(int(low), int(high) + 1) for low, high in _RANGE.findall(name)]
        if any(not numbers for numbers in ranges):
            self.report("a range needs its lower end first", path, "range")
            return
        if math.prod(len(numbers) for numbers in ranges) > _EXPANDED:
            self.report(f"a range key may not stand for more than {_EXPANDED:,} decisions", path, "range")
            return
        pieces = _RANGE.sub("\0", name).split("\0")
        for numbers in itertools.product(*ranges):
            yield pieces[0] + "".join(f"{n}{piece}" for n, piece in zip(numbers, pieces[1:], strict=True))

    def domain(self, content: Any, path: tuple[Any, ...], key: str) -> Domain | None:
        try:
            if isinstance(content, list):
                return Choice(tuple(content))
            if isinstance(content, (str, int, float, bool)):
                return Choice((content,))
            if isinstance(content, dict):
                kinds = [kind for kind in ("choice", "int", "float") if kind in content]
                if len(kinds) == 1:
                    return self.of_kind(kinds[0], content, path, key)
        except SpaceError as error:
            self.report(str(error), path, error.kind)
            return None
        self.report(
            f"got {repr(content)[:200]}; a decision is a list of options, {{choice: {{option: {{nested}}}}}}, "
            "{int: [low, high]} or {float: [low, high], log: true}",
            path,
            "type",
        )
        return None

    def of_kind(self, kind: str, content: Mapping[str, Any], path: tuple[Any, ...], key: str) -> Domain | None:
        allowed = ("choice",) if kind == "choice" else (kind, "step", "log")
        for name in content:
            if name not in allowed:
                self.report(f"unknown; {did_you_mean(str(name), allowed)}", (*path, name), "unknown")
        body = content[kind]
        if kind == "choice":
            if isinstance(body, list):
                return Choice(tuple(body))
            if not isinstance(body, dict):
                raise SpaceError(f"choice must be a list or a mapping of options, got {body!r}", kind="type")
            branches = []
            for option, nested in body.items():
                below = (*path, "choice", option)
                branches.append(tuple(self.decisions(self.mapping(nested, below), below, f"{key}.{option}.")))
            return Choice(tuple(body), tuple(branches))
        if not isinstance(body, list) or len(body) != 2:
            raise SpaceError(f"{kind} must be [low, high], got {body!r}", kind="type")
        log = check_flag(content.get("log", False), "log", SpaceError)
        if kind == "int":
            return Int(body[0], body[1], content.get("step", 1), log)
        return Float(body[0], body[1], content.get("step"), log)

    def defaults(self, content: Any, decisions: tuple[Decision, ...]) -> dict[str, Value]:
        defaults: dict[str, Value] = {}
        domains = SearchSpace("x", decisions).domains if not self.problems else {}
        for section, entries in self.mapping(content, ("defaults",)).items():
            path = ("defaults", section)
            if section not in ("model", "train"):
                self.report("unknown section; allowed: model, train", path, "unknown")
                continue
            for name, value in self.mapping(entries, path).items():
                key = f"{section}.{name}"
                if not isinstance(value, (str, int, float, bool)):
                    self.report(f"needs one value, got {value!r}", (*path, name), "type")
                elif key in domains:
                    try:
                        defaults[key] = domains[key].check(value)
                    except SpaceError as error:
                        self.report(str(error), (*path, name), error.kind)
                elif section == "model" and domains:
                    self.report(f"no such decision; {did_you_mean(key, domains)}", (*path, name), "unknown")
                else:
                    defaults[key] = value
        return defaults
