"""One step of a differentiable search: ours beside DARTS written the straightforward way; same cells, batch, device.

    python benchmarks/supernet_step.py                  # -> benchmarks/results/supernet_step.json
    python benchmarks/supernet_step.py --batch 16 --repeats 2 --out /tmp/try.json

A step is one of the alphas (loss on one batch, Adam) and one of the weights (loss on another, SGD), as in DARTS'
first order (Liu et al. 2019, algorithm 1). The reference is a module that adds up `softmax(alphas)[i] * operation_i(x)`
in a Python loop, built by the same builder from the same initialisation, and calls backward() for both. The two take
turns; a ratio is of one turn.
Gradients are compared in fp32; `ours_fast` is ours with channels_last and, where the processor multiplies it, bf16.
Memory is the rise of the high-water mark of a process of its own by three steps (on a GPU: torch's).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import describe, write
from torch import nn
from torch.nn.functional import cross_entropy

from nasforge.core.recipe import Recipe
from nasforge.models.network import call_builder
from nasforge.settings.experiment import load_space
from nasforge.supernet.network import build_supernet
from nasforge.supernet.relaxed import Relaxed
from nasforge.training.device import memory_format, uses_bf16

RESULT = Path(__file__).parent / "results" / "supernet_step.json"


class MixedOperation(nn.Module):
    """The paper's: every operation times its share."""

    def __init__(self, operations: list[nn.Module], alphas: nn.Parameter) -> None:
        super().__init__()
        self.operations = nn.ModuleList(operations)
        self._alphas = (alphas,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(self._alphas[0], 0)
        return sum(weight * operation(x) for weight, operation in zip(weights, self.operations, strict=True))


class Plain(nn.Module):
    """DARTS' supernet, straightforwardly: answers the builder with `MixedOperation`s."""

    def __init__(self, space, in_channels: int, classes: int) -> None:
        super().__init__()
        self.space = space
        self.alphas: dict[str, nn.Parameter] = {}
        self.network = call_builder(space, self, in_channels=in_channels, classes=classes)

    def __call__(self, *args, **kwargs):
        return super().__call__(*args) if isinstance(args[0], torch.Tensor) else self._pick(*args)

    def _pick(self, key, options):
        listed = self.space.domains[f"model.{key}"].values
        if len(listed) == 1:
            return options[listed[0]]()
        if key not in self.alphas:
            self.alphas[key] = nn.Parameter(torch.zeros(len(listed)))
            self.register_parameter(f"alphas_{len(self.alphas)}", self.alphas[key])  # so that they move to the device
        return MixedOperation([options[value]() for value in listed], self.alphas[key])

    def width(self, key, maximum=None):
        return self.space.domains[f"model.{key}"].values[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)


def small(name: str):
    """The space with a network small enough for two cores."""
    from dataclasses import replace

    space = load_space(name)
    if name == "nasbench201":
        return replace(space, arguments={**space.arguments, "cells_per_stage": 1})
    return replace(space, arguments={**space.arguments, "layers": 3, "channels": 8})


def made(kind: str, name: str, device: torch.device):
    """A supernet, its alphas and the two optimizers of a search."""
    space = small(name)
    torch.manual_seed(0)
    if kind == "plain":
        network = Plain(space, 3, 10)
        alphas = list(network.alphas.values())
        weights = list(network.network.parameters())
    else:
        network = Relaxed(build_supernet(space, 3, 10), "softmax")
        with torch.no_grad():
            for alpha in network.alphas.values():
                alpha.zero_()
        alphas, weights = list(network.alphas.values()), list(network.parameters())
    network.to(device)
    sgd = torch.optim.SGD(weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
    adam = torch.optim.Adam(alphas, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
    return network.train(), weights, alphas, sgd, adam


def step(network, sgd, adam, batches, *, bf16=False, layout=torch.contiguous_format):
    """One step of the alphas, one of the weights; ours as `nasforge.supernet.bilevel.AlphaSteps` does it."""
    (train_x, train_y), (val_x, val_y) = batches
    device = train_x.device
    for optimizer, images, labels in ((adam, val_x, val_y), (sgd, train_x, train_y)):
        if isinstance(network, Relaxed):
            network.learning = optimizer is adam
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            logits = network(images.contiguous(memory_format=layout))
        alone = list(network.alphas.values()) if isinstance(network, Relaxed) and optimizer is adam else None
        cross_entropy(logits.float(), labels).backward(inputs=alone)
        optimizer.step()
    sgd.zero_grad(set_to_none=True)


def gradients(network, weights, alphas, batch):
    """Of the loss on a batch: by the weights, and by the alphas."""
    for parameter in (*weights, *alphas):
        parameter.grad = None
    if isinstance(network, Relaxed):
        network.learning = True
    cross_entropy(network(batch[0]).float(), batch[1]).backward()
    return (
        torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in weights]).double().cpu(),
        torch.cat([p.grad.flatten() for p in alphas]).double().cpu(),
    )


def data(batch: int, device: torch.device):
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randn(batch, 3, 32, 32, generator=generator).to(device),
            torch.randint(10, (batch,), generator=generator).to(device),
        )
        for _ in range(2)
    ]


def peak_mb(kind: str, options: argparse.Namespace) -> float:
    """How far three steps raise the high-water mark of a fresh process."""
    command = [sys.executable, __file__, "--space", options.space, "--batch", str(options.batch), "--memory", kind]
    command += ["--device", options.device]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def high_water_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measure_memory(kind: str, options: argparse.Namespace) -> None:
    device = torch.device(options.device)
    network, _, _, sgd, adam = made("plain" if kind == "plain" else "ours", options.space, device)
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark of the imports
    before = high_water_kb()
    recipe = Recipe()
    layout = memory_format(recipe, device) if kind == "ours_fast" else torch.contiguous_format
    bf16 = kind == "ours_fast" and uses_bf16(recipe, device)
    for _ in range(3):
        step(network, sgd, adam, data(options.batch, device), bf16=bf16, layout=layout)
    if device.type == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print((high_water_kb() - before) / 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="nasbench201", choices=["nasbench201", "darts"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        measure_memory(options.memory, options)
        return
    device = torch.device(options.device)
    recipe = Recipe()
    fast = {"bf16": uses_bf16(recipe, device), "layout": memory_format(recipe, device)}
    batches = data(options.batch, device)
    kinds = {"plain": {}, "ours": {}, "ours_fast": fast}
    built = {kind: made("plain" if kind == "plain" else "ours", options.space, device) for kind in kinds}
    built["ours_fast"][0].to(memory_format=fast["layout"])

    (plain_w, plain_a), (our_w, our_a) = (gradients(*built[kind][:3], batches[0]) for kind in ("plain", "ours"))
    alike = {"weights_max_difference": float((plain_w - our_w).abs().max() / plain_w.abs().max())}
    alike["alphas_max_difference"] = float((plain_a - our_a).abs().max() / plain_a.abs().max())
    with torch.autocast(device.type, torch.bfloat16, enabled=fast["bf16"]):
        fast_w, _ = gradients(
            *built["ours_fast"][:3], (batches[0][0].contiguous(memory_format=fast["layout"]), batches[0][1])
        )
    alike["fast_cosine"] = float(torch.cosine_similarity(plain_w, fast_w, dim=0))

    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for turn in range(options.repeats + 1):  # the first turn warms up
        for kind, how in kinds.items():
            net, _, _, sgd, adam = built[kind]
            began = time.perf_counter()
            step(net, sgd, adam, batches, **how)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:
                seconds[kind].append(time.perf_counter() - began)
    ratios = {
        kind: statistics.median(p / s for p, s in zip(seconds["plain"], seconds[kind], strict=True)) for kind in kinds
    }
    content = {
        "machine": describe(),
        "command": "python benchmarks/supernet_step.py " + " ".join(sys.argv[1:]),
        "space": options.space,
        "arguments": small(options.space).arguments,
        "batch": options.batch,
        "repeats": options.repeats,
        "bf16": fast["bf16"],
        "channels_last": fast["layout"] is torch.channels_last,
        "seconds_per_step": {kind: statistics.median(values) for kind, values in seconds.items()},
        "times_as_fast_as_plain": ratios,
        "gradients": alike,
        "peak_mb": {kind: peak_mb(kind, options) for kind in kinds},
    }
    print(json.dumps(content, indent=1))
    write(options.out, content)


if __name__ == "__main__":
    main()
