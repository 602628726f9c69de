"""Random crops, flips, noise and erasing of a whole batch, from an explicit generator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ferkit.checks import check_number, check_shape, check_tensor

__all__ = ["gaussian_noise", "normalize_images", "random_crop_flip", "random_erasing"]


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


def gaussian_noise(
    images: Tensor, generator: torch.Generator, variance: float = 30.0, probability: float = 0.25
) -> Tensor:
    """Add normal noise to some of the images, each value on its own; clipped, and cut to integers, as DMUE's code does.

    Args:
        images: uint8 (N, C, H, W); not written to.
        generator: a CPU generator.
        variance: of the noise, in squared grey levels.
        probability: of an image to get any.

    >>> images = torch.full((2, 1, 4, 4), 128, dtype=torch.uint8)
    >>> gaussian_noise(images, torch.Generator(), probability=1.0).float().std() > 0
    tensor(True)
    """
    _check_bytes(images)
    check_shape(images, "images", ("N", "C", "H", "W"))
    check_number(variance, "variance", 0)
    check_number(probability, "probability", 0, 1)
    chosen = (torch.rand(len(images), generator=generator) < probability).nonzero()[:, 0]
    noise = torch.randn(len(chosen), *images.shape[1:], generator=generator).mul_(variance**0.5)
    chosen = chosen.to(images.device)
    noisy = (images[chosen].float() + noise.to(images.device)).clamp_(0, 255).to(torch.uint8)
    return images.index_copy(0, chosen, noisy)


def random_erasing(
    images: Tensor,
    generator: torch.Generator,
    probability: float = 0.5,
    area: tuple[float, float] = (0.02, 0.25),
    aspect: tuple[float, float] = (0.3, 3.3),
    value: float = 0.0,
) -> Tensor:
    """Overwrite a rectangle of some of the images (Zhong et al., AAAI 2020): of normalised ones with mid grey.

    Args:
        images: (N, C, H, W), any dtype; not written to.
        generator: a CPU generator.
        probability: of an image to lose a rectangle.
        area: smallest and largest share of the image, drawn uniformly.
        aspect: smallest and largest height over width, drawn uniformly on the log scale. A rectangle that does not fit
            is drawn again, up to ten times; then the image stays whole.
        value: what is put there.

    >>> erased = random_erasing(torch.ones(1, 1, 20, 20), torch.Generator(), probability=1.0)
    >>> bool(0.01 < erased.eq(0).float().mean() < 0.26)
    True
    """
    check_tensor(images, "images")
    check_shape(images, "images", ("N", "C", "H", "W"))
    check_number(probability, "probability", 0, 1)
    for name, (low, high), most in (("area", area, 1.0), ("aspect", aspect, float("inf"))):
        check_number(low, name, 0, open_low=True)
        check_number(high, name, low, most)
    count, _, height, width = images.shape
    chosen = torch.rand(count, 1, generator=generator) < probability
    size, shape = (torch.rand(count, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    size = (area[0] + (area[1] - area[0]) * size) * (height * width)
    low, high = math.log(aspect[0]), math.log(aspect[1])
    shape = (low + (high - low) * shape).exp()
    tall, wide = (size * shape).sqrt().round(), (size / shape).sqrt().round()
    fits = (tall < height) & (wide < width)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    tall, wide = tall.gather(1, first), wide.gather(1, first)
    place = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    top, left = (place[0] * (height - tall + 1)).floor(), (place[1] * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    inside_rows = (rows >= top) & (rows < top + tall) & chosen & fits.any(1, keepdim=True)
    inside_columns = (columns >= left) & (columns < left + wide)
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :]).unsqueeze(1).to(images.device)
    return images.masked_fill(inside, value)


def normalize_images(images: Tensor) -> Tensor:
    """uint8 images in 0..255 to float32 in [-1, 1] (mean and deviation 0.5, as DMUE's release has it)."""
    _check_bytes(images)
    return images.float().div_(127.5).sub_(1.0)


def _check_bytes(images: Tensor) -> None:
    check_tensor(images, "images")
    if images.dtype != torch.uint8:
        raise TypeError(f"images: expected dtype torch.uint8, got {images.dtype}")
