"""AdaptiveSimilarity: the network by hand, its statistics, masks, small batches, bad input."""

import math
import re

import pytest
import torch
from torch.autograd import gradcheck

from ferkit.blocks import AdaptiveSimilarity


def make(size=5, count=3, dim=4, seed=0, hidden=(6, 5), dtype=torch.float64):
    torch.manual_seed(seed)
    block = AdaptiveSimilarity(dim, hidden).to(dtype)
    for norm in block.norms:  # statistics and scales that are not their defaults
        for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            value.data.uniform_(0.5, 1.5)
    return block, torch.randn(size, dim, dtype=dtype), torch.randn(size, count, dim, dtype=dtype)


def by_hand(block, center, neighbors):
    pairs = [torch.cat([c, v]) for c, row in zip(center, neighbors) for v in row]
    values = torch.stack(pairs)
    for layer, norm in zip(block.layers, block.norms):
        values = values @ layer.weight.T + layer.bias
        if block.training:
            mean, variance = values.mean(0), values.var(0, correction=0)
        else:
            mean, variance = norm.running_mean, norm.running_var
        values = (values - mean) / (variance + 1e-3).sqrt() * norm.weight + norm.bias
        values = values.clamp_min(0)
    score = values @ block.output.weight[0] + block.output.bias
    return torch.sigmoid(score.clamp_min(-1.3)).view(neighbors.shape[:2])


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_network_by_hand(training):
    block, center, neighbors = make()
    block.train(training)
    torch.testing.assert_close(block(center, neighbors), by_hand(block, center, neighbors))


def test_running_statistics_are_of_samples_and_neighbours_jointly():
    block, center, neighbors = make()
    first = torch.cat([center.unsqueeze(1).expand(-1, 3, -1), neighbors], 2).flatten(0, 1)
    first = first @ block.layers[0].weight.T + block.layers[0].bias
    norm = block.norms[0]
    mean = 0.99 * norm.running_mean + 0.01 * first.mean(0)
    variance = 0.99 * norm.running_var + 0.01 * first.var(0)
    block(center, neighbors)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.num_batches_tracked == 1


def test_released_sizes_start_and_floor():
    torch.manual_seed(0)
    block = AdaptiveSimilarity(512)
    assert [tuple(layer.weight.shape) for layer in block.layers] == [(512, 1024), (256, 512)]
    for layer in block.layers:
        assert math.isclose(layer.weight.std().item(), math.sqrt(2 / layer.in_features), rel_tol=0.02)
        assert not layer.bias.any()
    assert [(norm.eps, norm.momentum) for norm in block.norms] == [(1e-3, 0.01)] * 2
    block.output.bias.data.fill_(-1e3)
    leaf = torch.randn(4, 512, requires_grad=True)
    value = block(leaf, torch.randn(4, 8, 512))
    torch.testing.assert_close(value, torch.full((4, 8), 0.2142), atol=1e-4, rtol=0)
    assert not torch.autograd.grad(value.sum(), leaf)[0].any()  # none below the floor
    free = AdaptiveSimilarity(3, (2,), floor=None)
    free.output.bias.data.fill_(-1e3)
    assert free(torch.randn(2, 3), torch.randn(2, 2, 3)).max() == 0


@pytest.mark.parametrize("training", [True, False])
def test_masked_pairs_take_no_part(training):
    block, center, neighbors = make(6)
    block.train(training)
    mask = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]]).bool()
    center[2], neighbors = torch.nan, torch.where(mask.unsqueeze(2), neighbors, torch.nan)
    rows, columns = mask.nonzero(as_tuple=True)
    state = {name: value.clone() for name, value in block.state_dict().items()}
    leaves = [center.requires_grad_(), neighbors.requires_grad_()]
    actual = block(*leaves, mask)
    gradients = torch.autograd.grad(actual.sum(), [*leaves, *block.parameters()])
    after = {name: value.clone() for name, value in block.state_dict().items()}
    block.load_state_dict(state)
    alone = block(center[rows], neighbors[rows, columns].unsqueeze(1))  # every pair for itself
    wanted = torch.autograd.grad(alone.sum(), [*leaves, *block.parameters()])
    torch.testing.assert_close(actual[mask], alone.flatten())
    assert not actual[~mask].any()
    for gradient, expected in zip(gradients, wanted):
        torch.testing.assert_close(gradient, expected)
    for name, value in block.state_dict().items():
        torch.testing.assert_close(after[name], value)


def test_a_full_mask_changes_nothing():
    block, center, neighbors = make()
    state = {name: value.clone() for name, value in block.state_dict().items()}
    masked = block(center, neighbors, torch.ones(5, 3, dtype=torch.bool))
    after = {name: value.clone() for name, value in block.state_dict().items()}
    block.load_state_dict(state)
    torch.testing.assert_close(masked, block(center, neighbors))
    for name, value in block.state_dict().items():
        torch.testing.assert_close(after[name], value)


@pytest.mark.parametrize("size, count", [(0, 3), (3, 0), (1, 1), (0, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_small_batches_use_and_leave_the_running_statistics(size, count, masked):
    block, center, neighbors = make(size, count)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    mask = torch.ones(size, count, dtype=torch.bool) if masked else None
    actual = block.train()(center, neighbors, mask)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert actual.shape == (size, count)
    torch.testing.assert_close(actual, block.eval()(center, neighbors, mask))


def test_converts_to_synchronised_batch_norm():
    block, center, neighbors = make()
    synced = torch.nn.SyncBatchNorm.convert_sync_batchnorm(block).eval()
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in synced.norms)
    torch.testing.assert_close(synced(center, neighbors), make()[0].eval()(center, neighbors))
    mask = torch.rand(5, 3) < 0.7
    torch.testing.assert_close(synced.train()(center, neighbors, mask), make()[0](center, neighbors, mask))
    synced.reset_parameters()


def test_one_pair_left_by_the_mask_uses_the_running_statistics():
    block, center, neighbors = make(2)
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask[1, 2] = True
    trained = block.train()(center, neighbors, mask)
    torch.testing.assert_close(trained, block.eval()(center, neighbors, mask))
    assert trained[1, 2] > 0.2 and block.norms[0].num_batches_tracked == 0


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked):
    block, center, neighbors = make(4)
    block.floor = None  # a kink has no numerical derivative
    mask = torch.rand(4, 3) < 0.7 if masked else None
    assert gradcheck(lambda *values: block(*values, mask), [center.requires_grad_(), neighbors.requires_grad_()])
    block(center, neighbors, mask).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in block.parameters())


def test_autocast_with_and_without_a_mask():
    block, center, neighbors = make(16, dtype=torch.float32, hidden=(32, 16))
    exact = block(center, neighbors)
    with torch.autocast("cpu", torch.bfloat16):
        plain = block(center, neighbors)
        masked = block(center, neighbors, torch.ones(16, 3, dtype=torch.bool))
    assert plain.dtype == masked.dtype == torch.float32
    torch.testing.assert_close(plain, exact, rtol=0.05, atol=0.05)
    torch.testing.assert_close(masked, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("masked", [False, True])
def test_compiles_whole(masked):
    torch._dynamo.reset()
    block = make(dtype=torch.float32)[0]
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=True)
    for size in (5, 8):
        center, neighbors = torch.randn(size, 4), torch.randn(size, 3, 4)
        mask = torch.rand(size, 3) < 0.8 if masked else None
        torch.testing.assert_close(compiled(center, neighbors, mask), block(center, neighbors, mask))


B, X, V = make()
M = torch.ones(5, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: AdaptiveSimilarity(0), ValueError, "dim: expected a value in [1, inf], got 0"),
        (lambda: AdaptiveSimilarity(4, 512), TypeError, "hidden: expected a tuple of widths, got int"),
        (lambda: AdaptiveSimilarity(4, (0,)), ValueError, "hidden: expected a value in [1, inf], got 0"),
        (lambda: AdaptiveSimilarity(4, floor=math.inf), ValueError, "floor: expected a value in"),
        (lambda: B(X[:, :2], V), ValueError, "center: expected shape (N, 4), got (5, 2)"),
        (lambda: B(X, V[:2]), ValueError, "neighbors: expected shape (5, K, 4), got (2, 3, 4)"),
        (lambda: B(X.long(), V), TypeError, "center: expected a floating-point tensor"),
        (lambda: B(X, V, M.double()), TypeError, "mask: expected dtype torch.bool, got torch.float64"),
        (lambda: B(X, V, M[:, :2]), ValueError, "mask: expected shape (5, 3), got (5, 2)"),
        (lambda: B(X, V.to("meta")), ValueError, "neighbors: expected device cpu, got meta"),
    ],
)
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
