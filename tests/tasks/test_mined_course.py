"""course.csv, and one face in many batches: what they hold is what mining by hand gives, and the run is not changed."""

from __future__ import annotations

import csv
from types import SimpleNamespace

import pytest
import torch

from ferkit.data import SyntheticFaces, flip_labels
from ferkit.recipes import DMUE
from ferkit.samplers import ClassCoverageBatchSampler
from ferkit.tasks import DataOptions, FitOptions, _study_figures, train
from ferkit.tasks._anchors import chosen_anchors, follow_anchors
from ferkit.tasks._mined_course import MinedCourse, chosen_faces
from ferkit.tasks._study_figures import draw_course, draw_mined
from ferkit.tasks.run import Run

DATA = DataOptions(train_images=30, validation_images=10, size=24, noise=0.3)


def fit(out, **more):
    return FitOptions(epochs=2, batch_size=14, out=str(out), accelerator="cpu", progress=False, **more)


def test_chosen_faces_are_half_wrong_and_have_spread_votes():
    faces = SyntheticFaces(300, size=24, seed=3)
    faces = faces.with_labels(flip_labels(faces.labels, 0.3, 7, seed=0))
    chosen = torch.tensor(chosen_faces(faces, 10))
    wrong = faces.labels[chosen] != faces.true_labels[chosen]
    assert len(set(chosen.tolist())) == 10 and wrong.tolist() == [True] * 5 + [False] * 5
    right = chosen[5:]
    assert bool((faces.distributions[right, faces.labels[right]] <= 0.8).all())
    plain = SimpleNamespace(labels=torch.tensor([0, -1, 1]), true_labels=None, distributions=None)
    assert sorted(chosen_faces(plain)) == [0, 2]


def test_course_is_a_record_that_changes_nothing(tmp_path, monkeypatch):
    """A run that looks on and is broken off ends as one without either, and its table goes on."""
    plain, cut = tmp_path / "plain", tmp_path / "cut"
    train("dmue", DATA, fit(plain))
    steps = int(next(csv.DictReader((plain / "metrics.csv").open()))["step"])  # of an epoch
    loss, calls = DMUE.training_loss, []

    def breaks_in_the_second_epoch(self, *arguments):
        calls.append(1)
        if len(calls) == steps + 1:
            raise OSError("power cut")
        return loss(self, *arguments)

    monkeypatch.setattr(DMUE, "training_loss", breaks_in_the_second_epoch)
    with pytest.raises(OSError, match="power cut"):
        train("dmue", DATA, fit(cut), callbacks=[MinedCourse(cut / "course.csv")])
    monkeypatch.undo()
    before = list(csv.DictReader((cut / "course.csv").open()))
    train("dmue", DATA, fit(cut, resume=True), callbacks=[MinedCourse(cut / "course.csv")])
    whole, resumed = (torch.load(Run(out).checkpoint, weights_only=True)["state_dict"] for out in (plain, cut))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert (cut / "metrics.csv").read_text() == (plain / "metrics.csv").read_text()
    rows = list(csv.DictReader((cut / "course.csv").open()))
    assert {row["epoch"] for row in before} == {"0", "1"} and rows[: len(before)] == before
    assert [row["epoch"] for row in rows] == [epoch for epoch in "012" for _ in range(8)]
    mined = {row["index"]: row for row in csv.DictReader((plain / "labels.csv").open())}
    for row in rows[-8:]:
        final = mined[row["index"]]
        assert row["label"] == final["label"]
        names = [name for name in row if name.startswith("mined_")]
        assert [float(row[n]) for n in names] == pytest.approx([float(final[n]) for n in names], abs=2e-4)


@pytest.mark.parametrize(("epochs", "looks"), [(1, 1), (13, 13), (20, 20), (34, 20), (39, 20), (100, 20)])
def test_it_looks_twenty_times_at_most_and_at_the_end(epochs, looks, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(MinedCourse, "_look", lambda self, trainer, recipe, done: seen.append(done))
    for epoch in range(epochs):
        trainer = SimpleNamespace(current_epoch=epoch, max_epochs=epochs)
        MinedCourse(tmp_path / "course.csv").on_train_epoch_end(trainer, None)
    assert len(seen) == looks and seen[-1] == epochs


def test_an_anchor_takes_the_place_of_its_like():
    faces = SyntheticFaces(40, size=24, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        recipe = DMUE(7).eval()
    anchor = 11
    followed = follow_anchors(recipe, faces, [anchor], 14, 2, batches=5)
    sampler = ClassCoverageBatchSampler(faces.labels, 14, 2, seed=0, num_classes=7)
    sampler.set_epoch(0)
    drawn = list(sampler)
    sampler.set_epoch(1)
    for column, members in enumerate((drawn + list(sampler))[:5]):
        if anchor not in members:
            like = [i for i, face in enumerate(members) if faces.labels[face] == faces.labels[anchor]]
            members[like[0]] = anchor
        batch = {name: torch.stack([torch.as_tensor(faces[i][name]) for i in members]) for name in faces[0]}
        sure = recipe.mine(batch).confidence
        own = sure[members.index(anchor)]
        assert followed.confidence[0, column] == pytest.approx(float(own), abs=1e-5)
        assert followed.rank[0, column] == 1 + int((sure < own).sum())
    assert len(set(followed.confidence[0].tolist())) == 5, "its batch mates change"


def test_typical_anchors():
    faces = SimpleNamespace(labels=torch.tensor([0, 1, 0, 1, 0, -1]), true_labels=torch.tensor([0, 0, 0, 0, 0, 0]))
    sure = torch.tensor([0.1, 0.3, 0.9, 0.2, 0.5, torch.nan])
    assert chosen_anchors(faces, sure) == {"right label": 4, "wrong label": 3}
    faces.true_labels = None
    assert chosen_anchors(faces, sure) == {"high confidence": 2, "low confidence": 0}


def test_figures_without_votes_or_truth(tmp_path):
    """Of a folder of faces nothing is known but labels: the course is drawn, and nothing is held against votes."""
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    faces = [{"image": image, "label": i, "index": i} for i, image in enumerate(images)]

    class Faces(list):
        classes, labels, true_labels, distributions = ("happy", "sad"), torch.tensor([0, 1]), None, None

    rows = ["epoch,index,label,mined_happy,mined_sad", *(f"{e},{i},happy,0,1" for e in (0, 2) for i in (1, 0))]
    (tmp_path / "course.csv").write_text("\n".join(rows))
    draw_course(tmp_path, Faces(faces), tmp_path / "course.png")
    draw_mined({"mined": tmp_path}, Faces(faces), tmp_path / "mined.png")
    assert (tmp_path / "course.png").stat().st_size > 1000 and not (tmp_path / "mined.png").exists()


def test_faces_without_votes_elsewhere_are_not_held_against_them(tmp_path, monkeypatch):
    """Four faces, of which one has votes outside its given class; with none there is no picture."""
    drawn = {}

    def plot(mined, votes, *_, **__):
        drawn.update(mined, v=votes)

    monkeypatch.setattr(_study_figures, "plot_distributions", plot)
    rows = ["index,label,suggested,confidence,mined_a,mined_b", *(f"{i},a,a,0.5,0.0,1.0" for i in range(4))]
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    class Faces(list):
        classes, labels, true_labels = ("a", "b"), torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1])
        distributions = torch.tensor([[1.0, 0], [1, 0], [0.5, 0.5], [1, 0]])

    faces = Faces({"image": torch.zeros(3, 8, 8, dtype=torch.uint8)} for _ in range(4))
    assert draw_mined({"mined": tmp_path}, faces, tmp_path / "mined.png")
    assert drawn["v"].tolist() == drawn["mined"].tolist() == [[0.0, 1.0]]
    drawn.clear()
    faces.distributions = torch.tensor([[1.0, 0]] * 4)
    assert not draw_mined({"mined": tmp_path}, faces, tmp_path / "mined.png") and not drawn
