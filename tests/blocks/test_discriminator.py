"""The multi-stream discriminator: names and order, switches, gradient penalty, copies, layouts, compile."""

import copy
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradgradcheck

from ferkit.blocks import MultiStreamDiscriminator

STREAMS = {"image_size": 32, "latent": 5, "categorical": {"first": 3, "b.c": 4}, "continuous": {"values": 2}}
NAMES = ("image", "latent", "first", "b.c", "values")


def make(width=0.125, **options):
    return MultiStreamDiscriminator(**{**STREAMS, "width": width, **options}).double()


def inputs(size=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = {"image": (3, 32, 32), "latent": (5,), "first": (3,), "b.c": (4,), "values": (2,)}
    return {name: torch.randn(size, *shape, generator=generator).double() for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def critic():
    torch.manual_seed(0)
    return make().eval()


def test_names_and_shape(critic):
    assert critic.stream_names == NAMES
    assert critic.score_names == (*NAMES, "joint")
    assert critic(inputs()).shape == (3, 6)
    assert critic(inputs(0)).shape == (0, 6)
    assert "score_names=('image', 'latent', 'first', 'b.c', 'values', 'joint')" in repr(critic)


@given(order=st.permutations(NAMES))
@settings(max_examples=10, deadline=None)
def test_scores_do_not_depend_on_the_order_of_passing(critic, order):
    tensors = inputs()
    assert torch.equal(critic({name: tensors[name] for name in order}), critic(tensors))


def test_columns_are_the_streams_scores_and_the_joint_one_sees_all(critic, close):
    tensors = inputs()
    scores = critic(tensors)
    for column, name in enumerate(NAMES):
        close(scores[:, [column]], critic.streams["stream_" + name.replace(".", "%2E")](tensors[name])[1])
        moved = critic({**tensors, name: tensors[name] + 1})
        changed = ~torch.isclose(moved, scores, rtol=1e-9).all(0)
        assert changed.tolist() == [column == place or place == 5 for place in range(6)]


def test_rows_do_not_see_each_other(critic, close):
    tensors = inputs()
    one = {name: value[1:2] for name, value in tensors.items()}
    close(critic(one), critic(tensors)[1:2], rtol=1e-8, atol=1e-10)


def test_parameter_counts(golden):
    data = golden("nfer_param_counts")
    for categorical, continuous, inputs in (
        ({"expression": 7}, {"affect": 2}, 2048),
        ({"a": 10, "b": 10, "c": 10}, {}, 2560),
    ):
        for form in ("paper", "released"):
            critic = MultiStreamDiscriminator(32, 100, categorical, continuous, form=form)
            count = sum(parameter.numel() for parameter in critic.parameters())
            labels = sum(int(data[f"disc_lbl_{size}"]) for size in (100, *categorical.values(), *continuous.values()))
            assert count == data["disc_x_32"] + labels + data[f"disc_joint_{inputs}"]
            assert sum(parameter.numel() for parameter in critic.joint.parameters()) == data[f"disc_joint_{inputs}"]


def test_switches(critic, close):
    tensors = inputs()
    scores = critic(tensors)
    state = critic.state_dict()
    for options, columns in (
        ({"joint": False}, [0, 1, 2, 3, 4]),
        ({"marginal": False}, [5]),
        ({"marginal": ["values", "first"]}, [2, 4, 5]),
    ):
        other = make(**options).eval()
        missing, unexpected = other.load_state_dict(state, strict=False)
        assert not missing and unexpected
        close(other(tensors), scores[:, columns])
        assert other.score_names == tuple(critic.score_names[column] for column in columns)


def test_every_parameter_takes_part():
    """Nothing is left without a gradient, which distributed training would wait for."""
    for options in ({}, {"joint": False}, {"marginal": False}, {"marginal": ["latent"]}, {"image_size": None}):
        critic = make(**options)
        tensors = inputs()
        if critic.image_size is None:
            del tensors["image"]
        critic(tensors).sum().backward()
        assert all(parameter.grad is not None for parameter in critic.parameters())


def test_without_image_or_latent():
    critic = make(image_size=None, latent=0)
    tensors = inputs()
    scores = critic({name: tensors[name] for name in ("first", "b.c", "values")})
    assert critic.score_names == ("first", "b.c", "values", "joint") and scores.shape == (3, 4)


def test_a_categorical_stream_takes_labels(critic, close):
    tensors = inputs()
    labels = torch.tensor([2, -1, 0])
    rows = torch.tensor([[0, 0, 1], [0, 0, 0], [1, 0, 0]]).double()
    close(critic({**tensors, "first": labels}), critic({**tensors, "first": rows}))
    only = MultiStreamDiscriminator(None, 0, {"a": 3})
    assert only({"a": labels}).shape == (3, 2)
    assert only.double()({"a": labels}).dtype == torch.float64


def penalty(critic, tensors):
    leaves = {name: value.clone().requires_grad_() for name, value in tensors.items()}
    gradients = torch.autograd.grad(critic(leaves).sum(), list(leaves.values()), create_graph=True)
    return sum(gradient.square().sum().log() for gradient in gradients)  # the image's is far smaller than the others


def test_a_gradient_penalty_differentiates_twice():
    critic = make(explicit=True).eval()
    attention = critic.streams["stream_image"].body[1]
    with torch.no_grad():
        attention.gamma.fill_(0.5)
    tensors = inputs(2)
    watched = [attention.gamma, attention.theta.parametrizations.weight.original]
    watched.append(critic.streams["stream_image"].body[2].conv2.parametrizations.weight.original)
    watched.append(critic.joint[0].first[1].parametrizations.weight.original)
    gradients = torch.autograd.grad(penalty(critic, tensors), watched)
    for parameter, gradient in zip(watched, gradients):
        direction = torch.randn(parameter.shape, dtype=torch.float64)
        step, values = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * step)
            values.append(penalty(critic, tensors).item())
            with torch.no_grad():
                parameter.add_(direction, alpha=-sign * step)
        expected = (values[0] - values[1]) / (2 * step)
        assert abs((gradient * direction).sum().item() - expected) <= 1e-5 * max(abs(expected), gradient.norm().item())
        assert gradient.norm() > 0


def test_second_derivatives_without_an_image():
    critic = MultiStreamDiscriminator(None, 2, {"a": 2}, width=0.01).double().eval()

    def scores(latent, rows):
        return critic({"latent": latent, "a": rows})

    leaves = [torch.randn(2, 2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert gradgradcheck(scores, leaves)


def test_copies_and_state(critic, close):
    tensors = inputs()
    expected = critic(tensors)
    close(copy.deepcopy(critic)(tensors), expected)
    torch.manual_seed(1)
    other = make().eval()
    assert not torch.equal(other(tensors), expected)
    other.load_state_dict(critic.state_dict())
    close(other(tensors), expected)


def test_copies_train_alike_and_apart(critic):
    one = copy.deepcopy(critic).train()
    two = copy.deepcopy(one)
    tensors = inputs()
    assert torch.equal(one(tensors), two(tensors))
    with torch.no_grad():
        one.joint[1].bias.add_(1)
    assert not torch.equal(one(tensors), two(tensors))


def test_channels_last(critic, close):
    tensors = inputs()
    last = copy.deepcopy(critic).to(memory_format=torch.channels_last)
    expected = critic(tensors)
    tensors["image"] = tensors["image"].contiguous(memory_format=torch.channels_last)
    close(last(tensors), expected)


def test_compiles_whole():
    torch._dynamo.reset()
    critic = make().train()
    twin = copy.deepcopy(critic)
    compiled = torch.compile(twin, backend="aot_eager", fullgraph=True)
    tensors = inputs()
    for _ in range(2):  # the second by the singular vectors that the first left
        expected, actual = critic(tensors), compiled(tensors)
        torch.testing.assert_close(actual, expected)
    actual.sum().backward()
    expected.sum().backward()
    for a, b in zip(twin.parameters(), critic.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


X = inputs()
CRITIC = MultiStreamDiscriminator(None, 5, {"first": 3}, {"values": 2}, width=0.01).double()
Y = {name: X[name] for name in ("latent", "first", "values")}
D = MultiStreamDiscriminator
BAD = [
    (lambda: CRITIC([1]), TypeError, "inputs: expected a mapping from stream name to tensor, got list"),
    (
        lambda: CRITIC({"latent": Y["latent"], "first": Y["first"], "valence": Y["values"]}),
        ValueError,
        "inputs: expected the streams 'latent', 'first', 'values'; missing ['values'], unknown ['valence']",
    ),
    (lambda: CRITIC(X), ValueError, "missing [], unknown ['image', 'b.c']"),
    (lambda: CRITIC({}), ValueError, "missing ['latent', 'first', 'values'], unknown []"),
    (lambda: CRITIC({**Y, "first": 1}), TypeError, "inputs['first']: expected a torch.Tensor, got int"),
    (
        lambda: CRITIC({**Y, "first": Y["first"][:2]}),
        ValueError,
        "inputs['first']: expected 3 rows as in the other streams, got (2, 3)",
    ),
    (lambda: CRITIC({**Y, "first": X["b.c"]}), ValueError, "inputs['first']: expected shape (N, 3), got (3, 4)"),
    (
        lambda: CRITIC({**Y, "first": torch.tensor([0, 1, 3])}),
        ValueError,
        "inputs['first']: expected values in 0..2 or -1 (unlabelled), got 0..3",
    ),
    (lambda: CRITIC({**Y, "first": torch.zeros(3, 3).long()}), ValueError, "inputs['first']: expected shape (N,)"),
    (lambda: CRITIC({**Y, "values": Y["values"].long()}), TypeError, "inputs['values']: expected a floating-point"),
    (lambda: make()({**X, "image": X["image"][:, :1]}), ValueError, "inputs['image']: expected shape (N, 3, 32, 32)"),
    (lambda: D(None, 0), ValueError, "image_size: expected a stream of any kind, got none"),
    (lambda: D(24, 5), ValueError, "size: expected a power of two of 32 or more, got 24"),
    (lambda: D(None, -1), ValueError, "latent: expected a value in [0, inf], got -1"),
    (lambda: D(None, 5, {"joint": 3}), ValueError, "categorical: expected a name not yet taken, got 'joint'"),
    (lambda: D(None, 5, {"a": 3}, {"a": 3}), ValueError, "continuous: expected a name not yet taken, got 'a'"),
    (lambda: D(None, 5, {"a": 0}), ValueError, "categorical['a']: expected a value in [1, inf], got 0"),
    (lambda: D(None, 5, marginal=["a"]), ValueError, "marginal: expected names among 'latent', got ['a']"),
    (lambda: D(None, 5, marginal="latent"), TypeError, "marginal: expected a bool or the names of streams"),
    (lambda: D(None, 5, joint=False, marginal=False), ValueError, "got none for ['latent']: leave them out"),
    (lambda: D(None, 5, {"a": 2}, joint=False, marginal=["a"]), ValueError, "got none for ['latent']: leave them out"),
    (lambda: D(None, 5, form="x"), ValueError, "form: expected one of 'paper', 'released', got 'x'"),
]


@pytest.mark.parametrize("call, error, message", BAD, ids=[message[:50] for _, _, message in BAD])
def test_refused(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
