"""The learning rate of every step, as the schedule's formula has it, in one run and in a resumed one."""

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from ferkit.recipes import VGG, NoisyFER

EPOCHS, BATCHES, RATE = 5, 3, 1e-3
LINE = [RATE * min(1.0, 2 * (1 - step / (EPOCHS * BATCHES))) for step in range(EPOCHS * BATCHES)]


class Rates(Callback):
    """The learning rates with which each batch is taken, one list an optimiser."""

    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])


def trainer(folder, *callbacks):
    keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    return lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        callbacks=[keep, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def loader():
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4 * BATCHES, 3, 32, 32), dtype=torch.uint8, generator=draws)
    return DataLoader([{"image": image, "label": i % 3, "index": i} for i, image in enumerate(images)], 4)


def recipe(method):
    torch.manual_seed(0)
    options = {"warmup": 1, "latent": 4, "discriminator_rate": 2.0} if method is NoisyFER else {}
    return method(3, width=0.05, learning_rate=RATE, schedule="linear", **options)


@pytest.mark.parametrize("method", [VGG, NoisyFER])
def test_linear_is_constant_for_half_of_the_run_and_ends_at_nothing(method, tmp_path):
    rates = Rates()
    trainer(tmp_path, rates).fit(recipe(method), loader())
    assert [seen[0] for seen in rates.seen] == pytest.approx(LINE)
    assert LINE[7] == RATE and LINE[8] < RATE and LINE[-1] < 0.15 * RATE
    if method is NoisyFER:
        assert [seen[1] for seen in rates.seen] == pytest.approx([2 * rate for rate in LINE])


@pytest.mark.parametrize("method", [VGG, NoisyFER])
def test_a_resumed_run_goes_on_along_the_line(method, tmp_path):
    trainer(tmp_path / "whole").fit(recipe(method), loader())
    rates, checkpoint = Rates(), tmp_path / "whole" / "epoch=2.ckpt"
    trainer(tmp_path / "rest", rates).fit(recipe(method), loader(), ckpt_path=checkpoint, weights_only=True)
    assert [seen[0] for seen in rates.seen] == pytest.approx(LINE[3 * BATCHES :])
    if method is NoisyFER:
        assert [seen[1] for seen in rates.seen] == pytest.approx([2 * rate for rate in LINE[3 * BATCHES :]])


def test_a_run_without_an_end_has_no_line():
    fit = trainer(None)
    fit.fit_loop.max_epochs = -1
    with pytest.raises(ValueError, match="max_epochs: expected a number of epochs or of steps"):
        fit.fit(recipe(VGG), loader())
