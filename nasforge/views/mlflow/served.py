"""The registered model's code. MLflow copies this file into the model, so it imports nothing of NASForge.

`predict` takes float images in 0..1, N x C x H x W, and runs the exported network with ONNX Runtime.
"""

from __future__ import annotations

import json
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel


class ImageClassifier(PythonModel):  # type: ignore[misc]
    """An exported network as MLflow serves it."""

    def load_context(self, context: Any) -> None:
        """Open the ONNX file."""
        import onnxruntime  # not needed where the model is only written

        path = context.artifacts["network"]
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        self.class_names = np.array(json.loads(about["class_names"]))
        self.temperature = json.loads(about.get("calibration", '{"temperature": 1}'))["temperature"]

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        """Return probabilities, N x classes; with `params={"output": ...}` the `names` of the classes or `logits`."""
        output = (params or {}).get("output", "probabilities")
        if output not in ("probabilities", "names", "logits"):
            raise ValueError(f"output must be probabilities, names or logits, got {output!r}")
        (logits,) = self.session.run(["logits"], {"images": np.asarray(model_input, dtype=np.float32)})
        if output == "logits":
            return np.asarray(logits)
        if output == "names":
            return np.asarray(self.class_names[logits.argmax(1)])
        scaled = logits / self.temperature
        powers = np.exp(scaled - scaled.max(1, keepdims=True))
        return np.asarray(powers / powers.sum(1, keepdims=True))


mlflow.models.set_model(ImageClassifier())
