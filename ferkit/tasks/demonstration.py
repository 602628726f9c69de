"""Cross-entropy against DMUE on rendered faces with flipped labels: what ferkit is for, in minutes."""

from __future__ import annotations

import time
from pathlib import Path

from ferkit.checks import check_number
from ferkit.reports import comparison_table, write_text
from ferkit.tasks.data import DataOptions
from ferkit.tasks.training import FitOptions, train

__all__ = ["demo"]

COLUMNS = {
    "accuracy": "accuracy (clean labels)",
    "total_variation": "total variation to truth",
    "kl": "KL to truth (nats)",
    "flip_auc": "AUC of finding flips",
}


def demo(
    out: str = "runs/demo",
    noise: float = 0.3,
    train_images: int = 1250,
    validation_images: int = 1000,
    epochs: int = 34,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Train both methods with the small backbone and print their table.

    Args:
        out: folder of the two runs; a number is added if it exists.
        noise: share of training labels flipped to another class.
        train_images: rendered faces to train on.
        validation_images: rendered faces to score on, with clean labels and true distributions.
        epochs: passes over the training set.
        seed: of everything.
        progress: show progress bars.
    """
    check_number(noise, "noise", 0, 1)
    folder, number = Path(out), 2
    while folder.exists():
        folder, number = Path(f"{out}-{number}"), number + 1
    data = DataOptions(noise=noise, train_images=train_images, validation_images=validation_images)
    figures, start = {}, time.perf_counter()
    for method, name in (("ce", "cross-entropy"), ("dmue", "DMUE")):
        print(f"Training {name} on {train_images} rendered faces, {noise:.0%} of the labels flipped.", flush=True)
        fit = FitOptions(
            epochs=epochs, seed=seed, out=str(folder / method), accelerator="cpu", progress=progress, validate_every=4
        )
        figures[name] = train(method, data, fit)
    columns = {"method": "method", **COLUMNS}
    table = comparison_table([{"method": name, **values} for name, values in figures.items()], columns)
    write_text(folder / "table.md", table + "\n")
    print(f"\n{table}\n\nScored on {validation_images} fresh faces; pictures and label lists are in {folder}/.")
    print(f"{time.perf_counter() - start:.0f} seconds.")
    return figures
