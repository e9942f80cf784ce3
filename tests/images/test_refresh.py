"""The states of rows: rotted, moved, a silent server, no network."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from image_site import CONTENT, NEWER, PATIENT, Site, by_hand, closed_port, make_image
from kdump_harness.images import download
from kdump_harness.images import refresh as refresh_module
from kdump_harness.images.catalog import Image
from kdump_harness.images.download import fetch, make_client
from kdump_harness.images.refresh import RowState, refresh


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def one(image: Image, cache: Path, **options: Any) -> RowState:
    (row,) = refresh([image], cache, **{"client": PATIENT, **options})
    return row


def test_each_row_is_told_in_the_order_of_the_catalogue_and_nothing_is_downloaded(site: Site, cache: Path) -> None:
    site.files["/SHA256SUMS"] += b"1" * 64 + b"  gone.qcow2\n"
    site.files["/page"] = b"<html>Please sign in</html>"
    rows = (
        make_image(site.url, name="fine"),
        make_image(site.url, name="gone", url=f"{site.url}/gone.qcow2"),
        make_image(site.url, name="unlisted", url=f"{site.url}/unlisted.qcow2"),
        make_image(site.url, name="no-document", checksums=f"{site.url}/old/SHA256SUMS"),
        make_image(site.url, name="portal", checksums=f"{site.url}/page"),
        make_image(closed_port(), name="down"),
        by_hand(),
    )
    told: list[str] = []
    states = refresh(rows, cache, client=PATIENT, on_row=lambda row: told.append(row.name))
    assert [(row.name, row.state, row.answered) for row in states] == [
        ("fine", "ok", True),
        ("gone", "rotted", True),
        ("unlisted", "rotted", True),
        ("no-document", "rotted", True),
        ("portal", "rotted", True),
        ("down", "unreachable", False),
        ("demo-1", "by hand", True),
    ]
    assert sorted(told) == sorted(row.name for row in rows)
    details = {row.name: row.detail for row in states}
    assert "demo.qcow2 (1 MiB, sha256 " in details["fine"]
    assert "gone.qcow2: HTTP 404" in details["gone"]
    assert "none of unlisted.qcow2" in details["unlisted"]
    assert "/old/SHA256SUMS: HTTP 404" in details["no-document"]
    assert "Please sign in" in details["portal"]
    assert details["demo-1"] == "rhel-9.*-x86_64-kvm.qcow2 from the customer portal"
    assert not any("\n" in detail for detail in details.values())
    assert site.asked() == []


def test_a_mirror_with_the_same_name_is_no_move(site: Site, cache: Path) -> None:
    site.files["/mirror/demo.qcow2"] = site.files.pop("/demo.qcow2")
    site.redirects["/demo.qcow2"] = f"{site.url}/mirror/demo.qcow2"
    assert one(make_image(site.url), cache).state == "ok"


def test_a_redirect_to_another_name_is_a_move(site: Site, cache: Path) -> None:
    site.files["/demo-2.qcow2"] = site.files.pop("/demo.qcow2")
    site.redirects["/demo.qcow2"] = f"{site.url}/demo-2.qcow2"
    row = one(make_image(site.url), cache)
    assert (row.state, row.detail) == ("moved", f"{site.url}/demo.qcow2 leads to {site.url}/demo-2.qcow2")


def test_a_page_in_the_place_of_an_image_is_rot(site: Site, cache: Path) -> None:
    site.kinds["/demo.qcow2"] = "text/html; charset=utf-8"
    row = one(make_image(site.url), cache)
    assert (row.state, row.detail) == ("rotted", f"{site.url}/demo.qcow2 answers with a web page")


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("status", [403, 405, 501])
def test_a_server_that_refuses_to_be_asked_is_asked_for_one_byte(
    site: Site, cache: Path, status: int, ranges: bool
) -> None:
    site.ranges, site.statuses = ranges, {"/demo.qcow2": [status]}
    row = one(make_image(site.url), cache)
    assert (row.state, row.size_bytes) == ("ok", len(CONTENT))
    assert site.asked() == ["bytes=0-0"]


def test_a_server_that_forbids_both_questions_has_no_such_image(site: Site, cache: Path) -> None:
    site.statuses = {"/demo.qcow2": [403, 403]}
    assert one(make_image(site.url), cache).state == "rotted"


@pytest.mark.parametrize("status", [401, 407, 429, 500, 503])
def test_a_server_that_is_busy_or_wants_a_password_is_no_rot(site: Site, cache: Path, status: int) -> None:
    site.statuses = {"/SHA256SUMS": [status] * PATIENT.attempts}
    row = one(make_image(site.url), cache)
    assert (row.state, row.answered) == ("unreachable", True)
    assert f"HTTP {status}" in row.detail


def test_a_server_that_hiccups_once_is_asked_again(site: Site, cache: Path) -> None:
    site.statuses = {"/SHA256SUMS": [503], "/demo.qcow2": [502]}
    assert one(make_image(site.url), cache).state == "ok"


def test_a_silent_server_costs_its_own_row_only(site: Site, cache: Path) -> None:
    ends = threading.Event()
    site.before = lambda path: ends.wait(20) if path.startswith("/silent") else None  # type: ignore[assignment,return-value]
    silent = make_image(site.url, name="silent", checksums=f"{site.url}/silent/SHA256SUMS")
    hasty = make_client(attempts=1, silence_s=1.5)
    try:
        states = refresh([silent, make_image(site.url)], cache, client=hasty)
    finally:
        ends.set()
    assert [(row.state, row.answered) for row in states] == [("unreachable", False), ("ok", True)]
    assert "timed out" in states[0].detail


def test_an_end_without_all_answers_tells_whose_are_missing(site: Site, cache: Path) -> None:
    ends = threading.Event()
    site.before = lambda path: ends.wait(20) if path.startswith("/silent") else None  # type: ignore[assignment,return-value]
    silent = make_image(site.url, name="silent", checksums=f"{site.url}/silent/SHA256SUMS")
    try:
        states = refresh([silent, make_image(site.url)], cache, client=PATIENT, all_max_s=2.0)
    finally:
        ends.set()
    assert [(row.name, row.state) for row in states] == [("silent", "unreachable"), ("demo-1", "ok")]
    assert states[0].detail == "no answer within 2 s"


def test_several_rows_are_asked_after_at_once(site: Site, cache: Path) -> None:
    together = threading.Barrier(4)
    site.before = lambda path: together.wait(60) if path == "/SHA256SUMS" else None  # type: ignore[assignment,return-value]
    states = refresh([make_image(site.url, name=f"row-{number}") for number in range(4)], cache, client=PATIENT)
    assert [row.state for row in states] == ["ok"] * 4


def test_the_cached_copy_is_todays_or_older(site: Site, cache: Path) -> None:
    image = make_image(site.url)
    assert one(image, cache).cached == ""
    old = fetch(image, cache, client=PATIENT)
    os.utime(old, (1, 1))
    assert one(image, cache).cached == "today's"
    site.publish(NEWER)
    row = one(image, cache)
    assert (row.state, row.cached) == ("ok", "older")
    fetch(image, cache, client=PATIENT)
    assert one(image, cache).cached == "today's"


def test_an_error_of_ours_is_not_taken_for_rot(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(refresh_module, "resolve", broken)
    with pytest.raises(ZeroDivisionError):
        one(make_image(site.url), cache)


def test_what_is_asked_after_is_what_is_downloaded(site: Site, cache: Path) -> None:
    row = one(make_image(site.url), cache)
    assert download.fetch(make_image(site.url), cache, client=PATIENT).stem == row.digest
    assert row.url == f"{site.url}/demo.qcow2"
    assert set(row.to_json()) == {
        "name", "state", "detail", "answered", "url", "digest", "size_bytes", "cached",
    }  # fmt: skip
