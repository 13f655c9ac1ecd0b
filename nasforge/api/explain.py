"""Show what a trained network sees in an image: the maps of each stage, and the regions that speak for a class.

"Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", Selvaraju et al. 2017,
https://arxiv.org/abs/1610.02391.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nasforge.api.predict import Predictor, image_files, network_of, places_of_images, predictor
from nasforge.core.errors import ConfigError, DataError, ExportError, did_you_mean
from nasforge.core.layout import BEST, JOURNAL, SEARCH
from nasforge.data.image_data import load_data
from nasforge.data.image_file import read_image, why_unreadable
from nasforge.experiment.state import load_state
from nasforge.exporters.network_folder import Network, replaced_folder
from nasforge.views.explained import DESCRIPTION, FOLDER

MOST = 64
"""Images that one call explains at most."""
_CHANNELS = 16
"""Channels drawn of each stage: those that vary most over the image."""
_CHOSEN = 4
"""Mistakes, and right answers, that are explained where no image is named."""
_EDGE = 224
"""Least edge of a drawing in pixels."""
_HEAT = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])
"""Colours from none to most: five points of matplotlib's `inferno`."""


@dataclass(frozen=True)
class Stage:
    """The maps of one resolution.

    Attributes:
        module: name of the last module in the network that computes maps of this resolution.
        channels: number of maps.
        height: in pixels.
        width: in pixels.
        picture: file with the channels that vary most over the image.
    """

    module: str
    channels: int
    height: int
    width: int
    picture: str


@dataclass(frozen=True)
class Explanation:
    """Maps and regions of one image, as a network computes them.

    Attributes:
        image: the file, or the place of the image in the experiment's validation split.
        truth: its class; None for a file.
        answer: the likeliest class.
        probability: of the likeliest class.
        explained: the class that `heat` is about.
        folder: where the pictures are.
        input: file with the image as the network gets it.
        heat: file with the regions that speak for the class, drawn over the image.
        silent: True where no region speaks for the class, so that `heat` shows the image alone.
        stages: maps of each resolution, from the image to the head.
    """

    image: str
    truth: str | None
    answer: str
    probability: float
    explained: str
    folder: str
    input: str
    heat: str
    silent: bool
    stages: tuple[Stage, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON-able form."""
        return {**asdict(self), "stages": [asdict(stage) for stage in self.stages]}


def explain(
    model: str | Path,
    images: str | Path | Sequence[str | Path] = (),
    *,
    class_name: str | None = None,
    out: str | Path | None = None,
    runs_dir: str | Path = "runs",
    trust: bool = False,
    skip: Callable[[Path, str], None] | None = None,
) -> list[Explanation]:
    """Compute and store what a network sees in images.

    Args:
        model: the name of a fit or an experiment in `runs_dir`, its folder, or a network folder.
        images: image files, and folders of images; or one of them. None: the surest mistakes and the surest right
            answers among the validation images of the fit or the experiment.
        class_name: the class to explain; None: the likeliest one of each image.
        out: folder of the pictures; None: `explained` in the folder of the fit or the experiment.
        runs_dir: folder of fits and experiments.
        trust: you agree to run the builder that a network folder names, see `nasforge.load`.
        skip: called with each file that cannot be read and the reason, and the others are explained; None: such a
            file is an error.

    Returns:
        An explanation for each image that can be read.

    Raises:
        ConfigError: the network has no such class, or more than 64 images are named.
        DataError: an image cannot be read, or there is none.
        ExportError: there is no such network, it has no maps to explain, or the pictures cannot be written.
        TrustError: the network folder names code that you have not agreed to run.
    """
    images = places_of_images("explain", images)
    place = network_of(model, runs_dir)
    if place.is_file():
        raise ExportError(
            f"{place}: an ONNX file has no gradients, expected a network folder; name the fit or the experiment",
            kind="unsupported",
        )
    reader = predictor(place.absolute(), trust=trust)
    network = reader.logits
    assert isinstance(network, Network)  # noqa: S101 - a network folder holds nothing else
    if class_name is not None and class_name not in reader.class_names:
        hint = did_you_mean(class_name, reader.class_names)
        raise ConfigError(f"explain: the network has no class '{class_name}'; {hint}", kind="unknown", key="class")
    owner = place.parent if place.name == BEST else place
    folder = (owner / FOLDER if out is None else Path(out)).absolute()
    pictures = _files(reader, images, skip) if images else _from_validation(reader, owner)
    return [_explain_one(reader, network, folder, name, truth, pixels, class_name) for name, truth, pixels in pictures]


def _files(
    reader: Predictor, images: Sequence[str | Path], skip: Callable[[Path, str], None] | None
) -> Iterator[tuple[str, str | None, np.ndarray]]:
    files = list(image_files(images))
    if len(files) > MOST:
        raise ConfigError(f"explain: got {len(files)} images, expected at most {MOST}; name fewer", kind="range")
    for file in files:
        try:
            pixels = read_image(file, reader.rule, reader.shape[1:]).pixels
        except DataError as error:
            if skip is None:
                raise
            skip(file, why_unreadable(file, error))
            continue
        yield str(file), None, pixels


def _from_validation(reader: Predictor, owner: Path) -> Iterator[tuple[str, str | None, np.ndarray]]:
    """Yield the surest mistakes, then the surest right answers, among the validation images of an experiment."""
    experiment = next((place for place in (owner / SEARCH, owner) if (place / JOURNAL).is_file()), None)
    config = None if experiment is None else load_state(experiment).config
    if config is None or config.data is None:
        raise DataError(f"{owner}: no data set belongs to this network; name the images to explain", kind="missing")
    data = load_data(config.data)
    if data.class_names != reader.class_names or data.shape != reader.shape:
        raise DataError(
            f"data {config.data.source}: its classes or its image size differ from the network's; name images",
            kind="changed",
        )
    truth, part = data.validation.labels.numpy(), data.validation
    answers = np.concatenate(
        [reader.probabilities(part.take(slice(at, at + 256)).numpy()) for at in range(0, len(part), 256)]
    )
    by_certainty = np.argsort(-answers.max(1), kind="stable")
    right = answers.argmax(1)[by_certainty] == truth[by_certainty]
    for place in (*by_certainty[~right][:_CHOSEN], *by_certainty[right][:_CHOSEN]):
        pixels = part.take(slice(int(place), int(place) + 1))[0].numpy()
        yield f"validation image {place}", reader.class_names[truth[place]], pixels


def _explain_one(
    reader: Predictor,
    network: Network,
    folder: Path,
    name: str,
    truth: str | None,
    pixels: np.ndarray,
    class_name: str | None,
) -> Explanation:
    probabilities = reader.probabilities(pixels[None])[0]
    best = int(probabilities.argmax())
    number = best if class_name is None else reader.class_names.index(class_name)
    maps, gradient = _maps_and_gradient(network, torch.from_numpy(pixels[None]).float() / 255, number)
    heat = grad_cam(list(maps.values())[-1], gradient)
    digest = hashlib.sha256(os.fsencode(name) + pixels.tobytes()).hexdigest()[:8]
    target = folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(name).stem)[:40]}-{digest}"
    stages = tuple(
        Stage(module, each.shape[0], each.shape[1], each.shape[2], f"stage_{index}.png")
        for index, (module, each) in enumerate(maps.items(), 1)
    )
    explanation = Explanation(
        image=name,
        truth=truth,
        answer=reader.class_names[best],
        probability=float(probabilities[best]),
        explained=reader.class_names[number],
        folder=str(target),
        input="input.png",
        heat="heat.png",
        silent=not heat.any(),
        stages=stages,
    )
    with replaced_folder(target) as temporary:
        image = _as_image(pixels)
        image.save(temporary / explanation.input)
        _over(image, heat).save(temporary / explanation.heat)
        for stage, each in zip(stages, maps.values(), strict=True):
            _grid(each.numpy()).save(temporary / stage.picture)
        content = {key: value for key, value in explanation.to_json().items() if key != "folder"}
        (temporary / DESCRIPTION).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return explanation


def _maps_and_gradient(network: Network, image: Tensor, number: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return the maps of each resolution, C x H x W by module, and the gradient of a logit by the last of them.

    Args:
        network: in eval mode.
        image: 1 x C x H x W in 0..1.
        number: index of the class.
    """
    device = next(network.parameters()).device
    last_of_size: dict[tuple[int, int], str] = {}
    maps: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> None:
        last_of_size[(output.shape[2], output.shape[3])] = name

    with torch.no_grad(), _watched(network.body, dict(network.body.named_modules()), note):
        network(image.to(device))
    if not last_of_size:
        raise ExportError(
            f"builder '{network.description.space.builder}' makes a network without maps larger than one pixel; "
            "there is nothing to draw",
            kind="unsupported",
        )
    chosen = {name: network.body.get_submodule(name) for name in last_of_size.values()}

    def keep(name: str, output: Tensor) -> None:
        output.retain_grad()
        maps[name] = output

    with torch.enable_grad(), _watched(network.body, chosen, keep):
        logits = network(image.to(device).requires_grad_())
        logits[0, number].backward()
    gradient = list(maps.values())[-1].grad
    assert gradient is not None  # noqa: S101 - the logits are computed from it
    network.zero_grad(set_to_none=True)
    return {name: output.detach()[0].float().cpu() for name, output in maps.items()}, gradient[0].float().cpu()


@contextmanager
def _watched(body: nn.Module, modules: Mapping[str, nn.Module], use: Any) -> Iterator[None]:
    """Call `use(name, output)` for each module that computes maps of more than one pixel."""

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[2] * output.shape[3] == 1:
                return None
            use(name, output)
            return output.clone()  # the next layer may work in place

        return hook

    handles = [module.register_forward_hook(hook_of(name)) for name, module in modules.items() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def grad_cam(maps: Tensor, gradient: Tensor) -> np.ndarray:
    """Return how much each pixel of the maps speaks for a class, H x W in 0..1.

    Args:
        maps: C x H x W.
        gradient: of the class's logit by the maps, C x H x W.
    """
    weights = gradient.mean((1, 2))
    heat = torch.relu((weights[:, None, None] * maps).sum(0))
    return (heat / heat.max()).numpy() if heat.max() > 0 else torch.zeros_like(heat).numpy()


def _as_image(pixels: np.ndarray) -> Image.Image:
    """Make an image of bytes, C x H x W with one or three channels, at least `_EDGE` pixels high and wide."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    factor = max(1, -(-_EDGE // min(image.size)))
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _over(image: Image.Image, heat: np.ndarray) -> Image.Image:
    """Draw heat, H x W in 0..1, over an image."""
    large = Image.fromarray((255 * heat).astype(np.uint8)).resize(image.size, Image.Resampling.BILINEAR)
    share = np.asarray(large, dtype=float) / 255
    grey = np.asarray(image.convert("L"), dtype=float)[..., None]
    ends = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(share, ends, _HEAT[:, channel]) for channel in range(3)], -1)
    weight = 0.25 + 0.5 * share[..., None]
    return Image.fromarray(((1 - weight) * grey + weight * colours).astype(np.uint8))


def _grid(maps: np.ndarray) -> Image.Image:
    """Draw the channels that vary most, C x H x W, each from its least to its greatest value."""
    strongest = np.argsort(-maps.std((1, 2)), kind="stable")[:_CHANNELS]
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    scaled = (255 * (maps - low) / np.where(high > low, high - low, 1)).astype(np.uint8)[strongest]
    columns = int(np.ceil(np.sqrt(len(scaled))))
    factor = max(1, 56 // min(scaled.shape[1:]))
    tiles = np.pad(scaled.repeat(factor, 1).repeat(factor, 2), ((0, 0), (1, 1), (1, 1)), constant_values=255)
    blank = np.full((-len(tiles) % columns, *tiles.shape[1:]), 255, np.uint8)
    rows = np.concatenate([tiles, blank]).reshape(-1, columns, *tiles.shape[1:])
    return Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows], 0))
