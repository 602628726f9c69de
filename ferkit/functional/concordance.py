"""The concordance correlation coefficient of continuous labels (valence, arousal), and the loss made of it."""

from __future__ import annotations

from torch import Tensor

from ferkit.checks import check_choice, check_device, check_floating, check_not_negative, check_shape
from ferkit.functional._inputs import as_vector, full_precision, promote
from ferkit.ops.concordance import concordance as _op
from ferkit.reduction import REDUCTIONS

__all__ = ["CONVENTIONS", "concordance", "concordance_loss"]

CONVENTIONS = ("population", "released")


@full_precision
def concordance(
    prediction: Tensor, target: Tensor, weight: Tensor | None = None, convention: str = "population"
) -> Tensor:
    r"""Concordance correlation coefficient of each target, :math:`2 s_{xy} / (s_x^2 + s_y^2 + (\bar x - \bar y)^2)`.

    Lin (Biometrics, 1989), as in noisyFER's similarity loss. All moments are taken about the mean: a large common mean
    does not cancel.

    Args:
        prediction: (N, T).
        target: (N, T). Both get a gradient.
        weight: (N,) or (N, 1), 0 or more (read on the CPU), as importance: only ratios matter. A row of weight 0 takes
            no part, whatever it holds. Gets no gradient.
        convention: ``"population"`` (the standard form) divides every moment by N; ``"released"`` (noisyFER's code)
            divides the variances by N-1 and the covariance by N, so that equal columns give (N-1)/N; with weights w, of
            sum W, N-1 becomes W - (Σw²)/W.

    Returns:
        (T,), float32 for half precision and under autocast. A constant against anything else gives 0, one row likewise.
        Two columns that are constant and equal have no coefficient (0/0); they give what all equal columns give (1;
        released (N-1)/N), with gradient 0. Without a row: 0.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or a negative weight.

    >>> import torch
    >>> prediction = torch.tensor([[0.0, 0.1], [0.5, 0.2], [1.0, 0.9]])
    >>> target = torch.tensor([[0.0, 0.1], [0.5, 0.2], [0.7, -0.9]])
    >>> concordance(prediction, target)
    tensor([ 0.8861, -0.4727])
    """
    prediction, target, weight = _check(prediction, target, weight, "weight", convention)
    return _op(prediction, target, weight, convention == "released")


@full_precision
def concordance_loss(
    prediction: Tensor,
    target: Tensor,
    sample_weight: Tensor | None = None,
    convention: str = "population",
    reduction: str = "mean",
) -> Tensor:
    r"""One minus the concordance correlation coefficient, the mean over the targets.

    noisyFER's similarity loss, :math:`1 - (\rho_v + \rho_a)/2` for valence and arousal; see `concordance`. It is formed
    without subtracting from 1, and stays exact as prediction and target come to agree.

    Args:
        prediction: (N, T).
        target: (N, T).
        sample_weight: (N,), 0 or more; gets no gradient.
        convention: ``"population"`` or ``"released"``.
        reduction: ``"mean"`` over the targets, ``"sum"``, or ``"none"`` for one value per target (T,).

    Returns:
        float32 for half precision and under autocast; 0 for the empty set, with a zero gradient.

    Raises:
        TypeError, ValueError: for wrong dtypes, shapes, devices, choices, or a negative weight.

    >>> import torch
    >>> concordance_loss(torch.tensor([[0.0], [0.5], [1.0]]), torch.tensor([[0.0], [0.5], [0.7]]))
    tensor(0.1139)
    """
    check_choice(reduction, "reduction", REDUCTIONS)
    prediction, target, weight = _check(prediction, target, sample_weight, "sample_weight", convention)
    value = _op(prediction, target, weight, convention == "released", loss=True, mean=reduction == "mean")
    return value.sum() if reduction == "sum" else value


def _check(
    prediction: Tensor, target: Tensor, weight: Tensor | None, name: str, convention: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    check_choice(convention, "convention", CONVENTIONS)
    check_floating(prediction, "prediction")
    check_shape(prediction, "prediction", ("N", "T"))
    check_floating(target, "target")
    check_shape(target, "target", prediction.shape)
    check_device(prediction, target=target)
    prediction, target = promote(prediction, target)
    if weight is not None:
        weight = as_vector(weight, name)
        check_shape(weight, name, (prediction.shape[0],))
        check_device(prediction, **{name: weight})
        check_not_negative(weight, name)
        weight = weight.detach().to(prediction.dtype)
    return prediction, target, weight
