"""Draws the figures of reports; the drawing library is imported only when something is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UsageError

FORMATS = (".svg", ".png", ".pdf")
# Colours that colour-blind people tell apart (Okabe and Ito); the markers differ as well, for print in grey.
_STYLES = {
    "none": ("#555555", "o"),
    "zlib": ("#0072B2", "s"),
    "lzo": ("#D55E00", "^"),
    "snappy": ("#009E73", "D"),
    "zstd": ("#CC79A7", "v"),
}
_CLASSES = {1: "zero", 2: "cache", 4: "private", 8: "user", 16: "free"}  # bits of -d (makedumpfile(8))
_WIDTH_IN, _HEIGHT_IN = 7.2, 4.4  # the width of a page between its margins
_LOG_FROM = 6.0  # largest to smallest
_LABELLED_LEVELS = 8  # more have no room for words below the axis


@dataclass(frozen=True)
class Point:
    """The size of one dump."""

    level: int
    mib: float
    computed: bool


def check_format(path: Path) -> None:
    """UsageError when a plot cannot be written in the form that the name asks for."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a plot is written as {', '.join(FORMATS)}")


def draw_sizes(path: Path, lines: Mapping[str, Sequence[Point]], *, title: str, subtitle: str) -> None:
    """Size by level, one line per compression; computed points are hollow, real ones filled."""
    import matplotlib
    from matplotlib.figure import Figure

    levels = sorted({point.level for points in lines.values() for point in points})
    # Text stays text, and the same numbers give the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "kdump-harness", "font.size": 10}):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        axes = figure.subplots()
        for name, points in lines.items():
            ordered = sorted(points, key=lambda point: point.level)
            at = [levels.index(point.level) for point in ordered]
            axes.plot(at, [point.mib for point in ordered], color=_STYLES[name][0], linewidth=1.6)
            for x, point in zip(at, ordered, strict=True):
                axes.plot(x, point.mib, **_marker(*_STYLES[name], hollow=point.computed))
        _scale_sizes(axes, [point.mib for points in lines.values() for point in points])
        _name_levels(axes, levels)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(title, loc="left", pad=22, fontsize=12, fontweight="bold")
        axes.annotate(
            subtitle, (0, 1), xytext=(0, 8),
            xycoords="axes fraction", textcoords="offset points", fontsize=9, color="#444444",
        )  # fmt: skip
        _explain(figure, lines)
        form = path.suffix.lower().lstrip(".")
        figure.savefig(path, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)


def _marker(colour: str, shape: str, *, hollow: bool = False) -> dict[str, Any]:
    face = "white" if hollow else colour
    return {"color": colour, "marker": shape, "markersize": 7, "markeredgewidth": 1.6, "markerfacecolor": face}


def _scale_sizes(axes: Any, sizes: Sequence[float]) -> None:
    """From zero, or logarithmic where the small ones could not be told apart."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    smallest, largest = min(sizes, default=1.0), max(sizes, default=1.0)
    if largest > _LOG_FROM * smallest:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(smallest / 1.4, largest * 1.4)
    else:
        axes.set_ylim(0, largest * 1.1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda mib, _: f"{mib:,.0f}" if mib >= 1 else f"{mib:g}"))
    axes.set_ylabel("vmcore, MiB")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _name_levels(axes: Any, levels: Sequence[int]) -> None:
    """Levels are names, not numbers: 16 is not nearer to 17 than to 8."""
    told = len(levels) <= _LABELLED_LEVELS
    axes.set_xticks(range(len(levels)), [f"{level}\n{_drops(level)}" if told else str(level) for level in levels])
    axes.set_xlim(-0.3, max(len(levels) - 0.7, 0.3))
    axes.set_xlabel("dump level (-d) and the pages it drops" if told else "dump level (-d)")


def _explain(figure: Any, lines: Mapping[str, Sequence[Point]]) -> None:
    """The legend, below the axes: what the lines are, and what the points are."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **_marker(*_STYLES[name])) for name in lines]
    seen = {point.computed for points in lines.values() for point in points}
    for computed, text in ((False, "real crash"), (True, "computed")):
        if computed in seen:
            handles.append(Line2D([], [], linestyle="none", label=text, **_marker("black", "o", hollow=computed)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
        fontsize=9, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def _drops(level: int) -> str:
    """The classes of pages that a level leaves out, short enough to stand below an axis."""
    names = [name for bit, name in _CLASSES.items() if level & bit]
    if len(names) == len(_CLASSES):
        return "all classes"
    if len(names) > 2:
        return "all but " + ", ".join(name for name in _CLASSES.values() if name not in names)
    return ", ".join(names) or "nothing"
