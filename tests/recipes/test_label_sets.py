"""The supervised loss of several label sets against loops, and what is predicted and scored."""

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ferkit.recipes import VGG, LabelSetRecipe

CLASSES, NAN = 3, float("nan")


def recipe(**options):
    torch.manual_seed(0)
    return VGG(CLASSES, **{"width": 0.05, "dropout": 0.0, **options})


def images(count, seed=0):
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def plain_loss(labels, sources, values, gamma, released=False):
    """f by loops over sets and rows."""
    labels, sources, values = labels.double().numpy(), sources.numpy(), values.double().numpy()
    total = 0.0
    for s in range(sources.shape[1]):
        rows = [n for n in range(len(labels)) if sources[n, s] >= 0]
        each = []
        for n in rows:
            z = labels[n, s * CLASSES : (s + 1) * CLASSES]
            each.append(np.log(np.exp(z).sum()) - z[sources[n, s]])
        total += np.mean(each) if each else 0.0
    columns = []
    for v in range(values.shape[1]):
        rows = [n for n in range(len(labels)) if np.isfinite(values[n, v])]
        if not rows:
            columns.append(0.0)
            continue
        x, y = labels[rows, sources.shape[1] * CLASSES + v], values[rows, v]
        ddof = 1 if released else 0
        between = x.var(ddof=ddof) + y.var(ddof=ddof) + (x.mean() - y.mean()) ** 2
        columns.append(1 - 2 * ((x - x.mean()) * (y - y.mean())).mean() / between)
    return total + gamma * (np.mean(columns) if columns else 0.0)


@pytest.mark.parametrize("convention", ["population", "released"])
@pytest.mark.parametrize("gaps", [False, True])
def test_loss_is_the_sum_over_the_sets_plus_gamma_times_the_mean_ccc_loss(gaps, convention):
    made = recipe(sources=("a", "b"), values=("valence", "arousal"), gamma=0.7, ccc_convention=convention)
    generator = torch.Generator().manual_seed(3)
    labels = torch.randn(9, 2 * CLASSES + 2, dtype=torch.float64, generator=generator)
    sources = torch.randint(0, CLASSES, (9, 2), generator=generator)
    values = torch.rand(9, 2, generator=generator) * 2 - 1
    if gaps:
        sources[2, 0] = sources[3, 1] = sources[4, 1] = -1
        values[0, 0] = values[5, 1] = values[6, 1] = NAN
    found = made.supervised_loss(labels.requires_grad_(), sources, values)["loss"]
    expected = plain_loss(labels.detach(), sources, values, 0.7, convention == "released")
    assert float(found.detach()) == pytest.approx(expected, abs=1e-12)
    found.backward()
    assert labels.grad.isfinite().all()
    missing = torch.zeros_like(labels, dtype=torch.bool)
    for s in range(2):
        missing[:, s * CLASSES : (s + 1) * CLASSES] = (sources[:, s] < 0)[:, None]
    missing[:, 2 * CLASSES :] = values.isnan()
    assert (labels.grad[missing] == 0).all() and (labels.grad[~missing] != 0).all()


def test_sets_without_a_label_add_nothing():
    made = recipe(sources=("a",), values=("valence",))
    labels = torch.randn(4, CLASSES + 1, requires_grad=True)
    loss = made.supervised_loss(labels, torch.full((4, 1), -1), torch.full((4, 1), NAN))["loss"]
    assert float(loss.detach()) == 0
    loss.backward()
    assert (labels.grad == 0).all()


def test_one_head_averages_or_takes_the_first():
    average, first = recipe(sources=("a", "b")).eval(), recipe(sources=("a", "b"), head="first").eval()
    first.load_state_dict(average.state_dict())
    with torch.no_grad():
        for parameter in average.encoder.labels.parameters():
            parameter.mul_(30)
        first.load_state_dict(average.state_dict())
        faces = images(5)
        said = average.annotate(faces)
        assert said.probabilities.shape == (5, 2, CLASSES) and said.values.shape == (5, 0)
        assert (said.probabilities[:, 0] - said.probabilities[:, 1]).abs().max() > 0.01
        torch.testing.assert_close(average(faces).exp(), said.probabilities.mean(1))
        torch.testing.assert_close(first(faces).softmax(1), said.probabilities[:, 0])
        torch.testing.assert_close(average.predict_step({"image": faces}, 0), said.probabilities.mean(1))


def test_values_alone_give_annotations_but_no_class():
    made = recipe(sources=(), values=("valence",)).eval()
    assert made.annotate(images(2)).values.shape == (2, 1)
    assert made.annotate(images(2)).probabilities.shape == (2, 0, CLASSES)
    with pytest.raises(ValueError, match="values alone"):
        made(images(2))


def test_the_label_alone_needs_no_sources_in_the_batch():
    batch = {"image": images(4), "label": torch.tensor([0, 1, -1, 2])}
    sources, values = recipe().label_sets(batch)
    assert sources.tolist() == [[0], [1], [-1], [2]] and values.shape == (4, 0)
    given = {**batch, "sources": torch.tensor([[1], [1], [1], [1]])}
    assert recipe().label_sets(given)[0].tolist() == [[1]] * 4
    with pytest.raises(ValueError, match=r"batch: expected 'sources' \(N, 2\)"):
        recipe(sources=("a", "b")).label_sets(batch)
    with pytest.raises(ValueError, match=r"batch: expected 'sources' of shape \(4, 2\), got \(4, 1\)"):
        recipe(sources=("a", "b")).label_sets(given)
    with pytest.raises(ValueError, match=r"batch: expected 'values' of shape \(4, 1\), got \(4, 0\)"):
        recipe(values=("valence",)).label_sets(batch)


def test_validation_scores_the_whole_set_at_once():
    made = recipe(sources=("a",), values=("valence", "arousal"))
    with torch.no_grad():
        made.encoder.labels.weight.mul_(30)
    count = 23  # in batches of 8: means of the batches' coefficients would be another number
    generator = torch.Generator().manual_seed(1)
    values = torch.rand(count, 2, generator=generator) * 2 - 1
    values[4, 1] = values[17, 1] = NAN
    faces, labels = images(count), torch.randint(0, CLASSES, (count,), generator=generator)
    items = [
        {"image": faces[i], "label": int(labels[i]), "index": i, "sources": labels[i : i + 1], "values": values[i]}
        for i in range(count)
    ]
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    for _ in range(2):  # a second epoch starts anew
        (scores,) = trainer.validate(made, DataLoader(items, 8), verbose=False)
    said = made.eval().annotate(faces)
    assert scores["val_accuracy"] == pytest.approx(float((made(faces).argmax(1) == labels).double().mean()))
    for column, name in enumerate(("valence", "arousal")):
        known = values[:, column].isfinite().numpy()
        x = said.values[:, column].detach().double().numpy()[known]
        y = values[:, column].double().numpy()[known]
        ccc = 2 * ((x - x.mean()) * (y - y.mean())).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
        assert scores[f"val_ccc_{name}"] == pytest.approx(ccc, rel=1e-4)
        assert scores[f"val_mse_{name}"] == pytest.approx(((x - y) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"size": 31}, ValueError, "size: "),
        ({"sources": "label"}, TypeError, "sources: expected a sequence of names, got 'label'"),
        ({"sources": ("a", "a")}, ValueError, "sources: expected each name once, got a, a"),
        ({"sources": (), "values": ()}, ValueError, "sources: expected at least one label set"),
        ({"head": "last"}, ValueError, "head: expected one of 'average', 'first', got 'last'"),
        ({"gamma": -1.0}, ValueError, "gamma: "),
        ({"dropout": 2.0}, ValueError, "dropout: "),
        ({"hidden": 0}, ValueError, "hidden: "),
        ({"width": 0.0}, ValueError, "width: "),
        ({"ccc_convention": "unbiased"}, ValueError, "ccc_convention: "),
    ],
)
def test_refuses(options, error, match):
    with pytest.raises(error, match=match):
        recipe(**options)


def test_is_a_recipe():
    from ferkit.recipes import Recipe

    assert issubclass(VGG, LabelSetRecipe) and issubclass(LabelSetRecipe, Recipe) and recipe().load_report is None
