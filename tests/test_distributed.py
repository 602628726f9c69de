"""The global batch over processes equals one process with all of it: values, averaged gradients (gloo, 1 to 3 ranks).

Run as a script, this file is one rank.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ferkit.distributed import all_reduce_sum, gather_rows, resolve_group
from ferkit.functional import class_similarity, intra_class_step, msp_loss
from ferkit.losses import MSPLoss

CLASSES = 4
SIZES = (7, 0, 12)  # rows of each rank
MSP = [
    {"form": form, "normalize": normalize, "weighted": weighted}
    for form in ("gram", "factored", "auto")
    for normalize in ("batch", "subset")
    for weighted in (False, True)
]
SIMILARITY = [{"include_self": s, "scale": c} for s in (True, False) for c in ("none", "minmax")]


def batch(size):
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(size, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, CLASSES, (size,), generator=generator)
    return inputs, labels, torch.rand(size, generator=generator, dtype=torch.float64).round(decimals=1)


def model():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    auxiliary = torch.randn(CLASSES, 6, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    return target, auxiliary


def msp_step(inputs, labels, weight, group, form, normalize, weighted):
    target, auxiliary = model()
    weight = weight if weighted else None
    loss = MSPLoss(CLASSES, normalize, form, process_group=group)
    value = loss(inputs @ target, inputs @ auxiliary, labels, weight)
    return value.detach(), torch.autograd.grad(value, (target, auxiliary))


def similarity_step(inputs, labels, share, group, include_self, scale):
    target, _ = model()
    mean, counts, variance = class_similarity(
        inputs @ target, labels, CLASSES, include_self, True, True, scale, process_group=group
    )
    value = (mean.square() @ torch.arange(1.0, 5, dtype=torch.float64) + variance.sum(1)).sum() * share
    return (mean.detach(), counts, variance.detach()), torch.autograd.grad(value, target)


def averaged(gradients, group):
    return [all_reduce_sum(part, group) / dist.get_world_size(group) for part in gradients]


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def compare(group, sizes):
    """Every case on the ranks of ``group``, whose local batches are ``sizes`` rows of one batch."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    whole = batch(sum(sizes))
    local = [part.split(list(sizes))[rank] for part in whole]
    for case in MSP:
        value, gradients = msp_step(*local, group, **case)
        expected, expected_gradients = msp_step(*whole, None, **case)
        close(value, expected)
        for actual, wanted in zip(averaged(gradients, group), expected_gradients):
            close(actual, wanted)
    for case in SIMILARITY:
        # a mean over the whole batch: the local sum times ranks over global N
        values, gradients = similarity_step(*local[:2], world / sum(sizes), group, **case)
        expected, expected_gradients = similarity_step(*whole[:2], 1 / sum(sizes), None, **case)
        close(values[0], expected[0].split(list(sizes))[rank])
        close(values[1], expected[1])
        close(values[2], expected[2].split(list(sizes))[rank])
        close(averaged(gradients, group)[0], expected_gradients[0])
    for per_sample in (False, True):
        centers = torch.eye(CLASSES, 6, dtype=torch.float64)
        step = intra_class_step(centers, *local, per_sample=per_sample, process_group=group)
        close(step, intra_class_step(centers, *whole, per_sample=per_sample))
    rows = local[0].clone().requires_grad_()
    gathered = gather_rows(rows, group)
    close(gathered, whole[0])
    (gradient,) = torch.autograd.grad((gathered**2).sum(), rows, create_graph=True)
    close(gradient, 2 * world * rows)
    (second,) = torch.autograd.grad(gradient.sum(), rows)
    close(second, torch.full_like(rows, 2.0 * world))
    total = all_reduce_sum(torch.full((2,), float(rank)), group)
    close(total, torch.full((2,), sum(range(world)) * 1.0))


def initialise(rank, world, path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)


def main():
    torch.set_num_threads(1)
    rank, world, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    initialise(rank, world, path)
    compare(dist.group.WORLD, SIZES[:world])
    pair = dist.new_group([0, 2])
    if rank != 1:
        compare(pair, (5, 8))
    dist.barrier()
    dist.destroy_process_group()
    print("done")


@pytest.mark.skipif(not (dist.is_available() and sys.platform == "linux"), reason="needs gloo over the loopback device")
def test_three_ranks_and_two_of_them(tmp_path):
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "3", str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    for process, output in zip(ranks, outputs):
        assert process.returncode == 0, output
        assert output.strip().endswith("done")


@pytest.fixture
def alone(tmp_path):
    if not (dist.is_available() and sys.platform == "linux"):
        pytest.skip("needs gloo over the loopback device")
    initialise(0, 1, tmp_path / "store")
    yield resolve_group("global")
    dist.destroy_process_group()


def test_one_rank(alone):
    assert dist.get_world_size(alone) == 1
    compare(alone, (19,))


def test_rows_of_zeros_have_no_gradient(alone):
    features = batch(8)[0].index_fill(0, torch.tensor([2]), 0.0).requires_grad_()
    labels = torch.arange(8) % CLASSES
    similarity = class_similarity(features, labels, CLASSES, process_group=alone)
    branches = features.unsqueeze(0) @ model()[1].detach()
    for value in (similarity.sum(), msp_loss(features, branches, labels, form="factored", process_group=alone)):
        (gradient,) = torch.autograd.grad(value, features, retain_graph=True)
        assert torch.equal(gradient[2], torch.zeros_like(gradient[2]))
        assert gradient.isfinite().all()


def test_without_processes_global_is_local():
    inputs, labels, _ = batch(9)
    target, auxiliary = model()
    expected = msp_loss(inputs @ target, inputs @ auxiliary, labels)
    assert torch.equal(msp_loss(inputs @ target, inputs @ auxiliary, labels, process_group="global"), expected)


@pytest.mark.parametrize("group, error", [("world", ValueError), (3, TypeError)])
def test_refused(group, error):
    with pytest.raises(error, match="process_group: expected None, 'global' or a ProcessGroup, got"):
        resolve_group(group)


if __name__ == "__main__":
    main()
