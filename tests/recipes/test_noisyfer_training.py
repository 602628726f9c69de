"""NoisyFER under the trainer: resumed runs, mixed precision, the kept lambda, and games that break down."""

import math

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from ferkit.blocks import ImageStream
from ferkit.recipes import VGG, NoisyFER, TrainingDiverged, noisyfer
from ferkit.recipes._game import HIGHEST, LOST, LOWEST, STREAK, WON, GameState

CLASSES, NAN = 3, float("nan")


def faces(count=24):
    generator = torch.Generator().manual_seed(0)
    items = []
    for i in range(count):
        face = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=generator)
        sources = torch.tensor([i % CLASSES, -1 if i % 5 == 0 else (i + 1) % CLASSES])
        values = torch.tensor([i / count, NAN if i % 7 == 0 else -i / count])
        items.append({"image": face, "label": i % CLASSES, "index": i, "sources": sources, "values": values})
    return items


def recipe(**options):
    torch.manual_seed(0)
    both = {"sources": ("a", "b"), "values": ("valence", "arousal")}
    return NoisyFER(CLASSES, **{"width": 0.05, "latent": 6, "warmup": 1, "hold": 0.45, **both, **options})


def trainer(folder=None, epochs=4, **options):
    keep = [] if folder is None else [ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)]
    return lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=keep,
        enable_checkpointing=bool(keep),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **options,
    )


def loaders():
    return DataLoader(faces(), 8), DataLoader(faces(), 8)


def equal(first, second, path="checkpoint"):
    assert type(first) is type(second), path
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key in first:
            equal(first[key], second[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for position, pair in enumerate(zip(first, second)):
            equal(*pair, f"{path}/{position}")
    else:
        assert first == second, path


TIES = {"reconstruction": 2.0, "code_divergence": 0.01, "label_cycle": 0.1}


@pytest.mark.filterwarnings("error:.*lr_scheduler")
@pytest.mark.parametrize("ties", [{}, TIES])
def test_a_resumed_run_is_the_uninterrupted_one(ties, tmp_path):
    whole = trainer(tmp_path / "whole")
    whole.fit(recipe(**ties), *loaders())
    middle = torch.load(tmp_path / "whole" / "epoch=1.ckpt", weights_only=True)
    torch.manual_seed(99)  # the global generator has no part in it
    rest = trainer(tmp_path / "rest")
    rest.fit(recipe(**ties), *loaders(), ckpt_path=tmp_path / "whole" / "epoch=1.ckpt", weights_only=True)
    first, second = (torch.load(tmp_path / run / "epoch=3.ckpt", weights_only=True) for run in ("whole", "rest"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        equal(first[part], second[part])
    assert len(first["optimizer_states"]) == 2 and first["lr_schedulers"]
    assert not torch.equal(first["state_dict"]["game.lam"], middle["state_dict"]["game.lam"])
    for name in ("discriminator.joint.0.input", "decoder.body.0"):  # the power iteration goes on
        name += ".parametrizations.weight.0._u"
        assert not torch.equal(first["state_dict"][name], middle["state_dict"][name])
    for name, value in whole.callback_metrics.items():
        assert torch.equal(value, rest.callback_metrics[name]), name


def test_a_resumed_baseline_is_the_uninterrupted_one(tmp_path):
    def baseline():
        torch.manual_seed(0)
        return VGG(CLASSES, width=0.05, sources=("a", "b"), values=("valence", "arousal"))

    trainer(tmp_path / "whole").fit(baseline(), *loaders())
    torch.manual_seed(99)  # dropout has its own draws
    rest = trainer(tmp_path / "rest")
    rest.fit(baseline(), *loaders(), ckpt_path=tmp_path / "whole" / "epoch=1.ckpt", weights_only=True)
    first, second = (torch.load(tmp_path / run / "epoch=3.ckpt", weights_only=True) for run in ("whole", "rest"))
    equal(first["state_dict"], second["state_dict"])


@pytest.mark.parametrize(
    ("precision", "hold", "ties"), [("32-true", None, {}), ("bf16-mixed", 0.45, {}), ("bf16-mixed", 0.45, TIES)]
)
def test_trains_and_logs(precision, hold, ties):
    made, fit = recipe(hold=hold, **ties), trainer(epochs=3, precision=precision)
    fit.fit(made, *loaders())
    metrics = fit.callback_metrics
    wanted = {"train_loss", "train_discriminator", "train_generator", "lam", "val_accuracy", "val_loss"}
    wanted |= {f"train_{name}" for name in ties}
    wanted |= {"val_ccc_valence", "val_mse_valence", "val_ccc_arousal", "val_mse_arousal"}
    assert wanted <= set(metrics) and all(math.isfinite(float(metrics[name])) for name in wanted)
    assert all(parameter.dtype == torch.float32 for parameter in made.parameters())
    assert (float(metrics["lam"]) == pytest.approx(0.3)) == (hold is None)
    assert fit.global_step == 3 * 1 + 2 * 3 * 3  # one epoch without the game, then three steps an iteration


def test_the_encoder_reads_images_that_are_shifted_and_mirrored(monkeypatch):
    shifted, crop = [], noisyfer.random_crop_flip
    monkeypatch.setattr(noisyfer, "random_crop_flip", lambda *given: shifted.append(given) or crop(*given))
    trainer(epochs=2).fit(recipe(label_cycle=1.0, padding=3, flip=0.25), *loaders())
    assert len(shifted) == 2 * 3 and all(given[2:] == (3, 0.25) for given in shifted)
    assert len({given[1].initial_seed() for given in shifted}) == 6


def test_every_parameter_has_an_optimiser():
    made = recipe()
    made.trainer = trainer()
    made.trainer.strategy.connect(made)
    made.schedule = "constant"
    sides = [entry["optimizer"] for entry in made.configure_optimizers()]
    groups = [{parameter for group in side.param_groups for parameter in group["params"]} for side in sides]
    assert groups[0] | groups[1] == set(made.parameters()) and not groups[0] & groups[1]
    assert groups[1] == set(made.discriminator.parameters())


@pytest.mark.parametrize("schedule", ["constant", "one-cycle"])
def test_decoder_and_discriminator_have_rates_of_their_own(schedule):
    options = {"schedule": schedule, "learning_rate": 1e-3}
    made = recipe(beta1=0.5, discriminator_rate=4.0, decoder_rate=0.5, **options)
    made.trainer = trainer()
    made.trainer.strategy.connect(made)
    made.trainer.fit_loop.setup_data = lambda: None  # how many batches there are is known
    made.trainer.fit_loop.max_batches = 10
    generators, (discriminator,) = (entry["optimizer"].param_groups for entry in made.configure_optimizers())
    encoder, decoder = generators
    assert set(encoder["params"]) == set(made.encoder.parameters())
    assert encoder["betas"] == decoder["betas"] == discriminator["betas"] == (0.5, 0.999)
    assert discriminator["lr"] == pytest.approx(4 * encoder["lr"])
    assert decoder["lr"] == pytest.approx(0.5 * encoder["lr"])
    assert schedule == "one-cycle" or encoder["lr"] == 1e-3


def test_orthogonal_weights_leave_the_discriminator_a_voice():
    torch.manual_seed(0)
    spread = {}
    for init in ("uniform", "orthogonal"):
        made = recipe(discriminator_init=init)
        images = torch.rand(16, 3, 32, 32) * 2 - 1
        (stream,) = (part for part in made.discriminator.modules() if isinstance(part, ImageStream))
        _, score = stream(images)
        spread[init] = score.std()
    assert spread["orthogonal"] > 4 * spread["uniform"]


@pytest.mark.parametrize(("every", "games"), [(1, 3), (2, 2), (5, 1)])
def test_the_game_is_played_on_some_batches(every, games):
    fit = trainer(epochs=2)
    fit.fit(recipe(game_every=every, hold=None, discriminator_steps=1), *loaders())
    # Three batches an epoch, the first epoch without the game; the discriminator's steps come on top.
    assert fit.global_step == 2 * 3 + games


class Poison(lightning.Callback):
    """A weight that is not a number, from the given epoch on."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            with torch.no_grad():
                pl_module.encoder.mean.weight.fill_(NAN)


def test_a_run_that_breaks_down_stops_and_keeps_its_last_good_checkpoint(tmp_path):
    fit = trainer(tmp_path)
    fit.callbacks.append(Poison(2))
    with pytest.raises(TrainingDiverged, match=r"became NaN or infinite .*: try a smaller lam or learning_rate"):
        fit.fit(recipe(hold=None), *loaders())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch=0.ckpt", "epoch=1.ckpt"]
    state = torch.load(tmp_path / "epoch=1.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in state.values())


class PoisonedGradient(lightning.Callback):
    """One of the generators' gradients is not a number in the last batch of an epoch, and no loss is computed after."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        generators = trainer.optimizers[0]
        if trainer.current_epoch == self.epoch and trainer.is_last_batch and optimizer is generators:
            pl_module.encoder.mean.weight.grad.fill_(NAN)


def test_a_last_step_that_breaks_the_weights_is_noticed_before_they_are_kept(tmp_path):
    fit = trainer(tmp_path)
    fit.callbacks.append(PoisonedGradient(1))
    with pytest.raises(TrainingDiverged, match="a weight became NaN"):
        fit.fit(recipe(hold=None), *loaders())
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=0.ckpt"]
    assert bool(fit.callback_metrics["train_loss"].isfinite())  # which the losses did not tell


def test_no_checkpoint_of_broken_weights_is_written_within_an_epoch(tmp_path):
    fit, made = trainer(epochs=1), recipe()
    fit.fit(made, *loaders())
    with torch.no_grad():
        made.decoder.input[0].bias[0] = math.inf
    with pytest.raises(TrainingDiverged):
        fit.save_checkpoint(tmp_path / "bad.ckpt")


def test_no_checkpoint_of_a_broken_game_is_written_whenever_it_is_asked_for(tmp_path):
    fit = trainer(epochs=1)
    made = recipe()
    fit.fit(made, *loaders())
    fit.save_checkpoint(tmp_path / "good.ckpt")
    made.game.broken.fill_(1)
    with pytest.raises(TrainingDiverged):
        fit.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


# The game's state ----------------------------------------------------------------------------------------------------


def play(game, value, steps=1):
    for _ in range(steps):
        game.update({"loss": torch.tensor(1.0), "discriminator": torch.tensor(value)})


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (2.0, "tells nothing apart.*try a smaller lam or learning_rate"),
        (0.0, "has won.*try a larger lam, a smaller learning_rate"),
    ],
)
def test_a_discriminator_at_an_end_for_long_is_collapsed(value, match):
    game = GameState(0.5)
    play(game, value, STREAK - 1)
    game.check()
    play(game, 0.5)  # one healthy step, and the count starts anew
    play(game, value, STREAK - 1)
    game.check()
    play(game, value)
    with pytest.raises(TrainingDiverged, match=match + ".*hold=0.45"):
        game.check()
    idle = GameState(0.0)  # nobody listens to it
    play(idle, value, STREAK)
    idle.check()
    assert LOST < 2 and WON > 0


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "generator", "discriminator"])
def test_one_loss_that_is_not_finite_is_remembered(name, value):
    game = GameState(0.5, hold=0.45)
    losses = {"loss": 1.0, "generator": 2.6, "discriminator": 0.45}
    game.update({key: torch.tensor(value if key == name else good) for key, good in losses.items()})
    play(game, 0.45, 3)
    with pytest.raises(TrainingDiverged, match="NaN or infinite"):
        game.check()


def test_lambda_moves_towards_the_level_and_stays_in_bounds():
    fixed = GameState(0.5)
    play(fixed, 0.1, 50)
    assert float(fixed.lam) == 0.5
    game = GameState(0.5, hold=0.45)
    play(game, 0.45, 20)
    assert float(game.lam) == pytest.approx(0.5)
    play(game, 0.1, 20)
    assert float(game.lam) > 0.5  # the discriminator is too strong: the generators are to fight harder
    play(game, 0.0, 2000)
    assert float(game.lam) == HIGHEST
    play(game, 2.0, 2000)
    assert float(game.lam) == pytest.approx(LOWEST)


@pytest.mark.parametrize("start", [0.01, 5.0])
def test_holds_a_discriminator_whose_loss_follows_lambda(start):
    # A stand-in for the game: the loss that lam leads to, 0.45 at lam = 0.8, reached over about 50 steps.
    game = GameState(start, hold=0.45)
    loss, seen = 1.0, []
    for _ in range(4000):
        settled = 2 / (1 + 3.44 * (0.8 / float(game.lam)))
        loss += (settled - loss) / 50
        play(game, loss)
        seen.append(loss)
    assert all(abs(value - 0.45) < 0.02 for value in seen[-500:])
    assert float(game.lam) == pytest.approx(0.8, rel=0.1)
