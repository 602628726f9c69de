"""Co-teaching: who is chosen by whom, against loops; the released divisor; and how many are forgotten when."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import ferkit.functional as ff


def make(size, seed=0, classes=4):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, size, classes, generator=generator, dtype=torch.float64)
    return first, second, torch.randint(classes, (size,), generator=generator)


def by_loops(first, second, labels, forget):
    """The two losses of the published procedure."""
    losses = [F.cross_entropy(logits, labels, reduction="none") for logits in (first, second)]
    keep = max(int((1 - forget) * len(labels) + 1e-9), 1)
    chosen = [loss.argsort()[:keep] for loss in losses]
    return losses[0][chosen[1]].mean(), losses[1][chosen[0]].mean(), keep


@given(st.integers(1, 30), st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.99]), st.integers(0, 99))
@settings(max_examples=50, deadline=None)
def test_each_learns_from_the_others_small_losses(size, forget, seed):
    first, second, labels = make(size, seed)
    one, two, keep = by_loops(first, second, labels, forget)
    value = ff.co_teaching_loss(first, second, labels, forget)
    torch.testing.assert_close(value, one + two, rtol=1e-12, atol=1e-12)
    released = ff.co_teaching_loss(first, second, labels, forget, divisor="released")
    torch.testing.assert_close(released, (one + two) / keep, rtol=1e-12, atol=1e-12)


def test_each_gradient_is_that_of_its_own_loss_alone(close):
    first, second, labels = make(10)
    leaves = [first.requires_grad_(), second.requires_grad_()]
    together = torch.autograd.grad(ff.co_teaching_loss(*leaves, labels, 0.4), leaves)
    one, two, _ = by_loops(*leaves, labels, 0.4)
    close(together[0], torch.autograd.grad(one, first, retain_graph=True)[0])
    close(together[1], torch.autograd.grad(two, second)[0])
    assert (together[0].abs().sum(1) == 0).sum() == 4


def test_wrong_labels_of_a_network_that_knows_are_left_out():
    labels = torch.arange(10) % 5
    truth = labels.clone()
    truth[[1, 6, 7]] = (truth[[1, 6, 7]] + 1) % 5
    sure = 4.0 * F.one_hot(truth, 5).double()
    values = ff.co_teaching_loss(sure, sure, labels, 0.3, reduction="none")
    assert (values == 0).nonzero().flatten().tolist() == [1, 6, 7]


def test_weights_do_not_choose_but_0_removes(close):
    first, second, labels = make(8)
    heavy = torch.tensor([1.0, 5.0] * 4, dtype=torch.float64)
    plain = ff.co_teaching_loss(first, second, labels, 0.5, reduction="none")
    weighted = ff.co_teaching_loss(first, second, labels, 0.5, sample_weight=heavy, reduction="none")
    close(weighted, plain * heavy)


def test_equal_and_infinite_losses_are_counted_right():
    assert ff.small_loss_selection(torch.ones(4), 0.5).tolist() == [True, True, False, False]
    part = torch.tensor([False, True, True])
    assert ff.small_loss_selection(torch.full((3,), torch.inf), 0.0, part).tolist() == [False, True, True]
    assert ff.small_loss_selection(torch.tensor([torch.nan, 1.0, 2.0]), 0.5, part).tolist() == [False, True, False]
    assert ff.small_loss_selection(torch.empty(0), 0.5).shape == (0,)


@pytest.mark.parametrize(
    "size, forget, kept", [(10, 0.3, 7), (10, 0.7, 3), (100, 0.29, 71), (3, 0.9, 1), (72, 0.5, 36)]
)
def test_a_whole_number_is_not_lost_to_rounding(size, forget, kept):
    assert ff.small_loss_selection(torch.rand(size), forget).sum() == kept


def test_the_rate_rises_and_stays():
    assert ff.forget_rate(0, 0.2, 10) == 0
    assert ff.forget_rate(5, 0.2, 10) == pytest.approx(0.1)
    assert ff.forget_rate(10, 0.2, 10) == ff.forget_rate(200, 0.2, 10) == 0.2
    assert ff.forget_rate(0, 0.2, 0) == 0.2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda z, y: ff.co_teaching_loss(z, z, y, 1.0), r"forget_rate: expected a value in \[0, 1\), got 1.0"),
        (lambda z, y: ff.co_teaching_loss(z, z, y, -0.1), "forget_rate: expected a value in"),
        (lambda z, y: ff.co_teaching_loss(z, z[:2], y, 0.1), r"peer_logits: expected shape \(6, 4\), got \(2, 4\)"),
        (lambda z, y: ff.co_teaching_loss(z, z, y, 0.1, "all"), "divisor: expected one of 'kept', 'released'"),
        (lambda z, y: ff.forget_rate(-1, 0.2, 10), "epoch: expected a value in"),
        (lambda z, y: ff.forget_rate(1, 1.0, 10), r"final: expected a value in \[0, 1\), got 1.0"),
        (lambda z, y: ff.small_loss_selection(z, 0.1), r"losses: expected shape \(N,\), got \(6, 4\)"),
        (lambda z, y: ff.small_loss_selection(z[:, 0], 2.0), r"forget_rate: expected a value in \[0, 1\), got 2.0"),
        (lambda z, y: ff.small_loss_selection(z[:, 0], 0.1, y[:2] > 0), r"part: expected shape \(6,\), got \(2,\)"),
        (lambda z, y: ff.small_loss_selection(z[:, 0], 0.1, y), "part: expected dtype torch.bool, got torch.int64"),
    ],
)
def test_refused(call, message):
    logits, _, labels = make(6)
    with pytest.raises((ValueError, TypeError), match=message):
        call(logits, labels)
