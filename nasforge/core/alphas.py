"""How the alphas of a supernet learn: the settings that a differentiable strategy sends and the bilevel loop reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

from nasforge.core.architecture import Value
from nasforge.core.errors import BuildError, ConfigError, did_you_mean
from nasforge.core.space import Domain

COST_TERMS = ("cost/flops", "cost/params")
"""What a supernet's loss can hold beside the images'."""


MIXED = 4096
"""A supernet holds at most so many values of a decision."""


@dataclass(frozen=True)
class Settings:
    """How the alphas learn.

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
        underived: option that takes part in the mixture and is not derived (`nasforge.core.derivation.without`);
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
    def of(given: Mapping[str, Value]) -> tuple[Settings, dict[str, float]]:
        """Settings, and the bounds of cost terms (`bound/cost/flops`), from a proposal's settings.

        Raises:
            ConfigError: unknown or out of range.
        """
        known = {field.name: field for field in fields(Settings)}
        bounds = {key.removeprefix("bound/"): float(v) for key, v in given.items() if key.startswith("bound/")}
        own = {key: value for key, value in given.items() if not key.startswith("bound/")}
        for key, value in own.items():
            if key not in known:
                raise ConfigError(f"train_shared has no setting '{key}'; {did_you_mean(key, known)}")
            if any(isinstance(value, kind) != isinstance(known[key].default, kind) for kind in (str, bool)):
                raise ConfigError(f"train_shared: setting '{key}' is {value!r}, wanted like {known[key].default!r}")
        return Settings(**own), bounds  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(field.default, str) and not 0 <= getattr(self, field.name) < math.inf:
                raise ConfigError(f"{field.name} must be at least 0, got {getattr(self, field.name)}")
        if not 0 < self.last_temperature <= self.temperature:
            raise ConfigError(
                "needs 0 < last_temperature <= temperature, "
                f"got last_temperature {self.last_temperature} and temperature {self.temperature}"
            )


def check_mixable(key: str, domain: Domain) -> None:
    """Raises BuildError for a range with more values than a supernet can hold."""
    if MIXED < domain.size < math.inf:
        raise BuildError(
            f"decision '{key}' has {domain.size:,} values; a supernet holds at most {MIXED:,} of a decision. "
            "List the values that you want, or give the range a larger step"
        )
