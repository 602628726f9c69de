"""Train one recipe on one dataset into a run folder."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import lightning
import numpy as np
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, Sampler

from ferkit.blocks.pretrained import read_checkpoint
from ferkit.checks import check_choice, check_number
from ferkit.data.label_sets import LabelSetDataset
from ferkit.recipes import SCN, LTNet, NoisyFER, Recipe, TrainingDiverged
from ferkit.recipes.neighbors import NeighborRecipe
from ferkit.reports import plot_curves, write_json
from ferkit.samplers import ClassCoverageBatchSampler, InverseFrequencyBatchSampler
from ferkit.tasks._annotators import describe_annotators
from ferkit.tasks._callbacks import AtomicCheckpointIO, MetricsTable
from ferkit.tasks._decoder_sheet import DecoderSheet, has_decoder
from ferkit.tasks._lock import alone_in, check_free
from ferkit.tasks.data import DataOptions, build_dataset
from ferkit.tasks.evaluation import check_scored, confusion_figure, figures_of
from ferkit.tasks.label_sets import attach_label_sets
from ferkit.tasks.neighbors import GraphOptions, attach_graphs
from ferkit.tasks.predictions import annotate
from ferkit.tasks.review import review_labels
from ferkit.tasks.run import METHODS, Run, uses_label_sets

__all__ = ["FitOptions", "train"]

SAMPLERS = ("coverage", "shuffle", "inverse-frequency")


@dataclass
class FitOptions:
    """How long and on what to train.

    Args:
        epochs: passes over the training set.
        batch_size: images a step; with the coverage sampler at least classes times min_per_class. Centres a step where
            neighbours are loaded beside them.
        min_per_class: images of every class in every batch.
        sampler: "coverage" (every class in every batch, rare ones repeated), "shuffle" (each image once an epoch) or
            "inverse-frequency" (drawn with replacement, classes equally likely, batches without min_per_class of every
            class skipped). The method's own if not given: "inverse-frequency" for DMUE's released setting, else
            "coverage".
        seed: of weights, order, augmentation and flipped labels.
        out: the run folder; by default runs/<method>-<data>-seed<seed>, with -fold<fold> where one is given.
        resume: continue the run in ``out`` from its last checkpoint.
        accelerator: Lightning's: auto, cpu, gpu.
        precision: Lightning's: 32-true, bf16-mixed, 16-mixed.
        workers: processes that load images.
        progress: show progress bars.
        validate_every: score the validation set after every so many epochs.
    """

    epochs: int = 20
    batch_size: int = 72
    min_per_class: int = 2
    sampler: Literal["coverage", "shuffle", "inverse-frequency"] | None = None
    seed: int = 0
    out: str | None = None
    resume: bool = False
    accelerator: str = "auto"
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    workers: int = 0
    progress: bool = True
    validate_every: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every"):
            check_number(getattr(self, name), name, 1, integer=True)
        for name in ("min_per_class", "seed", "workers"):
            check_number(getattr(self, name), name, 0, integer=True)
        if self.sampler is not None:
            check_choice(self.sampler, "sampler", SAMPLERS)


# Arguments of a recipe that come from the data and from the seed of the run.
FROM_DATA = ("num_classes", "seed", "size", "sources", "values")
# What a run may be continued with in another way: none of these changes the result.
FREE = ("out", "resume", "accelerator", "workers", "progress", "validate_every", "download")


def train(
    method: str,
    data: DataOptions,
    fit: FitOptions,
    options: Mapping[str, Any] | None = None,
    graphs: GraphOptions | None = None,
    callbacks: Sequence[Callback] = (),
) -> dict[str, float]:
    """Train ``method`` ("ce", "dmue", "noisyfer", ...) and write the run folder; returns metrics.json.

    ``callbacks`` look on as Lightning's do, and must leave the run as it would be without them: no setting names them.
    Everything that can be wrong with the request is found before the folder is made.

    Raises:
        ValueError: for a bad request. TrainingDiverged: if weights became NaN or infinite.
    """
    check_choice(method, "method", tuple(METHODS))
    several = uses_label_sets(method)
    for name in ("sources", "values"):
        if not several and getattr(data, name) is not None:
            raise ValueError(f"{name}: expected none with method {method!r}, which learns one label set, got some")
    run = Run(Path(fit.out or default_folder(method, data, fit)))
    run.check_place(fit.resume)  # not after minutes of decoding
    if data.data == "folder":
        run.check_apart(str(data.root))
    check_free(run.folder)
    training = build_dataset(data, "train", seed=fit.seed, progress=fit.progress)
    if len(training.classes) < 2:
        raise ValueError(f"classes: expected at least 2, got {', '.join(training.classes)}")
    validation = build_dataset(data, "validation", seed=fit.seed, classes=training.classes, progress=fit.progress)
    given = dict(options or {})
    if several:
        training = attach_label_sets(training, data, "train")
        sources, values = list(training.source_names), list(training.value_names)
        data = replace(data, sources=sources, values=values)
        validation = attach_label_sets(validation, data, "validation", sources, values)
        given |= {"size": data.size, "sources": sources, "values": values}
    lightning.seed_everything(fit.seed, verbose=False)
    recipe = METHODS[method](num_classes=len(training.classes), seed=fit.seed, **given)
    check_scored(recipe, validation, "validation")
    if isinstance(recipe, SCN) and recipe.relabel != "none":
        recipe.attach(training.labels)
    fit = with_sampler(fit, recipe)
    neighbors = None
    if isinstance(recipe, NeighborRecipe):
        neighbors = attach_graphs(recipe, training, graphs or GraphOptions(), run, fit.progress)
    groups = None if neighbors is None else neighbors.loader(training, fit)
    if groups is not None:
        check_every_class(training)
    loader = training_loader(training, fit) if groups is None else groups
    recipe_options = {key: value for key, value in recipe.hparams.items() if key not in FROM_DATA}
    data = replace(data, classes=list(training.classes))
    settings = {key: value for key, value in {**asdict(data), **asdict(fit)}.items() if key not in FREE}
    if data.root is not None:  # so that the run knows its data from any folder
        settings["root"] = os.path.abspath(data.root)
    config = {"method": method, **settings, **recipe_options}
    if neighbors is not None:
        config |= asdict(neighbors.options)
    sheets = [DecoderSheet(run.figures / "decoder.png", tuple(training.classes))] if has_decoder(recipe) else []
    trainer, table = make_trainer(run, fit, *sheets, *callbacks)
    with alone_in(run.folder):
        checkpoint = run.claim(config, fit.resume, defaults_of(type(recipe)))
        if neighbors is not None:
            neighbors.keep(run, training)
        if checkpoint is not None:
            begin_after(int(read_checkpoint(checkpoint).get("epoch", -1)), loader)
        if recipe.load_report is not None:
            print(recipe.load_report)
        if several:
            print(f"Label sets: {', '.join(sources) or 'none'}; values: {', '.join(values) or 'none'}", flush=True)
        if isinstance(recipe, NoisyFER) and fit.epochs <= recipe.warmup:
            told = f"no game is played: warmup is {recipe.warmup} epochs, and the run has {fit.epochs}"
            print(f"{told} (give more epochs, or a smaller warmup)", file=sys.stderr)
        resume_from = None if checkpoint is None else str(checkpoint)
        try:
            trainer.fit(recipe, loader, DataLoader(validation, 256), ckpt_path=resume_from, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop
        check_finite(recipe)
        return finish(run, recipe, training, validation, table)


def begin_after(epoch: int, loader: DataLoader[Any]) -> None:
    """Let the sampler go on with the next epoch: worker processes ask for batches before the epoch has begun."""
    sampler: Any = loader.batch_sampler
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch + 1)


def defaults_of(kind: type) -> dict[str, Any]:
    """What the arguments of a class and its bases are where they are not given."""
    found: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in vars(base):
            arguments = inspect.signature(vars(base)["__init__"]).parameters.values()
            found |= {each.name: each.default for each in arguments if each.default is not inspect.Parameter.empty}
    return found


def check_finite(recipe: Recipe) -> None:
    """Raise TrainingDiverged if weights or running statistics are not finite: nothing can be scored then."""
    statistics = [(n, b) for n, b in recipe.named_buffers() if n.endswith((".running_mean", ".running_var"))]
    for name, value in (*recipe.named_parameters(), *statistics):
        if not bool(value.isfinite().all()):
            raise TrainingDiverged(f"{name} became NaN or infinite: try a smaller learning_rate")


def default_folder(method: str, data: DataOptions, fit: FitOptions) -> str:
    """Where a run goes that is given no place: another for each method, data, seed and fold."""
    return f"runs/{method}-{data.data}-seed{fit.seed}" + ("" if data.fold is None else f"-fold{data.fold}")


def with_sampler(fit: FitOptions, recipe: Recipe) -> FitOptions:
    """The options with the recipe's own sampler where none is asked for.

    Raises:
        ValueError: if batches need not hold what the recipe needs of every class.
    """
    sampler: Any = fit.sampler or recipe.preferred_sampler
    held, needed = 0 if sampler == "shuffle" else fit.min_per_class, recipe.min_per_class
    if held < needed:
        raise ValueError(
            f"sampler: expected 'coverage' or 'inverse-frequency' with min_per_class {needed} or more, since this "
            f"network's branches take batch statistics of every class, got {sampler!r} with min_per_class "
            f"{fit.min_per_class}"
        )
    return replace(fit, sampler=sampler)


def check_every_class(dataset: Any) -> None:
    """Raise ValueError for a class without a training image."""
    held = set(dataset.labels.tolist())
    lacking = [name for label, name in enumerate(dataset.classes) if label not in held]
    if lacking:
        raise ValueError(
            f"classes: expected a training image of each, got none of {', '.join(lacking)}; give classes= to leave it "
            "out"
        )


def training_loader(dataset: Any, fit: FitOptions) -> DataLoader[Any]:
    """Batches of the training set in the order of the seed.

    Where one label set is learned, a class without an image is told now, whatever the sampler. Several sets may differ
    in the classes that they know.
    """
    if fit.sampler != "shuffle" or not isinstance(dataset, LabelSetDataset):
        check_every_class(dataset)
    if fit.sampler == "inverse-frequency":
        drawn = InverseFrequencyBatchSampler(
            dataset.labels, fit.batch_size, fit.min_per_class, seed=fit.seed, num_classes=len(dataset.classes)
        )
        return DataLoader(dataset, batch_sampler=drawn, num_workers=fit.workers)
    if fit.sampler != "shuffle":
        coverage = ClassCoverageBatchSampler(
            dataset.labels, fit.batch_size, fit.min_per_class, seed=fit.seed, num_classes=len(dataset.classes)
        )
        return DataLoader(dataset, batch_sampler=coverage, num_workers=fit.workers)
    sampler = ShuffleBatchSampler(len(dataset), fit.batch_size, fit.seed)
    return DataLoader(dataset, batch_sampler=sampler, num_workers=fit.workers)


class ShuffleBatchSampler(Sampler[list[int]]):
    """Each image once an epoch, in an order of (seed, epoch), so that a resumed run continues it."""

    def __init__(self, size: int, batch_size: int, seed: int) -> None:
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        # A last batch of one or two images would spoil batch statistics.
        return max(self.size // self.batch_size, 1)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size)
        for batch in range(len(self)):
            yield order[batch * self.batch_size : (batch + 1) * self.batch_size].tolist()


def make_trainer(run: Run, fit: FitOptions, *callbacks: Callback) -> tuple[lightning.Trainer, MetricsTable]:
    """A Trainer that keeps the last checkpoint and one row of metrics an epoch."""
    table = MetricsTable(run.metrics_csv)
    keep = ModelCheckpoint(
        run.checkpoint.parent, run.checkpoint.stem, save_on_train_epoch_end=True, enable_version_counter=False
    )
    try:
        trainer = lightning.Trainer(
            max_epochs=fit.epochs,
            accelerator=fit.accelerator,
            devices=1,
            precision=fit.precision,
            callbacks=[table, *callbacks, keep],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=fit.progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=fit.validate_every,
            default_root_dir=str(run.folder),
        )
    except MisconfigurationException as error:
        raise ValueError(f"accelerator: {fit.accelerator!r} cannot be used here ({error})") from error
    return trainer, table


def finish(run: Run, recipe: Recipe, training: Any, validation: Any, table: MetricsTable) -> dict[str, float]:
    """Final figures, label list and pictures of a trained recipe.

    Raises:
        TrainingDiverged: if its predictions are not finite.
    """
    run.figures.mkdir(exist_ok=True)
    found = annotate(recipe, validation)
    if found.probabilities is not None and not bool(found.probabilities.isfinite().all()):  # of finite weights
        raise TrainingDiverged("predictions became NaN or infinite: try a smaller learning_rate")
    figures = figures_of(found, validation)
    write_json(run.metrics_json, figures)
    table.write()
    plot_curves(run.metrics_csv, run.figures / "curves.png")
    if found.probabilities is not None:
        confusion_figure(found.probabilities, validation, run.figures / "confusion.png")
        figures |= review_labels(run, recipe, training)
        write_json(run.metrics_json, figures)
    if isinstance(recipe, LTNet):
        describe_annotators(run, recipe, training.classes)
    return figures
