"""Graphs of nearest neighbours: built by ``knn_graph``, held as ``KNNGraph``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ferkit.graph.graph import KNNGraph

if TYPE_CHECKING:
    from ferkit.graph.build import knn_graph

__all__ = ["KNNGraph", "knn_graph"]


def __getattr__(name: str) -> Any:
    if name == "knn_graph":
        from ferkit.graph.build import knn_graph

        return knn_graph
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
