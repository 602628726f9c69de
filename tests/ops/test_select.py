"""Which kernel is taken, why not the others, and what happens when the compiled library is not to be trusted."""

import json

import pytest
import torch

from ferkit.ops import _native, _select, class_similarity


def test_report_names_every_backend():
    report = _select.report()
    assert set(report) == set(_select.OPS)
    for devices in report.values():
        assert set(devices) == {"cpu", "cuda"}
        for backends in devices.values():
            assert tuple(backends) == _select.BACKENDS
            assert backends["eager"] is None
            assert all(reason is None or (reason and "\n" not in reason) for reason in backends.values())


def test_half_types_and_unknown_names(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "float16" in (_select.why_not("class_similarity", "native", "cpu", torch.float16) or "")
    assert not _select.can_run("class_similarity", "triton", "cpu")
    with pytest.raises(ValueError, match="backend: expected one of"):
        _select.why_not("class_similarity", "cublas")
    with pytest.raises(ValueError, match="op: expected one of"):
        _select.why_not("convolution", "eager")
    with pytest.raises(ValueError, match="backend"), _select.force("cublas"):
        pass


def test_force_holds_inside_the_block_only():
    before = _select.kernel("class_similarity", "cpu", torch.float32)
    with _select.force("eager"):
        assert _select.kernel("class_similarity", "cpu", torch.float32).__name__.endswith("eager.class_similarity")
    assert type(_select.kernel("class_similarity", "cpu", torch.float32)) is type(before)


def test_environment_names_a_backend(monkeypatch):
    monkeypatch.setenv("FERKIT_BACKEND", "eager")
    assert _select._from_environment() == "eager"
    monkeypatch.setenv("FERKIT_BACKEND", "cublas")
    with pytest.raises(ValueError, match="FERKIT_BACKEND: expected one of"):
        _select._from_environment()


def test_native_kernels_of_a_device_stop_at_their_rows(monkeypatch):
    monkeypatch.setitem(_select._NATIVE_ROWS, ("class_similarity", "cpu"), 4)
    with _select.force("native"):
        small = _select.kernel("class_similarity", "cpu", torch.float32, 4)
        large = _select.kernel("class_similarity", "cpu", torch.float32, 5)
    assert large is not small and type(large).__name__ == "module"


@pytest.fixture
def metadata(monkeypatch, tmp_path):
    """Pretend the package lies in an empty folder with these build metadata."""

    def write(info):
        if info is not None:
            (tmp_path / "_build_info.json").write_text(json.dumps(info))
        monkeypatch.setattr(_native, "_PACKAGE", tmp_path)
        _native.build_info.cache_clear()
        _native.why_not.cache_clear()
        _native.why_not_autograd.cache_clear()
        _select.forget()

    yield write
    monkeypatch.undo()
    _native.build_info.cache_clear()
    _native.why_not.cache_clear()
    _native.why_not_autograd.cache_clear()
    _select.forget()


def test_not_built(metadata):
    metadata(None)
    assert "not built" in _select.why_not("class_similarity", "native")
    mean, *_ = class_similarity(torch.eye(2), torch.tensor([0, 1]), 2)
    assert torch.equal(mean, torch.eye(2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"abi": -1}, "native schema -1"),
        ({"version": "0.0.0"}, "built for ferkit 0.0.0"),
        ({}, "_C is missing"),
    ],
)
def test_mismatch_is_one_warning_and_a_fallback(metadata, change, reason):
    import ferkit

    metadata({"version": ferkit.__version__, "abi": _native.ABI, "libraries": ["_C"], "reasons": {}} | change)
    with pytest.warns(RuntimeWarning, match=reason) as caught:
        class_similarity(torch.eye(2), torch.tensor([0, 1]), 2)
        class_similarity(torch.eye(2), torch.tensor([0, 1]), 2)
    assert len(caught) == 1


def test_reason_of_the_build(metadata):
    metadata({"libraries": [], "reasons": {"_C": "FERKIT_BUILD=off"}})
    assert "FERKIT_BUILD=off" in _select.why_not("class_similarity", "native")
