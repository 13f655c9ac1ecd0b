"""NASForge: neural architecture search and hyperparameter search, one space, one loop, here or on a Ray cluster.

The public API, a dozen lines:

    import nasforge

    state = nasforge.search(space="tiny", data="digits", strategy="evolution", budget={"trials": 12}, name="first")
    print(state.best.metrics["val/accuracy"], state.best.architecture.model)
    tuned = nasforge.tune("first", budget={"trials": 12})
    print(nasforge.retrain("first", top=1, seeds=2))
    network = nasforge.load("runs/first/best")
    nasforge.export("first", to=["onnx"], out="exported")
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "inspect": "nasforge.api.inspect",
    "predict": "nasforge.api.predict",
    "explain": "nasforge.api.explain",
    "fit": "nasforge.api.fit",
    "search": "nasforge.api.search",
    "tune": "nasforge.api.tune",
    "calibrate": "nasforge.api.calibrate",
    "compare": "nasforge.api.compare",
    "resolve": "nasforge.settings.experiment",
    "load_space": "nasforge.settings.experiment",
    "load_state": "nasforge.experiment.state",
    "retrain": "nasforge.api.retrain",
    "report": "nasforge.api.report",
    "export": "nasforge.api.export",
    "load": "nasforge.exporters.network_folder",
}
__all__ = ["__version__", *_PUBLIC]


def __dir__() -> list[str]:
    """Return the public names, for completion, before they are loaded."""
    return sorted({*globals(), *_PUBLIC})


def __getattr__(name: str) -> Any:
    """Load the public names when they are used, so that `import nasforge` stays light."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nasforge' has no attribute '{name}'")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
