"""Graphs for the recipes that train with neighbours: read or built, checked, and attached."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from ferkit.checks import renamed
from ferkit.graph import KNNGraph
from ferkit.recipes.neighbors import NeighborRecipe, check_points
from ferkit.samplers import NeighborGroupBatchSampler
from ferkit.tasks.graph import dataset_ids, has_file, space_points, training_graph
from ferkit.tasks.run import Run

__all__ = ["GraphOptions", "Neighborhood", "attach_graphs", "fingerprint"]


@dataclass
class GraphOptions:
    """Graphs of the training images.

    Args:
        graph: space=file of a graph that was built before (``ferkit graph build``), such as au=au.knn; repeat it for
            several.
        spaces: the spaces to build graphs in where ``graph`` is not given: "au", "landmark", "va" or
            "columns:<name>,<name>"; the method's own if not given (au, with the published preset au and landmark; or
            va). They are kept beside the manifest, or in the run folder for other data.
        graph_fingerprints: space=fingerprint that the graphs must have; written into config.yaml.
    """

    graph: dict[str, str] | None = None
    spaces: list[str] | None = None
    graph_fingerprints: dict[str, str] | None = None

    def __post_init__(self) -> None:
        if self.graph and self.spaces and list(self.graph) != list(self.spaces):
            raise ValueError(f"spaces: expected none beside graph (of {', '.join(self.graph)}), got {self.spaces}")
        if self.spaces and len(set(self.spaces)) < len(self.spaces):
            raise ValueError(f"spaces: expected each once, got {', '.join(self.spaces)}")
        for space in [*(self.graph or {}), *(self.spaces or [])]:
            if not space:
                raise ValueError("graph: expected space=file, got an empty space")


@dataclass
class Neighborhood:
    """The graphs a recipe trains with, and the options that name them."""

    recipe: NeighborRecipe
    graphs: dict[str, KNNGraph]
    tables: dict[str, tuple[Tensor, Tensor]]  # space -> (indices, weights)
    options: GraphOptions

    def loader(self, dataset: Any, fit: Any) -> DataLoader[Any] | None:
        """Batches of ``batch_size`` centres with their neighbours; None where the centres alone are loaded."""
        if self.recipe.neighbor_pass == "bank":
            return None
        with renamed(groups="batch_size"):
            sampler = NeighborGroupBatchSampler(self.tables, fit.batch_size, self.recipe.neighbors, seed=fit.seed)
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=sampler.collate, num_workers=fit.workers)

    def keep(self, run: Run, dataset: Any) -> None:
        """Write graphs that were built, and are kept nowhere else, into the run folder."""
        if self.options.graph or has_file(dataset):
            return
        run.graphs.mkdir(exist_ok=True)
        for space, graph in self.graphs.items():
            graph.save(run.graphs / f"{file_name(space)}.knn")


def attach_graphs(
    recipe: NeighborRecipe, dataset: Any, options: GraphOptions, run: Run, progress: bool = False
) -> Neighborhood:
    """Read or build the recipe's graphs of the training set, and give them to it; nothing is written to ``run``.

    Raises:
        ValueError: for a graph of other images, one whose fingerprint is not the expected one, or one of other rows
            than the data's own columns where the recipe's affinity is computed from these.
    """
    given = options.graph or {}
    spaces = list(given) or options.spaces or list(recipe.spaces)
    graphs: dict[str, KNNGraph] = {}
    points: dict[str, Tensor] = {}
    for space in spaces:
        with renamed(space="graph" if given else "spaces", path="graph"):
            graphs[space] = _graph(dataset, space, recipe.neighbors, given.get(space), run, progress)
        if recipe.needs_points(graphs[space]):
            points[space] = _rows(dataset, space, graphs[space])
    found = {space: fingerprint(graph, recipe.neighbors) for space, graph in graphs.items()}
    for space, wanted in (options.graph_fingerprints or {}).items():
        if found.get(space) != wanted:
            raise ValueError(f"graph_fingerprints: expected {wanted} for {space!r}, got {found.get(space)}")
    tables = recipe.attach(graphs, dataset.labels, dataset_ids(dataset), points)
    return Neighborhood(recipe, graphs, tables, replace(options, spaces=spaces, graph_fingerprints=found))


def _graph(dataset: Any, space: str, neighbors: int, path: str | None, run: Run, progress: bool) -> KNNGraph:
    kept = run.graphs / f"{file_name(space)}.knn"
    if path is None and kept.is_file():  # of a run that is resumed
        try:
            graph = KNNGraph.load(kept, ids=dataset_ids(dataset))
            if graph.k >= min(neighbors, graph.n - 1):
                return graph
        except (ValueError, OSError):
            pass  # built again; a resumed run compares the fingerprint
    return training_graph(dataset, space, neighbors, path=path, progress=progress)


def _rows(dataset: Any, space: str, graph: KNNGraph) -> Tensor:
    """The data's own columns, if they are the rows that the graph was built from: ids alone do not say that."""
    try:
        points = space_points(dataset, space, graph.meta.get("align", "none"))[0]
        check_points(points, graph)
    except ValueError as error:
        raise ValueError(
            f"graph: the affinity in {space!r} is computed from the rows that the graph was built from, and the data's "
            f"columns are not they ({error}): build the graph with --metric l1, whose own distances carry the affinity"
        ) from error
    return points


def fingerprint(graph: KNNGraph, neighbors: int) -> str:
    """16 hex digits of the rows a graph was built from and of its first ``neighbors`` columns."""
    digest = hashlib.sha256(str(graph.meta.get("points_sha256")).encode())
    digest.update(graph.indices[:, :neighbors].contiguous().numpy().astype("<i8").tobytes())
    return digest.hexdigest()[:16]


def file_name(space: str) -> str:
    """A space as a file's name."""
    return re.sub(r"[^\w.-]+", "-", space)
