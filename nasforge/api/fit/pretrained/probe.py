"""Networks that were trained on other images: their features, and a linear classifier on these.

The classifier comes first and fine-tuning starts from it, as in "Fine-Tuning can Distort Pretrained Features and
Underperform Out-of-Distribution", Kumar et al. 2022, https://arxiv.org/abs/2202.10054.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from nasforge.api.export import LARGEST
from nasforge.core.goals import Constraint
from nasforge.data import ImageData, Split
from nasforge.data.augment import normalise
from nasforge.data.division import at_most
from nasforge.exporters.best import describe
from nasforge.exporters.network_folder import TRAIN_AND_VALIDATION, Description, Network
from nasforge.models.costs import costs_of, latency_ms
from nasforge.models.network import build
from nasforge.models.timm_backbone import backbone_point, backbone_space
from nasforge.settings.experiment import DataConfig
from nasforge.training.artifacts import sha256_of
from nasforge.training.scoring import answers

SHARE = 0.1
"""Of the time of a fit, that all pretrained networks together may take."""
BATCH = 32
_TIMED = 8
"""Images of the batch whose time is measured."""
_SMALLER = (1.0, 0.75, 0.5)
"""Resolutions that are tried, relative to the one that the network was made for."""
_PENALTIES = (0.001, 0.01, 0.1)
"""Candidates for scikit-learn's `C` of the logistic regression, on features of unit deviation."""
_MOST = 5000
"""Images that the logistic regression learns from at most: its time grows with their number."""
_UNKNOWN = -20.0
"""Logit of a class that no training image has."""


@dataclass(frozen=True)
class Room:
    """The limits of a pretrained network.

    Attributes:
        constraints: on its costs.
        seconds: that its features may take.
        after: seconds that the test split and the export may take.
    """

    constraints: tuple[Constraint, ...]
    seconds: float
    after: float


@dataclass(frozen=True)
class Head:
    """A linear classifier.

    Attributes:
        weight: classes x features.
        bias: classes.
    """

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return probabilities, N x classes, of features, N x features."""
        logits = features.astype(float) @ self.weight.T + self.bias
        raised = np.exp(logits - logits.max(1, keepdims=True))
        divided: np.ndarray = raised / raised.sum(1, keepdims=True)
        return divided

    def put_into(self, network: nn.Module) -> None:
        """Make it the classifier of a network of timm."""
        classifier = classifier_of(network)
        with torch.no_grad():
            classifier.weight.copy_(torch.from_numpy(self.weight))
            classifier.bias.copy_(torch.from_numpy(self.bias))


@dataclass(frozen=True)
class Probed:
    """A pretrained network with a linear classifier.

    Attributes:
        network: with the classifier that all images of the pool taught.
        costs: of the network.
        places: of the images that its answers are on, in the order of the splits.
        probabilities: on these images, by classifiers that have not seen them.
        first: the classifier of the first split.
        resolution: to which the network resizes its input.
        second_per_image: of a forward pass.
    """

    network: Network
    costs: dict[str, float]
    places: np.ndarray
    probabilities: np.ndarray
    first: Head
    resolution: int
    second_per_image: float


class LeftOutError(Exception):
    """A pretrained network is not tried; the text says why. `for_time`: more time would change that."""

    def __init__(self, reason: str, *, for_time: bool = False) -> None:
        super().__init__(reason)
        self.for_time = for_time


def probe(
    name: str,
    weights: Path,
    data: ImageData,
    config: DataConfig,
    splits: Sequence[tuple[Split, Split]],
    room: Room,
    *,
    device: torch.device,
    balanced: bool,
    seed: int,
) -> Probed:
    """Compute the features of all images but the test split's once, and teach a linear classifier per split.

    Args:
        name: timm's, of the network.
        weights: file of its weights.
        data: the images.
        config: of the images.
        splits: pairs of the images to learn from and the images to answer on, disjoint over the pairs.
        room: costs and seconds that it may take.
        device: where features are computed.
        balanced: whether classes of unequal size weigh the same.
        seed: of the choice of the penalty.

    Raises:
        LeftOutError: it violates a constraint, takes too long, or has no linear classifier.
        BuildError: the file cannot be read, or does not fit the network.
    """
    end = time.monotonic() + room.seconds
    pool = data.train_and_validation()
    network, costs, resolution = _fitting(name, weights, data, room, device)
    description = _description(name, weights, data, config, network, costs, resolution)
    began = time.monotonic()
    known = features(network, replace(pool, mean=description.mean, std=description.std), device)
    per_image = (time.monotonic() - began) / len(pool)
    row_of = {place: row for row, place in enumerate(pool.index.tolist())}

    def rows(split: Split) -> np.ndarray:
        return np.array([row_of[place] for place in split.index.tolist()])

    def teach(split: Split, penalty: float) -> Head:
        return learn(known[rows(split)], split.labels.numpy(), pool.classes, penalty, balanced=balanced, seed=seed)

    began = time.monotonic()
    heads = [teach(splits[0][0], _PENALTIES[1])]
    second = time.monotonic() - began
    trained = (len(_PENALTIES) * 3 + len(splits) + 1) * second
    penalty = _PENALTIES[1]
    if time.monotonic() + trained < end:
        learnt = splits[0][0]
        penalty = best_penalty(known[rows(learnt)], learnt.labels.numpy(), balanced=balanced, seed=seed)
    elif time.monotonic() + len(splits) * second > end:
        raise LeftOutError(f"its {len(splits)} logistic regressions take {second:.1f} s each", for_time=True)
    heads = [teach(learnt, penalty) for learnt, _ in splits]
    probabilities = [head(known[rows(asked)]) for head, (_, asked) in zip(heads, splits, strict=True)]
    teach(pool, penalty).put_into(network)
    places = np.concatenate([asked.index for _, asked in splits])
    kept = Network(description, network.cpu())
    return Probed(kept, costs, places, np.concatenate(probabilities), heads[0], resolution, per_image)


def _fitting(
    name: str, weights: Path, data: ImageData, room: Room, device: torch.device
) -> tuple[nn.Module, dict[str, float], int]:
    """Return the network at its largest resolution that meets constraints and time, its costs and the resolution."""
    if room.seconds <= 0:
        raise LeftOutError("the other networks need the time. Give more --time", for_time=True)
    channels, classes, edge = data.shape[0], len(data.class_names), data.shape[1]
    pool, after = len(data.train_and_validation()), data.test_images + 4 * min(len(data.validation), LARGEST)
    point = backbone_point(name)

    def network_of(resolution: int) -> nn.Module:
        space = backbone_space(name, weights, resolution)
        return build(space, point, in_channels=channels, classes=classes)

    admitted: list[tuple[int, dict[str, float]]] = []
    violation = ""
    for resolution in _resolutions(name, edge):
        costs = costs_of(lambda: network_of(resolution), data.shape, BATCH)  # noqa: B023  (called at once)
        violation = _violation(costs, room.constraints)
        if not violation:
            admitted.append((resolution, costs))
    if not admitted:
        raise LeftOutError(violation)
    smallest, least = admitted[-1]
    network = network_of(smallest).to(device).eval()
    classifier_of(network)
    per_image = second_per_image(network, data.train, device)
    for seconds, allowed in ((pool * per_image, room.seconds), (after * per_image, room.after)):
        if seconds > allowed:
            raise LeftOutError(
                f"at {smallest} pixels it needs {seconds:.1f} s, and there are {allowed:.1f} s. Give more --time",
                for_time=True,
            )
    most = min(room.seconds / pool, room.after / after) / per_image * least["cost/flops"]
    for resolution, costs in admitted:
        if costs["cost/flops"] > most:
            continue
        network = network if resolution == smallest else network_of(resolution).to(device).eval()
        if any(limit.metric == "cost/latency_ms" for limit in room.constraints):
            costs["cost/latency_ms"] = latency_ms(network, data.shape, (1,), device)[1].median_ms
            violation = _violation(costs, room.constraints)
            if violation:
                continue
        return network, costs, resolution
    raise LeftOutError(violation)


def _violation(costs: dict[str, float], limits: Sequence[Constraint]) -> str:
    broken = [limit for limit in limits if limit.metric in costs and limit.violation(costs) > 0]
    return "; ".join(f"{costs[limit.metric]:,.15g} violates the constraint {limit.text}" for limit in broken)


def _resolutions(name: str, edge: int) -> list[int]:
    """Return the resolutions to try, the largest first: none is below that of the images, `edge`."""
    with torch.device("meta"):
        network = build(backbone_space(name), backbone_point(name), in_channels=3, classes=2)
    about: Any = network.default_cfg
    made_for = int(about["input_size"][-1])
    if about.get("fixed_input_size"):
        return [made_for]
    sizes = [round(made_for * share / 32) * 32 for share in _SMALLER]
    return sorted({max(size, edge) for size in sizes}, reverse=True)


def second_per_image(network: nn.Module, split: Split, device: torch.device) -> float:
    """Return the seconds of a forward pass per image, measured on a small batch after one that warms up."""
    few = split.subset(torch.arange(min(len(split), _TIMED)))
    answers(network, few.subset(torch.arange(1)), device=device)
    began = time.monotonic()
    answers(network, few, device=device)  # its result lies in main memory, so the device has ended
    return (time.monotonic() - began) / len(few)


def classifier_of(network: nn.Module) -> nn.Linear:
    """Return the linear layer that ends a network of timm.

    Raises:
        LeftOutError: there is none.
    """
    timms: Any = network
    classifier = timms.get_classifier() if hasattr(network, "get_classifier") else None
    if not isinstance(classifier, nn.Linear) or classifier.bias is None:
        raise LeftOutError("it does not end with one linear classifier. Choose another network")
    return classifier


def features(network: nn.Module, split: Split, device: torch.device) -> np.ndarray:
    """Return what reaches the classifier for every image of a split, N x features, float32."""
    reached: list[Tensor] = []
    hook = classifier_of(network).register_forward_pre_hook(
        lambda module, inputs: reached.append(inputs[0].float().cpu())
    )
    try:
        with torch.inference_mode():
            for images, _ in split.batches(torch.arange(len(split)), BATCH, device):
                network(normalise(images, split.mean, split.std))
    finally:
        hook.remove()
    joined: np.ndarray = torch.cat(reached).numpy()
    return joined


def learn(x: np.ndarray, y: np.ndarray, classes: int, penalty: float, *, balanced: bool, seed: int) -> Head:
    """Return the logistic regression of features `x` and classes `y`, as a classifier of the features themselves."""
    chosen = at_most(y, _MOST, seed)
    x, y = x[chosen], y[chosen]
    scaler = StandardScaler().fit(x)
    weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, _UNKNOWN)
    if len(np.unique(y)) == 1:
        bias[y[0]] = 0.0
        return Head(weight, bias)
    model = _regression(penalty, balanced=balanced).fit(scaler.transform(x), y)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(coefficients) == 1:  # two classes have one row, the logit of the second
        coefficients = np.concatenate([-coefficients / 2, coefficients / 2])
        intercepts = np.concatenate([-intercepts / 2, intercepts / 2])
    weight[model.classes_] = coefficients / scaler.scale_
    bias[model.classes_] = intercepts - weight[model.classes_] @ scaler.mean_
    return Head(weight, bias)


def _regression(penalty: float, *, balanced: bool) -> Any:
    return LogisticRegression(C=penalty, max_iter=200, class_weight="balanced" if balanced else None)


def best_penalty(x: np.ndarray, y: np.ndarray, *, balanced: bool, seed: int) -> float:
    """Return the penalty of `_PENALTIES` with the lowest log loss over three folds of these images."""
    chosen = at_most(y, _MOST, seed)
    x, y = x[chosen], y[chosen]
    smallest = np.bincount(y)[np.unique(y)].min()
    if smallest < 3 or len(np.unique(y)) < 2:
        return _PENALTIES[1]
    scaled, numbers = StandardScaler().fit_transform(x), np.unique(y, return_inverse=True)[1]
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)

    def loss(penalty: float) -> float:
        model = _regression(penalty, balanced=balanced)
        probabilities = cross_val_predict(model, scaled, y, cv=folds, method="predict_proba")
        return float(-np.log(np.maximum(probabilities[np.arange(len(y)), numbers], 1e-6)).mean())

    return min(_PENALTIES, key=loss)


def _description(
    name: str,
    weights: Path,
    data: ImageData,
    config: DataConfig,
    network: Any,
    costs: dict[str, float],
    resolution: int,
) -> Description:
    about: Any = network.default_cfg
    mean, std = (_per_channel(about[key], data.shape[0]) for key in ("mean", "std"))
    trained = {
        "parts": TRAIN_AND_VALIDATION,
        "data": asdict(config),
        "backbone": {"name": name, "file": weights.name, "sha256": sha256_of(weights), "licence": about.get("license")},
    }
    described = describe(backbone_space(name, None, resolution), backbone_point(name), data, costs, trained)
    return replace(described, mean=mean, std=std)


def _per_channel(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Return the values of red, green and blue; for other channels their mean, as timm merges its first weights."""
    if channels == len(values):
        return tuple(map(float, values))
    return (float(np.mean(values)),) * channels
