"""Graphs of nearest neighbours: built by ``knn_graph``, held as ``KNNGraph``."""

from ferkit.graph.build import knn_graph
from ferkit.graph.graph import KNNGraph

__all__ = ["KNNGraph", "knn_graph"]
