"""What stands beside every figure: hardware, versions, date."""

from __future__ import annotations

import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """The machine and the versions of what was measured."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    packages = ("nasforge", "torch", "torchvision", "timm", "ray", "optuna", "mlflow", "scikit-learn", "numpy")
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpu": None,
        "load_average_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "date": time.strftime("%Y-%m-%d"),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a result file, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.rename(path)
    print(f"wrote {path}")
