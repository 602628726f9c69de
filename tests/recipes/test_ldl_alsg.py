"""LDL-ALSG against its equations; where its neighbours come from; beside which losses."""

import lightning
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Categorical, kl_divergence
from torch.utils.data import DataLoader

from ferkit.graph import knn_graph
from ferkit.recipes import DMUE, LDLALSG, CrossEntropy, GuidedDMUE, NeighborBank, NeighborGuidance

from .conftest import FACES, Told, attached, graph_of, groups_of, numbered

CLASSES = 3


def recipe(faces, kind=LDLALSG, **options):
    torch.manual_seed(0)
    made = attached(kind(CLASSES, **{"neighbors": 2, "neighbor_temperature": 1.0, **options}))
    graphs = {"au": graph_of(faces["au"], 3), "va": graph_of(faces["va"], 2)}
    return made, made.attach(graphs, faces["label"])


def images_of(batch):
    return batch["image"].float() / 127.5 - 1


def test_loss_is_equation_5_over_one_forward(faces):
    made, tables = recipe(faces, neighbor_pass="joint", lam=0.3, lam_warmup=0.0, sigma={"au": 1.0, "va": 0.4})
    batch = groups_of(faces, tables, torch.arange(6))
    losses = made.batch_loss(images_of(batch), batch)
    logits = made.model(images_of(batch)).logits.double()  # batch statistics: the same values again
    expected = F.cross_entropy(logits[:6], batch["label"][:6])
    for i in range(6):
        place = 0
        for space, sigma in (("au", 1.0), ("va", 0.4)):
            for j in tables[space][0][i].tolist():
                distance = ((faces[space][i] - faces[space][j]).double() ** 2).sum()
                q = logits[6 + 4 * i + place].softmax(0)
                p = logits[i].softmax(0)
                expected = expected + 0.3 / 6 * torch.exp(-distance / (2 * sigma**2)) * (q * (q / p).log()).sum()
                place += 1
    torch.testing.assert_close(losses["loss"].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses["loss"], losses["classification"] + 0.3 * losses["guidance"])


def test_golden_total_and_its_gradients(golden):
    data = golden("alsg_guidance")
    centers, near = data["center_logits"], data["neighbor_logits"].flatten(1, 2)
    size, count, classes = near.shape
    made = attached(LDLALSG(classes, preset="published", lam=float(data["lam"])))
    made.model = Told(torch.cat([centers, near.flatten(0, 1)]), torch.zeros(size * (1 + count), 2).double())
    index = torch.arange(size * (1 + count))
    label = torch.cat([data["labels"], torch.zeros(size * count, dtype=torch.int64)])
    batch = {"index": index, "label": label, "weight": data["sim"].flatten(1)}
    loss = made.batch_loss(numbered(index), batch)["loss"]
    torch.testing.assert_close(loss, data["total_mean"], rtol=1e-9, atol=1e-12)
    loss.backward()
    assert torch.equal(made.model.logits.grad[size:], torch.zeros_like(near.flatten(0, 1))), "neighbours are constants"
    p, onehot = centers.softmax(1), F.one_hot(data["labels"], classes)
    pull = (data["sim"].flatten(1)[:, :, None] * (p[:, None] - near.softmax(2))).sum(1)
    torch.testing.assert_close(made.model.logits.grad[:size], (p - onehot + float(data["lam"]) * pull) / size)


@pytest.mark.parametrize(("neighbor_pass", "updates"), [("joint", 1), ("train", 2), ("separate", 1)])
def test_batch_statistics(faces, neighbor_pass, updates):
    made, tables = recipe(faces, neighbor_pass=neighbor_pass)
    plain = CrossEntropy(CLASSES)
    plain.model.load_state_dict(made.model.state_dict())
    batch = groups_of(faces, tables, torch.arange(8))
    made.batch_loss(images_of(batch), batch)
    plain.training_loss(images_of(batch)[:8], batch["label"][:8])
    norm, alone = made.model.trunk.bn1, plain.model.trunk.bn1
    assert int(norm.num_batches_tracked) == updates and made.model.training and norm.training
    assert torch.equal(norm.running_mean, alone.running_mean) == (neighbor_pass == "separate")


def test_separate_neighbours_are_what_evaluation_says(faces):
    made, tables = recipe(faces, neighbor_pass="separate")
    batch = groups_of(faces, tables, torch.arange(8))
    _, position, near = made.look_around(images_of(batch), batch)
    expected = made.model.eval()(images_of(batch)[8:]).logits  # the centres have moved the running statistics, not they
    assert torch.equal(near.logits.flatten(0, 1), expected) and not near.logits.requires_grad
    assert torch.equal(position, torch.arange(8)) and torch.equal(near.position[0, :2], tables["au"][0][0])


def test_bank_guides_by_what_was_last_said(faces):
    made, tables = recipe(faces, neighbor_pass="bank", bank_momentum=0.0, lam=1.0, lam_warmup=0.0)
    made.model = Told(torch.randn(FACES, CLASSES), torch.zeros(FACES, 2))
    first = {"index": torch.arange(FACES), "label": faces["label"]}
    losses = made.batch_loss(numbered(first["index"]), first)
    assert losses["guidance"] == 0 and losses["affinity"] == 0, "nothing is known of any neighbour"
    said = made.model.logits.detach().log_softmax(1)
    with torch.no_grad():
        made.model.logits.copy_(torch.randn(FACES, CLASSES))
    losses = made.batch_loss(numbered(first["index"]), first)
    expected = torch.zeros(())
    for indices, weights in tables.values():
        for i in range(FACES):
            for j, weight in zip(indices[i], weights[i]):
                mine = Categorical(logits=made.model.logits[i].detach())
                expected += weight * kl_divergence(Categorical(logits=said[j]), mine) / FACES
    torch.testing.assert_close(losses["guidance"].detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("neighbor_pass", ["joint", "bank"])
def test_sharper_neighbours(faces, neighbor_pass):
    made, tables = recipe(faces, neighbor_pass=neighbor_pass, neighbor_temperature=0.5)
    batch = groups_of(faces, tables, torch.arange(FACES))
    if neighbor_pass == "bank":
        batch = {name: value[:FACES] for name, value in batch.items()}
        made.bank.write(batch["index"], 3 * torch.randn(FACES, CLASSES))
        plain = made.bank.probability[made.neighbor_index]
    else:
        plain = made.model(images_of(batch)).logits[FACES:].softmax(1).reshape(FACES, -1, CLASSES)
    _, _, near = made.look_around(images_of(batch), batch)
    torch.testing.assert_close(near.logits.softmax(2), plain**2 / (plain**2).sum(2, keepdim=True), rtol=1e-4, atol=1e-5)


def test_bank_running_mean_and_repeated_images():
    bank = NeighborBank(4, 2, features=1, momentum=0.75)
    say = lambda p: torch.tensor([[p, 1 - p]]).log()  # noqa: E731
    bank.write(torch.tensor([2]), say(0.2), torch.tensor([[1.0]]))
    bank.write(torch.tensor([2]), say(0.6), torch.tensor([[3.0]]))
    logits, features, known = bank.read(torch.tensor([[2, 0]]))
    torch.testing.assert_close(logits.exp()[0, 0], torch.tensor([0.75 * 0.2 + 0.25 * 0.6, 0.7]))
    assert features[0, 0] == 3 and known.tolist() == [[True, False]]
    bank.write(torch.tensor([1, 3, 1]), torch.cat([say(0.1), say(0.5), say(0.9)]), torch.tensor([[1.0], [2.0], [3.0]]))
    logits, features, _ = bank.read(torch.tensor([1]))
    assert logits.exp()[0, 0] == pytest.approx(0.9) and features[0, 0] == 3, "the last of two"
    other = NeighborBank(4, 2, features=1, momentum=0.75)
    other.restore(bank.snapshot())
    assert all(torch.equal(a, b) for a, b in zip(other.buffers(), bank.buffers())) and not bank.state_dict()
    with pytest.raises(ValueError, match=r"probability of shape \(5, 2\), got \(4, 2\)"):
        NeighborBank(5, 2).restore(bank.snapshot())
    with pytest.raises(ValueError, match="momentum"):
        NeighborBank(4, 2, momentum=1.0)


@pytest.mark.parametrize("bad", ["logits", "features"])
def test_bank_keeps_nothing_that_is_not_finite(bad):
    bank = NeighborBank(4, 2, features=1, momentum=0.5)
    bank.write(torch.tensor([0, 1]), torch.zeros(2, 2), torch.ones(2, 1))
    before = bank.snapshot()
    logits, features = torch.full((4, 2), 2.0), torch.full((4, 1), 3.0)
    logits[:, 1] = 0
    (logits if bad == "logits" else features)[[0, 2, 3], 0] = torch.tensor([torch.nan, torch.inf, -torch.nan])
    bank.write(torch.tensor([0, 1, 2, 1]), logits, features)  # image 1 comes twice, well and badly
    after = bank.snapshot()
    for name in before:
        assert torch.equal(after[name][[0, 2, 3]], before[name][[0, 2, 3]])
    torch.testing.assert_close(after["probability"][1], (torch.tensor([2.0, 0.0]).softmax(0) + 0.5) / 2)
    assert after["feature"].flatten().tolist() == [1, 3, 0, 0] and after["seen"].tolist() == [True, True, False, False]
    bank.write(torch.tensor([2]), torch.tensor([[-torch.inf, 0.0]]), torch.ones(1, 1))  # a class that cannot be
    assert bank.probability[2].tolist() == [0, 1] and bank.seen[2]


def test_neighbours_apart_leave_frozen_modules_frozen(faces):
    made, tables = recipe(faces, neighbor_pass="separate")
    made.model.trunk.bn1.eval()
    before = made.model.trunk.bn1.running_mean.clone()
    batch = groups_of(faces, tables, torch.arange(8))
    for _ in range(2):
        made.batch_loss(images_of(batch), batch)
    assert [name for name, module in made.model.named_modules() if not module.training] == ["trunk.bn1"]
    assert torch.equal(made.model.trunk.bn1.running_mean, before)


@pytest.mark.parametrize("neighbor_pass", ["joint", "separate", "bank"])
def test_missing_neighbours_take_no_part(faces, neighbor_pass):
    made = attached(LDLALSG(CLASSES, neighbors=2, neighbor_pass=neighbor_pass, lam=1.0))
    graph = graph_of(faces["au"], 2)
    graph.indices[:, 1], graph.distances[:, 1] = -1, torch.inf
    tables = made.attach({"au": graph}, faces["label"])
    batch = groups_of(faces, tables, torch.arange(FACES))
    if neighbor_pass == "bank":
        batch = {name: value[:FACES] for name, value in batch.items()}
        made.bank.write(batch["index"], torch.randn(FACES, CLASSES))
    _, _, near = made.look_around(images_of(batch), batch)
    assert near.weight[:, 1].eq(0).all() and near.weight[:, 0].gt(0).all()


@pytest.mark.parametrize("labelled", [0, 1])
def test_unlabelled_images_are_guided(faces, labelled):
    made, tables = recipe(faces, neighbor_pass="joint", lam=1.0)
    batch = groups_of(faces, tables, torch.arange(4))
    batch["label"][labelled:4] = -1
    losses = made.batch_loss(images_of(batch), batch)
    logits = made.model(images_of(batch)).logits
    expected = F.cross_entropy(logits[:labelled], batch["label"][:labelled]) if labelled else torch.zeros(())
    torch.testing.assert_close(losses["classification"], expected)
    losses["loss"].backward()
    assert losses["guidance"] > 0 and all(p.grad.isfinite().all() for p in made.parameters())


def test_sigma(faces):
    graphs = {"au": graph_of(faces["au"], 3), "landmark": graph_of(faces["au"] * 60, 3)}
    made = LDLALSG(CLASSES, preset="published", neighbors=3)
    tables = made.attach(graphs, faces["label"])
    assert made.hparams["sigma"] == {"au": 1.0, "landmark": 68.0} and made.hparams["neighbor_pass"] == "joint"
    torch.testing.assert_close(tables["landmark"][1], torch.exp(-graphs["landmark"].distances / (2 * 68**2)))
    made = LDLALSG(CLASSES, neighbors=3, sigma={"au": 2.0})
    made.attach(graphs, faces["label"])
    middle = float(np.median(graphs["landmark"].distances.double().numpy()))
    assert made.hparams["sigma"] == {"au": 2.0, "landmark": pytest.approx(middle**0.5, abs=1e-5)}


def test_sigma_of_a_space_in_which_most_faces_are_equal(faces):
    points = faces["au"].clone()
    points[:12] = 0  # no active unit: at distance 0 from one another
    graph = graph_of(points, 4)
    far = graph.distances[graph.distances > 0].double()
    assert float(graph.distances.median()) == 0 and len(far) > 8
    made = LDLALSG(CLASSES, neighbors=4)
    weights = made.attach({"au": graph}, faces["label"])["au"][1]
    assert made.hparams["sigma"]["au"] == pytest.approx(float(np.median(far.numpy())) ** 0.5, abs=1e-5)
    assert weights[:12].eq(1).all() and weights[12:].gt(0.01).all()


@pytest.mark.parametrize("edges", ["none", "of distance 0"])
def test_sigma_where_no_two_rows_differ(faces, edges):
    graph = graph_of(torch.zeros_like(faces["au"]), 2)
    if edges == "none":
        graph.indices.fill_(-1)
        graph.distances.fill_(torch.inf)
    made = LDLALSG(CLASSES, neighbors=2)
    weights = made.attach({"au": graph}, faces["label"])["au"][1]
    assert made.hparams["sigma"] == {"au": 1.0} and weights.eq(0.0 if edges == "none" else 1.0).all()


def test_sigma_of_rows_that_are_very_close(faces):
    made = LDLALSG(CLASSES, neighbors=2)
    weights = made.attach({"au": graph_of(faces["au"] * 1e-9, 2)}, faces["label"])["au"][1]
    assert 0 < made.hparams["sigma"]["au"] < 1e-8 and weights.gt(0).all()


def test_sigma_that_fits_no_graph(faces):
    graph = graph_of(faces["au"], 2)
    with pytest.raises(ValueError, match="sigma: expected spaces of the graphs, au, got AU"):
        LDLALSG(CLASSES, neighbors=2, sigma={"AU": 2.0}).attach({"au": graph}, faces["label"])
    with pytest.raises(TypeError, match="sigma: expected a mapping of space -> bandwidth, got float"):
        LDLALSG(CLASSES, sigma=1.0)
    made = LDLALSG(CLASSES, neighbors=2)
    made.attach({"au": graph}, faces["label"])
    made.attach({"au": graph_of(10 * faces["au"], 2)}, faces["label"])  # chosen anew for the new graph
    middle = float(np.median(graph.distances.double().numpy())) ** 0.5
    assert made.sigma == {"au": pytest.approx(10 * middle, rel=1e-4)}


def test_lambda_rises_over_its_warmup(monkeypatch):
    made = attached(LDLALSG(CLASSES, lam=0.5, lam_warmup=0.4), epochs=10)
    weights = []
    for epoch in range(10):
        monkeypatch.setattr(LDLALSG, "current_epoch", epoch)
        weights.append(made.guidance_weight())
    assert weights[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5]) and set(weights[4:]) == {0.5}
    assert attached(LDLALSG(CLASSES, preset="published")).guidance_weight() == 5e-4


def test_beside_dmue(faces):
    made, tables = recipe(faces, GuidedDMUE, neighbor_pass="joint", lam=0.2, lam_warmup=0.0, omega=2.0)
    assert isinstance(made, DMUE) and made.hparams["omega"] == 2.0 and made.hparams["lam"] == 0.2
    batch = groups_of(faces, tables, torch.arange(12))
    losses = made.batch_loss(images_of(batch), batch)
    whole = made.model(images_of(batch))
    centers = whole._replace(
        features=whole.features[:12],
        logits=whole.logits[:12],
        auxiliary_features=whole.auxiliary_features[:, :12],
        auxiliary_logits=whole.auxiliary_logits[:, :12],
    )
    torch.testing.assert_close(
        losses["classification"], made.classification_loss(centers, batch["label"][:12])["loss"], rtol=1e-4, atol=1e-5
    )
    assert {"wce", "soft", "sp", "aux", "guidance"} < set(losses)
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in made.parameters())


def test_beside_any_other_loss(faces):
    class Smooth(CrossEntropy):
        def classification_loss(self, output, labels, target=None, class_weight=None):
            return {"loss": F.multi_margin_loss(output.logits, labels)}

    class Mine(NeighborGuidance, Smooth):
        pass

    made, tables = recipe(faces, Mine, neighbor_pass="joint", label_smoothing=0.1)
    batch = groups_of(faces, tables, torch.arange(12))
    losses = made.batch_loss(images_of(batch), batch)
    logits = made.model(images_of(batch)).logits[:12]
    torch.testing.assert_close(losses["classification"], F.multi_margin_loss(logits, batch["label"][:12]))
    assert made.hparams["label_smoothing"] == 0.1


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2"])
def test_backbones_take_two_steps(faces, backbone):
    made, tables = recipe(faces, backbone=backbone, neighbor_pass="joint", preset="published", lam=0.1)
    optimizer = torch.optim.SGD(made.trained_parameters(), 1e-2)
    batch = groups_of(faces, tables, torch.arange(4))
    before = made.model.target_classifier.weight.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        loss = made.batch_loss(images_of(batch), batch)["loss"]
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert not torch.equal(before, made.model.target_classifier.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "best"}, "preset: expected one of"),
        ({"lam": -1.0}, "lam"),
        ({"lam_warmup": 2.0}, "lam_warmup"),
        ({"sigma": {"au": 0.0}}, "sigma: au"),
        ({"neighbors": 0}, "neighbors"),
        ({"neighbor_pass": "both"}, "neighbor_pass"),
        ({"bank_momentum": -0.1}, "bank_momentum"),
        ({"neighbor_temperature": 0.0}, "neighbor_temperature"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        LDLALSG(CLASSES, **options)


def test_graphs_that_do_not_fit(faces):
    made = LDLALSG(CLASSES, neighbors=4)
    with pytest.raises(ValueError, match="at least one"):
        made.attach({}, faces["label"])
    with pytest.raises(ValueError, match="expected 7 rows, one an image, got 20 in 'au'"):
        made.attach({"au": graph_of(faces["au"], 4)}, faces["label"][:7])
    with pytest.raises(ValueError, match="at most the 3 of graph 'au', got 4"):
        made.attach({"au": graph_of(faces["au"], 3)}, faces["label"])
    with pytest.raises(RuntimeError, match="attach"):
        attached(made).batch_loss(torch.zeros(2, 3, 32, 32), {"index": torch.arange(2), "label": torch.zeros(2).long()})


@pytest.mark.parametrize("neighbor_pass", ["joint", "separate", "bank"])
def test_batches_of_the_wrong_kind_are_refused(faces, neighbor_pass):
    made, tables = recipe(faces, neighbor_pass=neighbor_pass)
    batch = groups_of(faces, tables, torch.arange(8))
    if neighbor_pass != "bank":  # what a plain loader gives
        batch = {name: value[:8] for name, value in batch.items() if name != "weight"}
    with pytest.raises(ValueError, match=f"neighbor_pass: '{neighbor_pass}' expects"):
        made.batch_loss(images_of(batch), batch)


def test_graphs_and_labels_of_other_images_are_refused(faces):
    ids = [f"{i}.png" for i in range(FACES)]
    graphs = {"au": knn_graph(faces["au"], 3, ids=ids)}
    made = attached(LDLALSG(CLASSES, neighbors=2))
    made.attach(graphs, faces["label"].tolist(), ids)
    with pytest.raises(ValueError, match="the same ones in another order"):
        made.attach(graphs, faces["label"], ids[::-1])
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.2"):
        made.attach(graphs, faces["label"] + 3, ids)


def test_a_resumed_bank_follows_its_images(faces):
    ids = [f"{i}.png" for i in range(FACES)]
    order = torch.arange(FACES).flip(0)
    made, turned = (attached(LDLALSG(CLASSES, neighbors=2, neighbor_pass="bank")) for _ in range(2))
    made.attach({"au": graph_of(faces["au"], 3)}, faces["label"], ids)
    made.bank.write(torch.arange(7), torch.randn(7, CLASSES))
    checkpoint = {}
    made.on_save_checkpoint(checkpoint)
    turned.attach({"au": graph_of(faces["au"][order], 3)}, faces["label"][order], ids[::-1])
    turned.on_load_checkpoint(checkpoint)
    assert torch.equal(turned.bank.probability[order], made.bank.probability)
    assert torch.equal(turned.bank.seen[order], made.bank.seen)
    turned.attach({"au": graph_of(faces["au"], 3)}, faces["label"], [f"other {i}" for i in range(FACES)])
    with pytest.raises(ValueError, match="ids: expected the checkpoint's 20 images, got 20, without 'other 0'"):
        turned.on_load_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="a checkpoint of a run with 'bank'"):
        turned.on_load_checkpoint({"image_ids": ids})


def test_shares_of_a_run_that_is_given_in_steps(faces):
    made, _ = recipe(faces, lam=1.0, lam_warmup=0.5, neighbor_pass="bank")
    made.trainer = lightning.Trainer(max_steps=30, accelerator="cpu", logger=False, enable_checkpointing=False)
    rows = [{name: faces[name][i] for name in ("image", "label")} | {"index": torch.tensor(i)} for i in range(FACES)]
    made.trainer.fit(made, DataLoader(rows, batch_size=7))
    assert made.total_epochs == 10 and made.current_epoch == 10  # three batches an epoch
    assert made.guidance_weight() == 1.0
