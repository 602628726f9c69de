"""similarity_preserving: distance of row-normalised Gram matrices per branch (DMUE eq. 13-17), two exact forms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_choice
from ferkit.kernels.eager import similarity_preserving as eager
from ferkit.ops import _select
from ferkit.ops._library import (
    accumulation_dtype,
    autocast_to_float32,
    define,
    needs_autograd,
    redispatch,
    without_autocast,
)

__all__ = ["similarity_preserving"]

_FORMS = {"auto": eager.AUTO, "gram": eager.GRAM, "factored": eager.FACTORED}


def similarity_preserving(
    target: Tensor, auxiliary: Tensor, mask: Tensor, normalize: str = "batch", form: str = "auto"
) -> Tensor:
    """(1 / N_i^2) sum_qp m_iq m_ip (A_t - A_i)_qp^2 per branch i, A the row-normalised Gram matrix, N_i = sum_q m_iq.

    Args:
        target: (N, Dt), floating point; float16 and bfloat16 are accumulated in float32, and under autocast the result
            is float32.
        auxiliary: (M, N, Da), dtype of ``target``.
        mask: (M, N), bool or row weights >= 0.
        normalize: "batch" takes the norm of whole rows, then masks (eq. 14-17); "subset" masks first (eq. 5, 13).
        form: "gram", "factored" (time linear in N), or "auto" (by cost).

    Returns: (M,), never negative; a branch without an unmasked row gives 0 with zero gradient.
    """
    check_choice(normalize, "normalize", ("batch", "subset"))
    check_choice(form, "form", tuple(_FORMS))
    target, auxiliary = autocast_to_float32(target), autocast_to_float32(auxiliary)
    size, kept = target.shape[0], 0
    if isinstance(size, int):  # a symbolic size is not asked which form it will take: that would cost a recompile
        width = max(target.shape[1], auxiliary.shape[2])
        kept = size if eager.takes_gram(size, width, _FORMS[form]) else 0
    loss: Tensor = _forward_op(target, auxiliary, mask, normalize == "subset", _FORMS[form], kept)[0]
    return loss


def _forward(target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int) -> Any:
    device_type = target.device.type
    forward = _select.kernel("similarity_preserving", device_type, target.dtype).forward
    return without_autocast(forward, device_type, target, auxiliary, mask, subset, form, kept)


def _backward(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, grams: Tensor, subset: bool, form: int
) -> Any:
    device_type = target.device.type
    backward = _select.kernel("similarity_preserving", device_type, target.dtype).backward
    return without_autocast(backward, device_type, grad, target, auxiliary, mask, grams, subset, form)


def _forward_fake(
    target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int
) -> tuple[Tensor, Tensor]:
    branches, size = auxiliary.shape[0], target.shape[0]
    grams = target.new_empty(branches + 1, size, kept, dtype=accumulation_dtype(target.dtype))
    return target.new_empty(branches), grams


def _backward_fake(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, grams: Tensor, subset: bool, form: int
) -> tuple[Tensor, Tensor]:
    return target.new_empty(target.shape), auxiliary.new_empty(auxiliary.shape)


class _SimilarityPreserving(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, keyset: Any, target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int
    ) -> Any:
        outputs = redispatch(_forward_op, keyset, target, auxiliary, mask, subset, form, kept)
        ctx.mark_non_differentiable(outputs[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(target, auxiliary, mask, outputs[1])
        ctx.settings = subset, form
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:  # type: ignore[override]
        if grad is None:
            return None, None, None, None, None, None, None
        return None, *_backward_op(grad, *ctx.saved_tensors, *ctx.settings), None, None, None, None


def _forward_autograd(
    keyset: Any, target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int
) -> Any:
    if needs_autograd(target, auxiliary):
        return _SimilarityPreserving.apply(keyset, target, auxiliary, mask, subset, form, kept)
    return redispatch(_forward_op, keyset, target, auxiliary, mask, subset, form, kept)


def _backward_autograd(
    keyset: Any, grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, grams: Tensor, subset: bool, form: int
) -> Any:
    if needs_autograd(grad, target, auxiliary):  # second order: the eager formula, recorded step by step
        return without_autocast(eager.backward, target.device.type, grad, target, auxiliary, mask, grams, subset, form)
    return redispatch(_backward_op, keyset, grad, target, auxiliary, mask, grams, subset, form)


_forward_op = define(
    "similarity_preserving(Tensor target, Tensor auxiliary, Tensor mask, bool subset, int form, SymInt kept)"
    " -> (Tensor loss, Tensor grams)",
    implementation=_forward,
    fake=_forward_fake,
    autograd=_forward_autograd,
)
_backward_op = define(
    "similarity_preserving_backward(Tensor grad, Tensor target, Tensor auxiliary, Tensor mask, Tensor grams,"
    " bool subset, int form) -> (Tensor d_target, Tensor d_auxiliary)",
    implementation=_backward,
    fake=_backward_fake,
    autograd=_backward_autograd,
)
