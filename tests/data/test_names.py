from __future__ import annotations

import subprocess
import sys

import pytest

import ferkit.data
from ferkit.data.emotions import EMOTIONS, canonical_emotion, class_index


def test_every_name_is_there():
    for name in ferkit.data.__all__:
        assert getattr(ferkit.data, name) is not None
    assert set(ferkit.data.__all__) <= set(dir(ferkit.data))
    with pytest.raises(AttributeError, match="has no attribute 'Manifests'"):
        _ = ferkit.data.Manifests


def test_reader_name_is_the_function_also_after_its_module_is_imported():
    code = (
        "import ferkit.data.readers.ferplus, ferkit.data.readers.folder\n"
        "from ferkit.data import ferplus, image_folder\nassert callable(ferplus) and callable(image_folder)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_needs_torch_and_numpy_only():
    code = (
        "import sys\nfor name in ('PIL', 'pandas', 'pyarrow', 'torchvision', 'lightning', 'tqdm', 'scipy'):\n"
        "    sys.modules[name] = None\n"
        "from ferkit.data import EMOTIONS, FaceDataset, Manifest, ferplus, flip_labels, image_folder\n"
        "from ferkit.samplers import ClassCoverageBatchSampler\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_emotions():
    assert EMOTIONS == ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
    assert canonical_emotion("NF") is None and canonical_emotion(" Fearful ") == "fear"
    assert class_index(("joy", "happy"))["joy"] == 0 and class_index(("joy", "happy"))["happy"] == 1
