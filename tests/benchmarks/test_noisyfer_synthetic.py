"""The table of noisyFER's rows is made of runs, and finished runs are used again."""

import pytest

table = pytest.importorskip("benchmarks.noisyfer_synthetic")
pytest.importorskip("lightning")


def test_a_table_is_made_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(table, "TEST_FACES", 10)
    small = "--train-images 10 --validation-images 10 --epochs 1 --batch-size 10 --width 0.02 --accelerator cpu"
    words = f"--seeds 1 --rows no-decoder single-task --out {tmp_path} --game=--warmup=0 -- {small}".split()
    table.main(words)
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["run", "---|---|---:|---:", *words[3:5]]
    assert rows[3].endswith("| - |") and not rows[2].endswith("| - |")  # a single task has no values
    monkeypatch.setattr(table, "run", None)
    table.main(words)
    assert capsys.readouterr().out.splitlines() == rows


def test_cells():
    assert [table.cell(values) for values in ([0.5, 0.6, 0.7], [0.5], [])] == ["0.600 ± 0.100", "0.500", "-"]
