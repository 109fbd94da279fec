"""Augmentation of training images.

Mirroring, shifts and erasing are tensor operations on a batch. Crops, colours and RandAugment are torchvision's
transforms, applied image by image.
"""

from dataclasses import dataclass

import torch
from jaxtyping import UInt8
from torch import Tensor

RATIOS = (3 / 4, 4 / 3)  # width to height of a crop, as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Augmentation:
    """The random changes to an image."""

    flip: bool = False  # mirror half of the images
    shift: int = 0  # px, at most, in both directions
    erase: float = 0.0  # share of the images of which a part is erased
    crop: float = 1.0  # minimum share of the image's area in a random crop; 1: no crops
    color: float = 0.0  # brightness, contrast and saturation change by up to this share
    randaugment: int = 0  # number of random operations (Cubuk et al. 2019, arXiv 1909.13719)

    @property
    def changes_single_images(self) -> bool:
        """Whether it has transforms that are applied image by image."""
        return self.crop < 1 or self.color > 0 or self.randaugment > 0


def augment(
    images: UInt8[Tensor, "b c h w"], generator: torch.Generator, augmentation: Augmentation
) -> UInt8[Tensor, "b c h w"]:
    """Augment each image of a batch at random.

    In this order: torchvision's transforms; mirroring of half of the images; a shift by up to ``shift`` px, which
    repeats the border's pixels; a grey rectangle over some of them (random erasing, Zhong et al. 2020, arXiv
    1708.04896).
    """
    if augmentation.changes_single_images:
        images = torch.stack([_transformed(image, augmentation, generator) for image in images])
    moved = _move(images, generator, flip=augmentation.flip, shift=augmentation.shift)
    return _erase(moved, generator, share=augmentation.erase) if augmentation.erase else moved


def view(
    image: UInt8[Tensor, "c h w"], augmentation: Augmentation, generator: torch.Generator, *, mirrored: bool = False
) -> UInt8[Tensor, "c h w"]:
    """Return one augmented view of ``image``; with ``mirrored`` its mirror image, without other changes."""
    if mirrored:
        return image.flip(2)
    return augment(image.unsqueeze(0), generator, augmentation)[0]


def _transformed(
    image: UInt8[Tensor, "c h w"], augmentation: Augmentation, generator: torch.Generator
) -> UInt8[Tensor, "c h w"]:
    from atlas_model.data.torchvision_compat import transforms  # slow to import and rarely needed

    changes = []
    if augmentation.crop < 1:
        scale = (augmentation.crop, 1.0)
        changes.append(transforms.RandomResizedCrop(image.shape[1:], scale=scale, ratio=RATIOS, interpolation=3))
    if augmentation.color:
        changes.append(transforms.ColorJitter(*(augmentation.color,) * 3))
    if augmentation.randaugment:
        changes.append(transforms.RandAugment(augmentation.randaugment))
    seed = int(torch.randint(2**62, (1,), generator=generator))
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
        torch.manual_seed(seed)
        for change in changes:
            image = change(image)
    return image


def _move(
    images: UInt8[Tensor, "b c h w"], generator: torch.Generator, *, flip: bool, shift: int
) -> UInt8[Tensor, "b c h w"]:
    b, _, h, w = images.shape
    rows, columns = torch.arange(h).expand(b, h), torch.arange(w).expand(b, w)
    if shift:
        moves = torch.randint(-shift, shift + 1, (2, b, 1), generator=generator)
        rows, columns = (rows + moves[0]).clamp(0, h - 1), (columns + moves[1]).clamp(0, w - 1)
    if flip:
        mirrored = torch.rand(b, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    device = images.device
    image = torch.arange(b, device=device).view(b, 1, 1)
    moved = images.permute(0, 2, 3, 1)[image, rows.to(device).unsqueeze(2), columns.to(device).unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)  # (b, c, h, w), channels last in memory


def _erase(images: UInt8[Tensor, "b c h w"], generator: torch.Generator, *, share: float) -> UInt8[Tensor, "b c h w"]:
    """Draw a rectangle of up to a third of each side on ``share`` of the images; it may extend over the border."""
    b, _, h, w = images.shape
    inside = []
    for side in (h, w):
        length = torch.randint(side // 9, side // 3 + 2, (b, 1), generator=generator)
        first = torch.randint(0, side, (b, 1), generator=generator) - length // 2
        place = torch.arange(side)
        inside.append((place >= first) & (place < first + length))  # (b, side)
    chosen = torch.rand(b, 1, generator=generator) < share
    painted = (inside[0] & chosen).view(b, 1, h, 1) & inside[1].view(b, 1, 1, w)
    grey = torch.randint(0, 256, (b, 1, 1, 1), dtype=torch.uint8, generator=generator)
    return torch.where(painted.to(images.device), grey.to(images.device), images)
