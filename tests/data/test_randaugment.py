import pytest
import torch
from torchvision.transforms.v2 import RandAugment

from nasforge.data.randaugment import OPERATIONS, operation, randaugment

THEIRS = {"autocontrast": "AutoContrast"}
SIZE = (9, 13)


def images(count=6, channels=3):
    return torch.randint(256, (count, channels, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("magnitude", [0, 9, 30])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_torchvision_s(name, magnitude):
    their_name = THEIRS.get(name, "".join(word.capitalize() for word in name.split("_")))
    levels, signed = RandAugment._AUGMENTATION_SPACE[their_name]
    scale = levels(31, *SIZE)
    level = 0.0 if scale is None else float(scale[magnitude])
    theirs = RandAugment()
    for sign in (1, -1) if signed else (1,):
        expected = theirs._apply_image_or_video_transform(images(), their_name, sign * level, "nearest", theirs._fill)
        changed = operation(name, magnitude, sign, *SIZE)(images())
        assert (changed.int() - expected.int()).abs().max() <= 1  # their levels are rounded to 32 bits


def test_these_are_all_operations():
    assert {THEIRS.get(name, "".join(word.capitalize() for word in name.split("_"))) for name in OPERATIONS} == set(
        RandAugment._AUGMENTATION_SPACE
    )


def test_every_image_draws_its_own():
    same = images(1).repeat(200, 1, 1, 1)
    after = randaugment(same, 1, 20, torch.Generator().manual_seed(0))
    kinds = {tuple(image.flatten().tolist()) for image in after}
    assert len(kinds) > 15  # 9 operations with two signs, 5 without
    assert after.dtype == torch.uint8
    assert torch.equal(after, randaugment(same, 1, 20, torch.Generator().manual_seed(0)))
    assert not torch.equal(after, randaugment(same, 1, 20, torch.Generator().manual_seed(1)))
    gray = randaugment(images(channels=1), 3, 9, torch.Generator().manual_seed(0))
    assert gray.shape == (6, 1, *SIZE)


def test_images_of_one_operation_are_changed_together_and_go_back_to_their_places():
    pictures = images(40)
    drawn = torch.randint(2 * len(OPERATIONS), (40,), generator=torch.Generator().manual_seed(3))
    changed = randaugment(pictures, 1, 20, torch.Generator().manual_seed(3))
    for picture, after, number in zip(pictures, changed, drawn.tolist(), strict=True):
        alone = operation(OPERATIONS[number // 2], 20, 1 - 2 * (number % 2), *SIZE)(picture[None])[0]
        assert torch.equal(after, alone)
