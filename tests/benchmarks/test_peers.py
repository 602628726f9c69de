"""The peers compute what they are said to: the released step its recorded values, the others their formula."""

from pathlib import Path

import numpy as np
import pytest
import torch

peers = pytest.importorskip("benchmarks.peers")

from benchmarks import class_similarity, textbook  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "goldens" / "dmue_step_released.npz"
CLASSES = 7


@pytest.fixture(scope="module")
def step():
    with np.load(GOLDEN) as archive:
        return {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}


def neck(rows, weight):
    """BN-neck in training mode: statistics of the rows it is given."""
    return torch.nn.functional.batch_norm(rows, None, None, weight, torch.zeros_like(weight), training=True)


def test_released_cosine_means(step):
    got = peers.released_class_similarity(step["feat_target"], step["labels"], CLASSES)
    torch.testing.assert_close(got, step["cos_mean_raw"], rtol=1e-9, atol=1e-12)


def test_released_losses_value_and_gradients(step):
    labels, weight = step["labels"], step["bn_weight"]
    target, features = (step[key].clone().requires_grad_() for key in ("feat_target", "feat_aux"))
    rows = []
    for branch in range(CLASSES):
        logits = features.new_zeros(len(labels), CLASSES - 1)
        for keep in (labels != branch, labels == branch):  # the release runs the branch once on each
            part = neck(features[branch][keep], weight) @ step["cls_aux_weight"][branch].T
            logits = logits.index_put((keep.nonzero()[:, 0],), part)
        rows.append(logits)
    auxiliary, own = torch.stack(rows), neck(target, weight)
    head = tuple(step[f"pw_{name}"] for name in ("w1", "b1", "prelu", "w2", "b2"))
    total = peers.released_losses(
        target,
        own,
        auxiliary,
        own @ step["cls_target_weight"].T,
        head,
        labels,
        up=float(step["ramp_up"]),
        down=float(step["ramp_down"]),
    )
    torch.testing.assert_close(total, step["loss_total"], rtol=1e-9, atol=1e-12)
    preserving = peers.released_similarity_preserving(own, auxiliary, labels)
    torch.testing.assert_close(preserving, step["loss_sp"], rtol=1e-9, atol=1e-12)
    total.backward()
    torch.testing.assert_close(target.grad, step["grad_feat_target"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(features.grad, step["grad_feat_aux"], rtol=1e-9, atol=1e-12)


def test_kl_div_is_the_textbook():
    generator = torch.Generator().manual_seed(0)
    logits, neighbors, weight = (
        torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((9, 5), (9, 4, 5), (9, 4))
    )
    want = textbook.neighbor_guidance(logits, neighbors, weight)
    torch.testing.assert_close(peers.kl_div_guidance(logits, neighbors, weight), want)


def test_torchmetrics_agrees_up_to_its_divisor():
    pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.rand(4000, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    got, want = peers.torchmetrics_concordance(prediction, target), textbook.concordance_loss(prediction, target)
    assert abs(got - want) < 1e-3


def test_the_linear_reference_is_the_textbook():
    features, labels = torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % class_similarity.CLASSES
    torch.testing.assert_close(class_similarity.linear(features, labels), class_similarity.plain(features, labels))
