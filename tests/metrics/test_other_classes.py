import pytest
import torch

from ferkit.metrics import other_classes, total_variation


def test_the_annotated_class_is_left_out():
    votes = torch.tensor([[8, 1, 1], [0, 10, 0], [2, 0, 8], [5, 5, 0]])
    labels = torch.tensor([0, 1, 1, -1])
    rest = other_classes(votes, labels)
    expected = torch.tensor([[0, 0.5, 0.5], [0, 0, 0], [0.2, 0, 0.8], [0.5, 0.5, 0]], dtype=torch.float64)
    assert torch.equal(rest, expected) and votes[0, 0] == 8, "the votes themselves stay"
    mined = torch.tensor([[0, 1.0, 0], [1, 0, 0], [0.2, 0, 0.8], [0.5, 0.5, 0]])
    each = total_variation(mined, rest, reduction="none")
    assert each[0] == 0.5 and each[1].isnan() and each[2] == pytest.approx(0, abs=1e-7)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"distributions: expected shape \(N, C\)"):
        other_classes(torch.zeros(3), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.1 or -1"):
        other_classes(torch.ones(1, 2), torch.tensor([2]))
