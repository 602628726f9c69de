"""Builds ferkit's native libraries where it can; the package works, more slowly, without them.

FERKIT_BUILD=auto  (default) what the machine allows; what fails to build is left out, with a message
             off   pure Python
             cpu   _C and _C_autograd only, and fail if they cannot be built
             cuda  all three, _C_cuda too, and fail if they cannot be built
FERKIT_WERROR=1        warnings of nvcc and of its host compiler are errors
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MODE = os.environ.get("FERKIT_BUILD", "auto").lower()
TARGET = "0x020b000000000000"  # the stable ABI of torch 2.11: one binary for it and everything later
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*/*.*h"))  # .h and .cuh
WERROR = ["-Werror", "all-warnings"] if os.environ.get("FERKIT_WERROR", "0") != "0" else []
REASONS: dict[str, str] = {}
BUILT: list[str] = []

if MODE not in ("auto", "off", "cpu", "cuda"):
    sys.exit(f"FERKIT_BUILD: expected auto, off, cpu or cuda, got {MODE!r}")


def say(message: str) -> None:
    print(f"ferkit: {message}", file=sys.stderr, flush=True)


def leave_out(library: str, reason: str, needed: bool) -> None:
    """Record why a library is not built; fatal where FERKIT_BUILD asked for it."""
    if needed:
        sys.exit(f"ferkit: {library} cannot be built: {reason}")
    REASONS[library] = reason
    say(f"{library} is not built: {reason}")


def read(path: str, pattern: str) -> str:
    found = re.search(pattern, (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None, f"{pattern} not in {path}"
    return found[1]


def write_info(folder: Path, torch_version: str | None) -> None:
    """What was built and for what; ferkit.ops._native compares it at load."""
    info = {
        "version": read("ferkit/__init__.py", r'^__version__ = "(.+)"'),
        "abi": int(read("ferkit/ops/_native.py", r"^ABI = (\d+)")),
        "torch": torch_version,
        "libraries": sorted(BUILT),
        "reasons": REASONS,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "_build_info.json").write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def first_line(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"{error.cmd[0]} ended with {error.returncode}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def package_folder(command: Any) -> Path:
    editable = getattr(command, "editable_mode", False) or getattr(command, "inplace", False)
    return ROOT / "ferkit" if editable else Path(command.build_lib) / "ferkit"


def cuda_architectures(cpp_extension: Any, torch: Any) -> str:
    """TORCH_CUDA_ARCH_LIST, else what both this torch and this nvcc know; never what GPU is plugged in."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return os.environ["TORCH_CUDA_ARCH_LIST"]
    nvcc = os.path.join(cpp_extension.CUDA_HOME, "bin", "nvcc")
    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"compute_(\d+)\b", listed))
    flags = torch._C._cuda_getArchFlags() or ""
    wanted = [arch for arch in re.findall(r"sm_(\d+)\b", flags) if arch in known]
    return ";".join(f"{arch[:-1]}.{arch[-1]}" for arch in wanted)


def can_link(cuda_home: str) -> bool:
    """Whether the toolkit's libraries lie where the linker will look; an nvcc on PATH may be a mere wrapper."""
    folders = (Path(cuda_home) / name for name in ("lib64", "lib", "lib/x64"))
    return any(any(folder.glob("*cudart*")) for folder in folders)


def extensions(torch: Any, cpp_extension: Any) -> list[Any]:
    macros = [("TORCH_TARGET_VERSION", TARGET)]
    arithmetic = ["-O3", "-fvisibility=hidden", "-fno-math-errno", "-ffp-contract=fast", "-Wno-psabi"]
    flags = ["-std=c++17", *arithmetic]
    found = [
        cpp_extension.CppExtension(
            "ferkit._C",
            sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cpu").glob("*.cpp")),
            define_macros=macros,
            extra_compile_args={"cxx": [] if sys.platform == "win32" else [*flags, "-g0"]},
            depends=HEADERS,
            py_limited_api=True,
        ),
        # For this torch and this Python alone: no stable ABI has autograd nodes. Others take those in ferkit/ops.
        cpp_extension.CppExtension(
            "ferkit._C_autograd",
            sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/autograd").glob("*.cpp")),
            extra_compile_args={"cxx": [] if sys.platform == "win32" else [*arithmetic, "-g0"]},
            depends=[*HEADERS, "csrc/cpu/neighbor_divergence_passes.cpp"],
        ),
    ]
    if MODE == "cpu":
        REASONS["_C_cuda"] = "FERKIT_BUILD=cpu"
    elif torch.version.cuda is None:
        leave_out("_C_cuda", "this torch has no CUDA", MODE == "cuda")
    elif cpp_extension.CUDA_HOME is None or not os.path.exists(os.path.join(cpp_extension.CUDA_HOME, "bin", "nvcc")):
        leave_out("_C_cuda", "nvcc was not found (set CUDA_HOME)", MODE == "cuda")
    elif not can_link(cpp_extension.CUDA_HOME):
        leave_out("_C_cuda", f"no CUDA libraries under {cpp_extension.CUDA_HOME} (set CUDA_HOME)", MODE == "cuda")
    else:
        try:
            architectures = cuda_architectures(cpp_extension, torch)
        except (OSError, subprocess.CalledProcessError) as error:
            leave_out("_C_cuda", f"nvcc cannot be asked what it compiles for ({first_line(error)})", MODE == "cuda")
            return found
        if not architectures:
            leave_out("_C_cuda", "nvcc and torch have no GPU architecture in common", MODE == "cuda")
            return found
        os.environ["TORCH_CUDA_ARCH_LIST"] = architectures
        say(f"_C_cuda is built for {architectures}")
        found.append(
            cpp_extension.CUDAExtension(
                "ferkit._C_cuda",
                sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc/cuda").glob("*.cu")),
                define_macros=[*macros, ("USE_CUDA", "1")],
                extra_compile_args={
                    "cxx": [*flags, "-g0"],
                    "nvcc": ["-O3", "-std=c++17", "-Xcompiler", "-Wall,-fvisibility=hidden", *WERROR],
                },
                depends=HEADERS,
                py_limited_api=True,
            )
        )
    return found


def builder(torch: Any, cpp_extension: Any) -> type:
    class Build(cpp_extension.BuildExtension):  # type: ignore[misc]
        """Leaves out what does not build (auto), and writes the build metadata."""

        def run(self) -> None:
            super().run()
            write_info(package_folder(self), torch.__version__)

        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except (Exception, SystemExit) as error:  # nvcc and torch of different CUDA versions, for one
                kept = [extension for extension in self.extensions if extension.name != "ferkit._C_cuda"]
                if MODE != "auto" or len(kept) == len(self.extensions):
                    raise
                leave_out("_C_cuda", first_line(error), needed=False)
                self.extensions = kept
                super().build_extensions()

        def build_extension(self, extension: Any) -> None:
            name = extension.name.split(".")[-1]
            try:
                super().build_extension(extension)
                BUILT.append(name)
            except (Exception, SystemExit) as error:
                if MODE != "auto":
                    raise
                extension.optional = True  # so that setuptools does not look for the file
                leave_out(name, f"the compiler failed ({first_line(error)})", needed=False)

    return Build.with_options(use_ninja=True)


class BuildPython(build_py):
    """Where no library is built at all, the metadata still say why."""

    def run(self) -> None:
        super().run()
        if not self.distribution.ext_modules:
            write_info(package_folder(self), None)


def main() -> None:
    commands: dict[str, type] = {"build_py": BuildPython}
    found: list[Any] = []
    if MODE == "off":
        REASONS.update(dict.fromkeys(("_C", "_C_autograd", "_C_cuda"), "FERKIT_BUILD=off"))
    else:
        try:
            import torch
            from torch.utils import cpp_extension
        except ImportError:
            reason = "torch was not there when ferkit was installed (use pip install --no-build-isolation)"
            leave_out("_C", reason, MODE != "auto")
            leave_out("_C_cuda", reason, MODE == "cuda")
            REASONS["_C_autograd"] = reason
        else:
            if tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) < (2, 11):
                leave_out("_C", f"torch 2.11 or newer is needed, this is {torch.__version__}", MODE != "auto")
            else:
                found = extensions(torch, cpp_extension)
                commands["build_ext"] = builder(torch, cpp_extension)
    options = {"bdist_wheel": {"py_limited_api": "cp310"}} if found else {}
    setup(ext_modules=found, cmdclass=commands, options=options)


main()
