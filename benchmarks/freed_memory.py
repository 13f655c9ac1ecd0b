"""Page faults and processor time of a training step, with freed memory kept for the next step and without.

    python benchmarks/freed_memory.py          # writes benchmarks/results/freed_memory.json

A ResNet-8 trains on random colour images of 32 x 32 pixels, one thread, fp32, in a process of its own for every turn.
Without: glibc's own variable `GLIBC_TUNABLES` is set, to a default of glibc, so NASForge leaves the allocator alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import describe, write

RESULTS = Path(__file__).parent / "results" / "freed_memory.json"
CASES = {"kept": {}, "returned": {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}}
"""Name -> environment variables."""
STEPS = 4


def one(batch_size: int, trainings: int) -> dict[str, float]:
    """Train and return the costs of a step, the first training left out."""
    import numpy as np
    import torch

    from nasforge.core.recipe import Recipe
    from nasforge.data.split import Split
    from nasforge.models.reference import resnet
    from nasforge.training.loop import train

    torch.set_num_threads(1)
    torch.manual_seed(0)
    count = STEPS * batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 32, 32), np.uint8)
    labels = torch.arange(count) % 10
    split = Split(pixels, np.arange(count), labels, 10, (0.5,) * 3, (0.25,) * 3)
    recipe = Recipe(batch_size=batch_size, crop_pixels=2, flip=True, precision="fp32", precise_bn=0)
    network = resnet(1, 16, in_channels=3, classes=10)
    train(network, split, recipe, epochs=1, seed=0, device="cpu")
    before = resource.getrusage(resource.RUSAGE_SELF)
    done = train(network, split, recipe, epochs=trainings, seed=0, device="cpu")
    after = resource.getrusage(resource.RUSAGE_SELF)
    steps = STEPS * trainings
    user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "user_ms": 1000 * user / steps,
        "system_ms": 1000 * system / steps,
        "page_faults": (after.ru_minflt - before.ru_minflt) / steps,
        "loss": done.metrics["train/loss"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=3, help=f"of {STEPS} steps each, after the first one")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--one", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    results: dict[str, Any] = {}
    for batch_size in options.batch_sizes:
        turns: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
        for _ in range(options.turns):
            for name, variables in CASES.items():
                command = [sys.executable, __file__, "--one", str(batch_size), str(options.trainings)]
                done = subprocess.run(command, env={**os.environ, **variables}, check=True, stdout=subprocess.PIPE)
                turns[name].append(json.loads(done.stdout))
                print(batch_size, name, turns[name][-1], flush=True)
        losses = {row["loss"] for rows in turns.values() for row in rows}
        assert len(losses) == 1, f"the trainings differ: {losses}"
        results[f"batch of {batch_size}"] = {
            name: {**{key: statistics.median(row[key] for row in rows) for key in rows[0]}, "turns": rows}
            for name, rows in turns.items()
        }
    command = " ".join(["python", "benchmarks/freed_memory.py", *sys.argv[1:]])
    write(options.out, {"command": command, "machine": describe(), "results": results})


if __name__ == "__main__":
    main()
