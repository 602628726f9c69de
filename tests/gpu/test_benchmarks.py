"""The measurements themselves run on a GPU: both clocks, peak memory, the first call and the variants it compiles."""

import dataclasses

import pytest
import torch

suite = pytest.importorskip("benchmarks.suite")

from benchmarks import cold, machine, runner  # noqa: E402


def test_a_case_is_measured_called_and_replayed():
    case = suite.find("similarity_preserving 72x512x8", "cuda")
    row = runner.measure(dataclasses.replace(case, rounds=3, compile=False))
    assert "refused" not in row
    assert row["call"]["milliseconds"]["ours"] > 0 and row["replay"]["milliseconds"]["ours"] > 0
    assert row["mebibytes"]["textbook"]["above"] > 0
    assert set(row["asked"]) == {"eager", "replayed"}


def test_the_machine_is_described():
    about = machine.describe("cuda", 1)
    assert about["device"] == torch.cuda.get_device_name() and about["driver"] and about["cuda"]


@pytest.mark.parametrize("op", cold.OPS)
def test_few_variants_over_batch_sizes(tools, op, capsys):
    tools.skip_unless(op, "triton")
    row = cold.measure(op)
    with capsys.disabled():
        print(f"\n{op}: first call {row['seconds']:.2f} s, variants {row['variants']}")
    assert all(count <= 3 for count in row["variants"].values())
