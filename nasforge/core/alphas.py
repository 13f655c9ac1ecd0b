"""The alphas of a supernet, without torch: the settings by which they learn, and the architectures derived from them.

A differentiable strategy sends the settings and derives; the bilevel loop reads the settings and trains the alphas.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import BuildError, ConfigError, SpaceError, did_you_mean
from nasforge.core.ranges import check_number
from nasforge.core.space import Decision, Domain, SearchSpace, taking

COST_TERMS = ("cost/flops", "cost/params")
"""Cost terms that a supernet's loss can contain in addition to the loss on images."""
Alphas: TypeAlias = Mapping[str, Sequence[float]]
"""Decision key -> one number per option, in the order of the domain's options."""
MIXED = 4096
"""Most values of one decision that a supernet can hold."""
_Scored: TypeAlias = tuple[float, dict[str, Value]]


@dataclass(frozen=True)
class Settings:
    """Settings of the alphas' training.

    Attributes:
        learning_rate: Adam's; 0 chooses the paper's for as many steps as there (DARTS 3e-4 for 19,500, DrNAS 6e-4 for
            39,000, GDAS 3e-4 for 97,500) and inversely more for fewer, at most 0.05, so that the alphas of a short
            search can travel as far.
        weight_decay: Adam's, as DARTS.
        second_order: look one step of the weights ahead (equation 7); softmax only, 2.6 times the work.
        temperature: of Gumbel samples at the start; falls linearly to `last_temperature`.
        last_temperature: at the end.
        warmup_epochs: train the weights alone for so long.
        regulariser: weight of DrNAS' distance from the flat Dirichlet; `dirichlet` only.
        stop_at_skips: end the search when, in its second half and for two epochs in a row, the most likely network
            takes an option without weights (skip, pooling, none) in more than this share of its decisions: DARTS'
            collapse (early on, that is only what untrained weights are worth). 1: never.
            ("DARTS+", Liang et al. 2020, https://arxiv.org/abs/1909.06035, stops likewise.)
        underived: option that takes part in the mixture and is not derived (see `without`);
            empty: every option is.
    """

    learning_rate: float = 0.0
    weight_decay: float = 1e-3
    second_order: bool = False
    temperature: float = 10.0
    last_temperature: float = 0.1
    warmup_epochs: int = 0
    regulariser: float = 1e-3
    stop_at_skips: float = 0.9
    underived: str = "none"

    @staticmethod
    def of(values: Mapping[str, Value]) -> tuple[Settings, dict[str, float]]:
        """Return the settings, and the bounds of cost terms (`bound/cost/flops`), from a proposal's settings.

        Raises:
            ConfigError: unknown or out of range.
        """
        known = {field.name: field for field in fields(Settings)}
        bounds = {key.removeprefix("bound/"): float(v) for key, v in values.items() if key.startswith("bound/")}
        settings = {key: value for key, value in values.items() if not key.startswith("bound/")}
        for key, value in settings.items():
            if key not in known:
                raise ConfigError(
                    f"train_shared has no setting '{key}'; {did_you_mean(key, known)}", kind="unknown", key=key
                )
            if any(isinstance(value, kind) != isinstance(known[key].default, kind) for kind in (str, bool)):
                raise ConfigError(
                    f"train_shared: setting '{key}' is {value!r}, expected a value like {known[key].default!r}",
                    kind="type",
                    key=key,
                )
        return Settings(**settings), bounds  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(field.default, (str, bool)):
                check_number(getattr(self, field.name), field.name, least=0)
        if not 0 < self.last_temperature <= self.temperature:
            raise ConfigError(
                "needs 0 < last_temperature <= temperature, "
                f"got last_temperature {self.last_temperature} and temperature {self.temperature}",
                kind="range",
                key="last_temperature",
            )


def check_mixable(key: str, domain: Domain) -> None:
    """Refuse a range with more values than a supernet can hold: raises BuildError."""
    if MIXED < domain.size < math.inf:
        raise BuildError(
            f"decision '{key}' has {domain.size:,} values; a supernet holds at most {MIXED:,} of a decision. "
            "List the values that you want, or set a larger step",
            kind="unsupported",
            key=key,
        )


# --- derivation ------------------------------------------------------------------------------------------------------


def derive(space: SearchSpace, alphas: Alphas) -> Iterator[Architecture]:
    """Return the architectures derived from alphas, best first: by the space's own `derive`, else `by_odds`."""
    return space.function("derive")(space, alphas) if space.derive else by_odds(space, alphas)


def without(space: SearchSpace, alphas: Alphas, option: Value) -> Alphas:
    """Return the alphas with `option` as the last choice wherever there is another.

    The alpha of an operation that computes nothing says nothing of its worth: it scales the sum of the others, and the
    normalisation that follows undoes that ("DARTS", section 2.4, https://arxiv.org/abs/1806.09055).
    """

    def lowered(key: str, row: Sequence[float]) -> Sequence[float]:
        values = space.domains[key].values if key in space.domains else ()
        if option not in values or len(values) == 1:
            return row
        return [-math.inf if value == option else score for value, score in zip(values, row, strict=True)]

    return {key: lowered(key, row) for key, row in alphas.items()}


def by_odds(space: SearchSpace, alphas: Alphas) -> Iterator[Architecture]:
    """Yield all points of the space; first the one that takes the largest alpha of every decision, from the top down.

    The score of a point is the sum, over its active decisions, of the log odds of its option against the best one,
    alpha - max(alpha). It is not the point's probability: that would count every decision that an option opens against
    the option. A decision without alphas takes its default. Points are made one by one as they are asked for, by
    merging the orders of the decisions ("Better k-best Parsing", Huang & Chiang 2005,
    https://aclanthology.org/W05-1506).

    Raises:
        SpaceError: alphas of another number of options.
    """
    for _, values in _product([_values(decision, alphas, space) for decision in space.decisions]):
        yield space.decide(taking(values))


class _Lazy:
    """An iterator's items by index, made when they are asked for."""

    def __init__(self, items: Iterator[_Scored]) -> None:
        self._items = items
        self._made: list[_Scored] = []

    def get(self, index: int) -> _Scored | None:
        while len(self._made) <= index:
            item = next(self._items, None)
            if item is None:
                return None
            self._made.append(item)
        return self._made[index]


def _values(decision: Decision, alphas: Alphas, space: SearchSpace) -> Iterator[_Scored]:
    """Yield the assignments of a decision and of all below it, best first."""
    domain = decision.domain
    scores = alphas.get(decision.key)
    if scores is None or domain.size == 1:
        options, odds = domain.values if domain.size == 1 else (space.default_of(decision.key),), [0.0]
    else:
        options, odds = domain.values, [score - max(scores) for score in scores]
        if len(options) != len(odds):
            raise SpaceError(
                f"decision '{decision.key}' has {len(options)} options, got {len(odds)} alphas; "
                "give one for each option",
                kind="invalid",
                key=decision.key,
            )

    def below(option: Value, odd: float) -> Iterator[_Scored]:
        for score, values in _product([_values(d, alphas, space) for d in domain.branch(option)]):
            yield odd + score, {decision.key: option, **values}

    return heapq.merge(*(below(o, odd) for o, odd in zip(options, odds, strict=True)), key=lambda item: -item[0])


def _product(parts: Sequence[Iterator[_Scored]]) -> Iterator[_Scored]:
    """Yield all combinations of independent parts, by decreasing sum of scores."""
    if not parts:
        yield 0.0, {}
        return
    if len(parts) == 1:
        yield from parts[0]
        return
    middle = len(parts) // 2
    left, right = _Lazy(_product(parts[:middle])), _Lazy(_product(parts[middle:]))
    seen = {(0, 0)}
    frontier: list[tuple[float, int, int]] = []

    def push(i: int, j: int) -> None:
        a, b = left.get(i), right.get(j)
        if a is not None and b is not None:
            heapq.heappush(frontier, (-(a[0] + b[0]), i, j))

    push(0, 0)
    while frontier:
        negative, i, j = heapq.heappop(frontier)
        a, b = left.get(i), right.get(j)
        assert a is not None and b is not None  # noqa: S101 - they were when pushed, for the type checker
        yield -negative, {**a[1], **b[1]}
        for after in ((i + 1, j), (i, j + 1)):
            if after not in seen:
                seen.add(after)
                push(*after)
