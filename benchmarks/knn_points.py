"""Points as detectors of faces give them: what the graph benchmarks are measured on. NumPy alone."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

STEP = 20000
PART, FIRST_SEED = 30000, 500  # of SyntheticFaces: faces a set, and the first set's seed


def _copied(points: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """A share of the rows replaced by copies of others: still frames, the same face twice."""
    rows = generator.permutation(len(points))[: int(share * len(points))]
    points[rows] = points[generator.integers(0, len(points), len(rows))]
    return points


def action_units(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, 17): six latent factors, clipped at 0..5, rounded to 0.01; half of it 0, 4 % copies, 0.4 % rows of 0."""
    generator = np.random.default_rng(seed)
    mixing = 0.6 * generator.standard_normal((6, 17))
    points = generator.standard_normal((rows, 6)) @ mixing + 0.4 * generator.standard_normal((rows, 17))
    points = np.round(np.clip(points - np.median(points[:STEP], axis=0), 0, 5), 2).astype(np.float32)
    points[generator.random(rows) < 0.004] = 0
    return _copied(points, 0.04, generator)


def landmarks(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, 136) in pixels: 20 modes of sd 90 * 0.8^i, 0.8 of noise, rounded to 0.1; 2 % copies."""
    generator = np.random.default_rng(seed)
    modes = np.linalg.qr(generator.standard_normal((136, 20)))[0].T
    middle, points = generator.uniform(100, 400, 136), np.empty((rows, 136), np.float32)
    for start in range(0, rows, STEP):
        part = points[start : start + STEP]
        weights = generator.standard_normal((len(part), 20)) * (90 * 0.8 ** np.arange(20))
        part[:] = np.round(middle + weights @ modes + 0.8 * generator.standard_normal(part.shape), 1)
    return _copied(points, 0.02, generator)


def affect(rows: int, seed: int = 0) -> np.ndarray:
    """(rows, 2): valence and arousal around eight centres, rounded to 1e-4; 8 % exactly (0, 0)."""
    generator = np.random.default_rng(seed)
    centres = generator.uniform(-0.8, 0.8, (8, 2))
    points = centres[generator.integers(0, 8, rows)] + 0.12 * generator.standard_normal((rows, 2))
    points = np.round(np.clip(points, -1, 1), 4).astype(np.float32)
    points[generator.random(rows) < 0.08] = 0
    return points


def faces(rows: int) -> dict[str, np.ndarray]:
    """Columns as the detector of SyntheticFaces reports them (no image is drawn): 40 s of one core per 30,000."""
    parts = [(min(PART, rows - start), FIRST_SEED + start // PART) for start in range(0, rows, PART)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("spawn")) as pool:
        drawn = list(pool.map(_detected, parts))
    units, points = (np.concatenate([part[column] for part in drawn]) for column in (0, 1))
    return {"faces-au": units, "faces-landmarks": points}


def _detected(part: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    from ferkit.data import SyntheticFaces

    drawn = SyntheticFaces(part[0], 48, part[1])
    points = drawn.landmarks.numpy().reshape(part[0], -1)
    return np.round(drawn.action_units.numpy(), 2).astype(np.float32), np.round(points, 1).astype(np.float32)


MAKERS = {"au": action_units, "landmarks": landmarks, "va": affect}


def truth(path: Path, k: int, sample: int = 2000, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sampled rows and the distance of each to its k-th neighbour, in float64 by differences of the rows as given."""
    points = np.load(path, mmap_mode="r")
    rows = np.sort(np.random.default_rng(seed).permutation(len(points))[:sample])
    centre = points[:STEP].mean(0, dtype=np.float64)
    own = points[rows].astype(np.float64) - centre
    near = np.full((len(rows), 0), np.inf)
    ids = np.empty((len(rows), 0), np.int64)
    spares = k + 33  # the row itself, and room for what rounding moves
    for start in range(0, len(points), STEP):
        base = points[start : start + STEP].astype(np.float64) - centre
        far = (base**2).sum(1) - 2 * own @ base.T
        here = np.argpartition(far, min(spares, far.shape[1] - 1), axis=1)[:, :spares]
        near = np.concatenate([near, np.take_along_axis(far, here, 1)], 1)
        ids = np.concatenate([ids, here + start], 1)
        kept = np.argsort(near, axis=1)[:, :spares]
        near, ids = np.take_along_axis(near, kept, 1), np.take_along_axis(ids, kept, 1)
    exact = ((points[ids].astype(np.float64) - points[rows].astype(np.float64)[:, None]) ** 2).sum(2)
    exact[ids == rows[:, None]] = np.inf
    return rows, np.sort(exact, axis=1)[:, k - 1]


def recall(path: Path, rows: np.ndarray, kth: np.ndarray, indices: np.ndarray) -> float:
    """Share of distinct neighbours, other than the row, as near as the k-th (1e-6 relative)."""
    points = np.load(path, mmap_mode="r")
    own = points[rows].astype(np.float64)
    far = ((points[np.maximum(indices, 0)].astype(np.float64) - own[:, None]) ** 2).sum(2)
    right = (indices >= 0) & (indices != rows[:, None]) & (far <= kth[:, None] * (1 + 1e-6))
    for column in range(1, indices.shape[1]):  # a neighbour listed twice counts once
        right[:, column] &= ~(indices[:, column : column + 1] == indices[:, :column]).any(1)
    return float(right.mean())
