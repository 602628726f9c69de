"""scaled_cross_entropy: cross-entropy of scale * logits, one pass (DMUE eq. 9)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ferkit.kernels.eager import scaled_cross_entropy as eager
from ferkit.ops import _select
from ferkit.ops._library import (
    accumulation_dtype,
    autocast_to_float32,
    define,
    named_errors,
    needs_autograd,
    redispatch,
    unobserved,
    without_autocast,
)

__all__ = ["scaled_cross_entropy"]


def scaled_cross_entropy(logits: Tensor, scale: Tensor, labels: Tensor, mean: bool = False) -> Tensor:
    """-log softmax(scale_n * logits_n)[label_n] per row, (N, C), (N,), (N,) -> (N,).

    Rows labelled -1 give 0 with zero gradient. ``mean``: instead the mean over the labelled rows, a scalar (0 where
    there is none), without a second op and its backward. float16 and bfloat16 are accumulated in float32, and under
    autocast the result is float32.
    """
    if not is_dynamo_compiling() and (recorded := _select.recorded_for("scaled_cross_entropy", logits)) is not None:
        at_once: Tensor | None = named_errors(recorded, logits, scale, labels, mean)
        if at_once is not None:
            return at_once
    arguments = (autocast_to_float32(logits), autocast_to_float32(scale), labels, mean)
    if not unobserved(logits, scale, labels):
        loss: Tensor = _forward_op(*arguments)[0]
    elif needs_autograd(logits, scale):
        loss = _ScaledCrossEntropy.apply(None, *arguments)[0]
    else:
        loss = _forward(*arguments)[0]
    return loss


def _forward(logits: Tensor, scale: Tensor, labels: Tensor, mean: bool) -> Any:
    forward = _select.kernel_for("scaled_cross_entropy", logits).forward
    return without_autocast(forward, logits, scale, labels, mean)


def _backward(grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, normaliser: Tensor, mean: bool) -> Any:
    backward = _select.kernel_for("scaled_cross_entropy", logits).backward
    return without_autocast(backward, grad, logits, scale, labels, normaliser, mean)


def _forward_fake(logits: Tensor, scale: Tensor, labels: Tensor, mean: bool) -> tuple[Tensor, Tensor]:
    size = logits.shape[0]
    loss = logits.new_empty(()) if mean else logits.new_empty(size)
    return loss, logits.new_empty(size, 2, dtype=accumulation_dtype(logits.dtype))


def _backward_fake(
    grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, normaliser: Tensor, mean: bool
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape), scale.new_empty(scale.shape)


class _ScaledCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, logits: Tensor, scale: Tensor, labels: Tensor, mean: bool) -> Any:
        arguments = (logits, scale, labels, mean)
        outputs = _forward(*arguments) if keyset is None else redispatch(_forward_op, keyset, *arguments)
        ctx.save_for_backward(logits, scale, labels, outputs[1])
        outputs = outputs if keyset is not None else outputs[:1]  # autograd is slower for every output it wraps
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        ctx.mean = mean
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return None, None, None, None, None
        arguments = (grad, *ctx.saved_tensors, ctx.mean)
        direct = not torch.is_grad_enabled() and unobserved(grad, arguments[1], arguments[2])
        return None, *(_backward if direct else _backward_op)(*arguments), None, None


def _forward_autograd(keyset: Any, logits: Tensor, scale: Tensor, labels: Tensor, mean: bool) -> Any:
    if needs_autograd(logits, scale):
        return _ScaledCrossEntropy.apply(keyset, logits, scale, labels, mean)
    return redispatch(_forward_op, keyset, logits, scale, labels, mean)


def _backward_autograd(
    keyset: Any, grad: Tensor, logits: Tensor, scale: Tensor, labels: Tensor, normaliser: Tensor, mean: bool
) -> Any:
    arguments = (grad, logits, scale, labels, normaliser, mean)
    if needs_autograd(grad, logits, scale):  # second order: the eager formula, recorded step by step
        return without_autocast(eager.backward, *arguments)
    return redispatch(_backward_op, keyset, *arguments)


_forward_op = define(
    "scaled_cross_entropy(Tensor logits, Tensor scale, Tensor labels, bool mean) -> (Tensor loss, Tensor normaliser)",
    implementation=_forward,
    fake=_forward_fake,
    autograd=_forward_autograd,
)
_backward_op = define(
    "scaled_cross_entropy_backward(Tensor grad, Tensor logits, Tensor scale, Tensor labels, Tensor normaliser,"
    " bool mean) -> (Tensor d_logits, Tensor d_scale)",
    implementation=_backward,
    fake=_backward_fake,
    autograd=_backward_autograd,
)
