"""The pictures of ``ferkit graph show``."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ferkit.checks import check_number
from ferkit.graph import KNNGraph
from ferkit.reports import can_be_made, is_picture, neighbor_sheet, plot_space

__all__ = ["check_drawing", "draw_neighbors", "draw_space"]

FEWEST = 5  # rows below which t-SNE says nothing


def check_drawing(out: str, images: int, points: int, perplexity: float, seed: int) -> None:
    """Raise for a picture that cannot be written, or numbers that mean nothing: now, and not after the t-SNE."""
    target = Path(out)
    if not is_picture(target):
        raise ValueError(f"out: expected a picture, such as .png, .svg or .pdf, got {out!r}")
    if target.is_dir() or not can_be_made(target):
        raise ValueError(f"out: expected a file in a folder that can be written, got {out!r}")
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError('t-SNE needs scikit-learn: pip install "ferkit[train]"')
    check_number(images, "images", 1, 200, integer=True)
    check_number(points, "points", FEWEST, integer=True)
    check_number(perplexity, "perplexity", 1)
    check_number(seed, "seed", 0, integer=True)


def draw_space(
    graph: KNNGraph, points: Tensor, dataset: Any, path: str, *, count: int, perplexity: float, seed: int
) -> None:
    """t-SNE of ``count`` rows that are known, coloured by their labels where there are any."""
    from sklearn.manifold import TSNE

    whole = torch.isfinite(points).all(1).nonzero()[:, 0].numpy()
    chosen = np.sort(np.random.default_rng(seed).permutation(whole)[:count])
    if len(chosen) < FEWEST:
        raise ValueError(f"points: expected {FEWEST} rows or more without missing values, got {len(chosen)}")
    rows = points[torch.from_numpy(chosen)].double().numpy()
    near = min(perplexity, (len(chosen) - 1) / 3)
    start = "pca" if rows.shape[1] >= 2 else "random"
    plane = TSNE(perplexity=near, init=start, random_state=seed).fit_transform((rows - rows.mean(0)).astype(np.float32))
    labels = None if dataset is None else dataset.labels[torch.from_numpy(chosen)]
    space = graph.meta.get("space", "")
    title = f"{space}: {len(chosen)} of {graph.n} rows, t-SNE (perplexity {near:g})"
    plot_space(plane, path, labels, () if dataset is None else dataset.classes, title)


def draw_neighbors(graph: KNNGraph, dataset: Any, path: str, *, count: int, seed: int) -> None:
    """Faces of every class in turn, each with its neighbours; frames tell whether the labels agree."""
    centres = _spread(dataset.labels, (graph.indices >= 0).any(1) if graph.k else dataset.labels < -1, count, seed)
    names = [*dataset.classes, "unlabelled"]  # -1 takes the last
    images, titles, agree = [], [], []
    for centre in centres:
        row = graph.indices[centre].tolist()
        images.append([None if i < 0 else dataset[i]["image"] for i in row])
        titles.append([_title(names[int(dataset.labels[i])], graph, centre, j) for j, i in enumerate(row)])
        agree.append([i >= 0 and bool(dataset.labels[i] == dataset.labels[centre]) for i in row])
    faces = [dataset[i]["image"] for i in centres]
    side = dataset[0]["image"].shape if len(dataset) else (3, 1, 1)
    stack = torch.stack(faces) if faces else torch.zeros(0, *side, dtype=torch.uint8)
    texts = [f"{names[int(dataset.labels[i])]}\n#{i}" for i in centres]
    neighbor_sheet(stack, images, path, texts, titles, agree)


def _title(name: str, graph: KNNGraph, centre: int, column: int) -> str:
    distance = float(graph.distances[centre, column])
    return f"{name}\n{distance**0.5 if graph.metric == 'l2' else distance:.3g}"


def _spread(labels: Tensor, usable: Tensor, count: int, seed: int) -> list[int]:
    """Rows at random, the classes in turn, those without neighbours left out."""
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[usable.numpy()[order]]
    turn: dict[int, int] = {}
    keys = []
    for row in order:
        label = int(labels[row])
        turn[label] = turn.get(label, 0) + 1
        keys.append((turn[label], label))
    return [int(order[i]) for i in sorted(range(len(order)), key=keys.__getitem__)[:count]]
