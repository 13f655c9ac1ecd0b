"""Figure 4: eight trainings of one network that differ in seed, rate and momentum, as one stacked model or one by one.

    OMP_NUM_THREADS=1 python benchmarks/stacked.py                     # -> benchmarks/results/stacked.json
    python benchmarks/stacked.py --device cuda --seconds 2 --out benchmarks/results/stacked_gpu.json

A network of three convolutions (`--strides` 1, 2, 2; batch norm, ReLU), global pooling and a linear layer, on 28 x 28
images; SGD with momentum. Every configuration has its own initialisation, images, learning rate and momentum.
Three ways:

* `one_by_one`: each network alone, `torch.optim.SGD`, channels_last: what the evaluator does.
* `grouped`: one network with `groups = K`, K times as many channels; batch norm is per channel and so per network.
* `vmap`: `torch.func.stack_module_state`, `vmap` over `functional_call` and `grad`.

The three agree (the losses after some steps are compared, to 1e-3) and take turns; a ratio is of one turn, above 1 the
stacked model is faster. Data are on the device already, so that nothing but the training is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from machine import describe, write
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn.functional import batch_norm, conv2d, cross_entropy, relu

RESULT = Path(__file__).parent / "results" / "stacked.json"
CLASSES, EDGE = 10, 28
SIZES = {"4-8-16": (4, 8, 16), "8-16-32": (8, 16, 32), "16-32-64": (16, 32, 64), "32-64-128": (32, 64, 128)}

Step = Callable[[Tensor, Tensor], Tensor]
"""One step of all configurations: images K x N x 1 x H x W and labels K x N, gives K losses."""


class Configurations(NamedTuple):
    """What differs between the trainings, and where they begin."""

    networks: list[nn.Module]
    strides: list[int]
    rates: Tensor
    momenta: Tensor


def configurations(widths: tuple[int, ...], strides: list[int], count: int, device: torch.device) -> Configurations:
    networks: list[nn.Module] = []
    for seed in range(count):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for before, width, stride in zip((1, *widths[:-1]), widths, strides, strict=True):
            layers += [nn.Conv2d(before, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], CLASSES)]
        networks.append(nn.Sequential(*layers, *head).to(device))
    rates = torch.logspace(-2, -1, count, device=device)
    return Configurations(networks, strides, rates, torch.linspace(0.5, 0.95, count, device=device))


def one_by_one(configurations: Configurations) -> Step:
    networks = [network.to(memory_format=torch.channels_last) for network in configurations.networks]
    optimizers = [
        torch.optim.SGD(network.parameters(), lr=float(rate), momentum=float(momentum))
        for network, rate, momentum in zip(networks, configurations.rates, configurations.momenta, strict=True)
    ]

    def step(images: Tensor, labels: Tensor) -> Tensor:
        losses = []
        for index, (network, optimizer) in enumerate(zip(networks, optimizers, strict=True)):
            inputs = images[index].contiguous(memory_format=torch.channels_last)
            loss = cross_entropy(network(inputs), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return step


def momentum_step(configurations: Configurations, parameters: list[Tensor]) -> Callable[[list[Tensor]], None]:
    """SGD on tensors whose first axis is the configuration."""
    velocities = [torch.zeros_like(parameter) for parameter in parameters]

    def along(values: Tensor, like: Tensor) -> Tensor:
        return values.view(-1, *[1] * (like.dim() - 1))

    @torch.no_grad()
    def update(gradients: list[Tensor]) -> None:
        for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
            velocity.mul_(along(configurations.momenta, velocity)).add_(gradient)
            parameter.sub_(along(configurations.rates, parameter) * velocity)

    return update


def by_vmap(configurations: Configurations) -> Step:
    parameters, buffers = stack_module_state(configurations.networks)
    shape = nn.Sequential(*configurations.networks[0].to("meta").children())
    names = list(parameters)
    values = [parameter.detach() for parameter in parameters.values()]
    update = momentum_step(configurations, values)
    for name in [name for name in buffers if name.endswith("num_batches_tracked")]:
        del buffers[name]  # batch norm by its functional form has no use for it

    def loss(parameters: dict[str, Tensor], statistics: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy(functional_call(shape, (parameters, statistics), (images,)), labels)

    for module in shape.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None
    gradient = vmap(grad_and_value(loss), randomness="different")

    def step(images: Tensor, labels: Tensor) -> Tensor:
        gradients, losses = gradient(dict(zip(names, values, strict=True)), buffers, images, labels)
        update([gradients[name] for name in names])
        return losses

    return step


def grouped(configurations: Configurations) -> Step:
    count = len(configurations.networks)
    parameters = [
        torch.stack(tensors).detach()
        for tensors in zip(*(n.parameters() for n in configurations.networks), strict=True)
    ]
    running = [
        [torch.cat([torch.zeros(p.shape[1]) for _ in range(count)]).to(p.device) for _ in range(2)]
        for p in parameters[1:-2:3]
    ]
    for parameter in parameters:
        parameter.requires_grad_()
    update = momentum_step(configurations, parameters)

    def step(images: Tensor, labels: Tensor) -> Tensor:
        hidden = images.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for index in range(0, len(parameters) - 2, 3):
            weight, scale, shift = parameters[index : index + 3]
            hidden = conv2d(
                hidden, weight.flatten(0, 1), stride=configurations.strides[index // 3], padding=1, groups=count
            )
            mean, variance = running[index // 3]
            hidden = relu(batch_norm(hidden, mean, variance, scale.flatten(), shift.flatten(), training=True))
        pooled = hidden.mean((2, 3)).view(len(hidden), count, -1).transpose(0, 1)
        logits = torch.baddbmm(parameters[-1].unsqueeze(1), pooled, parameters[-2].transpose(1, 2))
        losses = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(count, -1).mean(1)
        update(list(torch.autograd.grad(losses.sum(), parameters)))
        return losses.detach()

    return step


WAYS: dict[str, Callable[[Configurations], Step]] = {"one_by_one": one_by_one, "grouped": grouped, "vmap": by_vmap}


def measure(widths: tuple[int, ...], count: int, batch: int, device: torch.device, options: argparse.Namespace) -> dict:
    """Ratios of one size, and how far apart the losses were after the same steps."""
    generator = torch.Generator(device).manual_seed(0)
    images = torch.randn(count, batch, 1, EDGE, EDGE, generator=generator, device=device)
    labels = torch.randint(CLASSES, (count, batch), generator=generator, device=device)
    steps = {name: make(configurations(widths, options.strides, count, device)) for name, make in WAYS.items()}
    after = {}
    for name, step in steps.items():
        for _ in range(5):
            losses = step(images, labels)
        after[name] = losses
    apart = max(float((after[name] - after["one_by_one"]).abs().max()) for name in WAYS)

    def timed(step: Step, repetitions: int) -> float:
        began = time.perf_counter()
        for _ in range(repetitions):
            step(images, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / repetitions

    repetitions = {name: max(1, round(options.seconds / timed(step, 3))) for name, step in steps.items()}
    took: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(options.turns):
        for name, step in steps.items():
            took[name].append(timed(step, repetitions[name]))
    ratios = {
        name: [alone / stacked for alone, stacked in zip(took["one_by_one"], took[name], strict=True)]
        for name in ("grouped", "vmap")
    }
    return {
        "configurations": count,
        "batch": batch,
        "images_per_s_one_by_one": count * batch / statistics.median(took["one_by_one"]),
        **{f"ratio_{name}": statistics.median(values) for name, values in ratios.items()},
        **{f"ratio_{name}_range": [min(values), max(values)] for name, values in ratios.items()},
        "losses_apart": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--configurations", type=int, nargs="+", default=[8])
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--strides", type=int, nargs=3, default=[1, 2, 2])
    parser.add_argument("--seconds", type=float, default=0.7, help="of one way in one turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    device = torch.device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    content = {"machine": {**describe(), "threads": torch.get_num_threads(), "gpu": None if where == "cpu" else where}}
    rows: list[dict[str, object]] = []
    for size in options.sizes:
        for batch in options.batches:
            for count in options.configurations:
                rows.append(
                    {"size": size, "strides": options.strides, **measure(SIZES[size], count, batch, device, options)}
                )
                print({k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
                write(options.out, {**content, "protocol": __doc__, "rows": rows})


if __name__ == "__main__":
    main()
