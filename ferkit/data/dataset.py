"""Images of a manifest as a torch data set."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from ferkit.checks import check_choice, check_label_range, check_labels, check_number
from ferkit.data._progress import progress as progress_line
from ferkit.data.images import ImageError, decode, image_exists, pillow
from ferkit.data.manifest import Manifest

__all__ = ["FaceDataset"]

CACHE_LIMIT = 2 * 1024**3  # bytes; larger sets are decoded again in each epoch unless cache=True


class FaceDataset(Dataset[dict[str, Any]]):
    """Faces of a manifest: ``dataset[i]`` is ``{"image": uint8 (3, size, size), "label": int, "index": int}``.

    Images are files, or values of an LMDB (256 x 256 x 3 bytes, RGB) under paths that lead into it, such as
    ``AffectNet_lmdb/train_1.jpg`` for its key ``train_1.jpg``; every worker process opens the LMDB for itself.

    Args:
        manifest: the rows; choose a split first (``manifest.select("train")``).
        size: edge in pixels; images are resized with antialiasing, their aspect is not kept.
        root: folder of relative image paths in place of the manifest's.
        on_error: ``"raise"``: a missing image is told before work starts, as is an unreadable one where images are
            decoded up front (else when it is asked for). ``"skip"``: all images are decoded once up front; what
            cannot be read is left out, counted in a warning and listed in ``skipped``.
        cache: decode everything up front and keep it in memory as uint8; ``None``: if that takes less than 2 GiB.
        column: label set to learn from: ``label`` or the name of a source label.
        true_labels: source label that holds the best-known labels, if the manifest has it.
        progress: show a progress line on stderr while images are decoded up front.

    Attributes:
        labels: int64 (N,), -1 for unlabelled. true_labels: int64 (N,) or None. classes: names in index order.
        distributions: float32 (N, C), the votes as shares, or None. manifest: the rows that are left.
        skipped: (row, path, reason) of each image left out.

    Raises:
        ImageError: (a ValueError) naming file and row of a missing or unreadable image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("L", (64, 64), 200).save(folder / "a.png")
        >>> data = FaceDataset(Manifest(["a.png"], ["train"], [1], ("neutral", "happy"), folder), size=48)
        >>> data[0]["image"].shape, data[0]["label"]
        (torch.Size([3, 48, 48]), 1)
        >>> FaceDataset(Manifest(["b.png"], ["train"], [1], ("neutral", "happy"), Path("faces"), source="faces.csv"))
        Traceback (most recent call last):
        ...
        ferkit.data.images.ImageError: faces.csv: row 2: image is missing: faces/b.png
    """

    def __init__(
        self,
        manifest: Manifest,
        size: int = 48,
        root: str | Path | None = None,
        on_error: str = "raise",
        cache: bool | None = None,
        column: str = "label",
        true_labels: str | None = "true",
        progress: bool = False,
    ) -> None:
        if not isinstance(manifest, Manifest):
            raise TypeError(
                f"manifest: expected a Manifest (Manifest.read reads a file), got {type(manifest).__name__}"
            )
        check_number(size, "size", low=1, integer=True)
        check_choice(on_error, "on_error", ("raise", "skip"))
        pillow()  # a missing Pillow is told now, not by a worker
        manifest.labels(column), manifest.distributions()  # what is wrong with these too, before minutes of decoding
        self.size, self.on_error, self._progress = size, on_error, progress
        self._root = None if root is None else Path(root)
        self.skipped: list[tuple[int, str, str]] = []
        self.manifest, self._paths, self._images = manifest, manifest.paths(root), None
        keep = len(manifest) * 3 * size * size <= CACHE_LIMIT if cache is None else cache
        if on_error == "raise":
            self._check_files()
        if keep or on_error == "skip":
            self._images = self._decode_all(keep)
        self.classes = manifest.classes
        self.labels = self.manifest.labels(column)
        known = true_labels is not None and true_labels in manifest.source_labels
        self.true_labels = self.manifest.labels(str(true_labels)) if known else None
        self.distributions = self.manifest.distributions()

    def _where(self, position: int) -> str:
        rows = self.manifest.rows
        assert rows is not None
        return f"{self.manifest.source}: row {rows[position]}"

    def _check_files(self) -> None:
        missing = [i for i, path in enumerate(self._paths) if not image_exists(path)]
        if missing:
            more = f" ({len(missing)} of {len(self._paths)} images are missing)" if len(missing) > 1 else ""
            raise ImageError(f"{self._where(missing[0])}: image is missing: {self._paths[missing[0]]}{more}")

    def _decode_all(self, keep: bool) -> Tensor | None:
        total = len(self._paths)
        images = np.empty((total if keep else 0, 3, self.size, self.size), dtype=np.uint8)
        good: list[int] = []
        for position, image in enumerate(progress_line(self._decoded(), total, "Decoding images", self._progress)):
            if isinstance(image, ImageError):
                if self.on_error == "raise":
                    raise ImageError(f"{self._where(position)}: {image}") from image
                assert self.manifest.rows is not None
                self.skipped.append((int(self.manifest.rows[position]), str(self._paths[position]), str(image)))
                continue
            if keep:
                images[len(good)] = image
            good.append(position)
        if self.skipped:
            listed = "".join(f"\n  row {row}: {reason}" for row, _, reason in self.skipped[:10])
            more = "\n  ... (all in .skipped)" if len(self.skipped) > 10 else ""
            text = f"{self.manifest.source}: {len(self.skipped)} of {total} images are left out:{listed}{more}"
            if not good:
                raise ImageError(text)
            warnings.warn(text, stacklevel=3)
            self.manifest = self.manifest.filter(good)
            self._paths = self.manifest.paths(self._root)
        return torch.from_numpy(images[: len(good)]) if keep else None

    def _decoded(self) -> Iterator[NDArray[np.uint8] | ImageError]:
        def attempt(path: Path) -> NDArray[np.uint8] | ImageError:
            try:
                return decode(path, self.size)
            except ImageError as error:
                return error

        # Pillow decodes without the interpreter lock; blocks bound what waits in memory.
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(self._paths), 256):
                yield from pool.map(attempt, self._paths[start : start + 256])

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]  # negative indices, IndexError beyond the end
        return {"image": self._image(position), "label": int(self.labels[position]), "index": position}

    def _image(self, position: int) -> Tensor:
        if self._images is not None:
            return self._images[position].clone()  # the cache is not to be written to
        try:
            return torch.from_numpy(decode(self._paths[position], self.size))
        except ImageError as error:
            raise ImageError(f"{self._where(position)}: {error}") from error

    def with_labels(self, labels: Tensor) -> FaceDataset:
        """A shallow copy (images shared) with other labels; without ``true_labels`` the old ones become those."""
        check_labels(labels, len(self))
        check_label_range(labels.cpu(), len(self.classes))
        other = copy.copy(self)
        other.true_labels = self.labels if self.true_labels is None else self.true_labels
        other.labels = labels.detach().cpu().clone()
        return other

    def subset(self, rows: Tensor | NDArray[Any] | Sequence[int]) -> FaceDataset:
        """A copy with the rows of a mask (N,) or of positions, in that order; nothing is decoded again."""
        positions = np.arange(len(self))[np.asarray(rows)]
        chosen = torch.from_numpy(positions)
        other = copy.copy(self)
        other.manifest = self.manifest.filter(positions)
        other._paths = [self._paths[i] for i in positions]
        other._images = None if self._images is None else self._images[chosen]
        other.labels = self.labels[chosen]
        other.true_labels = None if self.true_labels is None else self.true_labels[chosen]
        other.distributions = None if self.distributions is None else self.distributions[chosen]
        return other

    def __repr__(self) -> str:
        held = "in memory" if self._images is not None else "from files"
        return f"FaceDataset({len(self)} images of {self.manifest.source}, size={self.size}, {held})"
