from types import SimpleNamespace

import pytest

from nasforge.views.health import advice, parts

WELL = {
    "train/loss": 0.4,
    "health/gradient_norm": 1.5,
    "health/stem.gradient_norm": 1.0,
    "health/stem.activation": 0.8,
    "health/stem.dead_relus": 0.1,
    "health/head.gradient_norm": 0.5,
    "health/head.activation": 0.8,
}


def advice_on(*changes):
    steps = [SimpleNamespace(metrics={**WELL, **change}) for change in changes]
    return " | ".join(advice(SimpleNamespace(steps=steps)))


def test_rows_are_parts():
    assert parts(WELL) == [
        {"part": "stem", "gradient_norm": 1.0, "activation": 0.8, "dead_relus": 0.1},
        {"part": "head", "gradient_norm": 0.5, "activation": 0.8, "dead_relus": None},
    ]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"health/stem.dead_relus": 0.6}, "60% of the ReLUs of stem never fire: lower the learning rate"),
        ({"health/stem.gradient_norm": 1e-5}, "hardly any gradient reaches stem (1e-05, head has 0.5): try init: he"),
        ({"health/gradient_norm": 1e4}, "the gradient is large (norm 1e+04): set clip_norm: 1"),
        ({"health/head.activation": 500.0}, "activations grow in head (root mean square 500): lower"),
        ({"health/stem.activation": 1e-5}, "the signal dies in stem (root mean square 1e-05): try init: he"),
    ],
)
def test_each_ill_has_its_advice(change, sentence):
    assert sentence in advice_on({}, {**change, "train/loss": 0.1})
    assert " | " not in advice_on({}, {**change, "train/loss": 0.1})


def test_a_loss_that_does_not_fall_and_a_training_that_is_well():
    assert advice_on({}, {}).startswith("the training loss hardly fell (0.4 to 0.4)")
    assert advice_on({}, {"train/loss": 0.1}).startswith("nothing unusual")
    assert advice(SimpleNamespace(steps=[SimpleNamespace(metrics={"train/loss": 1.0})])) == []
