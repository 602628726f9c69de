"""The one-way rule of the package's layers, read off every import statement (also those inside functions)."""

import ast
from pathlib import Path

import pytest

import ferkit

ROOT = Path(ferkit.__file__).parent
NO_LAYER = ("__version__", "_C", "_C_autograd", "_C_cuda")

# layer -> layers it may import; leaves (torch alone) have none
ALLOWED = {
    "checks": set(),
    "reduction": {"checks"},
    "distributed": {"checks"},
    "kernels": {"checks"},  # the label range is a value check, made where the values are
    "ops": {"kernels", "checks"},
    "functional": {"ops", "distributed", "reduction", "checks"},
    "losses": {"functional", "reduction", "checks"},
    "blocks": {"functional", "checks"},
    "samplers": {"checks"},
    "graph": {"ops", "checks"},
    "data": {"checks"},
    "metrics": {"checks"},
    "reports": {"metrics", "checks"},
    "recipes": {"data", "losses", "blocks", "functional", "samplers", "graph", "metrics", "checks"},
    "info": {"ops"},
    "tasks": {"reports", "recipes", "data", "losses", "blocks", "functional"}
    | {"samplers", "graph", "metrics", "checks"},
    "cli": {"tasks", "info"},
    "__main__": {"cli"},
    "__init__": {"tasks"},  # for type checkers: Predictor, which is imported on first use
}


def layer_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_layers(source):
    """Names of the ferkit layers that a file imports, absolutely or relatively."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            inside = [f"ferkit.{alias.name}" for alias in node.names]
            names = inside if node.module == "ferkit" else [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "ferkit" and len(parts) > 1 and parts[1] not in NO_LAYER:
                yield parts[1]


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    layer = layer_of(path)
    assert layer in ALLOWED, f"{layer} is no layer of the design"
    for target in imported_layers(path.read_text()):
        assert target == layer or target in ALLOWED[layer], f"{path.name}: {layer} must not import {target}"


def test_the_walk_sees_imports():
    assert list(imported_layers("def f():\n    from ferkit.recipes.base import Recipe")) == ["recipes"]
    assert list(imported_layers("import ferkit.tasks.train")) == ["tasks"]
    assert list(imported_layers("from ferkit import functional, cli")) == ["functional", "cli"]


def test_layers_have_no_cycle():
    seen = set()

    def visit(layer, above):
        assert layer not in above, f"cycle: {[*above, layer]}"
        if layer not in seen:
            seen.add(layer)
            for below in ALLOWED[layer]:
                visit(below, [*above, layer])

    for layer in ALLOWED:
        visit(layer, [])
