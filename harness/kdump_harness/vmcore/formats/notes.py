"""The ELF notes of a dump: one NT_PRSTATUS per CPU, VMCOREINFO, eraseinfo."""

from __future__ import annotations

from dataclasses import dataclass

from .machines import ByteOrder, in_both_orders

NT_PRSTATUS = 1
_NT_PRFPREG = 2
MAX_BYTES = 64 << 20  # 8,192 CPUs have 3 MiB
_MAX_NOTES = 1 << 16
_NOTE = in_both_orders("III")
_PRSTATUS_MAX_BYTES = 1024  # 336 on x86_64, 392 on aarch64, 504 on ppc64le


@dataclass(frozen=True)
class Notes:
    """The content of the notes, and the first offset at which they make no sense."""

    cpus: int
    vmcoreinfo: bytes | None
    vmcoreinfo_at: int | None
    broken_at: int | None
    by_hypervisor: bool = False  # QEMU adds more registers, which kernels of most machines do not
    prstatus: tuple[bytes, ...] = ()  # one per CPU, as the kernel wrote them


def parse(data: bytes, order: ByteOrder = "little", *, kernel_fpregs: bool = False) -> Notes:
    """Walk the notes; zeros to the end are padding. KERNEL_FPREGS: the kernel itself writes NT_PRFPREG."""
    header = _NOTE[order]
    prstatus: list[bytes] = []
    vmcoreinfo: bytes | None = None
    vmcoreinfo_at: int | None = None
    by_hypervisor = False
    at = count = 0
    while at + header.size <= len(data) and count < _MAX_NOTES:
        count += 1
        name_bytes, text_bytes, kind = header.unpack_from(data, at)
        name_at = at + header.size
        text_at = name_at + _round_up(name_bytes)
        end = text_at + text_bytes
        if end > len(data) or (name_bytes == 0 and text_bytes == 0):
            break
        name = data[name_at : name_at + name_bytes].rstrip(b"\0")
        if name == b"CORE" and kind == NT_PRSTATUS:
            prstatus.append(data[text_at : min(end, text_at + _PRSTATUS_MAX_BYTES)])
        elif name == b"VMCOREINFO" and vmcoreinfo is None:
            vmcoreinfo = data[text_at:end]
            vmcoreinfo_at = text_at
        elif name == b"QEMU" or (name == b"CORE" and kind == _NT_PRFPREG and not kernel_fpregs):
            by_hypervisor = True
        at = _round_up(end)
    broken_at = at if data[at:].strip(b"\0") else None
    return Notes(len(prstatus), vmcoreinfo, vmcoreinfo_at, broken_at, by_hypervisor, tuple(prstatus))


def _round_up(size: int) -> int:
    return (size + 3) & ~3
