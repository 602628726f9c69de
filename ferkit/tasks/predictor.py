"""A trained run, asked about images that nobody has labelled."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_choice, check_number, renamed
from ferkit.data._progress import progress as progress_line
from ferkit.data.images import ImageError, decode, eight_bit_image, pillow, pixels_of
from ferkit.data.readers.folder import image_files, is_text
from ferkit.reports import write_text
from ferkit.tasks.predictions import Predictions, annotate, check_table_path
from ferkit.tasks.run import Run, load_recipe

__all__ = ["Predictor", "predict_images"]

THREADS = 8  # that decode
Pixels = NDArray[np.uint8]


class Predictor:
    """What a run's model says of any images.

    Args:
        run: the run folder.
        device: ``"cpu"``, ``"cuda"``, ...; None: a GPU where there is one.

    Attributes:
        classes: names in the order of the probabilities. size: edge in pixels of what the network sees.
        recipe: the trained recipe, in ``eval()``.

    Call with an image or several: paths, Pillow images, uint8 arrays (H, W, 3) or (H, W), uint8 tensors (3, H, W), or
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
            torch.zeros(1, device=chosen).cpu()
        except Exception as error:  # torch raises many kinds: RuntimeError, AssertionError, ModuleNotFoundError
            reason = str(error).partition("\n")[0]
            raise ValueError(f"device: {str(chosen)!r} cannot be used here ({reason})") from error
        self.recipe = load_recipe(Run(Path(run))).to(chosen)
        self.classes, self.size = tuple(config["classes"]), int(config["size"])

    def __call__(self, images: Any, batch_size: int = 256) -> Predictions:
        check_number(batch_size, "batch_size", 1, integer=True)
        listed = list(enumerate(_several(images)))
        batches = []
        with ThreadPoolExecutor(THREADS) as pool:
            for start in range(0, max(len(listed), 1), batch_size):
                pixels = list(pool.map(lambda item: self.pixels(*item), listed[start : start + batch_size]))
                batches.append(self.of_pixels(pixels, batch_size))
        shares = [batch.probabilities for batch in batches if batch.probabilities is not None]
        values = torch.cat([batch.values for batch in batches])
        return Predictions(torch.cat(shares) if shares else None, values, batches[0].value_names)

    def of_pixels(self, pixels: Sequence[Pixels], batch_size: int = 256) -> Predictions:
        """Of arrays uint8 (3, size, size), as ``pixels`` makes them."""
        return annotate(self.recipe, [{"image": torch.from_numpy(each)} for each in pixels], batch_size)

    def pixels(self, position: int, image: Any) -> Pixels:
        """What the network sees of an image, uint8 (3, size, size); errors name its position."""
        if isinstance(image, (str, os.PathLike)):
            return decode(Path(image), self.size)
        if isinstance(image, pillow().Image.Image):
            return pixels_of(eight_bit_image(image, f"image {position}"), self.size)
        array = image
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] != 3:
                raise ValueError(f"images: expected tensors of shape (3, H, W), got {tuple(image.shape)} at {position}")
            array = image.detach().cpu().permute(1, 2, 0).numpy()
        if not isinstance(array, np.ndarray):
            kinds = "paths, Pillow images, arrays or tensors"
            raise TypeError(f"images: expected {kinds}, got {type(image).__name__} at {position}")
        if array.dtype != np.uint8:
            raise TypeError(f"images: expected dtype uint8, got {array.dtype} at {position}")
        if not (array.size and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))):
            raise ValueError(f"images: expected arrays of shape (H, W, 3) or (H, W), got {array.shape} at {position}")
        return pixels_of(pillow().Image.fromarray(np.ascontiguousarray(array)), self.size)


def _several(images: Any) -> list[Any]:
    """The images of a call: one alone is a list of one."""
    alone = isinstance(images, (str, os.PathLike, pillow().Image.Image))
    if alone or (isinstance(images, (np.ndarray, Tensor)) and images.ndim < 4):
        return [images]
    try:
        return list(images)
    except TypeError as error:
        raise TypeError(f"images: expected an image or several, got {type(images).__name__}") from error


def predict_images(
    run: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] = "predictions.csv",
    batch_size: int = 256,
    device: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    replace: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """Write what a run says of image files that need no labels, one row an image.

    Columns: ``image`` (the path), ``predicted`` (the likeliest class), ``probability`` (its own), ``uncertainty``
    (entropy by the largest one, 0 to 1), ``p_<class>``, and ``valence`` and ``arousal`` where the run learned them. The
    file appears whole or not at all.

    Args:
        run: a run folder.
        images: files, and folders, which are searched to any depth; face crops, as those the run was trained on.
        out: the .csv file.
        batch_size: images at once.
        device: "cpu", "cuda", ...; a GPU where there is one if not given.
        on_error: "raise": an image that cannot be read ends the work; "skip": it is left out and named at the end.
        replace: write over a file that is there.
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
    if Path(out).exists() and not replace:
        raise ValueError(f"out: expected a new file (or replace), got {os.fspath(out)!r}")
    paths = _listed([images] if isinstance(images, (str, os.PathLike)) else images)
    predictor = Predictor(run, device)
    found: list[Predictions] = []
    read: list[Path] = []
    errors: list[ImageError] = []
    batches = _in_batches(predictor, paths, batch_size, found, on_error)
    for path, error in progress_line(batches, len(paths), "Predicting images", progress):
        if error is None:
            read.append(path)
        else:
            errors.append(error)
    if errors:
        text = f"images: {len(errors)} of {len(paths)} cannot be read:" + "".join(f"\n  {error}" for error in errors)
        if not read:
            raise ValueError(text)
        print(text, file=sys.stderr)
    write_text(out, _table(read, found, predictor.classes))
    return {"images": float(len(read)), "skipped": float(len(errors))}


def _in_batches(
    predictor: Predictor, paths: list[Path], size: int, found: list[Predictions], on_error: str
) -> Iterator[tuple[Path, ImageError | None]]:
    """Each path, and why it cannot be read if so; what is predicted of a batch goes into ``found``."""
    attempt = partial(_attempt, predictor, on_error)
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(paths), size):
            batch = paths[start : start + size]
            decoded = list(pool.map(attempt, batch))
            good = [pixels for pixels in decoded if not isinstance(pixels, ImageError)]
            if good:
                found.append(predictor.of_pixels(good, size))
            yield from ((path, each if isinstance(each, ImageError) else None) for path, each in zip(batch, decoded))


def _attempt(predictor: Predictor, on_error: str, path: Path) -> Pixels | ImageError:
    try:
        return predictor.pixels(0, path)
    except ImageError as error:
        if on_error == "raise":
            raise
        return error


def _listed(images: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files, and those in the folders, each once whatever it is called, in their order."""
    unread: Counter[str] = Counter()
    paths: dict[str, Path] = {}
    for given in images:
        place, passed_over = Path(given), Counter[str]()
        if not os.fspath(given) or not place.exists():
            raise ValueError(f"images: expected files or folders, and there is no {os.fspath(given)!r}")
        inside = [place]
        if place.is_dir():
            with renamed(root="images"):
                inside = image_files(place, unread=passed_over)
            if not inside and not passed_over:
                raise ValueError(f"images: expected images in the folder {os.fspath(given)!r}, got none")
        elif not is_text(str(place)):
            raise ValueError(f"images: expected file names in UTF-8, got {str(place)!a}: rename it")
        unread += passed_over
        for path in inside:
            paths.setdefault(os.path.realpath(path), path)
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in unread.most_common())
        print(f"images: {unread.total()} are left out, of kinds that are not read: {kinds}", file=sys.stderr)
    if not paths:
        raise ValueError("images: expected at least one, got none")
    return list(paths.values())


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
