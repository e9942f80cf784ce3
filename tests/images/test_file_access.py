"""Access of QEMU's user to private files: nothing of it stays, also after a kill, and nothing else is changed."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from kdump_harness.base.errors import HostError, UsageError
from kdump_harness.images import file_access
from kdump_harness.images.file_access import given, readable_by, require_reachable, undo
from kdump_harness.images.state import State

QEMU = 64055
ACL = "system.posix_acl_access"


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A private disk of the user."""
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"disk")
    path.chmod(0o600)
    try:
        os.setxattr(path, ACL, readable_by(QEMU, None, 0o600))
        os.removexattr(path, ACL)
    except OSError:
        pytest.skip("no ACLs on this filesystem")
    path.chmod(0o600)
    return path


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a run."""
    path = tmp_path / "run"
    path.mkdir()
    return path


def facts(path: Path) -> tuple[object, ...]:
    status = path.stat()
    acl = os.getxattr(path, ACL) if ACL in os.listxattr(path) else None
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, acl


def entries(acl: bytes) -> dict[tuple[int, int], int]:
    return {(tag, who): bits for tag, bits, who in file_access._ENTRY.iter_unpack(acl[4:])}


def test_one_user_may_read_within_the_block_and_the_owner_stays(disk: Path, run: Path) -> None:
    before = facts(disk)
    with given([disk, disk], QEMU, run):
        status = disk.stat()
        assert (status.st_uid, status.st_gid) == (os.geteuid(), before[2])
        found = entries(os.getxattr(disk, ACL))
        assert found[(2, QEMU)] == 4
        assert (found[(4, 0xFFFFFFFF)], found[(0x20, 0xFFFFFFFF)]) == (0, 0)  # group and others: as before
        assert len(list(run.iterdir())) == 1
    assert facts(disk) == before
    assert list(run.iterdir()) == []


def test_an_acl_of_the_user_comes_back(disk: Path, run: Path) -> None:
    os.setxattr(disk, ACL, readable_by(4321, None, 0o640))
    before = facts(disk)
    with given([disk], QEMU, run):
        assert {who for _, who in entries(os.getxattr(disk, ACL))} >= {4321, QEMU}
    assert facts(disk) == before


def test_a_mask_that_holds_others_back_is_not_widened_for_them() -> None:
    wide = readable_by(4321, None, 0o660)
    held = bytearray(wide)
    at = 4 + 8 * [tag for tag, _, _ in file_access._ENTRY.iter_unpack(wide[4:])].index(0x10)
    held[at + 2] = 0  # the mask
    found = entries(readable_by(QEMU, bytes(held), 0o600))
    assert (found[(2, 4321)], found[(4, 0xFFFFFFFF)], found[(2, QEMU)]) == (0, 0, 4)


def test_a_file_that_the_user_changes_meanwhile_keeps_the_change(disk: Path, run: Path) -> None:
    with given([disk], QEMU, run):
        os.removexattr(disk, ACL)
        disk.chmod(0o644)
    assert disk.stat().st_mode & 0o777 == 0o644


KILLED = """
import os, sys
from pathlib import Path
from kdump_harness.images.file_access import given
with given([Path(sys.argv[1])], int(sys.argv[3]), Path(sys.argv[2])):
    os.kill(os.getpid(), 9)
"""


def kill_within(disk: Path, run: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, disk, run, str(QEMU)], check=False)
    assert done.returncode == -signal.SIGKILL


def test_clean_restores_the_files_of_a_killed_run(disk: Path, tmp_path: Path) -> None:
    before = facts(disk)
    state = State(tmp_path / "state")
    stale = state.directory / "runs" / "abc123"
    stale.mkdir()
    (stale / "lock").touch()
    kill_within(disk, stale)
    assert facts(disk) != before
    (leftover,) = state.leftovers()
    assert leftover.remove()
    assert facts(disk) == before
    assert not stale.exists()


def test_two_killed_runs_of_one_disk_are_undone_in_any_order(disk: Path, tmp_path: Path) -> None:
    before = facts(disk)
    runs = [tmp_path / "one", tmp_path / "two"]
    for path in runs:
        path.mkdir()
        kill_within(disk, path)
    for path in runs:
        assert undo(path)
    assert facts(disk) == before


def test_a_journal_without_its_file_or_damaged_is_not_a_traceback(disk: Path, run: Path) -> None:
    kill_within(disk, run)
    disk.unlink()
    assert undo(run)
    (run / "given-access-0.json").write_text("[" * 5000)
    assert not undo(run)
    assert undo(run / "nothing here")


def test_another_file_under_the_same_name_is_left_alone(disk: Path, run: Path) -> None:
    kill_within(disk, run)
    disk.rename(disk.with_name("moved"))
    disk.write_bytes(b"another")
    before = facts(disk)
    assert undo(run)
    assert facts(disk) == before


def test_two_runs_of_one_disk_take_turns(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_access, "_LOOK_S", 0.01)
    before, seen = facts(disk), []

    def drill(name: str) -> None:
        (tmp_path / name).mkdir()
        with given([disk], QEMU, tmp_path / name):
            seen.append(f"{name} begins")
            time.sleep(0.05)
            assert (2, QEMU) in entries(os.getxattr(disk, ACL))
            seen.append(f"{name} ends")

    threads = [threading.Thread(target=drill, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert facts(disk) == before
    assert [one.split()[0] for one in seen[::2]] == [one.split()[0] for one in seen[1::2]]


def test_a_lock_of_another_program_is_not_awaited_for_ever(
    disk: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_access, "_WAIT_S", 0.0)
    with given([disk], QEMU, run), pytest.raises(HostError, match="locked by another program"), given([disk], 1, run):
        pass


def test_a_filesystem_without_acls_is_named_to_an_ordinary_user(
    disk: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root gives the file away for the moment instead, and the journal has its owner."""

    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    before = facts(disk)
    monkeypatch.setattr(os, "setxattr", unsupported)
    monkeypatch.setattr(os, "chown", refused)
    with pytest.raises(UsageError, match="is readable by its owner only"), given([disk], QEMU, run):
        pass
    assert facts(disk) == before
    assert list(run.iterdir()) == []


def test_a_file_in_a_directory_that_is_closed_to_qemus_user_is_refused(tmp_path: Path) -> None:
    """QEMU would say "Permission denied" after a disk was built."""
    daemon = pwd.getpwnam("daemon").pw_uid
    (closed := tmp_path / "closed").mkdir(mode=0o700)
    (disk := closed / "disk.qcow2").touch(mode=0o644)
    with pytest.raises(UsageError, match=r"QEMU's user daemon may not enter .*chmod o\+x") as raised:
        require_reachable(disk, daemon)
    # The directories of pytest are closed, too.
    assert any(f"enter {one} (" in raised.value.args[0] for one in disk.parents)
    require_reachable(Path("/usr/bin/env"), daemon)
    require_reachable(disk, os.geteuid())
