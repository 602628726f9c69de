"""Images that are in memory already, as a data set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_number, check_shape, check_tensor
from ferkit.data.dataset import FaceDataset
from ferkit.data.manifest import Manifest

__all__ = ["ImageArray"]


class ImageArray(FaceDataset):
    """Like ``FaceDataset``, of images that are given and not read from files.

    Args:
        manifest: one row an image; ``image`` only names them.
        images: uint8 (N, 3, H, W), kept and not copied.
        size: edge in pixels; images of another are resized with antialiasing when asked for.

    Example:
        >>> manifest = Manifest(["a", "b"], ["train", "train"], [1, 0], ("cat", "dog"))
        >>> data = ImageArray(manifest, torch.zeros(2, 3, 32, 32, dtype=torch.uint8), size=48)
        >>> data[0]["image"].shape, data[0]["label"]
        (torch.Size([3, 48, 48]), 1)
    """

    def __init__(self, manifest: Manifest, images: Tensor, size: int = 32) -> None:
        check_number(size, "size", low=1, integer=True)
        check_shape(check_tensor(images, "images"), "images", (len(manifest), 3, "H", "W"))
        if images.dtype != torch.uint8:
            raise TypeError(f"images: expected dtype torch.uint8, got {images.dtype}")
        self.size, self.on_error, self._progress, self._root = size, "raise", False, None
        self.skipped = []
        self.manifest, self._paths, self._images = manifest, manifest.paths(), images
        self.classes, self.labels = manifest.classes, manifest.labels()
        self.true_labels = manifest.labels("true") if "true" in manifest.source_labels else None
        self.distributions = manifest.distributions()

    def _image(self, position: int) -> Tensor:
        image = super()._image(position)
        if image.shape[1:] == (self.size, self.size):
            return image
        settings: dict[str, Any] = {"size": (self.size, self.size), "mode": "bilinear", "antialias": True}
        # In floating point: uint8 is interpolated by some versions and processors only.
        resized = torch.nn.functional.interpolate(image[None].float(), **settings)
        return resized[0].round().clamp(0, 255).to(torch.uint8)
