"""Small changes to training pictures that leave their label as it is."""

import torch
from jaxtyping import UInt8
from torch import Tensor


def augment(
    pictures: UInt8[Tensor, "b c h w"], generator: torch.Generator, *, flip: bool, shift: int, erase: float = 0.0
) -> UInt8[Tensor, "b c h w"]:
    """Mirror half of the pictures and move each by up to ``shift`` px; the border's pixels are repeated.

    Then paint over a part of some, in one grey (random erasing, Zhong et al. 2020, arXiv 1708.04896): a model that
    cannot count on any one detail learns to look at all of them.

    Args:
        pictures: of a batch.
        generator: of all that is random here.
        flip: whether to mirror.
        shift: px, in both directions.
        erase: share of the pictures.
    """
    moved = _move(pictures, generator, flip=flip, shift=shift)
    return _erase(moved, generator, share=erase) if erase else moved


def _move(
    pictures: UInt8[Tensor, "b c h w"], generator: torch.Generator, *, flip: bool, shift: int
) -> UInt8[Tensor, "b c h w"]:
    b, _, h, w = pictures.shape
    rows, columns = torch.arange(h).expand(b, h), torch.arange(w).expand(b, w)
    if shift:
        moves = torch.randint(-shift, shift + 1, (2, b, 1), generator=generator)
        rows, columns = (rows + moves[0]).clamp(0, h - 1), (columns + moves[1]).clamp(0, w - 1)
    if flip:
        mirrored = torch.rand(b, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    device = pictures.device
    picture = torch.arange(b, device=device).view(b, 1, 1)
    moved = pictures.permute(0, 2, 3, 1)[picture, rows.to(device).unsqueeze(2), columns.to(device).unsqueeze(1)]
    return moved.permute(0, 3, 1, 2)  # (b, c, h, w), channels last in memory


def _erase(pictures: UInt8[Tensor, "b c h w"], generator: torch.Generator, *, share: float) -> UInt8[Tensor, "b c h w"]:
    """Paint a rectangle of up to a third of each side over ``share`` of the pictures; some reach over the border."""
    b, _, h, w = pictures.shape
    inside = []
    for side in (h, w):
        length = torch.randint(side // 9, side // 3 + 2, (b, 1), generator=generator)
        first = torch.randint(0, side, (b, 1), generator=generator) - length // 2
        place = torch.arange(side)
        inside.append((place >= first) & (place < first + length))  # (b, side)
    chosen = torch.rand(b, 1, generator=generator) < share
    painted = (inside[0] & chosen).view(b, 1, h, 1) & inside[1].view(b, 1, 1, w)
    grey = torch.randint(0, 256, (b, 1, 1, 1), dtype=torch.uint8, generator=generator)
    return torch.where(painted.to(pictures.device), grey.to(pictures.device), pictures)
