"""What flipped labels cost plain cross-entropy on SyntheticFaces: the figures in docs/synthetic-faces.md.

    python benchmarks/synthetic_noise.py --runs 3

trains one small ResNet on clean and on flipped labels and tests both on fresh faces against the majority of the votes.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ferkit.data.synthetic import RENDERER_VERSION, SyntheticFaces

TEST_SEED = 1_000_000


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip
        same = stride == 1 and width_in == width
        self.skip = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.skip(x))


def small_resnet(classes: int) -> nn.Sequential:
    stem = [nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU()]
    stages = [Block(24, 24, 1), Block(24, 48, 2), Block(48, 96, 2), Block(96, 128, 2)]
    return nn.Sequential(*stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))


def flip(labels: Tensor, rate: float, classes: int, seed: int) -> Tensor:
    """Exactly round(rate * N) labels moved to another class, uniformly."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(labels), generator=generator)[: round(rate * len(labels))]
    flipped = labels.clone()
    flipped[chosen] = (labels[chosen] + torch.randint(1, classes, chosen.shape, generator=generator)) % classes
    return flipped


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of them; shift each by up to two pixels."""
    mirror = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    padded, size = F.pad(images, (2, 2, 2, 2), mode="replicate"), images.shape[-1]
    dy, dx = torch.randint(0, 5, (2, len(images)), generator=generator).tolist()
    return torch.stack([image[:, y : y + size, x : x + size] for image, y, x in zip(padded, dy, dx)])


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def train(images: Tensor, labels: Tensor, test: SyntheticFaces, epochs: int, seed: int) -> list[float]:
    """Accuracy in percent on the test faces after each epoch."""
    torch.manual_seed(seed)
    model = small_resnet(test.num_classes).to(memory_format=torch.channels_last)
    steps = epochs * ((len(images) + 71) // 72)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(seed)
    inputs, curve = normalise(test.images), []
    for _ in range(epochs):
        model.train()
        for batch in torch.randperm(len(images), generator=generator).split(72):
            loss = F.cross_entropy(model(normalise(augment(images[batch], generator))), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        model.eval()
        with torch.no_grad():
            found = torch.cat([model(part).argmax(1) for part in inputs.split(500)])
        curve.append(100 * float((found == test.true_labels).double().mean()))
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1, help="seeds 0 to runs-1: training faces, flips and weights")
    parser.add_argument("--train", type=int, default=3600)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--size", type=int, default=48)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.3])
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    test = SyntheticFaces(options.test, options.size, TEST_SEED, options.classes)
    bound = 100 * float((test.distributions.argmax(1) == test.true_labels).double().mean())
    print(f"renderer version {RENDERER_VERSION}; the true distribution's argmax names {bound:.1f} % of the majorities")
    last: dict[float, list[float]] = {rate: [] for rate in options.rates}
    for run in range(options.runs):
        begin = time.perf_counter()
        faces = SyntheticFaces(options.train, options.size, run, options.classes)
        images = faces.images
        print(f"run {run}: rendered {options.train} faces in {time.perf_counter() - begin:.1f} s")
        for rate in options.rates:
            begin = time.perf_counter()
            curve = train(images, flip(faces.labels, rate, options.classes, run), test, options.epochs, run)
            last[rate].append(curve[-1])
            shown = " ".join(f"{value:.1f}" for value in curve)
            print(f"run {run}, {rate:.0%} flipped: {shown}  ({time.perf_counter() - begin:.0f} s)", flush=True)
    for rate, values in last.items():
        ends = ", ".join(f"{value:.1f}" for value in values)
        print(f"{rate:.0%} flipped: {sum(values) / len(values):.1f} % at the end ({ends})")


if __name__ == "__main__":
    main()
