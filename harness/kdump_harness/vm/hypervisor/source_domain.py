"""The source domain of a clone, as libvirt has it."""

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
    """The progress of copying a domain's disks; error is the reason if it failed."""

    ended: bool
    done_bytes: int = 0
    total_bytes: int = 0
    error: str = ""


class SourceDomain:
    """A libvirt domain that is copied and never changed."""

    def __init__(self, connection: Any, name: str) -> None:
        self._connection, self.name = connection, name
        with guest_error(f"cannot find the domain {name}"):
            self._handle = connection.lookupByName(name)

    def xml(self) -> str:
        """Return the domain's XML; of a running domain, the XML that is in effect."""
        with guest_error(f"{self.name}: cannot read its XML"):
            return str(self._handle.XMLDesc())

    def life(self) -> int | None:
        """Return a number that changes with each start; None while the domain is shut off."""
        try:
            number = int(self._handle.ID())
            return number if self._handle.isActive() and number >= 0 else None
        except libvirt.libvirtError as error:
            if error.get_error_code() in GONE:
                return None
            raise GuestError(f"{self.name}: libvirt no longer answers ({first_line(error)})") from None

    def is_saved(self) -> bool:
        """Return whether the domain is shut off with its memory in a file, as by virsh managedsave."""
        with contextlib.suppress(libvirt.libvirtError):
            return bool(self._handle.hasManagedSaveImage())
        return False

    def volume(self, pool: str, volume: str) -> str | None:
        """Return the path of a volume in a storage pool; None if the pool does not have it."""
        with contextlib.suppress(libvirt.libvirtError):
            return str(self._connection.storagePoolLookupByName(pool).storageVolLookupByName(volume).path())
        return None

    def capacity_bytes(self, disk: str) -> int:
        """Return the size of a disk as the guest sees it; DISK is its target name in the XML."""
        with guest_error(f"{self.name}: cannot read the size of {disk}"):
            return int(self._handle.blockInfo(disk)[0])

    def freeze(self) -> None:
        """Freeze the filesystems through the guest agent; thaw() must follow."""
        with guest_error(f"{self.name}: the guest agent cannot freeze the filesystems"):
            self._handle.fsFreeze()

    def thaw(self) -> None:
        """Thaw the filesystems through the guest agent."""
        with guest_error(f"{self.name}: the guest agent cannot thaw the filesystems"):
            self._handle.fsThaw()

    def begin_copy(self, xml: str) -> None:
        """Start QEMU's copying of a point-in-time image of the disks into existing files."""
        try:
            self._handle.backupBegin(xml, None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL)
        except libvirt.libvirtError as error:
            raise HostError(
                f"{self.name}: libvirt cannot copy the disks of the running domain: {first_line(error)}"
            ) from None

    def copy_job(self) -> CopyJob:
        """Return the progress of the copying."""
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
        return CopyJob(ended=True, error=str(last.get("errmsg") or "the copying was aborted"))

    def end_copy(self, file: Path) -> None:
        """Abort the copying into this file, if it is in progress; other jobs are not touched."""
        with contextlib.suppress(libvirt.libvirtError):
            backup = ElementTree.fromstring(self._handle.backupGetXMLDesc())
            if str(file) in {target.get("file") for target in backup.iterfind(".//target")}:
                self._handle.abortJob()
