"""A DMUE training step against what it cannot avoid: ``python -m benchmarks.dmue_step [--sizes 48 112]``.

The bound is the plain step, plus C times forward and backward of the last stage, plus a fused optimiser step over the
extra parameters. All four are timed in turn in one process, round by round; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import lightning
import torch
from torch import Tensor

from ferkit.data.augment import normalize_images, random_crop_flip
from ferkit.recipes import DMUE, CrossEntropy, Recipe

CLASSES, BATCH = 8, 72


def attached(recipe: Recipe) -> tuple[Recipe, torch.optim.Optimizer]:
    """The recipe with its optimiser, as the trainer would hold them."""
    recipe.trainer = lightning.Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    optimizer: torch.optim.Optimizer = recipe.configure_optimizers()["optimizer"]
    return recipe, optimizer


def step(recipe: Recipe, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    crops = normalize_images(random_crop_flip(images, torch.Generator()))
    loss = recipe.training_loss(crops.contiguous(memory_format=torch.channels_last), labels)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def cases(backbone: str, size: int) -> dict[str, Callable[[], None]]:
    """The whole step and the three parts of its bound."""
    images = torch.randint(
        0, 256, (BATCH, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    labels = torch.arange(BATCH) % CLASSES
    plain, plain_optimizer = attached(CrossEntropy(CLASSES, backbone=backbone))
    dmue, dmue_optimizer = attached(DMUE(CLASSES, backbone=backbone))
    shape = normalize_images(images).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        shared = plain.model.trunk(shape)
    stage = plain.model.target
    extra = [p for name, p in dmue.named_parameters() if "branch" in name or "uncertainty" in name]
    copies = [torch.nn.Parameter(p.detach().clone()) for p in extra]
    for parameter in copies:
        parameter.grad = torch.full_like(parameter, 1e-3)
    extra_optimizer = torch.optim.Adam(copies, 1e-3, weight_decay=1e-4, fused=True)

    def last_stage() -> None:
        inputs = shared.clone().requires_grad_()
        features = stage(inputs).mean((2, 3))
        torch.autograd.grad(features, [inputs, *stage.parameters()], torch.ones_like(features))

    return {
        "DMUE step": lambda: step(dmue, dmue_optimizer, images, labels),
        "plain step": lambda: step(plain, plain_optimizer, images, labels),
        "last stage": last_stage,
        "extra optimiser": lambda: (extra_optimizer.step(), None)[1],
    }


def measure(backbone: str, size: int, rounds: int) -> str:
    functions = cases(backbone, size)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    bounds = [
        plain + CLASSES * stage + extra
        for plain, stage, extra in zip(seconds["plain step"], seconds["last stage"], seconds["extra optimiser"])
    ]
    ratios = [whole / bound for whole, bound in zip(seconds["DMUE step"], bounds)]
    parts = " | ".join(f"{statistics.median(values) * 1000:.0f}" for values in seconds.values())
    low, high = min(ratios), max(ratios)
    return f"| {backbone} | {size} | {parts} | {statistics.median(ratios):.2f} ({low:.2f}-{high:.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 112])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("| backbone | pixels | DMUE step ms | plain ms | last stage ms | extra optimiser ms | step / bound |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for size in options.sizes:
        print(measure(options.backbone, size, options.rounds), flush=True)


if __name__ == "__main__":
    main()
