"""Speed-up and peak memory against N, both axes logarithmic; one line an op and width."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKERS = "osD^vPX*"


def series(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None]) -> dict[str, list[tuple]]:
    """float32 IEEE rows by op and width: name -> [(N, value)]; rows without a value are left out."""
    found: dict[str, list[tuple]] = {}
    for row in rows:
        got = value(row) if row["dtype"] == "float32" and not row["tf32"] and "refused" not in row else None
        if got is not None:
            op, shape = row["case"].split(" ")[:2]
            found.setdefault(f"{op} Nx{shape.partition('x')[2]}", []).append((row["rows"], got))
    return {name: sorted(points) for name, points in found.items()}


def speedup(clock: str) -> Callable[[dict[str, Any]], float | None]:
    return lambda row: row.get(clock, {}).get("faster_than", {}).get("textbook", {}).get("median")


def megabytes(which: str) -> Callable[[dict[str, Any]], float | None]:
    # A line on a logarithmic axis needs something above zero.
    def value(row: dict[str, Any]) -> float | None:
        found = row.get("mebibytes", {}).get(which)
        return None if found is None else max(found["above"], 0.1)

    return value


def draw(rows: list[dict[str, Any]], folder: Path, title: str) -> list[Path]:
    """Write <device>-speedup.png and <device>-memory.png; ImportError names matplotlib where it is missing."""
    try:
        import matplotlib
    except ImportError as problem:
        raise ImportError('matplotlib is missing: pip install "ferkit[train]"') from problem
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    device = rows[0]["device"] if rows else "cpu"
    written = []

    def figure(name: str, label: str, lines: list[tuple[str, list[tuple], int, str]], even: bool) -> None:
        if not lines:
            return
        canvas, axes = plt.subplots(figsize=(9, 5.2), layout="constrained")
        for text, points, colour, style in lines:
            axes.plot(
                *zip(*points), style, color=f"C{colour % 10}", marker=MARKERS[colour % 8], markersize=5, label=text
            )
        if even:
            axes.axhline(1, color="0.4", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="N (rows of the batch)", ylabel=label)
        sizes = sorted({size for _, points, _, _ in lines for size, _ in points})
        axes.set_xticks(sizes, [str(size) for size in sizes], rotation=45, ha="right", rotation_mode="anchor")
        axes.xaxis.minorticks_off()
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        axes.set_title(title, fontsize=10)
        path = folder / f"{device}-{name}.png"
        canvas.savefig(path, dpi=110)
        plt.close(canvas)
        written.append(path)

    call, replay = series(rows, speedup("call")), series(rows, speedup("replay"))
    lines = [(name, points, number, "-") for number, (name, points) in enumerate(call.items())]
    order = list(call)
    lines += [(f"{name}, graph replay", points, order.index(name), "--") for name, points in replay.items()]
    figure("speedup", "times faster than eager PyTorch, forward and backward", lines, even=True)
    ours, plain = series(rows, megabytes("ours")), series(rows, megabytes("textbook"))
    lines = [(f"{name}, ferkit", points, number, "-") for number, (name, points) in enumerate(ours.items())]
    order = list(ours)
    lines += [(f"{name}, textbook", points, order.index(name), "--") for name, points in plain.items()]
    figure("memory", "peak memory above the arguments, MiB", lines, even=False)
    return written
