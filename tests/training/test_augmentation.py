"""Augmentation in a training: noise along the principal components of the colours, and alternating flips."""

import itertools

import numpy as np
import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import RecipeError
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.data.split import Split
from nasforge.settings.experiment import DataConfig
from nasforge.training.augmentation import augmented
from nasforge.training.hooks import Hook
from nasforge.training.loop import train
from nasforge.training.state import Checkpoint

RECIPE = Recipe(batch_size=32, precision="fp32", pca_noise=0.5, flip=True)


def split(channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (96, channels, 6, 6), dtype=np.uint8)
    labels = torch.arange(96) % 3
    return Split(pixels, np.arange(96), labels, 3, (0.5,) * channels, (0.3,) * channels)


def network(channels=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_without_three_colours_are_refused(channels):
    with raises(RecipeError, "unsupported", "train.pca_noise", "three channels", channels):
        train(network(channels), split(channels), RECIPE, epochs=1, seed=0)


def test_it_draws_nothing_where_it_is_off_and_acts_where_it_is_on():
    images, plain = torch.from_numpy(split().pixels), Recipe(flip=True)
    off, on = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    without, with_noise = augmented(images, split(), plain, off), augmented(images, split(), RECIPE, on)
    assert torch.equal(torch.rand(1, generator=off), torch.rand(1, generator=_after_flips(images)))
    shift = with_noise - without
    assert shift.abs().max() > 0.01
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-5)


@pytest.mark.parametrize("batch", [32, 40])  # 40: the last 16 images of an epoch are left out
def test_alternating_flip_mirrors_an_image_in_every_other_epoch(batch):
    data = split()
    data.pixels[:, :, :, 0] = np.arange(96, dtype=np.uint8)[:, None, None]
    data.pixels[:, :, :, -1] = 200
    seen = [{}, {}, {}, {}]

    class Look(Hook):
        def before_step(self, step):
            pixels = ((step.inputs[:, 0, 0] * 0.3 + 0.5) * 255).round().int()
            for row in pixels:
                seen[epoch][int(row[[0, -1]].min())] = bool(row[0] == 200)

    def count(done, metrics):
        nonlocal epoch
        epoch = done
        return True

    epoch = 0
    recipe = Recipe(batch_size=batch, precision="fp32", flip=True, flip_order="alternating", precise_bn=0)
    train(network(), data, recipe, epochs=4, seed=0, hooks=[Look()], on_epoch=count)
    assert all(len(sides) == 96 // batch * batch for sides in seen)
    assert 30 < sum(seen[0].values()) * 96 / len(seen[0]) < 66
    for earlier, later in itertools.combinations(range(4), 2):
        both = seen[earlier].keys() & seen[later].keys()
        assert both and {seen[earlier][i] == seen[later][i] for i in both} == {(later - earlier) % 2 == 0}


def _after_flips(images):
    generator = torch.Generator().manual_seed(0)
    torch.rand(len(images), 1, 1, 1, generator=generator)
    return generator


def test_a_continued_training_has_the_same_noise(tmp_path):
    class Stop(Exception):
        pass

    def stop(epoch, metrics):
        raise Stop

    whole, cut = network(), network()
    train(whole, split(), RECIPE, epochs=2, seed=0)
    file = Checkpoint(tmp_path / "checkpoint.pt")
    with pytest.raises(Stop):
        train(cut, split(), RECIPE, epochs=2, seed=0, checkpoint=file, on_epoch=stop)
    continued = network()
    train(continued, split(), RECIPE, epochs=2, seed=0, checkpoint=file)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), continued.state_dict().values(), strict=True)
    )
    plain = network()
    train(plain, split(), Recipe(batch_size=32, precision="fp32", flip=True), epochs=2, seed=0)
    assert not torch.equal(plain[0].weight, whole[0].weight)


def test_images_are_augmented_in_one_order():
    from nasforge.data.augment import color_jitter, crop, cutout, erase, flip, normalise, rotate

    part = load_data(DataConfig("digits", images=100, validation=0.2)).train
    recipe = Recipe(
        crop_pixels=1,
        flip=True,
        vertical_flip=True,
        rotation_degrees=30.0,
        color_jitter=0.4,
        cutout_pixels=2,
        random_erasing=0.5,
    )
    ours, theirs = (torch.Generator().manual_seed(0) for _ in range(2))
    x = flip(flip(crop(part.images, 1, theirs), theirs), theirs, axis=-2)
    x = normalise(color_jitter(rotate(x, 30.0, theirs), 0.4, theirs), part.mean, part.std)
    assert torch.equal(augmented(part.images, part, recipe, ours), erase(cutout(x, 2, theirs), 0.5, theirs))
