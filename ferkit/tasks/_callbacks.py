"""What the trainer writes as it goes: one row of metrics an epoch, checkpoints never half written."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ferkit.reports import write_text

__all__ = ["AtomicCheckpointIO", "MetricsTable"]


class MetricsTable(Callback):
    """metrics.csv with one row an epoch; the rows travel in the checkpoint, so a resumed run continues its table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        row = {"epoch": float(trainer.current_epoch), "step": float(trainer.global_step)}
        # The trainer keeps the figures of the last validation; they belong to the epoch that made them.
        stale = (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1) != 0
        for name, value in sorted(trainer.callback_metrics.items()):
            if name != "loss" and not (stale and name.startswith("val_")):
                row[name] = float(value)
        self.rows = [*(old for old in self.rows if old["epoch"] < row["epoch"]), row]
        self.write()

    def write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in self.rows)
        write_text(self.path, text.getvalue())

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the checkpoint and renames: a full disk or a kill leaves the previous one whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            super().save_checkpoint(checkpoint, temporary, storage_options)
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            temporary.unlink(missing_ok=True)
            raise OSError(f"checkpoint {path} could not be written ({error}); the previous one is untouched") from error
