"""The published backbones under the recipes: loaded, trained a step, deployed."""

import torch
from torchvision import models

from ferkit.recipes import DMUE

from .conftest import attached


def test_dmue_on_a_pretrained_resnet50(tmp_path):
    source = models.resnet50(weights=None)
    torch.save(source.state_dict(), tmp_path / "resnet50.pth")
    recipe = attached(DMUE(2, setting="published", backbone="resnet50", pretrained=str(tmp_path / "resnet50.pth")))
    assert recipe.load_report.unused == ["fc.weight", "fc.bias"]
    assert torch.equal(recipe.model.branches[1][2].conv3.weight, source.layer4[2].conv3.weight)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, generator=generator)
    optimizer = recipe.configure_optimizers()["optimizer"]
    batch = {"image": images, "label": torch.tensor([0, 1, 0, 1]), "index": torch.arange(4)}
    loss = recipe.batch_loss(recipe.augmented(batch, 0), batch)["loss"]
    loss.backward()
    assert loss.isfinite()
    for name, parameter in recipe.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    before = recipe.model.trunk.conv1.weight.clone()
    optimizer.step()
    assert not torch.equal(recipe.model.trunk.conv1.weight, before)
    recipe.eval()
    with torch.no_grad():
        assert recipe(images).shape == (4, 2)
