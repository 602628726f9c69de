"""The baselines: their losses are the functions', whom co-teaching forgets, whom SCN relabels, what LTNet finds out."""

from typing import ClassVar

import lightning
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ferkit import functional
from ferkit.blocks import BranchedBackbone, BranchedOutput
from ferkit.recipes import SCE, SCN, VGG, CoTeaching, LTNet

from .conftest import Told, attached, numbered
from .test_vgg import coloured, fitted

CLASSES = 4


def output_of(size=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    return BranchedOutput(features, 2 * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64))


def labels_of(size=12):
    return torch.arange(size) % CLASSES


def test_sce_has_the_functions_loss(close):
    output, labels = output_of(), labels_of()
    labels[3] = -1
    for options in ({"alpha": 1.0}, {"alpha": 6.0, "beta": 0.1, "form": "released"}):
        made = SCE(CLASSES, **options) if len(options) > 1 else SCE(CLASSES)
        found = made.classification_loss(output, labels)["loss"]
        close(found, functional.symmetric_cross_entropy(output.logits, labels, **options))
    with pytest.raises(TypeError, match="target: expected None"):
        SCE(CLASSES).classification_loss(output, labels, torch.rand(12, CLASSES))
    with pytest.raises(ValueError, match="beta: expected a value in"):
        SCE(CLASSES, beta=-1.0)


def test_co_teaching_forgets_as_time_goes_on(close):
    made = attached(CoTeaching(CLASSES, forget_rate=0.4, forget_over=0.5), epochs=10)
    first, second, labels = output_of(seed=0), output_of(seed=1), labels_of()
    made.model, made.peer = (Told(each.logits, each.features) for each in (first, second))
    batch = {"label": labels, "index": torch.arange(12)}
    for epoch, rate in ((0, 0.0), (1, 0.08), (5, 0.4), (9, 0.4)):
        made.trainer.fit_loop.epoch_progress.current.completed = epoch
        made.trainer.fit_loop.epoch_progress.current.processed = epoch
        losses = made.batch_loss(numbered(batch["index"]), batch)
        assert float(losses["forget_rate"]) == pytest.approx(rate)
        close(losses["loss"], functional.co_teaching_loss(first.logits, second.logits, labels, rate))


def test_co_teaching_has_two_networks_of_which_one_predicts():
    torch.manual_seed(0)
    made = CoTeaching(CLASSES).eval()
    assert not torch.equal(made.model.target_classifier.weight, made.peer.target_classifier.weight)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    seen = images.float() / 127.5 - 1
    one, other = (network(seen).logits.softmax(1) for network in (made.model, made.peer))
    torch.testing.assert_close(made(images).softmax(1), one)
    made.networks = "both"
    torch.testing.assert_close(made(images).exp(), (one + other) / 2)
    assert len(made.trained_parameters()) == 2 * len(list(made.model.parameters()))
    again = CoTeaching(**CoTeaching(CLASSES, 0.1, networks="both", backbone="small", seed=3).hparams)
    assert (again.forget_rate, again.networks, again.seed) == (0.1, "both", 3)


def test_co_teaching_from_a_checkpoint_of_the_whole_network_differs_in_the_classifiers(tmp_path):
    save_file(BranchedBackbone("small", CLASSES, "none").state_dict(), tmp_path / "whole.safetensors")
    made = CoTeaching(CLASSES, pretrained=str(tmp_path / "whole.safetensors"))
    own, peer = made.model.state_dict(), made.peer.state_dict()
    different = [key for key in own if not torch.equal(own[key], peer[key])]
    assert different == ["target_classifier.weight"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"forget_rate": 1.0}, r"^forget_rate: expected a value in \[0, 1\), got 1.0"),
        ({"forget_over": 2.0}, "forget_over: expected a value in"),
        ({"divisor": "x"}, "divisor: expected one of 'kept', 'released'"),
        ({"networks": "x"}, "networks: expected one of 'first', 'both'"),
        ({"schedule": "released"}, "schedule: expected one of 'one-cycle', 'step', 'constant', 'linear'"),
    ],
)
def test_co_teaching_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        CoTeaching(CLASSES, **options)


def scn(output, epoch=0, labels=None, **options):
    """SCN at an epoch of ten, whose images are the rows of ``output``."""
    torch.manual_seed(0)
    made = attached(SCN(CLASSES, **options), epochs=10).double()
    made.model = Told(output.logits, output.features)
    made.attention = nn.Linear(6, 1).double()
    if labels is not None:
        made.attach(labels)
    made.trainer.fit_loop.epoch_progress.current.completed = epoch
    made.trainer.fit_loop.epoch_progress.current.processed = epoch
    return made


def test_scn_has_the_functions_losses(close):
    output, labels = output_of(), labels_of()
    labels[[2, 7]] = -1
    made = scn(output, labels=labels, share=0.5, margin=0.4, rank_weight=3.0)
    alpha = made.attention(output.features).sigmoid()
    losses = made.batch_loss(numbered(torch.arange(12)), {"label": labels, "index": torch.arange(12)})
    rank = functional.rank_regularization(alpha[labels >= 0], 0.5, 0.4)
    close(losses["rank"], rank)
    close(losses["loss"], functional.weighted_logit_cross_entropy(output.logits, alpha, labels) + 3 * rank)
    losses["loss"].backward()
    assert made.attention.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("relabel", ["rest", "all"])
def test_scn_changes_labels_that_the_network_thinks_wrong(relabel):
    """Against a loop over the images."""
    output, labels = output_of(40), labels_of(40)
    labels[[4, 9]] = -1
    made = scn(output, 8, labels, relabel=relabel, relabel_margin=0.2)
    index = torch.arange(40)
    alpha = made.confidence(output.features).detach()
    probabilities = (alpha[:, None] * output.logits).softmax(1)
    known = [n for n in range(40) if labels[n] >= 0]
    ranked = sorted(known, key=lambda n: -float(alpha[n]))
    lower = set(ranked[int(0.7 * len(ranked)) :])
    expected = labels.clone()
    for n in known if relabel == "all" else lower:
        if probabilities[n].max() - probabilities[n, labels[n]] > 0.2:
            expected[n] = probabilities[n].argmax()
    made.batch_loss(numbered(index), {"label": labels, "index": index})
    assert made.cured.tolist() == expected.tolist()
    assert 0 < int((made.cured != labels).sum()) < len(known)
    assert torch.equal(made.given, labels)
    # from then on the loss is that of the new labels
    again = made.batch_loss(numbered(index), {"label": labels, "index": index})
    wce = functional.weighted_logit_cross_entropy(output.logits, alpha, expected)
    torch.testing.assert_close(again["wce"], wce)


def test_scn_waits_and_can_be_told_not_to():
    output, labels = output_of(), labels_of()
    batch = {"label": labels, "index": torch.arange(12)}
    early = scn(output, 7, labels, relabel="all", relabel_margin=0.0)
    early.batch_loss(numbered(batch["index"]), batch)
    assert torch.equal(early.cured, labels)
    never = scn(output, 9, relabel="none")
    never.batch_loss(numbered(batch["index"]), batch)  # needs no labels beforehand
    with pytest.raises(RuntimeError, match=r"SCN: call attach\(labels\) before training"):
        scn(output, 9).batch_loss(numbered(batch["index"]), batch)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_scn_takes_an_image_that_comes_twice(order):
    """Once as something else, once as what it is labelled: it is something else."""
    output = BranchedOutput(torch.zeros(2, 6).double(), torch.tensor([[9.0, 0, 0, 0], [0, 0, 9.0, 0]]).double()[order])
    made = scn(output, 9, labels_of(), relabel="all", relabel_margin=0.1)
    twice = torch.tensor([2, 2])
    made.batch_loss(numbered(torch.arange(2)), {"label": torch.tensor([2, 2]), "index": twice})
    assert made.cured[2] == 0
    assert made.cured.tolist() == [0, 1, 0, *labels_of()[3:].tolist()]
    made.cured[2] = 1  # then as two other things: the larger
    made.batch_loss(numbered(torch.arange(2)), {"label": torch.tensor([2, 2]), "index": twice})
    assert made.cured[2] == 2


def test_scn_keeps_its_labels_in_the_state(tmp_path):
    torch.manual_seed(0)
    made = SCN(CLASSES)
    made.attach(labels_of())
    made.cured[3] = 0
    again = SCN(**made.hparams)
    nn.ModuleDict({"m": again}).load_state_dict({f"m.{key}": value for key, value in made.state_dict().items()})
    assert torch.equal(again.cured, made.cured) and torch.equal(again.given, labels_of())
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(made.eval()(images), again.eval()(images))
    alpha = made.confidence_of(images)
    torch.testing.assert_close(made(images), alpha[:, None] * made.model(images.float() / 127.5 - 1).logits)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share": 1.0}, "share: expected a value in"),
        ({"rank_weight": -1.0}, "rank_weight: expected a value in"),
        ({"relabel": "x"}, "relabel: expected one of 'rest', 'all', 'none', got 'x'"),
        ({"relabel_from": 2.0}, "relabel_from: expected a value in"),
        ({"relabel_margin": 2.0}, "relabel_margin: expected a value in"),
    ],
)
def test_scn_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        SCN(CLASSES, **options)


def test_ltnet_has_the_functions_loss(close):
    torch.manual_seed(0)
    made = LTNet(3, sources=("a", "b"), values=("valence",), width=0.05, gamma=0.5, trace=0.1).double()
    assert made.encoder.labels.out_features == 3 + 1
    outputs = torch.randn(9, 4, dtype=torch.float64)
    sources, values = torch.randint(-1, 3, (9, 2)), torch.rand(9, 1)
    found = made.supervised_loss(outputs, sources, values)
    matrices = made.transition()
    expected = functional.transition_cross_entropy(outputs[:, :3], matrices, sources)
    expected = expected + 0.1 * functional.trace_regularization(matrices)
    close(found["cross_entropy"], expected)
    plain = VGG(3, sources=(), values=("valence",), width=0.05).supervised_loss(outputs[:, 3:], sources[:, :0], values)
    close(found["loss"], expected + 0.5 * plain["concordance"])


def test_ltnet_holds_its_belief_for_a_while():
    made = attached(LTNet(3, sources=("a",), width=0.05, hold=3))
    outputs = torch.randn(9, 3, requires_grad=True)
    for epoch, held in ((0, True), (2, True), (3, False)):
        made.trainer.fit_loop.epoch_progress.current.completed = epoch
        made.trainer.fit_loop.epoch_progress.current.processed = epoch
        loss = made.supervised_loss(outputs, torch.randint(0, 3, (9, 1)), torch.zeros(9, 0))["loss"]
        gradient = torch.autograd.grad(loss, made.transition.weight, allow_unused=True)[0]
        assert (gradient is None) == held


class Sums(lightning.Callback):
    """How far the weights' rows are off 1 after each batch."""

    off: ClassVar[list[float]] = []

    def on_train_batch_end(self, trainer, recipe, *_):
        self.off.append(float((recipe.transition.weight.detach().sum(2) - 1).abs().max()))


def test_ltnet_finds_out_who_is_mistaken():
    """The second annotator of the coloured faces takes every fourth for the next colour, the first none."""
    torch.manual_seed(0)
    options = {"learning_rate": 4e-3, "schedule": "constant", "width": 0.125, "dropout": 0.0}
    made = LTNet(3, sources=("a", "b"), values=("valence",), diagonal=0.9, **options)
    metrics = fitted(made, 40, coloured(), Sums())
    assert float(metrics["val_accuracy"]) == 1.0
    assert max(Sums.off) < 1e-5  # callbacks, which may write a checkpoint, see matrices
    first, second = made.annotators()
    assert first.diagonal().min() > 0.85
    torch.testing.assert_close(second.diagonal(), torch.full((3,), 0.75), rtol=0, atol=0.1)
    said = made.annotate(coloured()[0]["image"][None])
    assert said.probabilities.shape == (1, 1, 3) and said.values.shape == (1, 1)
    torch.testing.assert_close(made(coloured()[0]["image"][None]).exp(), said.probabilities[:, 0])


def test_ltnet_hyperparameters_make_the_same_recipe():
    made = LTNet(5, sources=["a", "b"], width=0.1, diagonal=0.6, hold=2, trace=0.5, seed=4)
    again = LTNet(**made.hparams)
    again.load_state_dict(made.state_dict())
    assert (again.hold, again.trace, again.seed, again.transition.diagonal) == (2, 0.5, 4, 0.6)
    with pytest.raises(ValueError, match="sources: expected at least one label set, got none"):
        LTNet(3, sources=(), values=("valence",))
    with pytest.raises(ValueError, match="trace: expected a value in"):
        LTNet(3, trace=-1.0)
