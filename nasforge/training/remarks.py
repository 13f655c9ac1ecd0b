"""Recipe settings that have no effect, or not the one of their name, for a note before the first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nasforge.core.architecture import TRAIN, Value
from nasforge.core.ranges import is_number
from nasforge.core.recipe import SETTINGS, settings_of
from nasforge.core.setting import ReadBy
from nasforge.core.space import SearchSpace

_HIGH_RATES = {"rmsprop": 0.02, "adam": 0.03, "adamw": 0.03, "lamb": 0.1, "muon": 0.1}
"""The ends of the ranges in `search_spaces/recipes`; SGD's rates are far above them."""


def remarks_on(space: SearchSpace, overrides: Mapping[str, Value], epochs: int) -> tuple[str, ...]:
    """Return notes on settings that are fixed or searched though no recipe of the space reads them, and the like.

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
        self._origins = {setting: f"is {_short(value)}" for setting, value in overrides.items()}
        for key, domain in space.domains.items():
            if key.startswith(TRAIN):
                self._values[key.rpartition(".")[2]].extend(domain.ends)
                self._origins[key.removeprefix(TRAIN)] = "is searched"

    def remarks(self, epochs: int) -> Iterator[str]:
        """Yield the notes; `epochs` of a training."""
        for name, setting in SETTINGS.items():
            if name in self._origins and setting.read_by is not None and not self._read_by(setting.read_by):
                got = " or ".join(str(value) for value in dict.fromkeys(self._values[setting.read_by.setting]))
                readers = ", ".join(setting.read_by.options)
                end = f"; what reads it: {readers}" if readers else ", so nothing reads it"
                yield f"train.{name} {self._origins[name]}, but train.{setting.read_by.setting} is {got}{end}"
        optimizer, rate = str(self._default["optimizer"]), float(self._default["learning_rate"])
        if rate > _HIGH_RATES.get(optimizer, rate):
            yield f"train.learning_rate is {rate:g} by default, much for {optimizer}: above {_HIGH_RATES[optimizer]:g}"
        if any(self._values["early_stopping"]) and any(self._values["swa_share"]):
            yield (
                "train.swa_share averages the last epochs, which a training ended by train.early_stopping never reaches"
            )
        rises = [value for value in self._values["warmup_epochs"] if is_number(value)]
        warmup = SETTINGS["warmup_epochs"].read_by
        if min(rises) >= epochs and warmup is not None and self._read_by(warmup):
            yield (
                f"train.warmup_epochs is {min(rises):g}, no shorter than a training (epochs: {epochs}): "
                "the learning rate rises to its end and never falls"
            )

    def _read_by(self, reader: ReadBy) -> bool:
        """Return True if a recipe of the space has one of the options."""
        values = self._values[reader.setting]
        return any(value in reader.options for value in values) if reader.options else any(values)


def _short(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
