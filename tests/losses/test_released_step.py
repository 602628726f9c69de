"""One whole released DMUE step, put together from ferkit's parts: values, gradients, running statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ferkit.blocks.uncertainty_head import UncertaintyHead
from ferkit.functional import class_similarity, latent_distribution, ramp_down, ramp_up
from ferkit.losses import AuxiliaryCrossEntropy, LatentDistributionLoss, MSPLoss, WeightedLogitCrossEntropy

CLASSES = 7
GOLDEN = Path(__file__).parents[1] / "goldens" / "dmue_step_released.npz"


def head_of(data):
    head = UncertaintyHead(CLASSES).double()
    names = {"hidden": ("pw_w1", "pw_b1"), "output": ("pw_w2", "pw_b2")}
    with torch.no_grad():
        for layer, (weight, bias) in names.items():
            getattr(head, layer).weight.copy_(data[weight])
            getattr(head, layer).bias.copy_(data[bias])
        head.activation.weight.copy_(data["pw_prelu"])
    return head


def neck_of(data):
    neck = nn.BatchNorm1d(data["bn_weight"].numel()).double().train()
    with torch.no_grad():
        neck.weight.copy_(data["bn_weight"])
    neck.bias.requires_grad_(False)
    return neck


def branch_logits(rows, features, neck, weights):
    """The branches' logits on ``rows`` (C, N) of the batch, 0 elsewhere; one BN-neck call per branch, in order."""
    logits = features.new_zeros(*rows.shape, CLASSES - 1)
    return torch.stack(
        [
            logits[branch].index_put((keep.nonzero()[:, 0],), neck(features[branch][keep]) @ weights[branch].T)
            for branch, keep in enumerate(rows)
        ]
    )


@pytest.fixture(scope="module")
def step():
    with np.load(GOLDEN) as archive:
        data = {key: torch.from_numpy(np.asarray(archive[key])) for key in archive.files}
    labels = data["labels"]
    target, auxiliary = (data[key].clone().requires_grad_() for key in ("feat_target", "feat_aux"))
    classifier = data["cls_target_weight"].clone().requires_grad_()
    head, neck = head_of(data), neck_of(data)
    positive = labels == torch.arange(CLASSES).unsqueeze(1)

    auxiliary_logits = branch_logits(~positive, auxiliary, neck, data["cls_aux_weight"])
    neck_target = neck(target)
    logits = neck_target @ classifier.T
    latent = latent_distribution(
        branch_logits(positive, auxiliary, neck, data["cls_aux_weight"]), labels, float(data["T"])
    )
    raw = class_similarity(target, labels, CLASSES)
    scaled = class_similarity(target, labels, CLASSES, scale="minmax")
    alpha = head(scaled, labels)

    ce = WeightedLogitCrossEntropy()(logits, alpha, labels)
    soft = LatentDistributionLoss(divisor="released")(logits, latent, labels)
    sp = MSPLoss(CLASSES, normalize="subset")(neck_target, auxiliary_logits, labels)
    aux = AuxiliaryCrossEntropy(CLASSES)(auxiliary_logits, labels)
    epoch, beta = int(data["epoch"]), int(data["beta"])
    up, down = ramp_up(epoch, beta, form="released"), ramp_down(epoch, beta)
    total = up * (ce + float(data["omega"]) * soft + float(data["gamma"]) * sp) + down * aux
    total.backward()
    values = {
        "ramp_up": up,
        "ramp_down": down,
        "logits_target": logits,
        "weighted_logits": alpha.unsqueeze(1) * logits,
        "alpha": alpha.unsqueeze(1),
        "cos_mean_raw": raw,
        "cos_mean_scaled": scaled,
        "soft_label": latent,
        "loss_ce": ce,
        "loss_soft": soft,
        "loss_sp": sp,
        "loss_aux": aux,
        "loss_total": total,
        "grad_feat_target": target.grad,
        "grad_feat_aux": auxiliary.grad,
        "grad_pw_w1": head.hidden.weight.grad,
        "grad_pw_w2": head.output.weight.grad,
        "grad_cls_target_weight": classifier.grad,
        "bn_running_mean": neck.running_mean,
        "bn_running_var": neck.running_var,
        "bn_num_batches": neck.num_batches_tracked,
    }
    return data, values


def test_every_recorded_result_is_compared(step):
    data, values = step
    inputs = {"feat_target", "feat_aux", "labels", "bn_weight", "cls_aux_weight", "cls_target_weight", "epoch", "beta"}
    inputs |= {"T", "omega", "gamma", "pw_w1", "pw_b1", "pw_prelu", "pw_w2", "pw_b2"}
    assert set(data) - inputs == set(values)


def test_values_and_gradients(step):
    data, values = step
    for name, value in values.items():
        actual = torch.as_tensor(value, dtype=torch.float64).detach()
        torch.testing.assert_close(
            actual, data[name].double(), rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )
