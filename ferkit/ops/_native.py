"""Loads the compiled libraries when first asked for: `_C` (CPU), `_C_autograd` (its autograd nodes) and `_C_cuda`."""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import torch

import ferkit

__all__ = ["Kernels", "build_info", "instruction_set", "why_not", "why_not_autograd"]

_PACKAGE = Path(ferkit.__file__).resolve().parent
_LIBRARIES = {"cpu": "_C", "cuda": "_C_cuda"}
ABI = 7  # raised with every change of a native schema; setup.py writes it into the build metadata
INSTRUCTION_SETS = {4: "AVX-512", 3: "AVX2", 0: "the baseline"}  # x86-64-v4, x86-64-v3, what the compiler takes unasked
MINIMUM_TORCH = (2, 11)  # the stable ABI the libraries are built against


@functools.cache
def build_info() -> dict[str, Any] | None:
    """What setup.py wrote about the build, or None where nothing was built."""
    try:
        info: dict[str, Any] = json.loads((_PACKAGE / "_build_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return info


@functools.cache
def why_not_autograd() -> str | None:
    """Load the autograd nodes in C++; None if that worked, else one line saying why the Python ones are used."""
    info, name = build_info(), "_C_autograd"
    if why_not("cpu") is not None:
        return f"_C is needed too: {why_not('cpu')}"
    if info is None or name not in info.get("libraries", ()):
        return f"{name} was not built: {(info or {}).get('reasons', {}).get(name, 'no reason recorded')}"
    if info.get("torch") != torch.__version__:  # it is built against more than the stable ABI
        return f"{name} is for torch {info.get('torch')}, this is {torch.__version__}; install again"
    try:
        _nodes()
    except ImportError as error:
        return f"{name} cannot be imported ({str(error).splitlines()[0]}); install again"
    return None


@functools.cache
def _nodes() -> Any:
    """The module of the autograd nodes: the one beside this package, not that of another checkout on the path."""
    name = "ferkit._C_autograd"
    spec = importlib.machinery.PathFinder.find_spec(name, [str(_PACKAGE)])
    if spec is None or spec.loader is None:
        raise ImportError("there is none for this Python beside the package")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def why_not(device_type: str) -> str | None:
    """Load the library of a device kind; None if that worked, else one line saying why not."""
    info, name = build_info(), _LIBRARIES[device_type]
    if info is None:
        return "not built (install with: pip install --no-build-isolation .)"
    if name not in info.get("libraries", ()):
        return f"{name} was not built: {info.get('reasons', {}).get(name, 'no reason recorded')}"
    if device_type == "cuda" and not torch.cuda.is_available():
        return "no CUDA device"
    if device_type == "cuda" and why_not("cpu") is not None:  # its schemas are those of the CPU library
        return f"_C is needed too: {why_not('cpu')}"
    problem = _mismatch(info) or _load(name)
    if problem is not None:
        warnings.warn(f"ferkit: {name} is not used, the eager kernels are: {problem}", RuntimeWarning, stacklevel=2)
    return problem


def _mismatch(info: dict[str, Any]) -> str | None:
    if info.get("abi") != ABI or info.get("version") != ferkit.__version__:
        built = f"ferkit {info.get('version')} (native schema {info.get('abi')})"
        return f"built for {built}, this is ferkit {ferkit.__version__} (native schema {ABI}); install again"
    running = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if running < MINIMUM_TORCH:
        return f"needs torch 2.11 or newer, this is {torch.__version__}"
    return None


def _load(name: str) -> str | None:
    paths = sorted(_PACKAGE.glob(f"{name}.*so")) + sorted(_PACKAGE.glob(f"{name}.pyd"))
    if not paths:
        return f"{name} is missing beside the package"
    try:
        load: Any = torch.ops.load_library
        load(str(paths[0]))
    except OSError as error:
        return str(error).splitlines()[0]
    return None


def instruction_set() -> str | None:
    """Of the CPU's kernels that are taken; None where the library is not used."""
    if why_not("cpu") is not None:
        return None
    return INSTRUCTION_SETS[int(torch.ops.ferkit_native.cpu_level())]


class Kernels:
    """``forward`` and ``backward`` of one native op, with the signatures of the eager ones.

    ``recorded``: the op as one call with its autograd node in C++, or None where that is left to the Python ones. It
    gives None for what a mode, a transform or a subclass looks at, and for dtypes the kernel does not take.
    """

    def __init__(self, op: str, device_type: str = "cpu") -> None:
        self.device_type = device_type
        # `_op` is what an OpOverload calls, after a look that only a Python dispatcher needs
        self.forward = getattr(torch.ops.ferkit_native, op).default._op
        self.backward = getattr(torch.ops.ferkit_native, f"{op}_backward").default._op
        nodes = device_type == "cpu" and why_not_autograd() is None
        self.recorded: Any = getattr(_nodes(), op, None) if nodes else None

    def state_size(self, target: torch.Tensor, auxiliary: torch.Tensor, subset: bool, gram: bool) -> int:
        """float64 numbers that similarity_preserving keeps for its backward; csrc counts the same."""
        (size, wide), (branches, _, width) = target.shape, auxiliary.shape
        if self.device_type == "cuda":  # the Gram form, in float64 where the other is asked for
            item, groups = target.element_size() if gram else 8, 1 if size <= 128 else -(-size // 32)
            return -(-(branches + 1) * size**2 * item // 16) * 2 + branches * (5 * (-(-size // 4) * 4) + 1 + groups)
        sides = branches + (branches if subset else 1)
        if gram:
            padded = -(-size // 8) * 8
            return ((branches + 1) * size + sides + 2 * branches) * padded
        wide = -(-max(wide, width) // 8) * 8
        return sides * (wide * wide + size) + branches * 8 * wide * wide
