"""Every op, backend, dtype, size bucket and layout on the GPU against the float64 oracle on the CPU."""

import pytest
import torch

from ferkit.ops import _select

SIZES = (1, 2, 71, 72, 288, 289, 1000, 4096)
# Relative to the largest entry of value and gradients; half types: a few roundings of the stored result.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("rows", SIZES)
def test_value_and_gradients(tools, name, backend, rows, dtype):
    tools.skip_unless(tools.problems[name].op, backend, dtype)
    arguments = tools.arguments(name, rows, dtype)
    before = [part.detach().clone() for part in arguments]
    got, want = tools.results(name, arguments), tools.oracle(name, arguments)
    if rows == 1 and "concordance" in name:
        assert all(torch.isfinite(part).all() for part in got)  # one row has no correlation: nothing but rounding
        return
    # One or two rows agree with themselves: what is 0 exactly has no size to be measured by.
    floor = tools.problems[name].scale if rows <= 2 else 1e-30
    assert tools.worst(got, want, floor) <= TOLERANCE[dtype]
    assert all(torch.equal(part.detach(), kept) for part, kept in zip(arguments, before))


def layouts(tensor):
    """The same numbers, laid out as callers do: transposed, every second column, and off a 16-byte boundary."""
    transposed = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    sliced = torch.stack([tensor, tensor.roll(1, 0)], -1)[..., 0]
    buffer = tensor.new_empty(tensor.numel() + 1)
    buffer[1:] = tensor.flatten()
    return {"transposed": transposed, "sliced": sliced, "offset": buffer[1:].view_as(tensor)}


@pytest.mark.parametrize("layout", ["transposed", "sliced", "offset"])
def test_layouts(tools, name, backend, layout, poisoned):
    problem = tools.problems[name]
    tools.skip_unless(problem.op, backend)
    arguments = tools.arguments(name, 71, torch.float32)
    laid = [layouts(part.detach())[layout] for part in arguments]
    laid = tuple(part.requires_grad_(number < problem.leaves) for number, part in enumerate(laid))
    assert tools.worst(tools.results(name, laid), tools.oracle(name, arguments)) <= TOLERANCE[torch.float32]


def test_expanded(tools, name, backend):
    """One row for all of them, of stride 0."""
    problem = tools.problems[name]
    tools.skip_unless(problem.op, backend)
    arguments = list(tools.arguments(name, 72, torch.float32))
    last = (
        problem.leaves - 1
    )  # the scale, the weights, the branches: the first rows differ, so that nothing is constant
    row = arguments[last].detach()
    arguments[last] = (row[:1] if row.dim() < 3 else row[:, :1]).expand_as(row).requires_grad_()
    if problem.op in ("class_similarity", "concordance"):
        pytest.skip("all rows equal: gradients are nothing but rounding")
    got, want = tools.results(name, tuple(arguments)), tools.oracle(name, tuple(arguments))
    assert tools.worst(got, want) <= TOLERANCE[torch.float32]


def test_no_rows(tools, name, backend):
    problem = tools.problems[name]
    tools.skip_unless(problem.op, backend)
    arguments = tools.arguments(name, 0, torch.float32)
    value, *gradients = tools.results(name, arguments)
    assert (value == 0).all()
    assert [gradient.shape for gradient in gradients] == [part.shape for part in arguments[: problem.leaves]]


def test_memory_nobody_wrote(tools, name, backend, poisoned):
    tools.skip_unless(tools.problems[name].op, backend)
    for rows in (1, 71, 289):
        arguments = tools.arguments(name, rows, torch.float32)
        assert all(torch.isfinite(part).all() for part in tools.results(name, arguments))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [72, 1000])
@pytest.mark.parametrize(
    "op",
    ["class_similarity", "similarity_preserving", "scaled_cross_entropy", "concordance", "neighbor_divergence"],
)
def test_half_types_are_at_most_twice_as_wrong_as_pytorch(tools, backend, op, rows, dtype):
    textbook = pytest.importorskip("benchmarks.textbook")
    tools.skip_unless(op, backend, dtype)
    name = {"similarity_preserving": "similarity_preserving gram"}.get(op, op)
    problem = tools.problems[name]
    arguments = list(tools.arguments(name, rows, dtype))
    labels = torch.arange(rows, device="cuda") % 3
    if op == "similarity_preserving":
        arguments[2] = labels != torch.arange(3, device="cuda")[:, None]
        plain, ours = textbook.similarity_preserving, lambda *parts: problem.call(*parts).mean()
        theirs = [*arguments[:2], labels]
    elif op == "class_similarity":
        arguments[1] = theirs_labels = torch.arange(rows, device="cuda") % 5
        plain, ours = (lambda features, labels: textbook.class_similarity(features, labels, 5)), problem.call
        theirs = [arguments[0], theirs_labels]
    elif op == "concordance":
        plain, ours, theirs = textbook.concordance_loss, problem.call, arguments
    elif op == "neighbor_divergence":  # the textbook detaches the neighbours
        plain, theirs = textbook.neighbor_guidance, arguments
        ours = lambda logits, others, weight: problem.call(logits, others.detach(), weight).mean()  # noqa: E731
    else:
        arguments[2] = labels
        plain, ours = textbook.scaled_cross_entropy, lambda *parts: problem.call(*parts).mean()
        theirs = [*arguments[:2], labels]

    def run(function, parts, kind):
        parts = [part.detach().to(kind) if part.is_floating_point() else part for part in parts]
        leaves = [part.requires_grad_() for part in parts if part.is_floating_point()]
        value = function(*parts)
        upstream = torch.ones_like(value) * (4096 if op == "similarity_preserving" else 1)
        gradients = torch.autograd.grad(value, leaves, upstream, allow_unused=True)
        return [value.detach(), *(gradient for gradient in gradients if gradient is not None)]

    want = run(plain, theirs, torch.float64)
    error, theirs_error = tools.worst(run(ours, arguments, dtype), want), tools.worst(run(plain, theirs, dtype), want)
    assert error <= 2 * theirs_error


@pytest.mark.parametrize("normalize", ["batch", "subset"])
def test_tf32_is_as_good_as_pytorchs(tools, backend, normalize):
    """TF32 rounds products to ten bits, for the textbook and here."""
    tools.skip_unless("similarity_preserving", backend)
    name = "similarity_preserving subset" if normalize == "subset" else "similarity_preserving gram"
    arguments = tools.arguments(name, 1000, torch.float32)
    torch.set_float32_matmul_precision("high")
    assert tools.worst(tools.results(name, arguments), tools.oracle(name, arguments)) <= 2e-2


def test_variance(tools, backend):
    from ferkit import ops

    tools.skip_unless("class_similarity", backend)
    for rows in (72, 1000):
        features, labels = tools.arguments("class_similarity", rows, torch.float32)
        got = ops.class_similarity(features, labels, 5, variance=True)[2]
        gradient = torch.autograd.grad(got.sum(), features)[0]
        wide = features.detach().cpu().double().requires_grad_()
        with _select.force("eager"):
            want = ops.class_similarity(wide, labels.cpu(), 5, variance=True)[2]
        exact = torch.autograd.grad(want.sum(), wide)[0]
        assert tools.worst([got.detach(), gradient], [want.detach(), exact]) <= 1e-4
