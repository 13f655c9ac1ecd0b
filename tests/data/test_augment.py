import numpy as np
import pytest
import torch

from nasforge.data.augment import color_jitter, crop, cutout, erase, flip, normalise, pca_noise, rotate
from nasforge.data.split import Split


def images(count=64):
    return torch.randint(1, 256, (count, 3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_fills_the_rest_with_a_colour_and_shifts_as_it_does_with_black():
    before = images()
    black, coloured = crop(before, 2, seeded()), crop(before, 2, seeded(), (0.2, 0.4, 0.6))
    assert coloured.dtype == torch.uint8
    filled = (black != coloured).any(1)
    assert filled.any()
    assert (coloured.permute(0, 2, 3, 1)[filled] == torch.tensor([51, 102, 153])).all()


def test_crop_shifts_every_image_and_blackens_the_rest():
    before = images()
    after = crop(before, 2, seeded())
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
    shifts = set()
    for image, frame in zip(after, padded, strict=True):
        matches = [
            (dy, dx) for dy in range(5) for dx in range(5) if torch.equal(frame[:, dy : dy + 7, dx : dx + 9], image)
        ]
        assert len(matches) == 1
        shifts.add(matches[0])
    assert len(shifts) > 12  # each image has its own shift


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    before = images(200)
    after = flip(before, seeded())
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(after, before, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


def test_flips_are_along_their_axis():
    before = images(50)
    after = flip(before, seeded(), axis=-2)
    assert {torch.equal(a, b.flip(-2)) or torch.equal(a, b) for a, b in zip(after, before, strict=True)} == {True}
    assert any(torch.equal(a, b.flip(-2)) for a, b in zip(after, before, strict=True))


def test_rotation_turns_every_image_by_its_own_angle_as_torchvision_does():
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as ops

    ramp = torch.arange(12 * 16, dtype=torch.uint8).view(1, 1, 12, 16).repeat(5, 3, 1, 1)
    after = rotate(ramp, 40.0, seeded(3))
    angles = (40 * (2 * torch.rand(5, generator=seeded(3)) - 1)).tolist()
    for turned, image, angle in zip(after, ramp, angles, strict=True):
        expected = ops.rotate(image, angle, interpolation=InterpolationMode.BILINEAR)
        assert (turned.int() - expected.int()).abs().float().mean() < 0.6  # torchvision rounds the border otherwise
    assert len({tuple(image.flatten().tolist()) for image in after}) == 5
    assert torch.equal(rotate(ramp, 0.0, seeded()), ramp)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_jitter_blends_as_torchvision_does_with_factors_of_each_image(channels):
    from torchvision.transforms.v2 import functional as ops

    before = images(4)[:, :channels]
    after = color_jitter(before, 0.5, seeded(2))
    factors = 1 + 0.5 * (2 * torch.rand(3, 4, 1, 1, 1, generator=seeded(2)) - 1)
    for number in range(4):
        brightness, contrast, saturation = factors[:, number].flatten().tolist()
        expected = ops.adjust_contrast(ops.adjust_brightness(before[number], brightness), contrast)
        if channels == 3:
            expected = ops.adjust_saturation(expected, saturation)
        assert (after[number].int() - expected.int()).abs().max() <= 3  # torchvision rounds after every step
    assert torch.equal(color_jitter(before, 0.0, seeded()), before)


def test_erasing_fills_a_rectangle_of_some_images_with_noise():
    before = torch.zeros(400, 2, 20, 30)
    after = erase(before, 0.5, seeded())
    changed = (after != 0).any(1)
    chosen = changed.flatten(1).any(1)
    assert 160 < int(chosen.sum()) < 240
    for image in changed[chosen][:50]:
        rows, columns = int(image.any(1).sum()), int(image.any(0).sum())
        assert int(image.sum()) == rows * columns  # a rectangle
        assert 0.005 < rows * columns / 600 < 0.45
    assert after[after != 0].std() == pytest.approx(1, abs=0.05)
    assert torch.equal(erase(before, 0.0, seeded()), before)


def test_cutout_blanks_a_square_in_all_channels():
    before = images().float()
    after = cutout(before, 4, seeded())
    blank = after == 0
    assert torch.equal(after[~blank], before[~blank])
    assert (blank == blank[:, :1]).all()
    sizes = blank[:, 0].sum((1, 2))
    assert sizes.max() == 16  # a whole square where it does not touch the border
    assert sizes.min() >= 4
    first = blank[0, 0]
    assert int(first.sum()) == int(first.any(0).sum() * first.any(1).sum())  # a rectangle


@pytest.mark.parametrize("change", [lambda x, g: crop(x, 2, g), flip, lambda x, g: cutout(x.float(), 3, g)])
def test_the_generator_decides(change):
    assert torch.equal(change(images(), seeded(1)), change(images(), seeded(1)))
    assert not torch.equal(change(images(), seeded(1)), change(images(), seeded(2)))


def test_normalise_gives_mean_0_and_deviation_1_per_channel():
    before = images(500)
    pixels = before.double() / 255
    mean = tuple(pixels.mean((0, 2, 3)).tolist())
    std = tuple(pixels.std((0, 2, 3), correction=0).tolist())
    after = normalise(before, mean, std)
    assert after.dtype == torch.float32
    assert torch.allclose(after.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(after.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


# --- noise along the principal components of the colours --------------------------------------------------------------


def coloured(count=300):
    """Images whose colours vary along (1, 1, 1) / sqrt(3) most, then along (1, -1, 0) / sqrt(2)."""
    rng = np.random.default_rng(0)
    grey, other = rng.normal(0, 40, (count, 1, 4, 5)), rng.normal(0, 10, (count, 1, 4, 5))
    pixels = 128 + np.concatenate([grey + other, grey - other, grey], 1)
    return pixels.round().clip(0, 255).astype(np.uint8)


def split_of(pixels):
    count = len(pixels)
    return Split(pixels, np.arange(count), torch.zeros(count, dtype=torch.int64), 2, (0.5,) * 3, (0.25, 0.2, 0.3))


def test_the_principal_components_are_those_of_numpys_covariance():
    pixels = coloured()
    axes = np.array(split_of(pixels).colour_axes)
    covariance = np.cov(pixels.transpose(1, 0, 2, 3).reshape(3, -1) / 255, bias=True)
    lengths = np.linalg.norm(axes, axis=1)
    assert lengths == pytest.approx(np.linalg.eigvalsh(covariance), rel=1e-9)
    for axis, length in zip(axes, lengths, strict=True):
        assert covariance @ axis == pytest.approx(length * axis, abs=1e-12)
    largest = axes[lengths.argmax()] / lengths.max()
    assert largest == pytest.approx(np.full(3, 3**-0.5), abs=0.02)


def test_equal_images_give_equal_components_and_a_part_of_them_is_enough(monkeypatch):
    pixels = coloured()
    assert split_of(pixels).colour_axes == split_of(pixels.copy()).colour_axes
    monkeypatch.setattr("nasforge.data.split.COLOUR_IMAGES", 100)
    few = split_of(pixels).colour_axes
    assert few == split_of(pixels[np.linspace(0, 299, 100).round().astype(int)]).colour_axes


def test_pca_noise_shifts_an_image_as_a_whole_along_the_components():
    split = split_of(coloured())
    inputs = normalise(torch.from_numpy(split.pixels), split.mean, split.std)
    noisy = pca_noise(inputs, 0.1, split.colour_axes, split.std, seeded())
    shift = (noisy - inputs) * torch.tensor(split.std).view(1, 3, 1, 1)  # in colours from 0 to 1
    assert torch.allclose(shift, shift[:, :, :1, :1].expand_as(shift), atol=1e-6)
    numbers = torch.linalg.solve(
        torch.tensor(split.colour_axes, dtype=torch.float64).T, shift[:, :, 0, 0].double().T
    )  # a1, a2, a3
    assert numbers.std(1).tolist() == pytest.approx([0.1] * 3, rel=0.15)
    assert numbers.mean(1).abs().max() < 0.02
    assert torch.equal(noisy, pca_noise(inputs, 0.1, split.colour_axes, split.std, seeded()))
    assert not torch.equal(noisy, pca_noise(inputs, 0.1, split.colour_axes, split.std, seeded(1)))


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60)])
def test_what_is_erased_is_a_share_of_the_area_of_any_shape(height, width):
    images = torch.full((3000, 1, height, width), 9.0)
    erased = (erase(images, 1.0, torch.Generator().manual_seed(0)) != 9.0).float().mean().item()
    assert erased == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
