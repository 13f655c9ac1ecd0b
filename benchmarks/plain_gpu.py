"""Two training loops without nasforge, for one network on one GPU: a plain one, and one written for speed.

`benchmarks/gpu.py` times them next to NASForge's loop. Both get all images as bytes on the device, and do the same:
crop, flip, forward and backward pass under bfloat16 autocast, SGD with Nesterov momentum, one-cycle rates.

`plain` is the loop of somebody who knows PyTorch. `fast` takes what "94% on CIFAR-10 in 3.29 Seconds on a Single GPU"
(Jordan 2024, https://arxiv.org/abs/2404.00498) does for speed, written anew: a whole epoch is augmented at once, flips
alternate from epoch to epoch, the optimizer is one fused kernel, cuDNN tries its algorithms, nothing waits for the GPU.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as f

MEAN, STD, SHIFT = 0.45, 0.25, 4


def cropped(images: Tensor, pixels: int) -> Tensor:
    """Shift each image by up to `pixels` both ways, black outside."""
    count, _, height, width = images.shape
    padded = f.pad(images, (pixels,) * 4)
    dy, dx = torch.randint(0, 2 * pixels + 1, (2, count, 1), device=images.device)
    rows = (torch.arange(height, device=images.device) + dy)[:, None, :, None]
    columns = (torch.arange(width, device=images.device) + dx)[:, None, None, :]
    every = torch.arange(count, device=images.device)[:, None, None, None]
    channels = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[every, channels, rows, columns]


def normalised(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / STD


def rate_at(share: float, highest: float) -> float:
    """One-cycle, linear both ways."""
    return highest * (share / 0.3 if share < 0.3 else (1 - share) / 0.7)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def sgd(network: nn.Module, *, fused: bool) -> torch.optim.SGD:
    return torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=fused)


def plain(network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, batch: int, bf16: bool) -> list[float]:
    """Train, and return the seconds of each epoch."""
    device, seconds = images.device, []
    network.to(device).train()
    optimizer, steps = sgd(network, fused=False), len(images) // batch
    for epoch in range(epochs):
        wait(device)
        began = time.perf_counter()
        order = torch.randperm(len(images), device=device)[: steps * batch]
        for step, where in enumerate(order.split(batch)):
            for group in optimizer.param_groups:
                group["lr"] = rate_at((epoch * steps + step) / (epochs * steps), 0.1)
            inputs = normalised(cropped(images[where], SHIFT))
            inputs = torch.where(torch.rand(batch, 1, 1, 1, device=device) < 0.5, inputs.flip(3), inputs)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = network(inputs)
            loss = f.cross_entropy(logits.float(), labels[where])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return seconds


def fast(network: nn.Module, images: Tensor, labels: Tensor, *, epochs: int, batch: int, bf16: bool) -> list[float]:
    """Train with everything that is known to help a small network, and return the seconds of each epoch."""
    device, seconds, layout = images.device, [], torch.channels_last
    torch.backends.cudnn.benchmark = True
    try:
        network.to(device, memory_format=layout).train()
        optimizer, steps = sgd(network, fused=True), len(images) // batch
        ready = normalised(images)
        flipped = torch.rand(len(images), 1, 1, 1, device=device) < 0.5
        for epoch in range(epochs):
            wait(device)
            began = time.perf_counter()
            turned = torch.where(flipped if epoch % 2 else ~flipped, ready.flip(3), ready)
            whole = cropped(turned, SHIFT).contiguous(memory_format=layout)
            order = torch.randperm(len(images), device=device)[: steps * batch]
            for step, where in enumerate(order.split(batch)):
                for group in optimizer.param_groups:
                    group["lr"] = rate_at((epoch * steps + step) / (epochs * steps), 0.1)
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    logits = network(whole[where])
                loss = f.cross_entropy(logits.float(), labels[where])
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            wait(device)
            seconds.append(time.perf_counter() - began)
    finally:
        torch.backends.cudnn.benchmark = False
    return seconds
