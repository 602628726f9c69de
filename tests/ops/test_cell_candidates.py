"""cell_candidates, the inverted file's search in registers, against every pair of every visited cell in float64."""

import os
import subprocess
import sys

import pytest
import torch

from ferkit import ops
from ferkit.functional import force_backend
from ferkit.ops import _native

pytestmark = pytest.mark.skipif(_native.why_not("cpu") is not None, reason=str(_native.why_not("cpu")))


def inputs(sizes, width, queries, bound, seed=0):
    """Rows by cell, queries that visit about half of the cells, and ``bound`` on their squared distances."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.tensor([0, *sizes]).cumsum(0)
    rows = torch.randn(int(starts[-1]), width, generator=generator).round(decimals=1)
    points = torch.randn(queries, width, generator=generator).round(decimals=1)
    table = torch.cat([rows, rows.square().sum(1, keepdim=True), torch.ones(len(rows), 1)], 1)
    own = points.square().sum(1, keepdim=True)
    wanted = torch.cat([-2 * points, torch.ones(queries, 1), own - bound], 1)
    visits = torch.rand(queries, len(sizes), generator=generator) < 0.5
    return table, wanted, visits, starts


def every_pair(table, wanted, visits, starts, count):
    """The same by all products at once."""
    found = torch.full((len(wanted), count), -1)
    values = wanted.double() @ table.double().T
    visited = visits.repeat_interleave(starts.diff(), dim=1)
    for query in range(len(wanted)):
        places = (visited[query] & (values[query] <= 1e-9)).nonzero()[:, 0]
        order = values[query][places].argsort(stable=True)[:count]
        found[query, : len(order)] = places[order]
    return found


CASES = [
    ((5, 0, 1, 130, 17, 64, 63, 65, 16, 15), 24, 70, 40.0, 9),
    ((293, 7, 48, 33), 56, 13, 95.0, 27),
    ((3, 4), 1, 1, 4.0, 20),
    ((100,), 7, 6, 1e-3, 5),
    ((30, 2500, 9), 4, 11, 3.0, 16),
    ((0, 0), 3, 4, 1.0, 2),
    ((40, 40), 5, 0, 1.0, 2),
]


def distances(table, wanted, places):
    values = (wanted.double() @ table.double().T).gather(1, places.clamp(min=0)) if len(table) else places.double()
    return torch.where(places < 0, torch.inf, values)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 1.0])
@pytest.mark.parametrize(("sizes", "width", "queries", "bound", "count"), CASES)
def test_the_least_products_in_order(sizes, width, queries, bound, count, share):
    given = inputs(sizes, width, queries, bound)
    found = ops.native("cell_candidates")(*given, count, max(1, int(share * width)))
    expected = every_pair(*given, count)
    assert found.shape == expected.shape and found.dtype == torch.int64
    # of equal products either may come first: rounding decides
    near, wanted = distances(*given[:2], found), distances(*given[:2], expected)
    torch.testing.assert_close(near, wanted, rtol=1e-5, atol=1e-3)
    for row in found:
        kept = row[row >= 0]
        assert len(kept.unique()) == len(kept)


def test_equal_products_in_the_order_of_places():
    table = torch.tensor([[1.0, 1.0, 1.0]]).repeat(200, 1)
    points = torch.tensor([[-2.0, 1.0, -5.0]])
    found = ops.native("cell_candidates")(
        table, points, torch.ones(1, 2, dtype=torch.bool), torch.tensor([0, 90, 200]), 7, 1
    )
    assert found.tolist() == [list(range(7))]


@pytest.mark.parametrize("width", [9, 56, 120])
@pytest.mark.parametrize("lead", [1, 8])
def test_rounding_of_the_first_columns_loses_no_candidate(width, lead):
    """Later columns all parallel: Cauchy and Schwarz's bound is the product itself, and every row is on its limit."""
    generator = torch.Generator().manual_seed(width + lead)
    rows, queries = 200, 80
    direction = torch.randn(width - lead, generator=generator)
    scale = torch.rand(rows + queries, 1, generator=generator) * 10 ** torch.linspace(-3, 2, rows + queries)[:, None]
    first = torch.randn(rows + queries, lead, generator=generator) * scale
    both = torch.cat([first, scale * direction], 1)
    y, x = both[torch.randperm(len(both), generator=generator)].split([rows, queries])
    table = torch.cat([y, y.square().sum(1, keepdim=True), torch.ones(rows, 1)], 1)
    visits, starts = torch.ones(1, 1, dtype=torch.bool), torch.tensor([0, rows])
    for query in x:
        asked = torch.cat([-2 * query, torch.tensor([1.0, 0.0])])[None]
        for bound in (table.double() @ asked[0].double()).float():  # of one row after the other
            asked[0, -1] = -bound
            run = (table, asked, visits, starts, rows)
            whole, some = (set(ops.native("cell_candidates")(*run, columns)[0].tolist()) for columns in (width, lead))
            assert whole == some


def test_sums_that_overflow_leave_whole_places():
    """Products that are not numbers say nothing of other queries, and nothing is written where it does not belong."""
    table = torch.full((40, 10), 1e20)
    table[:, -2:] = torch.tensor([3e38, 1.0])
    for queries in (1, 5, 7):
        points = torch.zeros(queries, 10)
        points[:, -2] = 1
        run = (table, points, torch.ones(queries, 1, dtype=torch.bool), torch.tensor([0, 40]), 9, 2)
        assert (ops.native("cell_candidates")(*run) == -1).all()


def test_the_same_in_every_instruction_set():
    given = inputs(*CASES[0][:4])
    expected = ops.native("cell_candidates")(*given, CASES[0][4], 8)
    command = [sys.executable, __file__]
    for level in (3, 0):
        environment = os.environ | {"FERKIT_CPU_LEVEL": str(level)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found = torch.tensor([[int(place) for place in line.split()] for line in done.stdout.splitlines()])
        torch.testing.assert_close(distances(*given[:2], found), distances(*given[:2], expected), rtol=1e-5, atol=1e-3)


def test_what_cannot_be():
    table, points, visits, starts = inputs((4, 5), 3, 2, 1.0)
    run = ops.native("cell_candidates")
    with pytest.raises(RuntimeError, match=r"visits: expected shape \(2, 2\), got \(1, 2\)"):
        run(table, points, visits[:1], starts, 3, 3)
    with pytest.raises(RuntimeError, match=r"visits: expected dtype torch\.bool"):
        run(table, points, visits.byte(), starts, 3, 3)
    with pytest.raises(RuntimeError, match="starts: expected ascending numbers from 0 to 9"):
        run(table, points, visits, starts + 1, 3, 3)
    with pytest.raises(RuntimeError, match="points: expected the columns of the table"):
        run(table, points[:, 1:].contiguous(), visits, starts, 3, 3)
    with pytest.raises(RuntimeError, match=r"table: expected dtype torch\.float32"):
        run(table.double(), points.double(), visits, starts, 3, 3)
    with pytest.raises(RuntimeError, match="count: expected a positive number"):
        run(table, points, visits, starts, 0, 3)
    for lead in (0, 4):
        with pytest.raises(RuntimeError, match="lead: expected from 1 to 3"):
            run(table, points, visits, starts, 3, lead)


def test_left_out_where_another_backend_is_asked_for():
    assert ops.native("cell_candidates") is not None
    with force_backend("eager"):
        assert ops.native("cell_candidates") is None


if __name__ == "__main__":
    for row in ops.native("cell_candidates")(*inputs(*CASES[0][:4]), CASES[0][4], 8).tolist():
        print(*row)
