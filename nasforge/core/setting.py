"""The description of a setting, written as an annotation of its field; checks and documentation are made from it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import cached_property
from typing import Any

from nasforge.core.architecture import Value
from nasforge.core.errors import did_you_mean
from nasforge.core.ranges import FLAG, Range, shown


class ReadBy:
    """The options of another setting with which a setting has an effect.

    Args:
        setting: name of the other setting.
        options: its options; none: all but zero.
    """

    def __init__(self, setting: str, *options: str) -> None:
        self.setting = setting
        self.options = options


@dataclass(frozen=True)
class Setting:
    """All facts about one setting, but for what it does.

    Attributes:
        description: a noun phrase with its unit, and the meaning of zero.
        group: heading in the documentation.
        choices: allowed values; empty where a type or a range says it.
        least: smallest number; None for no such limit.
        over: limit that is itself too small; None for no such limit.
        most: largest number; None for no such limit.
        below: limit that is itself too large; None for no such limit.
        read_by: options of another setting that read this one; None: always read.
        excludes: settings that must keep their defaults where this one does not.
        conflict: reason for it.
        not_shared: reason why supernets refuse it; empty if they take it.
        changeable: True if it leaves the state of a training as it is (weights, optimizer, averages, place in the
            data), so that a training that is continued may change it.
        later: True if older checkpoints do not have it; their trainings used what is now its default.
        implementation: libraries that implement it.
        name: name of its field, see `settings_in`.
        kind: type of its field, see `settings_in`.
        default: default of its field, see `settings_in`.
    """

    description: str
    _: KW_ONLY
    group: str = ""
    choices: tuple[Value, ...] = ()
    least: float | None = None
    over: float | None = None
    most: float | None = None
    below: float | None = None
    read_by: ReadBy | None = None
    excludes: tuple[str, ...] = ()
    conflict: str = ""
    not_shared: str = ""
    changeable: bool = False
    later: bool = False
    implementation: str = ""
    name: str = ""
    kind: Any = str
    default: Any = None

    @cached_property
    def range(self) -> Range:
        """Allowed numbers; only for settings that are numbers."""
        whole = self.kind is int
        return Range(whole=whole, least=self.least, over=self.over, most=self.most, below=self.below)

    def problem(self, value: Any) -> str | None:
        """Return the problem of a value, or None."""
        if self.choices:
            if any(value is option or (isinstance(value, str) and value == option) for option in self.choices):
                return None
            return f"got {shown(value)}; {did_you_mean(str(value), map(str, self.choices))}"
        if self.kind is bool:
            return None if isinstance(value, bool) else f"got {shown(value)}, allowed: {FLAG}"
        return None if value in self.range else f"got {shown(value)}, allowed: {self.range}"

    def kind_of_problem(self, value: Any) -> str:
        """Return which of `KINDS` the problem of a refused value is."""
        if self.choices:
            return "unknown"
        return "type" if self.kind is bool else self.range.kind_of(value)


def settings_in(owner: type) -> dict[str, Setting]:
    """Return the settings of a dataclass, each with the name, type and default of its field.

    Args:
        owner: every field is annotated `Annotated[type, Setting(...)]`; its module does not postpone annotations.
    """
    settings = {}
    for item in fields(owner):
        kind, about = item.type.__origin__, item.type.__metadata__[0]  # type: ignore[union-attr]
        settings[item.name] = replace(about, name=item.name, kind=kind, default=item.default)
    return settings
