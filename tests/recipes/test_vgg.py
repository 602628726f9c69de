"""The VGG baseline: its options survive a checkpoint, and it learns."""

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from ferkit.recipes import VGG


def coloured(count=48):
    """Faces of three colours; two sets of labels, the second often wrong, and a value that follows the colour."""
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(count):
        label = i % 3
        face = torch.randint(0, 80, (3, 32, 32), dtype=torch.uint8, generator=generator)
        face[label] += 150
        other = label if i % 4 else (label + 1) % 3
        value = torch.tensor([label / 2 - 0.5 if i % 5 else float("nan")])
        items.append(
            {"image": face, "label": label, "index": i, "sources": torch.tensor([label, other]), "values": value}
        )
    return items


def fitted(recipe, epochs, items, *callbacks):
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(recipe, DataLoader(items, 16), DataLoader(items, 16))
    return trainer.callback_metrics


@pytest.mark.parametrize("schedule", ["one-cycle", "step"])
def test_learns_labels_and_values(schedule):
    torch.manual_seed(0)
    options = {"learning_rate": 2e-3, "schedule": schedule, "milestones": (0.8,)}
    made = VGG(3, sources=("a", "b"), values=("valence",), width=0.125, dropout=0.0, **options)
    metrics = fitted(made, 20, coloured())
    assert float(metrics["val_accuracy"]) == 1.0
    assert float(metrics["val_ccc_valence"]) > 0.7
    assert {"train_loss", "train_cross_entropy", "train_concordance"} <= set(metrics)


def test_hyperparameters_make_the_same_recipe():
    made = VGG(
        5, sources=["a", "b"], values=["valence"], width=0.1, hidden=80, head="first", gamma=2.0, size=40, seed=4
    )
    again = VGG(**made.hparams)
    again.load_state_dict(made.state_dict())
    faces = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    assert torch.equal(made.eval()(faces), again.eval()(faces))
    assert (again.head, again.gamma, again.seed, again.source_names) == ("first", 2.0, 4, ("a", "b"))


def test_published_baseline_has_no_latent_code():
    made = VGG(10, width=1.0, hidden=4096)
    assert made.encoder.mean is None and made.encoder.labels.in_features == 4096
