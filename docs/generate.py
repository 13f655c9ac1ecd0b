"""Write the tables of docs/reference that are made from the code: python docs/generate.py

A table stands between `<!-- NAME: made by docs/generate.py -->` and `<!-- end of NAME -->`. With `--check` nothing is
written, and the exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from nasforge import registry
from nasforge.core.recipe import SETTINGS
from nasforge.core.setting import Setting
from nasforge.models.costs import count_flops, count_params
from nasforge.models.textbook import Textbook

REFERENCE = Path(__file__).parent / "reference"
_BLOCK = re.compile(r"(<!-- (\w+): made by docs/generate\.py -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
_ELSEWHERE = ("lookup_table",)
"""Plug-ins whose options have a page of their own."""


def recipe() -> Iterator[str]:
    """Yield the lines of the table of recipe settings, and of the two lists below it."""
    yield from _head("setting", "default", "values", "meaning", "implementation")
    in_groups = sorted(SETTINGS.values(), key=lambda setting: list(_groups()).index(setting.group))
    for group, settings in groupby(in_groups, key=lambda setting: setting.group):
        yield _row(f"**{group}**", "", "", "", "")
        for one in settings:
            yield _row(f"`{one.name}`", _code(one.default), _values(one), _meaning(one), one.implementation)
    yield ""
    yield f"* **May change during a training:** {_names(one.name for one in SETTINGS.values() if one.changeable)}."
    yield f"* **Refused by supernets:** {_names(one.name for one in SETTINGS.values() if one.not_shared)}."


def _groups() -> Mapping[str, None]:
    return dict.fromkeys(setting.group for setting in SETTINGS.values())


def _values(setting: Setting) -> str:
    if setting.choices:
        return _names(setting.choices)
    if setting.kind is bool:
        return _names((True, False))
    whole = "integer, " if setting.kind is int else ""
    low, high = setting.range.least, setting.range.most
    low = setting.range.over if low is None else low
    high = setting.range.below if high is None else high
    if high is None:
        return f"{whole}above {low:g}" if setting.range.least is None else f"{whole}{low:g} or more"
    excluded = [limit for limit in (setting.range.over, setting.range.below) if limit is not None]
    return f"{whole}{low:g}..{high:g}" + "".join(f", {limit:g} excluded" for limit in excluded)


def _meaning(setting: Setting) -> str:
    text = setting.description
    if setting.read_by is not None and setting.read_by.options:
        read = setting.read_by.options
        unread = [option for option in SETTINGS[setting.read_by.setting].choices if option not in read]
        text += f"; read only with {_names(read)}" if len(read) <= len(unread) else f"; not with {_names(unread)}"
    elif setting.read_by is not None:
        text += f"; read only if `{setting.read_by.setting}` is above 0"
    return text + (f"; excludes {_names(setting.excludes)}" if setting.excludes else "")


def options_of(*kinds: str) -> Callable[[], Iterator[str]]:
    """Return what yields the table of the options of all built-in plug-ins of these kinds.

    Defaults are read from the signatures, meanings from the section `Args` of the docstrings.
    """

    def lines() -> Iterator[str]:
        yield from _head(" or ".join(kinds), "option", "default", "meaning")
        for kind in kinds:
            for name in registry.BUILT_IN[kind]:
                if name in _ELSEWHERE:
                    continue
                plug_in = registry.get(kind, name)
                meanings = _arguments(plug_in)
                for index, (option, default) in enumerate(registry.options_of(kind, name).items()):
                    yield _row("" if index else f"`{name}`", f"`{option}`", _code(default), meanings[option])

    return lines


def references() -> Iterator[str]:
    """Yield the lines of the table of reference networks that have a width of their paper."""
    yield from _head("name", "network", "parameters", "FLOPs", "paper")
    for name in registry.BUILT_IN["reference"]:
        reference = registry.get("reference", name)
        if not isinstance(reference, Textbook):
            continue
        shape, classes = ((1, 32, 32), 10) if name == "lenet" else ((3, 224, 224), 1000)
        with torch.device("meta"):
            network = reference.make(1.0, in_channels=shape[0], classes=classes, pixels=shape[1])
        costs = (f"{count(network):,}" for count in (count_params, partial(count_flops, shape=shape)))
        make = reference.make.func if isinstance(reference.make, partial) else reference.make
        title, paper = re.match(r"Build [^:]*: (.*?), (https://\S+?)[,.]?\s", make.__doc__ or "").groups()
        yield _row(f"`{name}`", reference.title, *costs, f"[{title}]({paper})")


def _arguments(plug_in: Any) -> dict[str, str]:
    """Return the meaning of each argument, from the docstrings of a class and of its `__init__`, or of a function."""
    documented = (plug_in, plug_in.__init__) if inspect.isclass(plug_in) else (plug_in,)
    meanings = {}
    for thing in documented:
        section = re.search(r"^Args:\n((?:    .*\n|\n)+)", inspect.cleandoc(thing.__doc__ or "") + "\n", re.MULTILINE)
        for entry in re.split(r"\n    (?=\S)", "\n" + section[1]) if section else ():
            name, _, meaning = entry.strip().partition(":")
            text = " ".join(meaning.split()).rstrip(".")
            meanings[name] = text.replace("None: ", "default: ").replace("False: ", "`false`: ")
    return meanings


def _head(*columns: str) -> Iterator[str]:
    yield _row(*columns)
    yield "|" + "---|" * len(columns)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _names(values: Any) -> str:
    return ", ".join(map(_code, values))


def _code(value: Any) -> str:
    """Return a value as a user types it; a dash for None."""
    if value is None:
        return "-"
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    return f"`{text}`"


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "recipe": recipe,
    "references": references,
    "strategies": options_of("strategy"),
    "pruners": options_of("pruner"),
    "evaluators": options_of("evaluator"),
    "runners": options_of("runner"),
}


def outdated() -> dict[Path, str]:
    """Return the pages whose tables differ from the code, each with the text that it should have."""
    pages = {}
    for page in sorted(REFERENCE.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = _BLOCK.sub(lambda match: match[1] + "\n".join(TABLES[match[2]]()) + "\n" + match[3], text)
        if made != text:
            pages[page] = made
    return pages


def main() -> int:
    """Write the pages that are out of date, or name them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="Write nothing; exit with 1 if a page is out of date.")
    check = parser.parse_args().check
    pages = outdated()
    for page, text in pages.items():
        if check:
            print(f"docs/reference/{page.name} is out of date. Run: python docs/generate.py", file=sys.stderr)
        else:
            page.write_text(text, encoding="utf-8")
            print(f"docs/reference/{page.name} is written")
    return 1 if check and pages else 0


if __name__ == "__main__":
    sys.exit(main())
