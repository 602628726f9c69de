"""Label arrays as users give them: tensors, integer arrays or lists."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ferkit.checks import check_label_range, check_labels, check_number


def label_array(labels: Any, num_classes: int | None) -> NDArray[np.int64]:
    """Given labels as a contiguous int64 array (N,), checked; -1 is unlabelled."""
    if not isinstance(labels, Tensor):
        array = np.asarray(labels)
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"labels: expected integers, got dtype {array.dtype}")
        labels = torch.from_numpy(array.astype(np.int64))
    if labels.ndim != 1 or labels.numel() == 0:
        raise ValueError(f"labels: expected shape (N,) with N of 1 or more, got {tuple(labels.shape)}")
    if num_classes is not None:
        check_number(num_classes, "num_classes", low=1, integer=True)
    labels = check_labels(labels, labels.numel()).cpu()
    check_label_range(labels, num_classes if num_classes is not None else int(labels.max()) + 1)
    return np.ascontiguousarray(labels.numpy(), dtype=np.int64)


def check_classes_present(counts: NDArray[np.int64], unlabelled: int) -> None:
    """Raise ValueError unless every class has a sample; ``counts`` (C,) of the labelled ones."""
    if len(counts) == 0:
        raise ValueError(f"labels: expected at least one labelled sample, got {unlabelled} labelled -1")
    absent = np.flatnonzero(counts == 0).tolist()
    if absent:
        raise ValueError(
            f"labels: expected a sample of each of the {len(counts)} classes, got none of class "
            f"{', '.join(map(str, absent))}"
        )
