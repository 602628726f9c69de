"""Work on manifests: join a run's predictions as a further label set."""

from __future__ import annotations

from collections.abc import Sequence

from ferkit.data import Manifest, join_predictions, read_predictions

__all__ = ["join_manifest"]


def join_manifest(
    manifest: str,
    predictions: str,
    out: str,
    name: str | None = None,
    values: bool = False,
    classes: Sequence[str] | None = None,
) -> dict[str, float]:
    """Write a manifest with a run's predictions as a label set, as valence and arousal, or both.

    This is how noisyFER relabels RAF-DB by a model of AffectNet (WACV 2021, section 4.2).

    Args:
        manifest: the images, a .csv or .parquet file.
        predictions: table of ``ferkit evaluate --save-predictions``: image, predicted, valence, arousal.
        out: the manifest to write, .csv or .parquet.
        name: of the new label set, the column source_label_<name>; none is made if not given.
        values: take the predicted valence and arousal in place of the manifest's.
        classes: class names in order, where the manifest's are not the emotions.

    Returns:
        ``rows`` of the manifest, those ``predicted`` and those ``without_prediction`` (-1 and NaN), and with ``name``
        and labels to compare with ``agreement``: the share of predicted classes that are the manifest's ``label``.

    Raises:
        ValueError: naming file and row, such as of a prediction that is there twice or of an image that is not.
    """
    rows = Manifest.read(manifest, classes=classes)
    found = read_predictions(predictions, rows.classes)
    joined = join_predictions(rows, found, name, values)
    joined.write(out)
    lacking = joined.notes["without prediction"]
    figures = {
        "rows": float(len(rows)),
        "predicted": float(len(rows) - lacking),
        "without_prediction": float(lacking),
    }
    if name:
        labels = joined.source_labels[name.removeprefix("source_label_")]
        both = (labels >= 0) & (rows.label >= 0)
        if both.any():
            figures["agreement"] = float((labels == rows.label)[both].mean())
    return figures
