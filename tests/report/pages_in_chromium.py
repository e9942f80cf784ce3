"""Pages as a reader sees them, in headless Chromium: nothing overflows, is too pale, or leads nowhere.

`make pages` runs this; the quick tests do not, since a browser takes seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import PROGRAM, Browser
from history_factory import drill, failed, unjudged
from kdump_harness.__main__ import main
from kdump_harness.history.database import DRILL, SWEEP, History
from kdump_harness.report.store_page import render_store
from kdump_harness.store.store import Store
from store_factory import make_dump, put

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed (apt-get install chromium)")
IMAGES = (
    "debian-11", "debian-12", "debian-13", "debian-sid", "ubuntu-22.04", "ubuntu-24.04", "ubuntu-26.04",
    "centos-stream-9", "centos-stream-10", "rocky-8", "rocky-9", "rocky-10", "alma-9", "fedora-43", "oracle-9",
    "amazon-2023", "leap-16.0", "tumbleweed",
)  # fmt: skip
SCENARIOS = [("", trigger, target) for trigger in ("sysrq-c", "nmi") for target in ("local", "nfs", "ssh")] + [
    ("scenarios/test_sweep.py::test_compressions", "sysrq-c", "local"),
    ("scenarios/test_triggers.py::test_a_hung_task_that_panics", "hung-task", "local"),
]
WIDTHS = (390, 1280)
# Texts and bars with too little contrast to their background, by the formula of WCAG 2: 4.5 for text, 3 for bars.
PALE = """(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = colour => colour.slice(0, 3).map(part => { const x = part / 255;
    return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; })
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = one => { for (let at = one; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor); if (colour[3] === 255) return colour; }
    return [255, 255, 255, 255]; };
  const ratio = (one, colour) => { const a = light(rgba(colour)), b = light(behind(one));
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  const found = new Set();
  for (const one of document.body.querySelectorAll("*")) {
    const style = getComputedStyle(one);
    if (one.matches("script, style") || style.visibility === "hidden" || !one.getClientRects().length) continue;
    const text = [...one.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    const drawn = one instanceof SVGElement, name = one.tagName + "." + one.className;
    if (text && !drawn && ratio(one, style.color) < 4.5) found.add(name + " " + one.textContent.slice(0, 40));
    if (text && drawn && ratio(one, style.fill) < 4.5) found.add("text " + one.textContent);
    const ink = style.fill !== "none" ? style.fill : style.stroke;
    if (one.matches(".strip path, .lines path") && ratio(one, ink) < 3)
      found.add(one.getAttribute("class") + " " + ink);
  }
  if (document.querySelector("input")) {
    const one = document.querySelector("input[type=search]");
    if (ratio(one, getComputedStyle(one, "::placeholder").color) < 4.5) found.add("placeholder");
  }
  return [...found];
})()"""
# Elements that are wider than the page or their cell, unless they can be scrolled to.
OVERFLOWING = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push("page: " + document.documentElement.scrollWidth);
  for (const one of document.body.querySelectorAll("*")) {
    if (one.closest("svg, script, .heard") || !one.getClientRects().length) continue;
    const box = one.getBoundingClientRect();
    if ((box.right > width + 1 || box.left < -1) && !one.closest(".wide"))
      found.push(one.tagName + "." + one.className + " " + box.right + " " + one.textContent.slice(0, 40));
  }
  for (const cell of document.querySelectorAll("td, th")) {
    const box = cell.getBoundingClientRect();
    for (const inner of cell.querySelectorAll("*")) {
      if (inner.closest(".heard") || !inner.getClientRects().length) continue;
      if (inner.getBoundingClientRect().right > box.right + 1)
        found.push("cell: " + inner.tagName + " " + inner.textContent.slice(0, 40));
    }
  }
  return found;
})()"""
LINKS = "[...document.querySelectorAll('a[href]')].map(one => [one.getAttribute('href'), one.href])"
OPENED = "document.querySelectorAll('details').forEach(one => { one.open = true; })"
NAMELESS = "[...document.querySelectorAll('svg')].filter(one => !one.getAttribute('aria-label')).length"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests."""
    made = Browser(tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of four weeks of nightly drills: 18 images, 8 scenarios, with failures of each kind."""
    place = tmp_path_factory.mktemp("pages")
    evidence = place / "evidence" / "a run"
    evidence.mkdir(parents=True)
    (evidence / "console.log").touch()
    with History(place / "history.sqlite") as history:
        _fill(history, evidence)
    # In a process whose plots are not those of the tests.
    command = [sys.executable, "-m", "kdump_harness", "report", "--history", "history.sqlite", "--out", "report.html"]
    subprocess.run(command, cwd=place, check=True)
    return place / "report.html"


def _fill(history: History, evidence: Path) -> None:
    history._database.run("PRAGMA synchronous = OFF")
    first = (time.time() - time.mktime((2026, 11, 1, 3, 0, 0, 0, 0, 0))) / 86400 - 28
    for night in range(28):
        for image in IMAGES:
            for number, (scenario, trigger, target) in enumerate(SCENARIOS):
                day = first + night + 0.9 + number / 200
                about: dict[str, Any] = {
                    "image": image,
                    "trigger": trigger,
                    "target": target,
                    "evidence": str(evidence),
                }
                about["kernel"] = f"6.1.0-{50 + night // 9}-cloud-amd64"
                if (image, number) == ("rocky-9", 4) and night > 22:
                    verdict = failed(day, **about)
                elif (image, number) == ("leap-16.0", 1):
                    verdict = failed(day, known_issue="https://bugzilla.opensuse.org/show_bug.cgi?id=1234567", **about)
                elif (image, number) == ("fedora-43", 6) and night > 19:
                    verdict = unjudged(day, **about)
                elif (image, number) == ("tumbleweed", 2) and night == 9:
                    verdict = failed(day, **{**about, "evidence": str(evidence.parent / "gone")})
                else:
                    slower = 1.7 if (image, number) == ("ubuntu-24.04", 5) and night > 22 else 1.0
                    verdict = drill(day, slower_by=slower, **about)
                history.add(DRILL, verdict, scenario=scenario)
    sizes = [
        {"level": level, "compress": name, "size_bytes": (300 - 8 * level) << 20, "how": "real"}
        for level in (0, 1, 16, 31)
        for name in ("none", "zlib")
    ]
    sweep = {"ok": True, "image": "debian-12", "kernel": "6.1.0-56", "relations": [], "cells": sizes}
    history.add(SWEEP, sweep)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_overflows_or_is_too_pale(browser: Browser, page: Path, width: int, dark: bool) -> None:
    browser.open(page.as_uri(), width=width, dark=dark)
    for opened in (False, True):
        if opened:
            browser.run(OPENED)
        assert browser.run(OVERFLOWING) == []
        assert browser.run(PALE) == []


@pytest.fixture(scope="module")
def store_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a store with 60 dumps of 12 hosts, some of them new, and a refused file."""
    place = tmp_path_factory.mktemp("store")
    now_s = time.time()
    with Store(place / "store", create=True) as store:
        for number in range(60):
            old_s = now_s - (120 - 2 * number) * 86400
            crash = f"function_with_a_long_name_{number % 7} < caller < do_syscall_64 < entry_SYSCALL_64_after_hwframe"
            about = {"host": f"db{number % 12}.example.org", "signature": f"{number % 7:010}", "signature_text": crash}
            traits = {"firmware": f"F{number % 7}", "hardware": "X1"}
            put(store, make_dump(number, added_s=old_s, crash_s=int(old_s), panic="BUG: " + "x" * 90, **about), traits)
        fresh = {"signature": "new", "signature_text": "never_seen < before", "hold": "INC-7", "remark": "a remark"}
        put(store, make_dump(99, host="web1", added_s=now_s, crash_s=int(now_s - 60), **fresh))
        with store.index.database.writing():
            why = "damaged: descriptor: the page has its data outside the file (offset 49,866, 400 bytes, flags 0x1)"
            path = "/srv/incoming/" + "a-long-name-" * 12 + "/vmcore"
            store.index.note_arrival(path, "m", outcome="refused", reason=why, dump=None, at_s=now_s)
        (place / "store.html").write_text(render_store(store.index), encoding="utf-8")
    return place / "store.html"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_of_a_store_overflows_or_is_too_pale(
    browser: Browser, store_page: Path, width: int, dark: bool
) -> None:
    browser.open(store_page.as_uri(), width=width, dark=dark)
    assert browser.run(OVERFLOWING) == []
    assert browser.run(PALE) == []
    _type(browser, "web1 never_seen")
    assert browser.run(_shown("article")) == 1
    assert browser.run(_shown("tbody tr")) == 2  # host and dump


@pytest.mark.parametrize("columns", [3, 12])
def test_a_matrix_of_any_width_fits(browser: Browser, tmp_path: Path, columns: int) -> None:
    with History(tmp_path / "history.sqlite") as history:
        for number in range(columns):
            long = f"scenarios/test_x.py::test_a_scenario_with_a_name_that_explains_it_{number}"
            history.add(DRILL, drill(number, image="an-image-with-a-name-without-an-end-" + "x" * 60), scenario=long)
    assert main(["report", "--history", str(tmp_path / "history.sqlite"), "--out", str(tmp_path / "r.html")]) == 0
    for width in (*WIDTHS, 700):
        browser.open((tmp_path / "r.html").as_uri(), width=width)
        assert browser.run(OVERFLOWING) == []


def test_every_link_leads_somewhere_and_every_picture_has_a_name(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), width=1280)
    links = browser.run(LINKS)
    assert len(links) > 150
    ids = set(browser.run("[...document.querySelectorAll('[id]')].map(one => one.id)"))
    for written, address in links:
        if written.startswith("#"):
            assert written[1:] in ids
        elif not written.startswith("https://"):
            assert Path(browser.run(f"decodeURIComponent(new URL({address!r}).pathname)")).exists(), written
    assert any("console.log" in written for written, _ in links)
    assert browser.run(NAMELESS) == 0


def test_the_page_asks_for_nothing_but_itself(browser: Browser, page: Path) -> None:
    browser.asked.clear()
    browser.open(page.as_uri(), width=1280)
    browser.run("new Promise(done => setTimeout(done, 200))")
    assert browser.asked == [page.as_uri()]


def test_a_filter_shows_the_rows_with_all_of_its_words(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), width=1280)
    _type(browser, "rocky-9 nmi nfs")
    assert browser.run(_shown("article")) == 1
    assert browser.run(_shown(".matrix tbody tr")) == 1
    assert browser.run(_shown(".matrix tbody td")) == 1
    assert (
        browser.run("document.querySelector('.matrix tr:not([hidden]) td:not(.off)').innerText")
        == "✗ failed for 4 days"
    )
    assert browser.run("document.getElementById('found').textContent").endswith("rows")
    _type(browser, "nothing like this")
    assert browser.run(_shown("[data-find]")) == 0
    _type(browser, "")
    assert browser.run(_shown(".matrix tbody tr")) == len(IMAGES)
    browser.run("document.getElementById('only').click()")
    assert browser.run(_shown(".matrix tbody td")) == 3
    assert browser.run(_shown("article")) == 3


def test_a_link_opens_the_drill_where_it_is_folded_away(browser: Browser, page: Path) -> None:
    browser.open(page.as_uri(), width=1280)
    first = "document.querySelector('.matrix tbody a')"
    browser.run(f"{first}.click()")
    browser.run("new Promise(done => setTimeout(done, 100))")
    target = f"document.getElementById({first}.hash.slice(1))"
    assert browser.run(f"{target}.open && {target}.getBoundingClientRect().top < innerHeight")


def test_a_reader_without_scripts_has_all_rows_and_the_times(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert '<form class="find" role="search" hidden>' in text
    assert "<details open" not in text
    assert text.count("<time") == text.count('datetime="2026-') or "2027-" in text


def _type(browser: Browser, text: str) -> None:
    browser.run(
        f"document.getElementById('find').value = {text!r};"
        "document.getElementById('find').dispatchEvent(new Event('input', { bubbles: true }))"
    )


def _shown(what: str) -> str:
    """Return a script that counts the visible elements."""
    visible = "one.getClientRects().length && getComputedStyle(one).visibility !== 'hidden' && one.textContent.trim()"
    return f"[...document.querySelectorAll({what!r})].filter(one => {visible}).length"
