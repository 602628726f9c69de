"""Random crops and flips of a whole batch, from an explicit generator."""

from __future__ import annotations

import torch
from torch import Tensor

from ferkit.checks import check_number, check_shape, check_tensor

__all__ = ["normalize_images", "random_crop_flip"]


def random_crop_flip(images: Tensor, generator: torch.Generator, padding: int = 4, flip: float = 0.5) -> Tensor:
    """Shift each image by up to ``padding`` pixels (edges repeated) and mirror it with probability ``flip``.

    Args:
        images: (N, C, H, W), any dtype; not written to.
        generator: a CPU generator: the same state gives the same crops on every device.

    >>> images = torch.arange(4.0).reshape(1, 1, 2, 2)
    >>> random_crop_flip(images, torch.Generator(), padding=0, flip=1.0)
    tensor([[[[1., 0.],
              [3., 2.]]]])
    """
    check_tensor(images, "images")
    check_shape(images, "images", ("N", "C", "H", "W"))
    check_number(padding, "padding", 0, integer=True)
    check_number(flip, "flip", 0, 1)
    count, _, height, width = images.shape
    shift = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < flip
    rows = (torch.arange(height) + shift[0]).clamp(0, height - 1)
    columns = (torch.arange(width) + shift[1]).clamp(0, width - 1)
    columns = torch.where(mirrored, columns.flip(1), columns)
    sample = torch.arange(count, device=images.device)[:, None, None]
    picked = images.permute(0, 2, 3, 1)[
        sample, rows.to(images.device)[:, :, None], columns.to(images.device)[:, None, :]
    ]
    return picked.permute(0, 3, 1, 2)


def normalize_images(images: Tensor) -> Tensor:
    """uint8 images in 0..255 to float32 in [-1, 1] (mean and deviation 0.5, as DMUE's release has it)."""
    if images.dtype != torch.uint8:
        raise TypeError(f"images: expected dtype torch.uint8, got {images.dtype}")
    return images.float().div_(127.5).sub_(1.0)
