"""What must hold on a GPU whatever the backend: same bits, graphs, no waiting, errors that are errors."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ferkit import functional, ops

LABELLED = ("class_similarity", "scaled_cross_entropy", "scaled_cross_entropy mean")


def test_twenty_runs_are_the_same_to_the_bit(tools, name, backend):
    tools.skip_unless(tools.problems[name].op, backend)
    for rows in (72, 1000):
        arguments = tools.arguments(name, rows, torch.float32)
        first = tools.results(name, arguments)
        for _ in range(19):
            assert all(torch.equal(one, other) for one, other in zip(tools.results(name, arguments), first))


def steps(problem, arguments):
    """A step that a graph can hold: the upstream gradient is made beforehand."""
    upstream = torch.ones_like(problem.call(*arguments).detach())

    def run():
        value = problem.call(*arguments)
        return [value.detach(), *torch.autograd.grad(value, list(arguments[: problem.leaves]), upstream)]

    return run


@pytest.mark.parametrize("rows", [72, 1000])
def test_a_captured_step_replays_on_new_numbers(tools, name, backend, rows):
    problem = tools.problems[name]
    tools.skip_unless(problem.op, backend)
    arguments = tools.arguments(name, rows, torch.float32)
    run = steps(problem, arguments)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        held = run()
    fresh = tools.arguments(name, rows, torch.float32, seed=5)
    with torch.no_grad():
        for part, other in zip(arguments, fresh):
            part.copy_(other)
    graph.replay()
    torch.cuda.synchronize()
    replayed = [part.clone() for part in held]
    assert all(torch.equal(one, other) for one, other in zip(replayed, run()))


def test_nothing_waits_for_the_device(tools, name, backend):
    problem = tools.problems[name]
    tools.skip_unless(problem.op, backend)
    for rows in (72, 1000):
        run = steps(problem, tools.arguments(name, rows, torch.float32))
        run()
        torch.cuda.synchronize()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("label", [-2, 5, 1 << 40])
@pytest.mark.parametrize("rows", [72, 1000])
@pytest.mark.parametrize("op", ["class_similarity", "scaled_cross_entropy"])
def test_a_label_out_of_range_gives_nan_and_is_raised_on_request(tools, op, rows, label):
    tools.skip_unless(op, "triton")
    ops.raise_label_errors()
    features = torch.randn(rows, 5, device="cuda", requires_grad=True)
    labels = torch.arange(rows, device="cuda") % 5
    labels[3] = label

    def call():
        if op == "class_similarity":
            return ops.class_similarity(features, labels, 5)[0].sum(1)
        return ops.scaled_cross_entropy(features, features.detach()[:, 0], labels)

    value = call()
    gradient = torch.autograd.grad(value.nansum(), features)[0]
    torch.cuda.synchronize()
    assert torch.isnan(value[3]) and torch.isfinite(value[:3]).all() and torch.isfinite(value[4:]).all()
    assert torch.isnan(gradient[3]).any() or (gradient[3] == 0).all()
    assert torch.isfinite(gradient[:3]).all() and torch.isfinite(gradient[4:]).all()
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.C-1 or -1"):
        ops.raise_label_errors()
    ops.raise_label_errors()  # once


@pytest.mark.parametrize("label", [-2, 5, 1 << 40])
def test_losses_in_plain_pytorch_do_the_same(label):
    ops.raise_label_errors()
    labels = torch.arange(40, device="cuda") % 5
    labels[3] = label
    weight, logits = torch.rand(5, device="cuda"), torch.randn(40, 5, device="cuda")
    auxiliary = torch.randn(5, 40, 4, device="cuda")
    values = {
        "auxiliary": functional.auxiliary_cross_entropy(auxiliary, labels, class_weight=weight),
        "latent": functional.latent_distribution_loss(logits, logits.softmax(1), labels, class_weight=weight),
        "mined": functional.latent_distribution(auxiliary, labels)[3],
        "msp": functional.msp_loss(logits, torch.randn(5, 40, 6, device="cuda"), labels),
    }
    assert all(value.isnan().all() for value in values.values()), values
    with pytest.raises(ValueError, match="labels"):
        ops.raise_label_errors()


def test_mixed_devices_and_dtypes_are_refused():
    features, labels = torch.randn(6, 4, device="cuda"), torch.arange(6, device="cuda") % 3
    with pytest.raises(ValueError, match="device"):
        functional.class_similarity(features, labels.cpu(), 3)
    with pytest.raises(ValueError, match="device"):
        functional.weighted_logit_cross_entropy(features, torch.ones(6), labels)
    with pytest.raises(ValueError, match="device"):
        functional.msp_loss(features, torch.randn(3, 6, 4), labels)
    with pytest.raises(TypeError, match="labels"):
        functional.class_similarity(features, labels.float(), 3)
    with pytest.raises(TypeError, match="dtype"):
        functional.class_similarity(features.long(), labels, 3)


def test_mixed_dtypes_in_the_ops_are_refused_or_right(tools, backend):
    """Below the public functions nothing promotes: an op either refuses, or computes what its arguments say."""
    tools.skip_unless("similarity_preserving", backend)
    target, auxiliary, mask = tools.arguments("similarity_preserving gram", 72, torch.float32)
    try:
        got = ops.similarity_preserving(target, auxiliary.double(), mask, form="gram")
    except (RuntimeError, TypeError, ValueError):
        return
    want = ops.similarity_preserving(target.double(), auxiliary.double(), mask, form="gram")
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-7)


def test_compiles_once_for_every_batch(tools, name):
    problem = tools.problems[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(problem.call, fullgraph=True, dynamic=True, backend=counter)
    for rows in (11, 72, 300, 2, 1000):  # torch.compile takes equal sizes for one: 11 is no other size of a problem
        arguments = tools.arguments(name, rows, torch.float32)
        leaves = list(arguments[: problem.leaves])
        got, want = compiled(*arguments), problem.call(*arguments)
        pulled = torch.autograd.grad(got.sum(), leaves), torch.autograd.grad(want.sum(), leaves)
        assert tools.worst([got.detach(), *pulled[0]], [want.detach(), *pulled[1]]) <= 2e-5
    assert counter.frame_count == 1


def test_inductor_takes_a_whole_loss(tools):
    torch._dynamo.reset()
    labels = torch.arange(72, device="cuda") % 3
    target, auxiliary, _ = tools.arguments("similarity_preserving gram", 72, torch.float32)
    compiled = torch.compile(functional.msp_loss, fullgraph=True, dynamic=True)
    got, want = compiled(target, auxiliary, labels), functional.msp_loss(target, auxiliary, labels)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
    pulled = torch.autograd.grad(got, [target, auxiliary]), torch.autograd.grad(want, [target, auxiliary])
    assert tools.worst(list(pulled[0]), list(pulled[1])) <= 2e-5


def test_another_stream_and_device_index(tools, name, backend):
    problem = tools.problems[name]
    tools.skip_unless(problem.op, backend)
    arguments = tools.arguments(name, 72, torch.float32)
    want = tools.results(name, arguments)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        got = tools.results(name, arguments)
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in zip(got, want))
    last = torch.cuda.device_count() - 1
    moved = tuple(part.detach().to(f"cuda:{last}").requires_grad_(part.requires_grad) for part in arguments)
    assert all(torch.equal(one.cpu(), other.cpu()) for one, other in zip(tools.results(name, moved), want))
