"""BranchedBackbone: branches in training, the plain model in eval, checkpoints."""

import pytest
import torch
from torch import nn

from ferkit.blocks.backbones import BackboneParts
from ferkit.blocks.branched_backbone import BranchedBackbone
from ferkit.blocks.pretrained import load_pretrained, read_checkpoint


def images(count=6, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_small_is_under_a_million_parameters():
    model = BranchedBackbone("small", num_classes=8, mining="none")
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000


@pytest.mark.parametrize(("mining", "branches", "outputs"), [("leave-one-out", 5, 4), ("all-class", 5, 5)])
def test_mining_sets_branches_and_classes(mining, branches, outputs):
    output = BranchedBackbone("small", num_classes=5, mining=mining)(images())
    assert output.auxiliary_logits.shape == (branches, 6, outputs)


def test_eval_runs_no_branch_and_ignores_batch_mates():
    model = BranchedBackbone("small", num_classes=3)
    model(images())
    model.eval()
    ran = []
    for branch in model.branches:
        branch.register_forward_hook(lambda *_: ran.append(1))
    batch = images()
    together = model(batch)
    assert not ran and together.auxiliary_features is None and together.auxiliary_logits is None
    alone = torch.cat([model(image[None]).logits for image in batch])
    torch.testing.assert_close(together.logits, alone)
    assert model.forward_branches(batch).auxiliary_logits.shape == (3, 6, 2) and len(ran) == 3


def test_each_sample_goes_once_through_every_branch():
    model = BranchedBackbone("small", num_classes=4)
    calls = []
    for part in (model.trunk, model.target, *model.branches):
        part.register_forward_hook(lambda part, inputs, output: calls.append(len(inputs[0])))
    model(images())
    assert calls == [6] * 6


def test_branches_start_equal_and_are_separate():
    model = BranchedBackbone("small", num_classes=3)
    states = [branch.state_dict() for branch in (model.target, *model.branches)]
    assert all(torch.equal(states[0][key], state[key]) for state in states for key in state)
    assert len({state["0.conv1.weight"].data_ptr() for state in states}) == 4


def test_another_family_is_one_set_of_parts():
    trunk, stage = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
    model = BranchedBackbone(BackboneParts(trunk, stage, 5, "stage."), num_classes=2)
    assert model(images()).auxiliary_features.shape == (2, 6, 5)


def test_imagenet_checkpoint_fills_trunk_target_and_branches(tmp_path):
    from torchvision.models import resnet18

    source = resnet18(weights=None)
    path = tmp_path / "resnet18.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in source.state_dict().items()}}, path)
    model = BranchedBackbone("resnet18", num_classes=3)
    report = load_pretrained(model, path)
    assert report.unused == ["fc.weight", "fc.bias"] and not report.mismatched
    assert {key.split(".")[0] for key in report.missing} == {"target_classifier", "branch_classifiers"}
    assert "120 tensors loaded" in str(report) and "2 unused: fc.weight, fc.bias" in str(report)
    reference = source.layer4[1].conv2.weight
    assert all(torch.equal(stage[1].conv2.weight, reference) for stage in (model.target, *model.branches))
    assert torch.equal(model.trunk.conv1.weight, source.conv1.weight)
    assert len({stage[1].conv2.weight.data_ptr() for stage in model.branches}) == 3


def test_a_tensor_of_another_shape_is_reported_and_left():
    model = BranchedBackbone("small", num_classes=2)
    before = model.trunk.conv1.weight.clone()
    report = load_pretrained(model, {"conv1.weight": torch.zeros(1, 3, 3, 3), "bn1.bias": torch.ones(24)})
    assert report.mismatched == ["conv1.weight: expected (24, 3, 3, 3), got (1, 3, 3, 3)"]
    assert torch.equal(model.trunk.conv1.weight, before) and model.trunk.bn1.bias.eq(1).all()


def test_bad_checkpoints_are_named(tmp_path):
    model = BranchedBackbone("small", num_classes=2)
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(ValueError, match=r"broken\.pth.*not a readable checkpoint"):
        load_pretrained(model, broken)
    with pytest.raises(ValueError, match="expected a file"):
        read_checkpoint(tmp_path / "missing.pth")
    with pytest.raises(ValueError, match="expected keys such as 'trunk"):
        load_pretrained(model, {"encoder.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match="expected a state dict, got list"):
        load_pretrained(model, [1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "vgg"}, "backbone: expected one of 'small'"),
        ({"num_classes": 1}, "num_classes"),
        ({"mining": "some"}, "mining: expected one of"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BranchedBackbone(**{"backbone": "small", "num_classes": 3, **arguments})


def test_bad_images():
    model = BranchedBackbone("small", num_classes=2)
    with pytest.raises(ValueError, match=r"images: expected shape \(N, 3, H, W\), got \(2, 1, 32, 32\)"):
        model(torch.zeros(2, 1, 32, 32))
    with pytest.raises(TypeError, match="floating-point"):
        model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
