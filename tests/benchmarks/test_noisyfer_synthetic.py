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
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["run", "---|---|---:|---:|---:", *words[3:5]]
    assert rows[3].endswith("| - | - |") and not rows[2].endswith("| - | - |")  # a single task has no values
    monkeypatch.setattr(table, "run", None)
    table.main(words)
    assert capsys.readouterr().out.splitlines() == rows
    with pytest.raises(SystemExit, match="no-decoder-seed1 was made with other options"):
        table.main([*words, "--seed", "2"])


def test_what_others_read_off_the_decoders_images(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(table, "TEST_FACES", 10)
    small = "--train-images 10 --validation-images 10 --epochs 1 --batch-size 10 --width 0.02 --accelerator cpu"
    table.main(f"--seeds 1 --rows no-joint vgg no-decoder --out {tmp_path} --game=--warmup=0 -- {small}".split())
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[-3:]]
    assert [row[0] for row in rows] == ["| vgg", "| no-joint", "| no-decoder"]
    share = table.read(tmp_path / "no-joint-seed1", [tmp_path / "vgg-seed1"], 50)
    assert rows[1][-1] == f"{share:.3f} |" and rows[0][-1] == rows[2][-1] == "- |"
    # A reader that says one class whatever it sees is right about that class alone.
    monkeypatch.setattr(table, "load_recipe", lambda run: loaded(run) if "joint" in str(run.folder) else says_two)
    assert table.read(tmp_path / "no-joint-seed1", [tmp_path / "x"], 3) == pytest.approx(1 / 7)


def loaded(run):
    from ferkit.tasks.run import load_recipe

    return load_recipe(run)


def says_two(images):
    import torch

    return torch.eye(7)[2].expand(len(images), 7)


def test_cells():
    assert [table.cell(values) for values in ([0.5, 0.6, 0.7], [0.5], [])] == ["0.600 ± 0.100", "0.500", "-"]
