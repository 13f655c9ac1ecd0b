"""A battery for a machine with a GPU: what works, and how fast, most telling first.

    python benchmarks/gpu.py --data $NASFORGE_DATA            # all stages -> benchmarks/results/gpu/STAGE.json
    python benchmarks/gpu.py --data $NASFORGE_DATA eager darts
    python benchmarks/gpu.py --miniature --out /tmp/try       # each stage in small on a CPU: proves nothing

Each stage is a process of its own, ends after at most 8 minutes, and writes each figure at once with the card and the
versions. The same command continues: it skips figures that are there. Without network: `benchmarks/pack_gpu.py` makes a
folder to carry there. docs/howto/gpu.md is the short guide.

The stages:
    tests      the tests marked `gpu`
    path       a search, the training of a supernet and a retraining, with the local runner
    eager      images per second: our loop, also with CUDA graphs, cuDNN's benchmark and a fused SGD, a plain loop, one
               written for speed (`plain_gpu.py`); same network
    workers    trials per minute of 1, 2, 4 and 8 workers on one GPU, and with MPS where it is installed
    memory     the estimate of a training's memory against its peak, what is released between trainings, and memory and
               speed of a validation pass by its batch size
    darts      a step of a differentiable search against DARTS written plainly (`supernet_step.py`)
    syncs      how often a step waits for the GPU, by recipe
    fashion    Fashion-MNIST: ResNet-preact-20 and a network that was searched, by one recipe, seeds side by side
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import warnings
import xml.etree.ElementTree as Xml
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from machine import describe, write
from torch import nn

import nasforge
from nasforge.core.architecture import Architecture
from nasforge.core.recipe import Recipe
from nasforge.core.space import SearchSpace
from nasforge.data import ImageData, load_data
from nasforge.models.blocks.residual import PreActivationBlock
from nasforge.models.costs import count_flops, count_params, memory_mb
from nasforge.models.network import build
from nasforge.models.reference import resnet
from nasforge.settings.experiment import DataConfig, load_space
from nasforge.training import state as training_state
from nasforge.training.device import memory_format, release_memory, uses_bf16
from nasforge.training.loop import train
from nasforge.training.meter import trainings_end_by
from nasforge.training.optimisation import optimizer_of
from nasforge.training.scoring import Validation, answers, score
from nasforge.training.state import Checkpoint

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "gpu"
LIMIT_S = 480.0
"""A stage's longest time."""
ENDS_BEFORE_S = 25.0
"""Before its limit a stage begins nothing new."""
MPS_CONTROL = "nvidia-cuda-mps-control"
PROVES_NOTHING = "MINIATURE: a few images on a CPU. These figures prove nothing of a GPU."
LONG_RECIPE = Recipe(
    learning_rate=0.4,
    batch_size=256,
    schedule="one_cycle",
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    label_smoothing=0.1,
    crop_pixels=4,
    flip=True,
    cutout_pixels=10,
)
"""Of the Fashion-MNIST trainings."""


class TimeUp(Exception):
    """The stage has no time for another figure; the same command continues."""


class Stage:
    """One stage's result file, and what its figures need.

    Attributes:
        device: what is measured.
        data: folder with `fashion_mnist.npz` and `cifar10_half.npz`.
        work: folder for experiments and checkpoints.
        miniature: whether this is a CPU's rehearsal.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name = name
        self.options = options
        self.miniature: bool = options.miniature
        self.device = torch.device("cpu" if self.miniature else "cuda")
        self.data: Path = options.data
        self.work: Path = options.work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.file = options.out / f"{name}.json"
        self._ends = time.monotonic() + options.limit - min(ENDS_BEFORE_S, options.limit / 10)
        empty = {"stage": name, "complete": False, "machine": describe(), "rows": {}}
        self.content: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else empty
        self.content |= {"machine": describe(), "miniature": self.miniature}
        if self.miniature:
            self.content["warning"] = PROVES_NOTHING

    @property
    def seconds_left(self) -> float:
        return self._ends - time.monotonic()

    def row(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return a figure: the one in the file, else what `measure` gives, which is written at once."""
        rows = self.content["rows"]
        if key not in rows:
            if self.seconds_left <= 0:
                raise TimeUp
            rows[key] = measure()
            print(f"{self.name}: {key}: {json.dumps(rows[key])[:300]}", flush=True)
            self.write()
        return rows[key]

    def write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write(self.file, self.content)

    def images(self, name: str, images: int | None = None) -> ImageData:
        """Return a data set; digits in miniature."""
        if self.miniature:
            return load_data(DataConfig("digits", images=300))
        return load_data(DataConfig(str(self.data / name), images=images))

    def source(self, name: str, images: int | None = None) -> dict[str, Any]:
        """Return the data setting of a search."""
        return (
            {"source": "digits", "images": 300}
            if self.miniature
            else {"source": str(self.data / name), "images": images}
        )


# --- 1: tests ---------------------------------------------------------------------------------------------------------


def tests(stage: Stage) -> None:
    """Run the tests marked `gpu`."""

    def run() -> dict[str, Any]:
        report = stage.work / "report.xml"
        # the others are not collected: they may need packages that are not there
        marked = [file for folder in stage.options.tests for file in folder.rglob("test_*.py") if _is_marked(file)]
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", *map(str, sorted(marked))]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=stage.seconds_left)
        suite = next(Xml.parse(report).iter("testsuite"))
        counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        return {**counts, "seconds": float(suite.get("time", 0)), "output": done.stdout[-4000:]}

    stage.row("gpu", run)


def _is_marked(file: Path) -> bool:
    return "pytest.mark.gpu" in file.read_text()


# --- 2: the whole path ------------------------------------------------------------------------------------------------


def fixed_recipe(name: str) -> SearchSpace:
    """A space whose recipe is decided, as a supernet needs it."""
    space = load_space(name)
    default = space.default_point().values
    return space.fixed({key: value for key, value in default.items() if key.startswith("train.")})


def path(stage: Stage) -> None:
    """Run a search, a supernet and a retraining to their ends."""
    device, folder = str(stage.device), stage.work / "runs"
    common = {"data": "digits", "runner": "local", "runs_dir": str(folder), "tracking_uri": "none", "seed": 0}

    def searched(name: str, **settings: Any) -> dict[str, Any]:
        began = time.monotonic()
        state = nasforge.search(name=name, **common, **settings)
        failures = [
            f"{t.number}: {t.result.error.message}" for t in state.trials.values() if t.result and t.result.error
        ]
        best = state.best.metrics if state.best else {}
        return {
            "seconds": time.monotonic() - began,
            "counts": state.counts(),
            "failures": failures,
            "val_accuracy": best.get("val/accuracy"),
        }

    trials, epochs = (2, 1) if stage.miniature else (8, 5)
    evaluator = {"name": "training", "device": device}
    stage.row(
        "search",
        lambda: searched("search", space="tiny", evaluator=evaluator, budget={"trials": trials}, epochs=epochs),
    )
    shared = {"name": "shared_weights", "device": device}
    darts = {"name": "darts", "epochs": 2 if stage.miniature else 10}
    space = fixed_recipe("tiny").fixed({"model.stage0.width": 8, "model.stage1.width": 12})
    stage.row(
        "supernet",
        lambda: searched(
            "supernet", space=space, evaluator=shared, strategy=darts, budget={"trials": 2}, epochs=epochs
        ),
    )

    def retrained() -> dict[str, Any]:
        began = time.monotonic()
        finalists = nasforge.retrain(folder / "search", seeds=1, epochs=2 * epochs, device=device)
        return {"seconds": time.monotonic() - began, "networks": list(finalists[0].retrained.networks)}

    stage.row("retrain", retrained)


# --- 3: our loop against plain ones -----------------------------------------------------------------------------------


def with_cudnn_benchmark(run: Callable[[], float]) -> float:
    """Let cuDNN try its algorithms for every new shape."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        return run()
    finally:
        torch.backends.cudnn.benchmark = before


def with_fused_sgd(run: Callable[[], float]) -> float:
    """Let SGD update all weights in one kernel."""

    def fused(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        optimizer = optimizer_of(network, recipe)
        for group in optimizer.param_groups:
            group.update(fused=True, foreach=False)
        return optimizer

    training_state.optimizer_of = fused
    try:
        return run()
    finally:
        training_state.optimizer_of = optimizer_of


def eager(stage: Stage) -> None:
    """Time an epoch of three loops in turn; of ours also with what may make it faster."""
    from plain_gpu import fast, plain

    data = stage.images("cifar10_half.npz")
    recipe = Recipe(learning_rate=0.1, schedule="one_cycle", crop_pixels=4, flip=True)
    bf16 = uses_bf16(recipe, stage.device)
    epochs, turns = (1, 1) if stage.miniature else (3, 3)
    depth, width = (1, 8) if stage.miniature else (3, 16)
    images, labels = (tensor.to(stage.device) for tensor in (data.train.images, data.train.labels))

    def network() -> nn.Module:
        torch.manual_seed(0)
        return resnet(depth, width, in_channels=data.shape[0], classes=len(data.class_names))

    def ours(batch: int, *, cuda_graphs: bool = False, **changes: Any) -> float:
        marks: list[float] = []
        train(
            network(),
            data.train,
            replace(recipe, batch_size=batch, **changes),
            epochs=epochs,
            seed=0,
            device=stage.device,
            on_epoch=lambda epoch, metrics: marks.append(metrics["time/train_s"]) or True,
            cuda_graphs=cuda_graphs,
        )
        return marks[-1] - (marks[-2] if len(marks) > 1 else 0.0)  # the last epoch alone: the first warms up

    def theirs(loop: Callable[..., list[float]], batch: int) -> float:
        return loop(network(), images, labels, epochs=epochs, batch=batch, bf16=bf16)[-1]

    for batch in (32,) if stage.miniature else (128, 512):
        sides: dict[str, Callable[[], float]] = {
            "ours": lambda batch=batch: ours(batch),
            "ours_without_batch_statistics": lambda batch=batch: ours(batch, precise_bn=0),
            "ours_with_cuda_graphs": lambda batch=batch: ours(batch, cuda_graphs=True),
            "ours_with_cudnn_benchmark": lambda batch=batch: with_cudnn_benchmark(lambda: ours(batch)),
            "ours_with_fused_sgd": lambda batch=batch: with_fused_sgd(lambda: ours(batch)),
            "ours_with_all_three": lambda batch=batch: with_cudnn_benchmark(
                lambda: with_fused_sgd(lambda: ours(batch, cuda_graphs=True))
            ),
            "plain": lambda batch=batch: theirs(plain, batch),
            "fast": lambda batch=batch: theirs(fast, batch),
        }
        seen = len(images) // batch * batch
        for turn in range(turns):
            for side, run in sides.items():
                stage.row(f"batch {batch}/{side}/{turn}", lambda run=run, seen=seen: {"images_per_s": seen / run()})
        speeds = {
            side: statistics.median(
                stage.content["rows"][f"batch {batch}/{side}/{turn}"]["images_per_s"] for turn in range(turns)
            )
            for side in sides
        }
        ratios = {side: speeds["ours"] / speed for side, speed in speeds.items() if side != "ours"}
        stage.content.setdefault("summary", {})[f"batch {batch}"] = {"images_per_s": speeds, "ours_to": ratios}
    stage.content["network"] = {"depth": depth, "width": width, "params": count_params(network()), "bf16": bf16}


# --- 4: workers on one GPU --------------------------------------------------------------------------------------------


@contextmanager
def mps(control: str, folder: Path) -> Iterator[None]:
    """Run NVIDIA's Multi-Process Service, with which kernels of several processes run at the same time.

    Its clients are the processes that are started meanwhile: they know it by the environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places = {f"CUDA_MPS_{kind}_DIRECTORY": str(folder) for kind in ("PIPE", "LOG")}
    before = {key: os.environ.get(key) for key in places}
    os.environ.update(places)
    try:
        subprocess.run([control, "-d"], check=True, timeout=30)
        try:
            yield
        finally:
            subprocess.run([control], input="quit\n", text=True, check=True, timeout=30)
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def workers(stage: Stage) -> None:
    """Count trials per minute of several workers that share the GPU, at last with MPS where it is installed."""
    from nasforge.core.events import Started, Told
    from nasforge.experiment.journal import read_lines

    def minute(count: int, trials: int, suffix: str = "") -> dict[str, Any]:
        name, cores = f"workers-{count}{suffix}", os.cpu_count() or 1
        each = {"cpu": 1} if stage.miniature else {"cpu": max(1, cores // max(2, count) - 1), "gpu": 1 / count}
        state = nasforge.search(
            space="tiny" if stage.miniature else "blocks",
            data=stage.source("fashion_mnist.npz", 6000),
            strategy="random",
            pruner="none",
            evaluator={"name": "training", "device": str(stage.device)},
            runner={
                "name": "ray_tune",
                "max_concurrent_trials": count,
                "resources": {"measure": each},
                "cpus": max(cores, count),
            },
            budget={"trials": trials},
            epochs=1 if stage.miniature else 3,
            seed=0,
            name=name,
            runs_dir=str(stage.work / "runs"),
            tracking_uri="none",
        )
        lines = read_lines(stage.work / "runs" / name)
        started = [line.at for line in lines if isinstance(line.event, Started)]
        told = [line.at for line in lines if isinstance(line.event, Told) and line.event.result.status == "finished"]
        seconds = max(told) - min(started)
        attempts = max(trial.attempts for trial in state.trials.values())
        return {
            "trials_per_minute": 60 * len(told) / seconds,
            "seconds": seconds,
            "counts": state.counts(),
            "most_attempts": attempts,
            "resources": each,
        }

    trials = 2 if stage.miniature else 16
    for count in (1, 2) if stage.miniature else (1, 2, 4, 8):
        stage.row(f"{count} workers", lambda count=count: minute(count, trials))
    control = shutil.which(MPS_CONTROL)
    if control is None:
        stage.content["mps"] = f"not measured: no {MPS_CONTROL} on PATH"
        return
    for count in (2,) if stage.miniature else (4, 8):
        with mps(control, stage.work / "mps"):
            stage.row(f"{count} workers with MPS", lambda count=count: minute(count, trials, "-mps"))


# --- 5: memory --------------------------------------------------------------------------------------------------------


def memory(stage: Stage) -> None:
    """Hold the estimate of a training's memory against its peak, for networks drawn from a space."""
    data = stage.images("cifar10_half.npz", 4000)
    space, on_gpu = load_space("tiny" if stage.miniature else "blocks"), stage.device.type == "cuda"

    def validation_peaks(network: nn.Module, recipe: Recipe) -> dict[str, Any]:
        """Return peak memory and speed of a validation pass by its batch size; the platform's is 512."""
        peaks: dict[str, Any] = {}
        images = data.train.subset(torch.arange(min(len(data.train), 4096)))
        settings = {
            "device": stage.device,
            "bf16": uses_bf16(recipe, stage.device),
            "memory_format": memory_format(recipe, stage.device),
        }
        for size in (512,) if stage.miniature else (512, 1024, 2048, 4096):
            answers(network, images, batch_size=size, **settings)
            release_memory(stage.device)
            before = torch.cuda.memory_allocated() / 2**20 if on_gpu else 0.0
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            answers(network, images, batch_size=size, **settings)  # ends with a copy to the CPU, which waits
            seconds = time.perf_counter() - began
            peak = torch.cuda.max_memory_allocated() / 2**20 - before if on_gpu else None
            peaks[f"batch {size}"] = {"images_per_s": len(images) / seconds, "peak_mb": peak}
        return peaks

    def measured(number: int, precision: str, batch: int) -> dict[str, Any]:
        point = space.sample(Random(f"memory/{number}"))
        options = {"in_channels": data.shape[0], "classes": len(data.class_names)}
        with torch.device("meta"):
            planned = build(space, point, **options)
        estimate = memory_mb(planned, data.shape, batch)
        split = data.train.subset(torch.arange(min(len(data.train), 3 * batch)))
        split.on(stage.device)
        release_memory(stage.device)
        before = torch.cuda.memory_allocated() / 2**20 if on_gpu else 0.0
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        network = build(space, point, **options)
        recipe = Recipe(batch_size=batch, precision=precision, precise_bn=0)
        train(network, split, recipe, epochs=1, seed=0, device=stage.device)
        peak = torch.cuda.max_memory_allocated() / 2**20 - before if on_gpu else None
        with_validation = validation_peaks(network, recipe)
        del network
        release_memory(stage.device)
        return {
            "params": count_params(planned),
            "flops": count_flops(planned, data.shape),
            "estimate_mb": estimate,
            "peak_mb": peak,
            "peak_to_estimate": peak / estimate if peak is not None else None,
            "validation": with_validation,
            "allocated_after_mb": torch.cuda.memory_allocated() / 2**20 - before if on_gpu else None,
            "reserved_after_mb": torch.cuda.memory_reserved() / 2**20 if on_gpu else None,
        }

    batches = (16,) if stage.miniature else (32, 256)
    for number in range(2 if stage.miniature else 12):
        for precision in ("fp32", "bf16"):
            for batch in batches:
                key = f"network {number}/{precision}/batch {batch}"
                stage.row(key, lambda n=number, p=precision, b=batch: measured(n, p, b))
    ratios: dict[str, list[float]] = {}
    for key, row in stage.content["rows"].items():
        if row["peak_to_estimate"] is not None:
            ratios.setdefault(key.partition("/")[2], []).append(row["peak_to_estimate"])
    stage.content["summary"] = {
        key: {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}
        for key, values in ratios.items()
    }


# --- 6: a step of DARTS -----------------------------------------------------------------------------------------------


def darts(stage: Stage) -> None:
    """Run `supernet_step.py` for two spaces."""

    def stepped(space: str, batch: int) -> dict[str, Any]:
        out = stage.work / f"{space}-{batch}.json"
        command = [sys.executable, str(HERE / "supernet_step.py"), "--space", space, "--batch", str(batch)]
        command += ["--device", str(stage.device), "--out", str(out), "--repeats", "1" if stage.miniature else "20"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, stage.seconds_left))
        if done.returncode:
            return {"error": done.stderr[-2000:]}
        result: dict[str, Any] = json.loads(out.read_text())
        return {key: value for key, value in result.items() if key != "machine"}

    cases = [("nasbench201", 2)] if stage.miniature else [("nasbench201", 64), ("darts", 64), ("nasbench201", 256)]
    for space, batch in cases:
        stage.row(f"{space}/batch {batch}", lambda space=space, batch=batch: stepped(space, batch))


# --- 7: waits ---------------------------------------------------------------------------------------------------------


@contextmanager
def counted_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Count the calls that wait for the GPU, by the line of Python that makes them."""
    waits: Counter[str] = Counter()
    if device.type != "cuda":
        yield waits
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchronizing" in str(warning.message):
            waits[f"{Path(warning.filename).name}:{warning.lineno}"] += 1


def syncs(stage: Stage) -> None:
    """Count how often a step waits for the GPU."""
    data = stage.images("cifar10_half.npz", 8000)
    plain = Recipe(batch_size=64, crop_pixels=2, flip=True, precise_bn=0)
    recipes = {
        "plain": plain,
        "mixup and cutmix": replace(plain, mixup=0.2, cutmix=1.0),
        "randaugment": replace(plain, randaugment=2),
        "moving average": replace(plain, ema_decay=0.99),
        "batch statistics": replace(plain, precise_bn=8),
        "cutout, erasing, jitter": replace(plain, cutout_pixels=4, random_erasing=0.3, color_jitter=0.2),
        "clipped gradients": replace(plain, clip_norm=1.0),
    }

    def waits(recipe: Recipe) -> dict[str, Any]:
        network = resnet(1, 8, in_channels=data.shape[0], classes=len(data.class_names))
        validation = Validation(data.validation)
        train(network, data.train, recipe, epochs=1, seed=0, device=stage.device)  # warms up
        with counted_waits(stage.device) as counts:
            train(network, data.train, recipe, epochs=1, seed=0, device=stage.device, validation=validation)
        steps, total = len(data.train) // recipe.batch_size, sum(counts.values())
        per_step = total / steps if stage.device.type == "cuda" else None
        return {"steps": steps, "waits": total, "waits_per_step": per_step, "lines": dict(counts.most_common(12))}

    for name, recipe in recipes.items():
        stage.row(name, lambda recipe=recipe: waits(recipe))


# --- 8: Fashion-MNIST -------------------------------------------------------------------------------------------------


def preact_resnet20(in_channels: int, classes: int, width: int = 16) -> nn.Module:
    """ResNet-20 with pre-activation: He et al. 2016, https://arxiv.org/abs/1603.05027; `width` channels at first."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
    channels = width
    for number in range(3):
        for place in range(3):
            out = width * 2**number
            layers.append(PreActivationBlock(channels, out, 2 if number and not place else 1))
            channels = out
    head = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]
    return nn.Sequential(*layers, *head)


def searched_network(file: Path, in_channels: int, classes: int) -> nn.Module:
    """The network of a file: `{"space": name, "architecture": ...}`, or of the last whole run in fashion_proof.json.

    A run of the smaller class does not count: the ResNet beside it here has the size of the larger one.
    """
    content = json.loads(file.read_text())
    if "runs" in content:
        large = [row for title, row in content["runs"].items() if title.startswith("large, ") and row["finalists"]]
        finalist = large[-1]["finalists"][0]
        content = {"space": str(HERE / "fashion_proof.yaml"), "architecture": finalist["architecture"]}
    space = load_space(content["space"])
    return build(space, Architecture.from_json(content["architecture"]), in_channels=in_channels, classes=classes)


def one_training(options: argparse.Namespace) -> None:
    """Train one network by one seed, from its checkpoint, until it is done or the time is up; writes a JSON."""
    kind, seed = options.train
    stage = Stage("fashion", options)
    data, end = stage.images("fashion_mnist.npz"), time.monotonic() + options.limit
    channels, classes = data.shape[0], len(data.class_names)
    torch.manual_seed(int(seed))
    make = preact_resnet20 if kind == "preact20" else lambda c, k: searched_network(options.found, c, k)
    network = make(channels, classes)
    recipe, edge = LONG_RECIPE, min(data.shape[1:])
    if stage.miniature:
        torch.set_num_threads(1)
        recipe = replace(recipe, batch_size=64, cutout_pixels=edge // 4, crop_pixels=1)
    with trainings_end_by(lambda: end):
        trained = train(
            network,
            data.train,
            recipe,
            epochs=options.epochs,
            seed=int(seed),
            device=stage.device,
            validation=Validation(data.validation, at=()),
            checkpoint=Checkpoint(stage.work / f"{kind}-{seed}.pt"),
            flops=float(count_flops(network, data.shape)),
        )
    result = {
        "epochs_done": trained.steps_done,
        "epochs": options.epochs,
        "params": count_params(network),
        "flops": count_flops(network, data.shape),
        **{key: value for key, value in trained.metrics.items() if key.startswith(("val/", "train/", "time/"))},
    }
    if options.open_test and trained.steps_done == options.epochs:
        bf16 = uses_bf16(recipe, stage.device)
        result["test"] = score(network, data.open_test(), device=stage.device, bf16=bf16)
    (stage.work / f"{kind}-{seed}.json").write_text(json.dumps(result))


def fashion(stage: Stage) -> None:
    """Train both networks by several seeds, as processes side by side, and continue those that had no time."""
    options, kinds = stage.options, ("preact20", "found")
    seeds, epochs = (1, 2) if stage.miniature else (options.seeds, options.epochs)
    waiting = [(k, str(s)) for s in range(seeds) for k in kinds if f"{k}/seed {s}" not in stage.content["rows"]]
    running: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    def start(kind: str, seed: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, __file__, "--train", kind, seed, "--limit", str(max(1.0, stage.seconds_left))]
        command += ["--out", str(options.out), "--work", str(options.work), "--data", str(options.data)]
        command += ["--epochs", str(epochs), "--found", str(options.found)]
        command += ["--miniature"] * stage.miniature + ["--open-test"] * options.open_test
        return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    unfinished: dict[str, Any] = {}
    while waiting or running:
        while waiting and len(running) < options.side_by_side and stage.seconds_left > 0:
            running[waiting[0]] = start(*waiting[0])
            waiting.pop(0)
        if not running:
            break
        time.sleep(0.2)
        for (kind, seed), process in list(running.items()):
            if process.poll() is None:
                continue
            del running[kind, seed]
            file = stage.work / f"{kind}-{seed}.json"
            result = json.loads(file.read_text()) if process.returncode == 0 else {"error": process.returncode}
            if result.get("epochs_done") == epochs:
                stage.content["rows"][f"{kind}/seed {seed}"] = result
            else:
                unfinished[f"{kind}/seed {seed}"] = result
            stage.content["unfinished"] = unfinished
            stage.write()
    if waiting or unfinished:
        raise TimeUp
    values = {
        kind: [row["val/accuracy"] for key, row in stage.content["rows"].items() if key.startswith(kind)]
        for kind in kinds
    }
    stage.content["summary"] = {
        kind: {"mean": statistics.mean(each), "std": statistics.stdev(each) if len(each) > 1 else None, "n": len(each)}
        for kind, each in values.items()
    }


STAGES: dict[str, Callable[[Stage], None]] = {
    **{"tests": tests, "path": path, "eager": eager, "workers": workers},
    **{"memory": memory, "darts": darts, "syncs": syncs, "fashion": fashion},
}


# --- running them -----------------------------------------------------------------------------------------------------


def run_stage(options: argparse.Namespace) -> int:
    """Run one stage in this process."""
    stage = Stage(options.stage, options)
    began = time.monotonic()
    try:
        STAGES[options.stage](stage)
        stage.content["complete"] = True
        stage.content.pop("ended_by", None)
    except TimeUp:
        stage.content["ended_by"] = "time"
    except Exception as error:
        stage.content["ended_by"] = f"{type(error).__name__}: {error}"[:2000]
        raise
    finally:
        stage.content["seconds"] = stage.content.get("seconds", 0.0) + time.monotonic() - began
        stage.write()
    return 0 if stage.content["complete"] else 3


def ends(name: str, options: argparse.Namespace, arguments: list[str]) -> str:
    """Run a stage in a process of its own, and return how it ended: `complete`, or why not."""
    file = options.out / f"{name}.json"
    if file.exists() and json.loads(file.read_text())["complete"]:
        return "complete"
    command = [sys.executable, __file__, "--stage", name, *arguments]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(timeout=options.limit + ENDS_BEFORE_S)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its workers too
        process.wait()
    content = json.loads(file.read_text()) if file.exists() else {"stage": name, "complete": False, "rows": {}}
    if content["complete"]:
        return "complete"
    if code is None or code < 0:
        content["ended_by"] = "the limit of time" if code is None else f"signal {-code}"
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, content)
    return str(content.get("ended_by", f"exit code {code}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; default: all")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("NASFORGE_DATA", "../shared/data")))
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--work", type=Path, help="where experiments and checkpoints go; default: OUT/work")
    parser.add_argument("--miniature", action="store_true", help="rehearse every stage on a CPU")
    parser.add_argument("--limit", type=float, default=LIMIT_S, help="seconds of a stage")
    parser.add_argument("--tests", type=Path, nargs="+", default=[HERE.parent / "tests"], help="folders of tests")
    parser.add_argument("--found", type=Path, default=HERE / "results" / "fashion_proof.json", help="searched network")
    parser.add_argument("--epochs", type=int, default=200, help="of the Fashion-MNIST trainings")
    parser.add_argument("--seeds", type=int, default=3, help="of the Fashion-MNIST trainings")
    parser.add_argument("--side-by-side", type=int, default=6, help="Fashion-MNIST trainings at the same time")
    parser.add_argument("--open-test", action="store_true", help="measure those on the test split too, at their ends")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("data", "out", "found"):
        setattr(options, name, getattr(options, name).absolute())
    options.work = (options.work or options.out / "work").absolute()
    options.tests = [test.absolute() for test in options.tests]
    if options.train:
        one_training(options)
        return 0
    if options.stage:
        return run_stage(options)
    if unknown := [name for name in options.stages if name not in STAGES]:
        parser.error(f"no stage {', '.join(unknown)}; known: {', '.join(STAGES)}")
    if options.miniature:
        print(PROVES_NOTHING)
    elif not torch.cuda.is_available():
        parser.error("torch sees no GPU here; rehearse with --miniature")
    arguments = [argument for argument in sys.argv[1:] if argument not in STAGES]
    outcomes = {name: ends(name, options, arguments) for name in options.stages or STAGES}
    for name, outcome in outcomes.items():
        print(f"{name:8} {outcome}")
    if options.miniature:
        print(PROVES_NOTHING)
    return 0 if set(outcomes.values()) == {"complete"} else 3


if __name__ == "__main__":
    sys.exit(main())
