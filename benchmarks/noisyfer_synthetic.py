"""noisyFER against its own encoder alone, on rendered faces with two annotators and noisy valence and arousal.

    python -m benchmarks.noisyfer_synthetic --seeds 0 1 2 --rows vgg noisyfer
    python -m benchmarks.noisyfer_synthetic --seeds 0 --rows vgg no-joint no-marginal no-decoder single-task noisyfer

trains by ``ferkit train``, each row of the paper's Table 3 with the same faces, labels, batches, augmentation and
schedule, and scores by ``ferkit evaluate`` on 2,000 fresh faces, which nothing may be chosen by. Seed s is that of
weights and batches, and its faces are another set (``--subset-seed s``). A run that is done is not made again, so that
a table can be filled bit by bit, and other options need another folder. What is given after ``--`` goes to every run,
what is in ``--game`` to those with one, what is in ``--ties`` to those with a decoder.

``read`` is the share of a decoder's images, 50 a class, that the ``vgg`` runs in the folder take, on average, for the
class asked for: networks that took no part in the game.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch

from ferkit.cli import main as ferkit
from ferkit.recipes import NoisyFER
from ferkit.tasks.run import Run, load_recipe

TEST_FACES = 2000
# Few faces and no dropout: what keeps the encoder from learning them by heart is to be seen.
COMMON = (
    "--train-images 1500 --validation-images 2000 --epochs 120 --validate-every 20 --batch-size 64 --width 0.25 "
    "--learning-rate 7e-4 --schedule linear --dropout 0 --accelerator cpu"
)
GAME = "--lam 0.5 --warmup 60 --order algorithm1 --mlp released --beta1 0.5 --discriminator-rate 2 --latent 16"
TIES = "--reconstruction 10 --code-divergence 0.01 --label-cycle 0.05"  # of runs with a decoder
ROWS = {  # method, and the options that make the row
    "vgg": ("vgg", ""),
    "no-joint": ("noisyfer", "--joint false"),
    "no-marginal": ("noisyfer", "--marginal false"),
    "no-decoder": ("noisyfer", "--decoder false"),
    "single-task": ("noisyfer", "--sources [annotator1] --values []"),
    "single-task-vgg": ("vgg", "--sources [annotator1] --values []"),
    "noisyfer": ("noisyfer", ""),
}


def figures(row: str, seed: int, out: Path, game: str, ties: str, common: str) -> dict[str, float]:
    """Accuracy, and CCC where there are values, of one run, which is made if it is not there."""
    folder = out / f"{row}-seed{seed}"
    method, options = ROWS[row]
    played = f"{game} {'' if row == 'no-decoder' else ties}" if method == "noisyfer" else ""
    asked = shlex.split(f"train {method} {COMMON} {played} {options} {common} --seed {seed} --subset-seed {seed}")
    known = out / f"{row}-seed{seed}.txt"
    if known.is_file() and known.read_text() != shlex.join(asked):
        raise SystemExit(f"out: {folder} was made with other options ({known}); give another folder")
    if not (folder / "metrics.json").is_file():
        out.mkdir(parents=True, exist_ok=True)
        known.write_text(shlex.join(asked))
        run([*asked, "--progress", "false", "--out", str(folder)])
    scored = folder / "evaluate-synthetic-test.json"
    if not scored.is_file():
        words = f"evaluate {folder} --data synthetic --split test --validation-images {TEST_FACES}"
        run(shlex.split(words))
    found = json.loads(scored.read_text())
    return {name: found[name] for name in ("accuracy", "ccc") if name in found}


@torch.no_grad()
def read(folder: Path, readers: Sequence[Path], per_class: int = 50) -> float | None:
    """Share of the decoder's images that the readers, on average, take for their class; None without a decoder."""
    recipe = load_recipe(Run(folder))
    if not isinstance(recipe, NoisyFER) or recipe.decoder is None:
        return None
    images = recipe.decode(per_class, torch.Generator().manual_seed(1))
    asked = torch.arange(len(images))[:, None]
    right = [
        load_recipe(Run(reader))(images.flatten(0, 1)).argmax(1).view(len(images), per_class) == asked
        for reader in readers
    ]
    return float(torch.stack(right).double().mean())


def run(words: Sequence[str]) -> None:
    status = ferkit(list(words))
    if status:
        raise SystemExit(status)


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation.

    >>> cell([0.5, 0.6, 0.7]), cell([0.5]), cell([])
    ('0.600 ± 0.100', '0.500', '-')
    """
    if not values:
        return "-"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=["vgg", "noisyfer"])
    parser.add_argument("--out", type=Path, default=Path("runs/noisyfer-synthetic"))
    parser.add_argument("--game", default=GAME, help="options of the runs with a game")
    parser.add_argument("--ties", default=TIES, help="options of those with a decoder")
    parser.add_argument("common", nargs="*", help="options of every run, after --; later ones win")
    options = parser.parse_args(arguments)
    table = ["| run | seeds | accuracy | CCC | read |", "|---|---|---:|---:|---:|"]
    for row in sorted(options.rows, key="vgg".__ne__):  # the readers first
        found = [
            figures(row, seed, options.out, options.game, options.ties, " ".join(options.common))
            for seed in options.seeds
        ]
        readers = sorted(file.parent for file in options.out.glob("vgg-seed*/metrics.json"))
        if readers and row != "vgg":
            for seed, made in zip(options.seeds, found):
                share = read(options.out / f"{row}-seed{seed}", readers)
                made |= {} if share is None else {"read": share}
        columns = [cell([run[name] for run in found if name in run]) for name in ("accuracy", "ccc", "read")]
        table.append(f"| {row} | {' '.join(map(str, options.seeds))} | {' | '.join(columns)} |")
    print("\n".join(table))


if __name__ == "__main__":
    main()
