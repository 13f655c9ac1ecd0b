"""A fit of many images, whose search uses a share of them."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

import nasforge
from nasforge.api.export import export
from nasforge.api.fit.schedule import Plan
from nasforge.core.layout import FIT
from nasforge.experiment.state import load_state
from nasforge.exporters.network_folder import load
from nasforge.settings.experiment import resolve


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("share")
    digits = load_digits()
    images = (digits.images[:900] * 15).astype(np.uint8)
    np.savez(folder / "many.npz", x_train=images, y_train=digits.target[:900])
    with pytest.MonkeyPatch.context() as patch:
        at = "nasforge.api.fit"
        patch.setattr(f"{at}.work.FOLDED", 100)
        patch.setattr(f"{at}.work.fastest_threads", lambda *arguments: (1, 0.01))
        patch.setattr(f"{at}.work.plan_of", lambda *arguments: Plan(1, 2, 20, 0.1, images=300))
        patch.setattr(f"{at}.search.resolve", lambda content: resolve({**content, "budget": {"trials": 2}}))
        patch.setattr(f"{at}.last.last_share", lambda *arguments: (500, 2))
        patch.setattr(f"{at}.report.MOST_IN_MATRIX", 5)
        patch.setattr(f"{at}.run.ship", lambda work: export(work.folder, ["safetensors"], work.folder / "exported"))
        return nasforge.fit(
            folder / "many.npz", time=60, name="many", runs_dir=folder / "runs", tracking_uri="none", say=lambda _: None
        )


def entries(fitted, kind):
    lines = map(json.loads, (fitted.folder / FIT).read_text().splitlines())
    return [entry for entry in lines if entry["kind"] == kind]


def test_candidates_are_trained_and_compared_on_a_share(fitted):
    assert load_state(fitted.folder / "search").header.config["data"]["images"] == 300
    split = fitted.content["split"]
    assert split["folds"] == 1 and split["train"] + split["validation"] > 500 and split["test"] == 180
    (decision,) = (entry for entry in entries(fitted, "decision") if entry["name"] == "trainings")
    assert "with 300 of 720 images" in decision["reason"]


def test_the_last_training_has_more_images_and_the_log_says_how_many(fitted):
    assert {(entry["epochs"], entry["images"]) for entry in entries(fitted, "trained")} == {(2, 500)}
    assert load(fitted.folder / "best").description.trained["data"]["images"] == 500


def test_a_learning_curve_is_left_out(fitted):
    (curve,) = entries(fitted, "curve")
    assert "a share of the images" in curve["omitted"]


def test_many_classes_have_the_top_accuracy_and_pairs_in_place_of_a_matrix(fitted):
    page = fitted.report.read_text()
    assert "among the 5 most likely for" in page and "taken for</th>" not in page
