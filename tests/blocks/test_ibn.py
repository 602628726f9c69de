"""ResNet-50-IBN-a: where which normalisation stands, what it computes, and its checkpoints."""

import pytest
import torch
from torch import nn

from ferkit.blocks.backbones.ibn import InstanceBatchNorm, split_resnet_ibn_a

pytest.importorskip("torchvision")


def test_first_half_is_normalised_by_image_second_by_batch():
    x = torch.randn(3, 6, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    layer = InstanceBatchNorm(6)
    y = layer(x)
    for dims, part in (((2, 3), slice(0, 3)), ((0, 2, 3), slice(3, 6))):
        mean, variance = x[:, part].mean(dims, keepdim=True), x[:, part].var(dims, keepdim=True, correction=0)
        torch.testing.assert_close(y[:, part], (x[:, part] - mean) / (variance + 1e-5).sqrt())
    layer.eval()  # running statistics have moved a tenth of the way: only the second half uses them
    assert torch.equal(layer(x)[:, :3], y[:, :3])
    expected = (x[:, 3:] - layer.BN.running_mean.view(3, 1, 1)) / (layer.BN.running_var.view(3, 1, 1) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x)[:, 3:], expected)


def test_an_odd_number_of_channels_gives_the_batch_one_more():
    layer = InstanceBatchNorm(5)
    assert layer.IN.num_features == 2 and layer.BN.num_features == 3
    assert sum(parameter.numel() for parameter in layer.parameters()) == 10
    with pytest.raises(ValueError, match="channels: expected"):
        InstanceBatchNorm(1)


@pytest.mark.parametrize(("stages", "blocks"), [(0, 0), (2, 3 + 4), (3, 3 + 4 + 6)])
def test_it_stands_after_the_first_convolution_of_the_first_stages(stages, blocks):
    with torch.device("meta"):
        parts = split_resnet_ibn_a(stages)
    found = {name for name, module in parts.trunk.named_modules() if isinstance(module, InstanceBatchNorm)}
    depth = {1: 3, 2: 4, 3: 6}
    assert (
        found == {f"layer{i}.{j}.bn1" for i in range(1, stages + 1) for j in range(depth[i])} and len(found) == blocks
    )
    assert all(isinstance(block.bn1, nn.BatchNorm2d) for block in parts.stage)


def test_keys_are_those_of_the_released_code():
    with torch.device("meta"):
        keys = split_resnet_ibn_a(stages=3).trunk.state_dict()
    assert {key.removeprefix("layer3.5.bn1.") for key in keys if key.startswith("layer3.5.bn1.")} == {
        *("IN.weight", "IN.bias", "BN.weight", "BN.bias"),
        *("BN.running_mean", "BN.running_var", "BN.num_batches_tracked"),
    }


@pytest.mark.parametrize("stages", [-1, 5, 1.5])
def test_bad_stages(stages):
    with pytest.raises((ValueError, TypeError), match="stages: expected"):
        split_resnet_ibn_a(stages)
