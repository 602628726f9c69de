"""The DMUE recipe against its equations, its ablations, and what it trains."""

import math

import lightning
import pytest
import torch
import torch.nn.functional as F

from ferkit import functional
from ferkit.blocks import BranchedOutput
from ferkit.recipes import DMUE, CrossEntropy
from ferkit.recipes.dmue import SETTINGS

CLASSES = 3


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8, generator=generator),
        "label": torch.arange(12) % CLASSES,
        "index": torch.arange(12),
    }


def recipe(**options):
    torch.manual_seed(0)
    made = DMUE(CLASSES, **options)
    made.trainer = lightning.Trainer(max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False)
    with torch.no_grad():  # classifiers of the published size give nearly uniform outputs: nothing to compare
        for name, parameter in made.named_parameters():
            if "classifier" in name:
                parameter.mul_(300)
    return made


def test_loss_is_equation_10(batch):
    made = recipe(setting="published", beta=4.0)
    images, labels = torch.randn(12, 3, 32, 32), batch["label"]
    losses = made.training_loss(images, labels)
    output = made.model(images)  # batch statistics: the same values again
    unit = F.normalize(output.features)
    onehot = F.one_hot(labels, CLASSES).float()
    similarity = unit @ unit.T @ onehot / onehot.sum(0)
    alpha = made.uncertainty(similarity, labels)
    wce = F.cross_entropy(alpha[:, None] * output.logits, labels)
    soft = aux = sp = 0.0
    p = output.logits.softmax(1)
    rows = lambda f: F.normalize(f @ f.T)  # noqa: E731
    for j in range(CLASSES):
        others = [k for k in range(CLASSES) if k != j]
        logits = output.auxiliary_logits[j]
        keep = labels != j
        aux += F.cross_entropy(logits[keep], torch.tensor([others.index(int(y)) for y in labels[keep]])) / CLASSES
        q = (logits[~keep] / 1.2).softmax(1).detach()
        soft += ((q - p[~keep][:, others]) ** 2).sum() / (12 * (CLASSES - 1))
        difference = rows(output.features) - rows(output.auxiliary_features[j])
        sp += (difference[keep][:, keep] ** 2).sum() / keep.sum() ** 2 / CLASSES
    up, down = math.exp(-((1 - 1 / 4) ** 2)), 1.0
    expected = up * (wce + 0.5 * soft + 1000 * sp) + down * aux
    torch.testing.assert_close(losses["loss"], expected, rtol=1e-4, atol=1e-5)
    for name, value in {"wce": wce, "soft": soft, "sp": sp, "aux": aux}.items():
        torch.testing.assert_close(losses[name], value, rtol=2e-4, atol=1e-6)


def test_ramps_in_epochs_and_as_a_share():
    by_epochs = recipe(setting="published", beta=5.0)
    by_share = recipe(setting="published", beta=0.5, beta_unit="share")
    for epoch in range(10):
        assert by_epochs.ramps(epoch) == by_share.ramps(epoch)
    assert by_epochs.ramps(0)[0] == pytest.approx(math.exp(-0.64)) and by_epochs.ramps(4) == (1.0, 1.0)
    assert by_epochs.ramps(9)[1] == pytest.approx(math.exp(-0.25))
    assert recipe(beta=5.0, beta_unit="epochs", ramp="released").ramps(1)[0] == pytest.approx(math.exp(-5 * 0.64))


@pytest.mark.parametrize("setting", sorted(set(SETTINGS) - {"released"}))  # which freezes some: its own tests
def test_every_parameter_is_trained(batch, setting):
    made = recipe(setting=setting)
    optimizer = made.configure_optimizers()["optimizer"]
    before = {name: value.detach().clone() for name, value in made.named_parameters()}
    made.training_loss(torch.randn(12, 3, 32, 32), batch["label"])["loss"].backward()
    optimizer.step()
    still = [name for name, value in made.named_parameters() if torch.equal(value, before[name])]
    assert still == []


# The eight rows of the paper's table 2.
@pytest.mark.parametrize("distribution", [False, True])
@pytest.mark.parametrize("similarity", [False, True])
@pytest.mark.parametrize("confidence", [False, True])
def test_ablations(batch, distribution, similarity, confidence):
    made = recipe(use_distribution=distribution, use_similarity=similarity, use_confidence=confidence)
    losses = made.training_loss(torch.randn(12, 3, 32, 32), batch["label"])
    assert ("soft" in losses, "sp" in losses) == (distribution, similarity)
    assert ("aux" in losses) == (len(made.model.branches) > 0) == (distribution or similarity)
    assert (made.uncertainty is not None) == confidence
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_without_its_parts_it_is_ramped_cross_entropy(batch):
    made = recipe(use_distribution=False, use_similarity=False, use_confidence=False)
    plain = CrossEntropy(CLASSES)
    plain.model.load_state_dict(made.model.state_dict())
    images = torch.randn(12, 3, 32, 32)
    up, _ = made.ramps(0)
    ours, theirs = (
        made.training_loss(images, batch["label"])["loss"],
        plain.training_loss(images, batch["label"])["loss"],
    )
    torch.testing.assert_close(ours, up * theirs)


def test_all_class_mining_averages_the_branches(batch):
    made = recipe(mining="all-class")
    output = made.model(torch.randn(12, 3, 32, 32))
    mean = output.auxiliary_logits.softmax(2).mean(0) ** (1 / 1.2)
    mined = made.latent_distribution(output, batch["label"])
    torch.testing.assert_close(mined, mean / mean.sum(1, keepdim=True))
    assert not mined.requires_grad


def test_relative_gamma_is_a_share_of_the_cross_entropy():
    made = recipe(gamma=0.1, gamma_unit="relative")
    assert made._similarity_weight({"wce": torch.tensor(2.0), "sp": torch.tensor(0.01)}) == pytest.approx(20.0)
    assert made._similarity_weight({"wce": torch.tensor(1.0), "sp": torch.tensor(1e-9)}) == 1000.0


def test_calibration_averages_over_the_confidences_of_training(batch):
    made = recipe(calibrate=True, warmup=0.0).eval()
    plain = made.model(batch["image"].float() / 127.5 - 1).logits
    torch.testing.assert_close(made(batch["image"]).softmax(1), plain.softmax(1))  # confidence 1 before training
    for _ in range(400):
        made._remember(torch.tensor([0.2] * 6 + [0.8] * 6), torch.ones(12, dtype=torch.bool))
    expected = ((0.2 * plain).softmax(1) + (0.8 * plain).softmax(1)) / 2
    torch.testing.assert_close(made(batch["image"]).softmax(1), expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(made(batch["image"]).argmax(1), plain.argmax(1))
    made.calibrate = False
    torch.testing.assert_close(made(batch["image"]), plain)


def test_mine_agrees_with_the_parts(batch):
    made = recipe().eval()
    mined = made.mine(batch)
    assert torch.equal(mined.position, batch["index"])
    assert mined.distribution.gather(1, batch["label"][:, None]).eq(0).all()
    torch.testing.assert_close(mined.distribution.sum(1), torch.ones(12))
    assert mined.confidence.gt(0).all() and mined.confidence.lt(1).all()
    torch.testing.assert_close(mined.probability, made(batch["image"]).softmax(1))
    output = made.model.forward_branches(batch["image"].float() / 127.5 - 1)
    expected = functional.latent_distribution(output.auxiliary_logits, batch["label"], 1.2)
    torch.testing.assert_close(mined.distribution, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setting": "best"}, "setting: expected one of 'published', 'scratch', 'released', got 'best'"),
        ({"temperature": 0.0}, "temperature"),
        ({"gamma": -1.0}, "gamma"),
        ({"gamma_unit": "percent"}, "gamma_unit"),
        ({"detach": "both"}, "detach"),
        ({"mining": "none"}, "mining"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DMUE(CLASSES, **options)


def test_unlabelled_images_have_no_part_in_the_confidences():
    found = []
    for unlabelled in (0, 20):
        made = recipe(calibrate=True, warmup=0.0)
        generator = torch.Generator().manual_seed(3)
        features, logits = torch.randn(12, 512, generator=generator), torch.randn(12, CLASSES, generator=generator)
        labels = torch.cat([torch.arange(12) % CLASSES, torch.full((unlabelled,), -1)])
        output = BranchedOutput(
            torch.cat([features, torch.randn(unlabelled, 512)]), torch.cat([logits, torch.randn(unlabelled, CLASSES)])
        )
        made.use_distribution = made.use_similarity = False
        losses = made.classification_loss(output, labels)
        found.append((losses["confidence"].detach(), made.confidences))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("mining", ["all-class", "leave-one-out"])
def test_a_batch_without_labels_costs_nothing(mining):
    made = recipe(mining=mining)
    logits = torch.zeros(CLASSES, 4, CLASSES if mining == "all-class" else CLASSES - 1)
    assert made._auxiliary_loss(logits, torch.full((4,), -1)) == 0
    before = made.confidences.clone()
    made._remember(torch.rand(4), torch.zeros(4, dtype=torch.bool))
    assert torch.equal(made.confidences, before)


def test_a_run_that_is_given_in_steps(batch):
    rows = [{name: value[i] for name, value in batch.items()} for i in range(12)]
    made = DMUE(CLASSES, schedule="step")
    made.trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    made.trainer.fit(made, torch.utils.data.DataLoader(rows, batch_size=12))
    assert made.trainer.global_step == 2 and made.total_epochs == 2
    endless = lightning.Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False)
    made.trainer = endless
    with pytest.raises(ValueError, match="max_epochs: expected a number of epochs or of steps"):
        made.ramps(0)
    assert made.share_of_run(0.0) == 0


def test_turns_of_the_schedule_that_fall_together_all_count():
    made = CrossEntropy(CLASSES, schedule="step", milestones=(0.25, 0.5), decay=0.1)
    made.trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert dict(made.configure_optimizers()["lr_scheduler"].milestones) == {1: 2}
