"""The autograd nodes in C++ do what those in Python do: values, gradients, second order, and every way to look on."""

import itertools
import math

import pytest
import torch

from ferkit import ops
from ferkit.ops import _native, _select

OPS = ("class_similarity", "concordance", "neighbor_divergence", "scaled_cross_entropy", "similarity_preserving")
pytestmark = pytest.mark.skipif(
    "is for torch" in (_native.why_not_autograd() or "") or _native.why_not("cpu") is not None,
    reason=str(_native.why_not_autograd()),
)


@pytest.fixture
def nodes(monkeypatch):
    """Called with "cpp" or "python": the nodes that the native kernels get from then on."""

    def take(kind):
        monkeypatch.setattr(_native, "why_not_autograd", lambda: None if kind == "cpp" else "not here")
        _select.forget()

    with _select.force("native"):
        yield take
    monkeypatch.undo()
    _select.forget()


def case(op, dtype=torch.float64, size=9, scalar=True):
    """The op as a function of its differentiable tensors, and these."""
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    labels = torch.randint(-1, 4, (size,), generator=generator)
    weight = torch.rand(size, generator=generator, dtype=dtype)
    mask = torch.rand(2, size, generator=generator) < 0.7
    return {
        "class_similarity": (lambda f: ops.class_similarity(f, labels, 4)[0], [draw(size, 5)]),
        "concordance": (
            lambda p, t: ops.concordance(p, t, weight, loss=True, mean=scalar),
            [draw(size, 2), draw(size, 2)],
        ),
        "neighbor_divergence": (
            lambda z, v, w: ops.neighbor_divergence(z, v, w, mean=scalar),
            [draw(size, 4), draw(size, 3, 4), draw(size, 3).abs()],
        ),
        "scaled_cross_entropy": (
            lambda z, s: ops.scaled_cross_entropy(z, s, labels, mean=scalar),
            [draw(size, 4), draw(size).abs()],
        ),
        "similarity_preserving": (
            lambda t, a: ops.similarity_preserving(t, a, mask),
            [draw(size, 5), draw(2, size, 3)],
        ),
    }[op]


def wanting(tensors, flags):
    return [tensor.clone().requires_grad_(flag) for tensor, flag in zip(tensors, flags, strict=True)]


def test_they_are_in_use():
    assert _native.why_not_autograd() is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("op", OPS)
def test_same_bits_for_every_set_of_wanted_gradients(op, dtype, nodes):
    for scalar in (True, False):
        function, tensors = case(op, dtype, scalar=scalar)
        for flags in itertools.product((False, True), repeat=len(tensors)):
            if not any(flags):
                continue
            found = {}
            for kind in ("python", "cpp"):
                nodes(kind)
                inputs = wanting(tensors, flags)
                value = function(*inputs)
                assert value.grad_fn.name().startswith("_") == (kind == "python")
                (value * torch.arange(1.0, value.numel() + 1, dtype=dtype).view_as(value)).sum().backward()
                found[kind] = [value.detach(), *(tensor.grad for tensor in inputs)]
            for here, there in zip(found["python"], found["cpp"], strict=True):
                assert (here is None and there is None) or torch.equal(here, there)


@pytest.mark.parametrize("op", OPS)
def test_first_and_second_order_agree_with_differences(op, nodes):
    nodes("cpp")
    function, tensors = case(op, size=6)
    inputs = wanting(tensors, [True] * len(tensors))
    assert torch.autograd.gradcheck(function, inputs)
    assert torch.autograd.gradgradcheck(function, inputs)


@pytest.mark.parametrize("form", ["gram", "factored"])
def test_second_order_in_the_form_that_was_asked_for(form, nodes):
    nodes("cpp")
    _, (target, auxiliary) = case("similarity_preserving", size=6)
    mask = torch.ones(2, 6, dtype=torch.bool)
    inputs = wanting((target, auxiliary), (True, True))
    assert torch.autograd.gradgradcheck(lambda t, a: ops.similarity_preserving(t, a, mask, form=form), inputs)


@pytest.mark.parametrize("op", OPS)
def test_a_batch_of_gradients(op, nodes):
    nodes("cpp")
    function, tensors = case(op, scalar=False)
    inputs = wanting(tensors, [True] * len(tensors))
    value = function(*inputs)
    many = torch.randn(3, *value.shape, generator=torch.Generator().manual_seed(0), dtype=value.dtype)
    at_once = torch.autograd.grad(value, inputs, many, retain_graph=True, is_grads_batched=True)
    for row in range(3):
        alone = torch.autograd.grad(value, inputs, many[row], retain_graph=True)
        for batched, single in zip(at_once, alone, strict=True):
            torch.testing.assert_close(batched[row], single, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("op", OPS)
def test_an_input_that_was_written_to_is_told(op, nodes):
    nodes("cpp")
    function, tensors = case(op)
    inputs = wanting(tensors, [True] * len(tensors))
    copy = inputs[0] * 1
    value = function(copy, *inputs[1:])
    copy.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


@pytest.mark.parametrize("op", OPS)
def test_saved_tensors_go_through_hooks_and_are_freed(op, nodes):
    nodes("cpp")
    function, tensors = case(op)
    expected = wanting(tensors, [True] * len(tensors))
    function(*expected).sum().backward()
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.clone()

    inputs = wanting(tensors, [True] * len(tensors))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(*inputs)
    assert inputs[0].shape in packed
    total = value.sum()
    total.backward()
    for tensor, other in zip(inputs, expected, strict=True):
        assert torch.equal(tensor.grad, other.grad)
    with pytest.raises(RuntimeError, match="second time"):
        total.backward()


class Stop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return None


@pytest.mark.parametrize("op", OPS)
def test_no_gradient_from_above(op, nodes):
    nodes("cpp")
    function, tensors = case(op)
    inputs = wanting(tensors, [True] * len(tensors))
    Stop.apply(function(*inputs)).sum().backward()
    assert all(tensor.grad is None for tensor in inputs)


@pytest.mark.parametrize("op", OPS)
def test_a_mode_sees_the_op(op, nodes):
    nodes("cpp")
    function, tensors = case(op)
    inputs = wanting(tensors, [True] * len(tensors))
    expected = torch.autograd.grad(function(*inputs).sum(), inputs)
    seen = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    total = function(*inputs).sum()
    with Watch():
        watched = torch.autograd.grad(total, inputs)
    assert f"ferkit.{op}_backward.default" in seen
    for here, there in zip(watched, expected, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["cpp", "python"])
@pytest.mark.parametrize("op", OPS)
def test_forward_mode_is_refused(op, kind, nodes):
    nodes(kind)
    function, tensors = case(op)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(tensors[0], torch.ones_like(tensors[0]))
        with pytest.raises(RuntimeError, match=r"jvp|forward AD"):
            function(dual, *tensors[1:])
        assert torch.equal(function(*tensors), torch.autograd.forward_ad.unpack_dual(function(*tensors)).primal)


@pytest.mark.parametrize("kind", ["cpp", "python"])
@pytest.mark.parametrize("op", OPS)
def test_constants_inside_forward_mode_are_taken(op, kind, nodes):
    nodes(kind)
    function, tensors = case(op)
    value = function(*tensors).sum()
    x = torch.ones(2, dtype=torch.float64)
    primal, tangent = torch.func.jvp(lambda x: x * function(*tensors).sum(), (x,), (x,))
    assert torch.equal(primal, value * x) and torch.equal(tangent, value * x)
    with pytest.raises(RuntimeError, match=r"jvp|forward AD|setup_context"):
        torch.func.jvp(lambda x: function(x, *tensors[1:]), (tensors[0],), (tensors[0],))


@pytest.mark.parametrize("kind", ["cpp", "python"])
@pytest.mark.parametrize("op", OPS)
def test_the_tangent_of_a_gradient_goes_through(op, kind, nodes):
    nodes(kind)
    function, tensors = case(op)
    inputs = wanting(tensors, [True] * len(tensors))
    value = function(*inputs)
    plain = torch.autograd.grad(value, inputs, torch.ones_like(value), retain_graph=True)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones_like(value), torch.full_like(value, 2.0))
        found = torch.autograd.grad(value, inputs, dual)
        for here, there in zip(found, plain, strict=True):
            tangent = torch.autograd.forward_ad.unpack_dual(here).tangent
            torch.testing.assert_close(tangent, 2 * there, rtol=1e-9, atol=1e-12)


def test_labels_out_of_range_and_wrong_shapes(nodes):
    nodes("cpp")
    rows = torch.zeros(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.3"):
        ops.class_similarity(rows, torch.tensor([0, 1, 4]), 4)
    with pytest.raises(ValueError, match=r"labels: expected values in 0\.\.3"):
        ops.scaled_cross_entropy(rows, torch.ones(3), torch.tensor([0, 1, 4]))
    with pytest.raises(RuntimeError, match="weight: expected shape"):
        ops.neighbor_divergence(rows, torch.zeros(3, 2, 4), torch.zeros(2, 2))


@pytest.mark.parametrize("op", OPS)
def test_compiled_autograd(op, nodes):
    nodes("cpp")
    function, tensors = case(op)
    expected = wanting(tensors, [True] * len(tensors))
    function(*expected).sum().backward()
    inputs = wanting(tensors, [True] * len(tensors))
    total = function(*inputs).sum()
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        total.backward()
    for tensor, other in zip(inputs, expected, strict=True):
        torch.testing.assert_close(tensor.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_a_small_batch_has_the_bits_of_a_large_one(nodes):
    nodes("cpp")
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(400, 7, generator=generator), torch.randn(400, 9, 7, generator=generator)
    w = torch.rand(400, 9, generator=generator)
    whole = ops.neighbor_divergence(z, v, w)
    assert torch.equal(ops.neighbor_divergence(z[:5], v[:5], w[:5]), whole[:5])
    strided = v[:5].transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(ops.neighbor_divergence(z[:5], strided, w[:5]), whole[:5])
    assert ops.neighbor_divergence(z[:0], v[:0], w[:0], mean=True) == 0


def test_what_the_one_call_leaves_to_the_rest(nodes):
    nodes("cpp")
    recorded = _select.recorded_for("scaled_cross_entropy", torch.zeros(1))
    z, s, labels = torch.zeros(3, 4), torch.ones(3), torch.tensor([0, 1, 2])
    assert recorded(z, s, labels, True) == pytest.approx(math.log(4))
    assert recorded(z.bfloat16(), s, labels, True) is None
    assert recorded(z, s.half(), labels, True) is None
    assert recorded(z.to("meta"), s, labels, True) is None
    assert recorded(z.as_subclass(type("Own", (torch.Tensor,), {})), s, labels, True) is None
    assert recorded(z, s, labels, 1) is None
    assert recorded(None, s, labels, True) is None
    with torch.autograd.forward_ad.dual_level():
        assert recorded(z, s, labels, True) is None
    with pytest.raises(TypeError, match="expected 4 arguments, got 3"):
        recorded(z, s, labels)


def test_one_backend_at_a_time(nodes):
    nodes("cpp")
    function, tensors = case("concordance")
    inputs = wanting(tensors, (True, True))
    with _select.force("eager"):
        assert _select.recorded_for("concordance", tensors[0]) is None
        assert function(*inputs).grad_fn.name().startswith("_")
    assert not function(*inputs).grad_fn.name().startswith("_")


def test_another_python_takes_the_nodes_in_python(monkeypatch, tmp_path):
    _native.why_not_autograd.cache_clear()
    _native._nodes.cache_clear()
    monkeypatch.setattr(_native, "_PACKAGE", tmp_path)
    try:
        assert "there is none for this Python beside the package" in _native.why_not_autograd()
    finally:
        monkeypatch.undo()
        _native.why_not_autograd.cache_clear()
        _native._nodes.cache_clear()


def test_another_device_loads_nothing_of_the_cpu(monkeypatch):
    def loaded(device_type):
        raise AssertionError(f"the library for {device_type} was asked for")

    _select.forget()
    monkeypatch.setattr(_native, "why_not", loaded)
    z, v, w = (torch.zeros(*shape, device="meta") for shape in ((4, 3), (4, 2, 3), (4, 2)))
    assert ops.neighbor_divergence(z, v, w).shape == (4,)
    assert _select.recorded_for("neighbor_divergence", z) is None


def test_small_batches_without_numbers_of_their_own(nodes):
    nodes("cpp")
    z, v = torch.randn(4, 3), torch.randn(4, 2, 3)
    assert torch.equal(ops.neighbor_divergence(z, v, torch._efficientzerotensor((4, 2))), torch.zeros(4))
    assert ops.neighbor_divergence(torch.empty(0, 2**40), torch.empty(0, 3, 2**40), torch.empty(0, 3)).shape == (0,)

    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return ops.neighbor_divergence(grad, v, torch.ones(4, 2))[:, None] * torch.ones(4, 3)

    x, grads = torch.randn(4, 3, requires_grad=True), torch.randn(2, 4, 3)
    together = torch.autograd.grad(Scaled.apply(x), x, grads, is_grads_batched=True)[0]
    for row, grad in zip(together, grads, strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(Scaled.apply(x), x, grad)[0])


def test_another_torch_takes_the_nodes_in_python(monkeypatch):
    info = dict(_native.build_info() or {}, torch="1.0")
    monkeypatch.setattr(_native, "build_info", lambda: info)
    _native.why_not_autograd.cache_clear()
    _select.forget()
    try:
        assert "_C_autograd is for torch 1.0, this is" in _native.why_not_autograd()
        function, tensors = case("concordance")
        assert "_ConcordanceBackward" in function(*wanting(tensors, (True, True))).grad_fn.name()
    finally:
        monkeypatch.undo()
        _native.why_not_autograd.cache_clear()
        _select.forget()
