"""Small changes to training pictures that leave their label as it is."""

import torch
from jaxtyping import UInt8
from torch import Tensor


def augment(
    pictures: UInt8[Tensor, "b c h w"], generator: torch.Generator, *, flip: bool, shift: int
) -> UInt8[Tensor, "b c h w"]:
    """Mirror half of the pictures and move each by up to ``shift`` px; the border's pixels are repeated."""
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
