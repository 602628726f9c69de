"""NoisyFER's iteration against one written plainly, its ablations, gaps, noise, and what the recipe refuses."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from ferkit.recipes import NoisyFER
from ferkit.recipes._game import seeded
from ferkit.recipes._label_rows import label_rows

CLASSES, NAN, SEED = 3, float("nan"), 7
LAM = 0.625  # the same in both precisions


def recipe(**options):
    torch.manual_seed(0)
    both = {"sources": ("a", "b"), "values": ("valence", "arousal")}
    made = NoisyFER(CLASSES, **{"width": 0.05, "dropout": 0.0, "latent": 6, "lam": LAM, **both, **options})
    with torch.no_grad():  # labels that differ from each other, and an attention that is heard
        made.encoder.labels.weight.mul_(30)
        for name, parameter in made.discriminator.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return made


def batch(count=5, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 32, 32, dtype=dtype, generator=generator) * 2 - 1
    sources = torch.randint(0, CLASSES, (count, 2), generator=generator)
    return images, sources, torch.rand(count, 2, generator=generator) * 2.4 - 1.2


def optimizers(made, rate=1e-3):
    generators = [*made.encoder.parameters(), *(made.decoder.parameters() if made.decoder is not None else ())]
    return [torch.optim.Adam(which, rate) for which in (generators, list(made.discriminator.parameters()))]


def ccc_loss(x, y):
    between = x.var(0, unbiased=False) + y.var(0, unbiased=False) + (x.mean(0) - y.mean(0)) ** 2
    return (1 - 2 * ((x - x.mean(0)) * (y - y.mean(0))).mean(0) / between).mean()


def plain_iteration(made, images, sources, values, pair, order, steps, lam, cast=nullcontext, values_on=True):
    """The same networks, updated as a training script would write it; no label is missing."""
    draws = torch.Generator().manual_seed(SEED)
    noise = torch.randn(2, len(images), 6, dtype=images.dtype, generator=draws)
    with cast():
        out, mean, log_variance = made.encoder(images)
        logits = [out[:, :CLASSES], out[:, CLASSES : 2 * CLASSES]]
        onehot = [F.one_hot(sources[:, s], CLASSES).to(images.dtype) for s in range(2)]
        clipped = values.to(images.dtype).clamp(-1, 1)
        code = mean + torch.exp(log_variance / 2) * noise[0]
        f = F.cross_entropy(logits[0], sources[:, 0]) + F.cross_entropy(logits[1], sources[:, 1])
        real = {"latent": code, "source0": logits[0], "source1": logits[1]}
        fake = {"latent": noise[1], "source0": onehot[0], "source1": onehot[1]}
        if values_on:
            f = f + ccc_loss(out[:, 2 * CLASSES :].to(images.dtype), values.to(images.dtype))
            real["values"], fake["values"] = out[:, 2 * CLASSES :], clipped
        if made.discriminator.image_size is not None:
            real["image"], fake["image"] = images, images
            if made.decoder is not None:
                fake["image"] = made.decoder(torch.cat([noise[1], *onehot, *([clipped] if values_on else [])], 1))
    losses = {"loss": float(f.detach())}

    def discriminator():
        found = []
        for _ in range(steps):
            pair[1].zero_grad()
            with cast():
                high = made.discriminator({name: value.detach() for name, value in real.items()})
                low = made.discriminator({name: value.detach() for name, value in fake.items()})
            loss = torch.relu(1 - high.to(images.dtype)).mean() + torch.relu(1 + low.to(images.dtype)).mean()
            loss.backward()
            pair[1].step()
            found.append(float(loss.detach()))
        losses["discriminator"] = sum(found) / len(found)

    def generator():
        pair[0].zero_grad()
        with cast():
            low = None if made.decoder is None else made.discriminator(fake)
            high = made.discriminator(real)
        adversarial = high.to(images.dtype).mean()
        if low is not None:
            adversarial = adversarial - low.to(images.dtype).mean()
        (f + lam * adversarial).backward()
        pair[0].step()
        losses["generator"] = float(adversarial.detach())

    for move in (discriminator, generator) if order == "released" else (generator, discriminator):
        move()
    return losses


def same(first, second, bound):
    states = first.state_dict(), second.state_dict()
    for name, value in states[0].items():
        if value.is_floating_point() and not name.startswith("game."):
            torch.testing.assert_close(value, states[1][name], rtol=0, atol=bound, msg=name)


ORDERS = [("released", 2), ("supplement", 2), ("algorithm1", 1)]
ABLATIONS = [{}, {"joint": False}, {"marginal": False}, {"decoder": False}, {"decoder": False, "joint": False}]
ABLATIONS += [{"decoder": False, "marginal": False}, {"values": ()}, {"mlp": "released"}]


@pytest.mark.parametrize(
    ("order", "steps", "ablation"),
    [(*order, {}) for order in ORDERS]
    + [("released", 2, ablation) for ablation in ABLATIONS[1:]]
    + [("supplement", 3, {}), ("algorithm1", 1, {"decoder": False})],
)
def test_iteration_is_the_one_written_plainly(order, steps, ablation):
    made = recipe(order=order, discriminator_steps=None if steps < 3 else steps, **ablation).double()
    plain = copy.deepcopy(made)
    ours, theirs = optimizers(made), optimizers(plain)
    images, sources, values = batch()
    values = values if "values" not in ablation else values[:, :0]
    for _ in range(2):  # the second iteration starts from both optimisers' moments
        draws = torch.Generator().manual_seed(SEED)
        losses = made.iterate(images, sources, values, draws, ours, torch.Tensor.backward)
        expected = plain_iteration(
            plain,
            images,
            sources,
            values,
            theirs,
            order,
            steps,
            lam=LAM,
            values_on=bool(values.numel()),
        )
        for name, value in expected.items():
            assert float(losses[name]) == pytest.approx(value, abs=1e-9), name
    same(made, plain, 1e-9)


@pytest.mark.parametrize("stale", [False, True])
def test_bfloat16_sees_the_weights_of_the_last_step(stale, monkeypatch):
    """Two kernels for one layer round differently in half precision: by less than weights of a step before make."""
    made = recipe()
    plain = copy.deepcopy(made)
    images, sources, values = batch(dtype=torch.float32)
    cast = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    ours, theirs = optimizers(made), optimizers(plain)  # steps that half precision sees
    with cast(), monkeypatch.context() as patched:  # one region for the whole iteration, as the trainer has it
        if stale:
            patched.setattr(torch, "clear_autocast_cache", lambda: None)
        draws = torch.Generator().manual_seed(SEED)
        losses = made.iterate(images, sources, values, draws, ours, torch.Tensor.backward)
    expected = plain_iteration(plain, images, sources, values, theirs, "released", 2, lam=LAM, cast=cast)
    apart = {name: abs(float(losses[name]) - value) for name, value in expected.items()}
    assert (max(apart.values()) > 6e-4) == stale, apart


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ("image", "latent", "source0", "source1", "values", "joint")),
        ({"joint": False}, ("image", "latent", "source0", "source1", "values")),
        ({"marginal": False}, ("joint",)),
        ({"decoder": False}, ("latent", "source0", "source1", "values", "joint")),
        ({"decoder": False, "joint": False}, ("latent", "source0", "source1", "values")),
        ({"sources": ("a",), "values": ()}, ("image", "latent", "source0", "joint")),
        ({"sources": (), "values": ("valence",)}, ("image", "latent", "values", "joint")),
    ],
)
def test_scores_of_each_ablation(options, names):
    assert recipe(**options).discriminator.score_names == names


def test_generators_step_leaves_no_gradient_in_the_discriminator():
    made = recipe(order="supplement")
    images, sources, values = batch(dtype=torch.float32)
    seen = []

    def backward(loss):
        loss.backward()
        seen.append([parameter.grad is not None for parameter in made.discriminator.parameters()])

    made.iterate(images, sources, values, torch.Generator().manual_seed(0), optimizers(made), backward)
    assert not any(seen[0]) and all(seen[1])
    assert all(parameter.requires_grad for parameter in made.discriminator.parameters())
    made.discriminator.joint.requires_grad_(False)  # what was frozen before stays frozen
    made.iterate(images, sources, values, torch.Generator().manual_seed(0), optimizers(made), torch.Tensor.backward)
    assert not any(parameter.requires_grad for parameter in made.discriminator.joint.parameters())


def test_no_game_before_its_epoch():
    made = recipe()
    before = copy.deepcopy(made.state_dict())
    images, sources, values = batch(dtype=torch.float32)
    losses = made.iterate(
        images, sources, values, torch.Generator().manual_seed(0), optimizers(made), torch.Tensor.backward, False
    )
    assert set(losses) == {"loss", "cross_entropy", "concordance"}
    for name, value in made.state_dict().items():
        if name.startswith(("discriminator", "decoder", "game")):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(made.encoder.labels.weight, before["encoder.labels.weight"])


@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_what_the_discriminator_sees_of_the_labels(form):
    made = recipe(discriminator_labels=form)
    images, sources, values = batch(dtype=torch.float32)
    output = made.encoder(images)
    real, fake, _ = made._tuples(images, output, sources, values, torch.Generator().manual_seed(0))
    logits = output.labels[:, CLASSES : 2 * CLASSES]
    assert torch.equal(real["source1"], logits if form == "logits" else logits.softmax(1))
    assert torch.equal(fake["source1"], F.one_hot(sources[:, 1], CLASSES).float())
    assert torch.equal(real["values"], output.labels[:, 2 * CLASSES :])


# Missing labels ------------------------------------------------------------------------------------------------------


def predictions(count):
    logits = torch.zeros(count, 2, CLASSES)
    logits[..., 1] = 1.0
    return logits, torch.full((count, 2), 3.0)


def test_rows_with_gaps_give_way_to_complete_rows():
    sources = torch.tensor([[0, 0], [-1, 1], [2, 2], [1, 1], [2, 1]])
    values = torch.tensor([[0.1, 0.1], [0.2, 0.2], [0.3, NAN], [0.4, 0.4], [0.5, -2.0]])
    chosen = set()
    for seed in range(30):
        onehot, given, rows = label_rows(sources, values, *predictions(5), torch.Generator().manual_seed(seed))
        assert rows[[0, 3, 4]].tolist() == [0, 3, 4] and {int(rows[1]), int(rows[2])} <= {0, 3, 4}
        assert torch.equal(onehot.argmax(2), sources[rows]) and torch.equal(onehot.sum(2), torch.ones(5, 2))
        assert torch.equal(given, values[rows].clamp(-1, 1))
        chosen.add((int(rows[1]), int(rows[2])))
    assert len(chosen) == 9  # either gap is filled by any complete row


def test_without_a_complete_row_the_gaps_take_the_prediction():
    sources = torch.tensor([[0, -1], [-1, -1], [2, 2]])
    values = torch.tensor([[0.1, 0.1], [0.2, NAN], [NAN, 0.3]])
    onehot, given, rows = label_rows(sources, values, *predictions(3), torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 1, 2]
    assert onehot.argmax(2).tolist() == [[0, 1], [1, 1], [2, 2]]
    torch.testing.assert_close(given, torch.tensor([[0.1, 0.1], [0.2, 1.0], [1.0, 0.3]]))


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("decoder", [True, False])
def test_iteration_with_gaps(complete, decoder):
    made = recipe(decoder=decoder)
    images, sources, values = batch(6, dtype=torch.float32)
    sources[0, 0] = sources[1, 1] = -1
    values[2, 0] = values[3, 1] = NAN
    if not complete:
        sources[:, 0] = -1
    losses = made.iterate(
        images, sources, values, torch.Generator().manual_seed(0), optimizers(made), torch.Tensor.backward
    )
    assert all(value.isfinite() for value in losses.values())
    assert all(parameter.isfinite().all() for parameter in made.parameters())
    if not decoder and complete:  # the image goes with its labels
        output = made.encoder(images)
        real, fake, _ = made._tuples(images, output, sources, values, torch.Generator().manual_seed(1))
        rows = [next(i for i in range(6) if torch.equal(images[i], face)) for face in fake["image"]]
        assert set(rows) == {4, 5} and torch.equal(fake["source0"].argmax(1), sources[rows, 0])
        assert torch.equal(real["image"], images)


# Noise ---------------------------------------------------------------------------------------------------------------


def test_dropout_draws_by_the_seed_and_leaves_the_global_generator_alone():
    made = recipe(dropout=0.5)
    images, _, _ = batch(dtype=torch.float32)
    state = torch.get_rng_state()
    said = []
    for seed in (1, 1, 2):
        with seeded(torch.Generator().manual_seed(seed)):
            said.append(made.encoder(images).labels)
    assert torch.equal(said[0], said[1]) and not torch.equal(said[0], said[2])
    assert torch.equal(torch.get_rng_state(), state)


# Decoder images ------------------------------------------------------------------------------------------------------


def test_decode_gives_each_class_its_images_and_changes_nothing():
    made = recipe()
    _, sources, values = batch(8, dtype=torch.float32)
    with torch.no_grad():
        made.decoder(torch.randn(64, made.decoder.in_features))  # some running statistics
    made._remember(sources, values)
    before = copy.deepcopy(made.state_dict())
    sheet = made.decode(4, torch.Generator().manual_seed(0))
    assert sheet.shape == (CLASSES, 4, 3, 32, 32) and sheet.dtype == torch.uint8 and sheet.is_contiguous()
    assert made.decoder.training and all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert not torch.equal(sheet[0], sheet[1]) and not torch.equal(sheet[:, 0], sheet[:, 1])
    noise = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([0.0, 1.0, 0.0] * 2)
    inputs = torch.cat([noise, wanted.expand(4, -1), made.class_values[1].clamp(-1, 1).expand(4, -1)], 1)
    with torch.no_grad():
        decoded = made.decoder.eval()(inputs)
    assert torch.equal(sheet[1], ((decoded + 1) * 127.5).round().to(torch.uint8))
    with pytest.raises(ValueError, match="decode: expected a decoder"):
        recipe(decoder=False).decode(4, torch.Generator())


def test_values_of_a_class_are_a_running_mean():
    made = recipe()
    sources = torch.tensor([[0, 1], [0, 2], [2, 0], [-1, 0], [0, 0]])
    values = torch.tensor([[0.2, 0.0], [0.4, 0.2], [-0.5, 1.0], [9.0, 9.0], [NAN, 7.0]])
    made._remember(sources, values)
    torch.testing.assert_close(made.class_values, torch.tensor([[0.3, 0.1], [0.0, 0.0], [-0.5, 1.0]]))
    made._remember(sources[:1], torch.tensor([[1.3, 0.1]]))
    torch.testing.assert_close(made.class_values[0], torch.tensor([0.3 + 0.02, 0.1]))


# Options -------------------------------------------------------------------------------------------------------------


def test_presets_fill_what_is_not_given_and_are_kept():
    made = NoisyFER(CLASSES, preset="published", width=0.05)
    assert made.hparams["width"] == 0.05 and made.hparams["lam"] == 0.8 and made.hparams["learning_rate"] == 1e-4
    assert (made.schedule, made.warmup, made.padding, made.weight_decay) == ("constant", 1, 4, 0.0)
    assert (made.generators_first, made.discriminator_steps) == (False, 2)
    again = NoisyFER(**made.hparams)
    again.load_state_dict(made.state_dict())
    faces = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(made.eval()(faces), again.eval()(faces))


def test_decoder_takes_noise_and_every_label_set():
    made = recipe()
    assert made.decoder.in_features == 6 + 2 * CLASSES + 2
    assert made.encoder.labels.out_features == 2 * CLASSES + 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"size": 48}, "size: expected a power of two of 32 or more, got 48"),
        ({"size": 16}, "size: "),
        ({"preset": "paper"}, "preset: expected one of 'published', 'scratch'"),
        ({"order": "alternate"}, "order: expected one of 'released', 'supplement', 'algorithm1'"),
        ({"discriminator_steps": 0}, "discriminator_steps: "),
        ({"lam": -0.1}, "lam: "),
        ({"hold": 0.0}, "hold: "),
        ({"warmup": -1}, "warmup: "),
        ({"latent": 0}, "latent: "),
        ({"joint": False, "marginal": False}, "marginal: expected True without the joint score"),
        ({"mlp": "skip"}, "mlp: expected one of 'paper', 'released'"),
        ({"discriminator_labels": "softmax"}, "discriminator_labels: expected one of 'logits', 'probabilities'"),
        ({"discriminator_rate": 0.0}, "discriminator_rate: "),
        ({"decoder_rate": 0.0}, "decoder_rate: "),
        ({"discriminator_init": "normal"}, "discriminator_init: expected one of 'uniform', 'orthogonal'"),
        ({"beta1": 1.0}, "beta1: "),
        ({"game_every": 0}, "game_every: "),
    ],
)
def test_refuses(options, match):
    with pytest.raises(ValueError, match=match):
        NoisyFER(CLASSES, **{"width": 0.05, **options})
