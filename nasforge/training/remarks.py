"""What of a recipe no training will heed, or not as its name promises: said before the first trial, not refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nasforge.core.architecture import TRAIN, Value
from nasforge.core.recipe import READ_BY, settings_of
from nasforge.core.space import SearchSpace

_OF_WHAT_IS_ON = {"early_stopping_metric": "early_stopping", "randaugment_magnitude": "randaugment"}
"""Settings that are read where another one is above 0."""
_HIGH_RATES = {"rmsprop": 0.02, "adam": 0.03, "adamw": 0.03, "lamb": 0.1, "muon": 0.1}
"""The ends of the ranges in `search_spaces/recipes`; SGD's rates are far above them."""


def remarks_on(space: SearchSpace, overrides: Mapping[str, Value], epochs: int) -> tuple[str, ...]:
    """Sentences about settings that are fixed or searched though no recipe of the space reads them, and the like.

    Args:
        space: the space, whose recipes are known to be good.
        overrides: settings fixed over its defaults. A default that nothing reads is nobody's mistake.
        epochs: of a training.
    """
    return tuple(_Recipes(space, overrides).remarks(epochs))


class _Recipes:
    """All recipes of a space, by the values that each setting may have."""

    def __init__(self, space: SearchSpace, overrides: Mapping[str, Value]) -> None:
        self._default = settings_of(space, space.default_point(), overrides)
        self._values = {setting: [value] for setting, value in self._default.items()}
        self._given = {setting: f"is {_short(value)}" for setting, value in overrides.items()}
        for key, domain in space.domains.items():
            if key.startswith(TRAIN):
                self._values[key.rpartition(".")[2]].extend(domain.ends)
                self._given[key.removeprefix(TRAIN)] = "is searched"

    def remarks(self, epochs: int) -> Iterator[str]:
        """One after the other; `epochs` of a training."""
        for setting, (parent, options) in READ_BY.items():
            if setting in self._given and not self._any(parent, options):
                got = " or ".join(str(value) for value in dict.fromkeys(self._values[parent]))
                readers = ", ".join(options)
                yield f"train.{setting} {self._given[setting]}, but train.{parent} is {got}; what reads it: {readers}"
        for setting, parent in _OF_WHAT_IS_ON.items():
            if setting in self._given and not any(self._values[parent]):
                yield f"train.{setting} {self._given[setting]}, but train.{parent} is 0, so nothing reads it"
        optimizer, rate = str(self._default["optimizer"]), float(self._default["learning_rate"])
        if rate > _HIGH_RATES.get(optimizer, rate):
            yield f"train.learning_rate is {rate:g} by default, much for {optimizer}: above {_HIGH_RATES[optimizer]:g}"
        if any(self._values["early_stopping"]) and any(self._values["swa_share"]):
            yield "train.swa_share averages the last epochs; a training that train.early_stopping ends has none of them"
        rises = [value for value in self._values["warmup_epochs"] if isinstance(value, (int, float))]
        if min(rises) >= epochs and self._any("schedule", READ_BY["warmup_epochs"][1]):
            yield (
                f"train.warmup_epochs is {min(rises):g}, no shorter than a training (epochs: {epochs}): "
                "the learning rate rises to its end and never falls"
            )

    def _any(self, setting: str, options: tuple[str, ...]) -> bool:
        return any(value in options for value in self._values[setting])


def _short(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
