"""Backbones against torchvision's own models with the same weights."""

from __future__ import annotations

import copy

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


def resnet_map(model, images):
    x = model.maxpool(model.relu(model.bn1(model.conv1(images))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def released_map(model, images):
    """The stem without ReLU, and with the other pooling (both stated in the sheet of DMUE's released code)."""
    x = torch.nn.functional.max_pool2d(model.bn1(model.conv1(images)), 2)
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def shufflenet_map(model, images):
    return model.conv5(model.stage4(model.stage3(model.stage2(model.maxpool(model.conv1(images))))))


@pytest.mark.parametrize(
    ("name", "source", "width", "classifier", "feature_map"),
    [
        ("mobilenet_v2", "mobilenet_v2", 1280, "classifier.1.", lambda model, images: model.features(images)),
        ("resnet18", "resnet18", 512, "fc.", resnet_map),
        ("resnet18_released", "resnet18", 512, "fc.", released_map),
        ("shufflenet_v2", "shufflenet_v2_x1_0", 1024, "fc.", shufflenet_map),
    ],
)
def test_same_weights_give_torchvisions_feature_map(name, source, width, classifier, feature_map):
    source = randomized(getattr(models, source)(weights=None))
    model = BranchedBackbone(name, num_classes=2).eval()
    report = load_pretrained(model, source.state_dict())
    assert report.unused == [f"{classifier}weight", f"{classifier}bias"] and not report.mismatched
    assert all(key.split(".")[0] in ("target_classifier", "branch_classifiers") for key in report.missing)
    assert len(report.matched) == len(source.state_dict()) - 2
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = feature_map(source, images)
        assert expected.shape == (2, width, 2, 3)
        for stage in (model.target, *model.branches):
            assert torch.equal(stage(model.trunk(images)), expected)
        assert torch.equal(model(images).features, expected.mean((2, 3)))


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_branches_and_deploys(name, tmp_path):
    parts = split_backbone(name)
    model = BranchedBackbone(copy.deepcopy(parts), num_classes=2)
    images = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    output = model(images)
    assert output.features.shape == (3, parts.features) and output.logits.shape == (3, 2)
    assert output.auxiliary_features.shape == (2, 3, parts.features)
    assert output.auxiliary_logits.shape == (2, 3, 1)
    # Running statistics and the target have moved: what is saved is not what the plain model starts with.
    with torch.no_grad():
        for parameter in model.target.parameters():
            parameter.mul_(1.01)
    target = model.target_state_dict()
    torch.save(target, tmp_path / "target.pth")
    plain = BranchedBackbone(parts, num_classes=2, mining="none")
    assert {key: value.shape for key, value in target.items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    report = load_pretrained(plain, tmp_path / "target.pth")
    assert report.matched == list(target) and not (report.missing or report.unused or report.mismatched)
    model.eval(), plain.eval()
    with torch.no_grad():
        result = model(images)
        assert result.auxiliary_logits is None and torch.equal(result.logits, plain(images).logits)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet18", 11_689_512),
        ("resnet18_released", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet50_ibn_a", 25_557_032),  # instance normalisation has as many parameters as batch normalisation
        ("resnet50_ibn_a_released", 25_557_032),
        ("resnet101", 44_549_160),
        ("mobilenet_v2", 3_504_872),
        ("shufflenet_v2", 2_278_604),
        ("shufflenet_v2_x2_0", 7_393_996),
    ],
)
def test_parameter_counts_are_the_published_ones(name, count):
    """With a classifier of 1000 classes; figures of torchvision's published weights (``meta["num_params"]``)."""
    with torch.device("meta"):
        model = BranchedBackbone(name, num_classes=1000, mining="none", bias=True)
    assert sum(parameter.numel() for parameter in model.parameters()) == count
    source = {"shufflenet_v2": "shufflenet_v2_x1_0"}.get(name, name)
    if source in models.list_models():
        assert models.get_model_weights(source).DEFAULT.meta["num_params"] == count


def test_mobilenet_is_cut_before_its_last_stride():
    parts = split_backbone("mobilenet_v2")
    assert parts.features == 1280 and parts.stage_prefix == "features."
    images = torch.zeros(1, 3, 64, 64)
    middle = parts.trunk.eval()(images)
    assert middle.shape == (1, 96, 4, 4)
    assert parts.stage.eval()(middle).shape == (1, 1280, 2, 2)
    names = [f"features.{key}" for key in parts.stage.state_dict()] + list(parts.trunk.state_dict())
    assert set(names) == {key for key in models.mobilenet_v2().state_dict() if key.startswith("features.")}


def test_a_checkpoint_of_another_family_is_reported():
    model = BranchedBackbone("mobilenet_v2", num_classes=2)
    with pytest.raises(ValueError, match=r"expected keys such as 'trunk\.features"):
        load_pretrained(model, models.resnet18(weights=None).state_dict())


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v1", "shufflenet_v2", "resnet18"])
def test_branches_leave_the_shared_map_alone(name):
    model = BranchedBackbone(name, num_classes=2)
    middle = model.trunk(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    before = middle.clone()
    model.branches[0](middle)
    assert torch.equal(middle, before)


@pytest.mark.parametrize("name", ["resnet50", "resnet50_ibn_a", "shufflenet_v1"])
def test_a_step_reaches_every_parameter(name):
    torch.manual_seed(0)
    model = BranchedBackbone(name, num_classes=2).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)  # 50 layers of batch statistics over four images

    def loss():
        output = model(images)
        return torch.nn.functional.cross_entropy(output.logits, labels) + output.auxiliary_logits.square().mean()

    first = loss()
    first.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all() and parameter.grad.any(), key
    optimizer.step()
    assert loss() < first
