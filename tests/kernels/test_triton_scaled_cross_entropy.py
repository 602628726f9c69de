"""The Triton kernels of scaled_cross_entropy under the interpreter, against the eager ones in float64."""

import math

import pytest
import torch

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("the interpreter is for machines without a GPU", allow_module_level=True)

from ferkit.kernels import flags
from ferkit.kernels.eager import _labels, class_similarity
from ferkit.kernels.eager import scaled_cross_entropy as eager
from ferkit.kernels.triton import scaled_cross_entropy as kernels
from ferkit.ops import _select, raise_label_errors, scaled_cross_entropy

TOLERANCE = {torch.float64: 1e-13, torch.float32: 3e-6, torch.float16: 2e-3}


def problem(size, classes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, classes, generator=generator, dtype=torch.float64)
    scale = torch.rand(size, generator=generator, dtype=torch.float64)
    return logits.to(dtype), scale.to(dtype), torch.randint(-1, classes, (size,), generator=generator)


def run(module, logits, scale, labels, mean, grad):
    loss, normaliser = module.forward(logits, scale, labels, mean)
    return loss, normaliser, *module.backward(grad, logits, scale, labels, normaliser, mean)


def upstream(size, mean, dtype, seed=1):
    values = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
    return values.new_tensor(0.75) if mean else values


def check(logits, scale, labels, mean):
    grad = upstream(logits.shape[0], mean, logits.dtype)
    got = run(kernels, logits, scale, labels, mean, grad)
    want = run(eager, logits.double(), scale.double(), labels, mean, grad.double())
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    for index, (mine, theirs) in enumerate(zip(got, want)):
        assert mine.dtype == (wide if index == 1 else logits.dtype)
        close = TOLERANCE[mine.dtype]
        torch.testing.assert_close(mine.double(), theirs, rtol=close, atol=close)
    return got


# rows and columns below, at and above a block (64 rows of 4 columns, 32 of 8, 1 of 300)
SIZES = [(1, 1), (2, 4), (63, 3), (65, 4), (32, 8), (33, 7), (5, 9), (3, 100), (2, 300), (300, 8)]


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize(("size", "classes"), SIZES)
def test_matches_the_eager_kernel(size, classes, mean):
    check(*problem(size, classes), mean)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_other_types(dtype, mean):
    check(*problem(35, 7, dtype), mean)


def test_bfloat16_is_taken():
    logits, scale, labels = problem(9, 5, torch.bfloat16)
    loss, normaliser = kernels.forward(logits, scale, labels, False)
    assert loss.dtype == torch.bfloat16 and normaliser.dtype == torch.float32
    want = eager.forward(logits.double(), scale.double(), labels, False)
    torch.testing.assert_close(normaliser.double(), want[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("programs", [2, 1024])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mean_shared_by_programs(monkeypatch, dtype, programs):
    """Above a bucket the mean takes a second launch; with few programs each takes several blocks."""
    assert kernels._kind(1024, 8, True) == kernels._ALONE and kernels._kind(1025, 8, True) == kernels._SHARED
    monkeypatch.setattr(kernels, "_SINGLE", 0)
    monkeypatch.setattr(kernels, "_PARTS", programs)
    for size in (1, 32, 33, 130):
        check(*problem(size, 8, dtype), True)


def test_the_bucket_of_large_batches(monkeypatch):
    shape = kernels._shape
    assert shape(4096, 8, torch.float32) != shape(4097, 8, torch.float32)
    monkeypatch.setattr(
        kernels, "_shape", lambda size, classes, dtype, alone=False: shape(10**6, classes, dtype, alone)
    )
    check(*problem(140, 8), False)
    check(*problem(140, 8), True)


@pytest.mark.parametrize(("size", "classes"), [(0, 4), (2, 5000)])
@pytest.mark.parametrize("mean", [False, True])
def test_empty_sizes_and_rows_beyond_a_block(size, classes, mean):
    assert classes < 5000 or classes > kernels._WIDEST
    check(*problem(size, classes), mean)


@pytest.mark.parametrize("mean", [False, True])
def test_unlabelled_rows_and_nan(mean):
    logits, scale, labels = problem(12, 4)
    labels[:] = -1
    logits[0], scale[1] = math.nan, math.nan
    got = run(kernels, logits, scale, labels, mean, upstream(12, mean, torch.float32))
    assert all((got[index] == 0).all() for index in (0, 2, 3))
    labels[2:] = 1
    assert torch.isfinite(kernels.forward(logits, scale, labels, mean)[0]).all()
    labels[0] = 1
    loss = kernels.forward(logits, scale, labels, mean)[0]
    assert loss.isnan().tolist() == (True if mean else [True, *[False] * 11])


def test_extremes():
    logits = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, 1e4], [-1e4, -1e4, -1e4]])
    ones, labels = torch.ones(3), torch.tensor([1, 0, 2])
    got = run(kernels, logits, ones, labels, False, ones)
    want = run(eager, logits.double(), ones.double(), labels, False, ones.double())
    for mine, theirs, close in zip(got, want, (1e-6, 1e-6, 1e-6, 1e-3)):  # d scale adds up logits of 1e4 that cancel
        torch.testing.assert_close(mine.double(), theirs, rtol=close, atol=close)


@pytest.fixture
def flag():
    raise_label_errors()
    yield flags.label_flag(torch.device("cpu"))
    flags.label_flag(torch.device("cpu")).zero_()


@pytest.mark.parametrize("bad", [-2, 8, 4, 10**12, -(2**63)])
@pytest.mark.parametrize("shared", [False, True])
def test_labels_out_of_range_give_nan_and_set_the_flag(monkeypatch, flag, bad, shared):
    if shared:
        monkeypatch.setattr(kernels, "_SINGLE", 0)
    logits, scale, labels = problem(40, 4)
    clean = run(kernels, logits, scale, labels, False, torch.ones(40))
    assert flag.item() == 0
    labels[37] = bad
    got = run(kernels, logits, scale, labels, False, torch.ones(40))
    for index in (0, 2, 3):
        assert got[index][37].isnan().all()
        rest = torch.arange(40) != 37
        assert torch.equal(got[index][rest], clean[index][rest])
    assert kernels.forward(logits, scale, labels, True)[0].isnan()
    assert flag.item() == 1
    with pytest.raises(ValueError, match="labels: expected values"):
        raise_label_errors()
    assert flag.item() == 0


@pytest.mark.parametrize("bad", [-2, 5, 10**12])
def test_eager_kernels_on_a_device_flag_labels_too(monkeypatch, flag, bad):
    """As on a device, whose labels the host does not read: the row is NaN, the gather stays inside."""

    def compare(labels, num_classes):
        return (labels < -1) | (labels >= num_classes)

    logits, scale, labels = problem(7, 5, torch.float64)
    features = torch.randn(7, 3, dtype=torch.float64)
    labels[:5] = torch.arange(5)
    rest = torch.arange(7) != 6
    labels[6] = -1
    clean = run(eager, logits, scale, labels, False, torch.ones(7).double())
    mean, *_ = class_similarity.forward(features, labels, 5, True)
    monkeypatch.setattr(_labels, "check_label_range", lambda *_: False)
    for module in (_labels, eager, class_similarity):
        monkeypatch.setattr(module, "out_of_range", compare)
    labels[6] = bad
    got = run(eager, logits, scale, labels, False, torch.ones(7).double())
    for index in (0, 2, 3):
        assert got[index][6].isnan().all() and torch.equal(got[index][rest], clean[index][rest])
    assert eager.forward(logits, scale, labels, True)[0].isnan()
    assert flag.item() == 1
    flag.zero_()
    marked, _, sums, inverse = class_similarity.forward(features, labels, 5, True)
    assert marked[6].isnan().all() and torch.equal(marked[rest], mean[rest]) and flag.item() == 1
    grad = class_similarity.backward(torch.ones(7, 5).double(), features, labels, sums, inverse, 5, True)
    assert grad[6].isnan().all() and grad[rest].isfinite().all()


def test_layouts_repeats_and_inputs_untouched():
    (logits, scale, labels), grad = problem(37, 6), upstream(37, False, torch.float32)
    want = run(kernels, logits, scale, labels, False, grad)
    for view in (logits.t().contiguous().t(), torch.stack([logits, logits + 1], 2)[:, :, 0]):
        factor, marks = torch.stack([scale, scale + 1], 1)[:, 0], torch.stack([labels, labels + 99], 1)[:, 0]
        got = run(kernels, view, factor, marks, False, torch.stack([grad, grad], 1)[:, 0])
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(got, want))
        assert torch.equal(view, logits) and torch.equal(factor, scale) and torch.equal(marks, labels)
    one = run(kernels, logits, torch.tensor(0.5).expand(37), labels, False, torch.tensor(2.0).expand(37))
    full = run(kernels, logits, torch.full((37,), 0.5), labels, False, torch.full((37,), 2.0))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, full))


@pytest.mark.parametrize("single", [0, 10**6])
def test_every_output_is_written(monkeypatch, single):
    monkeypatch.setattr(kernels, "_SINGLE", single)

    def poison(make):
        return lambda *a, **k: (lambda t: t.fill_(torch.nan if t.is_floating_point() else 77))(make(*a, **k))

    monkeypatch.setattr(kernels.torch, "empty", poison(torch.empty))
    monkeypatch.setattr(kernels.torch, "empty_like", poison(torch.empty_like))
    for mean in (False, True):
        check(*problem(70, 5), mean)


@pytest.mark.parametrize("mean", [False, True])
def test_through_the_operator(mean):
    logits, scale, labels = problem(9, 5, torch.float64)
    results = {}
    for backend in ("triton", "eager"):
        with _select.force(backend):
            name = _select.kernel("scaled_cross_entropy", "cpu", torch.float64, 9).__name__
            assert name == f"ferkit.kernels.{backend}.scaled_cross_entropy"
            leaves = [tensor.clone().requires_grad_() for tensor in (logits, scale)]
            loss = scaled_cross_entropy(*leaves, labels, mean=mean)
            results[backend] = [loss.detach(), *torch.autograd.grad(loss.square().sum(), leaves)]
    for mine, theirs in zip(results["triton"], results["eager"]):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-13)


def test_specimens_name_every_argument():
    for specimen in kernels.specimens():
        assert [*specimen.signature, *specimen.constants] == specimen.kernel.arg_names
