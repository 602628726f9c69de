"""class_similarity: the mean cosine of each sample to each class, in O(N D C) (DMUE eq. 7)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ferkit.kernels.eager import class_similarity as eager
from ferkit.kernels.eager import class_similarity_variance as eager_variance
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

__all__ = ["class_similarity"]


def class_similarity(
    features: Tensor, labels: Tensor, num_classes: int, include_self: bool = True, variance: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Mean (N, C) of the cosines of each row to each class, counts (C,), and on request their variance (N, C).

    Args:
        features: (N, D), floating point; float16 and bfloat16 are accumulated in float32, and under autocast the
            results are float32.
        labels: int64 (N,); a row labelled -1 takes part in nothing, its results and its gradient are 0.
        num_classes: C.
        include_self: whether an anchor is a member of its own class.
        variance: also E[cos^2] - E[cos]^2 over the same members.

    A class without members gives 0; a row shorter than 1e-12 has cosine 0 and gradient 0.
    """
    outputs: Any = None
    if not is_dynamo_compiling() and (recorded := _select.recorded_for("class_similarity", features)) is not None:
        outputs = named_errors(recorded, features, labels, num_classes, include_self)
    if outputs is None:
        features = autocast_to_float32(features)
        outputs = _similarity(features, labels, num_classes, include_self)
    mean, counts = outputs[0], outputs[1]
    if not variance:
        return mean, counts, None
    arguments = (features, labels, num_classes, include_self)
    if not unobserved(features, labels):
        spread = _variance_op(*arguments)
    elif needs_autograd(features):
        spread = _Variance.apply(None, *arguments)
    else:
        spread = _variance(*arguments)
    return mean, counts, spread


def _similarity(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
    arguments = (features, labels, num_classes, include_self)
    if not unobserved(features, labels):
        return _forward_op(*arguments)
    return _ClassSimilarity.apply(None, *arguments) if needs_autograd(features) else _forward(*arguments)


def _forward(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
    forward = _select.kernel_for("class_similarity", features).forward
    return without_autocast(forward, features, labels, num_classes, include_self)


def _backward(
    grad: Tensor, features: Tensor, labels: Tensor, sums: Tensor, inverse: Tensor, num_classes: int, include_self: bool
) -> Any:
    backward = _select.kernel_for("class_similarity", features).backward
    return without_autocast(backward, grad, features, labels, sums, inverse, num_classes, include_self)


def _forward_fake(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(features.dtype)
    size, width = features.shape
    return (
        features.new_empty(size, num_classes),
        features.new_empty(num_classes, dtype=dtype),
        features.new_empty(num_classes, width, dtype=dtype),
        features.new_empty(size, dtype=dtype),
    )


def _backward_fake(
    grad: Tensor, features: Tensor, labels: Tensor, sums: Tensor, inverse: Tensor, num_classes: int, include_self: bool
) -> Tensor:
    return features.new_empty(features.shape)


class _ClassSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
        arguments = (features, labels, num_classes, include_self)
        outputs = _forward(*arguments) if keyset is None else redispatch(_forward_op, keyset, *arguments)
        ctx.save_for_backward(features, labels, *outputs[2:])
        outputs = outputs if keyset is not None else outputs[:2]  # autograd is slower for every output it wraps
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        ctx.settings = num_classes, include_self
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return None, None, None, None, None
        arguments = (grad, *ctx.saved_tensors, *ctx.settings)
        direct = not torch.is_grad_enabled() and unobserved(grad, arguments[1])
        return None, (_backward if direct else _backward_op)(*arguments), None, None, None


def _forward_autograd(keyset: Any, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
    if needs_autograd(features):
        return _ClassSimilarity.apply(keyset, features, labels, num_classes, include_self)
    return redispatch(_forward_op, keyset, features, labels, num_classes, include_self)


def _backward_autograd(
    keyset: Any,
    grad: Tensor,
    features: Tensor,
    labels: Tensor,
    sums: Tensor,
    inverse: Tensor,
    num_classes: int,
    include_self: bool,
) -> Any:
    arguments = (grad, features, labels, sums, inverse, num_classes, include_self)
    if needs_autograd(grad, features):  # second order: the eager formula, recorded step by step
        return without_autocast(eager.backward, *arguments)
    return redispatch(_backward_op, keyset, *arguments)


_forward_op = define(
    "class_similarity(Tensor features, Tensor labels, SymInt num_classes, bool include_self)"
    " -> (Tensor mean, Tensor counts, Tensor sums, Tensor inverse)",
    implementation=_forward,
    fake=_forward_fake,
    autograd=_forward_autograd,
)
_backward_op = define(
    "class_similarity_backward(Tensor grad, Tensor features, Tensor labels, Tensor sums, Tensor inverse,"
    " SymInt num_classes, bool include_self) -> Tensor",
    implementation=_backward,
    fake=_backward_fake,
    autograd=_backward_autograd,
)


def _variance_kernels(features: Tensor) -> Any:
    """Where the chosen backend has no variance (the native one), the eager one stands in."""
    chosen = _select.kernel_for("class_similarity", features)
    return chosen if hasattr(chosen, "variance_forward") else eager_variance


def _variance(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
    forward = _variance_kernels(features).variance_forward
    return without_autocast(forward, features, labels, num_classes, include_self)


def _variance_backward(grad: Tensor, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
    backward = _variance_kernels(features).variance_backward
    return without_autocast(backward, grad, features, labels, num_classes, include_self)


def _variance_fake(features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Tensor:
    return features.new_empty(features.shape[0], num_classes)


def _variance_backward_fake(
    grad: Tensor, features: Tensor, labels: Tensor, num_classes: int, include_self: bool
) -> Tensor:
    return features.new_empty(features.shape)


class _Variance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: Any, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
        arguments = (features, labels, num_classes, include_self)
        ctx.save_for_backward(features, labels)
        ctx.settings = num_classes, include_self
        return _variance(*arguments) if keyset is None else redispatch(_variance_op, keyset, *arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        arguments = (grad, *ctx.saved_tensors, *ctx.settings)
        direct = not torch.is_grad_enabled() and unobserved(grad, arguments[1])
        return None, (_variance_backward if direct else _variance_backward_op)(*arguments), None, None, None


def _variance_autograd(keyset: Any, features: Tensor, labels: Tensor, num_classes: int, include_self: bool) -> Any:
    if needs_autograd(features):
        return _Variance.apply(keyset, features, labels, num_classes, include_self)
    return redispatch(_variance_op, keyset, features, labels, num_classes, include_self)


def _variance_backward_autograd(
    keyset: Any, grad: Tensor, features: Tensor, labels: Tensor, num_classes: int, include_self: bool
) -> Any:
    arguments = (grad, features, labels, num_classes, include_self)
    if needs_autograd(grad, features):  # second order: the eager formula, recorded step by step
        return without_autocast(eager_variance.variance_backward, *arguments)
    return redispatch(_variance_backward_op, keyset, *arguments)


_variance_op = define(
    "class_similarity_variance(Tensor features, Tensor labels, SymInt num_classes, bool include_self) -> Tensor",
    implementation=_variance,
    fake=_variance_fake,
    autograd=_variance_autograd,
)
_variance_backward_op = define(
    "class_similarity_variance_backward(Tensor grad, Tensor features, Tensor labels, SymInt num_classes,"
    " bool include_self) -> Tensor",
    implementation=_variance_backward,
    fake=_variance_backward_fake,
    autograd=_variance_backward_autograd,
)
