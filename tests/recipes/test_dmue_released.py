"""DMUE's released setting: one whole training step against recorded values, and the choices around the step."""

import lightning
import pytest
import torch
from torch import nn

from ferkit import functional
from ferkit.blocks import RoutedBackbone
from ferkit.blocks.backbones import BackboneParts
from ferkit.recipes import DMUE, AffectDMUE, GuidedDMUE

CLASSES, SIZE, WIDTH = 7, 28, 16
INPUTS = {
    *("feat_target", "feat_aux", "labels", "bn_weight", "cls_aux_weight", "cls_target_weight", "epoch", "beta", "T"),
    *("omega", "gamma", "pw_w1", "pw_b1", "pw_prelu", "pw_w2", "pw_b2"),
}


class Number(nn.Module):
    """Says which image it is: the grey level of its first pixel."""

    def forward(self, images):
        return ((images[:, :1, :1, :1].double() + 1) * 127.5).round()


class Stored(nn.Module):
    """A last stage that yields stored features of the images it is shown."""

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(SIZE, WIDTH))

    def forward(self, numbers):
        return self.rows[numbers.flatten().long()][:, :, None, None]


def attached(recipe, epoch=0):
    recipe.trainer = lightning.Trainer(max_epochs=36, accelerator="cpu", logger=False, enable_checkpointing=False)
    recipe.trainer.fit_loop.epoch_progress.current.completed = epoch
    assert recipe.current_epoch == epoch
    return recipe


def copy(parameter, values):
    with torch.no_grad():
        parameter.copy_(values)


def recorded(data, **options):
    """The recipe with the recorded weights, its backbone replaced by the recorded features; no dropout."""
    made = DMUE(CLASSES, setting="released", padding=0, flip=0.0, augmentation="crop-flip", **options)
    made.model = RoutedBackbone(BackboneParts(Number(), Stored(), WIDTH, "stage."), CLASSES, dropout=0.0)
    made.double()
    model, head = made.model, made.uncertainty
    copy(model.target.rows, data["feat_target"])
    copy(model.target_classifier.weight, data["cls_target_weight"])
    copy(model.neck.weight, data["bn_weight"])
    for j in range(CLASSES):
        copy(model.branches[j].rows, data["feat_aux"][j])
        copy(model.branch_classifiers[j].weight, data["cls_aux_weight"][j])
    for name, parameter in {
        "pw_w1": head.hidden.weight,
        "pw_b1": head.hidden.bias,
        "pw_prelu": head.activation.weight,
        "pw_w2": head.output.weight,
        "pw_b2": head.output.bias,
    }.items():
        copy(parameter, data[name])
    return attached(made, int(data["epoch"]))


@pytest.fixture(scope="module")
def step(golden):
    """What the recipe's own training step computes, under the recorded names."""
    data = golden("dmue_step_released")
    made = recorded(data)
    logged, outputs = {}, []
    made.log_dict = lambda values, **_: logged.update(values)
    made.log = lambda *_, **__: None
    made.model.register_forward_hook(lambda _, __, output: outputs.append(output))
    images = torch.arange(SIZE, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    made.training_step({"image": images, "label": data["labels"], "index": torch.arange(SIZE)}, 0).backward()
    (output,) = outputs
    model, labels = made.model, data["labels"]
    assert [made.temperature, made.omega, made.gamma, made.beta] == [
        float(data[n]) for n in ("T", "omega", "gamma", "beta")
    ]
    alpha = made.confidence(output, labels).unsqueeze(1)
    up, down = made.ramps(made.current_epoch)
    values = {
        "ramp_up": up,
        "ramp_down": down,
        "logits_target": output.logits,
        "weighted_logits": alpha * output.logits,
        "alpha": alpha,
        "cos_mean_raw": functional.class_similarity(output.features, labels, CLASSES),
        "cos_mean_scaled": functional.class_similarity(output.features, labels, CLASSES, scale=made.scale),
        "soft_label": made.latent_distribution(output, labels),
        "loss_ce": logged["train_wce"],
        "loss_soft": logged["train_soft"],
        "loss_sp": logged["train_sp"],
        "loss_aux": logged["train_aux"],
        "loss_total": logged["train_loss"],
        "grad_feat_target": model.target.rows.grad,
        "grad_feat_aux": torch.stack([branch.rows.grad for branch in model.branches]),
        "grad_pw_w1": made.uncertainty.hidden.weight.grad,
        "grad_pw_w2": made.uncertainty.output.weight.grad,
        "grad_cls_target_weight": model.target_classifier.weight.grad,
        "bn_running_mean": model.neck.running_mean,
        "bn_running_var": model.neck.running_var,
        "bn_num_batches": model.neck.num_batches_tracked,
    }
    return data, values


def test_every_recorded_result_is_compared(step):
    data, values = step
    assert set(data) - INPUTS == set(values)
    assert int(values["bn_num_batches"]) == 2 * CLASSES + 1 == 15


def test_the_recipes_own_step_gives_the_recorded_values_and_gradients(step):
    data, values = step
    for name, value in values.items():
        actual = torch.as_tensor(value, dtype=torch.float64).detach()
        torch.testing.assert_close(
            actual, data[name].double(), rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"normalize": "batch"}, "loss_sp"),
        ({"compare": "features"}, "loss_sp"),
        ({"divisor": "paper"}, "loss_soft"),
        ({"scale": "none"}, "loss_ce"),
        ({"ramp": "paper"}, "loss_total"),
    ],
)
def test_each_choice_shows_in_the_recorded_values(golden, change, name):
    data = golden("dmue_step_released")
    made = recorded(data, **change)
    images = (torch.arange(SIZE) / 127.5 - 1).double()[:, None, None, None].expand(-1, 3, 8, 8)
    losses = made.training_loss(images, data["labels"])
    key = {"loss_sp": "sp", "loss_soft": "soft", "loss_ce": "wce", "loss_total": "loss"}[name]
    assert abs(losses[key].item() / data[name].item() - 1) > 1e-3


def batch_of(classes, count=12):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"image": images, "label": torch.arange(count) % classes, "index": torch.arange(count)}


def quiet(made):
    made.log_dict = made.log = lambda *_, **__: None
    return made


def test_what_is_frozen_and_what_is_trained():
    torch.manual_seed(0)
    made = quiet(attached(DMUE(3, setting="released")))
    optimizer = made.configure_optimizers()["optimizer"]
    named = {parameter: name for name, parameter in made.named_parameters()}
    backbone, heads = ([named[p].split(".")[1] for p in group["params"]] for group in optimizer.param_groups)
    assert set(backbone) == {"trunk", "target", "branches"}
    assert set(heads) == {"target_classifier", "branch_classifiers"} and len(heads) == 4
    before = {name: value.detach().clone() for name, value in made.named_parameters()}
    made.training_step(batch_of(3), 0).backward()
    assert made.uncertainty.hidden.weight.grad.abs().sum() > 0  # it has a gradient, and no optimiser
    optimizer.step()
    still = {name for name, value in made.named_parameters() if torch.equal(value, before[name])}
    assert still == {name for name in before if name.startswith(("uncertainty.", "model.neck."))}


def test_without_frozen_all_but_the_necks_shift_is_trained():
    torch.manual_seed(0)
    made = quiet(attached(DMUE(3, setting="released", frozen=False)))
    optimizer = made.configure_optimizers()["optimizer"]
    before = {name: value.detach().clone() for name, value in made.named_parameters()}
    made.training_step(batch_of(3), 0).backward()
    optimizer.step()
    still = {name for name, value in made.named_parameters() if torch.equal(value, before[name])}
    assert still == {"model.neck.bias"}


def test_learning_rates_by_epoch():
    made = attached(DMUE(3, setting="released"))
    configured = made.configure_optimizers()
    optimizer, scheduler = configured["optimizer"], configured["lr_scheduler"]
    rates = []
    for _ in range(40):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    backbone = [1e-4] * 6 + [5e-5] * 6 + [1e-5] * 10 + [5e-5] * 3 + [1e-5] * 15
    heads = [1e-3] * 4 + [5e-4] * 4 + [1e-4] * 6 + [1e-5] * 8 + [5e-5] * 3 + [1e-5] * 15
    assert rates == [list(pair) for pair in zip(backbone, heads)]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [1e-4, 1e-4]


def test_dropout_is_drawn_by_seed_epoch_and_batch():
    def loss(noise, batch_idx=0, seed=0):
        torch.manual_seed(0)
        made = quiet(attached(DMUE(3, setting="released", seed=seed, augmentation="crop-flip", padding=0, flip=0.0)))
        for classifier in (made.model.target_classifier, *made.model.branch_classifiers):
            copy(classifier.weight, classifier.weight * 1000)
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        value = made.training_step(batch_of(3), batch_idx).item()
        assert torch.equal(state, torch.get_rng_state())
        return value

    assert loss(1) == loss(2)
    assert len({loss(1), loss(1, batch_idx=1), loss(1, seed=1)}) == 3  # another epoch changes the ramps too


def test_augmentation_is_the_released_one():
    """Mid grey rectangles of 2 to 25 % on half the images; noise on a quarter."""
    made = attached(DMUE(3, setting="released", padding=0, flip=0.0))
    images = torch.full((400, 3, 20, 20), 200, dtype=torch.uint8)
    seen = made.augmented({"image": images}, 0)
    erased = (seen == 0).all(1).float().mean((1, 2))
    touched = erased > 0
    assert 150 < int(touched.sum()) < 250 and float(erased[touched].max()) < 0.27
    grey = (seen + 1) * 127.5
    noisy = (((grey - 200).abs() > 0.01) & (seen != 0)).flatten(1).any(1)
    assert 70 < int(noisy.sum()) < 130
    assert torch.equal(seen, made.augmented({"image": images}, 0)) and seen.shape == images.shape
    assert not torch.equal(seen, made.augmented({"image": images}, 1))


def test_inference_is_target_stage_neck_and_classifier():
    torch.manual_seed(0)
    made = quiet(attached(DMUE(3, setting="released")))
    made.training_step(batch_of(3), 0)
    made.eval()
    images = batch_of(3)["image"]
    model = made.model
    maps = model.target(model.trunk(images.float() / 127.5 - 1))
    scaled = torch.nn.functional.batch_norm(
        maps.mean((2, 3)), model.neck.running_mean, model.neck.running_var, model.neck.weight, model.neck.bias
    )
    torch.testing.assert_close(made(images), scaled @ model.target_classifier.weight.T, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made(images[:1]), made(images)[:1], rtol=1e-4, atol=1e-6)


def test_mining_of_a_trained_model_needs_no_sub_batches():
    torch.manual_seed(0)
    made = attached(DMUE(3, setting="released")).eval()
    mined = made.mine(batch_of(3))
    assert mined.distribution.gather(1, mined.position[:, None] % 3).eq(0).all()
    torch.testing.assert_close(mined.distribution.sum(1), torch.ones(12))
    assert mined.confidence.gt(0).all() and mined.confidence.lt(1).all()


def test_hyperparameters_make_the_same_recipe():
    made = DMUE(5, setting="released", beta=4.0)
    again = DMUE(**made.hparams)
    again.load_state_dict(made.state_dict())
    assert (again.hparams["mining"], again.beta, again.ramp, again.frozen, again.schedule, again.augmentation) == (
        *("by-label", 4.0, "released", True, "released", "released"),
    )


@pytest.mark.parametrize("name", ["published", "scratch"])
def test_other_settings_keep_the_papers_forms(name):
    made = DMUE(3, setting=name)
    assert not isinstance(made.model, RoutedBackbone) and made.trained_parameters() == list(made.parameters())
    assert (made.normalize, made.compare, made.divisor, made.ramp) == ("batch", "features", "paper", "paper")
    assert (made.schedule, made.augmentation, made.frozen) == ("one-cycle", "crop-flip", False)
    assert (made.preferred_sampler, made.min_per_class) == ("coverage", 0)


def test_a_batch_without_two_of_a_class_is_refused():
    made = quiet(attached(DMUE(3, setting="released")))
    batch = batch_of(3)
    batch["label"] = torch.tensor([0] * 6 + [1] * 5 + [2])
    with pytest.raises(
        ValueError, match="2 samples or more of each of the 3 classes in a training batch, got 1 of class 2"
    ):
        made.training_step(batch, 0)
    assert made.min_per_class == 2 and made.preferred_sampler == "inverse-frequency"


@pytest.mark.parametrize("recipe", [GuidedDMUE, AffectDMUE])
def test_beside_neighbours_it_is_refused(recipe):
    with pytest.raises(ValueError, match=f"mining: expected 'leave-one-out' or 'all-class' in {recipe.__name__}"):
        recipe(3, setting="released")


def test_frozen_holds_beside_neighbours_too():
    made = AffectDMUE(3, frozen=True)
    trained = set(made.trained_parameters())
    assert {name.split(".")[0] for name, value in made.named_parameters() if value not in trained} == {"uncertainty"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"use_distribution": False, "use_similarity": False}, "mining: expected use_distribution or use_similarity"),
        ({"compare": "both"}, "compare: expected one of 'features', 'logits', got 'both'"),
        ({"divisor": "none"}, "divisor: expected one of 'paper', 'released', got 'none'"),
        (
            {"schedule": "cosine"},
            "schedule: expected one of 'one-cycle', 'step', 'constant', 'linear', 'released', got 'cosine'",
        ),
        ({"augmentation": "mixup"}, "augmentation: expected one of 'crop-flip', 'released', got 'mixup'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        DMUE(3, setting="released", **options)
