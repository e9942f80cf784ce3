"""The removal of superseded downloads, and the files that must stay."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from image_site import by_hand, make_image, start_partial
from kdump_harness.base.errors import UsageError
from kdump_harness.images import download
from kdump_harness.images import prune as prune_module
from kdump_harness.images.catalog import Catalog, Image
from kdump_harness.images.prune import Pruned, prune
from kdump_harness.images.state import State

A_DAY_S = 86_400
ROW = make_image("http://images.example")

HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "rb")
fcntl.lockf(file, fcntl.LOCK_SH, 1, 100)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def catalog(*images: Image) -> Catalog:
    return Catalog(images or (ROW,), Path("catalog.toml"))


def put(state: State, letter: str, *, days_old: float, row: str = "demo-1", kind: str = "qcow2") -> Path:
    """A download of some days ago."""
    path = state.images / row / f"sha256-{letter * 64}.{kind}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(letter.encode() * 100_000)
    os.utime(path, (path.stat().st_mtime - days_old * A_DAY_S,) * 2)
    return path


def arm(state: State, key: str, base: Path, *, cache: str = "armed") -> Path:
    """A disk with a backing file."""

    def make(part: Path) -> dict[str, Any]:
        (part / "disk.qcow2").write_bytes(b"overlay")
        return {"base": {"path": base}}  # as in harness/disk.py

    return state.make_once(cache, key, make, report=lambda _text: None, what="a disk")


def left(state: State, row: str = "demo-1") -> set[str]:
    return {path.name.removeprefix("sha256-")[:1] for path in (state.images / row).iterdir() if path.name != "lock"}


def reasons(found: tuple[Pruned, ...]) -> dict[str, str]:
    """Return why each file stays, or an empty string if it was removed, by the letter of its digest or its name."""
    return {one.what.rpartition("sha256-")[2][:1] or one.what: one.kept_because for one in found}


def test_the_newest_version_stays_and_the_older_ones_go(state: State) -> None:
    for letter, days in (("a", 9), ("b", 1), ("c", 5)):
        put(state, letter, days_old=days)
    taken = {path.name: path.stat().st_blocks * 512 for path in (state.images / "demo-1").iterdir()}
    found = prune(state, catalog())
    assert left(state) == {"b"}
    assert reasons(found) == {"a": "", "c": ""}
    assert {one.what.rpartition("/")[2]: one.size_bytes for one in found}.items() <= taken.items()
    assert {one.why for one in found} == {"superseded"}
    assert prune(state, catalog()) == ()


@pytest.mark.parametrize(("keep", "stay"), [(0, set()), (2, {"b", "c"}), (3, {"a", "b", "c"}), (9, {"a", "b", "c"})])
def test_as_many_versions_stay_as_asked(state: State, keep: int, stay: set[str]) -> None:
    for letter, days in (("a", 9), ("b", 1), ("c", 5)):
        put(state, letter, days_old=days)
    prune(state, catalog(), keep=keep)
    assert left(state) == stay


def test_what_no_row_names_any_more_goes_entirely(state: State) -> None:
    put(state, "a", days_old=1, row="fedora-12")
    put(state, "b", days_old=1)
    (one,) = prune(state, catalog())
    assert one.why == "the catalogue has no image of this name"
    assert (left(state, "fedora-12"), left(state)) == (set(), {"b"})


def test_a_partial_download_goes_when_nobody_writes_it(state: State) -> None:
    start_partial(state.images, b"x" * 1000, 1000)
    lock = state.images / "demo-1" / "lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for dry_run in (True, False):
            (one,) = prune(state, catalog(), dry_run=dry_run)
            assert one.kept_because == "it is being downloaded"
    assert len(list((state.images / "demo-1").glob("*.part"))) == 1
    (one,) = prune(state, catalog())
    assert (one.why, one.kept_because) == ("an unfinished download", "")
    assert list((state.images / "demo-1").glob("*.part")) == []
    assert lock.exists(), "others may wait for it"


def test_files_that_people_brought_stay_whatever_they_are_called(state: State) -> None:
    put(state, "a", days_old=1, row="fedora-12")
    put(state, "a", days_old=9, row="rhel-9")
    put(state, "b", days_old=1, row="rhel-9")
    for row in ("rhel-9", "fedora-12", "demo-1"):
        (state.images / row).mkdir(exist_ok=True)
        (state.images / row / "rhel-9.8-x86_64-kvm.qcow2").write_bytes(b"mine")
        (state.images / row / "SHA256SUMS").write_bytes(b"mine")
    (state.images / "notes.txt").write_bytes(b"mine")
    found = prune(state, catalog(ROW, make_image("", name="rhel-9", url="", checksums="", file="*", manual="portal")))
    assert [one.what.partition("/sha")[0] for one in found] == ["images/fedora-12"]
    assert left(state, "rhel-9") == {"a", "b", "r", "S"}
    assert left(state, "fedora-12") == left(state) == {"r", "S"}
    assert (state.images / "notes.txt").exists()


def test_a_dry_run_touches_nothing_and_tells_the_same(state: State) -> None:
    for letter, days in (("a", 9), ("b", 1)):
        put(state, letter, days_old=days)
    put(state, "c", days_old=0, kind="part")
    base = put(state, "d", days_old=3)
    arm(state, "k1", base)
    before = sorted(state.directory.rglob("*"))
    told = prune(state, catalog(), dry_run=True)
    assert sorted(state.directory.rglob("*")) == before
    assert prune(state, catalog()) == told
    assert len(told) == 4


def test_armed_disks_go_with_the_download_that_they_rest_on(state: State) -> None:
    old, new = put(state, "a", days_old=9), put(state, "b", days_old=1)
    arm(state, "k1", old)
    arm(state, "k2", new)
    arm(state, "k3", state.directory / "built" / "b1" / "disk.raw")
    found = prune(state, catalog())
    assert [one.what for one in found] == ["armed/k1", f"images/demo-1/{old.name}"], "what rests on it goes first"
    assert state.ready("armed", "k1") is None
    assert state.ready("armed", "k2")
    assert state.ready("armed", "k3")


def test_disks_go_before_the_disk_that_they_rest_on_however_long_the_chain(state: State) -> None:
    old, new = put(state, "a", days_old=9), put(state, "b", days_old=1)
    installed = arm(state, "i1", old, cache="installed")
    for key in ("k1", "k2"):
        arm(state, key, installed / "disk.qcow2")
    arm(state, "k3", arm(state, "i2", new, cache="installed") / "disk.qcow2")
    found = prune(state, catalog())
    assert [one.what for one in found] == ["armed/k1", "armed/k2", "installed/i1", f"images/demo-1/{old.name}"]
    assert [path.name for cache in ("armed", "installed") for path in (state.directory / cache).glob("*/")] == [
        "k3",
        "i2",
    ]


def test_a_base_stays_when_an_armed_disk_on_it_cannot_be_removed(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    old = put(state, "a", days_old=9)
    put(state, "b", days_old=1)
    arm(state, "k1", old)
    monkeypatch.setattr(prune_module, "remove_tree", lambda path: False)
    found = prune(state, catalog())
    assert [one.kept_because for one in found] == ["it cannot be removed", "armed/k1 cannot be removed"]
    assert old.exists()


def test_an_image_that_a_guest_runs_on_stays(state: State) -> None:
    old = put(state, "a", days_old=9)
    put(state, "b", days_old=1)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(old)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert reasons(prune(state, catalog())) == {"a": "a guest uses it"}
        assert old.exists()
    finally:
        holder.communicate()
    assert reasons(prune(state, catalog())) == {"a": ""}


@pytest.mark.skipif(shutil.which("qemu-io") is None, reason="qemu-io is not installed")
def test_a_real_qemu_locks_the_base_behind_its_overlay(state: State) -> None:
    old = put(state, "a", days_old=9)
    put(state, "b", days_old=1)
    overlay = state.directory / "overlay.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", str(old), "1M"], check=True)
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(old), "-F", "raw", str(overlay)], check=True
    )  # fmt: skip
    os.utime(old, (1, 1))
    qemu = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(overlay)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert qemu.stdin is not None
        assert qemu.stdout is not None
        qemu.stdin.write("length\n")
        qemu.stdin.flush()
        assert "1 MiB" in qemu.stdout.readline()
        assert reasons(prune(state, catalog())) == {"a": "a guest uses it"}
    finally:
        qemu.communicate()
    assert reasons(prune(state, catalog())) == {"a": ""}


def test_a_version_that_a_living_run_may_have_chosen_stays_until_the_run_ends(state: State) -> None:
    put(state, "a", days_old=9)
    put(state, "b", days_old=5)
    with state.run() as run:
        lock = run.path / "lock"
        os.utime(lock, (lock.stat().st_mtime + 2,) * 2)  # as if b and the run had not begun in the same moment
        assert reasons(prune(state, catalog(), dry_run=True)) == {"a": ""}, "b was there when the run began"
        os.utime(lock, (lock.stat().st_mtime - 60,) * 2)
        because = "an active run may use it"
        assert reasons(prune(state, catalog())) == {"a": because}
        assert reasons(prune(state, catalog(), keep=0)) == {"a": because, "b": because}
    assert reasons(prune(state, catalog())) == {"a": ""}


def test_only_what_is_asked_for_is_looked_at(state: State) -> None:
    for row in ("demo-1", "demo-2", "gone-1"):
        for letter, days in (("a", 9), ("b", 1)):
            put(state, letter, days_old=days, row=row)
    rows = catalog(ROW, make_image("http://images.example", name="demo-2"))
    prune(state, rows, ["*-2"])
    assert (left(state), left(state, "demo-2"), left(state, "gone-1")) == ({"a", "b"}, {"b"}, {"a", "b"})
    prune(state, rows, ["gone-1"])
    assert (left(state), left(state, "gone-1")) == ({"a", "b"}, set())
    with pytest.raises(UsageError, match=r"no image in the catalogue or the cache matches 'gentoo-\*'"):
        prune(state, rows, ["gentoo-*"])


def test_a_lock_of_another_user_is_an_obstacle_and_no_error(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    old = put(state, "a", days_old=9)
    put(state, "b", days_old=1)

    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(download.Path, "open", refused)
    (one,) = prune(state, catalog())
    assert one.kept_because == "Permission denied: it belongs to another user"
    assert old.exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root may remove everything")
def test_what_another_user_put_there_is_left_to_them(state: State) -> None:
    old = put(state, "a", days_old=9)
    put(state, "b", days_old=1)
    old.parent.chmod(0o555)
    (one,) = prune(state, catalog())
    old.parent.chmod(0o755)
    assert "Permission denied" in one.kept_because


def test_an_empty_cache_has_nothing_to_remove(state: State) -> None:
    assert prune(state, catalog()) == ()
    assert prune(state, catalog(by_hand())) == ()


def test_the_result_is_json(state: State) -> None:
    put(state, "a", days_old=9)
    put(state, "b", days_old=1)
    (one,) = prune(state, catalog(), dry_run=True)
    assert set(json.loads(json.dumps(one.to_json()))) == {"what", "size_bytes", "why", "kept_because"}
