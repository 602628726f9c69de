"""AffectNet: faces with an emotion, valence and arousal, in each of the layouts they are found in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.checks import check_choice
from ferkit.data.emotions import EMOTIONS
from ferkit.data.manifest import Manifest
from ferkit.data.readers.affectnet_files import (
    CODES,
    POINTS,
    FaceRows,
    find_csv,
    find_lists,
    read_csv_files,
    read_lists,
)
from ferkit.data.readers.affectnet_npy import find_npy, read_npy
from ferkit.data.readers.name_lists import ImageNames, ListFiles, add_lists, affect_values

__all__ = ["affectnet"]

FINDERS = {"csv": find_csv, "npy": find_npy, "list": find_lists}


def affectnet(
    root: str | os.PathLike[str],
    layout: str = "auto",
    classes: int = 8,
    machine_labels: ListFiles = None,
    affect: str | os.PathLike[str] | None = None,
    landmarks: bool = True,
    on_error: str = "raise",
    progress: bool = False,
) -> Manifest:
    """Read AffectNet's annotated faces (Mollahosseini, Hasani, Mahoor 2017, arXiv:1708.03985).

    A face's expression, valence, arousal and landmarks always come from one row (or one id), never from lists that
    were filtered each for itself. -2 stands for unknown valence or arousal, which is NaN then; the face is kept.

    Args:
        root: the folder of one of the layouts.

            ======== ======================================================= ==================================
            layout   annotations                                             images
            ======== ======================================================= ==================================
            ``csv``  ``Manually_Annotated_file_lists/{training,validation}   ``Manually_Annotated_Images/``
                     .csv``, with or without header
            ``npy``  ``{train_set,val_set}/annotations/<id>_{exp,val,aro,    ``{train_set,val_set}/images/``
                     lnd}.npy``, numbers or text
            ``list`` ``{train,valid}_set/*_annotations_8class.txt``,         ``{train,valid}_set/images/``
                     ``name label`` a line (POSTER's)
            ======== ======================================================= ==================================
        layout: one of these, or ``"auto"``: the first that is there.
        classes: 8, or 7 without contempt, whose faces are then left out.
        machine_labels: a list ``name label`` (AffectNet's codes, or names), or name to list: source labels, as in
            ``rafdb``. Names are paths, or ends of paths that one image alone has.
        affect: list ``name valence arousal`` that takes the place of AffectNet's own.
        landmarks: read the 68 points (pixels of the image as published); 1,088 bytes a face.
        on_error: ``"raise"``, or ``"skip"`` images with a missing or unreadable annotation, annotations without an
            image, and what does not fit in the lists; all are counted.
        progress: show a progress line on stderr.

    Returns:
        A manifest with the splits ``train`` and ``valid`` (those that are there); ``notes`` counts what was left out
        and why: expressions 8 (none), 9 (uncertain), 10 (no face) and, with seven classes, 7 (contempt); images that
        are listed twice.

    Raises:
        ValueError, FileNotFoundError: naming file, row and column.

    Example:
        >>> import tempfile
        >>> root = Path(tempfile.mkdtemp())
        >>> (root / "valid_set").mkdir()
        >>> _ = (root / "valid_set/valid_annotations_8class.txt").write_text("0.jpg 1\\n1.jpg 7\\n")
        >>> manifest = affectnet(root, classes=7)
        >>> manifest.image.tolist(), manifest.label.tolist(), dict(manifest.notes)
        (['valid_set/images/0.jpg'], [1], {'faces of expression 7 (contempt)': 1})
    """
    check_choice(layout, "layout", ("auto", *FINDERS))
    if classes not in (7, 8):
        raise ValueError(f"classes: expected 7 or 8, got {classes!r}")
    check_choice(on_error, "on_error", ("raise", "skip"))
    base, skip = Path(root), on_error == "skip"
    kind, files = _find(base, layout)
    if kind == "csv":
        faces = read_csv_files(base, files, classes, landmarks, progress)
    elif kind == "npy":
        faces = read_npy(base, files, classes, landmarks, skip, progress)
    else:
        faces = read_lists(base, files, classes)
    manifest = _once(_manifest(base, faces))
    # Lists may name faces that were left out.
    names = ImageNames(list(dict.fromkeys([*manifest.image.tolist(), *faces.image, *faces.other])))
    return add_lists(manifest, names, CODES, machine_labels, affect, skip)


def _find(base: Path, layout: str) -> tuple[str, dict[str, Path]]:
    wanted = list(FINDERS) if layout == "auto" else [layout]
    places: list[str] = []
    for kind in wanted:
        files, looked = FINDERS[kind](base)
        if files:
            return kind, files
        places += looked
    raise FileNotFoundError(f"root: expected AffectNet's annotations in {base}, looked for {', '.join(places)}")


def _manifest(base: Path, faces: FaceRows) -> Manifest:
    notes = dict(faces.notes)
    columns: dict[str, NDArray[np.float64]] = {}
    if faces.affect:
        both = np.frombuffer(faces.affect).reshape(-1, 2)
        for index, name in enumerate(("valence", "arousal")):
            columns[name], clipped = affect_values(both[:, index])
            notes[f"{name} outside [-1, 1] (clipped)"] = clipped
        unknown = np.isnan(columns["valence"]) | np.isnan(columns["arousal"])
        notes["faces without valence or arousal (kept)"] = int(unknown.sum())
    points = np.frombuffer(faces.points).reshape(-1, POINTS, 2) if faces.points else None
    if points is not None and np.isnan(points).all():
        points = None
    return Manifest(
        image=np.array(faces.image, dtype=np.object_),
        split=np.array(faces.split, dtype=np.object_),
        label=np.array(faces.expression, dtype=np.int64),
        classes=EMOTIONS[: faces.classes],
        root=base,
        landmarks=points,
        source=str(base),
        rows=np.array(faces.rows, dtype=np.int64),
        notes=notes,
        valence=columns.get("valence"),
        arousal=columns.get("arousal"),
    )


def _once(manifest: Manifest) -> Manifest:
    """Each image once: kept where its rows agree, left out where they do not, since which is right is not known."""
    first: dict[str, int] = {}
    keep = np.ones(len(manifest), dtype=np.bool_)
    agree, differ = 0, set()
    known = [manifest.label, *(v for v in (manifest.valence, manifest.arousal) if v is not None)]
    for position, image in enumerate(manifest.image.tolist()):
        other = first.setdefault(image, position)
        if other != position:
            keep[position] = False
            same = all(np.array_equal(column[other], column[position], equal_nan=True) for column in known)
            agree += same
            if not same:
                differ.add(other)
    if keep.all():
        return manifest
    keep[list(differ)] = False
    notes = {**manifest.notes, "rows of images listed twice that agree (left out)": agree}
    notes["images listed twice whose rows differ (left out)"] = len(differ)
    return replace(manifest.filter(keep), notes=notes)
