"""NoisyFER's decoder terms: images put back together, labels read back, against the same written plainly."""

import copy

import pytest
import torch
import torch.nn.functional as F

from ferkit.data.augment import random_crop_flip
from ferkit.functional import concordance_loss
from ferkit.recipes import NoisyFER

CLASSES, SEED, LATENT, NAN = 3, 7, 6, float("nan")


def recipe(**options):
    torch.manual_seed(0)
    both = {"sources": ("a", "b"), "values": ("valence", "arousal")}
    return NoisyFER(CLASSES, **{"width": 0.05, "dropout": 0.0, "latent": LATENT, **both, **options}).double()


def batch(count=5):
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 32, 32, dtype=torch.float64, generator=draws) * 2 - 1
    return images, torch.randint(0, CLASSES, (count, 2), generator=draws), torch.rand(count, 2, generator=draws) - 0.5


def optimizers(made):
    return [
        torch.optim.SGD([*made.encoder.parameters(), *made.decoder.parameters()], 1e-2),
        torch.optim.SGD(made.discriminator.parameters(), 1e-2),
    ]


def iterate(made, data, playing=False, crops=None, pair=None):
    draws = torch.Generator().manual_seed(SEED)
    return made.iterate(*data, draws, pair or optimizers(made), torch.Tensor.backward, playing, crops)


def supervised(labels, sources, values):
    of_a, of_b, said = labels.split([CLASSES, CLASSES, 2], 1)
    entropy = F.cross_entropy(of_a, sources[:, 0]) + F.cross_entropy(of_b, sources[:, 1])
    return entropy + sum(concordance_loss(said[:, [v]], values[:, [v]].double()) for v in range(2)) / 2


@pytest.mark.parametrize("crops", [None, 3])
def test_terms_and_step_are_those_written_plainly(crops):
    made = recipe(reconstruction=3.0, code_divergence=0.25, label_cycle=0.5)
    with torch.no_grad():  # a code and labels that are not nearly 0
        for head in (made.encoder.labels, made.encoder.mean, made.encoder.log_variance):
            head.weight.mul_(30)
    plain = copy.deepcopy(made)
    images, sources, values = data = batch()
    generator = lambda: None if crops is None else torch.Generator().manual_seed(crops)  # noqa: E731
    losses = iterate(made, data, crops=generator())

    draws = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2, 5, LATENT, dtype=torch.float64, generator=draws)
    torch.rand(2, 5, generator=draws)  # which row's labels take the place of one with a gap
    own_noise = torch.randn(5, LATENT, dtype=torch.float64, generator=draws)
    pair = optimizers(plain)
    labels = torch.cat([F.one_hot(sources, CLASSES).flatten(1), values], 1).double()
    features = plain.encoder.trunk(plain.encoder.convolutions(images).flatten(1))
    out, held_features = plain.encoder.labels(features), features.detach()
    mean, log_variance = plain.encoder.mean(held_features), plain.encoder.log_variance(held_features)
    code = mean + (log_variance / 2).exp() * own_noise
    drawn = plain.decoder(torch.cat([noise[1], labels], 1))
    again = plain.decoder(torch.cat([code, labels], 1))
    normal = torch.distributions.Normal
    divergence = torch.distributions.kl_divergence(
        normal(mean, (log_variance / 2).exp()), normal(torch.zeros_like(mean), torch.ones_like(mean))
    )
    held = copy.deepcopy(plain.encoder).eval().requires_grad_(False)
    shown = drawn if crops is None else random_crop_flip(drawn, generator(), plain.padding, plain.flip)
    expected = {
        "loss": supervised(out, sources, values),
        "reconstruction": F.mse_loss(again, images),
        "code_divergence": divergence.sum(1).mean(),
        "label_cycle": supervised(held(shown).labels, sources, values),
    }
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(float(value.detach()), abs=1e-9), name
    pair[0].zero_grad()
    weights = {"loss": 1.0, "reconstruction": 3.0, "code_divergence": 0.25, "label_cycle": 0.5}
    sum(weights[name] * value for name, value in expected.items()).backward()
    pair[0].step()
    for name, value in made.state_dict().items():
        if name.startswith(("encoder.", "decoder.")) and name.endswith(("weight", "bias", "original")):
            torch.testing.assert_close(value, plain.state_dict()[name], rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("ties", [{"label_cycle": 2.0}, {"reconstruction": 2.0}])
def test_terms_move_the_decoder_and_never_what_tells_the_labels(ties):
    data = batch()
    without, with_it = recipe(), recipe(dropout=0.5, **ties)
    with_it.encoder.load_state_dict(without.encoder.state_dict())
    with_it.encoder.trunk[2].p = with_it.encoder.trunk[5].p = 0.0
    before = copy.deepcopy(with_it.state_dict())
    for made in (without, with_it):
        iterate(made, data)
    for name, value in with_it.encoder.state_dict().items():
        if not name.startswith(("mean", "log_variance")):
            assert torch.equal(value, without.encoder.state_dict()[name]), name
    assert with_it.encoder.training and all(weight.requires_grad for weight in with_it.encoder.parameters())
    now = with_it.state_dict()
    assert any(not torch.equal(now[name], before[name]) for name in now if name.startswith("decoder."))
    code = [name for name in now if name.startswith(("encoder.mean", "encoder.log_variance"))]
    assert all(torch.equal(now[name], before[name]) == ("label_cycle" in ties) for name in code)


def test_terms_come_beside_the_game():
    made = recipe(reconstruction=1.0, label_cycle=1.0)
    losses = iterate(made, batch(), playing=True)
    ties = {"reconstruction", "code_divergence", "label_cycle"}
    assert set(losses) == {"loss", "cross_entropy", "concordance", "discriminator", "generator"} | ties
    assert all(value.isfinite() for value in losses.values())


def test_an_image_is_put_back_from_its_own_labels():
    made = recipe(reconstruction=1.0)
    images, sources, values = batch()
    sources[0, 1], values[1, 0] = -1, NAN  # rows 0 and 1 give way to others, and so do their images
    seen = []
    made.decoder.register_forward_hook(lambda _, given, made_of_it: seen.append((given[0], made_of_it)))
    losses = iterate(made, (images, sources, values))
    labels, again = seen[-1]
    rows = [int(((values.double() - row).abs().sum(1) < 1e-9).nonzero()) for row in labels[:, -2:]]
    assert set(rows) <= {2, 3, 4} and rows[2:] == [2, 3, 4]
    expected = F.mse_loss(again.detach(), images[rows])
    assert float(losses["reconstruction"]) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("options", [{"values": ()}, {"sources": ()}, {"sources": ("a",)}])
def test_any_mix_of_label_sets(options):
    made = recipe(reconstruction=1.0, label_cycle=1.0, **options)
    images, sources, values = batch()
    data = images, sources[:, : len(made.source_names)], values[:, : len(made.value_names)]
    assert all(value.isfinite() for value in iterate(made, data, playing=True).values())


@pytest.mark.parametrize("name", ["reconstruction", "label_cycle"])
def test_terms_need_a_decoder(name):
    with pytest.raises(ValueError, match=f"{name}: expected 0 without the decoder, got 1.0"):
        recipe(decoder=False, **{name: 1.0})
    with pytest.raises(ValueError, match=f"{name}: expected"):
        recipe(**{name: -1.0})
