"""LDLVA against its released formulas: targets, certainties with their own descent, centres, and what is frozen."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ferkit import functional
from ferkit.recipes import DMUE, LDLVA, AffectDMUE, CrossEntropy

from .conftest import FACES, Told, attached, graph_of, groups_of, numbered

CLASSES = 3


def recipe(faces, kind=LDLVA, points=True, metric="l2", **options):
    torch.manual_seed(0)
    made = attached(kind(CLASSES, **{"neighbors": 3, "neighbor_temperature": 1.0, "certainty_warmup": 0.0, **options}))
    graphs = {"va": graph_of(faces["va"], 4, metric)}
    ids = [f"face {i}" for i in range(FACES)]
    return made, made.attach(graphs, faces["label"], ids, {"va": faces["va"]} if points else None)


def images_of(batch):
    return batch["image"].float() / 127.5 - 1


class Fixed(nn.Module):
    """A calibration network that says what it is told."""

    def __init__(self, values):
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, center, neighbors, mask=None):
        return self.values


def golden_recipe(data, **options):
    size, count, classes = data["neighbor_logits"].shape
    made = attached(LDLVA(classes, preset="published", discriminative=0.0, **options))
    number = size * (1 + count)
    made.attach({"va": graph_of(torch.rand(number, 2), 8, "l1")}, torch.zeros(number, dtype=torch.int64))
    logits = torch.cat([data["center_logits"], data["neighbor_logits"].flatten(0, 1)])
    made.model = Told(logits, torch.zeros(number, 128).double())
    made.calibration = Fixed(data["calibration"])
    made.certainty.double()
    made.certainty.logit.data[:size] = data["lambda_hat"].flatten()
    index = torch.arange(number)
    labels = torch.cat([data["labels"], torch.zeros(size * count, dtype=torch.int64)])
    return made, {"index": index, "label": labels, "weight": data["knn_weights"]}


def test_golden_loss_and_all_its_gradients(golden):
    data = golden("ldlva_target")
    made, batch = golden_recipe(data)
    size = len(data["labels"])
    loss = made.batch_loss(numbered(batch["index"]), batch)["loss"]
    torch.testing.assert_close(loss, data["loss"], rtol=1e-12, atol=1e-12)
    loss.backward()
    torch.testing.assert_close(made.model.logits.grad[:size], data["grad_center_logits"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made.calibration.values.grad, data["grad_calibration"], rtol=1e-9, atol=1e-9)
    assert made.model.logits.grad[size:].eq(0).all(), "neighbours are constants"
    before = made.certainty.logit.detach().clone()
    made.apply_updates()
    moved = made.certainty.logit.detach() - before
    torch.testing.assert_close(moved[:size], -10.0 * data["grad_lambda_hat"].flatten(), rtol=1e-9, atol=1e-9)
    assert moved[size:].eq(0).all() and made.certainty.logit.grad is None


def test_constant_target_still_learns_certainties(golden):
    data = golden("ldlva_target")
    made, batch = golden_recipe(data, detach_target=True)
    made.batch_loss(numbered(batch["index"]), batch)["loss"].backward()
    assert made.calibration.values.grad is None
    before = made.certainty.logit.detach().clone()
    made.apply_updates()
    moved = (made.certainty.logit.detach() - before)[: len(data["labels"])]
    torch.testing.assert_close(moved, -10.0 * data["grad_lambda_hat"].flatten(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [LDLVA, AffectDMUE])
def test_logarithm_is_the_released_one_with_the_published_preset_alone(faces, kind):
    for preset, eps in (("published", 1e-10), ("scratch", 0.0)):
        made, _ = recipe(faces, kind, preset=preset)
        output = made.model(images_of(faces))
        labels, target = faces["label"], F.one_hot(faces["label"].roll(1), CLASSES).float()
        output = output._replace(logits=40 * torch.randn(FACES, CLASSES, generator=torch.Generator().manual_seed(3)))
        losses = made.classification_loss(output, labels, target, torch.tensor([0.5, 1.0, 2.0]))
        p = output.logits.double().softmax(1)  # DMUE is in its warm-up: confidence 1
        each = -(target * (p + eps).log()).sum(1) * torch.tensor([0.5, 1.0, 2.0])[labels]
        found = losses["loss" if kind is LDLVA else "wce"].double()
        torch.testing.assert_close(found, each.mean(), rtol=1e-5, atol=1e-5)


def test_affinity_is_of_l1_distances_whatever_found_the_neighbours(faces):
    _, tables = recipe(faces)
    indices, weights = tables["va"]
    assert torch.equal(indices, graph_of(faces["va"], 4).indices[:, :3])
    for i in range(FACES):
        for j, weight in zip(indices[i].tolist(), weights[i].tolist()):
            assert weight == pytest.approx(float(torch.exp(-(faces["va"][i] - faces["va"][j]).abs().sum() / 0.5)))
    by_l1 = recipe(faces, points=False, metric="l1")[1]["va"]
    distances = torch.cdist(faces["va"], faces["va"], p=1.0).gather(1, by_l1[0])
    torch.testing.assert_close(by_l1[1], torch.exp(-distances / 0.5))
    squared = recipe(faces, points=False, affinity_kind="gaussian", bandwidth=0.3)[1]["va"]
    distances = torch.cdist(faces["va"], faces["va"]).gather(1, squared[0])
    torch.testing.assert_close(squared[1], torch.exp(-(distances**2) / (2 * 0.09)), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="needs the rows of graph 'va'"):
        recipe(faces, points=False)


def test_discriminative_rows_and_centres(faces):
    made, tables = recipe(faces, neighbor_pass="separate", discriminative=0.5)
    made.centers.centers.normal_(generator=torch.Generator().manual_seed(1))
    centers = made.centers.centers.clone()
    with torch.no_grad():
        made.certainty.logit.normal_(generator=torch.Generator().manual_seed(2))
    batch = groups_of(faces, tables, torch.arange(6))
    batch["weight"][0, 2] = 0  # no third neighbour: its place holds the centre again
    certainty = made.label_certainty()
    losses = made.batch_loss(images_of(batch), batch)
    around = made.model.eval()(images_of(batch)[6:]).features  # before the next forward moves the running statistics
    features = made.model.train()(images_of(batch)[:6]).features
    rows = torch.cat([features, around]).detach()
    keep = torch.ones(24, dtype=torch.bool)
    keep[6 + 2] = False
    distances = (rows - centers[batch["label"]]).square().sum(1)
    expected = 0.5 * (certainty[batch["index"]] * distances)[keep].mean()
    torch.testing.assert_close(losses["discriminative"].detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss"], losses["classification"] + 0.5 * losses["discriminative"])
    assert torch.equal(made.centers.centers, centers), "moved after the step, not before"
    made.on_train_batch_end(None, batch, 0)
    labels = torch.where(keep, batch["label"], -1)
    moved = functional.intra_class_step(centers, rows, labels, certainty[batch["index"]], 0.5, True)
    torch.testing.assert_close(
        made.centers.centers, functional.inter_class_step(moved, 0.05, "dim"), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_only_certainties_of_the_batch_move(faces, momentum):
    made, tables = recipe(faces, neighbor_pass="separate", certainty_momentum=momentum)
    steps = []
    for centers in (torch.arange(6), torch.arange(3, 9)):
        batch = groups_of(faces, tables, centers)
        before = made.certainty.logit.detach().clone()
        made.batch_loss(images_of(batch), batch)["loss"].backward()
        made.apply_updates()
        steps.append(made.certainty.logit.detach() - before)
    assert steps[0].ne(0).tolist() == [i < 6 for i in range(FACES)]
    assert steps[1].ne(0).tolist() == [3 <= i < 9 for i in range(FACES)]


def test_the_networks_optimiser_leaves_certainties_alone(faces):
    made, _ = recipe(faces)
    optimizer = made.configure_optimizers()["optimizer"]
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = [name for name, parameter in made.named_parameters() if id(parameter) not in held]
    assert missing == ["certainty.logit"]


def test_warmup_trusts_the_given_labels(faces):
    made, tables = recipe(faces, neighbor_pass="joint", certainty_warmup=0.5, discriminative=0.0)
    batch = groups_of(faces, tables, torch.arange(6))
    losses = made.batch_loss(images_of(batch), batch)
    torch.testing.assert_close(
        losses["classification"], F.cross_entropy(made.model(images_of(batch)).logits[:6], batch["label"][:6])
    )
    before = made.certainty.logit.detach().clone()
    losses["loss"].backward()
    made.apply_updates()
    assert torch.equal(made.certainty.logit, before)


def test_bank_holds_features_and_predictions(faces):
    made, tables = recipe(faces, neighbor_pass="bank", bank_momentum=0.0)
    batch = {"index": torch.arange(FACES), "label": faces["label"]}
    losses = made.batch_loss(images_of(faces), batch)
    assert losses["loss"].isfinite()
    plain = F.cross_entropy(made.model(images_of(faces)).logits, faces["label"])
    torch.testing.assert_close(losses["classification"], plain)  # nothing known yet: the given labels
    output = made.model(images_of(faces))
    _, position, near = made.look_around(images_of(faces), batch)
    assert torch.equal(position, batch["index"]) and torch.equal(near.position, tables["va"][0])
    torch.testing.assert_close(near.features, output.features[tables["va"][0]])
    torch.testing.assert_close(near.logits.softmax(2), output.logits.softmax(1)[tables["va"][0]])
    assert torch.equal(near.weight, tables["va"][1])
    assert not near.features.requires_grad


def test_balanced_class_weights(faces):
    faces["label"] = torch.tensor([0] * 12 + [1] * 6 + [2] * 2)
    made, tables = recipe(faces, neighbor_pass="joint", class_weights="balanced", certainty_warmup=0.5)
    batch = groups_of(faces, tables, torch.tensor([0, 12, 18, 19]))
    losses = made.batch_loss(images_of(batch), batch)
    logits = made.model(images_of(batch)).logits[:4]
    weight = torch.tensor([20 / 36, 20 / 18, 20 / 6])
    each = F.cross_entropy(logits, batch["label"][:4], reduction="none") * weight[batch["label"][:4]]
    torch.testing.assert_close(losses["classification"], each.mean())


def test_beside_dmue(faces):
    made, tables = recipe(faces, AffectDMUE, neighbor_pass="joint", gamma=0.0, gamma_unit="absolute", warmup=0.0)
    assert isinstance(made, DMUE) and made.hparams["gamma"] == 0.0 and made.hparams["setting"] == "scratch"
    batch = groups_of(faces, tables, torch.arange(12))
    losses = made.batch_loss(images_of(batch), batch)
    assert {"wce", "soft", "sp", "aux", "discriminative"} < set(losses)
    losses["loss"].backward()
    made.apply_updates()
    assert made.certainty.logit[:12].ne(0.5).all()


def test_a_recipe_made_without_its_faces_takes_their_certainties(faces):
    made, _ = recipe(faces)
    with torch.no_grad():
        made.certainty.logit.normal_()
    other = LDLVA(CLASSES)
    assert other.label_certainty() is None
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.label_certainty(), made.label_certainty())
    assert other.certainty.ids[3] == "face 3"


def test_target_for_cross_entropy_is_smoothed():
    made = CrossEntropy(CLASSES, label_smoothing=0.3)
    output = made.model(torch.randn(4, 3, 32, 32))
    labels = torch.tensor([0, 1, 2, 1])
    torch.testing.assert_close(
        made.classification_loss(output, labels, F.one_hot(labels, CLASSES).float())["loss"],
        made.classification_loss(output, labels)["loss"],
    )


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_backbones_take_two_steps(faces, backbone):
    made, tables = recipe(faces, backbone=backbone, preset="published")
    optimizer = made.configure_optimizers()["optimizer"]
    batch = groups_of(faces, tables, torch.arange(4))
    before = made.model.target_classifier.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        loss = made.batch_loss(images_of(batch), batch)["loss"]
        loss.backward()
        optimizer.step()
        made.apply_updates()
        assert loss.isfinite()
    assert not torch.equal(before, made.model.target_classifier.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "preset"),
        ({"neighbor_pass": "both"}, "neighbor_pass"),
        ({"affinity_kind": "cubic"}, "affinity_kind"),
        ({"bandwidth": 0.0}, "bandwidth"),
        ({"certainty_lr": -1.0}, "certainty_lr"),
        ({"certainty_momentum": 1.5}, "certainty_momentum"),
        ({"certainty_warmup": -0.5}, "certainty_warmup"),
        ({"class_weights": "inverse"}, "class_weights"),
        ({"discriminative": -0.01}, "discriminative"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LDLVA(CLASSES, **options)


def test_before_its_graphs_are_attached():
    with pytest.raises(RuntimeError, match="attach"):
        attached(LDLVA(CLASSES)).batch_loss(torch.zeros(2, 3, 32, 32), {})


def test_certainties_of_a_loaded_recipe_stay_with_their_images(faces, tmp_path):
    made, _ = recipe(faces, neighbor_pass="bank")
    with torch.no_grad():
        made.certainty.logit.copy_(torch.randn(FACES))
    bare = LDLVA(CLASSES, neighbors=3)
    bare.load_state_dict(made.state_dict())
    batch = {"image": faces["image"], "label": faces["label"], "index": torch.arange(FACES)}
    with pytest.raises(RuntimeError, match="call attach"):
        bare.batch_loss(images_of(batch), batch)
    bare.on_save_checkpoint({})
    order = torch.arange(FACES).flip(0)
    graphs = {"va": graph_of(faces["va"][order], 4)}
    attached(bare).attach(
        graphs, faces["label"][order], [f"face {i}" for i in order.tolist()], {"va": faces["va"][order]}
    )
    assert torch.equal(bare.certainty.logit[order], made.certainty.logit)


def test_a_restored_velocity_follows_its_image(faces):
    made, _ = recipe(faces, certainty_momentum=0.9)
    made.certainty.logit.grad = torch.randn(FACES)
    made.certainty_optimizer.step()
    checkpoint = {}
    made.on_save_checkpoint(checkpoint)
    order = torch.arange(FACES).flip(0)
    turned = attached(LDLVA(CLASSES, neighbors=3, neighbor_pass="train", certainty_momentum=0.9))
    graphs = {"va": graph_of(faces["va"][order], 4)}
    turned.attach(graphs, faces["label"][order], [f"face {i}" for i in order.tolist()], {"va": faces["va"][order]})
    checkpoint.pop("neighbor_bank", None)
    turned.bank = None
    turned.on_load_checkpoint(checkpoint)
    (velocity,) = (state["velocity"] for state in turned.certainty_optimizer.state.values())
    (before,) = (state["velocity"] for state in made.certainty_optimizer.state.values())
    assert torch.equal(velocity[order], before)


def test_points_of_other_rows_are_refused(faces):
    made = attached(LDLVA(CLASSES, neighbors=3))
    with pytest.raises(ValueError, match="expected a neighbour at distance"):
        made.attach({"va": graph_of(faces["va"], 4)}, faces["label"], None, {"va": faces["va"].flip(0)})
