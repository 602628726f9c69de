"""FERPlus: FER2013's faces with ten annotators' votes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ferkit.checks import check_choice
from ferkit.data._progress import progress as progress_line
from ferkit.data.emotions import EMOTIONS, class_index
from ferkit.data.images import open_image
from ferkit.data.manifest import Manifest, canonical_split
from ferkit.data.readers.ferplus_targets import EMOTION_COLUMNS, TARGETS
from ferkit.data.readers.ferplus_votes import FOLDERS, VoteRows, fer2013_labels, read_votes

__all__ = ["ferplus"]

INDEX = class_index(EMOTIONS)


def ferplus(
    root: str | os.PathLike[str],
    labels: str = "plurality",
    split: str | None = None,
    votes_file: str = "fer2013new",
    exclude_duplicates: bool | str = False,
    progress: bool = False,
) -> Manifest:
    """Read FERPlus (Barsoum et al. 2016, arXiv:1608.01041) in its own layout, with the eight emotions as classes.

    Args:
        root: folder with ``fer2013new.csv`` and ``FER2013Train``, ``FER2013Valid``, ``FER2013Test`` (those there are;
            ``write_ferplus_images`` makes them from ``fer2013.csv``).
        labels: what to learn from. The label is the emotion with the most votes (ties: FERPlus's column order, in
            which unknown and no face come last); ``votes`` become ``distributions`` of a ``FaceDataset``.

            ================== ================================================= ===========================
            ``labels``         faces kept                                        ``votes``
            ================== ================================================= ===========================
            ``plurality``      an emotion has the most votes (DMUE)              the emotions' votes
            ``votes``          an emotion has a vote                             the emotions' votes
            ``majority``       an emotion has more than half of the votes *      the emotions' votes
            ``cross_entropy``  top classes * until 75 %, three at most,          votes of those classes
                               together more than half
            ``probability``    the same (FERPlus draws a label from it           the same
                               at each use)
            ``multi_target``   classes of 30 % or more *, together more than     1 for each of those classes
                               half
            ``fer2013``        an emotion has a vote                             the emotions' votes
            ================== ================================================= ===========================

            \\* after votes of one are set to zero. ``fer2013`` takes FER2013's own, noisier label
            (``fer2013_label.csv`` or ``fer2013.csv``), and the plurality as source label ``true``, -1 where unknown
            or no face won.
        split: ``train``, ``valid`` or ``test``; None: all whose folder is there.
        votes_file: ``fer2013new`` for ``fer2013new.csv``, ``label`` for the folders' ``label.csv``: the same pictures,
            and the same votes but for about one face in forty, where the files hold those of other annotators.
        exclude_duplicates: ``True`` leaves out validation and test pictures that equal a training picture pixel by
            pixel (288 of 3,574 and 279 of 3,579 in the full set); ``"train"`` leaves out the training pictures that
            equal a validation or test picture instead. Reads every picture once.
        progress: show a progress line on stderr for that.

    Returns:
        A manifest; ``notes`` counts what was left out and why. Where FER2013's own labels are found they are the
        source label ``fer2013``.

    Raises:
        ValueError, FileNotFoundError: naming file, row and column.
    """
    check_choice(labels, "labels", (*TARGETS, "fer2013"))
    check_choice(votes_file, "votes_file", ("fer2013new", "label"))
    if exclude_duplicates not in (False, True, "train"):
        raise ValueError(f"exclude_duplicates: expected False, True or 'train', got {exclude_duplicates!r}")
    base = Path(root)
    present = [name for name, folder in FOLDERS.items() if (base / folder).is_dir()]
    if not present:
        raise ValueError(f"root: expected a folder {', '.join(FOLDERS.values())} in {base}, got none")
    wanted = present if split is None else [canonical_split(split)]
    check_choice(wanted[0], "split", present)
    table = read_votes(base, votes_file, wanted)
    manifest = _manifest(base, table, labels)
    if exclude_duplicates is not False:
        manifest = _without_copies(manifest, base, present, votes_file, exclude_duplicates == "train", progress)
    return manifest


def _manifest(base: Path, table: VoteRows, labels: str) -> Manifest:
    target, keep = TARGETS["votes" if labels == "fer2013" else labels](table.votes)
    _, decided = TARGETS["plurality"](table.votes)
    emotion = np.array([INDEX[name] for name in EMOTION_COLUMNS])  # by name, never by position
    winner = emotion[table.votes[:, : len(emotion)].argmax(axis=1)]
    notes = {**table.notes, f"faces without a {labels} target": int((~keep).sum())}
    original = fer2013_labels(base)
    sources: dict[str, NDArray[np.int64]] = {}
    if original is not None:
        known = {name: INDEX[name_of] for name, name_of in original.items()}
        sources["fer2013"] = np.array([known.get(name, -1) for name in table.name], dtype=np.int64)
    elif labels == "fer2013":
        raise FileNotFoundError(f"labels: 'fer2013' needs fer2013_label.csv or fer2013.csv in {base}")
    label = winner
    if labels == "fer2013":
        label = sources["fer2013"]
        sources["true"] = np.where(decided, winner, -1)
        unlabelled = keep & (label < 0)
        notes["faces without a label in FER2013's file"] = int(unlabelled.sum())
        keep = keep & (label >= 0)
    ordered = np.zeros_like(target)
    ordered[:, emotion] = target
    manifest = Manifest(
        image=np.array([f"{FOLDERS[s]}/{n}" for s, n in zip(table.split, table.name)], dtype=np.object_),
        split=np.array(table.split, dtype=np.object_),
        label=label,
        classes=EMOTIONS,
        root=base,
        votes=ordered,
        source_labels=sources,
        source=table.source,
        rows=np.array(table.rows, dtype=np.int64),
        notes=notes,
    )
    return manifest.filter(keep)


def _without_copies(
    manifest: Manifest, base: Path, present: list[str], votes_file: str, from_train: bool, progress: bool
) -> Manifest:
    others = [name for name in present if name != "train"]
    reference = others if from_train else ["train"]
    # Copies are looked for among all pictures of the other side, kept for these labels or not.
    table = read_votes(base, votes_file, [name for name in reference if name in present])
    others_side = [base / FOLDERS[s] / name for s, name in zip(table.split, table.name)]
    suspects = np.flatnonzero((manifest.split == "train") == from_train)
    paths = manifest.paths()
    to_read = others_side + [paths[row] for row in suspects]
    digests = [_pixels(path) for path in progress_line(to_read, len(to_read), "Comparing images", progress)]
    known = set(digests[: len(others_side)])
    copies = np.zeros(len(manifest), dtype=np.bool_)
    copies[suspects] = [digest in known for digest in digests[len(others_side) :]]
    side = "training pictures equal to a validation or test" if from_train else "pictures equal to a training"
    notes = {**manifest.notes, f"{side} picture": int(copies.sum())}
    return replace(manifest.filter(~copies), notes=notes)


def _pixels(path: Path) -> bytes:
    image = open_image(path)
    return hashlib.sha256(f"{image.size}".encode() + image.convert("RGB").tobytes()).digest()
