"""DMUE against recorded values and gradients, in float64 within 1e-9."""

import pytest
import torch

import ferkit.functional as ff


def leaf(value):
    return value.clone().requires_grad_()


@pytest.mark.parametrize("scale, key", [("none", "raw"), ("minmax", "minmax")])
@pytest.mark.parametrize("include_self, suffix", [(True, "include_self"), (False, "exclude_self")])
def test_class_similarity(golden, close, scale, key, include_self, suffix):
    data = golden("dmue_class_cosine")
    features = leaf(data["features"])
    value = ff.class_similarity(features, data["labels"], 8, include_self=include_self, scale=scale)
    close(value, data[f"S_{key}_{suffix}"])
    (value * data["upstream"]).sum().backward()
    close(features.grad, data[f"grad_{key}_{suffix}"])


@pytest.mark.parametrize("beta", [4, 6, 9, 10, 12])
def test_ramps(golden, close, beta):
    data = golden("dmue_ramps")
    epochs = data["epochs"]
    for form in ("paper", "released"):
        close(ff.ramp_up(epochs.double(), beta, form), data[f"up_{form}_b{beta}"])
        close([ff.ramp_up(int(e), beta, form=form) for e in epochs], data[f"up_{form}_b{beta}"])
        close(ff.ramp_down(epochs.double(), beta), data[f"down_{form}_b{beta}"])
        close([ff.ramp_down(int(e), beta) for e in epochs], data[f"down_{form}_b{beta}"])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.2, 2.0])
def test_sharpen(golden, close, temperature):
    data = golden("dmue_sharpen")
    close(ff.sharpen(data["logits"], temperature), data[f"sharp_T{temperature}"])
    close(ff.sharpen(data["probs"].log(), temperature), data[f"sharp_T{temperature}"])


def test_latent_distribution(golden, close):
    data = golden("dmue_soft_aux")
    value = ff.latent_distribution(leaf(data["aux_logits"]), data["labels"])
    assert not value.requires_grad
    close(value, data["soft_label"])


@pytest.mark.parametrize("divisor", ["paper", "released"])
def test_latent_distribution_loss(golden, close, divisor):
    data = golden("dmue_soft_aux")
    logits = leaf(data["target_logits"])
    value = ff.latent_distribution_loss(logits, data["soft_label"], data["labels"], divisor=divisor)
    close(value, data[f"loss_soft_{divisor}"])
    value.backward()
    close(logits.grad, data[f"grad_target_{divisor}"])


def test_auxiliary_cross_entropy(golden, close):
    data = golden("dmue_soft_aux")
    logits, labels = leaf(data["aux_logits"]), data["labels"]
    value = ff.auxiliary_cross_entropy(logits, labels)
    close(value, data["aux_ce"])
    value.backward()
    close(logits.grad, data["grad_aux_logits"])
    per_branch = []
    for branch, targets in enumerate(data["remapped_targets"]):
        logits = data["aux_logits"][branch][targets >= 0]
        per_branch.append(torch.nn.functional.cross_entropy(logits, targets[targets >= 0]))
    close(torch.stack(per_branch), data["aux_ce_per_branch"])


@pytest.mark.parametrize("form", ["auto", "gram", "factored"])
@pytest.mark.parametrize("normalize, key", [("batch", "paper"), ("subset", "released")])
def test_msp_loss(golden, close, form, normalize, key):
    data = golden("dmue_sp_b")
    target, auxiliary = leaf(data["f_tar"]), leaf(data["f_aux"])
    value = ff.msp_loss(target, auxiliary, data["labels"], normalize, form)
    close(value, data[f"loss_{key}"])
    value.backward()
    close(target.grad, data[f"grad_f_tar_{key}"])
    close(auxiliary.grad, data[f"grad_f_aux_{key}"])


def test_msp_loss_per_branch(golden, close):
    data = golden("dmue_sp_b")
    close(ff.msp_loss(data["f_tar"], data["f_aux"], data["labels"], reduction="none"), data["per_class_paper"])


@pytest.mark.parametrize("form", ["auto", "gram", "factored"])
def test_similarity_preserving_loss(golden, close, form):
    data = golden("dmue_sp_b")
    student, teacher = leaf(data["f_tar"]), leaf(data["f_aux"][0])
    value = ff.similarity_preserving_loss(student, teacher, form=form)
    close(value, data["loss_tung_mori_pair0"])
    value.backward()
    close(student.grad, data["grad_student_tung_mori"])
    close(teacher.grad, data["grad_teacher_tung_mori"])


@pytest.mark.parametrize("flat", [False, True])
def test_weighted_logit_cross_entropy(golden, close, flat):
    data = golden("dmue_weighted_ce")
    logits, alpha, labels = leaf(data["logits"]), leaf(data["alpha"]), data["labels"]
    confidence = alpha[:, 0] if flat else alpha
    close(ff.weighted_logit_cross_entropy(logits, confidence, labels, reduction="none"), data["per_sample"])
    value = ff.weighted_logit_cross_entropy(logits, confidence, labels)
    close(value, data["loss"])
    value.backward()
    close(logits.grad, data["grad_logits"])
    close(alpha.grad, data["grad_alpha"])
