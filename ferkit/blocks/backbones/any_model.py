"""Any network whose children run one after another, cut at a module that is named."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from ferkit.blocks.backbones._probe import Probe, keep_modes, probe_images
from ferkit.blocks.backbones.parts import BackboneParts, torchvision_models
from ferkit.checks import check_number

__all__ = ["split_model", "split_named"]


def split_model(model: nn.Module, stage: str, head: str | None = None, image_size: int = 64) -> BackboneParts:
    """Cut ``model`` before its last stage; the parts are its own modules and keep its parameters' names.

    The trunk is what is registered before ``stage``, the stage is ``stage`` and what follows it up to the head. The
    head (pooling, classifier) is left out. The model is run once, in evaluation mode, to see that the two parts do in
    turn what it does itself.

    Args:
        model: takes images (N, 3, H, W); its children, and those of every ``nn.Sequential`` on the way to ``stage``,
            run in the order in which they are registered.
        stage: first module of the last stage, such as ``"layer4"`` or ``"features.14"``.
        head: the first child that belongs to the stage no more; None: the first after ``stage`` that does not give a
            map of more than one pixel.
        image_size: side of the images of the check, at which the last map must have more than one pixel.

    Raises:
        TypeError: unless ``model`` is a module and ``stage`` a name.
        ValueError: if ``stage`` or ``head`` names no child, nothing stands before ``stage``, the model does not run,
            the parts do not give its result, or the stage writes into the map that the branches share.

    >>> net = nn.Sequential()
    >>> net.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    >>> net.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    >>> parts = split_model(net, stage="body.2")
    >>> parts.features, list(parts.stage.state_dict())
    (16, ['body.2.weight', 'body.2.bias'])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(stage, str):
        raise TypeError(f"stage: expected a name, got {type(stage).__name__}")
    check_number(image_size, "image_size", 1, integer=True)
    before, after = _cut(model, stage, stage.split("."))
    if not before:
        raise ValueError(f"stage: expected a module with others before it, got {stage!r}, the first")
    names = list(after)
    if head is not None and head not in names[1:]:
        raise ValueError(f"head: expected one of {', '.join(map(repr, names[1:])) or 'none'}, got {head!r}")
    images = probe_images(model, image_size)
    with torch.no_grad(), keep_modes(model):
        model.eval()
        probe = Probe(model, [name for name, _ in model.named_children() if name != names[0]], images)
        end = names.index(head) if head is not None else probe.first_without_map(names)
        # What takes no part, such as an auxiliary classifier, is in neither.
        trunk = nn.Sequential(OrderedDict((k, v) for k, v in before.items() if k == names[0] or k in probe.gave))
        last = nn.Sequential(OrderedDict((k, after[k]) for k in names[:end] if k == names[0] or k in probe.gave))
        shared = _run(trunk, images, "before", stage)
        kept = shared.clone()
        result = _run(last, shared, "from", stage)
        if not torch.equal(shared, kept):
            raise ValueError(f"stage: {stage!r} writes into its input, which the branches share; cut elsewhere")
        features = probe.check(result, names[end:], stage)
    return BackboneParts(trunk, last, features, "")


def split_named(name: str) -> BackboneParts:
    """``"timm:NAME:STAGE"`` or ``"torchvision:NAME:STAGE"``: a model of that library with fresh weights, cut there."""
    library, _, rest = name.partition(":")
    model_name, _, stage = rest.rpartition(":")
    if library not in ("timm", "torchvision") or not model_name or not stage:
        raise ValueError(f"backbone: expected 'timm:NAME:STAGE' or 'torchvision:NAME:STAGE', got {name!r}")
    if library == "torchvision":
        models = torchvision_models(name)
        known, build = model_name in models.list_models(), models.get_model
    else:
        try:
            import timm
        except ImportError as error:
            raise ImportError(f"backbone {name!r} needs timm: pip install timm") from error
        known, build = timm.is_model(model_name), timm.create_model
    if not known:
        raise ValueError(f"backbone: expected a model of {library}, got {model_name!r}")
    return split_model(build(model_name), stage)


def _cut(container: nn.Module, stage: str, path: list[str]) -> tuple[OrderedDict[str, nn.Module], ...]:
    """The children before ``path`` and those from it on, by name; a child that holds the cut is on both sides."""
    children = OrderedDict(container.named_children())
    if path[0] not in children:
        raise ValueError(f"stage: expected one of {', '.join(map(repr, children))} at {path[0]!r}, got {stage!r}")
    names = list(children)
    at = names.index(path[0])
    before = OrderedDict((name, children[name]) for name in names[:at])
    after = OrderedDict((name, children[name]) for name in names[at:])
    if len(path) > 1:
        inside = children[path[0]]
        if not isinstance(inside, nn.Sequential):
            raise ValueError(
                f"stage: expected {path[0]!r} of {stage!r} to be a Sequential, got {type(inside).__name__}"
            )
        inner_before, inner_after = _cut(inside, stage, path[1:])
        if inner_before:
            before[path[0]] = nn.Sequential(inner_before)
        after[path[0]] = nn.Sequential(inner_after)
    return before, after


def _run(part: nn.Module, x: Tensor, side: str, stage: str) -> Tensor:
    try:
        y = part(x)
    except Exception as error:
        raise ValueError(f"model: its modules {side} {stage!r} do not run one after another ({error})") from error
    if not isinstance(y, Tensor):
        raise ValueError(f"model: expected a tensor of the modules {side} {stage!r}, got {type(y).__name__}")
    return y
