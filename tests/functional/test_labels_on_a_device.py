"""Where reading labels would stall a GPU, one out of range gives NaN and a flag, never a number and never a crash.

The CPU stands in for the GPU here: the check that it alone can afford is switched off. tests/gpu does the same on one.
"""

import contextlib
import sys

import pytest
import torch

import ferkit.functional as ff
from ferkit.ops import _select

CLASSES = 4
WRONG = [-2, CLASSES, 1 << 40]


@pytest.fixture
def unread(monkeypatch):
    """No label is looked at: neither by the checks nor by the compiled kernels."""
    for name, module in list(sys.modules.items()):
        if name.startswith("ferkit.") and hasattr(module, "check_label_range"):
            monkeypatch.setattr(module, "check_label_range", lambda *_, **__: False)
        if name.startswith("ferkit.") and hasattr(module, "out_of_range"):
            monkeypatch.setattr(module, "out_of_range", lambda labels, c: (labels < -1) | (labels >= c))
    ff.raise_label_errors()
    with _select.force("eager"):
        yield
    with contextlib.suppress(ValueError):
        ff.raise_label_errors()


@pytest.mark.parametrize("label", WRONG)
@pytest.mark.parametrize("weighted", [False, True])
def test_losses(unread, case, label, weighted):
    if not case.labelled:
        return  # takes no labels
    tensors, labels = case.make(9)
    labels[3] = label
    options = {"class_weight": torch.rand(CLASSES, dtype=torch.float64)} if weighted and case.per_sample else {}
    values = case(tensors, labels, reduction="none", **options)
    if case.per_sample:
        assert values.isnan().tolist() == [n == 3 for n in range(9)]
    else:
        assert values.isnan().any()
    assert case(tensors, labels, **options).isnan()
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.C-1 or -1"):
        ff.raise_label_errors()


def test_an_unlabelled_row_is_no_error(unread, case):
    if not case.labelled:
        return  # takes no labels
    tensors, labels = case.make(9)
    labels[3] = -1
    assert case(tensors, labels).isfinite()
    ff.raise_label_errors()


@pytest.mark.parametrize("label", WRONG)
def test_parts(unread, label):
    labels = torch.tensor([0, 1, label, 3, -1])
    mined = ff.latent_distribution(torch.randn(CLASSES, 5, CLASSES - 1), labels)
    assert mined.isnan().all(1).tolist() == [False, False, True, False, False]
    similarity = ff.class_similarity(torch.randn(5, 3), labels, CLASSES)
    assert similarity.isnan().any(1).tolist() == [False, False, True, False, False]
    with pytest.raises(ValueError, match="labels"):
        ff.raise_label_errors()


@pytest.mark.parametrize("label", WRONG)
def test_in_a_compiled_region_a_wrong_label_gives_nan(label):
    labels = torch.tensor([0, label])
    for function in (
        lambda y: ff.center_loss(torch.ones(2, 2), y, torch.zeros(3, 2)),
        lambda y: ff.latent_distribution(torch.zeros(3, 2, 2), y)[1],
        lambda y: ff.auxiliary_cross_entropy(torch.zeros(3, 2, 2), y),
    ):
        assert torch.compile(function, backend="aot_eager")(labels).isnan().all()
        torch._dynamo.reset()
    with pytest.raises(ValueError, match="labels"):
        ff.auxiliary_cross_entropy(torch.zeros(3, 2, 2), labels)


def test_a_tensor_subclass_is_not_read_either():
    class Sub(torch.Tensor):
        pass

    assert ff.auxiliary_cross_entropy(torch.zeros(3, 2, 2), torch.tensor([0, 9]).as_subclass(Sub)).isnan()
