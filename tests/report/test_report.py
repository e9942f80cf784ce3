"""Reports show the history in each format, and no text of a result is executed in the reader's browser."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from history_factory import drill, failed, unjudged
from kdump_harness.__main__ import main
from kdump_harness.history.database import AUDIT, DRILL, SWEEP, History
from kdump_harness.report import gather as gather_module
from kdump_harness.report.days import Span, span_of, strip_of
from kdump_harness.report.gather import Report, gather, when
from kdump_harness.report.render import render

ISSUE = "https://example.org/issues/16"
EVIL = "<script>alert(1)</script>`|*_x_* \x1b[31m$a$"


@pytest.fixture
def past(tmp_path: Path) -> Iterator[History]:
    """A month of drills."""
    with History(tmp_path / "history.sqlite") as made:
        for day in range(12):
            new = day > 8
            made.add(DRILL, drill(day, kernel=f"6.1.0-{55 + new}", slower_by=1.7 if new else 1.0))
        made.add(DRILL, drill(3, image="rocky-9"))
        made.add(DRILL, failed(13, image="rocky-9", reserved_mib=128))
        made.add(DRILL, failed(14, image="leap-16", known_issue=ISSUE), scenario="test_smoke.py::test_dump")
        cell = {"level": 31, "compress": "zlib", "size_bytes": 30 << 20, "how": "real"}
        other = {"level": 0, "compress": "zlib", "size_bytes": 300 << 20, "how": "computed"}
        sweep = {"ok": True, "image": "debian-12", "kernel": "6.1.0-56", "relations": [], "cells": [cell, other]}
        made.add(SWEEP, sweep)
        yield made


def _report(past: History, **changes: Any) -> Report:
    return gather(past, **{"images": (), "days": None, "drills": 5, "charts": True, **changes})


class _Page(HTMLParser):
    """Parser that checks balanced tags and collects fetched resources."""

    VOID = frozenset({"meta", "br", "wbr", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.pictures: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.pictures += [found.get("aria-label") or ""] if tag == "svg" else []
        self.ids += [found["id"]] if found.get("id") else []
        self.links += [found["href"]] if tag == "a" and found.get("href") else []
        self.fetched += [str(found[name]) for name in ("src", "srcset", "data") if name in found]
        if tag in ("link", "iframe", "img", "object"):
            self.fetched.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def _parsed(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    assert page.open == []
    return page


def _words(text: str) -> str:
    """Return the words of a page without its tags."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    return html.unescape(" ".join(re.sub(r"<[^>]*>", " ", body).split()))


def test_the_matrix_has_the_last_drill_and_the_last_that_worked(past: History) -> None:
    cells = _report(past).cells
    assert {key: cell.word for key, cell in cells.items()} == {
        ("debian-12", "sysrq-c → local"): "verified",
        ("rocky-9", "sysrq-c → local"): "failed",
        ("leap-16", "test_dump"): "known issue",
    }
    rocky, leap = cells["rocky-9", "sysrq-c → local"], cells["leap-16", "test_dump"]
    assert rocky.worked is not None
    assert rocky.last.at_s - rocky.worked.at_s == 10 * 86400
    assert leap.worked is None


@pytest.mark.parametrize("suffix", [".html", ".md", ".xml"])
def test_a_dump_that_was_not_judged_has_its_own_word(past: History, suffix: str) -> None:
    past.add(DRILL, unjudged(15, image="debian-13"))
    text = render(_report(past, charts=False), suffix)
    assert {".html": "! not judged</span>", ".md": "❔ not judged", ".xml": '<error message="not judged: the file'}[
        suffix
    ] in text


def test_a_regression_is_reported_once_for_each_series(past: History) -> None:
    past.add(DRILL, drill(11.5, kernel="6.1.0-56", slower_by=1.7), scenario="test_smoke.py::test_dump")
    worse = [(run.image, one.figure, one.since_kernel) for run, one in _report(past).worse]
    assert worse == [("debian-12", "panic_to_login", "6.1.0-56"), ("debian-12", "capture_boot", "6.1.0-56")]


@pytest.mark.usefixtures("real_plots")
def test_the_page_needs_no_network_and_its_links_lead_somewhere(past: History) -> None:
    report = _report(past)
    text = render(report, ".html")
    page = _parsed(text)
    assert page.fetched == []
    assert not re.search(r"@import|url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(report.charts) == 1
    for reported in ("slower since 6.1.0-56", "capture-oom", "Reserve more", "never seen working", "26.5 MiB", ISSUE):
        assert reported in text


def test_a_timeline_begins_at_the_panic_and_ends_where_the_drill_did(past: History) -> None:
    drills = {one.run.image: one for one in _report(past).drills}
    phases = drills["debian-12"].phases
    assert phases[0].label == "panic to capture kernel"
    assert sum(phase.width for phase in phases) == pytest.approx(1.0)
    assert phases[-1].start + phases[-1].width == pytest.approx(1.0)
    assert [phase.took_s for phase in drills["rocky-9"].phases] == [5.9]


@pytest.mark.parametrize("suffix", [".html", ".md", ".xml"])
@pytest.mark.usefixtures("real_plots")
def test_nothing_in_a_result_acts_on_its_reader(past: History, suffix: str) -> None:
    evil = failed(20, image=EVIL, kernel=EVIL, known_issue=f"javascript:{EVIL}", trigger=EVIL)
    evil["symptoms"][0] |= {"name": EVIL, "line": EVIL, "remedy": EVIL}
    past.add(DRILL, evil, scenario=EVIL)
    past.add(DRILL, drill(21, image=EVIL), scenario=EVIL)
    past.add(DRILL, failed(22, image="x", kernel=EVIL))
    past.add(DRILL, drill(23, image=EVIL), scenario=EVIL)
    text = render(_report(past, charts=suffix == ".html"), suffix)
    assert "<script>alert" not in text
    assert 'href="javascript' not in text
    if suffix == ".html":
        _parsed(text)
    elif suffix == ".md":
        rows = [line for line in text.splitlines() if line.startswith("| ")]
        bars = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
        assert len(bars) == 1
    else:
        ET.fromstring(text)


def test_a_result_with_few_keys_is_shown(past: History) -> None:
    """An old verdict may lack keys."""
    past.add(DRILL, {"image": "old", "verified": False, "checks": []})
    for suffix in (".html", ".md", ".xml"):
        assert "old" in render(_report(past), suffix)


def test_each_picture_has_a_name(past: History) -> None:
    page = _parsed(render(_report(past), ".html"))
    pictures = page.pictures[:-1]  # the last one is a placeholder of the tests
    assert len(pictures) > 4
    assert all(pictures)
    assert "panic to login, 12 drills: 332.1 s to 581.9 s, last 576.1 s" in pictures
    assert any(" days: " in name for name in pictures)


@pytest.mark.usefixtures("real_plots")
def test_the_picture_of_a_sweep_has_a_name(past: History) -> None:
    (chart,) = _report(past).charts
    assert 'role="img" aria-label="debian-12: size by dump level, Linux 6.1.0-56"' in chart


def test_failures_come_first_by_reason_with_the_remedy_and_the_change_of_kernel(past: History) -> None:
    past.add(DRILL, drill(15, image="alma-9", kernel="5.14.0-1", trigger="nmi", target="nfs"))
    for day in (16, 17):
        past.add(DRILL, failed(day, image="alma-9", kernel="5.14.0-2", trigger="nmi", target="nfs"))
    report = _report(past)
    assert [(one.word, [cell.last.image for cell in one.cells]) for one in report.failures] == [
        ("failed", ["alma-9", "rocky-9"]),
        ("known issue", ["leap-16"]),
    ]
    text = _words(render(report, ".html"))
    first = text.index("Not verified")
    assert first < text.index("Systems and scenarios")
    card = text[first : text.index("Systems and scenarios")]
    assert "✗ failed capture-oom The reservation is too small for the capture kernel." in card
    assert "→ Reserve more: crashkernel=320M." in card
    assert "alma-9 , drill, nmi → nfs: 2 drills since 2026-11-17 03:00Z , last worked 2026-11-16 03:00Z" in card
    assert "with 5.14.0-1, now 5.14.0-2" in card
    assert "never seen working" in card


def test_a_strip_has_the_worst_outcome_of_each_day(past: History) -> None:
    past.add(DRILL, failed(5.1))
    runs = past.newest(images=["debian-12"])
    first = int(min(run.at_s for run in runs) // 86400)
    strip = strip_of([run for run in runs if run.kind == DRILL], Span(first, first + 14))
    words = strip.words
    assert strip.text == "15 days: 11 verified, 1 failed"
    assert words.index("failed") == 5
    assert words.count("verified") == 11
    assert words[-3:] == (None, None, None)
    bars = dict(strip.bars)
    assert bars["failed"] == "M5 10h1v-10h-1z"
    assert bars["verified"] == "M0 10h5v-5h-5zM6 10h6v-5h-6z"


def test_a_strip_ends_today_or_at_the_newest_run_of_an_old_history() -> None:
    day_s = 86400.0
    runs = [SimpleNamespace(at_s=day_s * day) for day in (100, 110)]
    assert span_of(runs, day_s * 112) == Span(100, 112)  # type: ignore[arg-type]
    assert span_of(runs, day_s * 130) == Span(103, 130)  # type: ignore[arg-type]
    assert span_of(runs, day_s * 900) == Span(100, 110)  # type: ignore[arg-type]
    assert span_of([], day_s * 900).count == 7


def test_each_series_is_shown_or_counted(past: History, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(12):
        for day in range(2):
            past.add(DRILL, drill(day, image=f"image-{number:02}"))
    names = [f"image-{number:02}" for number in range(12)]
    report = _report(past)
    assert [one.last.image for one in report.series] == ["debian-12", *names]  # the worse one first
    assert report.more_series == 0
    monkeypatch.setattr(gather_module, "_MOST_SERIES", 5)
    few = _report(past)
    assert len(few.series) == 5
    assert few.more_series == 8
    assert "The 8 series with the fewest drills are left out" in render(few, ".html")


def test_a_line_shows_values_kernels_and_the_difference(past: History) -> None:
    (one,) = _report(past).series
    login, size = one.lines
    assert login.last == "576.1 s"
    assert login.share is not None
    assert login.share > 0.6
    assert login.path.count("L") == 11
    assert login.kernels.count("M") == 1
    assert size.share == pytest.approx(0, abs=0.01)
    assert [regression.figure for regression in one.worse] == ["panic_to_login", "capture_boot"]


def test_a_reservation_shows_how_often_it_was_enough(past: History) -> None:
    past.add(DRILL, failed(20, image="rocky-9", reserved_mib=256))
    past.add(DRILL, drill(21, image="rocky-9", reserved_mib=256))
    sizes = _report(past).reservations["rocky-9"]
    assert [(one.mib, one.verified, one.drills, one.word) for one in sizes] == [
        (128, 0, 1, "failed"),
        (256, 2, 3, "verified"),
    ]


def test_scenario_trigger_and_target_are_in_every_row(past: History) -> None:
    past.add(DRILL, drill(20, trigger="nmi", target="nfs"), scenario="scenarios/test_smoke.py::test_dump")
    report = _report(past)
    text = _words(render(report, ".html"))
    for drill_row in report.drills:
        run = drill_row.run
        assert f"{run.system} {run.test or 'drill'}, {run.trigger} → {run.target} {when(run.at_s)}" in text


def test_drills_that_are_not_shown_in_full_are_counted_and_not_linked(
    past: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather_module, "_MOST_DETAILED", 2)
    report = _report(past, drills=0)
    assert [one.run.image for one in report.drills] == ["leap-16", "rocky-9"]  # failures before all others
    assert report.not_detailed == 13
    text = render(report, ".html")
    assert "13 drills more, not shown in full" in text
    page = _parsed(text)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)


def test_evidence_is_linked_where_it_is_there(past: History, tmp_path: Path) -> None:
    here = tmp_path / "evidence" / "a run: 1%"
    here.mkdir(parents=True)
    (here / "console.log").touch()
    past.add(DRILL, failed(20, image="with", evidence=str(here)))
    past.add(DRILL, failed(20, image="without", evidence=str(tmp_path / "gone")))
    (tmp_path / "pages").mkdir()
    report = _report(past)
    page = _parsed(render(report, ".html", directory=tmp_path / "pages"))
    files = {link for link in page.links if not link.startswith(("#", "http"))}
    assert files == {"../evidence/a%20run%3A%201%25/", "../evidence/a%20run%3A%201%25/console.log"}
    assert "the evidence was not found" in render(report, ".html")


def test_junit_counts_the_failures(past: History) -> None:
    root = ET.fromstring(render(_report(past, charts=False), ".xml"))
    suites = {suite.get("name"): suite for suite in root}
    assert {name: (s.get("failures"), s.get("skipped")) for name, s in suites.items()} == {
        "debian-12": ("0", "0"),
        "leap-16": ("0", "1"),
        "rocky-9": ("1", "0"),
    }
    failure = suites["rocky-9"].find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "capture-oom; the capture kernel ran out of memory; single-dump: none"


def test_markdown_has_the_matrix_and_the_reasons(past: History) -> None:
    text = render(_report(past, charts=False), ".md")
    assert "| image | sysrq-c → local | test\\_dump |\n|---|---|---|\n" in text
    assert "❌ **failed** 2026-11-14 03:00Z<br>last worked 2026-11-04 03:00Z |" in text
    assert "\n- debian-12: panic to login: " in text
    assert "  - **rocky-9**, drill, sysrq-c → local: 1 drill since 2026-11-14 03:00Z, last worked 2026-11-04" in text
    assert text.index("## Not verified") < text.index("| image |")
    assert (
        "- **failed**: capture-oom: \\[ 6.1\\] Out of memory: Killed process 93 (makedumpfile) → Reserve more" in text
    )


def test_an_empty_history_makes_a_page(tmp_path: Path) -> None:
    with History(tmp_path / "h.sqlite") as past:
        for suffix in (".html", ".md", ".xml"):
            assert render(_report(past), suffix)


def test_images_and_days_choose(past: History) -> None:
    assert _report(past, images=["rocky-9"]).systems == ("rocky-9",)
    assert _report(past, days=0).runs <= 1  # the sweep was recorded just now


def test_the_verb_writes_each_form(past: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outs = [tmp_path / name for name in ("r.html", "r.md", "r.xml")]
    options = [word for out in outs for word in ("--out", str(out))]
    assert main(["report", "--history", str(tmp_path / "history.sqlite"), *options]) == 0
    assert all(out.stat().st_size for out in outs)


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--out", "r.txt"], "r.txt is not the name of a report: expected one of .html, .md, .xml"),
        (["--out", "no/such/r.html"], "no/such/r.html cannot be written"),
        (["--out", "r.html", "gentoo"], "nothing was recorded of 'gentoo' (known: debian-12"),
        (["--out", "r.html", "--history", "none.sqlite"], "none.sqlite does not exist (name a history"),
    ],
)
def test_bad_input_is_a_sentence(
    past: History,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    where = [] if "--history" in argv else ["--history", "history.sqlite"]
    assert main(["report", *where, *argv]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_machines_that_were_audited_are_listed_with_the_worst_answer_first(tmp_path: Path) -> None:
    reason = {"name": "target-no-space", "evidence": "2 MiB are free", "remedy": f"rm {EVIL}"}

    def audited(machine: str, minute: int, answer: str, **more: Any) -> dict[str, Any]:
        started = f"2026-11-30T03:0{minute}:00+00:00"
        summary = {"summary": f"{answer}: as it was", "answer": answer, "ok": answer == "ready"}
        return {"image": machine, "started": started, **summary, **more}

    with History(tmp_path / "history.sqlite") as made:
        made.add(AUDIT, audited("good", 1, "ready", last_success_s=1796000000.0))
        made.add(AUDIT, audited("bad", 1, "ready"))
        for minute in (2, 3):
            made.add(AUDIT, audited("bad", minute, "will fail", reasons=[reason]))
        made.add(AUDIT, audited("gone", 1, "not audited", why="it cannot be reached"))
        report = _report(made)
    assert [(row.run.image, row.answer, when(row.since_s)) for row in report.machines] == [
        ("bad", "will fail", "2026-11-30 03:02Z"),
        ("gone", "not audited", "2026-11-30 03:01Z"),
        ("good", "ready", "2026-11-30 03:01Z"),
    ]
    page = render(report, ".html")
    assert "target-no-space: 2 MiB are free" in page
    assert "it cannot be reached" in page
    assert "kdump never seen working" in page
    assert "<script>alert(1)" not in page
    assert "- **bad**: will fail at 2026-11-30 03:03Z, since 2026-11-30 03:02Z" in render(report, ".md")
