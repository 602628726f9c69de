"""similarity_preserving: distance of row-normalised Gram matrices per branch (DMUE eq. 13-17), two exact forms."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from ferkit.checks import check_choice
from ferkit.kernels.eager import similarity_preserving as eager
from ferkit.ops import _select
from ferkit.ops._library import (
    autocast_to_float32,
    define,
    needs_autograd,
    redispatch,
    unobserved,
    without_autocast,
)

__all__ = ["similarity_preserving"]

_NORMALIZE = ("batch", "subset")
_FORMS = {"auto": 0, "gram": 1, "factored": 2}
# auto: beyond N = crossover * D the factored form, in float64, costs less; see docs/math/similarity_preserving.md
CROSSOVER = 6
CUDA_CROSSOVER = {
    "float64": 8,
    "tf32": 24,
    "slow": 200,
}  # full-rate float64; TF32 Gram matrices; float64 at 1/32 or less


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
    if normalize not in _NORMALIZE or form not in _FORMS:
        check_choice(normalize, "normalize", _NORMALIZE)
        check_choice(form, "form", tuple(_FORMS))
    target, auxiliary = autocast_to_float32(target), autocast_to_float32(auxiliary)
    if mask.dtype not in (torch.bool, torch.float32, torch.float64):
        mask = mask.float()
    subset, code = normalize == "subset", _FORMS[form]
    if not unobserved(target, auxiliary, mask):
        kept = _kept(target, auxiliary, subset, code)
        loss: Tensor = _forward_op(target, auxiliary, mask, subset, code, kept)[0]
    elif needs_autograd(target, auxiliary):
        loss = _recorded(target, auxiliary, mask, subset, code)
    else:
        loss = _forward(target, auxiliary, mask, subset, code, 0)[0]
    return loss


def _recorded(target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int) -> Any:
    """The loss with its autograd node: in C++ where the chosen kernel has one, else the one below."""
    kernel = _select.kernel_for("similarity_preserving", target)
    recorded, loss = getattr(kernel, "recorded", None), None
    if recorded is not None:
        gram = _takes_gram(target, auxiliary, form)
        kept = kernel.state_size(target, auxiliary, subset, gram)
        loss = recorded(target, auxiliary, mask, subset, gram, kept, form)
    if loss is None:
        loss = _SimilarityPreserving.apply(None, target, auxiliary, mask, subset, form, None)[0]
    return loss


@functools.cache
def _full_rate(device: torch.device) -> bool:
    """Whether float64 runs at half of float32's rate, as on the data centre GPUs."""
    return torch.cuda.get_device_capability(device) in ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))


def _crossover(tensor: Tensor) -> int:
    if not tensor.is_cuda:
        return CROSSOVER
    if tensor.dtype == torch.float64:
        return CUDA_CROSSOVER["float64"]
    if not _full_rate(tensor.device):
        return CUDA_CROSSOVER["slow"]
    return CUDA_CROSSOVER["tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "float64"]


def _takes_gram(target: Tensor, auxiliary: Tensor, form: int) -> bool:
    """Asked inside the implementation only: of a symbolic size it would cost a recompile."""
    if form != 0:
        return form == 1
    size, width = target.shape
    return size <= _crossover(target) * max(width, auxiliary.shape[2])


def _kept(target: Tensor, auxiliary: Tensor, subset: bool, form: int) -> int:
    """Size of the state that the forward keeps for the backward; under torch.compile the backward forms it again."""
    if torch.compiler.is_compiling() or not needs_autograd(target, auxiliary):
        return 0
    kernel = _select.kernel_for("similarity_preserving", target)
    size: int = kernel.state_size(target, auxiliary, subset, _takes_gram(target, auxiliary, form))
    return size


def _forward(target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int | None) -> Any:
    """``kept`` None: all that the backward can use."""
    kernel = _select.kernel_for("similarity_preserving", target)
    gram = _takes_gram(target, auxiliary, form)
    if kept is None:
        kept = kernel.state_size(target, auxiliary, subset, gram)
    return without_autocast(kernel.forward, target, auxiliary, mask, subset, gram, kept)


def _backward(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, state: Tensor, subset: bool, form: int
) -> Any:
    backward = _select.kernel_for("similarity_preserving", target).backward
    gram = _takes_gram(target, auxiliary, form)
    return without_autocast(backward, grad, target, auxiliary, mask, state, subset, gram)


def _forward_fake(
    target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int
) -> tuple[Tensor, Tensor]:
    return target.new_empty(auxiliary.shape[0]), target.new_empty(kept, dtype=torch.float64)


def _backward_fake(
    grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, state: Tensor, subset: bool, form: int
) -> tuple[Tensor, Tensor]:
    return target.new_empty(target.shape), auxiliary.new_empty(auxiliary.shape)


class _SimilarityPreserving(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        keyset: Any,
        target: Tensor,
        auxiliary: Tensor,
        mask: Tensor,
        subset: bool,
        form: int,
        kept: int | None,
    ) -> Any:
        arguments = (target, auxiliary, mask, subset, form, kept)
        outputs = _forward(*arguments) if keyset is None else redispatch(_forward_op, keyset, *arguments)
        ctx.save_for_backward(target, auxiliary, mask, outputs[1])
        outputs = outputs if keyset is not None else outputs[:1]  # autograd is slower for every output it wraps
        ctx.mark_non_differentiable(*outputs[1:])
        ctx.set_materialize_grads(False)
        ctx.settings = subset, form
        return outputs

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> Any:
        if grad is None:
            return None, None, None, None, None, None, None
        arguments = (grad, *ctx.saved_tensors, *ctx.settings)
        direct = not torch.is_grad_enabled() and unobserved(grad, arguments[1], arguments[2])
        return None, *(_backward if direct else _backward_op)(*arguments), None, None, None, None


def _forward_autograd(
    keyset: Any, target: Tensor, auxiliary: Tensor, mask: Tensor, subset: bool, form: int, kept: int
) -> Any:
    if needs_autograd(target, auxiliary):
        return _SimilarityPreserving.apply(keyset, target, auxiliary, mask, subset, form, kept)
    return redispatch(_forward_op, keyset, target, auxiliary, mask, subset, form, kept)


def _backward_autograd(
    keyset: Any, grad: Tensor, target: Tensor, auxiliary: Tensor, mask: Tensor, state: Tensor, subset: bool, form: int
) -> Any:
    if needs_autograd(grad, target, auxiliary):  # second order: the eager formula, recorded step by step
        gram = _takes_gram(target, auxiliary, form)
        return without_autocast(eager.backward, grad, target, auxiliary, mask, state, subset, gram)
    return redispatch(_backward_op, keyset, grad, target, auxiliary, mask, state, subset, form)


_forward_op = define(
    "similarity_preserving(Tensor target, Tensor auxiliary, Tensor mask, bool subset, int form, SymInt kept)"
    " -> (Tensor loss, Tensor state)",
    implementation=_forward,
    fake=_forward_fake,
    autograd=_forward_autograd,
)
_backward_op = define(
    "similarity_preserving_backward(Tensor grad, Tensor target, Tensor auxiliary, Tensor mask, Tensor state,"
    " bool subset, int form) -> (Tensor d_target, Tensor d_auxiliary)",
    implementation=_backward,
    fake=_backward_fake,
    autograd=_backward_autograd,
)
