import pytest

from nasforge.settings.experiment import load_space
from nasforge.settings.space_file import load_recipe, shipped_recipes
from nasforge.training.remarks import remarks_on

TINY = load_space("tiny")


def test_the_shipped_spaces_and_recipes_have_nothing_unread():
    for name in ("tiny", "blocks", "darts", "mobile", "nasbench201"):
        assert remarks_on(load_space(name), {}, 3) == ()
    for recipe in shipped_recipes():
        assert remarks_on(TINY.with_recipe(load_recipe(recipe)), {}, 3) == ()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"focal_gamma": 3.0}, "train.focal_gamma is 3, but train.loss is cross_entropy; what reads it: focal"),
        ({"schedule": "one_cycle", "warmup_epochs": 2}, "train.warmup_epochs is 2, but train.schedule is one_cycle"),
        ({"early_stopping_metric": "loss"}, "train.early_stopping is 0, so nothing reads it"),
        ({"randaugment_magnitude": 5}, "train.randaugment is 0, so nothing reads it"),
        ({"early_stopping": 1, "swa_share": 0.5}, "train.swa_share averages the last epochs, which a training"),
        (
            {"warmup_epochs": 3},
            "train.warmup_epochs is 3, no shorter than a training (epochs: 3): the learning rate rises",
        ),
    ],
)
def test_what_no_training_heeds_is_said(overrides, says):
    (remark,) = remarks_on(TINY, overrides, 3)
    assert says in remark


def test_an_optimizer_without_settings_of_its_own_is_noticed():
    unread, rate = remarks_on(TINY, {"optimizer": "adamw"}, 3)  # tiny searches momentum and rate of SGD
    assert unread == "train.momentum is searched, but train.optimizer is adamw; what reads it: sgd, rmsprop, muon"
    assert rate == "train.learning_rate is 0.2 by default, much for adamw: above 0.03"
    assert remarks_on(TINY.with_recipe(load_recipe("adamw")), {"optimizer": "muon"}, 3) == ()


def test_what_some_recipe_of_the_space_heeds_is_not_mentioned():
    optimizers = TINY.with_recipe(load_recipe("optimizers"))
    assert remarks_on(optimizers, {"beta1": 0.8, "nesterov": False}, 3) == ()
    heeded = {"early_stopping": 2, "early_stopping_metric": "loss", "loss": "focal", "focal_gamma": 3.0}
    assert remarks_on(TINY, heeded, 3) == ()
