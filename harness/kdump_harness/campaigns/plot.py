"""Draws the figures of reports; the drawing library is imported only when something is drawn."""

from __future__ import annotations

import hashlib
import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import HostError, UsageError
from ..base.extras import install_command, is_installed

FORMATS = (".svg", ".png", ".pdf")
# Colours that colour-blind people can distinguish (Okabe and Ito); the markers differ as well, for print in grey.
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
_INLINE_IN = (4.7, 3.3)  # as wide as a phone, so that its letters are as large there as the page's
_GRID = "#dddddd"
_BLACK = "#000001"  # what is quite black is not written into an SVG, and stays black on a dark page
# Text stays text, and the same numbers give the same file. The name of a kernel or an image is not a formula.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "kdump-harness", "font.size": 10, "text.parse_math": False}
# A page that is light or dark has its own colours; these stand for them until the SVG is written.
_INK = "#010203"
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_PLACEHOLDERS: Any = dict.fromkeys(_INKED, _INK) | {"font.family": "sans-serif"}
_PAGE_COLOURS = {
    _INK: "currentColor",
    "#444444": "currentColor",
    "#555555": "#808080",
    _BLACK: "currentColor",
    "#000000": "currentColor",
    "#ffffff": "var(--page)",
    _GRID: "var(--line)",
}


@dataclass(frozen=True)
class Point:
    """The size of one dump."""

    level: int
    mib: float
    computed: bool


def check_format(path: Path) -> None:
    """Raise UsageError for a file that is not a plot's, and HostError where no plot can be drawn."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: a plot is written as {', '.join(FORMATS)}")
    if not is_installed("matplotlib"):
        raise HostError(f"{path}: no plot can be drawn: matplotlib is not installed ({install_command('plots')})")


def draw_sizes(path: Path, lines: Mapping[str, Sequence[Point]], *, title: str, subtitle: str) -> None:
    """Size by level, one line per compression; computed points are hollow, real ones filled."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):
        _write(_sizes(lines, title=title, subtitle=subtitle, size_in=(_WIDTH_IN, _HEIGHT_IN)), path)


_RESERVATION_STYLES = {
    "recommended": ("#009E73", "D"),
    "smallest that dumps": ("#0072B2", "s"),
    "distribution's default": ("#D55E00", "^"),
    "distribution's estimate": ("#CC79A7", "v"),
}


def draw_reservations(
    path: Path,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    failed: Sequence[tuple[float, float]],
    *,
    title: str,
    subtitle: str,
) -> None:
    """Reservation by memory of the guest, both in MiB: a line for each of the names above, crosses for failures."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_IN, _HEIGHT_IN), layout="constrained")
        axes: Any = figure.subplots()
        memories = sorted({memory for points in lines.values() for memory, _ in points})
        for name, points in lines.items():
            colour, shape = _RESERVATION_STYLES[name]
            at = [memories.index(memory) for memory, _ in points]
            axes.plot(at, [mib for _, mib in points], **_marker(colour, shape), linewidth=1.6)
        cross = {**_marker("#555555", "x"), "markersize": 6}
        for memory, mib in failed:
            axes.plot(memories.index(memory), mib, linestyle="none", **cross)
        axes.set_xticks(range(len(memories)), [f"{memory / 1024:g} GiB" for memory in memories])
        axes.set_xlim(-0.5, len(memories) - 0.5)
        axes.set_xlabel("memory of the guest")
        axes.set_ylim(0, 1.12 * max(mib for points in lines.values() for _, mib in points))
        axes.set_ylabel("reservation, MiB")
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        _head(axes, title, subtitle)
        handles = [Line2D([], [], label=name, **_marker(*_RESERVATION_STYLES[name])) for name in lines]
        if failed:
            handles.append(Line2D([], [], linestyle="none", label="did not dump each time", **cross))
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        _write(figure, path)


def inline_sizes(lines: Mapping[str, Sequence[Point]], *, title: str, subtitle: str) -> str:
    """Draw the same as SVG for an HTML page, in the page's own colours and readable on a phone."""
    import matplotlib

    with matplotlib.rc_context(_STYLE | _PLACEHOLDERS):
        return _inline(_sizes(lines, title=title, subtitle=subtitle, size_in=_INLINE_IN), name=f"{title}, {subtitle}")


def _inline(figure: Any, *, name: str) -> str:
    """Return the figure's SVG without the parts of a file, with the page's colours for the placeholders."""
    out = io.StringIO()
    with warnings.catch_warnings():
        # The page's fonts, and not matplotlib's, must have the letters.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, colour in _PAGE_COLOURS.items():
        text = text.replace(stand_in, colour)
    # Several figures on one page must not share ids.
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:8]
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}-", text)
    label = html.escape(name).replace("\\", r"\\")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}">', text, count=1
    )


def _sizes(lines: Mapping[str, Sequence[Point]], *, title: str, subtitle: str, size_in: tuple[float, float]) -> Any:
    """Draw the figure of the sizes."""
    from matplotlib.figure import Figure

    levels = sorted({point.level for points in lines.values() for point in points})
    figure = Figure(figsize=size_in, layout="constrained")
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
    _head(axes, title, subtitle)
    _explain(figure, lines)
    return figure


def _write(figure: Any, path: Path) -> None:
    """In the form that the name asks for."""
    form = path.suffix.lower().lstrip(".")
    figure.savefig(path, format=form, dpi=200, metadata={"Date": None} if form == "svg" else None)


def _head(axes: Any, title: str, subtitle: str) -> None:
    """Title and subtitle above the axes."""
    axes.set_title(title, loc="left", pad=22, fontsize=12, fontweight="bold")
    axes.annotate(
        subtitle, (0, 1), xytext=(0, 8),
        xycoords="axes fraction", textcoords="offset points", fontsize=9, color="#444444",
    )  # fmt: skip


def _marker(colour: str, shape: str, *, hollow: bool = False) -> dict[str, Any]:
    face = "white" if hollow else colour
    return {"color": colour, "marker": shape, "markersize": 7, "markeredgewidth": 1.6, "markerfacecolor": face}


def _scale_sizes(axes: Any, sizes: Sequence[float]) -> None:
    """From zero, or logarithmic where the small ones would look alike."""
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
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _name_levels(axes: Any, levels: Sequence[int]) -> None:
    """Levels are names, not numbers: 16 is not nearer to 17 than to 8."""
    told = len(levels) <= _LABELLED_LEVELS
    axes.set_xticks(range(len(levels)), [f"{level}\n{_drops(level)}" if told else str(level) for level in levels])
    axes.set_xlim(-0.3, max(len(levels) - 0.7, 0.3))
    axes.set_xlabel("dump level (-d) and the pages it drops" if told else "dump level (-d)")


def _explain(figure: Any, lines: Mapping[str, Sequence[Point]]) -> None:
    """Draw the legend below the axes: the lines and the points."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], label=name, **_marker(*_STYLES[name])) for name in lines]
    seen = {point.computed for points in lines.values() for point in points}
    for computed, text in ((False, "real crash"), (True, "computed")):
        if computed in seen:
            handles.append(Line2D([], [], linestyle="none", label=text, **_marker(_BLACK, "o", hollow=computed)))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False,
        fontsize=9, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip


def _drops(level: int) -> str:
    """Name the classes of pages that a level leaves out, short enough to stand below an axis."""
    names = [name for bit, name in _CLASSES.items() if level & bit]
    if len(names) == len(_CLASSES):
        return "all classes"
    if len(names) > 2:
        return "all but " + ", ".join(name for name in _CLASSES.values() if name not in names)
    return ", ".join(names) or "nothing"
