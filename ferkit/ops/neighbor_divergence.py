"""neighbor_divergence: weighted KL of every neighbour's prediction from the centre's, one pass (LDL-ALSG eq. 4)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ferkit.kernels.eager import neighbor_divergence as eager
from ferkit.ops import _select
from ferkit.ops._library import (
    accumulation_dtype,
    autocast_to_float32,
    define,
    needs_autograd,
    redispatch,
    unobserved,
    without_autocast,
)

__all__ = ["neighbor_divergence"]


def neighbor_divergence(logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool = False) -> Tensor:
    """sum_k w_nk KL(softmax(neighbor_logits_nk) || softmax(logits_n)), (N, C), (N, K, C), (N, K) -> (N,).

    A neighbour of weight 0 takes no part: it changes nothing and gets no gradient, its weight included, even if it
    holds NaN. ``mean``: instead the mean over the N centres, a scalar (0 for N = 0), without a second op and its
    backward. float16 and bfloat16 are accumulated in float32, and under autocast the result is float32.
    """
    if not is_dynamo_compiling() and (recorded := _select.recorded_for("neighbor_divergence", logits)) is not None:
        at_once: Tensor | None = recorded(logits, neighbor_logits, weight, mean)
        if at_once is not None:
            return at_once
    logits, neighbor_logits = autocast_to_float32(logits), autocast_to_float32(neighbor_logits)
    arguments = (logits, neighbor_logits, autocast_to_float32(weight), mean)
    if not unobserved(logits, neighbor_logits, weight):
        loss: Tensor = _forward_op(*arguments)[0]
    elif needs_autograd(logits, neighbor_logits, weight):
        loss = _NeighborDivergence.apply(None, *arguments)[0]
    else:
        loss = _forward(*arguments)[0]
    return loss


def _forward(logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool) -> Any:
    forward = _select.kernel_for("neighbor_divergence", logits).forward
    return without_autocast(forward, logits, neighbor_logits, weight, mean)


def _backward(
    grad: Tensor,
    logits: Tensor,
    neighbor_logits: Tensor,
    weight: Tensor,
    residual: Tensor,
    divergence: Tensor,
    mean: bool,
    neighbors: bool,
) -> Any:
    if not neighbors:  # the forward has left nothing but two products, on every device
        d_weight = _along(grad, divergence, weight.dtype)
        return _along(grad, residual, logits.dtype), neighbor_logits.new_empty(0), d_weight
    backward = _select.kernel_for("neighbor_divergence", logits).backward
    arguments = (grad, logits, neighbor_logits, weight, residual, divergence, mean, neighbors)
    return without_autocast(backward, *arguments)


def _along(grad: Tensor, derivative: Tensor, dtype: torch.dtype) -> Tensor:
    """Each row of ``derivative`` times its gradient: (N,), or one for all."""
    product = (grad if grad.ndim == 0 else grad[:, None]) * derivative
    return product if product.dtype == dtype else product.to(dtype)


def _forward_fake(logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool) -> tuple[Tensor, Tensor, Tensor]:
    wide = accumulation_dtype(logits.dtype)
    loss = logits.new_empty(() if mean else logits.shape[:1])
    return loss, logits.new_empty(logits.shape, dtype=wide), weight.new_empty(weight.shape, dtype=wide)


def _backward_fake(
    grad: Tensor,
    logits: Tensor,
    neighbor_logits: Tensor,
    weight: Tensor,
    residual: Tensor,
    divergence: Tensor,
    mean: bool,
    neighbors: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    d_neighbors = neighbor_logits.new_empty(neighbor_logits.shape if neighbors else (0,))
    return logits.new_empty(logits.shape), d_neighbors, weight.new_empty(weight.shape)


class _NeighborDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool) -> Any:
        arguments = (logits, neighbor_logits, weight, mean)
        outputs = _forward(*arguments) if keyset is None else redispatch(_forward_op, keyset, *arguments)
        ctx.save_for_backward(logits, neighbor_logits, weight, outputs[1], outputs[2])
        outputs = outputs if keyset is not None else outputs[:1]  # autograd is slower for every output it wraps
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        ctx.mean = mean
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return None, None, None, None, None
        _, for_logits, for_neighbors, for_weight, _ = ctx.needs_input_grad
        saved = ctx.saved_tensors
        direct = not torch.is_grad_enabled() and unobserved(grad, *saved[:3])
        if direct and not for_neighbors:
            d_logits = _along(grad, saved[3], saved[0].dtype) if for_logits else None
            return None, d_logits, None, _along(grad, saved[4], saved[2].dtype) if for_weight else None, None
        arguments = (grad, *saved, ctx.mean, for_neighbors)
        results = (_backward if direct else _backward_op)(*arguments)
        return None, results[0], results[1] if for_neighbors else None, results[2], None


def _forward_autograd(keyset: Any, logits: Tensor, neighbor_logits: Tensor, weight: Tensor, mean: bool) -> Any:
    if needs_autograd(logits, neighbor_logits, weight):
        return _NeighborDivergence.apply(keyset, logits, neighbor_logits, weight, mean)
    return redispatch(_forward_op, keyset, logits, neighbor_logits, weight, mean)


def _backward_autograd(keyset: Any, grad: Tensor, *arguments: Any) -> Any:
    logits, neighbor_logits, weight = arguments[:3]
    if needs_autograd(grad, logits, neighbor_logits, weight):  # second order: the eager formula, step by step
        return without_autocast(eager.backward, grad, *arguments)
    return redispatch(_backward_op, keyset, grad, *arguments)


_forward_op = define(
    "neighbor_divergence(Tensor logits, Tensor neighbor_logits, Tensor weight, bool mean)"
    " -> (Tensor loss, Tensor residual, Tensor divergence)",
    implementation=_forward,
    fake=_forward_fake,
    autograd=_forward_autograd,
)
_backward_op = define(
    "neighbor_divergence_backward(Tensor grad, Tensor logits, Tensor neighbor_logits, Tensor weight, Tensor residual,"
    " Tensor divergence, bool mean, bool neighbors) -> (Tensor d_logits, Tensor d_neighbors, Tensor d_weight)",
    implementation=_backward,
    fake=_backward_fake,
    autograd=_backward_autograd,
)
