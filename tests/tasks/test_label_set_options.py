"""From the options of a command to label sets and values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning")
image = pytest.importorskip("PIL.Image")

from ferkit.data import Manifest, label_sets_from_noise, majority_vote  # noqa: E402
from ferkit.data.arrays import ImageArray  # noqa: E402
from ferkit.data.readers import cifar10 as reader  # noqa: E402
from ferkit.data.synthetic.annotators import annotators, noisy_affect  # noqa: E402
from ferkit.tasks import DataOptions, attach_label_sets, write_manifest  # noqa: E402
from ferkit.tasks.data import build_dataset  # noqa: E402

NAMES = ("random_label1", "random_label2", "random_label3")


def attached(options: DataOptions, split: str, **chosen):
    return attach_label_sets(build_dataset(options, split, images=False), options, split, **chosen)


@pytest.fixture(scope="module")
def synthetic() -> DataOptions:
    return DataOptions(size=32, train_images=60, validation_images=20)


def test_rendered_faces_have_two_annotators_and_noisy_affect(synthetic: DataOptions) -> None:
    data = attached(synthetic, "train")
    faces = data.dataset
    assert data.source_names == ("annotator1", "annotator2") and data.value_names == ("valence", "arousal")
    wanted = torch.stack(list(annotators(faces).values()), 1)
    assert torch.equal(data.sources, wanted) and torch.equal(data.labels, majority_vote(wanted, 7))
    assert torch.equal(data.values[:, 1], noisy_affect(faces)["arousal"])
    assert torch.equal(data.true_values, torch.stack([faces.valence_exact, faces.arousal_exact], 1))
    assert torch.equal(data.true_labels, faces.true_labels) and not torch.equal(data.labels, data.true_labels)


@pytest.mark.parametrize("split", ("validation", "test"))
def test_rendered_faces_are_scored_by_the_truth(synthetic: DataOptions, split: str) -> None:
    data = attached(synthetic, split)
    assert data.source_names == () and data[0]["sources"].shape == (0,)
    assert torch.equal(data.labels, data.dataset.true_labels)
    exact = torch.stack([data.dataset.valence_exact, data.dataset.arousal_exact], 1)
    assert torch.equal(data.values, exact) and torch.equal(data.true_values, exact)


def test_special_names(synthetic: DataOptions) -> None:
    noisy = DataOptions(size=32, train_images=60, noise=0.5, values=["arousal"])
    data = attached(noisy, "train", sources=["majority", "label", "true", "annotator2"])
    both = majority_vote(torch.stack(list(annotators(data.dataset).values()), 1), 7)
    assert torch.equal(data.sources[:, 0], both) and torch.equal(data.sources[:, 2], data.true_labels)
    assert torch.equal(data.sources[:, 1], data.dataset.labels)
    assert not torch.equal(data.sources[:, 1], data.sources[:, 2])
    assert data.value_names == ("arousal",) and data.true_values.shape == (60, 1)
    # What is passed goes before what the options say.
    bare = attached(DataOptions(size=32, train_images=60, sources=["label"]), "train", sources=[], values=[])
    assert bare.sources.shape == (60, 0) and torch.equal(bare.labels, bare.dataset.labels)
    assert bare.values.shape == (60, 0) and bare.true_values is None


def test_unknown_names_list_those_there_are(synthetic: DataOptions) -> None:
    with pytest.raises(ValueError, match="expected some of annotator1, annotator2, true, majority, label, got"):
        attached(synthetic, "train", sources=["annotator3"])
    with pytest.raises(ValueError, match="values: expected some of valence, arousal, got 'dominance'"):
        attached(synthetic, "train", values=["dominance"])
    with pytest.raises(ValueError, match="values: expected some of valence, arousal, got 'dominance'"):
        attached(synthetic, "test", values=["dominance"])


def write_faces(path: Path, header: str, rows: list[str]) -> DataOptions:
    image.new("RGB", (8, 8), (9, 9, 9)).save(path / "a.png")
    (path / "faces.csv").write_text("\n".join([header, *rows]) + "\n")
    return DataOptions(data="manifest", root=str(path / "faces.csv"), size=32)


def test_a_manifest_s_own_sets_and_values(tmp_path: Path) -> None:
    options = write_faces(
        tmp_path,
        "image,split,label,source_label_true,source_label_web,source_label_machine,valence,arousal",
        ["a.png,train,happy,sad,sad,,0.5,", "a.png,train,fear,fear,happy,anger,,", "a.png,val,sad,sad,,,-0.25,"],
    )
    data = attached(options, "train")
    assert data.source_names == ("web", "machine") and data.sources.tolist() == [[2, -1], [1, 6]]
    assert data.labels.tolist() == [2, 1] and data.true_labels.tolist() == [2, 4]
    # An empty column is no value that the data have.
    assert data.value_names == ("valence",) and data.values[0, 0] == 0.5 and data.values[1].isnan().all()
    assert data.true_values is None and data.manifest is data.dataset.manifest
    with pytest.raises(ValueError, match="values: expected some of valence, got 'arousal'"):
        attached(options, "train", values=["arousal"])
    scored = attached(options, "validation", values=["valence", "arousal"])
    assert scored.labels.tolist() == [2] and scored.true_values[0, 0] == -0.25 and scored.true_values[0, 1].isnan()


def test_data_with_labels_alone_learn_from_these(tmp_path: Path) -> None:
    options = write_faces(tmp_path, "image,split,label", ["a.png,train,happy", "a.png,train,", "a.png,val,sad"])
    data = attached(options, "train")
    assert data.source_names == ("label",) and data.sources.tolist() == [[1], [-1]] and data.value_names == ()
    with pytest.raises(ValueError, match="values: expected none, since the data have none, got 'valence'"):
        attached(options, "train", values=["valence"])
    with pytest.raises(ValueError, match="sources: expected some of label, got 'majority'"):
        attached(options, "train", sources=["majority"])


def test_a_manifest_s_column_is_learned_and_its_best_labels_are_scored(tmp_path: Path) -> None:
    header = "image,split,label,source_label_web,source_label_true"
    rows = ["a.png,train,happy,fear,", "a.png,train,sad,anger,happy", "a.png,val,sad,fear,", "a.png,val,fear,fear,sad"]
    web = replace(write_faces(tmp_path, header, rows), labels="web")
    assert build_dataset(web, "train").labels.tolist() == [4, 6]  # of an image's rows each its own
    assert build_dataset(web, "validation").labels.tolist() == [2, 2]
    plain = replace(web, labels=None)
    assert build_dataset(plain, "train").labels.tolist() == [1, 2]
    assert build_dataset(plain, "validation").labels.tolist() == [2, 2]
    # Where nothing better is known, the column is what there is.
    bare = replace(write_faces(tmp_path, "image,split,label,source_label_web", ["a.png,val,,fear"]), labels="web")
    assert build_dataset(bare, "validation").labels.tolist() == [4]


@pytest.mark.parametrize(("given", "message"), [({"labels": "worse"}, "labels"), ({"noise": 0.2}, "noise")])
def test_labels_that_no_source_would_take_are_told(people: Path, given: dict, message: str) -> None:
    options = DataOptions(data="cifar10n", root=str(people), size=32, **given)
    with pytest.raises(
        ValueError, match=f"{message}: expected 'label' among the sources, .* got sources random_label1"
    ):
        attached(options, "train")
    assert attached(options, "train", sources=["label", "random_label2"]).source_names == ("label", "random_label2")
    assert attached(options, "validation").source_names == ()


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """A CIFAR-10N folder: 40 training images, a fifth wrong by each person, and 4 test images."""
    names = reader.CIFAR_CLASSES
    lines = ["image,split,clean_label,random_label1,random_label2,random_label3,aggre_label,worse_label"]
    for i in range(40):
        clean = i % 10
        given = [(clean + (i % 5 == person)) % 10 for person in range(3)]
        worse = (clean + (i % 5 < 3)) % 10
        lines.append(",".join([f"{i}.png", "train", *(names[j] for j in (clean, *given, clean, worse))]))
        image.new("RGB", (32, 32), (i, 0, 0)).save(tmp_path / f"{i}.png")
    lines += [f"{i}.png,test,{names[i]},,,,," for i in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_cifar10n_learns_from_people_and_is_scored_by_the_clean_labels(people: Path) -> None:
    options = DataOptions(data="cifar10n", root=str(people), size=32, validation_share=0.25)
    train, validation, test = (attached(options, split) for split in ("train", "validation", "test"))
    assert train.source_names == NAMES and train.value_names == ()
    assert (len(train), len(validation), len(test)) == (30, 10, 4)
    assert torch.equal(train.dataset.labels, train.sources[:, 0])  # a method of one label set takes the first person's
    assert torch.equal(train.labels, train.true_labels) and not torch.equal(train.sources[:, 0], train.true_labels)
    assert torch.equal(validation.labels, validation.true_labels) and test.labels.tolist() == [0, 1, 2, 3]
    assert torch.bincount(validation.labels).tolist() == [1] * 10
    write_manifest(options, str(people / "people.csv"), progress=False)
    written = DataOptions(data="manifest", root=str(people / "people.csv"), size=32, classes=list(train.classes))
    again = attached(written, "train")
    assert again.source_names == NAMES and torch.equal(again.sources, train.sources)
    assert build_dataset(written, "validation").labels.tolist() == validation.labels.tolist()
    named = attached(options, "train", sources=["worse", "aggre"])
    assert named.sources.shape == (30, 2) and not torch.equal(named.sources[:, 0], named.true_labels)


@pytest.mark.parametrize(("labels", "wrong"), [("clean", 0), ("majority", 0), ("worse", 24), ("random_label2", 8)])
def test_cifar10n_trains_on_the_labels_asked_for(people: Path, labels: str, wrong: int) -> None:
    options = DataOptions(data="cifar10n", root=str(people), size=32, labels=labels, validation_share=0.0)
    data = build_dataset(options, "train")
    assert int((data.labels != data.true_labels).sum()) == wrong
    folds = DataOptions(data="cifar10n", root=str(people), size=32, labels=labels, folds=4, fold=1)
    held = build_dataset(folds, "validation")
    assert torch.equal(held.labels, held.true_labels) and len(held) == 10
    with pytest.raises(ValueError, match="labels: expected one of clean, random_label1"):
        build_dataset(DataOptions(data="cifar10n", root=str(people), labels="sheet"), "train")


def test_fewer_classes(people: Path) -> None:
    options = DataOptions(data="cifar10n", root=str(people), size=32, classes=["cat", "dog"])
    data = attached(options, "train")
    assert data.classes == ("cat", "dog") and set(data.sources.unique().tolist()) == {-1, 0, 1}


def test_cifar10_s_noise_follows_the_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from types import SimpleNamespace

    import numpy as np

    datasets = pytest.importorskip("torchvision.datasets")
    fake = SimpleNamespace(data=np.zeros((500, 32, 32, 3), np.uint8), targets=[i % 10 for i in range(500)])
    monkeypatch.setattr(datasets, "CIFAR10", lambda root, train, download: fake)
    reader.read_arrays.cache_clear()
    options = DataOptions(data="cifar10", root="x", size=32, validation_share=0.0)
    data = attached(options, "train")
    assert data.source_names == ("noise20", "noise30", "noise40")
    assert torch.equal(data.sources, label_sets_from_noise(data.true_labels, (0.2, 0.3, 0.4), 10))
    assert torch.equal(data.dataset.labels, data.true_labels)
    released = DataOptions(
        data="cifar10", root="x", size=32, validation_share=0.0, noise_includes_true=True, source_noise=[0.5]
    )
    other = attached(released, "train")
    assert other.source_names == ("noise50",)
    assert torch.equal(other.sources, label_sets_from_noise(data.true_labels, (0.5,), 10, exclude_true=False))
    assert len(attached(options, "test")) == 500
    (tmp_path / "labels.csv").touch()  # of CIFAR-10N, beside which CIFAR-10 lies: no images in files
    assert len(build_dataset(replace(options, root=str(tmp_path)), "test")) == 500
    reader.read_arrays.cache_clear()


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="source_noise"):
        DataOptions(source_noise=[1.5])
    with pytest.raises(ValueError, match="sources: expected each name once"):
        DataOptions(sources=["label", "label"])
    with pytest.raises(TypeError, match="values: expected a list of names, got 'valence'"):
        DataOptions(values="valence")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="root: expected the folder or file of data 'cifar10n'"):
        DataOptions(data="cifar10n")


def test_marks_of_unknown_affect_are_missing() -> None:
    images = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    affect = {"valence": np.array([-2.0, 0.5, 0.1]), "arousal": np.array([0.0, -5.0, 0.2])}
    manifest = Manifest(["a", "b", "c"], ["train"] * 3, [0, 1, 0], ("x", "y"), **affect)
    options = DataOptions("manifest", root="faces.csv")
    sets = attach_label_sets(ImageArray(manifest, images, 8), options, "train")
    assert sets.values.isnan().tolist() == [[True, False], [False, True], [False, False]]
    manifest = replace(manifest, arousal=np.array([0.0, 55.0, 1.0]))
    with pytest.raises(ValueError, match=r"arousal: expected values in \[-1, 1\], or -2 or -5 for unknown, got 55"):
        attach_label_sets(ImageArray(manifest, images, 8), options, "train")
