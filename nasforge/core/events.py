"""The events of a journal, one line each. `State.apply` alone makes of them what is known (nasforge/state.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from nasforge.core.trial import Proposal, Result, proposal_from_json

SCHEMA = 1


@dataclass(frozen=True)
class Header:
    """First line: what this experiment is.

    Attributes:
        schema: version of the journal's format.
        experiment: its name.
        config: the resolved configuration, JSON-able.
        space_hash: fingerprint of the search space.
        seed: of the search.
        versions: package -> version.
        data_hash: fingerprint of the data, empty where the evaluator has none.
    """

    kind: ClassVar[str] = "header"
    schema: int
    experiment: str
    config: Mapping[str, Any]
    space_hash: str
    seed: int
    versions: Mapping[str, str]
    data_hash: str


@dataclass(frozen=True)
class Asked:
    """The strategy proposed this as trial `number`."""

    kind: ClassVar[str] = "asked"
    number: int
    proposal: Proposal


@dataclass(frozen=True)
class Checked:
    """The costs of a proposal, and whether it keeps the constraints: `accepted`, `rejected` or `failed`."""

    kind: ClassVar[str] = "checked"
    number: int
    costs: Mapping[str, float]
    verdict: str


@dataclass(frozen=True)
class Started:
    """Attempt `attempt` (from 1) at a trial went to a worker."""

    kind: ClassVar[str] = "started"
    number: int
    attempt: int


@dataclass(frozen=True)
class Reported:
    """A running attempt's metrics after `step`, and the decision: `continue` or `stop`."""

    kind: ClassVar[str] = "reported"
    number: int
    attempt: int
    step: int
    metrics: Mapping[str, float]
    decision: str


@dataclass(frozen=True)
class Told:
    """A trial is closed."""

    kind: ClassVar[str] = "told"
    number: int
    result: Result


@dataclass(frozen=True)
class Interrupted:
    """A driver stopped on request while this attempt ran; it does not count against the trial."""

    kind: ClassVar[str] = "interrupted"
    number: int
    attempt: int


@dataclass(frozen=True)
class Extended:
    """The budget is now this, in the form of `Budget.to_json`."""

    kind: ClassVar[str] = "extended"
    budget: Mapping[str, Any]


@dataclass(frozen=True)
class TestOpened:
    """A retrained network met the sealed test part: once, whatever came out.

    Attributes:
        finalist: name of the retrained network, unique.
        metrics: what the test part said.
    """

    kind: ClassVar[str] = "test_opened"
    __test__: ClassVar[bool] = False  # not a pytest class
    finalist: str
    metrics: Mapping[str, float]


Event: TypeAlias = Header | Asked | Checked | Started | Reported | Told | Interrupted | Extended | TestOpened
_KINDS: dict[str, type[Any]] = {
    event.kind: event for event in (Header, Asked, Checked, Started, Reported, Told, Interrupted, Extended, TestOpened)
}


def header_of(events: Sequence[Event]) -> Header:
    """The first event of a journal, which its reader made sure is the header."""
    header = events[0]
    assert isinstance(header, Header)  # noqa: S101  (for the type checker)
    return header


def event_to_json(event: Event) -> dict[str, Any]:
    """JSON-able form with the kind under `event`."""
    content: dict[str, Any] = {"event": event.kind}
    for name, value in vars(event).items():
        content[name] = value.to_json() if hasattr(value, "to_json") else value
    return content


def event_from_json(content: Mapping[str, Any]) -> Event:
    """The inverse of `event_to_json`.

    Raises:
        KeyError, TypeError: not an event of this schema.
    """
    fields = {name: value for name, value in content.items() if name != "event"}
    kind = _KINDS[content["event"]]
    if kind is Asked:
        fields["proposal"] = proposal_from_json(fields["proposal"])
    if kind is Told:
        fields["result"] = Result.from_json(fields["result"])
    return kind(**fields)  # type: ignore[no-any-return]
