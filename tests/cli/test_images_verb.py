"""The verb images: exit statuses, tables and JSON, with a catalogue of a site on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from image_site import CONTENT, NEWER, Site, closed_port, name_of, serve
from kdump_harness.__main__ import main
from kdump_harness.base import tables
from kdump_harness.images.state import State

ROW = """\
[[image]]
name = "{name}"
family = "debian"
release = "1"
login = "demo"
url = "{url}/{file}"
checksums = "{url}/SHA256SUMS"
"""
MANUAL = """\
[[image]]
name = "rhel-9"
family = "redhat"
release = "9"
login = "cloud-user"
file = "rhel-9.*.qcow2"
manual = "the portal"
"""

Verb = Callable[..., tuple[int, str, str]]


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as site:
        yield site


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Choose the rows of the catalogue."""

    def write(text: str) -> None:
        (tmp_path / "catalog.toml").write_text(text, encoding="utf-8")

    monkeypatch.setattr(tables, "data_path", lambda *_parts: tmp_path / "catalog.toml")
    return write


@pytest.fixture
def images(
    site: Site, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Verb:
    """Run the verb; return its exit status, standard output and standard error."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    rows(ROW.format(name="demo-1", url=site.url, file="demo.qcow2") + MANUAL)

    def run(*argv: str) -> tuple[int, str, str]:
        status = main(["images", *argv])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_catalogue_that_is_all_there_is_0(images: Verb, site: Site) -> None:
    status, out, err = images("--refresh")
    assert status == 0
    assert f"demo-1  ok               {site.url}/demo.qcow2 (1 MiB, sha256 " in out
    assert "rhel-9  by hand          rhel-9.*.qcow2 from the portal" in out
    assert out.endswith("1 ok, 1 by hand\n")
    assert "asking after 2 images" in err


def test_a_rotted_row_exits_with_1_and_json_names_it(images: Verb, rows: Any, site: Site) -> None:
    rows(
        ROW.format(name="demo-1", url=site.url, file="demo.qcow2")
        + ROW.format(name="demo-2", url=site.url, file="gone.qcow2")
    )
    status, out, _ = images("--refresh", "--json", "-")
    assert status == 1
    assert {row["name"]: row["state"] for row in json.loads(out)} == {"demo-1": "ok", "demo-2": "rotted"}
    assert images("--refresh", "demo-1")[0] == 0


def test_a_row_whose_server_alone_is_down_is_1(images: Verb, rows: Any, site: Site) -> None:
    rows(
        ROW.format(name="demo-1", url=site.url, file="demo.qcow2")
        + ROW.format(name="demo-2", url=closed_port(), file="demo.qcow2")
    )
    status, out, _ = images("--refresh")
    assert status == 1
    assert out.endswith("1 ok, 1 unreachable\n")


def test_no_network_is_3_and_one_sentence(images: Verb, rows: Any, tmp_path: Path) -> None:
    rows("".join(ROW.format(name=f"demo-{n}", url=closed_port(), file="demo.qcow2") for n in (1, 2)) + MANUAL)
    status, out, err = images("--refresh", "--json", "rows.json")
    assert (status, out) == (3, "")
    (sentence,) = [line for line in err.splitlines() if line.startswith("kdump-harness: ")]
    assert "none of 2 images could be checked, as if without a network: cannot reach http://127.0.0.1:" in sentence
    states = [row["state"] for row in json.loads((tmp_path / "rows.json").read_text(encoding="utf-8"))]
    assert states == ["unreachable", "unreachable", "by hand"]


def test_rows_behind_a_login_alone_need_no_network(images: Verb) -> None:
    status, out, _ = images("--refresh", "rhel-9")
    assert status == 0
    assert out.endswith("1 by hand\n")


def test_an_image_is_fetched_found_older_fetched_anew_and_the_old_one_pruned(
    images: Verb, site: Site, tmp_path: Path
) -> None:
    place = tmp_path / "state" / "images" / "demo-1"
    assert images("--fetch", "demo-1")[:2] == (0, f"demo-1: {place / name_of(CONTENT)}\n")
    os.utime(place / name_of(CONTENT), (1, 1))
    assert json.loads(images("--json", "-")[1])[0]["cached"] == "downloaded"
    site.publish(NEWER)
    assert json.loads(images("--refresh", "--json", "-")[1])[0]["cached"] == "older"
    assert images("--fetch", "demo-1")[0] == 0
    assert json.loads(images("--refresh", "--json", "-")[1])[0]["cached"] == "today's"

    old = f"images/demo-1/{name_of(CONTENT)}"
    status, out, _ = images("--prune", "--dry-run")
    assert (status, out) == (0, f"would remove {old} (1 MiB): superseded\nwould free 1 MiB\n")
    assert images("--prune", "--keep", "2")[1] == "nothing to remove\n"
    with State(tmp_path / "state").run() as run:
        os.utime(run.path / "lock", (2, 2))
        because = "but an active run may use it"
        assert images("--prune")[1] == f"kept {old} (1 MiB): superseded, {because}\nfreed 0 MiB\n"
    found = json.loads(images("--prune", "--json", "-")[1])
    assert (found["dry_run"], [one["what"] for one in found["found"]]) == (False, [old])
    assert found["freed_bytes"] == found["found"][0]["size_bytes"] >= len(CONTENT)
    assert [path.name for path in place.glob("*.qcow2")] == [name_of(NEWER)]


def test_an_image_that_cannot_be_had_does_not_keep_the_others_away(images: Verb, site: Site, tmp_path: Path) -> None:
    status, out, err = images("--fetch", "*")
    assert status == 3
    assert f"demo-1: {tmp_path}" in out
    sentence = (
        f"rhel-9 needs a login: download rhel-9.*.qcow2 from the portal and put it into {tmp_path}/state/images/rhel-9/"
    )
    assert sentence in out
    assert "Traceback" not in err
    (tmp_path / "state" / "images" / "rhel-9" / "rhel-9.8.qcow2").write_bytes(CONTENT)  # the directory is there
    assert images("--fetch", "*")[0] == 0


def test_the_table_says_what_people_have_to_bring_and_where_to(images: Verb, tmp_path: Path) -> None:
    out = json.loads(images("rhel-9", "--json", "-")[1])
    assert out[0]["source"] == f"rhel-9.*.qcow2 from the portal, to be put into {tmp_path}/state/images/rhel-9/"
    assert (out[0]["how"], out[0]["cached"]) == ("by hand", "")
    assert "rhel-9" in images()[1]


@pytest.mark.parametrize("argv", [["--refresh", "--prune"], ["--prune", "--keep", "-1"], ["--prune", "--keep", "x"]])
def test_options_that_contradict_are_a_usage_error(images: Verb, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        images(*argv)
    assert caught.value.code == 2
