"""Names of a backbone's tensors in the checkpoints of others, and which tensors of a BranchedBackbone they fill."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from torch import Tensor

from ferkit.blocks.branched_backbone import BranchedBackbone

__all__ = ["match_keys"]

# What trainers put before a backbone's own names: DataParallel, generic ones, released DMUE, its face pretraining.
PREFIXES = ("module.", "backbone.", "encoder.", "model.", "base.", "feat_net.")

NECK = "bottleneck."  # released DMUE: RoutedBackbone has one, BranchedBackbone none
# Released DMUE: layer4_0 to layer4_C, the target last.
COPY = re.compile(r"(?P<stage>\w+)_(?P<index>\d+)\.(?P<rest>.+)")
CLASSIFIER = re.compile(r"classifiers\.(?P<index>\d+)\.(?P<rest>.+)")  # likewise; 0 alone once converted


Match = tuple[str, tuple[str, ...]]  # a checkpoint's key without prefixes, and the model's keys it fills


def match_keys(model: BranchedBackbone, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Match]]:
    """The layout of ``state``, and for each of its keys its bare name and the model's keys, maybe none, that it fills.

    Layouts: ``"ferkit"``, the state dict of a BranchedBackbone or its target's share; ``"released DMUE"``, a snapshot
    with a copy of the last stage a branch, or the converted target; ``"backbone"``, the plain network.
    """
    own = set(model.state_dict())
    bare = {key: _bare(model, own, key) for key in state}
    if any(name in own for name in bare.values()):
        return "ferkit", {key: (name, _own(model, own, name, bare)) for key, name in bare.items()}
    copies = [copy for name in bare.values() if (copy := _copy(model, own, name))]
    classifiers = [int(found["index"]) for name in bare.values() if (found := CLASSIFIER.fullmatch(name))]
    if copies or classifiers:
        target = max([index for index, _ in copies] or classifiers)
        return "released DMUE", {key: (name, _released(model, own, name, target)) for key, name in bare.items()}
    return "backbone", {key: (name, _plain(model, own, name)) for key, name in bare.items()}


def _prefixed(key: str) -> Iterator[str]:
    yield key
    while key.startswith(PREFIXES):
        key = key.split(".", 1)[1]
        yield key


def _bare(model: BranchedBackbone, own: set[str], key: str) -> str:
    """The key without prefixes, as soon as the model knows it: "model." may also be a name of its own."""
    name = key
    for name in _prefixed(key):
        if name in own or _plain(model, own, name) or _copy(model, own, name):
            return name
    return name


def _own(model: BranchedBackbone, own: set[str], name: str, bare: Mapping[str, str]) -> tuple[str, ...]:
    if name not in own:
        return ()
    branched = any(other.startswith("branches.") for other in bare.values())
    if name.startswith("target.") and not branched:
        return _stages(model, name.removeprefix("target."))
    return (name,)


def _plain(model: BranchedBackbone, own: set[str], name: str) -> tuple[str, ...]:
    # The trunk is asked first: in some families (MobileNetV2) all keys start as the stage's do.
    if f"trunk.{name}" in own:
        return (f"trunk.{name}",)
    rest = name.removeprefix(model.stage_prefix)
    if name.startswith(model.stage_prefix) and f"target.{rest}" in own:
        return _stages(model, rest)
    return ()


def _copy(model: BranchedBackbone, own: set[str], name: str) -> tuple[int, str] | None:
    """Index of the released copy of the last stage that a key belongs to, and the key within the model's stage."""
    found = COPY.fullmatch(name)
    if found is None or _plain(model, own, name):  # a network may have block and block_1 of its own
        return None
    rest = f"{found['stage']}.{found['rest']}"
    inside = rest.removeprefix(model.stage_prefix)
    known = rest.startswith(model.stage_prefix) and f"target.{inside}" in own
    return (int(found["index"]), inside) if known else None


def _released(model: BranchedBackbone, own: set[str], name: str, target: int) -> tuple[str, ...]:
    branches = len(model.branches)
    if copy := _copy(model, own, name):
        index, rest = copy
        if target == branches:  # one branch a class, of the same classes
            return (f"target.{rest}",) if index == target else (f"branches.{index}.{rest}",)
        return _stages(model, rest) if index == target else ()
    if classifier := CLASSIFIER.fullmatch(name):
        index, rest = int(classifier["index"]), classifier["rest"]
        if index == target:
            return (f"target_classifier.{rest}",)
        return (f"branch_classifiers.{index}.{rest}",) if target == branches else ()
    if name.startswith(NECK):
        neck = f"neck.{name.removeprefix(NECK)}"
        return (neck,) if neck in own else ()
    return _plain(model, own, name)


def _stages(model: BranchedBackbone, rest: str) -> tuple[str, ...]:
    return (f"target.{rest}", *(f"branches.{index}.{rest}" for index in range(len(model.branches))))
