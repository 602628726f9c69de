"""concordance: the concordance correlation coefficient of each column, all moments in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ferkit.kernels.eager import concordance as eager
from ferkit.ops import _select
from ferkit.ops._library import (
    autocast_to_float32,
    define,
    needs_autograd,
    redispatch,
    unobserved,
    without_autocast,
)

__all__ = ["concordance"]


def concordance(
    prediction: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    released: bool = False,
    loss: bool = False,
    mean: bool = False,
) -> Tensor:
    """CCC of the columns of (N, T) and (N, T), a value per target (T,).

    Args:
        prediction: (N, T), floating point; float16 and bfloat16 are accumulated in float32, and under autocast the
            result is float32.
        target: (N, T), dtype of ``prediction``. Both get a gradient.
        weight: (N,), 0 or more; gets no gradient. Rows of weight 0 take no part, whatever they hold.
        released: variances unbiased, with the sum of squares over W - (sum w^2) / W, W = sum w.
        loss: 1 - CCC, formed without subtracting from 1; 0 for the empty set.
        mean: the mean over the targets, a scalar, without a second op and its backward.

    Columns that are constant and equal have the CCC of any equal columns (1; released: (N - 1) / N) and no gradient;
    the empty set has 0.
    """
    if not is_dynamo_compiling() and (recorded := _select.recorded_for("concordance", prediction)) is not None:
        at_once: Tensor | None = None
        if weight is None or weight.dtype == prediction.dtype:
            at_once = recorded(prediction, target, weight, released, loss, mean)
        if at_once is not None:
            return at_once
    prediction, target = autocast_to_float32(prediction), autocast_to_float32(target)
    if weight is not None and weight.dtype != prediction.dtype:
        weight = weight.to(prediction.dtype)
    arguments = (prediction, target, weight, released, loss, mean)
    if not (unobserved(prediction, target) if weight is None else unobserved(prediction, target, weight)):
        value: Tensor = _forward_op(*arguments)[0]
    elif needs_autograd(prediction, target):
        value = _Concordance.apply(None, *arguments)[0]
    else:
        value = _forward(*arguments)[0]
    return value


def _forward(prediction: Tensor, target: Tensor, weight: Tensor | None, released: bool, loss: bool, mean: bool) -> Any:
    forward = _select.kernel_for("concordance", prediction).forward
    return without_autocast(forward, prediction, target, weight, released, loss, mean)


def _backward(grad: Tensor, prediction: Tensor, *arguments: Any) -> Any:
    backward = _select.kernel_for("concordance", prediction).backward
    return without_autocast(backward, grad, prediction, *arguments)


def _forward_fake(
    prediction: Tensor, target: Tensor, weight: Tensor | None, released: bool, loss: bool, mean: bool
) -> tuple[Tensor, Tensor]:
    width = prediction.shape[1]
    value = prediction.new_empty(()) if mean else prediction.new_empty(width)
    return value, prediction.new_empty(width, eager.STATE, dtype=torch.float64)


def _backward_fake(grad: Tensor, prediction: Tensor, target: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    with_target = arguments[-1]
    return prediction.new_empty(prediction.shape), target.new_empty(target.shape if with_target else 0)


class _Concordance(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keyset: Any,
        prediction: Tensor,
        target: Tensor,
        weight: Tensor | None,
        released: bool,
        loss: bool,
        mean: bool,
    ) -> Any:
        arguments = (prediction, target, weight, released, loss, mean)
        outputs = _forward(*arguments) if keyset is None else redispatch(_forward_op, keyset, *arguments)
        ctx.mark_non_differentiable(outputs[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(prediction, target, weight, outputs[1])
        ctx.settings = released, loss, mean
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return None, None, None, None, None, None, None
        with_target = ctx.needs_input_grad[2]
        arguments = (grad, *ctx.saved_tensors, *ctx.settings, with_target)
        direct = not torch.is_grad_enabled() and unobserved(grad, arguments[1], arguments[2])
        d_prediction, d_target = (_backward if direct else _backward_op)(*arguments)
        return None, d_prediction, d_target if with_target else None, None, None, None, None


def _forward_autograd(keyset: Any, prediction: Tensor, target: Tensor, *arguments: Any) -> Any:
    if needs_autograd(prediction, target):
        return _Concordance.apply(keyset, prediction, target, *arguments)
    return redispatch(_forward_op, keyset, prediction, target, *arguments)


def _backward_autograd(keyset: Any, grad: Tensor, prediction: Tensor, target: Tensor, *arguments: Any) -> Any:
    if needs_autograd(grad, prediction, target):  # second order: the eager formula, recorded step by step
        return without_autocast(eager.backward, grad, prediction, target, *arguments)
    return redispatch(_backward_op, keyset, grad, prediction, target, *arguments)


_forward_op = define(
    "concordance(Tensor prediction, Tensor target, Tensor? weight, bool released, bool loss, bool mean)"
    " -> (Tensor value, Tensor state)",
    implementation=_forward,
    fake=_forward_fake,
    autograd=_forward_autograd,
)
_backward_op = define(
    "concordance_backward(Tensor grad, Tensor prediction, Tensor target, Tensor? weight, Tensor state,"
    " bool released, bool loss, bool mean, bool with_target) -> (Tensor d_prediction, Tensor d_target)",
    implementation=_backward,
    fake=_backward_fake,
    autograd=_backward_autograd,
)
