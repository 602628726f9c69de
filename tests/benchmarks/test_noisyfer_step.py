"""What a noisyFER iteration is timed against computes the same, and the gate before the timing notices if not."""

import pytest

step = pytest.importorskip("benchmarks.noisyfer_step")
pytest.importorskip("lightning")

from benchmarks import noisyfer_plain  # noqa: E402
from ferkit.blocks import DeconvDecoder, MultiStreamDiscriminator, VGGEncoder  # noqa: E402


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_same_parameters():
    ours = [VGGEncoder(32, 30, width=0.1), DeconvDecoder(32, 130, width=0.1)]
    plain = [
        noisyfer_plain.Encoder(30, 0.1),
        noisyfer_plain.Decoder(130, 0.1),
        noisyfer_plain.Discriminator([10] * 3, 0.1),
    ]
    ours.append(MultiStreamDiscriminator(32, categorical=dict.fromkeys("abc", 10), width=0.1))
    assert [count(network) for network in ours] == [count(network) for network in plain]


def test_both_sides_have_the_same_losses():
    assert step.gate(6, 0.02, "cpu") < 1e-5


def test_a_difference_is_noticed(monkeypatch):
    forward = noisyfer_plain.MLP.forward
    monkeypatch.setattr(noisyfer_plain.MLP, "forward", lambda self, x: self.input(x) + forward(self, x))
    with pytest.raises(RuntimeError, match="the two sides differ in iteration 1, 'discriminator'"):
        step.gate(6, 0.02, "cpu")


def test_a_row_of_the_table():
    cells = step.measure(4, 0.02, "cpu", rounds=1).strip("| ").split(" | ")
    assert cells[:2] == ["0.02", "4"] and len(cells) == 6 and all(float(cell) > 0 for cell in cells[2:4])
