"""The `ferkit` torch.library: how every op of this package is registered, once, in Python.

An op is a schema, a fake, one implementation for every device (it asks `_select` for the kernel) and an autograd
formula. The thin Autograd kernels here replace `torch.library.custom_op`, whose generic wrapper costs more than a whole
small-batch loss.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ferkit.kernels.precision import accumulation_dtype

__all__ = [
    "accumulation_dtype",
    "autocast_to_float32",
    "define",
    "named_errors",
    "needs_autograd",
    "redispatch",
    "unobserved",
    "without_autocast",
]

_new_library: Any = torch.library.Library
_LIBRARY = _new_library("ferkit", "DEF")
_C: Any = torch._C
_AFTER_AUTOGRAD = _C._after_autograd_keyset
_CAN_OBSERVE = all(
    hasattr(_C, name)
    for name in (
        "_len_torch_dispatch_stack",
        "_are_functorch_transforms_active",
        "_is_torch_function_mode_enabled",
        "_is_tracing",
    )
)
_any_autocast = _C._is_any_autocast_enabled  # asked first: the question about one device parses a string
_unpack_dual: Any = forward_ad.unpack_dual
_PLAIN = (Tensor, torch.nn.Parameter)
_HALF = (torch.float16, torch.bfloat16)


def define(
    schema: str, *, implementation: Callable[..., Any], fake: Callable[..., Any], autograd: Callable[..., Any]
) -> Any:
    """Register one op and return its overload; ``autograd`` receives the dispatch keys first."""
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, _contiguous(implementation), "CompositeExplicitAutograd")
    _LIBRARY.impl(name, autograd, "Autograd", with_keyset=True)
    torch.library.register_fake(f"ferkit::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.ferkit, name).default


def _contiguous(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """The fakes promise contiguous results and compiled code relies on it; an eager kernel may follow its inputs."""

    def run(*arguments: Any) -> Any:
        results = implementation(*arguments)
        return results.contiguous() if isinstance(results, Tensor) else tuple(part.contiguous() for part in results)

    return run


def unobserved(*tensors: Tensor) -> bool:
    """Whether nothing but autograd could care about a call on these tensors.

    Then the dispatcher is left out: at the batch sizes of this field its Python round trips cost as much as the loss.
    Subclasses, fake and traced tensors, dispatch and function modes, functorch transforms and forward mode all go
    through it.
    """
    if torch.compiler.is_compiling() or not _CAN_OBSERVE or forward_ad._current_level >= 0:
        return False
    if _C._len_torch_dispatch_stack() or _C._are_functorch_transforms_active() or _C._is_torch_function_mode_enabled():
        return False
    for tensor in tensors:
        if type(tensor) not in _PLAIN:
            return False
    return not _C._is_tracing()


def needs_autograd(*tensors: Tensor) -> bool:
    """Whether autograd has to record a call on these tensors, or to refuse it: no op has a forward-mode derivative."""
    if forward_ad._current_level >= 0:
        for tensor in tensors:
            if _unpack_dual(tensor).tangent is not None:
                return True
    if torch.is_grad_enabled():
        for tensor in tensors:  # a loop, not any(): a generator costs a microsecond
            if tensor.requires_grad:
                return True
    return False


def redispatch(op: Any, keyset: Any, *arguments: Any) -> Any:
    """Call ``op`` below the Autograd keys."""
    with torch._C._AutoDispatchBelowAutograd():
        return op.redispatch(keyset & _AFTER_AUTOGRAD, *arguments)


def autocast_to_float32(tensor: Tensor) -> Tensor:
    """The autocast rule of every op: under autocast float16 and bfloat16 inputs become float32."""
    if tensor.dtype in _HALF and torch.is_autocast_enabled(tensor.device.type):
        return tensor.float()
    return tensor


def without_autocast(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` with autocast off: matrix products inside a kernel keep their accumulation dtype."""
    if _any_autocast() and torch.is_autocast_enabled(device_type := arguments[0].device.type):
        with torch.autocast(device_type, enabled=False):
            return named_errors(function, *arguments)
    return named_errors(function, *arguments)


def named_errors(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function``; native code can only throw RuntimeError, its label check reads as in ferkit.checks."""
    try:
        return function(*arguments)
    except RuntimeError as error:
        message = str(error).split("\n")[0]
        if message.startswith("labels: expected values"):
            raise ValueError(message) from None
        raise
