import dataclasses
from random import Random

import pytest
from expecting import raises

from nasforge.core.architecture import digest
from nasforge.core.errors import ConfigError, RecipeError
from nasforge.core.recipe import SETTINGS, Recipe, check_recipes, recipe_of
from nasforge.settings.experiment import load_space, resolve
from nasforge.settings.space_file import load_recipe, shipped_recipes


def test_layers_of_settings_override_each_other():
    space = load_space("tiny")
    point = space.default_point()
    assert recipe_of(space, point, {}).crop_pixels == space.defaults["train.crop_pixels"]
    recipe = recipe_of(space, point, {"crop_pixels": 0, "learning_rate": 0.4, "ema_decay": 0.9})
    assert (recipe.crop_pixels, recipe.ema_decay) == (0, 0.9)
    assert recipe.learning_rate == point.train["learning_rate"]  # the point's own decision wins
    assert recipe.clip_norm == Recipe().clip_norm


def test_an_unknown_setting_is_met_with_the_closest_known_one():
    with raises(ConfigError, "unknown", "train.momentun", "momentum"):
        Recipe.of({"momentun": 0.9})


def test_all_problems_are_shown_at_once():
    with pytest.raises(ConfigError) as caught:
        Recipe.of({"lr": 1, "optimizer": "sdg", "momentum": 1.5, "flip": 1})
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "did you mean 'sgd'" in text
    assert "train.momentum: got 1.5, allowed: a number of at least 0 and below 1" in text
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
    with pytest.raises(ConfigError) as caught:
        Recipe.of(bad)
    assert caught.value.key == f"train.{next(iter(bad))}" and caught.value.kind in ("range", "type", "unknown")


def nested(tmp_path, text):
    file = tmp_path / "own.yaml"
    file.write_text("name: own\ndecisions:\n  train:\n" + text)
    return load_space("tiny").with_recipe(load_recipe(file))


NESTED = """
    optimizer:
      choice:
        sgd: {momentum: {float: [0.8, 0.97]}, learning_rate: {float: [0.02, 1.0], log: true}}
        adamw: {beta2: {float: [0.9, 0.999]}, learning_rate: {float: [0.0003, 0.01], log: true}}
"""


def test_a_nested_decision_sets_what_its_key_ends_with(tmp_path):
    space = nested(tmp_path, NESTED)
    check_recipes(space, {})
    for seed in range(4):
        point = space.sample(Random(seed))
        recipe = recipe_of(space, point, {})
        assert recipe.learning_rate == point.values[f"train.optimizer.{recipe.optimizer}.learning_rate"]
        assert (recipe.beta2 != 0.999) == (recipe.optimizer == "adamw")
    space = dataclasses.replace(space, defaults={**space.defaults, "train.optimizer.adamw.learning_rate": 0.009})
    sgd = space.decide(lambda key, domain: "sgd" if key == "train.optimizer" else space.default_of(key))
    assert recipe_of(space, sgd, {}).learning_rate != 0.009  # the default of a decision that is not active


def test_an_extreme_of_a_nested_decision_is_tried_too(tmp_path):
    space = nested(tmp_path, "    optimizer: {choice: {sgd: {}, adamw: {beta2: {float: [0.9, 1.1]}}}}\n")
    with raises(ConfigError, "range", "train.beta2", 1.0):
        check_recipes(space, {})


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        (
            "    ema_decay: [0.0, 0.9]\n    swa_share: {float: [0.0, 0.5]}\n",
            ("conflict", "train.swa_share", "swa_share"),
        ),
        (
            "    class_weights: [none, balanced]\n    sampling: [uniform, balanced]\n",
            ("conflict", "train.class_weights"),
        ),
        ("    frozen_stages: {int: [0, 2]}\n    init: [builder, he]\n", ("conflict", "train.frozen_stages")),
        (
            "    optimizer: {choice: {sgd: {}, adamw: {clip_norm: [0, 1]}}}\n"
            "    schedule: {choice: {cosine: {}, step: {clip_norm: [0, 2]}}}\n",
            ("duplicate", "train.schedule.step.clip_norm", "clip_norm"),
        ),
    ],
)
def test_extremes_that_exclude_each_other_are_refused_though_each_alone_is_good(tmp_path, opened, expected):
    with raises(ConfigError, *expected):
        check_recipes(nested(tmp_path, opened), {})
    for recipe in shipped_recipes():
        check_recipes(load_space("tiny").with_recipe(load_recipe(recipe)), {})


def test_a_range_whose_steps_do_not_reach_its_end_is_tried_as_far_as_they_do(tmp_path):
    check_recipes(nested(tmp_path, "    crop_pixels: {int: [0, 3], step: 2}\n"), {})
    space = nested(tmp_path, "    label_smoothing: {float: [0.0, 1.05], step: 0.1}\n")
    with raises(ConfigError, "range", "train.label_smoothing", 1.0):
        check_recipes(space, {})


def test_an_option_with_a_setting_that_it_does_not_read_is_refused(tmp_path):
    space = nested(tmp_path, "    optimizer: {choice: {sgd: {}, adamw: {momentum: [0.8, 0.9]}}}\n")
    with raises(ConfigError, "conflict", "train.optimizer.adamw.momentum", "momentum"):
        check_recipes(space, {})


def test_one_cycle_does_not_read_a_warmup(tmp_path):
    space = nested(tmp_path, "    schedule: {choice: {cosine: {}, one_cycle: {warmup_epochs: [0, 1]}}}\n")
    with raises(ConfigError, "conflict", "train.schedule.one_cycle.warmup_epochs", "one_cycle", "warmup_epochs"):
        check_recipes(space, {})


def test_a_setting_that_is_opened_twice_is_refused(tmp_path):
    space = nested(tmp_path, NESTED + "    momentum: [0.8, 0.9]\n")
    with raises(ConfigError, "duplicate", "train.momentum", "momentum"):
        check_recipes(space, {})


def test_a_setting_that_is_searched_cannot_be_fixed(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("name: own\ndecisions:\n  train:\n" + NESTED)
    with raises(ConfigError, "conflict", "recipe", "momentum"):
        resolve({"space": "tiny", "data": "digits", "recipe": {"open": str(file), "momentum": 0.9}})


def test_settings_that_exclude_each_other_are_refused():
    with raises(ConfigError, "conflict", "train.swa_share", "train.ema_decay"):
        Recipe(swa_share=0.2, ema_decay=0.99)


def test_good_edge_values_are_taken():
    recipe = Recipe.of({"momentum": 0, "decay": 1, "warmup_epochs": 0.5, "channels_last": False, "weight_decay": 0})
    assert recipe.channels_last is False


def test_the_annotations_of_the_settings_fit_each_other():
    for name, setting in SETTINGS.items():
        assert setting.name == name and setting.group and setting.description
        assert setting.choices or setting.kind is bool or setting.range.limits, f"{name} takes any number"
        assert bool(setting.excludes) == bool(setting.conflict)
        assert set(setting.excludes) <= SETTINGS.keys() - {name}
        if setting.read_by is not None:
            assert set(setting.read_by.options) <= set(SETTINGS[setting.read_by.setting].choices)


def test_a_checkpoint_does_not_know_later_settings_that_have_their_defaults():
    assert digest(Recipe().identifying()) == "96b5a417fae5"
    changed = Recipe(crop_fill="mean", keep_last_batch=True, precise_bn=3)
    assert digest(changed.identifying()) == "9e3c4e09c3fb"


def test_the_message_of_a_contradiction_names_all_settings_that_are_excluded():
    with pytest.raises(RecipeError) as caught:
        Recipe(frozen_stages=1, init="he", zero_init=True)
    (problem,) = caught.value.problems
    assert problem.key == "train.frozen_stages"
    assert "train.init and train.zero_init" in problem.message
