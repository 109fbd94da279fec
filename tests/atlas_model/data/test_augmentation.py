"""Augmentation: flips, shifts, erasing, crops, colour jitter and RandAugment, with a seed."""

import pytest
import torch

from atlas_model.data.augmentation import Augmentation, augment


def test_flips_and_shifts_only_reuse_pixels_of_the_image() -> None:
    images = torch.arange(2 * 1 * 4 * 6, dtype=torch.uint8).view(2, 1, 4, 6)
    still = augment(images, torch.Generator().manual_seed(1), Augmentation())
    assert still.equal(images)
    mirrored = augment(images.repeat(50, 1, 1, 1), torch.Generator().manual_seed(1), Augmentation(flip=True))
    unchanged = sum(row.equal(images[0]) for row in mirrored[::2])
    assert all(row.equal(images[0]) or row.equal(images[0].flip(-1)) for row in mirrored[::2])
    assert 10 < unchanged < 40
    moved = augment(images.repeat(50, 1, 1, 1), torch.Generator().manual_seed(1), Augmentation(shift=2))
    assert any(row[:, 1:, 1:].equal(images[0, :, :-1, :-1]) for row in moved[::2])


def test_erasing_fills_a_rectangle_of_some_images_with_one_grey() -> None:
    images = torch.randint(0, 256, (200, 3, 28, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    erased = augment(images, torch.Generator().manual_seed(2), Augmentation(erase=0.5))
    changed = (erased != images).any(dim=1)  # (b, h, w)
    assert 70 < changed.any(dim=(1, 2)).sum() < 130
    for after, where in zip(erased, changed, strict=True):
        rows, columns = where.any(dim=1).nonzero().flatten(), where.any(dim=0).nonzero().flatten()
        if len(rows):
            assert rows[-1] - rows[0] < 10 and columns[-1] - columns[0] < 13, (
                "at most a third of each side, plus one pixel"
            )
            assert after[:, where].unique().numel() == 1
            inside = after[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert inside.unique().numel() == 1, "one filled rectangle"
    again = augment(images, torch.Generator().manual_seed(2), Augmentation(erase=0.5))
    assert again.equal(erased)


@pytest.mark.parametrize("channels", [1, 3])
def test_random_augmentation_is_seeded_without_the_global_generator(channels: int) -> None:
    images = torch.randint(0, 256, (4, channels, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for augmentation in (Augmentation(crop=0.3), Augmentation(color=0.3), Augmentation(randaugment=2)):
        first, again, other = (augment(images, torch.Generator().manual_seed(seed), augmentation) for seed in (1, 1, 2))
        assert first.equal(again)
        assert not first.equal(other)
        assert first.shape == images.shape
        assert first.dtype == torch.uint8
    assert torch.get_rng_state().equal(before)
