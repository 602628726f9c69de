"""A trained run, asked about images that nobody has labelled."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_choice, check_number, renamed
from ferkit.data._progress import progress as progress_line
from ferkit.data.images import ImageError, decode, pillow, pixels_of
from ferkit.data.readers.folder import image_files
from ferkit.reports import write_text
from ferkit.tasks.predictions import Predictions, annotate, check_table_path
from ferkit.tasks.run import Run, load_recipe

__all__ = ["Predictor", "predict_images"]

SHOWN = 10  # unreadable images that are named


class Predictor:
    """What a run's model says of any images.

    Args:
        run: the run folder.
        device: ``"cpu"``, ``"cuda"``, ...; None: a GPU where there is one.

    Attributes:
        classes: names in the order of the probabilities. size: edge in pixels of what the network sees.
        recipe: the trained recipe, in ``eval()``.

    Call with images: a path or several, Pillow images, uint8 arrays (H, W, 3) or (H, W), uint8 tensors (3, H, W), or
    one tensor (N, 3, H, W); face crops, in RGB, which are resized as those of the training were. Gives ``Predictions``
    on the CPU, in the order of the images: ``probabilities`` (N, C), ``uncertainty`` (N,) in [0, 1] (entropy by the
    largest one), ``values`` (N, V) and ``value_names`` of a run that learned valence and arousal. What is said of an
    image does not depend on the others.

    Raises:
        ValueError: for a folder that is no run, a device that is not there, or an image that cannot be read
            (ImageError, which names it). TypeError: for what is no image.

    ```python
    predictor = ferkit.Predictor("runs/dmue-folder-seed0")
    found = predictor(["a.png", "b.png"])
    print([predictor.classes[best] for best in found.probabilities.argmax(1)], found.uncertainty)
    ```
    """

    def __init__(self, run: str | os.PathLike[str], device: str | torch.device | None = None) -> None:
        config = Run(Path(run)).read_config()
        chosen = ("cuda" if torch.cuda.is_available() else "cpu") if device is None else device
        try:
            torch.empty(0, device=chosen)
        except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
            raise ValueError(f"device: {str(chosen)!r} cannot be used here ({error})") from error
        self.recipe = load_recipe(Run(Path(run))).to(chosen)
        self.classes, self.size = tuple(config["classes"]), int(config["size"])

    def __call__(self, images: Any, batch_size: int = 256) -> Predictions:
        check_number(batch_size, "batch_size", 1, integer=True)
        listed = [images] if isinstance(images, (str, os.PathLike)) else list(images)
        return self.of_pixels([self.pixels(image, position) for position, image in enumerate(listed)], batch_size)

    def of_pixels(self, pixels: Sequence[NDArray[np.uint8]], batch_size: int = 256) -> Predictions:
        """Of arrays uint8 (3, size, size), as ``pixels`` makes them."""
        return annotate(self.recipe, [{"image": torch.from_numpy(each)} for each in pixels], batch_size)

    def pixels(self, image: Any, position: int = 0) -> NDArray[np.uint8]:
        """What the network sees of an image, uint8 (3, size, size)."""
        if isinstance(image, (str, os.PathLike)):
            return decode(Path(image), self.size)
        found = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
        if isinstance(image, Tensor) and found.ndim == 3 and found.shape[0] == 3:
            found = found.transpose(1, 2, 0)
        elif isinstance(image, Tensor):
            raise ValueError(f"images: expected tensors of shape (3, H, W), got {tuple(found.shape)} at {position}")
        if isinstance(found, np.ndarray):
            if found.dtype != np.uint8:
                raise TypeError(f"images: expected dtype uint8, got {found.dtype} at {position}")
            if not (found.size and (found.ndim == 2 or (found.ndim == 3 and found.shape[2] == 3))):
                raise ValueError(
                    f"images: expected arrays of shape (H, W, 3) or (H, W), got {found.shape} at {position}"
                )
            return pixels_of(pillow().Image.fromarray(np.ascontiguousarray(found)), self.size)
        if isinstance(found, pillow().Image.Image):
            return pixels_of(found, self.size)
        raise TypeError(f"images: expected paths, Pillow images, arrays or tensors, got {type(image).__name__}")


def predict_images(
    run: str,
    images: Sequence[str],
    out: str = "predictions.csv",
    batch_size: int = 256,
    device: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    progress: bool = True,
) -> dict[str, float]:
    """Write what a run says of image files that need no labels, one row an image.

    Columns: ``image`` (the path), ``predicted`` (the likeliest class), ``probability`` (its own), ``uncertainty``
    (entropy by the largest one, 0 to 1), ``p_<class>``, and ``valence`` and ``arousal`` where the run learned them. The
    file appears whole or not at all.

    Args:
        run: a run folder.
        images: files, and folders, which are searched to any depth; face crops, as those the run was trained on.
        out: the .csv file; one that does not begin as these do is not replaced.
        batch_size: images at once.
        device: "cpu", "cuda", ...; a GPU where there is one if not given.
        on_error: "raise": an image that cannot be read ends the work; "skip": it is left out and named at the end.
        progress: show a progress line.

    Returns:
        ``images`` and ``skipped``, their numbers.

    Raises:
        ValueError: for a bad request, before any image is read; for an unreadable image, or if none can be read.
    """
    check_choice(on_error, "on_error", ("raise", "skip"))
    check_number(batch_size, "batch_size", 1, integer=True)
    with renamed(save_predictions="out"):
        check_table_path(out)
    if Path(out).exists() and Path(out).stat().st_size and not _begins_as_ours(out):
        raise ValueError(f"out: expected a new file, or predictions to replace, got {out!r}")
    paths = _listed([images] if isinstance(images, str) else images)
    predictor = Predictor(run, device)
    found: list[Predictions] = []
    read: list[Path] = []
    errors: list[ImageError] = []
    for path, pixels in _in_batches(predictor, paths, batch_size, found, on_error, progress):
        if isinstance(pixels, ImageError):
            errors.append(pixels)
        else:
            read.append(path)
    if errors:
        named = "".join(f"\n  {error}" for error in errors[:SHOWN])
        more = f"\n  ... and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
        text = f"images: {len(errors)} of {len(paths)} cannot be read:{named}{more}"
        if not read:
            raise ValueError(text)
        print(text, file=sys.stderr)
    write_text(out, _table(read, found, predictor.classes))
    return {"images": float(len(read)), "skipped": float(len(errors))}


def _in_batches(
    predictor: Predictor, paths: list[Path], size: int, found: list[Predictions], on_error: str, progress: bool
) -> Iterator[tuple[Path, NDArray[np.uint8] | ImageError]]:
    """Each path with its pixels or why there are none; what is predicted of a batch goes into ``found``."""

    def attempt(path: Path) -> NDArray[np.uint8] | ImageError:
        try:
            return predictor.pixels(path)
        except ImageError as error:
            if on_error == "raise":
                raise
            return error

    def each() -> Iterator[tuple[Path, NDArray[np.uint8] | ImageError]]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), size):
                batch = paths[start : start + size]
                pixels = list(pool.map(attempt, batch))
                good = [value for value in pixels if not isinstance(value, ImageError)]
                if good:
                    found.append(predictor.of_pixels(good, size))
                yield from zip(batch, pixels)

    yield from progress_line(each(), len(paths), "Predicting images", progress)


def _listed(images: Sequence[str]) -> list[Path]:
    """The files, and those in the folders, each once, in their order."""
    unread: Counter[str] = Counter()
    paths: dict[Path, None] = {}
    for given in images:
        place = Path(given)
        if place.is_dir():
            with renamed(root="images"):
                inside = image_files(place, unread=unread)
            if not inside and not unread:
                raise ValueError(f"images: expected images in the folder {given!r}, got none")
            paths |= dict.fromkeys(inside)
        elif place.is_file():
            paths[place] = None
        else:
            raise ValueError(f"images: expected files or folders, and there is no {given!r}")
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in unread.most_common())
        print(f"images: {unread.total()} are left out, of kinds that are not read: {kinds}", file=sys.stderr)
    if not paths:
        raise ValueError("images: expected at least one, got none")
    return list(paths)


def _begins_as_ours(path: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        names = file.readline().strip().split(",")
    return names[0] == "image" and not {"label", "split", "index"} & set(names) and len(names) > 1


def _table(paths: Sequence[Path], found: Sequence[Predictions], classes: Sequence[str]) -> str:
    columns: dict[str, Any] = {"image": [str(path) for path in paths]}
    if found[0].probabilities is not None:
        shares = torch.cat([each.probabilities for each in found if each.probabilities is not None])
        doubt = torch.cat([each.uncertainty for each in found if each.uncertainty is not None])
        columns["predicted"] = [classes[best] for best in shares.argmax(1).tolist()]
        columns["probability"] = _figures(shares.amax(1))
        columns["uncertainty"] = _figures(doubt)
        columns |= {f"p_{name}": _figures(column) for name, column in zip(classes, shares.unbind(1))}
    values = torch.cat([each.values for each in found])
    columns |= {name: _figures(column) for name, column in zip(found[0].value_names, values.unbind(1))}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(zip(*columns.values()))
    return text.getvalue()


def _figures(column: Tensor) -> list[str]:
    return [f"{value:.6f}" for value in column.tolist()]
