"""Checkpoints under the names of others: released DMUE, face-recognition trainers, ferkit's own."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from ferkit.blocks import BranchedBackbone, RoutedBackbone, load_pretrained, split_model

CLASSES = 3


def model(mining="leave-one-out", num_classes=CLASSES, seed=0, **options):
    torch.manual_seed(seed)
    return BranchedBackbone("small", num_classes, mining, **options)


def plain_state(made, prefix=""):
    """The backbone of a model under the names it would have alone."""
    trunk = {f"{prefix}{key}": value for key, value in made.trunk.state_dict().items()}
    stage = {f"{prefix}layer4.{key}": value for key, value in made.target.state_dict().items()}
    return trunk | stage


def released_state(made):
    """A snapshot as DMUE's released trainer writes it: copies 0..C-1 of the stage, the target as copy C."""
    state = {f"module.base.{key}": value for key, value in made.trunk.state_dict().items()}
    for index, (stage, head) in enumerate(
        zip((*made.branches, made.target), (*made.branch_classifiers, made.target_classifier))
    ):
        state |= {f"module.base.layer4_{index}.{key}": value for key, value in stage.state_dict().items()}
        state[f"module.classifiers.{index}.weight"] = head.weight
    extra = {"bottleneck.weight": torch.ones(128), "project_w.0.weight": torch.ones(CLASSES, 2 * CLASSES)}
    return state | {f"module.{key}": value for key, value in extra.items()}


def drift(made):
    """Every stage and classifier different, so that one in the place of another shows."""
    with torch.no_grad():
        for number, value in enumerate(made.state_dict().values()):
            if value.is_floating_point():
                value.add_(0.01 * number + 0.01)
    return made


def same(first, second):
    assert list(first) == list(second)
    return all(torch.equal(value, second[key]) for key, value in first.items())


def test_released_snapshot_fills_every_branch_with_its_own():
    source, made = drift(model()), model(seed=1)
    report = load_pretrained(made, released_state(source))
    assert report.layout == "released DMUE" and not report.mismatched and not report.missing
    assert report.unused == ["bottleneck.weight", "project_w.0.weight"]
    assert same(source.state_dict(), made.state_dict())
    assert not torch.equal(made.branches[0].state_dict()["0.conv1.weight"], made.target.state_dict()["0.conv1.weight"])


def test_released_snapshot_fills_the_neck_where_there_is_one():
    torch.manual_seed(0)
    source, made = drift(RoutedBackbone("small", CLASSES)), RoutedBackbone("small", CLASSES)
    neck = {f"module.bottleneck.{key}": value for key, value in source.neck.state_dict().items()}
    report = load_pretrained(made, released_state(source) | neck)
    assert report.layout == "released DMUE" and report.unused == ["project_w.0.weight"] and not report.missing
    assert same(source.state_dict(), made.state_dict())


def test_released_snapshot_of_other_classes_starts_every_branch_from_the_target():
    source, made = drift(model()), model(num_classes=4, seed=1)
    heads = {key: value.clone() for key, value in made.state_dict().items() if "classifier" in key}
    report = load_pretrained(made, released_state(source))
    assert all(same(source.target.state_dict(), stage.state_dict()) for stage in (made.target, *made.branches))
    assert report.mismatched == [f"classifiers.3.weight: expected (4, 128), got ({CLASSES}, 128)"]
    assert [key for key in report.unused if "classifiers" in key] == [
        f"classifiers.{index}.weight" for index in range(3)
    ]
    assert {key.split(".")[0] for key in report.unused} == {*("layer4_0", "layer4_1", "layer4_2")} | {
        *("classifiers", "bottleneck", "project_w")
    }
    assert all(torch.equal(made.state_dict()[key], value) for key, value in heads.items())
    assert set(report.missing) == set(heads)


def test_released_snapshot_deploys_into_the_plain_model():
    source, made = drift(model()), model(mining="none", seed=1)
    report = load_pretrained(made, released_state(source))
    assert not report.missing and same(source.target_state_dict(), made.state_dict())
    made.eval(), source.eval()
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(made(images).logits, source(images).logits)


def test_released_converted_target_fills_every_branch():
    source, made = drift(model()), model(seed=1)
    state = plain_state(source, "base.") | {"classifiers.0.weight": source.target_classifier.weight}
    report = load_pretrained(made, state | {"bottleneck.weight": torch.ones(128)})
    assert report.layout == "released DMUE" and report.unused == ["bottleneck.weight"]
    assert all(same(source.target.state_dict(), stage.state_dict()) for stage in (made.target, *made.branches))
    assert torch.equal(made.target_classifier.weight, source.target_classifier.weight)
    assert report.missing == [f"branch_classifiers.{index}.weight" for index in range(CLASSES)]


def test_all_class_branches_take_the_stages_and_leave_the_classifiers():
    source, made = drift(model()), model(mining="all-class", seed=1)
    report = load_pretrained(made, released_state(source))
    assert same(source.branches.state_dict(), made.branches.state_dict())
    assert report.mismatched == [
        f"classifiers.{index}.weight: expected ({CLASSES}, 128), got ({CLASSES - 1}, 128)" for index in range(CLASSES)
    ]


@pytest.mark.parametrize("prefix", ["feat_net.", "backbone.", "module.backbone.", "module.", "encoder."])
def test_face_recognition_checkpoints(prefix):
    """The trainer's own heads do not match, whatever they are called: reported, and no obstacle."""
    source, made = drift(model()), model(seed=1)
    heads = {"loss_layer.weight": torch.ones(128, 9), "head.weight": torch.ones(128, 9)}
    heads |= {f"{prefix}output_layer.3.weight": torch.ones(5, 5), f"{prefix}input_layer.0.weight": torch.ones(4, 4)}
    heads |= {f"{prefix}bn1.bias": torch.ones(3)}
    report = load_pretrained(made, {"epoch": 17, "state_dict": plain_state(source, prefix) | heads})
    assert report.layout == "backbone"
    assert report.unused == ["loss_layer.weight", "head.weight", "output_layer.3.weight", "input_layer.0.weight"]
    assert report.mismatched == ["bn1.bias: expected (24,), got (3,)"]
    assert "trunk.bn1.bias" in report.missing and torch.equal(made.trunk.bn1.weight, source.trunk.bn1.weight)
    assert all(same(source.target.state_dict(), stage.state_dict()) for stage in (made.target, *made.branches))
    text = str(report)
    assert text.startswith(f"{len(plain_state(source)) - 1} tensors loaded (backbone layout); 1 mismatched: bn1.bias")
    assert "4 unused: loss_layer.weight, head.weight" in text


@pytest.mark.parametrize("prefix", ["", "model."])
def test_its_own_checkpoints(prefix):
    source, made = drift(model()), model(seed=1)
    report = load_pretrained(made, {f"{prefix}{key}": value for key, value in source.state_dict().items()})
    assert report.layout == "ferkit" and not (report.missing or report.unused or report.mismatched)
    assert same(source.state_dict(), made.state_dict())
    deployed, made = source.target_state_dict(), model(seed=1)
    report = load_pretrained(made, deployed)
    assert report.missing == [f"branch_classifiers.{index}.weight" for index in range(CLASSES)]
    assert all(same(source.target.state_dict(), stage.state_dict()) for stage in (made.target, *made.branches))


def test_a_child_named_like_a_prefix_keeps_its_name():
    from ferkit.blocks.backbones import BackboneParts

    trunk = nn.Sequential()
    trunk.model = nn.Conv2d(3, 4, 3)
    made = BranchedBackbone(BackboneParts(trunk, nn.Conv2d(4, 5, 3), 5, "stage."), num_classes=2)
    report = load_pretrained(made, {"module.model.weight": torch.ones(4, 3, 3, 3), "stage.bias": torch.ones(5)})
    assert report.matched == ["model.weight", "stage.bias"]
    assert made.trunk.model.weight.eq(1).all() and all(
        stage.bias.eq(1).all() for stage in (made.target, *made.branches)
    )


def test_a_child_named_like_a_copy_is_itself():
    """A network with block, block_1 and block_2 in its last stage is not a released snapshot of block."""
    torch.manual_seed(0)
    source, plain = (
        nn.Sequential(
            OrderedDict((name, nn.Conv2d(3, 3, 3, padding=1)) for name in ("stem", "block", "block_1", "block_2"))
        )
        for _ in range(2)
    )
    made = BranchedBackbone(split_model(plain, "block"), num_classes=2)
    report = load_pretrained(made, source.state_dict())
    assert report.layout == "backbone" and not (report.unused or report.mismatched)
    for stage in (made.target, *made.branches):
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in stage.state_dict().items())


@pytest.mark.parametrize(("backbone", "unused"), [("resnet50_ibn_a_released", 0), ("resnet50_ibn_a", 6 * 7)])
def test_released_ibn_checkpoints_need_three_stages(backbone, unused):
    pytest.importorskip("torchvision")
    from ferkit.blocks.backbones import split_backbone

    parts = split_backbone("resnet50_ibn_a_released")
    state = {f"feat_net.{key}": value for key, value in parts.trunk.state_dict().items()}
    report = load_pretrained(BranchedBackbone(backbone, num_classes=2, mining="none"), state)
    assert len(report.unused) == unused and all(key.startswith("layer3.") for key in report.unused)
    assert len([key for key in report.missing if key.startswith("trunk.")]) == (6 * 5 if unused else 0)
