"""How good a network is on a part: accuracy, macro-averaged F1 and cross-entropy."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch import nn
from torch.nn.functional import cross_entropy

from nasforge.data.augment import normalise
from nasforge.data.part import Part


def score(
    network: nn.Module,
    part: Part,
    *,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    bf16: bool = False,
    memory_format: torch.memory_format = torch.contiguous_format,
) -> dict[str, float]:
    """Measure `network`, which takes normalised images, in eval mode; its mode is restored.

    Returns:
        `accuracy` (share of right answers), `loss` (mean cross-entropy, no label smoothing), `f1_macro`.
    """
    device = torch.device(device)
    was_training = network.training
    network.eval()
    order = torch.arange(len(part))
    answers, loss = [], torch.zeros((), dtype=torch.float64, device=device)
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            for images, labels in part.batches(order, batch_size, device):
                logits = network(normalise(images, part.mean, part.std).contiguous(memory_format=memory_format)).float()
                loss += cross_entropy(logits, labels, reduction="sum")
                answers.append(logits.argmax(1))
    finally:
        network.train(was_training)
    truth, answer = part.labels.numpy(), torch.cat(answers).cpu().numpy()
    return {
        "accuracy": float(accuracy_score(truth, answer)),
        "loss": float(loss) / len(part),
        "f1_macro": float(f1_score(truth, answer, average="macro", labels=np.unique(truth), zero_division=0.0)),
    }
