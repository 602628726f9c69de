"""kNN graphs of 300,000 faces, each in a process of its own: time, peak memory and measured recall, beside peers.

``python -m benchmarks.knn_graph [--out DIR] [--peers] [--peer-python PYTHON] [--rows 300000] [--faces ROWS]``

The peers need packages that ferkit does not: ``python -m venv peers && peers/bin/pip install numpy scipy scikit-learn
pynndescent hnswlib``, then ``--peers --peer-python peers/bin/python``. "cold" is the first call in a fresh process,
"warm" the second; "process" is the whole process, imports and reading included. With peers it takes about six minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import knn_points

K = 8
ROOT = Path(__file__).parents[1]
FACES = 300_000
# Of so many faces: seconds at most, recall at least.
ASKED = dict.fromkeys(("au", "landmarks", "faces-au", "faces-landmarks"), (15.0, 0.999)) | {"va": (2.0, 1.0)}


def ferkit_graph(points: np.ndarray, setting: str) -> tuple[np.ndarray, dict[str, Any]]:
    from ferkit.graph import knn_graph

    options: dict[str, Any] = {"method": "exact"} if setting == "exact" else {"target_recall": float(setting)}
    graph = knn_graph(points, K, **options)
    kept = ("method", "engine", "parameters", "recall", "copies")
    return graph.indices.numpy(), {name: graph.meta[name] for name in kept}


def pynndescent(points: np.ndarray, setting: str) -> tuple[np.ndarray, dict[str, Any]]:
    from pynndescent import NNDescent

    ids = NNDescent(points, n_neighbors=int(setting), random_state=0).neighbor_graph[0]
    return _without_self(ids), {}


def hnswlib(points: np.ndarray, setting: str) -> tuple[np.ndarray, dict[str, Any]]:
    import hnswlib as package

    index = package.Index("l2", points.shape[1])
    index.init_index(len(points), M=16, ef_construction=100, random_seed=0)
    index.add_items(points)
    index.set_ef(int(setting))
    return _without_self(index.knn_query(points, K + 1)[0].astype(np.int64)), {}


def sklearn(points: np.ndarray, setting: str) -> tuple[np.ndarray, dict[str, Any]]:
    """kd_tree: all rows. brute: 2,000 rows, and the time is scaled to all of them."""
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=K + 1, algorithm=setting, n_jobs=-1).fit(points)
    if setting == "kd_tree":
        return _without_self(index.kneighbors(points, return_distance=False)), {}
    rows = _sampled(len(points))
    return _without_self(index.kneighbors(points[rows], return_distance=False), rows), {
        "scale": len(points) / len(rows)
    }


def _sampled(count: int) -> np.ndarray:
    return np.sort(np.random.default_rng(1).permutation(count)[:2000])


def _without_self(ids: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """K columns: self taken out where it is, else the last."""
    own = np.arange(len(ids)) if rows is None else rows
    order = np.argsort(ids == own[:, None], axis=1, kind="stable")
    return np.take_along_axis(ids, order, 1)[:, :K]


MAKERS: dict[str, Callable[[np.ndarray, str], tuple[np.ndarray, dict[str, Any]]]] = {
    "ferkit": ferkit_graph, "pynndescent": pynndescent, "hnswlib": hnswlib, "scikit-learn": sklearn,
}  # fmt: skip

MODULES = {
    "ferkit": ("ferkit.graph.build", "scipy.spatial"),
    "pynndescent": ("pynndescent",),
    "hnswlib": ("hnswlib",),
    "scikit-learn": ("sklearn.neighbors",),
}  # libraries are no part of the memory above the input; what they compile at the first call is part of its time


def _status(field: str) -> float:
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(field))) / 1024


def measure_here(who: str, setting: str, path: Path, warm: bool, rows: np.ndarray, kth: np.ndarray) -> dict[str, Any]:
    """In the process that was started for it: the first call, and a second where asked."""
    points = np.load(path)
    found: dict[str, Any] = {"who": who, "setting": setting, "rows": len(points), "columns": points.shape[1]}
    start = time.perf_counter()
    for module in MODULES[who]:
        importlib.import_module(module)
    if setting == "exact":
        importlib.import_module("faiss")
    found["import"] = time.perf_counter() - start
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    for name in ("cold", "warm")[: 1 + warm]:
        start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        indices, more = MAKERS[who](points, setting)
        done = resource.getrusage(resource.RUSAGE_SELF)
        scale = more.get("scale", 1.0)
        found[name] = scale * (time.perf_counter() - start)
        found[f"{name} cpu"] = scale * (done.ru_utime + done.ru_stime - used.ru_utime - used.ru_stime)
        found |= more
    found["mebibytes"] = _status("VmHWM") - before
    sampled = indices if "scale" in found else indices[rows]
    return found | {"measured recall": knn_points.recall(path, rows, kth, sampled)}


def measure(python: str, who: str, setting: str, data: str, folder: Path, warm: bool = False) -> dict[str, Any]:
    """One row of the table, from a fresh process."""
    command = [python, "-m", "benchmarks.knn_graph", "--measure", who, setting, str(folder / f"{data}.npy")]
    start = time.perf_counter()
    done = subprocess.run(command + ["--warm"] * warm, capture_output=True, text=True, cwd=ROOT)
    whole = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"who": who, "setting": setting, "data": data, "refused": last}
    row = json.loads(done.stdout.splitlines()[-1]) | {"data": data, "process": whole}
    if who == "ferkit" and setting == "0.999" and data in ASKED and row["rows"] == FACES:
        seconds, least = ASKED[data]
        row["asked"] = {"seconds": seconds, "recall": least, "mebibytes": 600}
    return row


def plan(names: list[str], peers: bool, exact: bool) -> list[tuple[str, str, str, bool]]:
    """(who, setting, data, warm too)."""
    found = []
    for data in names:
        for target in ["0.999"] if data == "va" else ["0.9", "0.99", "0.999"]:
            found.append(("ferkit", target, data, False))
        if exact and data != "va":
            found.append(("ferkit", "exact", data, False))
        if peers:
            if data == "va":
                found.append(("scikit-learn", "kd_tree", data, False))
            else:
                found += [("pynndescent", size, data, True) for size in ("15", "30")]
                found += [("hnswlib", "64", data, False), ("scikit-learn", "brute", data, False)]
    return found


def markdown(rows: list[dict[str, Any]], about: dict[str, str]) -> str:
    lines = ["# kNN graphs, K = 8", "", ", ".join(f"{name} {value}" for name, value in about.items()), ""]
    lines += [
        "| data | | setting | cold s | warm s | CPU s / 2 | process s | MiB above the input | recall | asked |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        head = f"| {row['data']} | {row['who']} | {row['setting']} "
        if "refused" in row:
            lines.append(head + f"| refused: {row['refused']} | | | | | | |")
            continue
        asked = row.get("asked")
        said = f"{asked['seconds']:g} s, {asked['recall']:g}, {asked['mebibytes']} MiB" if asked else ""
        warm = f"{row['warm']:.1f}" if "warm" in row else ""
        scaled = " (scaled from 2,000 rows)" if "scale" in row else ""
        lines.append(
            head + f"| {row['cold']:.1f}{scaled} | {warm} | {row['cold cpu'] / 2:.1f} | {row['process']:.1f} "
            f"| {row['mebibytes']:.0f} | {row['measured recall']:.4f} | {said} |"
        )
    lines += ["", "Recall: 2,000 sampled rows against float64 distances of the rows as given, ties within 1e-6 right."]
    return "\n".join(lines) + "\n"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Missed neighbours against seconds, a panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in dict.fromkeys(row["data"] for row in rows) if name != "va"]
    canvas, panels = plt.subplots(1, max(1, len(names)), figsize=(5.2 * max(1, len(names)), 4.4), squeeze=False)
    for axes, name in zip(panels[0], names):
        for mark, (who, clock) in zip("osD^v", (*((peer, "cold") for peer in MAKERS), ("pynndescent", "warm"))):
            points = sorted(
                (row[clock], 1 - row["measured recall"])
                for row in rows
                if row["data"] == name and row["who"] == who and clock in row
            )
            if points:
                axes.plot(*zip(*points), f"{mark}-", label=f"{who}, {clock}")
        axes.set(xscale="log", title=name, xlabel="seconds")
        axes.set_yscale("symlog", linthresh=1e-4)
        axes.set_ylim(bottom=0)
        axes.axhline(1e-3, color="0.5", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    panels[0][0].set_ylabel("share of neighbours missed")
    canvas.tight_layout()
    canvas.savefig(path, dpi=130)


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, help="folder for knn_graph.md, .json and .png")
    options.add_argument("--rows", type=int, default=FACES)
    options.add_argument("--data", nargs="+", choices=tuple(knn_points.MAKERS), default=list(knn_points.MAKERS))
    options.add_argument("--peers", action="store_true")
    options.add_argument("--peer-python", default=sys.executable, help="the Python that has the peers' packages")
    options.add_argument("--exact", action="store_true", help="also every pair: minutes")
    options.add_argument("--faces", type=int, default=0, help="also so many rows of SyntheticFaces' detector columns")
    options.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options.add_argument("--warm", action="store_true", help=argparse.SUPPRESS)
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.measure:
        who, setting, path = options.measure
        answers = np.load(Path(path).with_suffix(".truth.npz"))
        print(json.dumps(measure_here(who, setting, Path(path), options.warm, answers["rows"], answers["kth"])))
        return 0
    from benchmarks import machine

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sets = {data: knn_points.MAKERS[data](options.rows) for data in options.data}
        if options.faces:
            sets |= knn_points.faces(options.faces)
        for data, points in sets.items():
            np.save(folder / f"{data}.npy", points)
            rows, kth = knn_points.truth(folder / f"{data}.npy", K)
            np.savez(folder / f"{data}.truth.npz", rows=rows, kth=kth)
        names = list(sets)
        sets.clear()
        found = []
        for who, setting, data, warm in plan(names, options.peers, options.exact):
            python = sys.executable if who == "ferkit" else options.peer_python
            found.append(measure(python, who, setting, data, folder, warm))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    about = machine.describe("cpu", len(os.sched_getaffinity(0)))
    print(markdown(found, about))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "knn_graph.md").write_text(markdown(found, about))
        (options.out / "knn_graph.json").write_text(json.dumps({"machine": about, "rows": found}, indent=1) + "\n")
        draw(found, options.out / "knn_graph.png")
    return int(any("refused" in row for row in found))


if __name__ == "__main__":
    sys.exit(main())
