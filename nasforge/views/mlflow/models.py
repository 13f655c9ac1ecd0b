"""The winner of a search as a registered model: `mlflow.pyfunc.load_model("models:/cells@best")`."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasforge.core.tracking_uri import tracking_uri
from nasforge.core.uri import without_password
from nasforge.views.mlflow.client import NO_ENDPOINT, MlflowClient, MlflowException, reason, save_pyfunc
from nasforge.views.mlflow.position import delivery_locked, ids_of, read_ids, write_ids

ALIAS = "best"
_CODE = Path(__file__).with_name("served.py")
_MOST_OF_A_NAME = 100
_FORBIDDEN = str.maketrans({"/": "-", ":": "-"})


@dataclass(frozen=True)
class Winner:
    """Network that is registered as a model.

    Attributes:
        onnx: the exported network.
        about: the content of its `network.json`.
        card: the model card; None where there is none.
    """

    onnx: Path
    about: Mapping[str, Any]
    card: Path | None = None

    @property
    def digest(self) -> str:
        """Of the weights; the same network is registered once."""
        return str(self.about["weights"]["sha256"])


def is_registered(folder: Path, uri: str | None, about: Mapping[str, Any]) -> bool:
    """Return whether a store has this network as the search's model, or does not know the search at all."""
    mine = ids_of(read_ids(folder), tracking_uri(uri, folder.parent), folder.parent)
    return not mine["parent_run_id"] or mine["model"] == about["weights"]["sha256"]


def register(folder: Path, uri: str | None, name: str, winner: Winner) -> str:
    """Register a network as the model of a search, under the alias `best`.

    Args:
        folder: of the search, which was delivered.
        uri: of the store; None for the default one.
        name: of the search.
        winner: the network.

    Returns:
        A sentence for the user: how the model is loaded, or why the server does not take it.

    Raises:
        TrackingError: another process delivers the search.
    """
    full = tracking_uri(uri, folder.parent)
    with delivery_locked(folder):
        try:
            ids = read_ids(folder)
            mine = ids_of(ids, full, folder.parent)
            model, version = _register(MlflowClient(tracking_uri=full), mine, mine["name"] or name, winner)
            mine["model"] = winner.digest
            write_ids(folder, ids)
        except MlflowException as error:
            shown = without_password(full)
            if error.error_code in NO_ENDPOINT:
                return f"MLflow at {shown} has no model registry, so the network of '{name}' is not registered there"
            return f"MLflow at {shown} does not register the network of '{name}' ({reason(error, full)})"
    return f"MLflow has the network as version {version} of a model: models:/{model}@{ALIAS}"


def _register(client: Any, mine: Mapping[str, Any], name: str, winner: Winner) -> tuple[str, str]:
    """Write the model next to the search's run and register it; returns its name and version."""
    model = _free_name(client, name.translate(_FORBIDDEN), mine["key"])
    metrics = {key: value for key, value in winner.about["metrics"].items() if key.startswith(("test/", "cost/"))}
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "model"
        save_pyfunc(place, _CODE, winner.onnx, winner.about["shape"], winner.about["class_names"], metrics)
        if winner.card is not None:
            shutil.copyfile(winner.card, place / "README.md")
            client.log_artifact(mine["parent_run_id"], str(winner.card))
        logged = client.create_logged_model(mine["experiment_id"], name="best", source_run_id=mine["parent_run_id"])
        client.log_model_artifacts(logged.model_id, str(place))
        client.finalize_logged_model(logged.model_id, "READY")
    version = client.create_model_version(
        model,
        source=logged.artifact_location,  # MLflow would look up models:/ID in the process's own store
        run_id=mine["parent_run_id"],
        model_id=logged.model_id,
        tags={"nasforge.finalist": str(winner.about["trained"].get("finalist", "")), **_texts(metrics)},
        description=f"Input: float images in 0..1, N x {' x '.join(map(str, winner.about['shape']))}.",
    ).version
    client.set_registered_model_alias(model, ALIAS, str(version))
    return model, str(version)


def _free_name(client: Any, name: str, key: str) -> str:
    """Return the name of the search's model, made where it is missing; a taken name is followed by a number."""
    for number in range(1, _MOST_OF_A_NAME):
        numbered = name if number == 1 else f"{name} ({number})"
        try:
            client.create_registered_model(numbered, tags={"nasforge.key": key})
            return numbered
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        if client.get_registered_model(numbered).tags.get("nasforge.key") == key:
            return numbered
    return name


def _texts(metrics: Mapping[str, float]) -> dict[str, str]:
    return {key: json.dumps(value) for key, value in metrics.items()}
