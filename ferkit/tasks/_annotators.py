"""What LTNet has learned of each annotator: a table and a picture in the run folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ferkit.recipes import LTNet
from ferkit.reports import plot_annotators, write_text
from ferkit.tasks.run import Run

__all__ = ["describe_annotators"]


def describe_annotators(run: Run, recipe: LTNet, classes: Sequence[str]) -> None:
    """Write annotators.csv (a row an annotator and true class) and figures/annotators.png."""
    matrices = recipe.annotators().cpu()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["source", "class", *classes])
    for name, matrix in zip(recipe.source_names, matrices.tolist()):
        table.writerows([name, true, *(f"{share:.4f}" for share in row)] for true, row in zip(classes, matrix))
    write_text(run.folder / "annotators.csv", text.getvalue())
    plot_annotators(matrices, recipe.source_names, classes, run.figures / "annotators.png")
