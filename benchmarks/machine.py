"""What stands beside every figure: hardware, versions, date."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
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
        "gpu": _gpu(),
        "load_average_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in packages},
        "date": time.strftime("%Y-%m-%d"),
    }


def _version(package: str) -> str | None:
    """None where a package is not installed: a machine without an index has what its benchmark needs."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu() -> dict[str, Any] | None:
    """The first card, for a benchmark that has loaded torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_properties(0)
    return {
        "name": card.name,
        "capability": f"{card.major}.{card.minor}",
        "memory_mb": round(card.total_memory / 2**20),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a result file, whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=2) + "\n")
    draft.rename(path)
    print(f"wrote {path}")
