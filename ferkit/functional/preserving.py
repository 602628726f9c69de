"""Similarity preserving losses: DMUE's over class branches, and the one of Tung and Mori it generalises."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit.checks import (
    check_choice,
    check_device,
    check_floating,
    check_label_range,
    check_labels,
    check_not_negative,
    check_shape,
)
from ferkit.distributed import resolve_group
from ferkit.functional._global import global_msp
from ferkit.functional._inputs import full_precision, poison_rows, promote, zero_rows
from ferkit.ops import flag_out_of_range
from ferkit.ops.similarity_preserving import similarity_preserving as _op
from ferkit.reduction import REDUCTIONS, combine_weights, reduce, safe_divide

__all__ = ["DETACH", "FORMS", "NORMALIZE", "msp_loss", "similarity_preserving_loss"]

NORMALIZE = ("batch", "subset")
FORMS = ("auto", "gram", "factored")
DETACH = (None, "target", "auxiliary")


@full_precision
def msp_loss(
    target: Tensor,
    auxiliary: Tensor,
    labels: Tensor,
    normalize: str = "batch",
    form: str = "auto",
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    detach: str | None = None,
    process_group: Any = None,
) -> Tensor:
    r"""DMUE's similarity preserving loss between the target branch and the C auxiliary branches.

    .. math:: L = \frac1C \sum_j \frac{1}{N_j^2} \|M_j \circ (A_t - A_j)\|_F^2

    with A the row-normalised Gram matrix of a branch's features and M_j the pairs of samples not labelled j (DMUE,
    equations 13-17).

    Args:
        target: (N, Dt), features of the target branch.
        auxiliary: (C, N, Da), features of the whole batch in each auxiliary branch; Da and Dt may differ.
        labels: int64 (N,); rows labelled -1 (or of weight 0) take no part, just as if they were removed.
        normalize: ``"batch"`` (the paper's equations 14-17) takes row norms over the whole batch, then masks;
            ``"subset"`` (the released code, and 5 and 13 read literally) masks, then takes norms.
        form: ``"gram"`` (N×N matrices), ``"factored"`` (linear in N) or ``"auto"``, the cheaper one; the value is one.
        sample_weight: (N,), not negative; a pair is weighted by the product and N_j becomes the sum. No gradient.
        reduction: ``"mean"`` over the C branches (a branch without samples is 0 and counts), ``"sum"``, or ``"none"``:
            one value per branch, (C,).
        detach: the side that gets no gradient, ``"target"`` or ``"auxiliary"``; paper and code detach neither.
        process_group: None: the batch of this process. ``"global"`` (all ranks) or a ProcessGroup: the exact value over
            the batches of all its ranks, returned by each of them, whose gradients, averaged over the ranks as
            data-parallel training does, are those of one process with the whole batch. Rows are gathered
            (``form="gram"``) or D×D blocks summed (``"factored"``), whichever moves fewer bytes (``"auto"``).

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or labels outside -1..C-1 (read on the CPU).

    >>> target = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> msp_loss(target, torch.stack([target, 2 * target]), torch.tensor([0, 1, 0]))
    tensor(0.)
    """
    check_choice(normalize, "normalize", NORMALIZE)
    check_choice(form, "form", FORMS)
    check_choice(reduction, "reduction", REDUCTIONS)
    check_detach(detach)
    check_floating(target, "target")
    check_floating(auxiliary, "auxiliary")
    check_shape(target, "target", ("N", "Dt"))
    size = target.shape[0]
    check_shape(auxiliary, "auxiliary", ("C", size, "Da"))
    check_labels(labels, size)
    check_device(target, auxiliary=auxiliary, labels=labels)
    num_classes = auxiliary.shape[0]
    complete = check_label_range(labels, num_classes)
    target, auxiliary = promote(target, auxiliary)
    wrong = flag_out_of_range(labels, num_classes)
    weight = _pair_weight(size, target, sample_weight)
    if detach == "target":
        target = target.detach()
    elif detach == "auxiliary":
        auxiliary = auxiliary.detach()
    group = resolve_group(process_group)
    if group is not None:
        target = poison_rows(target, wrong)
        return reduce(global_msp(target, auxiliary, labels, weight, normalize, form, group), reduction)
    mask = labels != torch.arange(num_classes, device=labels.device).unsqueeze(1)
    if weight is not None or not complete:
        keep = labels >= 0 if wrong is None else (labels >= 0) | wrong
        keep = keep if weight is None else keep & (weight != 0)
        target, auxiliary, mask = zero_rows(target, keep), zero_rows(auxiliary, keep), mask & keep
        target = poison_rows(target, wrong)
        if weight is not None:
            mask = torch.where(mask, weight, 0)
    return reduce(_op(target, auxiliary, mask, normalize, form), reduction)


@full_precision
def similarity_preserving_loss(
    student: Tensor,
    teacher: Tensor,
    sample_weight: Tensor | None = None,
    form: str = "auto",
    reduction: str = "mean",
) -> Tensor:
    r"""Similarity preserving distillation, :math:`\|A_s - A_t\|_F^2 / N^2` (Tung and Mori, ICCV 2019, equation 4).

    A is the row-normalised Gram matrix of the flattened features. Nothing is detached: freeze the teacher, or pass
    ``teacher.detach()``.

    Args:
        student: (N, ...), flattened to (N, Ds).
        teacher: (N, ...), flattened to (N, Dt); Ds and Dt may differ.
        sample_weight: (N,), not negative: a pair is weighted by the product, N becomes the sum, and a sample of weight
            0 takes no part. No gradient.
        form: ``"gram"``, ``"factored"`` or ``"auto"``: how, not what, is computed.
        reduction: ``"none"`` gives each sample's share (N,), :math:`w_q \sum_p w_p (A_s-A_t)_{qp}^2 / \sum w`;
            ``"sum"`` its sum; ``"mean"`` that over :math:`\sum w`, the published value.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices or choices.

    >>> student = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> similarity_preserving_loss(student, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    tensor(0.2929)
    """
    check_choice(form, "form", FORMS)
    check_choice(reduction, "reduction", REDUCTIONS)
    check_floating(student, "student")
    check_floating(teacher, "teacher")
    for name, features in (("student", student), ("teacher", teacher)):
        if features.ndim < 2:
            raise ValueError(f"{name}: expected shape (N, ...) with features, got {tuple(features.shape)}")
    size = student.shape[0]
    if teacher.shape[0] != size:
        raise ValueError(f"teacher: expected {size} samples as in student, got {teacher.shape[0]}")
    check_device(student, teacher=teacher)
    student, teacher = promote(student.flatten(1), teacher.flatten(1))
    weight = _pair_weight(size, student, sample_weight)
    if weight is not None:
        student, teacher = zero_rows(student, weight != 0), zero_rows(teacher, weight != 0)
    if reduction == "none":
        return _shares(student, teacher, weight)
    mask = torch.ones(1, size, dtype=torch.bool, device=student.device) if weight is None else weight.unsqueeze(0)
    value: Tensor = _op(student, teacher.unsqueeze(0), mask, "batch", form)[0]
    if reduction == "mean":
        return value
    return value * (size if weight is None else weight.sum())


def _pair_weight(size: int, like: Tensor, sample_weight: Tensor | None) -> Tensor | None:
    weight = combine_weights(None, size, like, sample_weight)
    if weight is None:
        return None
    weight = weight.detach()
    check_not_negative(weight, "sample_weight")
    return weight


def check_detach(detach: str | None) -> None:
    if detach not in DETACH:
        raise ValueError(f"detach: expected one of None, 'target', 'auxiliary', got {detach!r}")


def _shares(student: Tensor, teacher: Tensor, weight: Tensor | None) -> Tensor:
    squares = (_normalized_gram(student) - _normalized_gram(teacher)).square()
    if weight is None:
        return squares.sum(1) / max(squares.shape[0], 1)
    return weight * safe_divide((squares * weight).sum(1), weight.sum())


def _normalized_gram(features: Tensor) -> Tensor:
    if features.numel():  # the scale cancels, and would else leave what the squares of squares can hold
        largest = features.detach().abs().amax()
        features = features / torch.where(largest > 0, largest, 1)
    gram = features @ features.T
    squared = gram.square().sum(1, keepdim=True)
    # the root is taken where it has a gradient only: a row of zeros stays 0
    return gram / torch.where(squared == 0, 1, squared).sqrt()
