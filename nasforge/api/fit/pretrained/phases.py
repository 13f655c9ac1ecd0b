"""Pretrained networks in a fit: they are measured in addition to the search, and a winner is fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nasforge.api.fit import judging
from nasforge.api.fit.judging import per_image
from nasforge.api.fit.pretrained import probe, tune
from nasforge.api.fit.rows import Row
from nasforge.api.fit.schedule import end_of
from nasforge.api.fit.ship import ask
from nasforge.core.errors import BuildError, one_line
from nasforge.core.layout import FINALISTS
from nasforge.core.metrics import short_name
from nasforge.data.npz import write_npz
from nasforge.exporters.network_folder import Calibration, save_network
from nasforge.training.device import device_of
from nasforge.training.failures import device_lost, is_out_of_memory
from nasforge.views.rounding import fixed

if TYPE_CHECKING:
    from nasforge.api.fit.work import Answered, Work


def measure_pretrained(work: Work) -> list[Answered]:
    """Linear classifiers on features of pretrained networks, on the same folds as the other networks."""
    answered = []
    torch.set_num_threads(int(work.training_decision["threads"]))
    for name, file in work.backbones.items():
        entry = work.log.last("probed", backbone=name)
        if entry is None or entry.get("for_time", work.seconds) < work.seconds:
            entry = work.log.write("probed", backbone=name, **_probed(work, name, Path(file)))
            work.say(f"pretrained {name}: {entry['said']}")
        if "row" in entry:
            with np.load(_probe_file(work, name), allow_pickle=False) as kept:
                answered.append(work.answered(Row(**entry["row"], val={}), kept["probabilities"]))
    return answered


def _probed(work: Work, name: str, file: Path) -> dict[str, Any]:
    """Return the log entry of a pretrained network; its weights and answers are kept."""
    began = work.log.used
    spent = sum(entry.get("seconds", 0.0) for entry in work.log.entries if entry["kind"] == "probed")
    after_search = work.until - began - 2 * work.plan.folds * work.plan.training
    room = probe.Room(
        constraints=work.config_of_search().constraints,
        seconds=min(probe.SHARE * work.seconds - spent, after_search),
        after=end_of(work.seconds) / 2,
    )
    device = device_of(work.request.device)
    try:
        probed = probe.probe(
            name,
            file,
            work.data,
            work.data_config,
            work.splits,
            room,
            device=device,
            balanced=work.balanced,
            seed=work.request.seed,
        )
    except (probe.LeftOutError, BuildError) as error:
        late = {"for_time": work.seconds} if getattr(error, "for_time", False) else {}
        return {"said": f"left out: {error}", **late}
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if lost := device_lost(error, device):
            raise lost from error
        reason = f"no memory left on {device}" if is_out_of_memory(error) else one_line(error)
        return {"said": f"left out: {reason}"}
    probabilities = work.in_order(probed.places, probed.probabilities)
    arrays = {"probabilities": probabilities, "weight": probed.first.weight, "bias": probed.first.bias}
    write_npz(_probe_file(work, name), arrays)
    save_network(_probe_folder(work, name), probed.network, probed.network.description)
    figure = judging.figures(work.truth, probabilities)[work.shown_metric]
    seconds = round(work.log.used - began, 2)
    row = {
        "name": f"{name} (pretrained)",
        "kind": "pretrained",
        "params": probed.costs["cost/params"],
        "flops": probed.costs["cost/flops"],
        "seconds": seconds,
    }
    metric = short_name(work.shown_metric)
    description = f"a linear classifier on its features at {probed.resolution} pixels, {metric} {fixed(figure, 4)}"
    return {
        "said": description,
        "row": row,
        "resolution": probed.resolution,
        "second_per_image": probed.second_per_image,
        "seconds": seconds,
    }


def _probe_file(work: Work, name: str) -> Path:
    """Return the answers of a pretrained network, and the classifier of its first split."""
    return work.folder / "pretrained" / f"{name}.npz"


def _probe_folder(work: Work, name: str) -> Path:
    """Return the pretrained network with its linear classifier."""
    return work.folder / FINALISTS / f"{name}-linear"


def linear_of(work: Work, row: Row) -> Path:
    """Return the folder of a pretrained network with its linear classifier."""
    return _probe_folder(work, str(_probe_of(work, row)["backbone"]))


def _probe_of(work: Work, row: Row) -> Mapping[str, Any]:
    """Return the line of the log on a pretrained network."""
    probed = (entry for entry in reversed(work.log.entries) if entry["kind"] == "probed")
    return next(entry for entry in probed if entry.get("row", {}).get("name") == row.name)


def tune_last(work: Work, row: Row, until: float, share: float) -> Path:
    """Fine-tune a pretrained network on all images but those of the test split, where time allows it and it helps.

    Args:
        row: the network.
        until: names the choice that this training follows.
        share: of the time that is left.

    Returns:
        The folder of the network: fine-tuned, or with its linear classifier.
    """
    probed, learnt = _probe_of(work, row), work.splits[0][0]
    name, linear = str(probed["backbone"]), linear_of(work, row)
    entry = work.log.last("last_training", network=name, until=until)
    if entry is None:
        allowed = max(work.seconds - work.end - work.log.used, 0.0) * share
        epochs = tune.epochs_of_tuning(allowed, float(probed["second_per_image"]), len(learnt), len(work.sample))
        earlier = work.log.last("trained", network=name)
        if earlier is not None:
            epochs = max(epochs, int(earlier["epochs"]))
        deadline = work.log.used + allowed
        entry = work.log.write("last_training", network=name, until=until, epochs=epochs, deadline=deadline)
        length = f"{epochs} epochs of fine-tuning" if epochs else "none, the time is too short to fine-tune it"
        work.say(f"last training of {row.name}: {length}")
    epochs = int(entry["epochs"])
    done = work.log.last("trained", network=name, epochs=epochs)
    if done is None:
        with work.ends_by(name, until):
            folder = _tuned(work, name, epochs) if epochs else linear
        place = folder.relative_to(work.folder).as_posix()
        done = work.log.write("trained", row=row.name, folder=place, network=name, epochs=epochs)
    return work.folder / str(done["folder"])


def _tuned(work: Work, name: str, epochs: int) -> Path:
    """Fine-tune on the first split, and on all images where the answers on its other images are better for it."""
    learnt, asked = work.splits[0]
    linear, folder = _probe_folder(work, name), work.folder / FINALISTS / f"{name}-tuned-e{epochs}"
    recipe = tune.recipe_of_tuning(work.data.shape[1], balanced=work.balanced)
    device = device_of(work.request.device)
    with np.load(_probe_file(work, name), allow_pickle=False) as kept:
        before, head = kept["probabilities"], probe.Head(kept["weight"], kept["bias"])
    settings: dict[str, Any] = {"seed": work.request.seed, "device": device, "tick": work.tick}
    entry = work.log.last("tuning", network=name, epochs=epochs)
    if entry is None:
        network = tune.tuned(linear, learnt, recipe, epochs, head=head, checkpoint=None, **settings)
        rows = np.searchsorted(work.places, asked.index)
        truth = asked.labels.numpy()
        figure = float(per_image(work.metric, truth, before[rows]).mean())
        better, measured = None, {}
        if network is not None:
            probabilities = ask(network, asked, device)
            better = float(per_image(work.metric, truth, probabilities).mean())
            measured = {"calibration": asdict(judging.calibrate(truth, probabilities))}
        entry = work.log.write("tuning", network=name, epochs=epochs, before=figure, after=better, **measured)
    if entry["after"] is None:
        work.say(f"{name} keeps its linear classifier: fine-tuning on the first split was late, or diverged")
        return linear
    if entry["after"] <= entry["before"]:
        work.say(f"{name} keeps its linear classifier: fine-tuning did not help on the first split")
        return linear
    checkpoint = folder.with_name(f"{folder.name}.pt")
    network = tune.tuned(linear, work.sample, recipe, epochs, head=None, checkpoint=checkpoint, **settings)
    if network is None:
        checkpoint.unlink(missing_ok=True)
        work.say(f"{name} keeps its linear classifier: fine-tuning was late, or diverged")
        return linear
    calibration = Calibration(**entry["calibration"]) if "calibration" in entry else None  # older logs have none
    tune.save_tuned(folder, network, recipe, epochs, calibration)
    checkpoint.unlink(missing_ok=True)
    return folder
