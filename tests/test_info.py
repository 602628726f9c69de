"""`ferkit info`: the backend of every op, the number of rows a native kernel is for, and the reasons."""

from ferkit import info
from ferkit.ops import _native, _select


def test_every_op_and_device_is_named():
    text = info.report()
    for op in _select.OPS:
        assert f"  {op} on cpu: " in text and f"  {op} on cuda: " in text


def test_the_bucket_of_a_native_kernel(monkeypatch):
    monkeypatch.setitem(_select._NATIVE_ROWS, ("class_similarity", "cpu"), 99)
    reasons = {"native": None, "triton": "not here", "eager": None}
    monkeypatch.setattr(_select, "why_not", lambda op, backend, device="cpu", *_: reasons[backend])
    text = info.report()
    assert "class_similarity on cpu: native up to 99 rows, eager beyond\n    triton: not here" in text
    assert "scaled_cross_entropy on cpu: native\n" in text
    reasons["native"] = "not built"
    assert "class_similarity on cpu: eager\n    native (up to 99 rows): not built" in info.report()


def test_where_the_autograd_nodes_are(monkeypatch):
    monkeypatch.setattr(_native, "instruction_set", lambda: "AVX2")
    monkeypatch.setattr(_native, "why_not_autograd", lambda: None)
    assert "  autograd nodes on cpu: C++\n" in info.report()
    monkeypatch.setattr(_native, "why_not_autograd", lambda: "for another torch")
    assert "  autograd nodes on cpu: Python (for another torch)\n" in info.report()
