"""Tests of recording drills, and of the support page that shows them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import records
import support_page as page_maker
from kdump_harness.base.errors import EXIT_OK, EXIT_USAGE, TableError
from kdump_harness.base.stage import Stage
from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import load_families
from kdump_harness.drill.checks import REQUIRED_CHECKS
from kdump_harness.images.catalog import load_catalog
from records import Record, load_records, merge, read_result, required_today, write_records
from support_page import main, shown_of, support_page

FAMILIES = load_families()
DAY = datetime.date(2026, 11, 22)
TRACKER = "https://bugs.example/16"


def verdict_of(*failed: str, **changes: Any) -> dict[str, Any]:
    known = {
        "image": "debian-12", "family": "debian", "trigger": "sysrq-c", "target": "local", "accelerator": "tcg",
        "memory_mib": 1024, "vcpus": 2, "release": "Debian 12", "disk": "built from bookworm packages",
        "started": "2026-11-22T22:10:26+00:00", "kernel": "6.1.0", "makedumpfile": "1.7.2", "level": 31,
        "compress": "zlib", "reached": Stage.RECOVERED if failed else Stage.VERIFIED, "verified": not failed,
    }  # fmt: skip
    verdict = Verdict(**{**known, **changes})
    for name in sorted(REQUIRED_CHECKS):
        verdict.check(name, name not in failed, expected="", seen="")
    return verdict.to_json()


def record_of(**changes: Any) -> Record:
    known = {
        "image": "debian-12", "family": "debian", "release": "Debian 12", "how": "guest", "kernel": "6.1.0",
        "makedumpfile": "1.7.2", "accelerator": "tcg", "firmware": "bios", "date": DAY,
        "trigger": "sysrq-c", "target": "local", "level": 31, "compress": "zlib", "verified": True,
        "checks": len(REQUIRED_CHECKS), "reached": "VERIFIED",
    }  # fmt: skip
    return Record(**{**known, **changes})


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty table that replaces the project's."""
    path = tmp_path / "drilled.toml"
    path.write_text("")
    monkeypatch.setattr(records, "table_path", lambda: path)
    monkeypatch.setattr(page_maker, "table_path", lambda: path)
    return path


@pytest.fixture
def result(tmp_path: Path) -> Any:
    """Return a function that writes a file as a drill or pytest writes it."""

    def write(data: Any, name: str = "result.json") -> str:
        (tmp_path / name).write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return str(tmp_path / name)

    return write


def matrix_of(**verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    tests = [{"outcome": outcome.replace("_", " "), "verdicts": drills} for outcome, drills in verdicts.items()]
    return {"schema": 1, "scenarios": ["test_smoke.py::test_dump"], "tests": tests}


# ---------------------------------------------------------------- recording


def test_a_verdict_becomes_a_record(table: Path, result: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--record", result(verdict_of())]) == EXIT_OK
    assert load_records() == (record_of(),)
    assert capsys.readouterr().err.startswith("debian-12, Debian 12: guest, verified: true\n")
    before = table.read_text(encoding="utf-8")
    assert main(["--record", result(verdict_of())]) == EXIT_OK
    assert table.read_text(encoding="utf-8") == before


def test_a_failed_drill_is_recorded_as_failed(table: Path, result: Any) -> None:
    drill = verdict_of("filter", known_issue=TRACKER, stopped_by='silent, "for" ever\\\x7f')
    assert main(["--record", result(drill)]) == EXIT_OK
    assert load_records() == (
        record_of(verified=False, reached="RECOVERED", failed_checks=("filter",), known_issue=TRACKER,
                  stopped_by='silent, "for" ever\\\x7f'),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("disk", "how"),
    [
        ("built from bookworm packages", "guest"),
        ("cached download", "image"),
        ("downloaded from https://vendor.example/x.qcow2", "image"),
    ],
)
def test_the_disk_names_the_kind_of_guest(disk: str, how: str, table: Path, result: Any) -> None:
    assert main(["--record", result(verdict_of(disk=disk))]) == EXIT_OK
    assert [record.how for record in load_records()] == [how]


def test_values_that_a_verdict_lacks_must_be_given(
    table: Path, result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    old = verdict_of(disk=None, release=None)
    del old["started"]
    path = result(old)
    given: list[str] = []
    for option, value in (("how", "code"), ("release", "Debian 12"), ("date", "2026-11-20")):
        assert main(["--record", path, *given]) == EXIT_USAGE
        assert f"has no {option}: give it with --{option}" in capsys.readouterr().err
        given += [f"--{option}", value]
    assert main(["--record", path, *given]) == EXIT_OK
    assert load_records() == (record_of(how="code", date=datetime.date(2026, 11, 20)),)


def test_only_drills_of_a_matrix_that_were_meant_to_be_verified_are_recorded(table: Path, result: Any) -> None:
    found = matrix_of(
        verified=[verdict_of()],
        passed=[verdict_of("complete", kernel="a lie that was seen")],
        known_issue=[verdict_of("filter", kernel="6.12", known_issue=TRACKER)],
        failed=[verdict_of("nonce", kernel="7.2")],
        error=[verdict_of("nonce", kernel="7.3")],
        skipped=[],
    )
    assert main(["--record", result(found)]) == EXIT_OK
    assert [(record.kernel, record.verified) for record in load_records()] == [
        ("6.1.0", True), ("6.12", False), ("7.2", False),
    ]  # fmt: skip


def test_the_newest_drill_of_a_kind_counts_and_in_one_run_the_one_that_failed() -> None:
    good, bad = record_of(), record_of(verified=False, reached="RECOVERED", failed_checks=("filter",))
    later = datetime.date(2026, 12, 1)
    newer = dataclasses.replace(good, date=later)
    assert merge((bad,), (newer,)) == (newer,)
    assert merge((newer,), (bad,)) == (newer,)
    assert merge((bad,), (good,)) == (good,)  # the same day, after a repair
    assert merge((), (good, bad)) == merge((), (bad, good)) == (bad,)
    assert merge((), (bad, newer)) == merge((), (newer, bad)) == (newer,)
    other = record_of(level=1)
    assert set(merge((good,), (other,))) == {good, other}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("{", "is not JSON"),
        ("[]", "is neither a verdict.json nor a matrix.json"),
        ('{"cells": []}', "is neither a verdict.json nor a matrix.json"),
        ({**matrix_of(), "tests": [{}]}, "is not a result of kdump-harness (KeyError: "),
        ('{"tests": 5}', "is not a result of kdump-harness (TypeError: "),
        ({**verdict_of(), "started": "yesterday"}, "is not a result of kdump-harness (ValueError: "),
        (matrix_of(passed=[verdict_of()]), "these files have no drill to record"),
        (verdict_of(release="Debian 99"), "the family 'debian' has no release 'Debian 99'"),
        (verdict_of(family="slackware"), "the family 'slackware' has no release 'Debian 12'"),
    ],
)
def test_bad_files_are_named_and_nothing_is_written(
    data: Any, sentence: str, table: Path, result: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--record", result(data)]) == EXIT_USAGE
    assert sentence in capsys.readouterr().err
    assert table.read_text() == ""


def test_a_drill_from_before_a_check_was_required_is_not_called_verified(table: Path, result: Any) -> None:
    old = verdict_of()
    old["checks"] = [check for check in old["checks"] if check["name"] not in ("filter", "pages")]
    assert main(["--record", result(old)]) == EXIT_OK
    (record,) = load_records()
    assert (record.verified, record.holds, record.unmade_checks) == (True, False, ("filter", "pages"))
    page = support_page(FAMILIES, [record])
    assert f"| {len(REQUIRED_CHECKS) - 2} checks held; not made then: `filter`, `pages` |" in page
    assert re.search(r"^\| Debian 12 \| debian: 12 .*\| guest, not verified \|$", page, flags=re.MULTILINE)


def test_a_drill_with_fewer_checks_than_today_is_shown_as_such() -> None:
    today = len(REQUIRED_CHECKS)
    page = support_page(FAMILIES, [record_of(checks=today - 1), record_of(image="debian-13", release="Debian 13")])
    assert f"| verified, {today - 1} checks ({today} are required today) |" in page
    assert f"| verified, {today} checks |" in page


def test_a_kernel_drill_is_shown_by_its_architecture_and_has_checks_of_its_own(table: Path, result: Any) -> None:
    verdict = verdict_of(
        family="userland", release="userland", disk=None, kernel_asked="bullseye", arch="aarch64",
        image="kernel-bullseye", kernel="5.10.0-32-cloud-arm64", target="raw-disk", reached=Stage.SAVED, verified=True,
    )  # fmt: skip
    of_kernel = required_today("kernel")
    verdict["checks"] = [check for check in verdict["checks"] if check["name"] in of_kernel]
    assert main(["--record", result(verdict)]) == EXIT_OK
    (record,) = load_records()
    assert (record.how, record.release, record.arch, record.holds) == ("kernel", "bullseye", "aarch64", True)
    assert set(of_kernel) < {*REQUIRED_CHECKS, *of_kernel}
    page = support_page(FAMILIES, [record])
    assert re.search(
        r"^\| arm64 \| 5\.10\.0-32-cloud-arm64 .* direct boot, tcg .*\| verified", page, flags=re.MULTILINE
    )
    assert "| Debian 12 | debian: 12 " in page.partition("## debian")[2]
    assert "5.10.0-32-cloud-arm64" not in page.partition("## debian")[2]


def test_a_missing_file_is_named(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--record", str(tmp_path / "none.json")]) == EXIT_USAGE
    assert "none.json cannot be read (No such file or directory)" in capsys.readouterr().err


def test_an_error_in_the_table_is_named(table: Path) -> None:
    write_records([record_of()], table)
    table.write_text(table.read_text().replace('"guest"', '"hearsay"'))
    with pytest.raises(TableError, match=r"drilled\.toml: \[\[drill\]\] 1: how must be one of image, guest, code"):
        load_records()


# ---------------------------------------------------------------- the page


def part_of(page: str, family: str) -> str:
    return page.partition(f"\n## {family}\n")[2].partition("\n## ")[0]


def test_the_page_shows_each_record_with_its_result() -> None:
    failing = record_of(
        image="debian-13", release="Debian 13", verified=False, reached="RECOVERED", failed_checks=("filter",),
        known_issue=TRACKER,
    )  # fmt: skip
    page = support_page(FAMILIES, [failing, record_of(), record_of(how="image", kernel="6.1.1")])
    debian = part_of(page, "debian")
    assert (
        "| Debian 12 | debian-12 | 6.1.0 | 1.7.2 | guest | sysrq-c → local, `-d 31` zlib, bios, tcg | 2026-11-22 "
        f"| verified, {len(REQUIRED_CHECKS)} checks |" in debian
    )
    assert f"| **not verified**, reached RECOVERED: `filter` ([known issue]({TRACKER})) |" in debian
    assert debian.index("| Debian 12 | debian-12 |") < debian.index("| Debian 13 | debian-13 |")
    shown = dict(re.findall(r"^\| ([^|]+) \| debian: .* \| ([^|]+) \|$", debian, flags=re.MULTILINE))
    assert shown["Debian 12"] == "image"
    assert shown["Debian 13"] == "guest, not verified"
    assert shown["Debian testing and sid"] == "facts"


def test_a_release_without_a_record_is_named_as_such() -> None:
    page = support_page(FAMILIES, [record_of(family="redhat", release="RHEL 9 and rebuilds", image="rocky-9")])
    redhat = part_of(page, "redhat")
    named = re.search(r"^Never drilled, by documentation and source only: (.*)\.$", redhat, flags=re.MULTILINE)
    assert named
    facts_only = {release.name for release, _ in FAMILIES["redhat"].releases if release.shown == "facts"}
    assert set(named[1].split(", ")) == facts_only - {"RHEL 9 and rebuilds"}


@pytest.mark.parametrize(
    ("drills", "shown"),
    [
        ([], "facts"),
        ([("code", True)], "code"),
        ([("code", True), ("guest", False)], "code"),
        ([("guest", False)], "guest, not verified"),
        ([("guest", True), ("image", True), ("code", True)], "image"),
    ],
)
def test_a_row_is_shown_by_its_best_verified_drill(drills: list[tuple[str, bool]], shown: str) -> None:
    (release,) = (release for release, _ in FAMILIES["debian"].releases if release.name == "Ubuntu 22.04")
    release = dataclasses.replace(release, shown="facts")
    found = [record_of(release=release.name, how=how, verified=verified) for how, verified in drills]
    assert shown_of(release, [*found, record_of(how="image")]) == shown


def test_the_recorded_drills_are_of_known_releases_and_images() -> None:
    found = load_records()
    assert found
    names = load_catalog().names
    for record in found:
        assert record.how in ("code", "kernel") or record.image in names
        reached = ("SAVED", "VERIFIED") if record.how == "kernel" else ("VERIFIED",)
        assert record.verified == (record.reached in reached and not record.failed_checks), record
        assert record.date <= datetime.datetime.now(datetime.UTC).date()
    support_page(FAMILIES, found)


def test_a_record_survives_the_file(tmp_path: Path) -> None:
    one = record_of(stopped_by="a\nb\t\u2192 \\ \" '", failed_checks=("a", "b"))
    write_records([one, record_of()], tmp_path / "x.toml")
    assert load_records(tmp_path / "x.toml") == (one, record_of())


def test_reading_a_result_needs_no_table(tmp_path: Path, result: Any) -> None:
    assert read_result(Path(result(verdict_of())), {}) == [record_of()]
