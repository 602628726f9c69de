"""Lightning sets the epoch by itself, keeps this very sampler, and can go on in mid-epoch."""

from __future__ import annotations

import pytest
import torch

from ferkit.samplers import ClassCoverageBatchSampler

lightning = pytest.importorskip("lightning")

LABELS = torch.tensor([0] * 20 + [1] * 8 + [2] * 3)


class Recorder(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def training_step(self, batch, _):
        self.seen.append(batch[0].tolist())
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_epochs(tmp_path):
    sampler = ClassCoverageBatchSampler(LABELS, 8)
    data = torch.utils.data.TensorDataset(torch.arange(len(LABELS)))
    loader = torch.utils.data.DataLoader(data, batch_sampler=sampler)
    model = Recorder()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(model, loader)
    assert trainer.train_dataloader.batch_sampler is sampler
    expected = []
    for epoch in range(3):
        fresh = ClassCoverageBatchSampler(LABELS, 8)
        fresh.set_epoch(epoch)
        expected += list(fresh)
    assert model.seen == expected
