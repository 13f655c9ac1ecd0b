import functools
import shutil
from pathlib import Path

import pytest

from nasforge.api.search import search
from nasforge.core.space import Choice, Decision, Float, SearchSpace
from nasforge.models import reference
from nasforge.models.reference import resnet_of_flops

SPACE = SearchSpace(
    "small",
    (
        Decision("model.activation", Choice(("relu",))),
        Decision("model.stage0.width", Choice((4, 6, 8))),
        Decision("model.stage0.layer0.block", Choice(("residual", "separable_3"))),
        Decision("train.learning_rate", Float(0.05, 0.2, log=True)),
    ),
    builder="staged",
    arguments={"strides": [2], "stem_width": 4, "layers": 1},
    defaults={"train.batch_size": 64, "train.precision": "fp32"},
)


@pytest.fixture(autouse=True, scope="module")
def remembered_references():
    """Looking for the nearest ResNet takes a second; here it is always the same."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(reference, "resnet_of_flops", functools.cache(resnet_of_flops))
        yield


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A real small search on digits, left untouched."""
    runs = tmp_path_factory.mktemp("runs")
    search(
        space=SPACE,
        data={"source": "digits", "images": 600},
        strategy="random",
        runner="local",
        pruner="none",
        epochs=1,
        budget={"trials": 3},
        tracking_uri="none",
        name="small",
        runs_dir=str(runs),
    )
    return runs / "small"


@pytest.fixture
def folder(searched, tmp_path):
    return Path(shutil.copytree(searched, tmp_path / "small"))
