"""float32 error of similarity_preserving, value and gradient, for branches converging to the target's similarities.

`python -m benchmarks.accuracy` prints the textbook form, both of ferkit's and `auto`, against float64. Errors below
half a unit in the last place of a float32 result (6e-8), which none can promise, are printed as such. Branches go to
features that are equal to the target's, scaled, rotated, or differently wide (padded and rotated): in
the last three its Gram matrix agrees although its features do not.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from benchmarks import textbook
from ferkit.ops import similarity_preserving

KINDS = ("equal", "scaled", "rotated", "wider")
DISTANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
FORMS = ("textbook", "gram", "factored", "auto")
BRANCHES = 4
HALF_ULP = 2.0**-24


def rotation(width: int) -> Tensor:
    return torch.linalg.qr(torch.randn(width, width, dtype=torch.float64))[0]


def branches(kind: str, distance: float, size: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """float32 target (N, D), auxiliary (M, N, D or 2 D) and labels (N,)."""
    torch.manual_seed(seed)
    target = torch.randn(size, width, dtype=torch.float64)
    rows = []
    for branch in range(BRANCHES):
        row = target
        if kind == "scaled":
            row = target * (branch + 2.3)
        elif kind == "rotated":
            row = target @ rotation(width)
        elif kind == "wider":
            row = torch.nn.functional.pad(target, (0, width)) @ rotation(2 * width)
        rows.append(row + distance * torch.randn(row.shape, dtype=torch.float64) * row.std())
    return target.float(), torch.stack(rows).float(), torch.arange(size) % BRANCHES


def loss(form: str, target: Tensor, auxiliary: Tensor, labels: Tensor) -> Tensor:
    if form == "textbook":
        return textbook.similarity_preserving(target, auxiliary, labels)
    mask = labels != torch.arange(BRANCHES)[:, None]
    return similarity_preserving(target, auxiliary, mask, form=form).mean()


def evaluate(form: str, target: Tensor, auxiliary: Tensor, labels: Tensor) -> list[Tensor]:
    leaves = [target.clone().requires_grad_(), auxiliary.clone().requires_grad_()]
    value = loss(form, *leaves, labels)
    return [value.detach().double(), *(grad.double() for grad in torch.autograd.grad(value, leaves))]


def errors(
    kind: str, distance: float, size: int, width: int, seed: int = 0, forms: tuple[str, ...] = FORMS
) -> dict[str, tuple[float, float]]:
    """Relative error of the value and of the gradient (norm over norm) for each form."""
    problem = branches(kind, distance, size, width, seed)
    exact = evaluate("gram", problem[0].double(), problem[1].double(), problem[2])
    result = {}
    for form in forms:
        got = evaluate(form, *problem)
        value = float((got[0] - exact[0]).abs() / exact[0])
        off = sum(float((a - b).square().sum()) for a, b in zip(got[1:], exact[1:]))
        result[form] = value, (off / sum(float(b.square().sum()) for b in exact[1:])) ** 0.5
    return result


def shown(error: float) -> str:
    return "<6e-08" if error < HALF_ULP else f"{error:.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    options = parser.parse_args()
    print("Relative float32 error, value / gradient, root mean square over seeds")
    print("| N x D | branch | distance |" + "".join(f" {form} |" for form in FORMS))
    print("|---|---|---|" + "---|" * len(FORMS))
    for size, width in ((72, 64), (600, 64)):  # auto takes the Gram form, then the factored one
        for kind in KINDS:
            for distance in DISTANCES:
                runs = [errors(kind, distance, size, width, seed) for seed in range(options.seeds)]
                cells = []
                for form in FORMS:
                    square = [sum(run[form][part] ** 2 for run in runs) / len(runs) for part in (0, 1)]
                    cells.append(f" {shown(square[0] ** 0.5)} / {shown(square[1] ** 0.5)} |")
                print(f"| {size}x{width} | {kind} | {distance:g} |" + "".join(cells))


if __name__ == "__main__":
    main()
