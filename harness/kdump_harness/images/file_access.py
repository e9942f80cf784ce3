"""Access of QEMU's user to a private file of the user, for a moment: written down before, and undone after."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pwd
import secrets
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..base import clock, foreign
from ..base.errors import HostError, UsageError

_JOURNAL = "given-access-{}.json"  # in the directory of a run
_ACL = "system.posix_acl_access"
_VERSION, _ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NO_ID = 0xFFFFFFFF
_READ = 4
_WAIT_S = 60.0
_LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True)
class _Change:
    """One file as it was, and the state that it was given."""

    path: str
    device: int
    inode: int
    mode: int
    uid: int
    gid: int
    acl: str | None  # hexadecimal
    given_acl: str
    given_uid: int  # its owner for the moment, on a filesystem without ACLs


@contextlib.contextmanager
def given(paths: Sequence[Path], uid: int, run: Path) -> Iterator[None]:
    """Let a user read private files within the block, by an entry in their ACL, else by giving them away.

    The directory of the run has the journal, from which undo() restores the files after a kill. QEMU needs to open
    the files only once. Another run waits for its turn, so that neither takes the file from the other.
    """
    with contextlib.ExitStack() as held:
        files = {path: held.enter_context(_alone(path)) for path in sorted(set(paths))}
        changes = [_planned(path, file, uid) for path, file in files.items()]
        if not changes:
            yield
            return
        journal = run / _JOURNAL.format(secrets.token_hex(4))  # guests of one run may start at once
        _write(journal, changes)
        try:
            for change, file in zip(changes, files.values(), strict=True):
                _give(change, file)
            yield
        finally:
            for change, file in zip(changes, files.values(), strict=True):
                _restore(change, file)
            journal.unlink()


def require_reachable(path: Path, uid: int) -> None:
    """Raise UsageError where a directory above a file is closed to a user; what has an ACL is believed."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return
    groups = os.getgrouplist(entry.pw_name, entry.pw_gid)
    for directory in reversed(path.resolve().parents):
        status = directory.stat()
        search = 0o100 if status.st_uid == uid else 0o010 if status.st_gid in groups else 0o001
        if uid and not status.st_mode & search and _ACL not in os.listxattr(directory):
            raise UsageError(
                f"{path} cannot be used: QEMU's user {entry.pw_name} may not enter {directory}"
                f" (run chmod o+x {directory}, or choose a place elsewhere)"
            )


def undo(run: Path) -> bool:
    """Restore the files that a killed run had given away; return False where one could not be restored."""
    done = [_undo(journal) for journal in run.glob(_JOURNAL.format("*"))]
    return all(done)


def _undo(journal: Path) -> bool:
    try:
        changes = [_Change(**row) for row in foreign.parse_object(journal.read_bytes())["changes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    done = True
    for change in changes:
        try:
            with _alone(Path(change.path)) as file:
                _restore(change, file)
        except FileNotFoundError:
            continue
        except (OSError, UsageError, HostError):
            done = False
    return done


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[int]:
    """Open a file, and keep other runs from changing its access; the lock ends with the process."""
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        deadline = clock.Deadline(_WAIT_S)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.passed:
                    raise HostError(f"{path} is locked by another program (flock): try again later") from None
                clock.pause(_LOOK_S)
        yield file
    finally:
        os.close(file)


def _planned(path: Path, file: int, uid: int) -> _Change:
    status, acl = os.fstat(file), _acl_of(file)
    return _Change(
        path=str(path),
        device=status.st_dev,
        inode=status.st_ino,
        mode=status.st_mode & 0o7777,
        uid=status.st_uid,
        gid=status.st_gid,
        acl=acl.hex() if acl is not None else None,
        given_acl=readable_by(uid, acl, status.st_mode).hex(),
        given_uid=uid,
    )


def _give(change: _Change, file: int) -> None:
    try:
        os.setxattr(file, _ACL, bytes.fromhex(change.given_acl))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.EINVAL):
            raise HostError(f"{change.path} cannot be shared with QEMU's user: {error.strerror}") from None
        try:
            os.chown(file, change.given_uid, -1)
        except OSError:
            raise UsageError(
                f"{change.path} is readable by its owner only, but QEMU runs as another user (run chmod o+r"
                f" {change.path}, or drill a copy)"
            ) from None


def _restore(change: _Change, file: int) -> None:
    """Restore what was changed, and only that: the user may have changed the file meanwhile."""
    status = os.fstat(file)
    if (status.st_dev, status.st_ino) != (change.device, change.inode):
        return
    acl = _acl_of(file)
    if acl is not None and acl.hex() == change.given_acl:
        if change.acl is not None:
            os.setxattr(file, _ACL, bytes.fromhex(change.acl))
        else:
            os.removexattr(file, _ACL)
            os.chmod(file, change.mode)  # its bits of the group were the mask
    elif status.st_uid == change.given_uid != change.uid:
        os.chown(file, change.uid, change.gid)


def _acl_of(file: int) -> bytes | None:
    try:
        return os.getxattr(file, _ACL)
    except OSError:  # the file has none, or this filesystem
        return None


def readable_by(uid: int, acl: bytes | None, mode: int) -> bytes:
    """Return an ACL with one more user who may read; nothing else changes for other users.

    The format is that of the kernel's extended attribute (linux/posix_acl_xattr.h), version 2.
    """
    if acl is None:
        rows = [(_USER_OBJ, mode >> 6 & 7, _NO_ID), (_GROUP_OBJ, mode >> 3 & 7, _NO_ID), (_OTHER, mode & 7, _NO_ID)]
    else:
        rows = list(_ENTRY.iter_unpack(acl[_VERSION.size :]))
    mask = next((bits for tag, bits, _ in rows if tag == _MASK), 7)
    # The mask must let the new entry through; what it held back from others is taken from them.
    masked = (_USER, _GROUP_OBJ, _GROUP)
    rows = [(tag, bits & mask if tag in masked else bits, who) for tag, bits, who in rows if tag != _MASK]
    own = next((bits for tag, bits, who in rows if (tag, who) == (_USER, uid)), 0)
    rows = [row for row in rows if (row[0], row[2]) != (_USER, uid)] + [(_USER, own | _READ, uid)]
    mask = 0
    for tag, bits, _ in rows:
        mask |= bits if tag in masked else 0
    rows.append((_MASK, mask, _NO_ID))
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*row) for row in sorted(rows, key=lambda row: (row[0], row[2])))


def _write(journal: Path, changes: Sequence[_Change]) -> None:
    """Write the journal so that it is on the disk before any file is changed."""
    fresh = journal.with_name(f".{journal.name}")
    text = foreign.dump_json({"changes": [asdict(change) for change in changes]})
    with fresh.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(journal)
    directory = os.open(journal.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
