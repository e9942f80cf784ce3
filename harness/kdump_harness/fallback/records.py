"""The records that a drill asked for, kept in its evidence and read for the panic."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..base.errors import GuestError, HostError
from ..base.evidence import Evidence
from ..triage import triage
from ..triage.log import read_log
from ..vm.guest import Guest
from ..vm.run import Run
from ..vmcore import VmcoreError
from .erst import read_store
from .kinds import DUMP_NAME, EFI_PSTORE, HYPERVISOR, PSTORE
from .pstore import PstoreRecord, is_part, join_records
from .uefi import read_variables

# Files of pstore in a guest. systemd-pstore moves them, and joins the parts of a panic to dmesg.txt.
_LIST = "find /sys/fs/pstore /var/lib/systemd/pstore -type f -name 'dmesg*' -printf '%T@ %p\\n' 2>/dev/null || true"
_READ = "head -c 1048576 -- %s"
_FILES_MAX = 100


@dataclass
class Fallback:
    """The records of one drill."""

    kinds: tuple[str, ...] = ()
    store: Path | None = None  # file with the records of the guest's backend
    memory: Path | None = None  # the hypervisor's dump, in the directory of the run
    before: frozenset[str] = frozenset()  # texts of the records that were there before the crash
    files_before: frozenset[str] = frozenset()  # files of pstore in the guest
    trouble: dict[str, str] = field(default_factory=dict)  # reason why a record is missing, by kind

    def look_before(self, guest: Guest) -> None:
        """Note the records that the crash did not write."""
        if self._backend is None:
            return
        if self._backend == EFI_PSTORE:
            guest.shell.run("modprobe efi_pstore", check=False)
            self.store = guest.domain.nvram()
        self.files_before = frozenset(_list(guest))
        self.before = frozenset(record.text for record in self._stored())

    @property
    def _backend(self) -> str | None:
        return next((kind for kind in (PSTORE, EFI_PSTORE) if kind in self.kinds), None)

    def _stored(self) -> list[PstoreRecord]:
        """Return the records in the file of the backend."""
        if self.store is None:
            return []
        try:
            data = self.store.read_bytes()
        except OSError as error:
            self.trouble[self._backend or PSTORE] = f"{self.store.name} cannot be read: {error.strerror}"
            return []
        return read_variables(data) if self._backend == EFI_PSTORE else read_store(data)

    def take_memory(self, run: Run, guest: Guest) -> None:
        """Let the hypervisor dump the memory, once; a guest that is gone has none."""
        if HYPERVISOR not in self.kinds or self.memory is not None or HYPERVISOR in self.trouble:
            return
        try:
            with run.progress.step("dumping the guest's memory by the hypervisor"):
                self.memory = run.memory_of(guest, compressed=True)
        except GuestError as error:
            self.trouble[HYPERVISOR] = str(error)

    def drop_memory(self, run: Run) -> None:
        """Remove the hypervisor's dump."""
        if self.memory is not None:
            run.host.remove(self.memory)
            self.memory = None

    def collect(self, run: Run, guest: Guest | None, evidence: Evidence, nonce: str) -> list[dict[str, Any]]:
        """Move the records into the evidence and return them; GUEST is one that came back."""
        found: list[dict[str, Any]] = []
        if self._backend is not None:
            found += self._panic_records(guest, evidence, nonce)
        if HYPERVISOR in self.kinds and self.memory is not None:
            found.append(self._hypervisor_dump(run, evidence))
        for kind in self.kinds:
            if not any(one["source"] == kind for one in found):
                found.append({"source": kind, "path": None, "why": self.trouble.get(kind, "nothing was written")})
        return found

    def _panic_records(self, guest: Guest | None, evidence: Evidence, nonce: str) -> list[dict[str, Any]]:
        """Return the kernel logs in pstore: in the file of its backend, else in the guest."""
        logs = join_records(record for record in self._stored() if record.text not in self.before)
        if not logs and guest is not None:
            logs = _logs_in(guest, self.files_before)
        found = []
        for number, text in enumerate(logs, start=1):
            name = f"pstore-{number}.txt"
            evidence.text(name, text)
            facts = read_log(text)
            task = vars(facts.task) if facts.task is not None else None
            found.append({
                "source": self._backend, "path": name, "this_crash": nonce in text, "panic": facts.panic,
                "reason": facts.reason, "task": task, "stack": list(facts.stack), "by": "kernel log",
            })  # fmt: skip
        return found

    def _hypervisor_dump(self, run: Run, evidence: Evidence) -> dict[str, Any]:
        """Return the hypervisor's dump, with the crash that it shows."""
        assert self.memory is not None
        path = evidence.directory / DUMP_NAME
        shutil.move(run.host.take(self.memory), path)
        self.memory = None
        facts: dict[str, Any] = {"size_bytes": path.stat().st_size}
        try:
            with run.progress.step("reading the crash in the hypervisor's dump"):
                crash = triage(path, package=False, progress=run.progress)
            facts |= {"panic": crash.panic, "reason": crash.reason, "stack": list(crash.stack), "by": crash.source}
            facts["task"] = vars(crash.task) if crash.task is not None else None
        except (VmcoreError, HostError) as error:
            facts |= {"panic": None, "why": str(error)}
        return {"source": HYPERVISOR, "path": path.name, **facts}


def _list(guest: Guest) -> list[str]:
    """Return the files of pstore in a guest, those of an older record first."""
    try:
        lines = guest.shell.run(_LIST).out.splitlines()
    except GuestError:
        return []
    dated = [(float(stamp), path) for stamp, _, path in (line.partition(" ") for line in lines) if path]
    return [path for _, path in sorted(dated)][:_FILES_MAX]


def _logs_in(guest: Guest, files_before: frozenset[str]) -> list[str]:
    """Return the kernel logs of pstore in a guest that came back."""
    try:
        texts = [guest.shell.run(_READ, path).out for path in _list(guest) if path not in files_before]
    except GuestError:
        return []
    whole = [text for text in texts if not is_part(text)]
    return whole or join_records(PstoreRecord(number=number, text=text) for number, text in enumerate(texts))
