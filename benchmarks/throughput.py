"""Training throughput: our pipeline against DataLoader + torchvision in fp32, and against a plain loop on tensors.

    python benchmarks/throughput.py          # Fashion-MNIST from $NASFORGE_DATA -> benchmarks/results/throughput.json
    python benchmarks/throughput.py --images 600 --repeats 1 --out /tmp/try.json
    python benchmarks/throughput.py --sides plain_loop ours ours_fp32 plain_loop_fp32 --out /tmp/loops.json

Both sides train the same ResNet-8 from the same initialisation by the same recipe (SGD, crop by 2 pixels, flip) and are
validated on the same images. They take turns, so that a machine that slows down slows both; each ratio is of one turn.
The reference tries DataLoader with and without worker processes and counts its faster one. `ours_fp32` is our pipeline
without bf16 and channels_last: what keeping the data on the device alone is worth.

`plain_loop` is `fast` of `benchmarks/plain_gpu.py`, which is without nasforge and written for speed: all images in
memory, cropped and flipped by the epoch, channels_last, one fused optimizer. It has the precision that `ours` has.
`ours_bf16` and `plain_loop_bf16` compute in bf16 also where it is slower. They are measured only where `--sides` names
them.

On a CPU all sides keep freed memory from the beginning (`nasforge.training.device.keep_freed_memory`), because they
share a process. A process without NASForge would not, so the ratios are on the safe side.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

import plain_gpu
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from nasforge.core.recipe import Recipe
from nasforge.data import ImageData, load_data
from nasforge.data.split import Split
from nasforge.models.reference import resnet
from nasforge.settings.experiment import DataConfig
from nasforge.training.device import device_of, keep_freed_memory, memory_format, uses_bf16
from nasforge.training.loop import CUDA_CHECK_STEPS, train
from nasforge.training.optimisation import optimizer_of, schedule_of
from nasforge.training.scoring import Validation, score

RESULTS = Path(__file__).parent / "results" / "throughput.json"
RATIOS = (
    ("ours", "dataloader", "dataloader_fp32"),
    ("ours_fp32", "dataloader", "dataloader_fp32"),
    ("ours", "plain_loop", "plain_loop"),
    ("ours_fp32_channels_last", "plain_loop", "plain_loop_fp32"),
    ("ours_fp32_channels_last", "dataloader", "dataloader_fp32"),
    ("ours_bf16", "plain_loop", "plain_loop_bf16"),
    ("ours_bf16", "dataloader", "dataloader_fp32"),
)
"""Side, what it is compared with, and the name of that side."""
RECIPE = Recipe(learning_rate=0.2, batch_size=256, schedule="one_cycle", crop_pixels=2, flip=True)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """A split as torchvision's own data sets give it: one PIL image at a time, transformed."""

    def __init__(self, split: Split) -> None:
        edge = split.shape[1]
        self.arrays = split.images[:, 0].numpy()
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(edge, padding=RECIPE.crop_pixels),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(split.mean, split.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[row])), self.labels[row]


def network(data: ImageData) -> nn.Module:
    torch.manual_seed(0)
    return resnet(1, 16, in_channels=data.shape[0], classes=len(data.class_names))


def by_dataloader(data: ImageData, epochs: int, seed: int, device: torch.device, workers: int) -> dict[str, float]:
    """The loop of a tutorial, in fp32."""
    torch.manual_seed(seed)
    net = network(data).to(device)
    loader = DataLoader(
        Pictures(data.train),
        batch_size=RECIPE.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
    optimizer = optimizer_of(net, RECIPE)
    schedule = schedule_of(optimizer, RECIPE, epochs, len(loader))
    step, seconds = 0, 0.0
    for _ in range(epochs):
        net.train()
        began = time.perf_counter()
        for images, labels in loader:
            schedule.step_update(step)
            images, labels = (tensor.to(device, non_blocking=True) for tensor in (images, labels))
            loss = cross_entropy(net(images), labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if device.type != "cuda" or step % CUDA_CHECK_STEPS == 0:
                loss.item()  # both sides look at the loss equally often
            step += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds += time.perf_counter() - began
    images_seen = step * RECIPE.batch_size
    return {
        "images_per_s": images_seen / seconds,
        "val_accuracy": score(net, data.validation, device=device)["accuracy"],
    }


def by_nasforge(data: ImageData, epochs: int, seed: int, device: torch.device, recipe: Recipe) -> dict[str, float]:
    net = network(data)
    validation = Validation(data.validation)
    done = train(net, data.train, recipe, epochs=epochs, seed=seed, device=device, validation=validation)
    images_seen = epochs * (len(data.train) // recipe.batch_size) * recipe.batch_size
    return {
        "images_per_s": images_seen / done.metrics["time/train_s"],
        "val_accuracy": done.metrics["val/accuracy"],
    }


def by_plain_loop(data: ImageData, epochs: int, seed: int, device: torch.device, bf16: bool) -> dict[str, float]:
    """The loop of `plain_gpu.fast`."""
    torch.manual_seed(seed)
    net = network(data)
    images, labels = data.train.on(device)
    seconds = plain_gpu.fast(net, images, labels, epochs=epochs, batch=RECIPE.batch_size, bf16=bf16)
    channels = data.shape[0]
    validation = replace(data.validation, mean=(plain_gpu.MEAN,) * channels, std=(plain_gpu.STD,) * channels)
    images_seen = epochs * (len(images) // RECIPE.batch_size) * RECIPE.batch_size
    return {
        "images_per_s": images_seen / sum(seconds),
        "val_accuracy": score(net, validation, device=device, memory_format=torch.channels_last)["accuracy"],
    }


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Training throughput against DataLoader + torchvision transforms.")
    folder = os.environ.get("NASFORGE_DATA", "../shared/data")
    parser.add_argument("--data", default=f"{folder}/fashion_mnist.npz")
    parser.add_argument("--images", type=int, help="use only so many training and validation images")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="DataLoader worker counts to try")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processor-time", action="store_true", help="count processor seconds; for a busy machine")
    parser.add_argument("--sides", nargs="+", help="measure only these; default all")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if device_of(options.device).type == "cpu":
        keep_freed_memory()
    if options.processor_time:
        if options.threads != 1:
            parser.error("--processor-time needs --threads 1: it adds up the seconds of all threads")
        time.monotonic = time.perf_counter = time.process_time  # the clocks of both loops
    device = device_of(options.device)
    data = load_data(DataConfig(options.data, images=options.images))
    plain = replace(RECIPE, precision="fp32", channels_last=False)
    fp32 = replace(RECIPE, precision="fp32", channels_last=True)
    in_bf16 = replace(RECIPE, precision="bf16", channels_last=True)

    bf16 = uses_bf16(RECIPE, device)
    sides = {
        "dataloader_fp32": lambda seed: by_dataloader(data, options.epochs, seed, device, workers),
        "plain_loop_fp32": lambda seed: by_plain_loop(data, options.epochs, seed, device, False),
        "plain_loop": lambda seed: by_plain_loop(data, options.epochs, seed, device, bf16),
        "ours_fp32": lambda seed: by_nasforge(data, options.epochs, seed, device, plain),
        "ours_fp32_channels_last": lambda seed: by_nasforge(data, options.epochs, seed, device, fp32),
        "ours": lambda seed: by_nasforge(data, options.epochs, seed, device, RECIPE),
        "plain_loop_bf16": lambda seed: by_plain_loop(data, options.epochs, seed, device, True),
        "ours_bf16": lambda seed: by_nasforge(data, options.epochs, seed, device, in_bf16),
    }
    measured = options.sides or [name for name in sides if not name.endswith("_bf16")]
    sides = {name: run for name, run in sides.items() if name in measured}
    one_epoch: dict[int, float] = {}
    if "dataloader_fp32" in sides:
        one_epoch = {w: by_dataloader(data, 1, 0, device, w)["images_per_s"] for w in options.workers}
    workers = max(one_epoch, key=lambda w: one_epoch[w], default=0)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for seed in range(options.repeats):
        for name, run in sides.items():
            runs[name].append(run(seed))
            print(f"{seed} {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in runs[name][-1].items()), flush=True)

    speeds = {name: [run["images_per_s"] for run in rows] for name, rows in runs.items()}
    report = {
        "command": " ".join(["python", "benchmarks/throughput.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": options.threads,
            "clock": "processor time" if options.processor_time else "wall time",
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
            "load_at_end": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
        },
        "network": {"name": "ResNet-8", "params": sum(p.numel() for p in network(data).parameters())},
        "training_images": len(data.train),
        "epochs": options.epochs,
        "repeats": options.repeats,
        "chosen": {
            "bf16": uses_bf16(RECIPE, device),
            "channels_last": memory_format(RECIPE, device) is torch.channels_last,
        },
        "dataloader_workers_tried_images_per_s": {str(w): speed for w, speed in one_epoch.items()},
        "dataloader_workers": workers,
        "images_per_s": {name: spread(values) for name, values in speeds.items()},
        **{
            f"ratio_{ours}_to_{other}": spread([a / b for a, b in zip(speeds[ours], speeds[theirs], strict=True)])
            for ours, other, theirs in RATIOS
            if ours in speeds and theirs in speeds
        },
        "val_accuracy": {name: spread([run["val_accuracy"] for run in rows]) for name, rows in runs.items()},
        "runs": runs,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({k: v for k, v in report.items() if k.startswith(("ratio", "val"))}, indent=1))


if __name__ == "__main__":
    main()
