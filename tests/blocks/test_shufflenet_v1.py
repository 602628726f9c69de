"""ShuffleNetV1 against the published parameters and operations, and its unit against loops."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from ferkit.blocks import BranchedBackbone
from ferkit.blocks.backbones.shufflenet_v1 import ShuffleUnit, shuffle_channels, split_shufflenet_v1


@pytest.mark.parametrize(("groups", "millions", "mflops"), [(3, "5.4", 524), (8, "6.5", 522)])
def test_parameters_and_operations_are_the_published_ones(groups, millions, mflops):
    """Published by its authors for 2x: parameters and multiply-adds, with 1000 classes and no classifier bias."""
    with torch.device("meta"):
        model = BranchedBackbone(split_shufflenet_v1(groups), num_classes=1000, mining="none").eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, 224, 224))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"{count / 1e6:.1f}" == millions and round(counter.get_total_flops() / 2e6) == mflops


def test_parameters_by_hand():
    """DMUE's, summed layer by layer: a unit has its convolutions and two numbers a channel and normalisation."""
    total, inputs = 3 * 48 * 9 + 2 * 48, 48
    for stage, (outputs, repeats) in enumerate([(480, 4), (960, 8), (1920, 4)]):
        inner = outputs // 4
        for repeat in range(repeats):
            computed = outputs - inputs if repeat == 0 else outputs
            fan_in = inputs if (stage, repeat) == (0, 0) else inputs // 3
            total += inner * fan_in + inner * 9 + computed * inner // 3 + 2 * (inner + inner + computed)
            inputs = outputs
    parts = split_shufflenet_v1()
    assert sum(p.numel() for part in (parts.trunk, parts.stage) for p in part.parameters()) == total == 3_529_776


def test_every_group_gets_an_equal_share_of_every_group():
    n, groups = 12, 3
    shuffled = shuffle_channels(torch.arange(float(n)).view(1, n, 1, 1), groups).flatten().int().tolist()
    assert sorted(shuffled) == list(range(n))
    assert shuffled == [i * groups + j for j in range(groups) for i in range(n // groups)]
    for group in torch.tensor(shuffled).chunk(groups):
        assert group.div(n // groups, rounding_mode="floor").bincount().tolist() in ([2, 1, 1], [1, 2, 1], [1, 1, 2])


@pytest.mark.parametrize(("inputs", "stride", "first"), [(12, 1, False), (12, 2, False), (6, 2, True)])
def test_unit_in_steps(inputs, stride, first):
    generator = torch.Generator().manual_seed(0)
    unit = ShuffleUnit(inputs, 24 if stride == 2 else 12, stride, groups=3, first=first).eval()
    with torch.no_grad():
        for value in unit.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.1)
    x = torch.rand(2, inputs, 6, 6, generator=generator)
    conv1, norm1, _, depthwise, norm2 = unit.branch_main_1
    conv2, norm3 = unit.branch_main_2

    def pointwise(x, weight, groups):
        return torch.cat(
            [
                torch.einsum("oi,nihw->nohw", w[:, :, 0, 0], part)
                for w, part in zip(weight.chunk(groups), x.chunk(groups, 1))
            ],
            1,
        )

    with torch.no_grad():
        y = norm1(pointwise(x, conv1.weight, 1 if first else 3)).relu()
        y = norm2(F.conv2d(y, depthwise.weight, stride=stride, padding=1, groups=y.shape[1]))
        y = torch.cat([y[:, j::3] for j in range(3)], 1)  # the channels a group gets: every third
        y = norm3(pointwise(y, conv2.weight, 3))
        expected = (y + x).relu() if stride == 1 else torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1).relu()
        got = unit(x.clone())
    assert got.shape == expected.shape == (2, 24 if stride == 2 else 12, 6 // stride, 6 // stride)
    torch.testing.assert_close(got, expected)


def test_cut_before_stage_4_with_the_released_names():
    parts = split_shufflenet_v1()
    middle = parts.trunk.eval()(torch.zeros(1, 3, 64, 64))
    assert middle.shape == (1, 960, 4, 4) and parts.stage.eval()(middle).shape == (1, 1920, 2, 2)
    assert [name for name, _ in parts.stage.named_children()] == ["12", "13", "14", "15"]
    keys = [*parts.trunk.state_dict(), *(f"features.{key}" for key in parts.stage.state_dict())]
    assert {key.rpartition(".")[0] for key in keys} == {
        *("first_conv.0", "first_conv.1"),
        *(f"features.{unit}.branch_main_1.{layer}" for unit in range(16) for layer in (0, 1, 3, 4)),
        *(f"features.{unit}.branch_main_2.{layer}" for unit in range(16) for layer in (0, 1)),
    }


@pytest.mark.parametrize("arguments", [{"groups": 4}, {"width": 0}, {"width": 1.5}])
def test_bad_arguments(arguments):
    with pytest.raises((ValueError, TypeError), match=f"{next(iter(arguments))}: expected"):
        split_shufflenet_v1(**arguments)
