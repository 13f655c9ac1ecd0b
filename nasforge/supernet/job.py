"""Training of a `TrainShared` proposal: a supernet on sampled paths, or a mixture with learnt alphas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from nasforge import registry
from nasforge.core.alphas import Settings
from nasforge.core.architecture import TRAIN, Architecture
from nasforge.core.errors import ConfigError, Problem, did_you_mean
from nasforge.core.recipe import SETTINGS, Recipe, steps_of
from nasforge.core.space import SearchSpace
from nasforge.core.trial import TrainShared
from nasforge.data import ImageData
from nasforge.data.split import Split
from nasforge.models.network import build
from nasforge.supernet.bilevel import AlphaSteps, check_order
from nasforge.supernet.inheritance import inherit
from nasforge.supernet.mixed import Share
from nasforge.supernet.network import Supernet
from nasforge.supernet.paths import PATHS, SampledPaths, mean_flops
from nasforge.supernet.relaxations import is_relaxation, relaxation_of
from nasforge.supernet.relaxed import Relaxed, forward_flops
from nasforge.tasks.classification import CLASSIFICATION
from nasforge.tasks.task import Task
from nasforge.training.device import memory_format, uses_bf16
from nasforge.training.recalibration import recalibrate
from nasforge.training.scoring import score

_DIAGNOSED_IMAGES = 1000
_DIAGNOSED_BATCHES = 4


@dataclass(frozen=True)
class SharedTraining:
    """The arguments of the training loop.

    Attributes:
        network: what is trained; holds the supernet.
        split: images for the weights.
        flops: multiply-adds to charge for one image's forward pass, the alphas' share of the work in it.
        alphas: the steps of the alphas; None where paths are sampled.
    """

    network: nn.Module
    split: Split
    flops: float
    alphas: AlphaSteps | None = None


def shared_training(
    proposal: TrainShared,
    supernet: Supernet,
    data: ImageData,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    task: Task = CLASSIFICATION,
) -> SharedTraining:
    """Run the training that a proposal asks for.

    Args:
        proposal: names a way to draw paths (`PATHS`) or a registered relaxation.
        supernet: of its space.
        data: images; the validation split is for diagnostics only.
        recipe: of the weights.
        seed: of the draws.
        device: where the training will be.
        task: what it is trained for; the metric `accuracy` of its diagnostics is that of the task.

    Raises:
        ConfigError: unknown relaxation or setting, or an impossible combination.
    """
    check(proposal, supernet)
    if proposal.relaxation in PATHS:
        return _by_paths(proposal, supernet, data, seed)
    return _by_shares(proposal, supernet, data, recipe, seed, device, task)


def check(proposal: TrainShared, supernet: Supernet) -> None:
    """Refuse what cannot be trained; the supernet may be on the meta device.

    Raises:
        ConfigError: unknown relaxation or setting, or an impossible combination.
    """
    relaxation = proposal.relaxation
    if relaxation in PATHS:
        taken = [name for name in ("alphas", "cost_terms", "settings") if getattr(proposal, name)]
        if taken:
            raise ConfigError(
                f"train_shared: relaxation '{relaxation}' samples paths and takes no {taken[0]}; leave it out",
                kind="conflict",
                key=taken[0],
            )
    elif is_relaxation(relaxation):
        if proposal.paths:
            raise ConfigError(
                f"train_shared: relaxation '{relaxation}' takes no paths; leave them out", kind="conflict", key="paths"
            )
        if not supernet.decisions:
            raise ConfigError(
                f"space '{supernet.space.name}' leaves nothing to choose: every decision of the network has one value. "
                "Open one",
                kind="empty",
            )
        check_order(Settings.of(proposal.settings)[0], relaxation_of(relaxation), supernet)
    else:
        known = (*PATHS, *registry.names("relaxation"))
        raise ConfigError(
            f"train_shared: no relaxation '{relaxation}'; {did_you_mean(relaxation, known)}",
            kind="unknown",
            key="relaxation",
        )


def _by_paths(proposal: TrainShared, supernet: Supernet, data: ImageData, seed: int) -> SharedTraining:
    draw = PATHS[proposal.relaxation](proposal.space, proposal.paths, seed)
    flops = mean_flops(supernet, draw, data.shape)
    return SharedTraining(SampledPaths(supernet, draw), data.train, flops)


def _by_shares(
    proposal: TrainShared,
    supernet: Supernet,
    data: ImageData,
    recipe: Recipe,
    seed: int,
    device: torch.device,
    task: Task,
) -> SharedTraining:
    settings, bounds = Settings.of(proposal.settings)
    relaxed = Relaxed(supernet, proposal.relaxation, proposal.alphas)
    for_weights, for_alphas = halves(data.train, 0.5, seed)
    steps = proposal.epochs * steps_of(len(for_weights), recipe)
    bf16, layout = uses_bf16(recipe, device), memory_format(recipe, device)
    flops = forward_flops(relaxed, data.shape)

    def diagnose() -> Mapping[str, float]:
        return accuracies(relaxed, data, for_weights, recipe, device, bf16, layout)

    alphas = AlphaSteps(
        relaxed,
        for_alphas,
        settings,
        steps=steps,
        epochs=proposal.epochs,
        batch_size=recipe.batch_size,
        seed=seed,
        device=device,
        bf16=bf16,
        layout=layout,
        criterion=task.criterion(recipe, for_weights, device),
        cost_terms=proposal.cost_terms,
        bounds=bounds,
        diagnose=diagnose,
    )
    # In passes (forward, backward to the activations, backward to the weights), of which the weights' step takes three:
    # the alphas' takes two; looking ahead takes ten, all of L_train, all of L_val, twice two of L_train.
    passes = (10 if settings.second_order else 2) * (1 - min(1.0, settings.warmup_epochs / proposal.epochs))
    return SharedTraining(relaxed, for_weights, flops * (1 + passes / 3), alphas)


def recipe_point(space: SearchSpace) -> Architecture:
    """Return a point of `space` for its `train.*` decisions, which all paths of a supernet share.

    Raises:
        ConfigError: one of these decisions has several values.
    """
    several = [key for key, domain in space.domains.items() if key.startswith(TRAIN) and domain.size > 1]
    if several:
        point = space.default_point()
        example = ", ".join(f'"{key}": {point.values.get(key, "...")!r}' for key in several[:2])
        raise ConfigError(
            f"train_shared: space '{space.name}' still decides {', '.join(several)}; all paths of a supernet share one "
            f"recipe, so leave these one value: space.fixed({{{example}, ...}})",
            kind="conflict",
            key=several[0],
        )
    return space.default_point()


def check_shared(recipe: Recipe) -> None:
    """Check that a supernet can be trained by a recipe.

    Raises:
        ConfigError: the recipe has settings that are not for supernets; it names all of them.
    """
    problems = [
        Problem(
            f"is not for supernets: {SETTINGS[name].not_shared}; leave it out", key=TRAIN + name, kind="unsupported"
        )
        for name in recipe.changed()
        if SETTINGS[name].not_shared
    ]
    if problems:
        raise ConfigError(problems)


def halves(split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Divide a training split in two at random: for the weights (`share` of it) and for the alphas."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(share * len(split)))
    return split.subset(order[:cut].sort().values), split.subset(order[cut:].sort().values)


def accuracies(
    relaxed: Relaxed,
    data: ImageData,
    split: Split,
    recipe: Recipe,
    device: torch.device,
    bf16: bool,
    layout: torch.memory_format,
) -> dict[str, float]:
    """Return the accuracies of the mixed supernet, and of the first derived network on inherited weights.

    Relaxations of all options are mixed as they are on average; of single paths and open widths the most likely runs.

    The gap between them is what discretisation costs ("Understanding and Robustifying Differentiable Architecture
    Search", Zela et al. 2020, https://arxiv.org/abs/1909.09656).

    Returns:
        `supernet/accuracy`, `supernet/derived_accuracy`, on (at most 1,000 evenly spaced images of) the validation
        split.
    """
    supernet = relaxed.supernet
    # evenly spaced, since a folder of images has one class after the other
    images, count = len(data.validation), min(_DIAGNOSED_IMAGES, len(data.validation))
    validation = data.validation.subset(torch.tensor([place * images // count for place in range(count)]))
    if not relaxed.relaxation.single and not supernet.widths:
        supernet.mix(
            {
                key: Share(tuple(range(len(alphas))), relaxed.relaxation.probabilities(alphas.detach()))
                for key, alphas in relaxed.alphas.items()
            }
        )
    mixed = score(relaxed, validation, device=device, bf16=bf16, memory_format=layout)["accuracy"]
    relaxed.settle()

    point = relaxed.derived
    with torch.random.fork_rng(devices=[]):
        child = build(supernet.space, point, in_channels=data.shape[0], classes=len(data.class_names))
    inherit(supernet.state_dict(), point, child)
    child.to(device)
    child.to(memory_format=layout)
    recalibrate(child, split, recipe, device=device, batches=_DIAGNOSED_BATCHES, layout=layout)
    derived = score(child, validation, device=device, bf16=bf16, memory_format=layout)["accuracy"]
    return {"supernet/accuracy": mixed, "supernet/derived_accuracy": derived}
