"""Rows of results as Markdown, for the docs."""

from __future__ import annotations

from typing import Any

from benchmarks.runner import AT_MOST, met

TITLES = {"call": "As called from Python", "replay": "Under CUDA-graph replay"}


def spread(value: dict[str, float] | None) -> str:
    return "" if value is None else f"{value['median']:.2f} ({value['low']:.2f} to {value['high']:.2f})"


def milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def timings(rows: list[dict[str, Any]], clock: str) -> list[str]:
    lines = ["| case | ours, ms | textbook, ms | times eager | times compiled | times the peer | over the bound |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        if clock not in row:
            continue
        times, faster = row[clock]["milliseconds"], row[clock]["faster_than"]
        peers = [f"{name}: {spread(value)}" for name, value in faster.items() if name not in ("textbook", "compiled")]
        cells = [row["case"], milliseconds(times["ours"]), milliseconds(times.get("textbook"))]
        cells += [spread(faster.get("textbook")), spread(faster.get("compiled")), "; ".join(peers)]
        lines.append(f"| {' | '.join([*cells, spread(row[clock].get('over_bound'))])} |")
    return lines


def accuracy(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| case | error | allowed |", "|---|---:|---:|"]
    for row in rows:
        if "refused" in row:
            lines.append(f"| {row['case']} | REFUSED: {row['refused']} | |")
        elif row["error"] is not None:
            lines.append(f"| {row['case']} | {row['error']:.0e} | {row['allowed']:.0e} |")
    return lines


def memory(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| case | ours, MiB | above arguments | textbook, MiB | above arguments |", "|---|---:|---:|---:|---:|"]
    for row in (row for row in rows if "mebibytes" in row):
        cells = [row["case"]]
        for which in ("ours", "textbook"):
            value = row["mebibytes"].get(which)
            cells += ["", ""] if value is None else [f"{value['whole']:.0f}", f"{value['above']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def asked(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| case | what | asked | measured | |", "|---|---|---:|---:|---|"]
    for row in rows:
        for name, (want, got) in row.get("asked", {}).items():
            sign = "at most" if name in AT_MOST else "at least"
            verdict = "met" if met(name, want, got) else "MISSED"
            lines.append(f"| {row['case']} | {name.replace('_', ' ')} | {sign} {want:.3g} | {got:.2f} | {verdict} |")
    return lines


def markdown(rows: list[dict[str, Any]], machine: dict[str, str], cold: list[dict[str, Any]] | None = None) -> str:
    """The whole page."""
    lines = [f"# {rows[0]['device'].upper() if rows else 'Nothing measured'}", ""]
    lines += [", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    lines += ["Forward and backward against the formulas of `benchmarks/textbook.py`, interleaved in one process: the"]
    lines += [
        "median of the round-by-round ratios, and their quartiles. Only a case that agrees with float64 is timed."
    ]
    lines += ["", "## Asked", "", *asked(rows)]
    for clock, title in TITLES.items():
        if any(clock in row for row in rows):
            lines += ["", f"## {title}", "", *timings(rows, clock)]
    if any("mebibytes" in row for row in rows):
        lines += ["", "## Peak memory", "", *memory(rows)]
    if cold:
        lines += ["", "## First call, and variants compiled over batch sizes 1 to 512", ""]
        lines += ["| op | first call, s | variants per kernel |", "|---|---:|---|"]
        for row in cold:
            variants = ", ".join(f"{name} {count}" for name, count in sorted(row["variants"].items()))
            lines.append(f"| {row['op']} | {row['seconds']:.2f} | {variants or 'none compiled'} |")
    lines += ["", "## Error against float64", "", *accuracy(rows)]
    return "\n".join(lines) + "\n"
