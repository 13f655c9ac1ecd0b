"""How a network is trained: every setting, its default and what it may be."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

from nasforge.core.architecture import TRAIN, Architecture, Value
from nasforge.core.errors import Problem, RecipeError, did_you_mean
from nasforge.core.space import Choice, Decision, Domain, SearchSpace

_CHOICES: dict[str, tuple[Value, ...]] = {
    "optimizer": ("sgd", "adagrad", "rmsprop", "adam", "adamw", "lamb", "muon"),
    "schedule": ("cosine", "step", "exponential", "inverse_time", "constant", "one_cycle"),
    "loss": ("cross_entropy", "focal"),
    "class_weights": ("none", "balanced"),
    "sampling": ("uniform", "balanced"),
    "early_stopping_metric": ("accuracy", "loss", "f1_macro"),
    "init": ("builder", "he", "xavier", "orthogonal"),
    "crop_fill": ("black", "mean"),
    "precision": ("auto", "fp32", "bf16"),
    "channels_last": ("auto", True, False),
}
_LARGEST = 1e300  # far above every sensible setting, and still a float
# setting -> (lowest, highest, whether the lowest itself is allowed, whether the highest is)
_RANGES: dict[str, tuple[float, float, bool, bool]] = {
    "learning_rate": (0, math.inf, False, False),
    "momentum": (0, 1, True, False),
    "beta1": (0, 1, True, False),
    "beta2": (0, 1, True, False),
    "layer_decay": (0, 1, False, True),
    "weight_decay": (0, math.inf, True, False),
    "batch_size": (1, math.inf, True, False),
    "warmup_epochs": (0, math.inf, True, False),
    "decay": (0, 1, False, True),
    "decay_epochs": (0, math.inf, True, False),
    "focal_gamma": (0, math.inf, True, False),
    "label_smoothing": (0, 1, True, False),
    "clip_norm": (0, math.inf, True, False),
    "ema_decay": (0, 1, True, False),
    "swa_share": (0, 1, True, True),
    "precise_bn": (0, math.inf, True, False),
    "early_stopping": (0, math.inf, True, False),
    "frozen_stages": (0, math.inf, True, False),
    "crop_pixels": (0, math.inf, True, False),
    "rotation_degrees": (0, 180, True, True),
    "color_jitter": (0, 1, True, True),
    "randaugment": (0, math.inf, True, False),
    "randaugment_magnitude": (0, 30, True, True),
    "random_erasing": (0, 1, True, True),
    "cutout_pixels": (0, math.inf, True, False),
    "mixup": (0, math.inf, True, False),
    "cutmix": (0, math.inf, True, False),
    "manifold_mixup": (0, math.inf, True, False),
    "dropout": (0, 1, True, False),
    "drop_path": (0, 1, True, False),
}
READ_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "momentum": ("optimizer", ("sgd", "rmsprop", "muon")),
    "nesterov": ("optimizer", ("sgd", "muon")),
    "beta1": ("optimizer", ("adam", "adamw", "lamb", "muon")),
    "beta2": ("optimizer", ("adam", "adamw", "lamb", "muon")),
    "warmup_epochs": ("schedule", ("cosine", "step", "exponential", "inverse_time", "constant")),
    "decay": ("schedule", ("step", "exponential", "inverse_time")),
    "decay_epochs": ("schedule", ("step", "exponential", "inverse_time")),
    "focal_gamma": ("loss", ("focal",)),
}
"""Settings that only some options of another one read."""
_EXCLUDING = frozenset({"ema_decay", "swa_share", "class_weights", "sampling", "frozen_stages", "init", "zero_init"})
"""Settings some of which exclude each other, see `Recipe._contradictions`."""
_LATER = frozenset({"keep_last_batch", "crop_fill"})
"""Settings that older checkpoints do not have; trainings were then as they are by their defaults."""
CHANGEABLE = frozenset(
    {
        *("learning_rate", "weight_decay", "momentum", "label_smoothing", "clip_norm", "dropout"),
        *("crop_pixels", "crop_fill", "cutout_pixels", "flip", "vertical_flip", "rotation_degrees", "color_jitter"),
        *("randaugment", "randaugment_magnitude", "random_erasing", "mixup", "cutmix", "drop_path"),
    }
)
"""Settings of a recipe that leave a training's state (weights, optimizer, averages, place in the data) as it is."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Zero switches off what has an amount.

    Attributes:
        optimizer: `sgd`, `adagrad`, `rmsprop`, `adam`, `adamw`, `lamb` or `muon`.
        learning_rate: the highest rate of the schedule.
        momentum: of SGD, RMSprop and Muon.
        nesterov: Nesterov's form of the momentum of SGD and Muon.
        beta1: decay of the mean gradient of Adam, AdamW and LAMB, and of the AdamW inside Muon.
        beta2: of the mean square, likewise.
        layer_decay: each layer's rate as a multiple of that of the layer behind it; 1 is the same for all.
        weight_decay: on convolutions and linear layers, never on normalisations and biases.
        batch_size: images per step; an incomplete last batch of an epoch is left out, unless `keep_last_batch` is set.
        keep_last_batch: train on the incomplete last batch of an epoch too, where it has at least 2 images.
        schedule: `cosine` to zero; `step`: times `decay` every `decay_epochs`; `exponential`: the same without stairs;
            `inverse_time`: rate / (1 + slope * t), times `decay` after the first `decay_epochs`; `constant`;
            `one_cycle`: linear rise over the first 30 % of the steps, then cosine to zero.
        warmup_epochs: linear rise before the schedule begins; `one_cycle` has its own.
        decay: factor of `step`, `exponential` and `inverse_time`.
        decay_epochs: see `schedule`; 0 is a third of all epochs.
        loss: `cross_entropy`; `focal`: images that are already right count less, the less the higher `focal_gamma`.
        focal_gamma: see `loss`; 0 is cross-entropy.
        class_weights: of the loss: `none`; `balanced`: inverse to the sizes of the classes.
        sampling: `uniform`: every image once an epoch, but for an incomplete last batch; `balanced`: drawn so that all
            classes are as frequent.
        label_smoothing: share of the target spread over all classes.
        clip_norm: largest norm of the gradient.
        ema_decay: exponential moving average of the weights, which is then what is validated and kept; after n steps
            its decay is at most 1 - n^(-2/3).
        swa_share: share of the epochs, the last ones, of whose weights the mean is then validated and kept.
        precise_bn: batches of 128 training images on which batch normalisation's statistics are taken anew before the
            network is validated, without a validation part at the end alone ("Rethinking 'Batch' in BatchNorm", Wu &
            Johnson 2021, https://arxiv.org/abs/2105.07576, section 3). Running averages lag behind weights that learn
            fast. 0: leave them, but for the mean of `swa_share`, which has none of its own.
        early_stopping: epochs without a better `early_stopping_metric` after which the network is trained no further.
        early_stopping_metric: of the validation part: `accuracy`, `loss` or `f1_macro`.
        init: how convolutions and linear layers begin: as the `builder` made them, `he`, `xavier` or `orthogonal`.
        crop_pixels: shift images by up to so many pixels.
        crop_fill: where a shifted image ends: `black`, or the `mean` colour of the training images, which is zero once
            they are normalised.
        flip: mirror half of the images left to right.
        vertical_flip: mirror half of the images upside down.
        rotation_degrees: turn images by up to so much either way.
        color_jitter: change brightness, contrast and saturation by up to this share.
        randaugment: operations per image; 2 in the paper.
        randaugment_magnitude: their strength.
        random_erasing: probability of a rectangle of noise.
        cutout_pixels: edge of a blanked square.
        mixup: alpha of the share at which pairs of images are mixed; each batch takes one of the mixings that are on.
        cutmix: alpha of the share of an image that a rectangle of another one covers.
        manifold_mixup: as `mixup`, but of what a layer drawn at random is given.
        dropout: probability in the network's Dropout layers; 0 leaves them as the builder made them.
        drop_path: probability of leaving out the last residual block's branch, less for those before it.
        frozen_stages: how many parts of the network, the stem first, keep weights and statistics as they begin.
        zero_init: start residual branches at zero.
        health: report norms of gradients and activations, and dead ReLUs, of every part of the network.
        precision: `bf16` autocast, `fp32`, or `auto`: bf16 where the device computes in it.
        channels_last: memory format; `auto`: where it is faster.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    layer_decay: float = 1.0
    weight_decay: float = 5e-4
    batch_size: int = 128
    keep_last_batch: bool = False
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    decay: float = 0.1
    decay_epochs: float = 0.0
    loss: str = "cross_entropy"
    focal_gamma: float = 2.0
    class_weights: str = "none"
    sampling: str = "uniform"
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    ema_decay: float = 0.0
    swa_share: float = 0.0
    precise_bn: int = 8
    early_stopping: int = 0
    early_stopping_metric: str = "accuracy"
    init: str = "builder"
    crop_pixels: int = 0
    crop_fill: str = "black"
    flip: bool = False
    vertical_flip: bool = False
    rotation_degrees: float = 0.0
    color_jitter: float = 0.0
    randaugment: int = 0
    randaugment_magnitude: int = 9
    random_erasing: float = 0.0
    cutout_pixels: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    manifold_mixup: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0
    frozen_stages: int = 0
    zero_init: bool = False
    health: bool = False
    precision: str = "auto"
    channels_last: str | bool = "auto"

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for item in fields(self):
            problem = _problem(item.name, str(item.type), getattr(self, item.name))
            if problem:
                problems.append(Problem(problem, key=TRAIN + item.name))
        problems = problems or self._contradictions()
        if problems:
            raise RecipeError(problems)

    def _contradictions(self) -> list[Problem]:
        """Settings that exclude each other."""
        found = []
        if self.ema_decay and self.swa_share:
            message = "set together with train.ema_decay, but one average is kept; leave one of them out"
            found.append(Problem(message, key=TRAIN + "swa_share"))
        if self.class_weights == self.sampling == "balanced":
            message = "balanced together with train.sampling, which would correct for the classes twice; take one"
            found.append(Problem(message, key=TRAIN + "class_weights"))
        if self.frozen_stages and (self.init != "builder" or self.zero_init):
            message = "keeps what the network begins with; leave train.init and train.zero_init as they are"
            found.append(Problem(message, key=TRAIN + "frozen_stages"))
        return found

    def identifying(self) -> dict[str, Value]:
        """Return the settings by which a checkpoint knows its training.

        Settings that came later and have their defaults are left out, so that older checkpoints can still be continued.
        """
        earlier = Recipe()
        return {
            name: value for name, value in asdict(self).items() if name not in _LATER or value != getattr(earlier, name)
        }

    @staticmethod
    def of(values: Mapping[str, Any]) -> Recipe:
        """The recipe with these settings, the others at their defaults.

        Raises:
            RecipeError: unknown settings or bad values, all of them.
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
        except RecipeError as error:
            problems.extend(error.problems)
        if recipe is None or problems:
            raise RecipeError(problems)
        return recipe


def recipe_of(space: SearchSpace, architecture: Architecture, overrides: Mapping[str, Value]) -> Recipe:
    """The recipe of one point: defaults < the space's `train.*` defaults < `overrides` < the point's own decisions.

    A nested decision sets what its key ends with: `train.optimizer.sgd.momentum` is the momentum.

    Raises:
        RecipeError: unknown or contradicting settings, bad values, or an option with a setting that it does not read.
    """
    return Recipe.of(settings_of(space, architecture, overrides))


def settings_of(space: SearchSpace, architecture: Architecture, overrides: Mapping[str, Value]) -> dict[str, Value]:
    """All settings of `recipe_of` by name, their values not checked.

    Raises:
        RecipeError: a setting is made twice, or below an option that does not read it.
    """
    defaults = {key.removeprefix(TRAIN): value for key, value in space.defaults.items() if key.startswith(TRAIN)}
    plain = {key: value for key, value in defaults.items() if "." not in key}  # others are of decisions, active or not
    return {**asdict(Recipe()), **plain, **overrides, **_by_setting(architecture.train)}


def steps_of(images: int, recipe: Recipe) -> int:
    """Return the number of optimizer steps in one pass over so many images, at least 1.

    A last batch of one image is never trained on: batch normalisation needs two.
    """
    complete, left = divmod(images, recipe.batch_size)
    return max(1, complete + (recipe.keep_last_batch and left >= 2))


def check_recipes(space: SearchSpace, overrides: Mapping[str, Value]) -> None:
    """Make the recipe of the default point, and of every extreme of every recipe decision, rather than in a trial.

    Where settings may exclude each other, every two extremes are tried together.

    Raises:
        RecipeError: one of them cannot be.
    """
    recipe_of(space, space.default_point(), overrides)
    for point in extreme_points(space):
        recipe_of(space, point, overrides)
    named = {key: key.rpartition(".")[2] for key in space.domains if key.startswith(TRAIN)}
    often = Counter(named.values())
    clashing = [(k, value) for k, value in _extremes(space) if named[k] in _EXCLUDING or often[named[k]] > 1]
    for (key, value), (other, its) in combinations(clashing, 2):
        settings = {named[key], named[other]}
        if key != other and (len(settings) == 1 or settings <= _EXCLUDING):
            recipe_of(space, _point_with(space, {key: value, other: its}), overrides)


def extreme_points(space: SearchSpace) -> Iterator[Architecture]:
    """The default point with one recipe decision after the other at each of its ends, or at each of its options."""
    for key, value in _extremes(space):
        yield _point_with(space, {key: value})


def _extremes(space: SearchSpace) -> list[tuple[str, Value]]:
    return [(key, value) for key, domain in space.domains.items() if key.startswith(TRAIN) for value in domain.ends]


def _point_with(space: SearchSpace, wanted: Mapping[str, Value]) -> Architecture:
    """The default point as far as it can be, with these decisions and whatever they hang below."""

    def choose(asked: str, domain: Domain) -> Value:
        if asked in wanted:
            return wanted[asked]
        if isinstance(domain, Choice):
            for option in domain.options:
                if any(not wanted.keys().isdisjoint(_keys(decision)) for decision in domain.branch(option)):
                    return option
        return space.default_of(asked)

    return space.decide(choose)


def _keys(decision: Decision) -> set[str]:
    below = decision.domain.branches if isinstance(decision.domain, Choice) else ()
    return {decision.key}.union(*(_keys(nested) for branch in below for nested in branch))


def _by_setting(decided: Mapping[str, Value]) -> dict[str, Value]:
    """Decisions of a recipe, keys without `train.`, by the settings that they make."""
    found: dict[str, Value] = {}
    problems = []
    for key, value in decided.items():
        *above, setting = key.split(".")
        if setting in found:
            problems.append(Problem(f"sets '{setting}' a second time; open it once", key=TRAIN + key))
        parent, options = READ_BY.get(setting, ("", ()))
        option = above[above.index(parent) + 1] if parent in above[:-1] else None
        if option is not None and option not in options:
            message = f"{option} does not read '{setting}', only {', '.join(options)} do; open it below one of those"
            problems.append(Problem(message, key=TRAIN + key))
        found[setting] = value
    if problems:
        raise RecipeError(problems)
    return found


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
    good = isinstance(value, numbers) and not isinstance(value, bool) and abs(value) <= _LARGEST
    if good and (low < value < high or (with_low and value == low) or (with_high and value == high)):
        return None
    what = "a whole number" if kind == "int" else "a number"
    bounds = f"{'at least' if with_low else 'above'} {low:g}"
    if math.isfinite(high):
        bounds += f" and {'at most' if with_high else 'below'} {high:g}"
    return f"got {value!r}, allowed: {what} {bounds}"
