"""What every loss promises: reductions, weights, unlabelled rows, the empty set, precision, NaN, layouts, compile."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

REDUCTIONS = ("mean", "sum", "none")


def with_gradients(case, tensors, labels, **options):
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    value = case(leaves, labels, **options)
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()))
    return value.detach(), dict(zip(leaves, gradients))


def weights(size, seed=7):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradients(case, reduction):
    tensors, labels = case.make(5)
    labels[4] = -1
    names = list(tensors)
    leaves = [tensors[name].requires_grad_() for name in names]

    def function(*values):
        return case(dict(zip(names, values)), labels, reduction=reduction, sample_weight=weights(5))

    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves, fast_mode=True)


def test_shapes_and_reductions_agree(case, close):
    tensors, labels = case.make(7)
    weight = weights(7)
    values = case(tensors, labels, reduction="none", sample_weight=weight)
    assert values.shape == ((7,) if case.per_sample else (4,))
    total = case(tensors, labels, reduction="sum", sample_weight=weight)
    close(total, values.sum())
    mean = case(tensors, labels, reduction="mean", sample_weight=weight)
    if case.name in ("auxiliary", "co-teaching"):  # a mean of means, whose weights the per-sample values do not show
        ones = case(tensors, torch.arange(4).repeat(2)[:7].fill_(1), reduction="mean")
        assert ones > 0
    else:
        close(mean, total / (weight.sum() if case.per_sample else 4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("how", ["label", "weight"])
def test_rows_without_part_equal_their_removal(case, close, how, reduction):
    tensors, labels = case.make(9)
    gone = torch.tensor([1, 4, 8])
    kept = torch.tensor([0, 2, 3, 5, 6, 7])
    poisoned = {name: value.index_fill(case.inputs[name][1], gone, torch.nan) for name, value in tensors.items()}
    marked = labels.index_fill(0, gone, -1) if how == "label" else labels
    weight = weights(9)
    marked_weight = weight.index_fill(0, gone, 0.0) if how == "weight" else weight
    value, gradients = with_gradients(case, poisoned, marked, sample_weight=marked_weight, reduction=reduction)
    expected, expected_gradients = with_gradients(
        case, case.rows(tensors, kept), labels[kept], sample_weight=weight[kept], reduction=reduction
    )
    close(value, expected)
    for name, gradient in case.rows(gradients, kept).items():
        close(gradient, expected_gradients[name])
    for gradient in case.rows(gradients, gone).values():
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_unlabelled_rows_are_zero_without_reduction(case):
    if not case.per_sample:
        pytest.skip("one value per branch")
    tensors, labels = case.make(6)
    labels[2] = -1
    values = case(tensors, labels, reduction="none")
    assert values[2] == 0
    chosen = labels >= 0 if case.name != "co-teaching" else values > 0  # some are left out: of 5 each keeps 3
    assert (values[chosen] > 0).all() and chosen.sum() >= 3


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("size, label", [(0, None), (3, -1)])
def test_the_empty_set_is_a_connected_zero(case, reduction, size, label):
    tensors, labels = case.make(size)
    if label is not None:
        labels.fill_(label)
    value, gradients = with_gradients(case, tensors, labels, reduction=reduction)
    assert torch.equal(value, torch.zeros_like(value))
    for name, gradient in gradients.items():
        assert gradient.shape == tensors[name].shape
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("label", [0, 3])
def test_one_sample_is_finite(case, label):
    tensors, _ = case.make(1)
    value, gradients = with_gradients(case, tensors, torch.tensor([label]))
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_one_class_only_is_finite(case):
    tensors, _ = case.make(5)
    value, gradients = with_gradients(case, tensors, torch.full((5,), 2))
    assert value.isfinite() and value > 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_nan_is_not_hidden(case):
    tensors, labels = case.make(6)
    for name, value in tensors.items():
        poisoned = dict(tensors)
        poisoned[name] = value.index_fill(case.inputs[name][1], torch.tensor([3]), torch.nan)
        assert case(poisoned, labels).isnan(), name


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), size=st.integers(1, 12), holes=st.integers(0, 2))
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_order_of_the_batch_does_not_matter(case, reduction, seed, size, holes):
    tensors, labels = case.make(size, seed)
    labels[:holes] = -1
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    expected = case(tensors, labels, reduction=reduction)
    actual = case(case.rows(tensors, order), labels[order], reduction=reduction)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def scattered(value):
    """The same values as every second element of a larger tensor, with the axes stored in reverse."""
    reverse = tuple(reversed(range(value.ndim)))
    store = value.new_full((*reversed(value.shape), 2), torch.nan if value.is_floating_point() else -7)
    store[..., 1] = value.permute(reverse)
    return store[..., 1].permute(reverse)


def test_layouts_and_inputs_left_alone(case, close):
    tensors, labels = case.make(6)
    expected, expected_gradients = with_gradients(case, tensors, labels, sample_weight=weights(6))
    leaves = {name: scattered(value).requires_grad_() for name, value in tensors.items()}
    value = case(leaves, scattered(labels), sample_weight=scattered(weights(6)))
    close(value, expected)
    for name, gradient in zip(leaves, torch.autograd.grad(value, list(leaves.values()))):
        close(gradient, expected_gradients[name])
        assert torch.equal(leaves[name].detach(), tensors[name]), name
    again, labels_again = case.make(6)
    assert all(torch.equal(tensors[name], again[name]) for name in tensors)
    assert torch.equal(labels, labels_again)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_gives_float32(case, dtype, autocast):
    tensors, labels = case.make(8)
    half = {name: value.to(dtype) for name, value in tensors.items()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value, gradients = with_gradients(case, half, labels)
    assert value.dtype == torch.float32
    assert all(gradient.dtype == dtype for gradient in gradients.values())
    exact = case({name: part.double() for name, part in half.items()}, labels)
    torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-5)


def test_autocast_leaves_float32_exact(case):
    tensors, labels = case.make(8, dtype=torch.float32)
    expected = case(tensors, labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(case(tensors, labels), expected)
        if case.labelled:  # whichever argument comes first
            assert torch.equal(case.function(reduction="mean", labels=labels, **case.options, **tensors), expected)


def test_mixed_precision_takes_the_wider(case):
    tensors, labels = case.make(8)
    first = next(iter(tensors))
    mixed = {name: value if name == first else value.float() for name, value in tensors.items()}
    assert case(mixed, labels).dtype == torch.float64


def test_compiles_whole_once_for_all_batch_sizes(case, close):
    torch._dynamo.reset()
    compiled = torch.compile(case.function, backend="aot_eager", fullgraph=True, dynamic=True)
    names = list(case.inputs)
    for size in (11, 17, 23):
        tensors, labels = case.make(size)
        labels[1] = -1
        leaves = [tensors[name].requires_grad_() for name in names]
        extra = {"labels": labels} if case.labelled else {}
        with torch._dynamo.config.patch(error_on_recompile=size > 11):
            value = compiled(**dict(zip(names, leaves)), **extra, **case.options)
            gradients = torch.autograd.grad(value, leaves)
        expected = case.function(**dict(zip(names, leaves)), **extra, **case.options)
        close(value.detach(), expected.detach())
        for gradient, wanted in zip(gradients, torch.autograd.grad(expected, leaves)):
            close(gradient, wanted)


@pytest.mark.skipif(torch.version.cuda is None, reason="needs a CUDA build of PyTorch (no GPU)")
def test_reads_no_value_on_the_host_of_an_accelerator(case):
    """A fake tensor has no values: whatever waits for the device to read one raises here."""
    with torch._subclasses.FakeTensorMode():
        leaves = {}
        for name, (shape, axis) in case.inputs.items():
            leaves[name] = torch.empty(*shape[:axis], 9, *shape[axis:], device="cuda", requires_grad=True)
        labels = torch.zeros(9, dtype=torch.int64, device="cuda")
        for reduction in REDUCTIONS:
            value = case(leaves, labels, reduction=reduction, sample_weight=torch.empty(9, device="cuda"))
            assert value.device.type == "cuda"
            assert value.requires_grad
