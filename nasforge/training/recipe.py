"""How a network is trained: every setting, its default and what it may be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nasforge.core.architecture import TRAIN, Architecture, Value
from nasforge.core.errors import ConfigError, Problem, did_you_mean
from nasforge.core.space import SearchSpace

_CHOICES: dict[str, tuple[Value, ...]] = {
    "optimizer": ("sgd", "adamw", "rmsprop"),
    "schedule": ("cosine", "step", "exponential", "constant", "one_cycle"),
    "precision": ("auto", "fp32", "bf16"),
    "channels_last": ("auto", True, False),
}
# setting -> (lowest, highest, whether the lowest itself is allowed, whether the highest is)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "learning_rate": (0, math.inf, False, False),
    "momentum": (0, 1, True, False),
    "weight_decay": (0, math.inf, True, False),
    "batch_size": (1, math.inf, True, False),
    "warmup_epochs": (0, math.inf, True, False),
    "decay": (0, 1, False, True),
    "decay_epochs": (0, math.inf, True, False),
    "label_smoothing": (0, 1, True, False),
    "clip_norm": (0, math.inf, True, False),
    "ema_decay": (0, 1, True, False),
    "crop_pixels": (0, math.inf, True, False),
    "cutout_pixels": (0, math.inf, True, False),
    "dropout": (0, 1, True, False),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Zero switches off what has an amount.

    Attributes:
        optimizer: `sgd`, `adamw` or `rmsprop`.
        learning_rate: the highest rate of the schedule.
        momentum: of SGD and RMSprop.
        nesterov: Nesterov's form of SGD's momentum.
        weight_decay: on convolutions and linear layers, never on normalisations and biases.
        batch_size: images per step.
        schedule: `cosine` to zero; `step`: times `decay` every `decay_epochs`; `exponential`: the same without stairs;
            `constant`; `one_cycle`: linear rise over the first 30 % of the steps, then cosine to zero.
        warmup_epochs: linear rise before the schedule begins; `one_cycle` has its own.
        decay: factor of `step` and `exponential`.
        decay_epochs: see `schedule`; 0 is a third of all epochs.
        label_smoothing: share of the target spread over all classes.
        clip_norm: largest norm of the gradient.
        ema_decay: exponential moving average of the weights, which is then what is validated and kept.
        crop_pixels: shift images by up to so many pixels.
        flip: mirror half of the images left to right.
        cutout_pixels: edge of a blanked square.
        dropout: probability in the network's Dropout layers; 0 leaves them as the builder made them.
        zero_init: start residual branches at zero.
        precision: `bf16` autocast, `fp32`, or `auto`: bf16 where the device computes in it.
        channels_last: memory format; `auto`: where it is faster.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    batch_size: int = 128
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    decay: float = 0.1
    decay_epochs: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    crop_pixels: int = 0
    flip: bool = False
    cutout_pixels: int = 0
    dropout: float = 0.0
    zero_init: bool = False
    precision: str = "auto"
    channels_last: str | bool = "auto"

    def __post_init__(self) -> None:
        problems = []
        for item in fields(self):
            problem = _problem(item.name, str(item.type), getattr(self, item.name))
            if problem:
                problems.append(Problem(problem, key=TRAIN + item.name))
        if problems:
            raise ConfigError(problems)

    @staticmethod
    def of(values: Mapping[str, Any]) -> Recipe:
        """The recipe with these settings, the others at their defaults.

        Raises:
            ConfigError: unknown settings or bad values, all of them.
        """
        names = [item.name for item in fields(Recipe)]
        problems = [
            Problem(f"unknown setting; {did_you_mean(str(key), names)}", key=f"{TRAIN}{key}")
            for key in values
            if key not in names
        ]
        recipe = None
        try:
            recipe = Recipe(**{key: value for key, value in values.items() if key in names})
        except ConfigError as error:
            problems.extend(error.problems)
        if recipe is None or problems:
            raise ConfigError(problems)
        return recipe


def recipe_of(space: SearchSpace, architecture: Architecture, overrides: Mapping[str, Value]) -> Recipe:
    """The recipe of one point: defaults < the space's `train.*` defaults < `overrides` < the point's own decisions."""
    defaults = {key.removeprefix(TRAIN): value for key, value in space.defaults.items() if key.startswith(TRAIN)}
    return Recipe.of({**defaults, **overrides, **architecture.train})


def _problem(name: str, kind: str, value: Any) -> str | None:
    """What is wrong with a setting's value, or None."""
    if name in _CHOICES:
        if any(value is option or (isinstance(value, str) and value == option) for option in _CHOICES[name]):
            return None
        texts = [str(option) for option in _CHOICES[name]]
        return f"got {value!r}; {did_you_mean(str(value), texts)}"
    if kind == "bool":
        return None if isinstance(value, bool) else f"got {value!r}, allowed: true or false"
    numbers = (int,) if kind == "int" else (int, float)
    low, high, with_low, with_high = _RANGES[name]
    good = isinstance(value, numbers) and not isinstance(value, bool) and math.isfinite(value)
    if good and (low < value < high or (with_low and value == low) or (with_high and value == high)):
        return None
    what = "a whole number" if kind == "int" else "a number"
    bounds = f"{'at least' if with_low else 'above'} {low:g}"
    if math.isfinite(high):
        bounds += f" and {'at most' if with_high else 'below'} {high:g}"
    return f"got {value!r}, allowed: {what} {bounds}"
