"""A noisyFER iteration against the same written plainly: ``python -m benchmarks.noisyfer_step [--width 0.25]``.

CIFAR-10's setting: 32 pixels, three label sets of ten classes, two discriminator steps and one generator step, Adam.
The plain side (``noisyfer_plain``) is eager PyTorch in the manner of a released training script: modules of its own,
torch's spectral_norm hook, contiguous tensors, every network's gradients always on. First both go two iterations from
the same weights and noise, without dropout, and must agree on all losses; then they are timed in turn in one process,
round by round. The ratio is the median over the rounds. Loading, augmentation and logging are on neither side.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.clocks import clocks
from benchmarks.noisyfer_plain import Decoder, Discriminator, Encoder, Iteration, copy_weights
from ferkit.recipes import NoisyFER

SETS, CLASSES, SIZE, LATENT, LAM = ("a", "b", "c"), 10, 32, 100, 0.8
TOLERANCE = 1e-3  # relative; of float32 losses, which the first iteration's updates have moved in the second
SEED = 0

Step = Callable[[], dict[str, Tensor]]


def pair(batch: int, width: float, device: str, dropout: float) -> tuple[Step, Step]:
    """The recipe's iteration and the plain one, from the same weights, on the same batch and noise."""
    torch.manual_seed(SEED)
    recipe = NoisyFER(
        CLASSES, preset="published", size=SIZE, sources=SETS, width=width, lam=LAM, warmup=0, dropout=dropout
    )
    with torch.no_grad():  # which starts at 0, where attention would not be compared
        recipe.get_parameter("discriminator.streams.stream_image.body.1.gamma").fill_(0.5)
    recipe.to(device).train()
    heads = [CLASSES] * len(SETS)
    plain = [Encoder(CLASSES * len(SETS), width, dropout), Decoder(LATENT + CLASSES * len(SETS), width)]
    plain.append(Discriminator(heads, width))
    for ours, theirs in zip((recipe.encoder, recipe.decoder, recipe.discriminator), plain):
        assert ours is not None
        copy_weights(ours, theirs.to(device).train())
    images = torch.rand(batch, 3, SIZE, SIZE, device=device) * 2 - 1
    sources = torch.randint(0, CLASSES, (batch, len(SETS)), device=device)
    values = torch.zeros(batch, 0, device=device)
    last = images.contiguous(memory_format=torch.channels_last)
    draws = torch.Generator(device)
    optimizers = [entry["optimizer"] for entry in recipe.configure_optimizers()]
    iteration = Iteration(*plain, heads, LAM)

    def of_recipe() -> dict[str, Tensor]:
        draws.manual_seed(SEED)
        return recipe.iterate(last, sources, values, draws, optimizers, backward)

    def of_script() -> dict[str, Tensor]:
        draws.manual_seed(SEED)
        return iteration(images, sources, torch.randn(2, batch, LATENT, device=device, generator=draws))

    return of_recipe, of_script


def backward(loss: Any) -> None:
    loss.backward()


def gate(batch: int, width: float, device: str) -> float:
    """The largest relative difference of a loss over two iterations; RuntimeError where they do not agree."""
    worst = 0.0
    ours, plain = pair(batch, width, device, dropout=0.0)
    for number in range(2):
        found, wanted = ours(), plain()
        for name, value in wanted.items():
            error = abs(float(found[name]) - float(value)) / max(abs(float(value)), 1e-2)
            worst = max(worst, error)
            if not error <= TOLERANCE:
                here = f"{float(found[name]):.6g} against {float(value):.6g}"
                raise RuntimeError(f"the two sides differ in iteration {number + 1}, {name!r}: {here}")
    return worst


def measure(batch: int, width: float, device: str, rounds: int) -> str:
    """A row of the table: seconds of both, and the median and range of their ratio."""
    worst = gate(min(batch, 32), width, device)
    functions = dict(zip(("ferkit", "plain"), pair(batch, width, device, dropout=0.5)))
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    clock, warmup = clocks(device)[0], 1 if device == "cpu" else 10
    for number in range(rounds + warmup):
        for name in list(functions)[:: 1 if number % 2 else -1]:  # none always follows the other
            took = clock.seconds(functions[name], 1)
            if number >= warmup:
                seconds[name].append(took)
    ratios = [plain / ours for ours, plain in zip(seconds["ferkit"], seconds["plain"])]
    times = " | ".join(f"{statistics.median(values) * 1000:.1f}" for values in seconds.values())
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    return f"| {width:g} | {batch} | {times} | {ratio} | {worst:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=float, nargs="+", default=[0.25, 1.0])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--rounds", type=int, default=None, help="by default 3 on the CPU, 50 on a GPU")
    options = parser.parse_args()
    rounds = options.rounds or (3 if options.device == "cpu" else 50)
    print("| width | batch | ferkit ms | plain ms | plain / ferkit | largest difference of a loss |")
    print("|---:|---:|---:|---:|---:|---:|")
    for width in options.widths:
        print(measure(options.batch, width, options.device, rounds), flush=True)


if __name__ == "__main__":
    main()
