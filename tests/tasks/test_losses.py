import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy

from nasforge.core.recipe import Recipe
from nasforge.data.split import Split
from nasforge.tasks.losses import class_weights, criterion_of, focal_loss
from nasforge.training.phases import order_of

CPU = torch.device("cpu")


def split(sizes=(60, 30, 10)):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    pixels = np.zeros((len(labels), 1, 2, 2), dtype=np.uint8)
    return Split(pixels, np.arange(len(labels)), labels, 4, (0.0,), (1.0,))


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)


def test_balanced_weights_are_scikit_learn_s_and_a_class_without_images_has_none():
    expected = compute_class_weight("balanced", classes=np.arange(3), y=split().labels.numpy())
    assert class_weights(split())[:3].tolist() == pytest.approx(expected.tolist())
    assert class_weights(split())[3] == 0


def test_the_default_is_plain_cross_entropy():
    logits, labels = batch()
    loss = criterion_of(Recipe(label_smoothing=0.1), split(), CPU)(logits, labels)
    assert torch.equal(loss, cross_entropy(logits, labels, label_smoothing=0.1))


def test_weighted_losses_make_every_class_count_alike():
    logits, labels = batch()
    loss = criterion_of(Recipe(class_weights="balanced"), split(), CPU)(logits, labels)
    assert torch.equal(loss, cross_entropy(logits, labels, weight=class_weights(split())))


def test_focal_loss_by_hand():
    logits, labels = batch()
    right = logits.softmax(1)[torch.arange(50), labels]
    assert focal_loss(logits, labels, 2.0).item() == pytest.approx((-((1 - right) ** 2) * right.log()).mean().item())
    weight = class_weights(split())
    for smoothing in (0.0, 0.1):
        for weights in (None, weight):
            loss = focal_loss(logits, labels, 0.0, weights, smoothing)
            assert loss.item() == pytest.approx(
                cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing).item()
            )
    assert criterion_of(Recipe(loss="focal", focal_gamma=3.0), split(), CPU)(logits, labels).item() == pytest.approx(
        focal_loss(logits, labels, 3.0).item()
    )


def test_a_certain_answer_has_finite_slopes():
    logits = torch.tensor([[200.0, 0, 0, 0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0]), 0.5).backward()
    assert logits.grad.isfinite().all()


def test_balanced_sampling_draws_all_classes_alike_and_uniform_every_image_once():
    drawn = order_of(split((600, 300, 100)), 1000, "balanced", torch.Generator().manual_seed(0))
    sizes = torch.bincount(split((600, 300, 100)).labels[drawn])
    assert (sizes - 333).abs().max() < 60
    assert torch.equal(drawn, order_of(split((600, 300, 100)), 1000, "balanced", torch.Generator().manual_seed(0)))
    assert len(order_of(split(), 1000, "balanced", torch.Generator())) == 100
    uniform = order_of(split(), 80, "uniform", torch.Generator().manual_seed(0))
    assert len(set(uniform.tolist())) == 80


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("balanced", [False, True])
def test_a_focal_loss_smooths_labels_and_weighs_classes_as_the_recipe_says(smoothing, balanced):
    logits, labels = batch()
    recipe = Recipe(
        loss="focal", focal_gamma=2.0, label_smoothing=smoothing, class_weights="balanced" if balanced else "none"
    )
    weights = class_weights(split()) if balanced else None
    expected = focal_loss(logits, labels, 2.0, weights, smoothing)
    assert torch.equal(criterion_of(recipe, split(), CPU)(logits, labels), expected)
