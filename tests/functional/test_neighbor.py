"""LDL-ALSG's guidance against recorded values, and what every loss promises."""

import re

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ferkit.functional import neighbor_guidance_loss
from ferkit.losses import NeighborGuidanceLoss

REDUCTIONS = ("mean", "sum", "none")


def make(size, count=3, classes=4, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, classes, generator=generator, dtype=torch.float64)
    neighbors = torch.randn(size, count, classes, generator=generator, dtype=torch.float64)
    affinity = 0.1 + torch.rand(size, count, generator=generator, dtype=torch.float64)
    return logits.to(dtype), neighbors.to(dtype), affinity.to(dtype)


def leaves_of(*tensors):
    return [tensor.clone().requires_grad_() for tensor in tensors]


def test_golden_values_and_gradients(golden, close):
    data = golden("alsg_guidance")
    center, neighbors, affinity = data["center_logits"], data["neighbor_logits"], data["sim"]
    for task in range(2):
        for reduction in ("sum", "mean"):
            value = neighbor_guidance_loss(center, neighbors[:, task], affinity[:, task], reduction=reduction)
            close(value, data[f"omega_{reduction}_per_task"][task])
        for k in range(4):
            one = torch.ones(12, 1, dtype=torch.float64)
            kl = neighbor_guidance_loss(center, neighbors[:, task, k : k + 1], one, reduction="none")
            close(kl, data["kl"][:, task, k])


@pytest.mark.parametrize("detach, key", [("neighbors", "omega_sum"), (None, "omega_undetached")])
def test_golden_gradients_of_both_graphs_side_by_side(golden, close, detach, key):
    data = golden("alsg_guidance")
    center, neighbors = leaves_of(data["center_logits"], data["neighbor_logits"])
    affinity = data["sim"].flatten(1)
    total = neighbor_guidance_loss(center, neighbors.flatten(1, 2), affinity, detach, reduction="sum")
    close(total, data["omega_sum_per_task"].sum())
    total.backward()
    close(center.grad, data[f"grad_center_{key}"])
    if detach is None:
        close(neighbors.grad, data["grad_neighbor_omega_undetached"])
    else:
        assert neighbors.grad is None


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_golden_total(golden, close, reduction):
    data = golden("alsg_guidance")
    (center,) = leaves_of(data["center_logits"])
    entropy = torch.nn.functional.cross_entropy(center, data["labels"], reduction=reduction)
    neighbors, affinity = data["neighbor_logits"].flatten(1, 2), data["sim"].flatten(1)
    total = entropy + data["lam"] * neighbor_guidance_loss(center, neighbors, affinity, reduction=reduction)
    close(total, data[f"total_{reduction}"])
    total.backward()
    close(center.grad, data[f"grad_center_total_{reduction}"])


def test_golden_variants(golden, close):
    data = golden("alsg_guidance")
    center, neighbors, affinity = data["center_logits"], data["neighbor_logits"], data["sim"]
    one = torch.ones(12, 1, dtype=torch.float64)
    for task in range(2):
        inputs = center, neighbors[:, task], affinity[:, task]
        value = neighbor_guidance_loss(*inputs, normalize="weights", reduction="sum")
        close(value, data["omega_sum_weights_normalised"][task])
        value = neighbor_guidance_loss(*inputs, normalize="neighbors", reduction="sum")
        close(value, data["omega_sum_per_task"][task] / 4)
        value = neighbor_guidance_loss(*inputs, direction="center-to-neighbor", reduction="sum")
        close(value, (data["kl_reverse"] * affinity)[:, task].sum())
        for k in range(4):
            single = center, neighbors[:, task, k : k + 1], one
            reverse = neighbor_guidance_loss(*single, direction="center-to-neighbor", reduction="none")
            close(reverse, data["kl_reverse"][:, task, k])


@pytest.mark.parametrize("direction", ["neighbor-to-center", "center-to-neighbor"])
@pytest.mark.parametrize("normalize", [None, "weights", "neighbors"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_variants_are_their_formulas_in_value_and_gradient(close, direction, normalize, reduction):
    inputs = make(6)
    inputs[2][1, 2] = 0
    inputs[2][4] = 0  # no neighbour
    leaves, again = leaves_of(*inputs), leaves_of(*inputs)
    value = neighbor_guidance_loss(*leaves, None, None, reduction, direction, normalize)
    log_p, log_q = again[0].log_softmax(1).unsqueeze(1), again[1].log_softmax(2)
    first, second = (log_q, log_p) if direction == "neighbor-to-center" else (log_p, log_q)
    divisor = {None: 1, "weights": again[2].sum(1), "neighbors": 3}[normalize]
    if normalize == "weights":
        divisor = torch.where(divisor == 0, 1, divisor)
    rows = (again[2] * (first.exp() * (first - second)).sum(2)).sum(1) / divisor
    close(value.detach(), (rows.mean() if reduction == "mean" else rows).detach())
    own = torch.autograd.grad(value.sum(), leaves)
    wanted = torch.autograd.grad((rows.mean() if reduction == "mean" else rows).sum(), again)
    for name, gradient, expected in zip(("logits", "neighbors", "affinity"), own, wanted):
        if name == "affinity":  # an affinity of 0 is an absent neighbour, not a small one
            present = inputs[2] != 0
            assert torch.equal(gradient[~present], torch.zeros_like(gradient[~present]))
            gradient, expected = gradient[present], expected[present]
        close(gradient, expected)


@pytest.mark.parametrize("direction", ["neighbor-to-center", "center-to-neighbor"])
@pytest.mark.parametrize("normalize", ["weights", "neighbors"])
def test_variants_never_give_nan_for_absent_neighbours(direction, normalize):
    logits, neighbors, affinity = make(4)
    neighbors[0, 1], affinity[0, 1] = torch.nan, 0
    neighbors[1], affinity[1] = torch.inf, 0
    logits[1] = torch.nan
    leaves = leaves_of(logits, neighbors, affinity)
    value = neighbor_guidance_loss(*leaves, None, None, "none", direction, normalize)
    assert value[1] == 0 and value.isfinite().all()
    for gradient in torch.autograd.grad(value.sum(), leaves):
        assert gradient.isfinite().all()
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    affinity[2] = torch.nan
    leaves = leaves_of(logits, neighbors, affinity)
    value = neighbor_guidance_loss(*leaves, None, weight, "mean", direction, normalize)
    for gradient in torch.autograd.grad(value, leaves):
        assert gradient.isfinite().all()


def test_detach_of_the_other_direction():
    leaves = leaves_of(*make(3))
    value = neighbor_guidance_loss(*leaves, direction="center-to-neighbor")
    gradients = torch.autograd.grad(value, leaves, allow_unused=True)
    assert gradients[1] is None and gradients[0].abs().sum() > 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients(reduction):
    leaves = leaves_of(*make(4), torch.rand(4, dtype=torch.float64) + 0.1)

    def function(logits, neighbors, affinity, weight):
        return neighbor_guidance_loss(logits, neighbors, affinity, None, weight, reduction)

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_reductions_and_weights_agree(close):
    inputs, weight = make(6), torch.rand(6, dtype=torch.float64)
    rows = neighbor_guidance_loss(*inputs, reduction="none")
    assert rows.shape == (6,) and (rows > 0).all()
    close(neighbor_guidance_loss(*inputs), rows.mean())
    close(neighbor_guidance_loss(*inputs, reduction="sum"), rows.sum())
    for shaped in (weight, weight[:, None]):
        close(neighbor_guidance_loss(*inputs, sample_weight=shaped, reduction="none"), weight * rows)
        close(neighbor_guidance_loss(*inputs, sample_weight=shaped), (weight * rows).sum() / weight.sum())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_samples_of_weight_zero_equal_their_removal(close, reduction):
    logits, neighbors, affinity = make(5)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5], dtype=torch.float64)
    keep = weight > 0
    logits[1], neighbors[3], affinity[3] = torch.nan, torch.nan, torch.nan
    leaves = leaves_of(logits, neighbors, affinity)
    value = neighbor_guidance_loss(*leaves, None, weight, reduction)
    kept = leaves_of(logits[keep], neighbors[keep], affinity[keep])
    expected = neighbor_guidance_loss(*kept, None, weight[keep], reduction)
    close(value[keep] if reduction == "none" else value, expected)
    grads = torch.autograd.grad(value.sum(), leaves)
    for grad, wanted in zip(grads, torch.autograd.grad(expected.sum(), kept)):
        close(grad[keep], wanted)
        assert torch.equal(grad[~keep], torch.zeros_like(grad[~keep]))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size, count, weight", [(0, 3, None), (3, 0, None), (3, 2, 0.0)])
def test_the_empty_set_is_a_connected_zero(reduction, size, count, weight):
    leaves = leaves_of(*make(size, count))
    weights = None if weight is None else torch.full((size,), weight)
    value = neighbor_guidance_loss(*leaves, None, weights, reduction)
    assert torch.equal(value, torch.zeros_like(value))
    for leaf, grad in zip(leaves, torch.autograd.grad(value.sum(), leaves)):
        assert torch.equal(grad, torch.zeros_like(leaf))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_gives_float32(dtype, autocast):
    leaves = leaves_of(*make(8, dtype=dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = neighbor_guidance_loss(*leaves, detach=None)
    assert value.dtype == torch.float32
    assert all(grad.dtype == dtype for grad in torch.autograd.grad(value, leaves))
    exact = neighbor_guidance_loss(*[leaf.detach().double() for leaf in leaves])
    torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
    mixed = neighbor_guidance_loss(leaves[0].double(), leaves[1], leaves[2].float())
    assert mixed.dtype == torch.float64


def test_nan_is_not_hidden():
    for position in range(3):
        inputs = list(make(4))
        inputs[position][2].flatten()[0] = torch.nan
        assert neighbor_guidance_loss(*inputs).isnan()


@pytest.mark.parametrize("weighted", [False, True])
def test_compiles_whole_once_for_all_batch_sizes(close, weighted):
    torch._dynamo.reset()
    compiled = torch.compile(neighbor_guidance_loss, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (11, 17, 23):
        leaves = leaves_of(*make(size))
        weight = torch.rand(size, dtype=torch.float64) if weighted else None
        with torch._dynamo.config.patch(error_on_recompile=size > 11):
            value = compiled(*leaves, detach=None, sample_weight=weight)
            gradients = torch.autograd.grad(value, leaves)
        expected = neighbor_guidance_loss(*leaves, detach=None, sample_weight=weight)
        close(value.detach(), expected.detach())
        for gradient, wanted in zip(gradients, torch.autograd.grad(expected, leaves)):
            close(gradient, wanted)


Z, V, A = make(5)
BAD = [
    (lambda: neighbor_guidance_loss([1.0], V, A), TypeError, "logits: expected a torch.Tensor, got list"),
    (lambda: neighbor_guidance_loss(Z.long(), V, A), TypeError, "logits: expected a floating-point tensor"),
    (lambda: neighbor_guidance_loss(Z[0], V, A), ValueError, "logits: expected shape (N, C), got (4,)"),
    (lambda: neighbor_guidance_loss(Z, V[0], A), ValueError, "neighbor_logits: expected shape (5, K, 4), got (3, 4)"),
    (lambda: neighbor_guidance_loss(Z, V[:, :, :2], A), ValueError, "neighbor_logits: expected shape (5, K, 4)"),
    (lambda: neighbor_guidance_loss(Z, V, A[:, :2]), ValueError, "affinity: expected shape (5, 3), got (5, 2)"),
    (lambda: neighbor_guidance_loss(Z, V, A.to("meta")), ValueError, "affinity: expected device cpu, got meta"),
    (lambda: neighbor_guidance_loss(Z, V, A, "centers"), ValueError, "detach: expected None or 'neighbors', got"),
    (lambda: neighbor_guidance_loss(Z, V, A, reduction="avg"), ValueError, "reduction: expected one of"),
    (
        lambda: neighbor_guidance_loss(Z, V, A, sample_weight=Z[0]),
        ValueError,
        "sample_weight: expected shape (5,), got (4,)",
    ),
    (lambda: neighbor_guidance_loss(Z, V, A, direction="kl"), ValueError, "direction: expected one of 'neighbor-to-c"),
    (lambda: neighbor_guidance_loss(Z, V, A, normalize="k"), ValueError, "normalize: expected None, 'weights' or 'ne"),
    (lambda: NeighborGuidanceLoss(direction="x"), ValueError, "direction: expected one of"),
    (lambda: NeighborGuidanceLoss(normalize="x"), ValueError, "normalize: expected None, 'weights' or 'neighbors'"),
    (lambda: NeighborGuidanceLoss(detach="x"), ValueError, "detach: expected None or 'neighbors', got 'x'"),
]


@pytest.mark.parametrize("call, error, message", BAD)
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("detach", ["neighbors", None])
def test_the_module_is_the_function(detach, reduction):
    loss, weight = NeighborGuidanceLoss(detach, reduction), torch.rand(5)
    settings = f"detach={detach!r}, reduction={reduction!r}, direction='neighbor-to-center', normalize=None"
    assert repr(loss) == f"NeighborGuidanceLoss({settings})"
    expected = neighbor_guidance_loss(Z, V, A, detach, weight, reduction)
    assert torch.equal(loss(Z, V, A, weight), expected)
    variant = ("center-to-neighbor", "weights")
    expected = neighbor_guidance_loss(Z, V, A, detach, weight, reduction, *variant)
    assert torch.equal(NeighborGuidanceLoss(detach, reduction, *variant)(Z, V, A, weight), expected)


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of PyTorch (no GPU)")
def test_reads_no_value_on_the_host_of_an_accelerator():
    with torch._subclasses.FakeTensorMode():
        shapes = ((9, 4), (9, 3, 4), (9, 3))
        leaves = [torch.empty(*shape, device="cuda", requires_grad=True) for shape in shapes]
        for reduction in REDUCTIONS:
            value = neighbor_guidance_loss(*leaves, sample_weight=torch.empty(9, device="cuda"), reduction=reduction)
            assert value.device.type == "cuda" and value.requires_grad
