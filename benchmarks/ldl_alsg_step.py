"""An LDL-ALSG training step against what it cannot avoid: ``python -m benchmarks.ldl_alsg_step [--sizes 48 112]``.

The bound is the bare forward of the same images, 32 groups of a centre with 4 + 4 neighbours, cross-entropy of the
centres, and backward. The whole step adds augmentation, the guidance, the optimiser and the recipe around them;
``bank`` is the same step with neighbours out of the memory bank, 32 images in place of 288. All are timed in turn in
one process, round by round; ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor

from ferkit.data.augment import normalize_images, random_crop_flip
from ferkit.graph import KNNGraph
from ferkit.recipes import LDLALSG, Recipe

CLASSES, GROUPS, NEIGHBORS, GRAPHS, IMAGES = 7, 32, 4, ("au", "landmark"), 1000


def graphs() -> dict[str, KNNGraph]:
    """Any neighbours: what they are costs nothing."""
    shift = torch.arange(1, NEIGHBORS + 1)
    indices = (torch.arange(IMAGES)[:, None] + shift) % IMAGES
    meta = {"format": "ferkit.knn/1", "n": IMAGES, "dim": 1, "k": NEIGHBORS, "metric": "l2", "method": "exact"}
    return {space: KNNGraph(indices, shift.float().expand(IMAGES, -1), meta) for space in GRAPHS}


def attached(neighbor_pass: str, backbone: str) -> tuple[LDLALSG, torch.optim.Optimizer]:
    """The recipe with graphs and optimiser, as the trainer would hold them."""
    recipe = LDLALSG(CLASSES, backbone=backbone, neighbor_pass=neighbor_pass, lam=0.1)
    recipe.attach(graphs(), torch.arange(IMAGES) % CLASSES)
    recipe.trainer = lightning.Trainer(
        max_epochs=10, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    optimizer: torch.optim.Optimizer = recipe.configure_optimizers()["optimizer"]
    return recipe, optimizer


def step(recipe: Recipe, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> None:
    crops = normalize_images(random_crop_flip(batch["image"], torch.Generator(), recipe.padding, recipe.flip))
    loss = recipe.batch_loss(crops.contiguous(memory_format=torch.channels_last), batch)["loss"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def bare(recipe: Recipe, images: Tensor, labels: Tensor) -> None:
    recipe.model.zero_grad()
    logits = recipe.model(images).logits
    F.cross_entropy(logits[:GROUPS], labels).backward()  # type: ignore[no-untyped-call]


def cases(backbone: str, size: int) -> dict[str, Callable[[], None]]:
    """The step, its bound, and the step with a bank."""
    count = GROUPS * (1 + NEIGHBORS * len(GRAPHS))
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.arange(count) % CLASSES,
        "index": torch.randint(0, IMAGES, (count,), generator=generator),
        "weight": torch.rand(GROUPS, NEIGHBORS * len(GRAPHS), generator=generator),
    }
    centers = {name: value[:GROUPS] for name, value in batch.items() if name != "weight"}
    joint, bank = attached("joint", backbone), attached("bank", backbone)
    plain, _ = attached("joint", backbone)
    ready = normalize_images(batch["image"]).contiguous(memory_format=torch.channels_last)
    return {
        "step": lambda: step(*joint, batch),
        "bound": lambda: bare(plain, ready, centers["label"]),
        "bank": lambda: step(*bank, centers),
    }


def measure(backbone: str, size: int, rounds: int) -> str:
    functions = cases(backbone, size)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 2):
        # The order turns, so that none always follows the same other.
        names = list(functions) if number % 2 else list(functions)[::-1]
        for name in names:
            start = time.perf_counter()
            functions[name]()
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    shown = " | ".join(f"{statistics.median(values) * 1000:.0f}" for values in seconds.values())
    ratios = [ours / bound for ours, bound in zip(seconds["step"], seconds["bound"])]
    saved = [ours / bank for ours, bank in zip(seconds["step"], seconds["bank"])]
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"| {backbone} | {size} | {shown} | {spread} | {statistics.median(saved):.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--sizes", type=int, nargs="+", default=[48, 112])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("| backbone | pixels | step ms | bound ms | bank ms | step / bound | step / bank |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for size in options.sizes:
        print(measure(options.backbone, size, options.rounds), flush=True)


if __name__ == "__main__":
    main()
