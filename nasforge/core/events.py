"""The events of a journal, one line each. `State.apply` alone applies them (nasforge/experiment/state.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from nasforge.core.image_counts import ImageCounts
from nasforge.core.trial import Proposal, Result, Score, made, proposal_from_json

SCHEMA = 2
"""Version of the format of new journals, see docs/reference/journal.md."""

SCHEMAS = (1, 2)
"""Versions that are read; a journal that is continued keeps its own."""

DECODING = 2
"""Version of how data sources become pixels; headers name it as the version of `decoding`, those before 2 do not.

2: images are turned upright as their EXIF data say, transparent pixels are laid over white, hidden files are left out;
whole numbers of an array that are never above 1 are black and white.
"""


REQUEST, KILL, FAULT = INTERRUPTIONS = ("request", "kill", "fault")
"""Causes of `Interrupted`."""

SPACE, STRATEGY = ENDS = ("space", "strategy")
"""Causes of `Ended`."""


@dataclass(frozen=True)
class Header:
    """First line: what this experiment is.

    Attributes:
        schema: version of the journal's format.
        experiment: its name.
        config: the resolved configuration, JSON-able.
        space_hash: fingerprint of the search space.
        seed: of the search.
        versions: package -> version; also `decoding`.
        data_hash: fingerprint of the data, empty where the evaluator has none.
        image_counts: numbers of images, for views; None where the evaluator has none, or an earlier version wrote this.
    """

    kind: ClassVar[str] = "header"
    schema: int
    experiment: str
    config: Mapping[str, Any]
    space_hash: str
    seed: int
    versions: Mapping[str, str]
    data_hash: str
    image_counts: ImageCounts | None = None

    @property
    def why_other_data(self) -> str:
        """Reason why the data of today can have another fingerprint than `data_hash`, for a message."""
        if self.versions.get("decoding") == str(DECODING):
            return "same source, other content"
        return (
            "same source, other content; or the same files, which this version of NASForge reads differently: upright "
            "as their EXIF data say, transparent pixels over white, hidden files left out, more kinds of files"
        )


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
    """A running attempt's metrics after `step`, and the decision: `continue` or `stop`.

    Attributes:
        alphas: architecture parameters of a supernet after `step`, decision key -> one number per option; None where
            it has none.
    """

    kind: ClassVar[str] = "reported"
    number: int
    attempt: int
    step: int
    metrics: Mapping[str, float]
    decision: str
    alphas: Mapping[str, tuple[float, ...]] | None = None


@dataclass(frozen=True)
class Told:
    """A trial is closed."""

    kind: ClassVar[str] = "told"
    number: int
    result: Result


@dataclass(frozen=True)
class Interrupted:
    """An attempt ended without a result.

    Attributes:
        cause: `request`: the driver stopped on request. `kill`: it could not write this itself, so the next one did.
            Neither counts against the trial. `fault`: its worker was lost or its GPU failed; this counts.
    """

    kind: ClassVar[str] = "interrupted"
    number: int
    attempt: int
    cause: str = REQUEST


@dataclass(frozen=True)
class Extended:
    """The budget is now this, in the form of `Budget.to_json`."""

    kind: ClassVar[str] = "extended"
    budget: Mapping[str, Any]


@dataclass(frozen=True)
class Moved:
    """The data have moved; their content is the same.

    Attributes:
        config: the header's settings that name the place, whole: `data`, or `evaluator` for a table.
    """

    kind: ClassVar[str] = "moved"
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Ended:
    """The search has nothing more to propose, though its budget allows it.

    Attributes:
        cause: `space`: every point was proposed. `strategy`: the strategy is done.
    """

    kind: ClassVar[str] = "ended"
    cause: str


@dataclass(frozen=True)
class TestOpened:
    """A retrained network was measured on the sealed test split. This happens once.

    Attributes:
        finalist: name of the retrained network, unique.
        metrics: of the network on the test split.
    """

    kind: ClassVar[str] = "test_opened"
    __test__: ClassVar[bool] = False  # not a pytest class
    finalist: str
    metrics: Mapping[str, float]


Event: TypeAlias = (
    Header | Asked | Checked | Started | Reported | Told | Interrupted | Extended | Moved | Ended | TestOpened
)
_KINDS: dict[str, type[Any]] = {
    event.kind: event
    for event in (Header, Asked, Checked, Started, Reported, Told, Interrupted, Extended, Moved, Ended, TestOpened)
}
_FIELDS = {kind: {field.name for field in dataclasses.fields(kind)} for kind in _KINDS.values()}


def header_of(events: Sequence[Event]) -> Header:
    """Return the first event of a journal; its reader has checked that it is the header."""
    header = events[0]
    assert isinstance(header, Header)  # noqa: S101  (for the type checker)
    return header


def event_to_json(event: Event, schema: int = SCHEMA) -> dict[str, Any]:
    """Return the JSON-able form, with the kind under `event`.

    Args:
        event: any.
        schema: of the journal; 1 knows no origin of a proposal, no alphas of a report, no reason of a rejection, no
            proposal of scores and no cause of an interruption.
    """
    content: dict[str, Any] = {"event": event.kind}
    for name, value in vars(event).items():
        content[name] = value.to_json() if hasattr(value, "to_json") else value
    if isinstance(event, Header) and event.image_counts is None:
        del content["image_counts"]
    if isinstance(event, Interrupted) and event.cause == REQUEST:
        del content["cause"]
    if isinstance(event, Reported):
        del content["alphas"]
        if event.alphas:
            content["alphas"] = {key: list(row) for key, row in event.alphas.items()}
    if schema == 1:
        content.pop("alphas", None)
        content.pop("image_counts", None)
        if isinstance(event, Asked):
            proposal = event.proposal
            content["proposal"] = proposal.to_schema_1() if isinstance(proposal, Score) else proposal.to_json()
            content["proposal"].pop("origin", None)
        if isinstance(event, Told):
            content["result"] = event.result.to_schema_1()
    return content


def event_from_json(content: Mapping[str, Any]) -> Event:
    """Rebuild an event from its `event_to_json` form; `nasforge/core/checks.py` checks the values.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: not an event.
    """
    fields = dict(content)
    kind = _KINDS[fields.pop("event")]
    if kind is Header:
        fields["config"] = _with_units(fields["config"])
        fields["image_counts"] = ImageCounts.from_json(fields.get("image_counts"))
    elif kind is Reported:
        fields.setdefault("alphas", None)
    elif kind is Interrupted:
        fields.setdefault("cause", REQUEST)
    elif kind is Asked:
        fields["proposal"] = proposal_from_json(fields["proposal"])
    elif kind is Told:
        fields["result"] = Result.from_json(fields["result"])
    if fields.keys() != _FIELDS[kind]:
        raise TypeError(f"an event '{kind.kind}' has {', '.join(sorted(_FIELDS[kind]))}, got {', '.join(fields)}")
    return made(kind, fields)  # type: ignore[no-any-return]


_COUNTS = {"cross_validation": "folds", "repeated_seeds": "repeats"}


def _with_units(config: Any) -> Any:
    """Return a header's configuration with the unit of its ladder; version 0.1.0 called folds and repeats epochs."""
    content = config if isinstance(config, Mapping) else {}
    evaluator, ladder = content.get("evaluator"), content.get("ladder")
    unit = _COUNTS.get(str(evaluator.get("name"))) if isinstance(evaluator, Mapping) else None
    if unit is None or not isinstance(ladder, list) or not all(isinstance(rung, Mapping) for rung in ladder):
        return config
    return {**content, "ladder": [{unit if key == "epochs" else key: rung[key] for key in rung} for rung in ladder]}
