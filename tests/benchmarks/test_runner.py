"""The runner: a wrong op is refused, ratios are medians, what was asked is judged, and every case can be made."""

import dataclasses
import json

import pytest
import torch

suite = pytest.importorskip("benchmarks.suite")

from benchmarks import __main__ as command  # noqa: E402
from benchmarks import clocks, cold, machine, peak, plots, registry, runner, table  # noqa: E402


class Counted(clocks.WallClock):
    """Never looks at a real clock: the n-th reading says n seconds."""

    def __init__(self, name="call"):
        self.name, self.ticks = name, 0

    def seconds(self, run, repeats=1):
        run()
        self.ticks += 1
        return float(self.ticks)


def small(case, **changes):
    """The case at 24 rows on the CPU, without a compiler."""
    shrunk = {"make": lambda dtype, device: case.make(dtype, "cpu", 24), "device": "cpu", "compile": False}
    return dataclasses.replace(case, **shrunk | {"memory": False} | changes)


def counted(device):
    return [Counted()]


@pytest.mark.parametrize("case", suite.CASES, ids=lambda case: f"{case.device} {case.name}")
def test_every_case_passes_its_gate_when_small(case):
    error, allowed = runner.gate(small(case))
    assert error <= allowed


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_names_are_unique_and_every_op_is_measured(device):
    chosen = suite.cases(device)
    assert len({case.name for case in chosen}) == len(chosen)
    assert {case.op for case in chosen} >= set(cold.OPS)
    for case in chosen:
        leaf = case.make(getattr(torch, case.dtype), "meta")[0]
        assert leaf.requires_grad and leaf.shape[0] == case.rows and str(leaf.dtype) == f"torch.{case.dtype}"
    with pytest.raises(ValueError, match="registered already"):
        registry.register(chosen[0])


def test_dry_run_lists_the_gpu_cases(capsys):
    assert command.main(["--device", "cuda", "--list"]) == 0
    text = capsys.readouterr().out
    assert "class_similarity 262144x512: 514.0 MiB" in text and "similarity_preserving 4096x512x8 tf32" in text


@pytest.mark.parametrize("wrong", ["value", "gradient", "nan"])
def test_a_wrong_op_is_refused_and_not_timed(wrong):
    case = small(suite.find("scaled_cross_entropy 72x8", "cpu"))

    def broken(logits, scale, labels):
        right = case.ours(logits, scale, labels)
        if wrong == "value":
            return right * 1.001
        if wrong == "gradient":
            return right + (logits.sum() - logits.detach().sum()) * 1e-2
        return right + float("nan")

    clock = Counted()
    row = runner.measure(dataclasses.replace(case, ours=broken), clock_list=lambda device: [clock])
    assert "differs from the float64 reference" in row["refused"] and "call" not in row and clock.ticks == 0
    assert "REFUSED" in table.markdown([row], {})


def test_times_are_interleaved_and_ratios_are_medians():
    clock, order = Counted(), []
    runs = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    times = clocks.interleave(clock, runs, 3, "cpu")
    assert times == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}
    assert order[-6:] == ["a", "b"] * 3
    assert runner.ratio([2.0, 30.0, 4.0], [1.0, 1.0, 1.0]) == {"median": 4.0, "low": 2.0, "high": 30.0}


def test_a_row_holds_both_clocks_and_the_verdicts():
    case = suite.find("class_similarity 72x512", "cuda")
    row = runner.measure(small(case, rounds=3), clock_list=lambda device: [Counted(), Counted("replay")])
    assert set(row["call"]["milliseconds"]) == {"ours", "textbook", "released", "bound"}
    assert set(row["replay"]["milliseconds"]) == {"ours", "textbook", "bound"}
    assert row["asked"]["eager"][0] == 2.5 and row["asked"]["replayed"][0] == 3.0
    json.dumps(row)
    text = table.markdown([row], {"device": "none"})
    assert "MISSED" in text and "Under CUDA-graph replay" in text
    assert runner.met("over_bound", 1.6, 1.5) and not runner.met("eager", 1.6, 1.5)


def test_peak_memory_of_a_process():
    case = dataclasses.replace(suite.find("class_similarity 1024x512", "cpu"))
    ours, textbook = peak.of_process(case), peak.of_process(case, "textbook")
    assert textbook["above"] > 10 > ours["above"] and ours["whole"] > ours["above"]


def test_a_case_that_raises_is_reported_and_the_others_go_on():
    case = small(suite.find("concordance 72x2", "cpu"))

    def fails(prediction, target):
        raise RuntimeError("no such kernel\nand more")

    rows = command.run([dataclasses.replace(case, ours=fails), dataclasses.replace(case, rounds=3)], quick=True)
    assert rows[0]["refused"] == "RuntimeError: no such kernel" and "call" in rows[1]
    assert "REFUSED: RuntimeError: no such kernel" in table.markdown(rows, {})


def test_plots_and_page_are_written(tmp_path):
    pytest.importorskip("matplotlib")
    rows = [
        {
            **runner.measure(small(suite.find(f"class_similarity {rows}x512", "cpu"), rounds=3), clock_list=counted),
            "mebibytes": {"ours": {"whole": 2.0, "above": 1.0}, "textbook": {"whole": 9.0, "above": rows / 100}},
        }
        for rows in (72, 4096)
    ]
    command.write(tmp_path, "cpu", rows, machine.describe("cpu", 1), [])
    assert {path.name for path in tmp_path.iterdir()} == {"cpu.md", "cpu.json", "cpu-speedup.png", "cpu-memory.png"}
    assert json.loads((tmp_path / "cpu.json").read_text())["machine"].keys() >= {"commit", "torch", "device"}
    assert [points for points in plots.series(rows, plots.megabytes("textbook")).values()] == [
        [(72, 0.72), (4096, 40.96)]
    ]


def test_without_matplotlib_the_numbers_are_still_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    command.write(tmp_path, "cpu", [], machine.describe("cpu", 1), [])
    assert (tmp_path / "cpu.json").exists() and 'pip install "ferkit[train]"' in capsys.readouterr().err


def test_without_a_gpu_the_command_says_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert command.main(["--device", "cuda"]) == 2
    assert "no CUDA device" in capsys.readouterr().err


def test_variants_are_counted_from_the_compiled_files(tmp_path):
    for folder, name in (("a", "_rows"), ("b", "_rows"), ("c", "_sums")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.cubin").touch()
        (tmp_path / folder / f"{name}.ptx").touch()
    assert cold.variants(tmp_path) == {"_rows": 2, "_sums": 1}
