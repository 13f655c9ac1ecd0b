import pytest
import torch

from nasforge.data.augment import crop, cutout, flip, normalise


def images(count=64):
    return torch.randint(1, 256, (count, 3, 7, 9), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_crop_shifts_every_image_and_blackens_the_rest():
    before = images()
    after = crop(before, 2, seeded())
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    padded = torch.nn.functional.pad(before, (2, 2, 2, 2))
    shifts = set()
    for image, frame in zip(after, padded, strict=True):
        found = [
            (dy, dx) for dy in range(5) for dx in range(5) if torch.equal(frame[:, dy : dy + 7, dx : dx + 9], image)
        ]
        assert len(found) == 1
        shifts.add(found[0])
    assert len(shifts) > 12  # each image has its own shift


def test_flip_mirrors_about_half_of_the_images_and_leaves_the_others():
    before = images(200)
    after = flip(before, seeded())
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(after, before, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(after, before, strict=True)]
    assert all(m != k for m, k in zip(mirrored, kept, strict=True))
    assert 70 < sum(mirrored) < 130


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
