"""NoisyFER's decoder terms: images put back together, labels read back, against the same written plainly."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from ferkit.data.augment import random_crop_flip
from ferkit.functional import concordance_loss
from ferkit.recipes import NoisyFER
from ferkit.recipes._decoder_ties import DecoderTies, reconstruction_terms

CLASSES, SEED, LATENT, LAM, NAN = 3, 7, 6, 0.625, float("nan")


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


@pytest.mark.parametrize(
    ("playing", "order", "crops"), [(False, "released", None), (False, "released", 3), (True, "released", None)]
)
def test_terms_and_step_are_those_written_plainly(playing, order, crops):
    made = recipe(reconstruction=3.0, code_divergence=0.25, label_cycle=0.5, lam=LAM, order=order)
    with torch.no_grad():  # a code and labels that are not nearly 0
        for head in (made.encoder.labels, made.encoder.mean, made.encoder.log_variance):
            head.weight.mul_(30)
    plain = copy.deepcopy(made)
    images, sources, values = data = batch()
    generator = lambda: None if crops is None else torch.Generator().manual_seed(crops)  # noqa: E731
    losses = iterate(made, data, playing, generator())

    draws = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2, 5, LATENT, dtype=torch.float64, generator=draws)
    torch.rand(2, 5, generator=draws)  # which row's labels take the place of one with a gap
    own_noise = torch.randn(5, LATENT, dtype=torch.float64, generator=draws)
    pair = optimizers(plain)
    onehot, given = F.one_hot(sources, CLASSES).double(), values.double()
    labels = torch.cat([onehot.flatten(1), given], 1)
    features = plain.encoder.trunk(plain.encoder.convolutions(images).flatten(1))
    out, held_features = plain.encoder.labels(features), features.detach()
    mean, log_variance = plain.encoder.mean(held_features), plain.encoder.log_variance(held_features)
    code = mean + (log_variance / 2).exp() * own_noise
    drawn = plain.decoder(torch.cat([noise[1], labels], 1))
    statistics = {name: value.clone() for name, value in plain.decoder.state_dict().items() if "running" in name}
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
    weights = {"loss": 1.0, "reconstruction": 3.0, "code_divergence": 0.25, "label_cycle": 0.5}
    if playing:
        game_code = plain.encoder.mean(features) + (plain.encoder.log_variance(features) / 2).exp() * noise[0]
        said = {"source0": out[:, :CLASSES], "source1": out[:, CLASSES : 2 * CLASSES], "values": out[:, 2 * CLASSES :]}
        real = {"image": images, "latent": game_code, **said}
        asked = {"source0": onehot[:, 0], "source1": onehot[:, 1], "values": given}
        fake = {"image": drawn, "latent": noise[1], **asked}
        still = [{name: value.detach() for name, value in side.items()} for side in (real, fake)]
        for _ in range(plain.discriminator_steps):
            score, against = plain.discriminator(still[0]), plain.discriminator(still[1])
            pair[1].zero_grad()
            ((1 - score).relu().mean() + (1 + against).relu().mean()).backward()
            pair[1].step()
        against = plain.discriminator(fake)
        expected["generator"] = plain.discriminator(real).mean() - against.mean()
        weights["generator"] = LAM
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(float(value.detach()), abs=1e-9), name
    pair[0].zero_grad()
    sum(weights[name] * value for name, value in expected.items()).backward()
    pair[0].step()
    for name, value in made.state_dict().items():
        if name.startswith(("encoder.", "decoder.")) and name.endswith(("weight", "bias", "original")):
            torch.testing.assert_close(value, plain.state_dict()[name], rtol=0, atol=1e-9, msg=name)
    for name, value in statistics.items():  # those of noise, by which images are decoded
        torch.testing.assert_close(made.decoder.state_dict()[name], value, rtol=0, atol=1e-12, msg=name)


def test_terms_move_the_generators_that_go_first():
    """The other order has its step elsewhere; what it is, the test above says."""
    data, moved = batch(), []
    for weight in (0.0, 2.0):
        made = recipe(order="algorithm1", reconstruction=weight, label_cycle=weight)
        iterate(made, data, playing=True)
        moved.append(made.decoder.state_dict())
    assert any(not torch.equal(moved[0][name], moved[1][name]) for name in moved[0] if name.endswith("original"))


def test_the_encoder_reads_back_without_dropout():
    made = recipe(label_cycle=1.0, dropout=0.5)
    reader, seen = copy.deepcopy(made.encoder).eval(), []
    made.decoder.register_forward_hook(lambda _, given, image: seen.append((given[0], image.detach())))
    images, sources, values = batch()
    losses = iterate(made, (images, sources, values))
    with torch.no_grad():
        expected = supervised(reader(seen[0][1]).labels, sources, values)
    assert float(losses["label_cycle"]) == pytest.approx(float(expected), abs=1e-9)
    assert made.encoder.training and all(part.training for part in made.encoder.modules())


@pytest.mark.parametrize("ties", [{"label_cycle": 2.0}, {"reconstruction": 2.0}])
def test_terms_move_the_decoder_and_never_what_tells_the_labels(ties):
    data = batch()
    without, with_it = recipe(), recipe(**ties)
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


def test_an_image_is_put_back_from_its_own_labels():
    made = recipe(reconstruction=1.0)
    images, sources, values = batch()
    sources[0, 1], values[1, 0] = -1, NAN  # rows 0 and 1 give way to others, and so do their images
    seen = []
    made.decoder.register_forward_hook(lambda _, given, made_of_it: seen.append((given[0], made_of_it)))
    losses = iterate(made, (images, sources, values))
    labels, again = seen[-1]
    untouched = recipe(reconstruction=1.0).encoder  # the step has moved the other
    output = untouched.heads(untouched.features(images))
    draws = torch.Generator().manual_seed(SEED)
    torch.randn(2, 5, LATENT, dtype=torch.float64, generator=draws), torch.rand(2, 5, generator=draws)
    noise = torch.randn(5, LATENT, dtype=torch.float64, generator=draws)
    rows = [int(((values.double() - row).abs().sum(1) < 1e-9).nonzero()) for row in labels[:, -2:]]
    assert set(rows) <= {2, 3, 4} and rows[2:] == [2, 3, 4]
    code = output.mean[rows] + (output.log_variance[rows] / 2).exp() * noise
    torch.testing.assert_close(labels[:, :LATENT], code, rtol=0, atol=1e-9)
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
    with pytest.raises(ValueError, match=rf"{name}: expected 0 without the decoder, got 1\.0"):
        recipe(decoder=False, **{name: 1.0})


@pytest.mark.parametrize("name", ["reconstruction", "code_divergence", "label_cycle"])
def test_weights_that_mean_nothing_are_refused(name):
    for value in (-1.0, NAN, float("inf")):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            recipe(**{"reconstruction": 1.0, name: value})
    with pytest.raises(ValueError, match=r"code_divergence: expected 0 without reconstruction, got 0\.5"):
        recipe(code_divergence=0.5)
    with pytest.raises(TypeError, match=f"{name}: expected"):
        recipe(**{"reconstruction": 1.0, name: "much"})


def test_divergence_keeps_its_digits_in_half_precision():
    encoder, decoder = recipe().float().encoder, recipe().float().decoder
    with torch.no_grad():
        for head, bias in ((encoder.mean, 0.0), (encoder.log_variance, 0.05)):
            head.weight.zero_(), head.bias.fill_(bias)
    features, labels = torch.zeros(2, encoder.mean.in_features), torch.zeros(2, 2 * CLASSES + 2)
    with torch.autocast("cpu", torch.bfloat16):
        images = torch.zeros(2, 3, 32, 32)
        terms = reconstruction_terms(decoder, encoder, features, torch.zeros(2, LATENT), labels, images)
    assert float(terms["code_divergence"].detach()) == pytest.approx(LATENT * (math.exp(0.05) - 1.05) / 2, rel=0.02)


def test_a_term_without_a_weight_takes_no_part():
    terms = {"reconstruction": torch.tensor(2.0), "code_divergence": torch.tensor(float("inf"))}
    assert float(DecoderTies(3.0).weighted(terms)) == 6.0
