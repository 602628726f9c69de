from importlib.util import find_spec

import pytest

collect_ignore_glob = [] if find_spec("matplotlib") else ["test_*.py"]


@pytest.fixture
def figures(monkeypatch):
    """Every figure that a report saves, as it was when saved."""
    from matplotlib.figure import Figure

    saved = []
    write = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (saved.append(self), write(self, *args, **kw))[1])
    return saved


@pytest.fixture
def texts(figures):
    """Every non-empty text of the last figure."""
    from matplotlib.text import Text

    return lambda: [text.get_text() for text in figures[-1].findobj(Text) if text.get_text()]
