"""Recipe of a training: every setting with its description, its range and its default."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Annotated, Any

from nasforge.core.architecture import TRAIN, Architecture, Value
from nasforge.core.errors import Problem, RecipeError, did_you_mean
from nasforge.core.setting import ReadBy, Setting, settings_in
from nasforge.core.space import Choice, Decision, Domain, SearchSpace

_OPTIMIZER = "Optimizer"
_SCHEDULE = "Schedule"
_LOSS = "Loss and classes"
_AUGMENTATION = "Augmentation"
_WEIGHTS = "Regularisation and weights"
_OTHER = "Other"


@dataclass(frozen=True)
class Recipe:
    """The settings of a training. Zero switches off what has an amount.

    To add a setting, add an annotated field here, and read it where it acts. `python docs/generate.py` writes it into
    docs/reference/recipes.md.
    """

    optimizer: Annotated[
        str,
        Setting(
            "algorithm that updates the weights",
            group=_OPTIMIZER,
            choices=("sgd", "adagrad", "rmsprop", "adam", "adamw", "lamb", "muon"),
            implementation="torch; timm for LAMB and Muon",
        ),
    ] = "sgd"
    learning_rate: Annotated[
        float, Setting("highest rate of the schedule", group=_OPTIMIZER, over=0, changeable=True)
    ] = 0.1
    momentum: Annotated[
        float,
        Setting(
            "momentum of the gradients",
            group=_OPTIMIZER,
            least=0,
            below=1,
            read_by=ReadBy("optimizer", "sgd", "rmsprop", "muon"),
            changeable=True,
            implementation="torch, timm",
        ),
    ] = 0.9
    nesterov: Annotated[
        bool,
        Setting(
            "Nesterov's form of the momentum",
            group=_OPTIMIZER,
            read_by=ReadBy("optimizer", "sgd", "muon"),
            implementation="torch, timm",
        ),
    ] = True
    beta1: Annotated[
        float,
        Setting(
            "decay of the mean gradient (with `muon`, of the AdamW inside it)",
            group=_OPTIMIZER,
            least=0,
            below=1,
            read_by=ReadBy("optimizer", "adam", "adamw", "lamb", "muon"),
            implementation="torch, timm",
        ),
    ] = 0.9
    beta2: Annotated[
        float,
        Setting(
            "decay of the mean squared gradient (with `muon`, of the AdamW inside it)",
            group=_OPTIMIZER,
            least=0,
            below=1,
            read_by=ReadBy("optimizer", "adam", "adamw", "lamb", "muon"),
            implementation="torch, timm",
        ),
    ] = 0.999
    layer_decay: Annotated[
        float,
        Setting(
            "rate of a layer relative to that of the next one; 1: equal",
            group=_OPTIMIZER,
            over=0,
            most=1,
            implementation="timm's groups",
        ),
    ] = 1.0
    weight_decay: Annotated[
        float,
        Setting(
            "decay of the weights of convolutions and linear layers, never of biases and normalisations",
            group=_OPTIMIZER,
            least=0,
            changeable=True,
            implementation="timm's groups",
        ),
    ] = 5e-4
    batch_size: Annotated[int, Setting("images per step", group=_OPTIMIZER, least=1)] = 128
    keep_last_batch: Annotated[
        bool,
        Setting(
            "train on the incomplete last batch of an epoch too, if it has at least 2 images",
            group=_OPTIMIZER,
            later=True,
            implementation="ours",
        ),
    ] = False
    schedule: Annotated[
        str,
        Setting(
            "course of the learning rate",
            group=_SCHEDULE,
            choices=("cosine", "step", "exponential", "inverse_time", "constant", "one_cycle"),
            implementation="timm; 1/t: ours",
        ),
    ] = "cosine"
    warmup_epochs: Annotated[
        float,
        Setting(
            "epochs of a linear rise before the schedule begins; fractions are allowed",
            group=_SCHEDULE,
            least=0,
            read_by=ReadBy("schedule", "cosine", "step", "exponential", "inverse_time", "constant"),
            implementation="timm",
        ),
    ] = 0.0
    decay: Annotated[
        float,
        Setting(
            "factor of the rate after `decay_epochs`",
            group=_SCHEDULE,
            over=0,
            most=1,
            read_by=ReadBy("schedule", "step", "exponential", "inverse_time"),
            implementation="timm",
        ),
    ] = 0.1
    decay_epochs: Annotated[
        float,
        Setting(
            "epochs until `decay` is reached; 0: a third of all",
            group=_SCHEDULE,
            least=0,
            read_by=ReadBy("schedule", "step", "exponential", "inverse_time"),
            implementation="timm",
        ),
    ] = 0.0
    loss: Annotated[
        str,
        Setting(
            "loss; with `focal`, images that are already right count less",
            group=_LOSS,
            choices=("cross_entropy", "focal"),
            implementation="torch; ours for several classes",
        ),
    ] = "cross_entropy"
    focal_gamma: Annotated[
        float,
        Setting(
            "strength of the focal loss; 0: cross-entropy",
            group=_LOSS,
            least=0,
            read_by=ReadBy("loss", "focal"),
            implementation="ours",
        ),
    ] = 2.0
    class_weights: Annotated[
        str,
        Setting(
            "weights of the classes in the loss; `balanced`: inverse to their sizes",
            group=_LOSS,
            choices=("none", "balanced"),
            excludes=("sampling",),
            conflict="both would correct for the classes twice",
            implementation="torch; scikit-learn's formula",
        ),
    ] = "none"
    sampling: Annotated[
        str,
        Setting(
            "draw of the images; `uniform`: each once an epoch; `balanced`: all classes equally often",
            group=_LOSS,
            choices=("uniform", "balanced"),
            implementation="torch",
        ),
    ] = "uniform"
    label_smoothing: Annotated[
        float,
        Setting(
            "share of the target that is spread over all classes",
            group=_LOSS,
            least=0,
            below=1,
            changeable=True,
            implementation="torch",
        ),
    ] = 0.0
    clip_norm: Annotated[
        float,
        Setting(
            "largest norm of the gradient; 0: no clipping",
            group=_OPTIMIZER,
            least=0,
            changeable=True,
            implementation="torch",
        ),
    ] = 0.0
    ema_decay: Annotated[
        float,
        Setting(
            "decay of the moving average of the weights, which is validated and kept; 0: no average",
            group=_WEIGHTS,
            least=0,
            below=1,
            implementation="timm",
        ),
    ] = 0.0
    swa_share: Annotated[
        float,
        Setting(
            "share of the last epochs whose mean weights are validated and kept; 0: none",
            group=_WEIGHTS,
            least=0,
            most=1,
            excludes=("ema_decay",),
            conflict="only one average is kept",
            not_shared="the batch statistics of an average belong to one path; use ema_decay",
            implementation="torch",
        ),
    ] = 0.0
    precise_bn: Annotated[
        int,
        Setting(
            "batches of 128 images for the batch statistics before each validation; 0: running averages",
            group=_WEIGHTS,
            least=0,
            implementation="ours",
        ),
    ] = 8
    early_stopping: Annotated[
        int,
        Setting(
            "epochs without improvement before training ends; 0: never",
            group=_SCHEDULE,
            least=0,
            not_shared="it is trained without a validation split",
            implementation="ours",
        ),
    ] = 0
    early_stopping_metric: Annotated[
        str,
        Setting(
            "metric of the validation split that must improve",
            group=_SCHEDULE,
            choices=("accuracy", "loss", "f1_macro"),
            read_by=ReadBy("early_stopping"),
            implementation="ours",
        ),
    ] = "accuracy"
    init: Annotated[
        str,
        Setting(
            "initial weights of convolutions and linear layers; `builder`: as built",
            group=_WEIGHTS,
            choices=("builder", "he", "xavier", "orthogonal"),
            implementation="torch",
        ),
    ] = "builder"
    crop_pixels: Annotated[
        int,
        Setting(
            "largest random shift, in pixels",
            group=_AUGMENTATION,
            least=0,
            changeable=True,
            implementation="ours, by image",
        ),
    ] = 0
    crop_fill: Annotated[
        str,
        Setting(
            "colour behind a shifted image; `mean`: the mean colour of the training images",
            group=_AUGMENTATION,
            choices=("black", "mean"),
            changeable=True,
            later=True,
            implementation="ours",
        ),
    ] = "black"
    flip: Annotated[
        bool,
        Setting(
            "mirror half of the images left to right",
            group=_AUGMENTATION,
            changeable=True,
            implementation="ours, by image",
        ),
    ] = False
    flip_order: Annotated[
        str,
        Setting(
            "`alternating` mirrors each image in every other epoch, `random` draws in each epoch which ones",
            group=_AUGMENTATION,
            choices=("random", "alternating"),
            changeable=True,
            later=True,
            read_by=ReadBy("flip"),
            implementation="ours",
        ),
    ] = "random"
    vertical_flip: Annotated[
        bool,
        Setting(
            "mirror half of the images upside down",
            group=_AUGMENTATION,
            changeable=True,
            implementation="ours, by image",
        ),
    ] = False
    rotation_degrees: Annotated[
        float,
        Setting(
            "largest rotation to either side, in degrees",
            group=_AUGMENTATION,
            least=0,
            most=180,
            changeable=True,
            implementation="torch's grid sampling, by image",
        ),
    ] = 0.0
    color_jitter: Annotated[
        float,
        Setting(
            "largest relative change of brightness, contrast and saturation",
            group=_AUGMENTATION,
            least=0,
            most=1,
            changeable=True,
            implementation="torchvision's blends, by image",
        ),
    ] = 0.0
    pca_noise: Annotated[
        float,
        Setting(
            "standard deviation of the noise along the principal components of the colours; 0: none; 0.1 in the paper",
            group=_AUGMENTATION,
            least=0,
            changeable=True,
            later=True,
            implementation="ours, by image",
        ),
    ] = 0.0
    randaugment: Annotated[
        int,
        Setting(
            "operations per image; 0: none; 2 in the paper",
            group=_AUGMENTATION,
            least=0,
            changeable=True,
            implementation="torchvision's operations, by image",
        ),
    ] = 0
    randaugment_magnitude: Annotated[
        int,
        Setting(
            "strength of the operations, one for all images",
            group=_AUGMENTATION,
            least=0,
            most=30,
            read_by=ReadBy("randaugment"),
            changeable=True,
            implementation="torchvision",
        ),
    ] = 9
    random_erasing: Annotated[
        float,
        Setting(
            "probability of a rectangle of noise",
            group=_AUGMENTATION,
            least=0,
            most=1,
            changeable=True,
            implementation="ours, by image",
        ),
    ] = 0.0
    cutout_pixels: Annotated[
        int,
        Setting(
            "edge of a blanked square, in pixels; 0: none",
            group=_AUGMENTATION,
            least=0,
            changeable=True,
            implementation="ours, by image",
        ),
    ] = 0
    mixup: Annotated[
        float,
        Setting(
            "alpha of the share at which two images are mixed; 0: none; usual: 0.1 to 0.4",
            group=_AUGMENTATION,
            least=0,
            changeable=True,
            implementation="ours, a share by batch",
        ),
    ] = 0.0
    cutmix: Annotated[
        float,
        Setting(
            "alpha of the share of an image that a rectangle of another one covers; 0: none; usual: 1",
            group=_AUGMENTATION,
            least=0,
            changeable=True,
            implementation="ours, a share and box by batch",
        ),
    ] = 0.0
    manifold_mixup: Annotated[
        float,
        Setting(
            "alpha of the share at which two inputs of a random layer are mixed; 0: none",
            group=_AUGMENTATION,
            least=0,
            not_shared="its layers change from path to path; use mixup or cutmix",
            implementation="ours, a share and layer by batch",
        ),
    ] = 0.0
    dropout: Annotated[
        float,
        Setting(
            "probability in all Dropout layers; 0: as built",
            group=_WEIGHTS,
            least=0,
            below=1,
            changeable=True,
            implementation="torch, timm",
        ),
    ] = 0.0
    drop_path: Annotated[
        float,
        Setting(
            "probability of skipping the last residual branch, lower for those before it",
            group=_WEIGHTS,
            least=0,
            below=1,
            changeable=True,
            implementation="ours, as torchvision's",
        ),
    ] = 0.0
    frozen_stages: Annotated[
        int,
        Setting(
            "number of frozen parts of the network, the stem first",
            group=_WEIGHTS,
            least=0,
            excludes=("init", "zero_init"),
            conflict="it keeps what the network begins with",
            not_shared="it begins with nothing to keep",
            implementation="ours; timm's groups",
        ),
    ] = 0
    zero_init: Annotated[bool, Setting("start residual branches at zero", group=_WEIGHTS, implementation="torch")] = (
        False
    )
    health: Annotated[
        bool,
        Setting(
            "report norms of gradients and activations, and dead ReLUs, of every part of the network",
            group=_OTHER,
            not_shared="its parts change from path to path",
            implementation="ours",
        ),
    ] = False
    precision: Annotated[
        str,
        Setting(
            "arithmetic; `auto`: bf16 where the device is faster in it",
            group=_OTHER,
            choices=("auto", "fp32", "bf16"),
            implementation="torch",
        ),
    ] = "auto"
    channels_last: Annotated[
        str | bool,
        Setting(
            "memory format; `auto`: where it is faster",
            group=_OTHER,
            choices=("auto", True, False),
            implementation="torch",
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        problems = [
            Problem(problem, key=TRAIN + name, kind=setting.kind_of_problem(getattr(self, name)))
            for name, setting in SETTINGS.items()
            if (problem := setting.problem(getattr(self, name)))
        ]
        problems = problems or self._contradictions()
        if problems:
            raise RecipeError(problems)

    def _contradictions(self) -> list[Problem]:
        """Return the settings that exclude each other."""
        changed = self.changed()
        problems = []
        for name in changed:
            others = [TRAIN + other for other in SETTINGS[name].excludes if other in changed]
            if others:
                message = (
                    f"set together with {' and '.join(others)}, but {SETTINGS[name].conflict}; leave one of them out"
                )
                problems.append(Problem(message, key=TRAIN + name, kind="conflict"))
        return problems

    def changed(self) -> list[str]:
        """Return the names of the settings that do not have their defaults."""
        return [name for name, setting in SETTINGS.items() if getattr(self, name) != setting.default]

    def identifying(self) -> dict[str, Value]:
        """Return the settings by which a checkpoint knows its training.

        Settings that came later and have their defaults are left out, so that older checkpoints can still be continued.
        """
        changed = self.changed()
        return {name: value for name, value in asdict(self).items() if not SETTINGS[name].later or name in changed}

    @staticmethod
    def of(values: Mapping[str, Any]) -> "Recipe":
        """Make the recipe with these settings and the defaults of all others.

        Raises:
            RecipeError: unknown settings or bad values, all of them.
        """
        problems = [
            Problem(f"unknown setting; {did_you_mean(str(key), SETTINGS)}", key=f"{TRAIN}{key}", kind="unknown")
            for key in values
            if key not in SETTINGS
        ]
        recipe = None
        try:
            recipe = Recipe(**{key: value for key, value in values.items() if key in SETTINGS})
        except RecipeError as error:
            problems.extend(error.problems)
        if recipe is None or problems:
            raise RecipeError(problems)
        return recipe


SETTINGS = settings_in(Recipe)
"""The settings of a recipe by name."""
CHANGEABLE = frozenset(name for name, setting in SETTINGS.items() if setting.changeable)
"""Settings that a continued training may change."""
_EXCLUDING = frozenset(
    name for setting in SETTINGS.values() if setting.excludes for name in (setting.name, *setting.excludes)
)


def recipe_of(space: SearchSpace, architecture: Architecture, overrides: Mapping[str, Value]) -> Recipe:
    """Return the recipe of a point: defaults < the space's `train.*` < `overrides` < the point's decisions.

    A nested decision sets what its key ends with: `train.optimizer.sgd.momentum` is the momentum.

    Raises:
        RecipeError: unknown or contradicting settings, bad values, or an option with a setting that it does not read.
    """
    return Recipe.of(settings_of(space, architecture, overrides))


def settings_of(space: SearchSpace, architecture: Architecture, overrides: Mapping[str, Value]) -> dict[str, Value]:
    """Return all settings of `recipe_of` by name, with unchecked values.

    Raises:
        RecipeError: a setting is made twice, or below an option that does not read it.
    """
    defaults = {key.removeprefix(TRAIN): value for key, value in space.defaults.items() if key.startswith(TRAIN)}
    plain = {key: value for key, value in defaults.items() if "." not in key}  # others are of decisions, active or not
    return {**asdict(Recipe()), **plain, **overrides, **_by_setting(architecture.train)}


FEWEST_STEPS = 300
"""Below this number of optimizer steps, a network has often learnt nothing yet. `fit` trains for so many where it has
the time."""


def steps_of(images: int, recipe: Recipe) -> int:
    """Return the number of optimizer steps in one pass over this many images, at least 1.

    A last batch of one image is never trained on: batch normalisation needs two.
    """
    complete, left = divmod(images, recipe.batch_size)
    return max(1, complete + (recipe.keep_last_batch and left >= 2))


def check_recipes(space: SearchSpace, overrides: Mapping[str, Value]) -> None:
    """Make the recipe of the default point, and of every extreme of every recipe decision, rather than in a trial.

    Where settings may exclude each other, every two extremes are tried together.

    Raises:
        RecipeError: one of them is invalid.
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
    """Yield the default point with one recipe decision at a time at each end or at each of its options."""
    for key, value in _extremes(space):
        yield _point_with(space, {key: value})


def _extremes(space: SearchSpace) -> list[tuple[str, Value]]:
    return [(key, value) for key, domain in space.domains.items() if key.startswith(TRAIN) for value in domain.ends]


def _point_with(space: SearchSpace, fixed: Mapping[str, Value]) -> Architecture:
    """Return the point closest to the default that has these decisions and all that they need."""

    def choose(asked: str, domain: Domain) -> Value:
        if asked in fixed:
            return fixed[asked]
        if isinstance(domain, Choice):
            for option in domain.options:
                if any(not fixed.keys().isdisjoint(_keys(decision)) for decision in domain.branch(option)):
                    return option
        return space.default_of(asked)

    return space.decide(choose)


def _keys(decision: Decision) -> set[str]:
    below = decision.domain.branches if isinstance(decision.domain, Choice) else ()
    return {decision.key}.union(*(_keys(nested) for branch in below for nested in branch))


def _by_setting(decided: Mapping[str, Value]) -> dict[str, Value]:
    """Map the settings to their values, from decisions of a recipe whose keys lack `train.`."""
    settings: dict[str, Value] = {}
    problems = []
    for key, value in decided.items():
        *above, setting = key.split(".")
        if setting in settings:
            problems.append(Problem(f"sets '{setting}' a second time; open it once", key=TRAIN + key, kind="duplicate"))
        reader = SETTINGS[setting].read_by if setting in SETTINGS else None
        if reader is not None and reader.options and reader.setting in above[:-1]:
            option = above[above.index(reader.setting) + 1]
            if option not in reader.options:
                readers = ", ".join(reader.options)
                message = f"{option} does not read '{setting}', only {readers} do; open it below one of those"
                problems.append(Problem(message, key=TRAIN + key, kind="conflict"))
        settings[setting] = value
    if problems:
        raise RecipeError(problems)
    return settings
