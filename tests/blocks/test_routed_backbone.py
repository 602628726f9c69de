"""BNNeck and RoutedBackbone: who sees whom, in which order, and what is left for inference."""

import pytest
import torch
from torch import nn

from ferkit.blocks import BNNeck, BranchedBackbone, RoutedBackbone
from ferkit.blocks.backbones import BackboneParts
from ferkit.blocks.pretrained import load_pretrained

CLASSES, WIDTH = 3, 5
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1, 0, 0])


class Trunk(nn.Module):
    def forward(self, images):
        return images


class Stage(nn.Module):
    """Pools to distinct features, and remembers which images it saw."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        return (images[:, :1, :1, :1] * self.weight[None, :, None, None]).sin()


def model(dropout=0.0, **options):
    torch.manual_seed(0)
    return RoutedBackbone(BackboneParts(Trunk(), Stage(), WIDTH, "stage."), CLASSES, dropout=dropout, **options)


def images(count=10):
    return (torch.arange(count) + 1.0)[:, None, None, None].expand(-1, 3, 2, 2)


def rows(tensor):
    """Numbers of the images that a call of a part was made with."""
    return [round(float(value)) - 1 for value in tensor[:, 0, 0, 0]]


def test_who_sees_whom():
    made, seen = model(), []
    for name, part in (("target", made.target), *enumerate(made.branches)):
        part.register_forward_hook(
            lambda _, inputs, __, name=name: seen.append((name, rows(inputs[0]), torch.is_grad_enabled()))
        )
    made(images(), LABELS)
    every = list(range(len(LABELS)))
    negative = [(j, [n for n in every if LABELS[n] != j], True) for j in range(CLASSES)]
    positive = [(j, [n for n in every if LABELS[n] == j], False) for j in range(CLASSES)]
    assert seen == [*negative, ("target", every, True), *positive]


def test_order_of_the_necks_calls():
    made, calls = model(), []
    made.neck.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].detach().clone()))
    output = made(images(), LABELS)
    counts = [int(LABELS.ne(j).sum()) for j in range(CLASSES)] + [len(LABELS)]
    counts += [int(LABELS.eq(j).sum()) for j in range(CLASSES)]
    assert [len(call) for call in calls] == counts
    assert int(made.neck.num_batches_tracked) == 2 * CLASSES + 1
    assert torch.equal(calls[CLASSES], output.features)
    for j in range(CLASSES):
        assert torch.equal(calls[j], output.auxiliary_features[j][LABELS.ne(j)])
        assert torch.equal(calls[CLASSES + 1 + j], output.auxiliary_features[j][LABELS.eq(j)])


def test_each_call_has_its_own_statistics():
    made = model()
    output = made(images(), LABELS)

    def normal(x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + made.neck.eps).sqrt()

    torch.testing.assert_close(output.embedding, normal(output.features))
    torch.testing.assert_close(output.logits, made.target_classifier(normal(output.features)))
    for j in range(CLASSES):
        for keep in (LABELS.ne(j), LABELS.eq(j)):
            expected = made.branch_classifiers[j](normal(output.auxiliary_features[j][keep]))
            torch.testing.assert_close(output.auxiliary_logits[j][keep], expected)


def test_positives_give_no_gradient():
    made = model()
    output = made(images(), LABELS)
    own = LABELS.expand(CLASSES, -1) == torch.arange(CLASSES)[:, None]
    weights = [branch.weight for branch in made.branches]
    for chosen, expected in ((own, False), (~own, True)):
        total = output.auxiliary_logits[chosen].square().sum()
        grads = torch.autograd.grad(total, weights, retain_graph=True)
        assert [bool(grad.ne(0).any()) for grad in grads] == [expected] * CLASSES


def test_dropout_acts_on_branches_and_target_and_not_on_the_latent_pass():
    plain, dropped = model(), model(dropout=0.5)
    calls = []
    dropped.neck.register_forward_hook(lambda _, inputs, __: calls.append(inputs[0].detach().clone()))
    without = plain(images(), LABELS)
    output = dropped(images(), LABELS)
    # before dropout, as the cosines read them
    assert torch.equal(output.features, without.features)
    assert torch.equal(output.auxiliary_features, without.auxiliary_features)
    for j in range(CLASSES):  # what was kept is doubled
        seen, before = calls[j], without.auxiliary_features[j][LABELS.ne(j)]
        assert (seen.eq(0) | torch.isclose(seen, 2 * before)).all() and 0 < seen.eq(0).float().mean() < 1
        assert torch.equal(calls[CLASSES + 1 + j], without.auxiliary_features[j][LABELS.eq(j)])
    seen = calls[CLASSES]
    assert (seen.eq(0) | torch.isclose(seen, 2 * without.features)).all() and 0 < seen.eq(0).float().mean() < 1
    own = LABELS.expand(CLASSES, -1) == torch.arange(CLASSES)[:, None]
    torch.testing.assert_close(output.auxiliary_logits[own], without.auxiliary_logits[own])
    assert not torch.allclose(output.auxiliary_logits[~own], without.auxiliary_logits[~own])


def test_released_start():
    made = RoutedBackbone("small", CLASSES)
    assert made.dropout.p == 0.5 and not made.neck.bias.requires_grad and made.neck.weight.requires_grad
    classifiers = [made.target_classifier, *made.branch_classifiers]
    assert all(classifier.bias is None for classifier in classifiers)
    weights = torch.cat([classifier.weight.flatten() for classifier in classifiers])
    assert float(weights.detach().std()) == pytest.approx(0.001, rel=0.1)
    assert isinstance(made, BranchedBackbone) and isinstance(made.neck, BNNeck)


def test_inference_needs_no_labels_no_branch_and_no_batch_mates():
    made = model(dropout=0.5)
    for _ in range(3):
        made(images(), LABELS)
    made.eval()
    ran = []
    for branch in made.branches:
        branch.register_forward_hook(lambda *_: ran.append(1))
    output = made(images())
    assert not ran and output.auxiliary_logits is None
    neck = made.neck
    scaled = (output.features - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
    torch.testing.assert_close(output.logits, scaled @ made.target_classifier.weight.T)
    torch.testing.assert_close(torch.cat([made(image[None]).logits for image in images()]), output.logits)
    assert int(neck.num_batches_tracked) == 3 * (2 * CLASSES + 1)
    assert torch.equal(made(images(), LABELS).logits, output.logits)
    everyone = made.forward_branches(images())
    assert everyone.auxiliary_logits.shape == (CLASSES, len(LABELS), CLASSES - 1)
    assert {key.split(".")[0] for key in made.target_state_dict()} == {"target", "target_classifier", "neck"}


def test_unlabelled_images_are_seen_by_the_target_alone():
    labels = torch.cat([LABELS, torch.tensor([-1, -1])])
    made, seen = model(), []
    for branch in made.branches:
        branch.register_forward_hook(lambda _, inputs, __: seen.extend(rows(inputs[0])))
    output = made(images(12), labels)
    assert set(seen) == set(range(10)) and output.logits.shape == (12, CLASSES)
    assert output.auxiliary_logits[:, 10:].eq(0).all()
    torch.testing.assert_close(output.auxiliary_logits[:, :10], model()(images(), LABELS).auxiliary_logits)


def test_mixed_precision_gives_every_trained_parameter_a_gradient():
    """The second pass, without gradient, must not leave half-precision copies that the first one then uses."""
    torch.manual_seed(0)
    made = RoutedBackbone("small", CLASSES)
    faces = torch.randn(len(LABELS), 3, 32, 32)
    for _ in range(2):
        made.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            output = made(faces, LABELS)
            loss = output.logits.square().sum() + output.auxiliary_logits.square().sum()
        loss.backward()
        without = {name for name, p in made.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
        assert without == {"neck.bias"}


def test_checkpoint_of_a_backbone_fills_every_stage():
    made = RoutedBackbone("small", CLASSES)
    source = BranchedBackbone("small", CLASSES, "none")
    state = {key.removeprefix("trunk."): value for key, value in source.trunk.state_dict(prefix="trunk.").items()}
    state |= {f"{source.stage_prefix}{key}": value for key, value in source.target.state_dict().items()}
    report = load_pretrained(made, state)
    assert not report.unused and not report.mismatched
    assert {key.split(".")[0] for key in report.missing} == {"neck", "target_classifier", "branch_classifiers"}


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, TypeError, "labels: expected a torch.Tensor, got NoneType"),
        (LABELS.float(), TypeError, r"labels: expected dtype torch\.int64"),
        (LABELS[:4], ValueError, r"labels: expected shape \(10,\)"),
        (LABELS + 1, ValueError, r"labels: expected values in 0\.\.2"),
        (
            torch.tensor([0, 0, 0, 0, 0, 1, 2, 2, 2, 2]),
            ValueError,
            "labels: expected 2 samples or more of each of the 3 classes in a training batch, got 1 of class 1$",
        ),
        (torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), ValueError, "got 1 of class 1, 0 of class 2$"),
    ],
)
def test_bad_labels(labels, error, message):
    made = model()
    ran = []
    made.trunk.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(error, match=message):
        made(images(), labels)
    assert not ran and int(made.neck.num_batches_tracked) == 0


def test_bad_options_and_features():
    with pytest.raises(ValueError, match="dropout: expected a value in"):
        model(dropout=1.5)
    neck = BNNeck(4)
    with pytest.raises(ValueError, match="expected 2 rows or more in training, got 1"):
        neck(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"input: expected shape \(N, 4\), got \(2, 3\)"):
        neck(torch.zeros(2, 3))
    with pytest.raises(TypeError, match="floating-point"):
        neck(torch.zeros(2, 4, dtype=torch.int64))
    assert int(neck.num_batches_tracked) == 0 and neck.eval()(torch.zeros(1, 4)).shape == (1, 4)
