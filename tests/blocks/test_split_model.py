"""Any model cut at a named module: the parts give what the model gives, and what cannot be cut says why."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ferkit.blocks import BranchedBackbone, load_pretrained, split_model
from ferkit.blocks.backbones import split_backbone


class Net(nn.Module):
    """Three convolutions by name, a pooling and a classifier; ``forward`` is the children in order."""

    def __init__(self, head=True):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(6, 8, 3, 2, 1))
        self.last = nn.ReLU(inplace=True)
        if head:
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.flat = nn.Flatten()
            self.fc = nn.Linear(8, 5)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


class Pooled(Net):
    def forward(self, x):  # as torchvision's mobile networks: the mean is taken between the children
        return self.fc(self.last(self.body(self.stem(x))).mean((2, 3)))


class Flat(Net):
    def forward(self, x):
        return self.head(self.last(self.body(self.stem(x))).flatten(1))

    def __init__(self):
        super().__init__(head=False)
        self.head = nn.Linear(8 * 8 * 8, 5)


class Auxiliary(Pooled):
    """With classifiers that only training asks, one before the cut and one after (as GoogLeNet and Inception)."""

    def __init__(self):
        super().__init__(head=False)
        body, last = self.body, self.last
        del self.body, self.last
        self.aux1, self.body, self.aux2, self.last = nn.Linear(4, 5), body, nn.Conv2d(9, 9, 1), last
        self.fc = nn.Linear(8, 5)


class Unregistered(Net):
    def forward(self, x):  # does between its children what no child shows
        return self.fc(F.relu(self.last(self.body(self.stem(x)) - 0.1) * 2).mean((2, 3)))


class Backwards(Net):
    def forward(self, x):
        return self.fc(self.last(self.body(self.stem(x.flip(3)))).mean((2, 3)))


class ChannelsLast(Net):
    def forward(self, x):
        return self.fc(self.turn(self.body(self.stem(x))).mean((1, 2)))

    def __init__(self):
        super().__init__(head=False)
        self.turn = Turn()
        self.fc = nn.Linear(8, 5)


class Turn(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)


def images(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("make", "stage", "before", "after"),
    [
        (Net, "body", ["stem"], ["body", "last"]),
        (Net, "body.2", ["stem", "body"], ["body", "last"]),
        (Net, "stem.1", ["stem"], ["stem", "body", "last"]),
        (Net, "body.0", ["stem"], ["body", "last"]),
        (Pooled, "body.2", ["stem", "body"], ["body", "last"]),
        (Flat, "body.2", ["stem", "body"], ["body", "last"]),
        (Auxiliary, "body.2", ["stem", "body"], ["body", "last"]),
        (lambda: Net(head=False), "body.2", ["stem", "body"], ["body", "last"]),
    ],
)
def test_parts_are_the_models_own_and_give_its_map(make, stage, before, after):
    torch.manual_seed(0)
    model = make()
    parts = split_model(model, stage)
    assert [name for name, _ in parts.trunk.named_children()] == before
    assert [name for name, _ in parts.stage.named_children()] == after
    assert parts.features == 8 and parts.stage_prefix == ""
    keys = list(parts.trunk.state_dict()) + list(parts.stage.state_dict())
    assert keys == [key for key in model.state_dict() if not key.startswith(("fc.", "head.", "aux"))]
    assert {id(p) for part in parts[:2] for p in part.parameters()} <= {id(p) for p in model.parameters()}
    model.eval()
    with torch.no_grad():
        expected = model.last(model.body(model.stem(images())))
        assert torch.equal(parts.stage(parts.trunk(images())), expected)


def test_it_looks_without_touching():
    model = Net()
    model.body.eval()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    before = torch.get_rng_state()
    split_model(model, "body.2")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert model.training and model.stem.training and not model.body.training and not model.body[0].training
    assert not any(child._forward_hooks or child._forward_pre_hooks for child in model.modules())


def test_the_head_can_be_named():
    assert [name for name, _ in split_model(Net(), "body", head="last").stage.named_children()] == ["body"]


def test_round_trip_by_the_models_own_names():
    torch.manual_seed(0)
    source = Net()
    state = {f"module.{key}": value + 0.01 for key, value in source.state_dict().items()}
    model = BranchedBackbone(split_model(Net(), "body.2"), num_classes=3)
    report = load_pretrained(model, state)
    assert report.unused == ["fc.weight", "fc.bias"] and not report.mismatched
    assert {key.split(".")[0] for key in report.missing} == {"target_classifier", "branch_classifiers"}
    for stage in (model.target, *model.branches):
        assert torch.equal(stage.body.get_submodule("2").weight, source.body[2].weight + 0.01)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Net, {"stage": "layer4"}, "stage: expected one of 'stem', 'body', 'last', 'pool', 'flat', 'fc'"),
        (Net, {"stage": "body.7"}, "stage: expected one of '0', '1', '2' at '7', got 'body.7'"),
        (Net, {"stage": "last.0"}, "expected 'last' of 'last.0' to be a Sequential, got ReLU"),
        (Net, {"stage": "stem"}, "stage: expected a module with others before it, got 'stem'"),
        (Net, {"stage": "body", "head": "stem"}, "head: expected one of 'last', 'pool', 'flat', 'fc', got 'stem'"),
        (Net, {"stage": "pool"}, r"expected a map \(N, D, h, w\) of more than one pixel from 'pool' on"),
        (Net, {"stage": "last"}, "'last' writes into its input"),
        (Net, {"stage": "body", "image_size": 8}, r"more than one pixel from 'body' on, got \(2, 8, 1, 1\)"),
        (Unregistered, {"stage": "body"}, "do not give what its 'fc' reads"),
        (Backwards, {"stage": "body"}, "do not give what its 'fc' reads"),
        (
            ChannelsLast,
            {"stage": "body", "image_size": 32},
            "expected a map with the channels second from 'body' on, got them last",
        ),
        (Flat, {"stage": "body", "image_size": 32}, r"expected one that takes images \(2, 3, 32, 32\)"),
    ],
)
def test_what_cannot_be_cut(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        split_model(make(), **arguments)


def test_bad_model():
    with pytest.raises(TypeError, match=r"model: expected a torch\.nn\.Module, got str"):
        split_model("resnet18", "layer4")
    with pytest.raises(TypeError, match="stage: expected a name, got int"):
        split_model(Net(), 3)
    with pytest.raises(TypeError, match=r"backbone: expected a name or BackboneParts \(split_model\), got Net"):
        BranchedBackbone(Net(), num_classes=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm:resnet18", "expected 'timm:NAME:STAGE' or 'torchvision:NAME:STAGE', got 'timm:resnet18'"),
        ("keras:resnet18:layer4", "expected 'timm:NAME:STAGE'"),
        ("torchvision:resnet1:layer4", "expected a model of torchvision, got 'resnet1'"),
    ],
)
def test_bad_names(name, message):
    if name.startswith("torchvision"):
        pytest.importorskip("torchvision")
    with pytest.raises(ValueError, match=message):
        split_backbone(name)


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("resnet18:layer4", "resnet18"),
        ("mobilenet_v2:features.14", "mobilenet_v2"),
        ("shufflenet_v2_x1_0:stage4", "shufflenet_v2"),
    ],
)
def test_torchvisions_by_name_are_the_adapters_of_that_name(name, same):
    pytest.importorskip("torchvision")
    parts, known = split_backbone(f"torchvision:{name}"), split_backbone(same)
    assert parts.features == known.features
    theirs = [known.trunk.state_dict(), {known.stage_prefix + key: v for key, v in known.stage.state_dict().items()}]
    for mine, their in zip((parts.trunk.state_dict(), parts.stage.state_dict()), theirs):
        assert {key: value.shape for key, value in mine.items()} == {key: value.shape for key, value in their.items()}


@pytest.mark.parametrize(
    ("name", "features"),
    [("resnet18:layer4", 512), ("mobilenetv3_small_050:blocks.5", 288), ("convnext_atto:stages.3", 320)],
)
def test_timms_by_name(name, features):
    timm = pytest.importorskip("timm")
    model = BranchedBackbone(f"timm:{name}", num_classes=2)
    output = model(images())
    assert output.features.shape == (2, features) and output.auxiliary_features.shape == (2, 2, features)
    report = load_pretrained(model, timm.create_model(name.split(":")[0]).state_dict())
    assert {key.split(".")[0] for key in report.missing} == {"target_classifier", "branch_classifiers"}


def test_without_timm_its_name_says_so():
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="needs timm: pip install timm"):
            split_backbone("timm:resnet18:layer4")
    else:
        pytest.skip("timm is installed")
