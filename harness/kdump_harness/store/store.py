"""A store on disk: intake and names of its dumps, without half-finished ones."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base import foreign
from ..base.errors import EXIT_UNJUDGED, HostError, UsageError
from ..base.sqlite import on_read_only_disk
from ..base.units import MIB
from ..images.state import default_directory, is_held, remove_tree
from ..vmcore import Unreadable, VmcoreError, rearrange
from ..vmcore.inspection import DAMAGED, UNJUDGED
from ..vmcore.packed import readable_packing, unpack
from .index import TRIAGED, UNTRIAGED, Dump, Index
from .intake import copying
from .intake.arrivals import WatchedDirectory, beside, shown
from .intake.copying import NoRoom, StillGrowing
from .intake.examine import LOG_NAME, Examination, examine
from .policy import NAME as POLICY
from .policy import Policy, load_policy

VARIABLE = "KDUMP_HARNESS_STORE"
INDEX = "index.sqlite"
VMCORE = "vmcore"
RECORD = "record.json"  # below a dump: its row of the index
SENDERS = "sender"  # below a dump: what came with it
_MAX_BESIDE_BYTES = 16 * MIB
_ID_CHARACTERS = 12
_MAX_TEXT = 1000
_STARTING_S = 10.0  # between making a directory and locking it
# What may lie where a store is made; lost+found is a mounted disk's own.
_MAY_BE_THERE = ("dumps", "incoming", POLICY, "lost+found")

STORED = "stored"
KNOWN = "known"  # the same bytes are there already
REFUSED = "refused"
WAITING = "waiting"

# <host>-2026-11-22-10:11:12 (Red Hat), <host>-202611221011 (Debian), <host>-2026-11-22-10-11 (SUSE)
_SENDER = re.compile(r"(?P<host>.+?)-(?:\d{4}-\d\d-\d\d|\d{8,14}$).*")
_NOBODY = ("", "(none)", "localhost", "localhost.localdomain", "127.0.0.1")
UNKNOWN_HOST = "unknown"


@dataclass(frozen=True, kw_only=True)
class IntakeOutcome:
    """The result of an arrival."""

    path: str
    outcome: str
    reason: str = ""
    dump: Dump | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record in the form of JSON."""
        return {**dataclasses.asdict(self), "dump": self.dump.to_json() if self.dump else None}


def default_store() -> Path:
    """Return KDUMP_HARNESS_STORE, or a directory below the state directory."""
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else default_directory() / "store"


class Store:
    """The dumps of one service user, in one directory."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        create: bool = False,
        debuginfo: Path | None = None,
        state: Path | None = None,
    ) -> None:
        """Raise HostError where the directory is another user's or unusable, UsageError where the store does not exist.

        debuginfo and state are for the triage of arrivals.
        """
        self._debuginfo, self._state = debuginfo, state
        self.directory = (directory or default_store()).absolute()
        index = self.directory / INDEX
        try:
            if self.directory.is_dir():  # asked first: no other user can read it
                self._require_owner()
            if not index.exists():
                if not create:
                    raise UsageError(self._missing())
                self._require_empty(index)
            if not on_read_only_disk(self.directory):
                self._make_directories()
        except OSError as error:
            raise HostError(f"the store {self.directory} cannot be used: {error.strerror} (--store DIR)") from None
        self.policy: Policy = load_policy(self.directory)
        self.index = Index(index)
        if not self.read_only:
            self._sweep()

    def _missing(self) -> str:
        if any(self.dumps.glob("*")):
            return f"the store {self.directory} has dumps, but no index (store reindex makes one from them)"
        return f"{self.directory} has no store (store add or store watch makes one)"

    def _make_directories(self) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._require_owner()
        for path in (self.directory, self.dumps, self.incoming):
            path.mkdir(mode=0o700, exist_ok=True)
            path.chmod(0o700)

    @property
    def read_only(self) -> bool:
        """Whether the disk is mounted read-only: then the dumps can be listed, bundled and pushed, not changed."""
        return self.index.database.read_only

    @property
    def dumps(self) -> Path:
        """One directory for each dump."""
        return self.directory / "dumps"

    @property
    def incoming(self) -> Path:
        """The directory of a dump until it is whole and known."""
        return self.directory / "incoming"

    def place_of(self, dump: Dump) -> Path:
        """Return the directory of a dump."""
        return self.dumps / dump.id

    def close(self) -> None:
        """Close the index."""
        self.index.database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _require_owner(self) -> None:
        owner = self.directory.stat().st_uid
        if owner != os.geteuid():
            raise HostError(f"the store {self.directory} belongs to user {owner}: run as that user")

    def _require_empty(self, index: Path) -> None:
        """Raise UsageError where a store would remove foreign files, or those of a store that lost its index."""
        strange = [path for path in self.directory.glob("*") if path.name not in _MAY_BE_THERE]
        strange += [*self.dumps.glob("*"), *self.incoming.glob("*")]
        if strange and not index.exists():  # another process may just have made it
            raise UsageError(
                f"{strange[0]} is there, but no {index.name}: a store begins in an empty directory"
                " (store reindex makes an index from the dumps of a store)"
            )

    def require_apart(self, top: Path) -> None:
        """Raise UsageError for a source of dumps that is the store, or a directory above the store."""
        own, other = self.directory.resolve(), top.resolve()
        if own.is_relative_to(other) or other.is_relative_to(own):
            raise UsageError(f"{shown(top)} and the store {self.directory} must not lie in one another")

    def _sweep(self) -> None:
        """Remove what dead processes left: copies that were never finished, dumps that were being removed."""
        for path in self.incoming.iterdir():
            with contextlib.suppress(OSError):
                if not is_held(path) and time.time() - path.stat().st_mtime > _STARTING_S:
                    remove_tree(path)
        with self.index.database.writing():  # no dump is taken in meanwhile
            # No other directory without a row: an index that is older than the dumps must not cost them.
            for name in {path.name for path in self.dumps.iterdir()} & set(self.index.removed()):
                remove_tree(self.dumps / name)
            self.index.forget_arrivals()

    # ---------------------------------------------------------------- taking in

    def admit(
        self,
        place: WatchedDirectory,
        name: str,
        *,
        sign: str | None = None,
        damaged_too: bool = False,
    ) -> IntakeOutcome:
        """Copy, check, triage and keep a file of an untrusted directory. Raise NoRoom where the disk is too full.

        sign is why its sender does not call it finished: a whole dump is taken in spite of it. damaged_too takes a
        damaged one, and one that cannot be judged. The file itself is not touched.
        """
        path = shown(place.path / name)
        if self.read_only:
            raise HostError(f"{path} could not be taken in: the disk of the store {self.directory} is read-only")
        try:
            descriptor = place.open(name)
        except (OSError, UsageError) as error:
            return IntakeOutcome(path=path, outcome=REFUSED, reason=getattr(error, "strerror", None) or str(error))
        try:
            with copying.enough_room(), self.scratch() as part:
                return self._admit(place, path, descriptor, part, sign, damaged_too=damaged_too)
        except StillGrowing as error:
            return IntakeOutcome(path=path, outcome=WAITING, reason=str(error))
        except Unreadable as error:
            unjudged = error.exit_code == EXIT_UNJUDGED
            reason = str(error) if unjudged else f"{DAMAGED}: {error.damage.kind}: {error}"
            return IntakeOutcome(path=path, outcome=UNJUDGED if unjudged else REFUSED, reason=reason)
        except (UsageError, VmcoreError) as error:
            return IntakeOutcome(path=path, outcome=REFUSED, reason=str(error).splitlines()[0])
        except OSError as error:
            raise HostError(f"{path} could not be taken in: {error.strerror}") from None
        finally:
            os.close(descriptor)

    def _admit(
        self,
        place: WatchedDirectory,
        path: str,
        descriptor: int,
        part: Path,
        sign: str | None,
        *,
        damaged_too: bool,
    ) -> IntakeOutcome:
        self._require_budget(os.fstat(descriptor).st_size)
        arrived = part / "arrived"
        copying.take_copy(
            descriptor, arrived, max_bytes=self.policy.max_dump_mib * MIB, free_bytes=self.policy.free_mib * MIB
        )
        arrived = self._unpack(arrived)
        seen = self._examine(arrived, part)
        if not seen.started:
            raise HostError(f"{path} could not be examined: {seen.trouble}")
        if not seen.whole and not (damaged_too and seen.inspection and (seen.inspection["format"] or seen.unjudged)):
            outcome = UNJUDGED if seen.unjudged else REFUSED
            reason = seen.reason if seen.unjudged else seen.why
            return IntakeOutcome(path=path, outcome=outcome, reason=reason + (f" ({sign})" if sign else ""))
        self._arrange(arrived, part / VMCORE, seen)
        _take_beside(place, Path(path).name, part / SENDERS, free_bytes=self.policy.free_mib * MIB)
        sha256 = copying.sha256_of(part / VMCORE)
        self._write_facts(part, seen)
        dump = self._described(part, seen, sha256=sha256, origin=path, sender=shown(place.path.name), sign=sign)
        with self.index.database.writing():
            known = self.index.by_content(sha256)
            if known and (self.place_of(known) / VMCORE).exists():
                return IntakeOutcome(path=path, outcome=KNOWN, reason=f"it is {known.id} already", dump=known)
            if not known and self.index.by_id(dump.id):
                raise UsageError(f"another dump is called {dump.id}, though its bytes are others")
            final = self.place_of(dump)
            _write_record(part, dump, seen.traits)
            remove_tree(final)  # of a process that died between the two steps
            part.rename(final)
            _sync(self.dumps)
            if known:
                return IntakeOutcome(
                    path=path, outcome=STORED, reason="its file was lost, and is there again", dump=known
                )
            self.index.put(dump, seen.traits)
        return IntakeOutcome(path=path, outcome=STORED, reason=dump.remark or "", dump=dump)

    def _unpack(self, arrived: Path) -> Path:
        """Return the dump itself, where the sender's kdump compressed it as a whole."""
        if readable_packing(arrived) is None:
            return arrived
        to = arrived.with_name("unpacked")
        descriptor = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        free_bytes = self.policy.free_mib * MIB
        try:
            unpack(arrived, descriptor, lambda need_bytes: copying.require_room(to.parent, need_bytes + free_bytes))
            os.fsync(descriptor)
            self._require_budget(os.fstat(descriptor).st_size)
        finally:
            os.close(descriptor)
        arrived.unlink()
        return to

    def _examine(self, dump: Path, directory: Path) -> Examination:
        return examine(dump, log_to=directory / LOG_NAME, debuginfo=self._debuginfo, state=self._state)

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a private directory for unfinished files; a lock next to it shows whether its process is alive."""
        if self.read_only:
            with tempfile.TemporaryDirectory(prefix="kdump-harness-") as directory:
                yield Path(directory)
            return
        own = self.incoming / secrets.token_hex(8)
        own.mkdir(mode=0o700)
        lock = os.open(own / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            part = own / "dump"
            part.mkdir(mode=0o700)
            yield part
        finally:
            remove_tree(own)
            os.close(lock)

    def _require_budget(self, size_bytes: int) -> None:
        budget_bytes = self.policy.budget_mib * MIB
        if budget_bytes and (total := self.index.total_bytes()) + size_bytes > budget_bytes:
            raise NoRoom(
                f"the budget of {self.policy.budget_mib:,} MiB has {max(0, budget_bytes - total) // MIB:,} MiB left,"
                f" the dump needs {-(-size_bytes // MIB):,} (kdump-harness store prune --dry-run --budget-mib N"
                " lists the dumps that would be removed)"
            )

    def _arrange(self, arrived: Path, to: Path, seen: Examination) -> None:
        """Give the dump its name, a flattened stream rearranged; a damaged one stays as it came."""
        assert seen.inspection is not None
        if not (seen.whole and str(seen.inspection["format"]).endswith("-flattened")):
            arrived.rename(to)
            return
        rearrange(arrived, to)
        arrived.unlink()

    def _described(
        self, part: Path, seen: Examination, *, sha256: str, origin: str, sender: str, sign: str | None
    ) -> Dump:
        """Return the row of a new dump."""
        facts = seen.inspection or {}
        crash = seen.triage or {}
        task = crash.get("task")
        remarks = [f"taken although {sign}" if sign else "", "" if seen.whole else seen.why]
        return Dump(
            id=sha256[:_ID_CHARACTERS],
            sha256=sha256,
            size_bytes=(part / VMCORE).stat().st_size,
            disk_bytes=copying.disk_bytes_of(part),
            added_s=time.time(),
            origin=origin,
            sender=sender,
            host=host_of(facts.get("nodename"), sender),
            state=seen.judgement if not seen.whole else TRIAGED if seen.triage else UNTRIAGED,
            kernel=_text(facts.get("kernel")),
            build_id=_text(facts.get("vmcoreinfo_build_id")),
            crash_s=facts.get("crash_time_s"),
            uptime_s=seen.uptime_s,
            panic=_text(crash.get("panic") or facts.get("panic")),
            task=_text(task["comm"]) if task else None,
            signature=seen.signature["key"] if seen.signature else None,
            signature_text=seen.signature["text"] if seen.signature else None,
            remark=_text("; ".join(filter(None, (*remarks, seen.trouble)))),
        )

    def _write_facts(self, directory: Path, seen: Examination) -> None:
        for name, facts in (("inspection.json", seen.inspection), ("triage.json", seen.triage)):
            path = directory / name
            path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        for path in directory.rglob("*"):
            path.chmod(0o700 if path.is_dir() else 0o600)

    # ---------------------------------------------------------------- afterwards

    def triage_again(self, dump: Dump) -> Dump:
        """Examine a dump again, for example when its debug info is there."""
        directory = self.place_of(dump)
        seen = self._examine(directory / VMCORE, directory)
        if seen.triage is None:
            raise HostError(f"{dump.id} could not be triaged: {seen.trouble or seen.why}")
        self._write_facts(directory, seen)
        fresh = self._described(directory, seen, sha256=dump.sha256, origin=dump.origin, sender=dump.sender, sign=None)
        with self.index.database.writing():
            now = self.index.find(dump.id)  # UsageError when it was removed meanwhile
            # Facts from people and from other machines stay.
            kept = {name: getattr(now, name) for name in ("id", "added_s", "hold", "central", "pushed_s")}
            fresh = dataclasses.replace(fresh, **kept)
            self.index.put(fresh, seen.traits)
            _write_record(directory, fresh, seen.traits)
        return fresh

    def describe_again(self, directory: Path, sha256: str, *, hold: str) -> tuple[Dump, Mapping[str, str]]:
        """Return row and traits of a dump of the store that has lost both; its directory is all that is known of it."""
        seen = self._examine(directory / VMCORE, directory)
        self._write_facts(directory, seen)
        dump = self._described(directory, seen, sha256=sha256, origin=str(directory), sender="", sign=None)
        added_s = (directory / VMCORE).stat().st_mtime
        dump = dataclasses.replace(dump, added_s=added_s, hold=hold)
        _write_record(directory, dump, seen.traits)
        return dump, seen.traits

    def hold(self, wanted: str, why: str | None) -> Dump:
        """Protect a dump from being removed; None ends it."""
        with self.index.database.writing():
            dump = self.index.find(wanted)
            return self.change(dump, hold=why)

    def change(self, dump: Dump, **facts: Any) -> Dump:
        """Change facts of a dump, within a transaction of the index, and its record for a lost index."""
        changed, traits = dataclasses.replace(dump, **facts), self.index.traits_of(dump.id)
        self.index.put(changed, traits)
        _write_record(self.place_of(dump), changed, traits)
        return changed

    def remove(self, dump: Dump, *, why: str, unless: Callable[[Dump], bool]) -> bool:
        """Remove a dump unless it is protected by now; return whether it was removed."""
        with self.index.database.writing():
            now = self.index.by_content(dump.sha256)
            if now is None or unless(now) or self.index.count_of(now.host) < 2:  # never the last one of a host
                return False
            self.index.remove(now, why=why, at_s=time.time())
        # The row goes first: if the process dies here, the directory is swept. The same dump may arrive again.
        with self.index.database.writing():
            if not self.index.by_id(dump.id):
                remove_tree(self.place_of(dump))
        return True

    def facts_of(self, dump: Dump, name: str) -> Any:
        """Return the inspection or triage as it was found, or None."""
        with contextlib.suppress(OSError, ValueError):
            return foreign.parse_json((self.place_of(dump) / f"{name}.json").read_text(encoding="utf-8"))
        return None


def _write_record(directory: Path, dump: Dump, traits: Mapping[str, str]) -> None:
    """Write the row of a dump next to it; on a full disk it has none, rather than one that has become wrong."""
    fresh = directory / f"{RECORD}.new"
    try:
        fresh.write_text(
            json.dumps({"dump": dump.to_json(), "traits": dict(traits)}, indent=1) + "\n", encoding="utf-8"
        )
        fresh.chmod(0o600)
        fresh.rename(directory / RECORD)
    except OSError:
        for path in (fresh, directory / RECORD):
            with contextlib.suppress(OSError):
                path.unlink()


def host_of(nodename: str | None, sender: str) -> str:
    """Return the crashed machine's name from its kernel, else from the sender's directory; it is only a text."""
    if nodename and nodename not in _NOBODY:
        return shown(nodename)[:64]
    if (match := _SENDER.fullmatch(sender)) and match["host"] not in _NOBODY:
        return match["host"][:64]
    return UNKNOWN_HOST


def _text(text: str | None) -> str | None:
    """Return a text of a dump as it can be printed, or None."""
    return shown(text)[:_MAX_TEXT] if text else None


def _take_beside(place: WatchedDirectory, dump: str, to: Path, *, free_bytes: int) -> None:
    """Copy the small files that came with a dump; one that cannot be had is left out."""
    for name in beside(place, dump):
        with contextlib.suppress(OSError, UsageError, NoRoom):
            descriptor = place.open(name)
            try:
                to.mkdir(mode=0o700, exist_ok=True)
                copying.take_copy(descriptor, to / name, max_bytes=_MAX_BESIDE_BYTES, free_bytes=free_bytes)
            finally:
                os.close(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def utc(seconds: float | None) -> str:
    """Return a point in time for people; empty for None."""
    if seconds is None:
        return ""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
