"""The end of a fit: every row meets the test split once, and the winner is kept and shipped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nasforge.api import export as exporting
from nasforge.api.fit.judging import calibrated
from nasforge.api.fit.rows import Row
from nasforge.core.layout import BEST, EXPORTED
from nasforge.data import Split
from nasforge.data.npz import write_npz
from nasforge.data.sources import image_ids
from nasforge.exporters.network_folder import Calibration, Network, description_of, load, save_network
from nasforge.training.device import device_of
from nasforge.training.failures import TrainingFailed, as_training_failures
from nasforge.training.scoring import answers
from nasforge.views.answers import answers_file

if TYPE_CHECKING:
    from nasforge.api.fit.work import Work

_BATCH, _LARGE_BATCH = 32, 512
"""Images at once, of a network that enlarges its input and of others."""


def tested_once(work: Work, row: Row, what: str, answer: Callable[[Split], np.ndarray]) -> Row:
    """Return the row with its metrics on the test split, which it meets once; every meeting is on record before it.

    Args:
        row: without figures on the test split.
        what: names the trained network, or the baseline.
        answer: asks it.
    """
    done = work.log.last("tested", what=what)
    if done is None:
        work.log.write("opened", row=row.name, what=what)
        split = work.data.open_test()
        probabilities = answer(split)
        ids = image_ids(work.whole_config, split)
        truth = split.labels.numpy()
        write_npz(test_answers_of(work, what), {"truth": truth, "probabilities": probabilities, "ids": ids})
        tested = row.tested(truth, probabilities)
        done = work.log.write("tested", row=row.name, what=what, figures=tested.to_json())
    figures = Row.from_json(done["figures"])
    return replace(row, test=figures.test, test_ci95=figures.test_ci95)


def test_answers_of(work: Work, what: str) -> Path:
    """Return the file that keeps the answers of a row on the test split."""
    return answers_file(work.folder, what)


def calibration_of(folder: Path, chosen: Mapping[str, Any]) -> Calibration:
    """Return the calibration of the winner: that of its folder where it was fine-tuned, else of the choice."""
    kept = description_of(folder).calibration
    return kept or Calibration(float(chosen["temperature"]), float(chosen["unsure_below"]))


def answer_of(work: Work, folder: Path, temperature: float = 1.0) -> Callable[[Split], np.ndarray]:
    """Return the function that asks the network in a folder."""

    def answer(split: Split) -> np.ndarray:
        place = device_of(work.request.device)
        return calibrated(ask(load(folder, place), split, place), temperature)

    return answer


def keep_best(work: Work, folder: Path, calibration: Calibration, row: Row) -> Path:
    """Make the winner `best/`, with its calibration and figures."""
    network = load(folder)
    metrics = {f"val/{key}": value for key, value in row.val.items()}
    metrics |= {f"test/{key}": value for key, value in row.test.items()}
    about = network.description
    description = replace(about, metrics={**about.metrics, **metrics}, calibration=calibration)
    return save_network(work.folder / BEST, network, description)


def ship(work: Work) -> exporting.Exported:
    """Ship `best/`, verified."""
    return exporting.export(work.folder, ["onnx", "safetensors"], work.folder / EXPORTED)


def ask(network: Network, split: Split, device: torch.device) -> np.ndarray:
    """Return the probabilities, N x classes, that a network gives the images of a split.

    Raises:
        TrainingFailed: memory ran out.
        DeviceLost: the GPU has failed.
    """
    about = network.description
    # a network that enlarges its input needs far more memory than the images do
    size = _BATCH if about.space.arguments.get("resolution") else _LARGE_BATCH
    normalised = replace(split, mean=about.mean, std=about.std)
    with as_training_failures(TrainingFailed, device):
        return answers(network.body.to(device), normalised, device=device, batch_size=size).probabilities
