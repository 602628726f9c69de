"""The formulas as a textbook would write them in PyTorch: the yardstick of every speed-up ferkit reports."""

import torch.nn.functional as F


def class_similarity(features, labels, num_classes):
    """DMUE eq. 7: the mean cosine of each sample to each class, (N, D), (N,) -> (N, C)."""
    unit = F.normalize(features)
    member = F.one_hot(labels, num_classes).to(features.dtype)
    return (unit @ unit.T @ member) / member.sum(0)


def similarity_preserving(target, auxiliary, labels):
    """DMUE eq. 14-17, (N, D), (C, N, D'), (N,) -> scalar."""
    gram = target @ target.T
    a_target = gram / gram.norm(dim=1, keepdim=True)
    total = 0.0
    for branch, features in enumerate(auxiliary):
        gram = features @ features.T
        a_branch = gram / gram.norm(dim=1, keepdim=True)
        keep = (labels != branch).to(target.dtype)
        mask = keep[:, None] * keep[None]
        total = total + ((mask * a_target - mask * a_branch) ** 2).sum() / keep.sum() ** 2
    return total / len(auxiliary)


def scaled_cross_entropy(logits, scale, labels):
    """DMUE eq. 9, (N, C), (N,), (N,) -> scalar."""
    return F.cross_entropy(scale[:, None] * logits, labels)


def concordance_loss(prediction, target):
    """1 - mean CCC over targets, population moments, (N, T), (N, T) -> scalar."""
    pm, tm = prediction.mean(0), target.mean(0)
    cov = ((prediction - pm) * (target - tm)).mean(0)
    ccc = 2 * cov / (prediction.var(0, correction=0) + target.var(0, correction=0) + (pm - tm) ** 2)
    return 1 - ccc.mean()


def neighbor_guidance(logits, neighbor_logits, affinity):
    """LDL-ALSG eq. 4 as a mean over centres, (N, C), (N, K, C), (N, K) -> scalar."""
    q = neighbor_logits.detach().softmax(-1)
    kl = (q * (q.log() - logits.log_softmax(-1)[:, None])).sum(-1)
    return (affinity * kl).sum(1).mean()
