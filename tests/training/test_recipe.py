import pytest

from nasforge.config import load_space
from nasforge.core.errors import ConfigError
from nasforge.training.recipe import Recipe, recipe_of


def test_layers_of_settings_override_each_other():
    space = load_space("tiny")
    point = space.default_point()
    assert recipe_of(space, point, {}).crop_pixels == space.defaults["train.crop_pixels"]
    recipe = recipe_of(space, point, {"crop_pixels": 0, "learning_rate": 0.4, "ema_decay": 0.9})
    assert (recipe.crop_pixels, recipe.ema_decay) == (0, 0.9)
    assert recipe.learning_rate == point.train["learning_rate"]  # the point's own decision wins
    assert recipe.clip_norm == Recipe().clip_norm


def test_an_unknown_setting_is_met_with_the_closest_known_one():
    with pytest.raises(ConfigError, match=r"train\.momentun: unknown setting; did you mean 'momentum'"):
        Recipe.of({"momentun": 0.9})


def test_all_problems_are_shown_at_once():
    with pytest.raises(ConfigError) as caught:
        Recipe.of({"lr": 1, "optimizer": "sdg", "momentum": 1.5, "flip": 1})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "did you mean 'sgd'" in text
    assert "train.momentum: got 1.5, allowed: a number at least 0 and below 1" in text
    assert "train.flip: got 1, allowed: true or false" in text


@pytest.mark.parametrize(
    "bad",
    [
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"learning_rate": "0.1"},
        {"batch_size": 0},
        {"batch_size": 12.5},
        {"batch_size": True},
        {"weight_decay": -1e-4},
        {"schedule": "linear"},
        {"label_smoothing": 1.0},
        {"ema_decay": 1},
        {"decay": 1.5},
        {"decay": 0},
        {"crop_pixels": 1.5},
        {"dropout": 1.0},
        {"precision": "fp16"},
        {"channels_last": 1},
        {"channels_last": "yes"},
        {"nesterov": "true"},
        {"warmup_epochs": -1},
        {"clip_norm": -1},
    ],
)
def test_bad_values_are_refused_by_name(bad):
    with pytest.raises(ConfigError, match=f"train.{next(iter(bad))}"):
        Recipe.of(bad)


def test_good_edge_values_are_taken():
    recipe = Recipe.of({"momentum": 0, "decay": 1, "warmup_epochs": 0.5, "channels_last": False, "weight_decay": 0})
    assert recipe.channels_last is False
