"""Backbones against torchvision's own models with the same weights."""

from __future__ import annotations

import pytest
import torch

from ferkit.blocks import BranchedBackbone
from ferkit.blocks.backbones import BACKBONES, split_backbone
from ferkit.blocks.pretrained import load_pretrained

models = pytest.importorskip("torchvision.models")


def randomized(model, seed=0):
    """Fresh random weights and running statistics, so that a tensor left out or misplaced shows."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            value.add_(torch.randn(value.shape, generator=generator), alpha=0.05)
    return model.eval()


def feature_map(model, name, images):
    if name == "mobilenet_v2":
        return model.features(images)
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


@pytest.mark.parametrize(
    ("name", "width", "classifier"), [("mobilenet_v2", 1280, "classifier.1."), ("resnet18", 512, "fc.")]
)
def test_same_weights_give_torchvisions_feature_map(name, width, classifier):
    source = randomized(getattr(models, name)(weights=None))
    model = BranchedBackbone(name, num_classes=2).eval()
    report = load_pretrained(model, source.state_dict())
    assert report.unused == [f"{classifier}weight", f"{classifier}bias"] and not report.mismatched
    assert all(key.split(".")[0] in ("target_classifier", "branch_classifiers") for key in report.missing)
    assert len(report.matched) == len(source.state_dict()) - 2
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = feature_map(source, name, images)
        assert expected.shape == (2, width, 2, 3)
        for stage in (model.target, *model.branches):
            assert torch.equal(stage(model.trunk(images)), expected)
        assert torch.equal(model(images).features, expected.mean((2, 3)))


def test_mobilenet_is_cut_before_its_last_stride():
    parts = split_backbone("mobilenet_v2")
    assert parts.features == 1280 and parts.stage_prefix == "features."
    images = torch.zeros(1, 3, 64, 64)
    middle = parts.trunk.eval()(images)
    assert middle.shape == (1, 96, 4, 4)
    assert parts.stage.eval()(middle).shape == (1, 1280, 2, 2)
    names = [f"features.{key}" for key in parts.stage.state_dict()] + list(parts.trunk.state_dict())
    assert set(names) == {key for key in models.mobilenet_v2().state_dict() if key.startswith("features.")}


def test_branches_of_mobilenet_leave_the_shared_map_alone():
    model = BranchedBackbone("mobilenet_v2", num_classes=2)
    middle = model.trunk(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    before = middle.clone()
    model.branches[0](middle)
    assert torch.equal(middle, before)


def test_a_checkpoint_of_another_family_is_reported():
    model = BranchedBackbone("mobilenet_v2", num_classes=2)
    with pytest.raises(ValueError, match=r"expected keys such as 'trunk\.features"):
        load_pretrained(model, models.resnet18(weights=None).state_dict())


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_keeps_the_contract(name):
    parts = split_backbone(name)
    got = parts.stage.eval()(parts.trunk.eval()(torch.zeros(1, 3, 48, 48)))
    assert got.ndim == 4 and got.shape[:2] == (1, parts.features)
