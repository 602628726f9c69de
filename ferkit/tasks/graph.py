"""Graphs of neighbours: built, described, checked, and given to training."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ferkit.checks import check_number
from ferkit.data import FaceDataset, SyntheticFaces
from ferkit.graph import KNNGraph, knn_graph
from ferkit.graph.fingerprint import ids_sha256
from ferkit.graph.spaces import describe_points
from ferkit.tasks._graph_points import check_space, dataset_ids, read_rows, space_points
from ferkit.tasks.data import DataOptions

__all__ = [
    "build_graph",
    "check_graph",
    "dataset_ids",
    "graph_info",
    "show_graph",
    "space_points",
    "training_graph",
]

Metric = Literal["l2", "l1", "cosine"]
Method = Literal["auto", "exact", "ivf", "kdtree"]


def training_graph(
    dataset: Any,
    space: str,
    k: int,
    *,
    path: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    metric: Metric = "l2",
    progress: bool = False,
) -> KNNGraph:
    """The ``k`` neighbours of every image of a data set: from a file, from a cache, or built now.

    Args:
        dataset: a FaceDataset or SyntheticFaces; row i of the graph is image i.
        space: see ``space_points``; with ``path`` also "features".
        k: neighbours a row.
        path: a graph written by ``ferkit graph build``; it must have been built for these images, in this space.
        cache: folder for the built graph, ``<name>.<space>.<digest of the ids>.knn``: folds and subsets each have
            their own; by default the folder of the manifest's file, for other data none. A graph there that no longer
            fits is built again, with a message.
        metric: "l2", or "l1" for a laplacian affinity.
        progress: show progress.

    Raises:
        ValueError: for a graph in ``path`` of other images, another space or too few neighbours, or a space the data
            set lacks.
    """
    check_number(k, "k", 1, integer=True)
    ids = dataset_ids(dataset)
    if path is not None:
        return _loaded(path, dataset, ids, space, k)
    check_space(space)
    points, _ = space_points(dataset, space)
    target = _cache_path(dataset, ids, space, metric, cache)
    if target is not None and target.is_file():
        try:
            graph = KNNGraph.load(target, points, ids)
            if graph.k >= min(k, len(ids) - 1) and graph.metric == metric:
                return graph.take(min(k, graph.k)) if graph.k > k else graph
            reason = f"it has k={graph.k}, metric={graph.metric}"
        except (ValueError, OSError) as error:
            reason = str(error)
        print(f"{target} is built again: {reason}", file=sys.stderr)
    graph = _knn(points, k, ids=ids, metric=metric, progress=progress, space=space)
    if target is not None:
        try:
            graph.save(target)
        except (ImportError, OSError, ValueError) as error:  # a cache is a convenience: training goes on
            print(f"the {space} graph is not kept: {error}", file=sys.stderr)
    return graph


def build_graph(
    out: str,
    space: str = "au",
    k: int = 4,
    table: str | None = None,
    data: DataOptions | None = None,
    split: str = "train",
    align: Literal["none", "procrustes"] = "none",
    metric: Metric = "l2",
    method: Method = "auto",
    target_recall: float = 0.999,
    min_confidence: float = 0.5,
    name_column: str | None = None,
    device: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> KNNGraph:
    """Build a graph from a detector's table, from a data set's own columns, or from a table for a data set's images.

    Args:
        out: file to write, whole or not at all.
        space: "au", "landmark", "va", "columns:<name>,<name>,..." or "features" (the rows of a .npy table).
        k: neighbours a row.
        table: CSV of OpenFace 2 or 3 (or a folder of them), py-feat, a manifest or any other; .npy for features.
        data: the images that the graph is for; with a table its rows are matched to them by name.
        split: of the images.
        align: of landmarks: "none" or "procrustes".
        metric: "l2", "l1" or "cosine".
        method: "auto", "exact", "ivf" or "kdtree".
        target_recall: what an approximate method must reach, measured.
        min_confidence: detections below it count as failed, 0 to 1.
        name_column: the table's column of image names.
        device: where to search: cpu, cuda.
        seed: of what is sampled.
        progress: show progress.
    """
    target = Path(out)
    if target.is_dir() or not target.parent.is_dir():  # now, not after minutes of building
        raise ValueError(f"out: expected a file in an existing folder, got {out!r}")
    points, ids, _ = read_rows(table, data, space, align, split, min_confidence, name_column, seed, progress)
    counts = describe_points(points)
    print(
        f"{counts['rows']} rows of {points.shape[1]} columns: {counts['missing']} missing, "
        f"{counts['all_zero']} all zero, {counts['copies']} copies of an earlier row"
    )
    options = {"method": method, "target_recall": target_recall, "device": device, "seed": seed}
    start = time.perf_counter()
    graph = _knn(points, k, ids=ids, metric=metric, progress=progress, space=space, align=align, **options)
    graph.save(target)
    print(f"{graph!r}\nwritten to {target}, {time.perf_counter() - start:.1f} s")
    return graph


def graph_info(path: str) -> dict[str, Any]:
    """Print what a graph is; returns its meta.

    Args:
        path: the file.
    """
    graph = KNNGraph.load(path)
    for name, value in graph.meta.items():
        shown = ", ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else value
        print(f"{name:20} {shown}")
    degrees = graph.valid.sum(1)
    print(f"{'edges':20} {int(degrees.sum())}")
    print(f"{'rows short of k':20} {int((degrees < graph.k).sum())}")
    for column in sorted({0, graph.k - 1} - {-1}):
        distances = graph.distances[:, column][graph.valid[:, column]].double()
        if len(distances):
            middle = float(distances.median())  # the unit of sigma
            middle = middle**0.5 if graph.metric == "l2" else middle
            print(f"{f'neighbour {column + 1} at':20} {middle:.4g} (median distance)")
    used = graph.indices[graph.valid]
    if len(used):
        times = used.bincount(minlength=graph.n)
        print(
            f"{'named by others':20} {float((times > 0).double().mean()):.1%} of rows, at most {int(times.max())} times"
        )
    return graph.meta


def check_graph(
    path: str,
    table: str | None = None,
    data: DataOptions | None = None,
    rows: int = 2000,
    split: str = "train",
    min_confidence: float = 0.5,
    name_column: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, float]:
    """Measure a graph against exact distances of a sample of its rows.

    Args:
        path: the graph.
        table: the table it was built from, if any.
        data: the images it was built for, if any.
        rows: size of the sample.
        split: of the images.
        min_confidence: as when it was built.
        name_column: as when it was built.
        seed: of the sample.
        progress: show progress.

    Raises:
        ValueError: if it was built from other rows.
    """
    graph = KNNGraph.load(path)
    space, align = graph.meta.get("space", "au"), graph.meta.get("align", "none")
    points, ids, _ = read_rows(table, data, space, align, split, min_confidence, name_column, seed, progress)
    graph = KNNGraph.load(path, points, ids)
    figures = graph.verify(points, rows, seed=seed)
    stored = graph.meta.get("recall")
    print(f"{'rows sampled':20} {figures['rows']:.0f} of {graph.n}")
    print(f"{'recall':20} {figures['recall']:.5f}" + ("" if stored is None else f" (stored: {stored:.5f})"))
    print(f"{'distance error':20} {figures['distance_error']:.2e}")
    return figures


def show_graph(
    path: str,
    out: str,
    table: str | None = None,
    data: DataOptions | None = None,
    split: str = "train",
    images: int = 10,
    points: int = 3000,
    perplexity: float = 30.0,
    min_confidence: float = 0.5,
    name_column: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[str]:
    """Draw the space (t-SNE, coloured by expression) and faces with their neighbours; returns the files written.

    Args:
        path: the graph.
        out: picture of the t-SNE; the faces go beside it, ``<name>-neighbors.<ending>``.
        table: the table it was built from, if any.
        data: the images it was built for; without it there are neither colours nor faces.
        split: of the images.
        images: faces in the sheet, a row each.
        points: rows in the t-SNE, drawn at random where there are more.
        perplexity: of the t-SNE.
        min_confidence: as when it was built.
        name_column: as when it was built.
        seed: of every choice.
        progress: show progress.
    """
    from ferkit.tasks._graph_show import check_drawing, draw_neighbors, draw_space

    check_drawing(out, images, points, perplexity, seed)
    graph = KNNGraph.load(path)
    space, align = graph.meta.get("space", "au"), graph.meta.get("align", "none")
    rows, ids, dataset = read_rows(table, data, space, align, split, min_confidence, name_column, seed, progress)
    graph = KNNGraph.load(path, rows, ids)
    draw_space(graph, rows, dataset, out, count=points, perplexity=perplexity, seed=seed)
    files = [out]
    if dataset is not None:
        name = Path(out)
        files.append(str(name.with_name(f"{name.stem}-neighbors{name.suffix}")))
        draw_neighbors(graph, dataset, files[-1], count=images, seed=seed)
    print("written: " + ", ".join(files))
    return files


def _knn(points: Tensor, k: int, *, space: str, align: str = "none", **options: Any) -> KNNGraph:
    graph = knn_graph(points, k, nonfinite="isolate", **options)
    return replace(graph, meta={**graph.meta, "space": space, "align": align})


def _loaded(path: str | os.PathLike[str], dataset: Any, ids: list[str], space: str, k: int) -> KNNGraph:
    graph = KNNGraph.load(path)
    built = graph.meta.get("space")  # none: not built by ``ferkit graph build``
    if built not in (None, space):  # the bandwidth of its affinity would be that of another space
        raise ValueError(f"{os.fspath(path)}: expected a graph of space {space!r}, got one of {built!r}")
    if built is None:
        check_space(space)
    if graph.meta.get("ids_sha256") is not None:
        graph = KNNGraph.load(path, ids=ids)
    else:  # without names the rows themselves must be the same
        graph = KNNGraph.load(path, points=space_points(dataset, space, graph.meta.get("align", "none"))[0])
    if graph.k < min(k, len(ids) - 1):
        raise ValueError(f"{os.fspath(path)}: expected {k} neighbours or more, got {graph.k}: build it with -k {k}")
    return graph.take(min(k, graph.k))


def has_file(dataset: Any) -> bool:
    """Whether there is a manifest's file to keep built graphs beside."""
    return isinstance(dataset, FaceDataset) and Path(dataset.manifest.source).is_file()


def _cache_path(
    dataset: FaceDataset | SyntheticFaces,
    ids: list[str],
    space: str,
    metric: str,
    cache: str | os.PathLike[str] | None,
) -> Path | None:
    source = Path(dataset.manifest.source) if isinstance(dataset, FaceDataset) else None
    if cache is None and not has_file(dataset):
        return None
    folder = Path(cache) if cache is not None else Path(str(source)).parent
    name = "synthetic" if source is None else source.stem
    suffix = re.sub(r"[^\w.-]+", "-", space) + ("" if metric == "l2" else f".{metric}")
    return folder / f"{name}.{suffix}.{ids_sha256(ids)[:12]}.knn"
