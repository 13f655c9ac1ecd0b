"""One retraining of one network: trained and saved, here or on any worker; then measured on the sealed test split."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from nasforge.core.architecture import Architecture, Value
from nasforge.core.errors import RecipeError, SearchError
from nasforge.core.goals import Objective
from nasforge.core.layout import DESCRIPTION
from nasforge.core.recipe import Recipe
from nasforge.core.space import SearchSpace
from nasforge.data import load_data
from nasforge.data.npz import write_npz
from nasforge.data.sources import image_ids
from nasforge.data.split import Split
from nasforge.exporters.best import describe
from nasforge.exporters.network_folder import TRAIN_AND_VALIDATION, save_network
from nasforge.models.ensemble import Ensemble, Mirrored, TenCrops
from nasforge.models.network import fresh
from nasforge.settings.experiment import DataConfig
from nasforge.settings.spec import CLASSIFICATION
from nasforge.tasks.task import Answers, task_of
from nasforge.training.data_parallel import checkpoint_of_process, data_parallel
from nasforge.training.device import device_of, without_tf32
from nasforge.training.failures import TrainingFailed
from nasforge.training.loop import train
from nasforge.training.scoring import outputs_and_loss, score
from nasforge.training.state import Checkpoint

Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Told (name of the network being retrained, epochs done, epochs in all, metrics)."""


@dataclass(frozen=True)
class Retraining:
    """One training from scratch on train and validation together; light to pickle.

    Attributes:
        name: of the network, unique in its experiment.
        folder: where the network is kept, with its checkpoint while it is trained.
        space: names the builder.
        architecture: the point.
        recipe: how.
        seed: of the initialisation and the training.
        epochs: all of them; the last is kept.
        data: without a limit on images.
        costs: of the network.
        device: `auto`, `cpu`...; decided where the training happens.
        data_hash: what the data must be there.
        role: what it is to the search: `found`, `random` or `reference`.
        trial: number of the trial that it comes from, or whose reference it is; None outside of a search.
        widened: the decisions that were raised; empty for the trial's own network, and for a reference.
        task: what it is trained for.
        reference: name under which the user asked for a reference; empty for other roles.
    """

    name: str
    folder: Path
    space: SearchSpace
    architecture: Architecture
    recipe: Recipe
    seed: int
    epochs: int
    data: DataConfig
    costs: Mapping[str, float]
    device: str
    data_hash: str
    role: str = "found"
    trial: int | None = None
    widened: Mapping[str, Value] = field(default_factory=dict)
    task: str = CLASSIFICATION
    reference: str = ""

    @property
    def trained(self) -> bool:
        """True if the network is there, whole."""
        return (self.folder / DESCRIPTION).is_file()


Outcomes = Iterator[tuple[Retraining, str]]
"""Trainings as they end, each with the reason of its failure in words, empty where it went well."""

Trainer = Callable[[Sequence[Retraining], Progress], Outcomes]
"""What trains: here, or on workers."""


def one_after_another(retrainings: Sequence[Retraining], progress: Progress) -> Outcomes:
    """Train in this process."""
    for retraining in retrainings:
        yield retraining, train_network(retraining, progress)


def train_network(retraining: Retraining, progress: Progress, checkpoint_s: float = 0.0) -> str:
    """Train a network and save it, from its checkpoint if there is one; in a process group all of it together.

    Args:
        retraining: what to train, and how.
        progress: is told every epoch.
        checkpoint_s: age of the last checkpoint, in seconds, from which on the end of an epoch writes another one.

    Returns:
        Why it failed, in words; empty when it is saved.

    Raises:
        SearchError: the experiment's folder or the same data are not here.
    """
    experiment = retraining.folder.parents[1]
    if not experiment.is_dir():
        raise SearchError(
            f"a worker does not see {experiment}; --runs-dir must lie on storage that all nodes see",
            kind="missing",
            key="runs_dir",
        )
    if retraining.trained:  # by a worker that was killed before anybody heard of it
        return ""
    data = load_data(retraining.data)
    if data.fingerprint != retraining.data_hash:
        raise SearchError(
            "a worker sees other data than this process; the data must be the same on every node",
            kind="changed",
            key="data",
        )
    channels, classes = data.shape[0], len(data.class_names)
    network = fresh(retraining.space, retraining.architecture, retraining.seed, in_channels=channels, classes=classes)
    grouped = dist.is_available() and dist.is_initialized()

    def on_epoch(epoch: int, metrics: Mapping[str, float]) -> bool:
        progress(retraining.name, epoch, retraining.epochs, metrics)
        return True

    checkpoint = retraining.folder / "checkpoint.pt"
    with TemporaryDirectory() as scratch, data_parallel(network) if grouped else nullcontext():
        try:
            trained = train(
                network,
                data.train_and_validation(),
                retraining.recipe,
                epochs=retraining.epochs,
                seed=retraining.seed,
                device=device_of(retraining.device),
                checkpoint=Checkpoint(
                    checkpoint_of_process(checkpoint, Path(scratch)) if grouped else checkpoint, epoch_s=checkpoint_s
                ),
                on_epoch=on_epoch,
                flops=retraining.costs["cost/flops"],
                task=task_of(retraining.task),
            )
        except (TrainingFailed, RecipeError) as error:
            return str(error)
    if grouped and dist.get_rank():
        return ""
    about = {
        "finalist": retraining.name,
        "role": retraining.role,
        **({} if retraining.trial is None else {"trial": retraining.trial}),
        **({"widened": dict(retraining.widened)} if retraining.widened else {}),
        **({"reference": retraining.reference} if retraining.reference else {}),
        "data": asdict(retraining.data),
        "parts": TRAIN_AND_VALIDATION,
        "epochs": trained.steps_done,
        "seed": retraining.seed,
        "recipe": asdict(retraining.recipe),
    }
    metrics = {**retraining.costs, **trained.metrics}
    description = describe(retraining.space, retraining.architecture, data, metrics, about)
    save_network(retraining.folder, network, description)
    return ""


class Views(NamedTuple):
    """The views of an image that a kind of test-time augmentation averages the predictions over.

    Attributes:
        title: in one word.
        description: what they show.
        passes: forward passes for an image.
    """

    title: str
    description: str
    passes: int


VIEWS = {
    "flip": Views("flips", "an image and its mirror image", 2),
    "crops": Views("crops", "ten crops (centre, corners, mirrored)", 10),
}
"""Kinds of test-time augmentation; the metrics of a kind are `test_KIND/...`."""
_SHIFTED_SHARE = 8


def kinds_of(tta: str) -> tuple[str, ...]:
    """Return the kinds of test-time augmentation in `none`, `flip`, `crops` or `flip,crops`.

    Raises:
        SearchError: another text.
    """
    kinds = tuple(kind.strip() for kind in tta.split(",")) if isinstance(tta, str) and tta != "none" else ()
    if not (isinstance(tta, str) and set(kinds) <= set(VIEWS) and len(set(kinds)) == len(kinds)):
        raise SearchError(
            f"retrain: tta must be none, flip, crops or flip,crops, got {tta!r}; choose one of them",
            kind="unknown",
            key="tta",
        )
    return kinds


def measure(
    network: nn.Module,
    data: DataConfig,
    device: torch.device,
    tta: Collection[str],
    objectives: Sequence[Objective] = (),
    task: str = CLASSIFICATION,
    answers: Path | None = None,
    recipes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Measure a network that takes normalised images on the test split, in fp32; with `tta` its mean answers too.

    Args:
        network: a network, or an `Ensemble`; takes normalised images.
        data: of the search.
        device: where to compute.
        tta: kinds of test-time augmentation, see `VIEWS`.
        objectives: of the search; their metrics are measured too.
        task: of the search.
        answers: file for what the network says to each image: `truth` (N class numbers), `logits` (N x classes) and
            `ids` (N names of images, or their positions in the test split where the source has no names).
        recipes: settings of the network's training, of each member's for an ensemble; crops are shifted by
            `crop_pixels`, or by an eighth of the shorter side where that is 0, and filled as in training.

    Returns:
        `test/accuracy`, `test/loss`, `test/f1_macro` and what the objectives need; with flips also `test_flip/...`,
        with crops `test_crops/...`.
    """
    split, trained_for = load_data(data).open_test(), task_of(task)
    extra = trained_for.requested(objective.metric for objective in objectives)
    extra = tuple(name for name in extra if name not in trained_for.unmeasured(extra, split))
    with without_tf32():
        logits, loss = outputs_and_loss(network, split, device=device, task=trained_for)
    answered = Answers(split.labels.numpy(), trained_for.decode(logits).cpu().numpy(), loss)
    metrics = {f"test/{key}": value for key, value in trained_for.scores(answered, extra).items()}
    if answers is not None:
        ids = image_ids(data, split)
        write_npz(answers, {"truth": answered.truth, "logits": logits.cpu().numpy(), "ids": ids})
    if "flip" in tta:
        with without_tf32():
            mirrored = score(Mirrored(network), split, extra=extra, device=device, task=trained_for)
        metrics |= {f"test_flip/{key}": value for key, value in mirrored.items()}
    if "crops" in tta:
        with without_tf32():
            cropped = score(_cropped(network, split, recipes), split, extra=extra, device=device, task=trained_for)
        metrics |= {f"test_crops/{key}": value for key, value in cropped.items()}
    return metrics


def _cropped(network: nn.Module, split: Split, recipes: Sequence[Mapping[str, Any]]) -> nn.Module:
    """Return a network that answers by ten views; each member of an ensemble sees those of its training."""
    members = list(network.members) if isinstance(network, Ensemble) else [network]
    black = [-mean / std for mean, std in zip(split.mean, split.std, strict=True)]
    views: list[nn.Module] = []
    for number, member in enumerate(members):
        recipe = recipes[number] if recipes else {}
        shift = recipe.get("crop_pixels") or max(1, min(split.shape[1:]) // _SHIFTED_SHARE)
        views.append(TenCrops(member, shift, [0.0] * len(black) if recipe.get("crop_fill") == "mean" else black))
    return Ensemble(views) if isinstance(network, Ensemble) else views[0]
