"""A domain of the user's that a clone is made from."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from ...base.errors import GuestError, HostError
from .libvirt_call import GONE, first_line, guest_error


@dataclass(frozen=True, kw_only=True)
class CopyJob:
    """How far libvirt is with copying a domain's disks; error says why it ended before its end."""

    ended: bool
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""


class SourceDomain:
    """A domain of the user's: it is looked at and copied from, and never changed."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self.name = connection, name
        with guest_error(f"{name} is gone"):
            self._handle = connection.lookupByName(name)

    def xml(self) -> str:
        """What it is now; while it runs, not what it would be after the next start."""
        with guest_error(f"{self.name} cannot be described"):
            return str(self._handle.XMLDesc())

    def life(self) -> int | None:
        """A number that is another after each start; None while it is shut off."""
        try:
            number = int(self._handle.ID())
            return number if self._handle.isActive() and number >= 0 else None
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return None
            raise GuestError(f"{self.name}: libvirt no longer answers ({first_line(error)})") from None

    def is_saved(self) -> bool:
        """Whether it is shut off with its memory in a file, as virsh managedsave leaves it."""
        with contextlib.suppress(libvirt.libvirtError):
            return bool(self._handle.hasManagedSaveImage())
        return False

    def volume(self, pool: str, volume: str) -> str | None:
        """Where a volume of a storage pool lies; None when the pool does not tell."""
        with contextlib.suppress(libvirt.libvirtError):
            return str(self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
        return None

    def capacity_bytes(self, disk: str) -> int:
        """The size of a disk as the guest sees it, by the disk's name in the description."""
        with guest_error(f"{self.name}: the size of {disk} is not known"):
            return int(self._handle.blockInfo(disk)[0])

    def freeze(self) -> None:
        """Have the guest agent write everything out and hold all writes; thaw() must follow."""
        with guest_error(f"{self.name}: its guest agent does not freeze the filesystems"):
            self._handle.fsFreeze()

    def thaw(self) -> None:
        """Let writes go on."""
        with guest_error(f"{self.name}: its guest agent does not thaw the filesystems"):
            self._handle.fsThaw()

    def begin_copy(self, xml: str) -> None:
        """Have QEMU copy disks, as they are at this moment, into files that are there already."""
        try:
            self._handle.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
        except libvirt.libvirtError as error:
            raise HostError(f"{self.name} runs, and libvirt cannot copy its disks: {first_line(error)}") from None

    def copy_job(self) -> CopyJob:
        """How far the copying is."""
        try:
            now = self._handle.jobStats()
            if now.get("type", libvirt.VIR_DOMAIN_JOB_NONE) != libvirt.VIR_DOMAIN_JOB_NONE:
                done, total = now.get("disk_processed", 0), now.get("disk_total", 0)
                return CopyJob(ended=False, done_bytes=done, total_bytes=total)
            flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
            last = self._handle.jobStats(flags)
        except libvirt.libvirtError as error:
            return CopyJob(ended=True, error=first_line(error))
        if last.get("type") == libvirt.VIR_DOMAIN_JOB_COMPLETED and last.get("success", True):
            return CopyJob(ended=True)
        return CopyJob(ended=True, error=str(last.get("errmsg") or "the copying was ended"))

    def end_copy(self, file: Path) -> None:
        """End the copying into this file before its end, if it goes on; no other job is touched."""
        with contextlib.suppress(libvirt.libvirtError):
            told = ElementTree.fromstring(self._handle.backupGetXMLDesc())
            if str(file) in {target.get("file") for target in told.iterfind(".//target")}:
                self._handle.abortJob()
