"""The memory of a domain in libvirt's XML: its memory at the power-on, and its DIMMs."""

from __future__ import annotations

# A DIMM is made of the memory blocks of Linux, which are 128 MiB on small x86 machines.
DIMM_BLOCK_MIB = 128
MAX_DIMMS = 16


def memory_xml(memory_mib: int, dimms_mib: tuple[int, ...]) -> str:
    """Return the elements for the whole memory; a domain with DIMMs has a slot for each of them."""
    total_mib = memory_mib + sum(dimms_mib)
    slots = f'<maxMemory unit="MiB" slots="{len(dimms_mib)}">{total_mib}</maxMemory>' if dimms_mib else ""
    return f'{slots}<memory unit="MiB">{total_mib}</memory>'


def numa_xml(memory_mib: int, vcpus: int) -> str:
    """Return the one NUMA node that libvirt wants for DIMMs, with all processors and the memory at the power-on."""
    return f'<numa><cell id="0" cpus="0-{vcpus - 1}" memory="{memory_mib}" unit="MiB"/></numa>'


def dimm_xml(size_mib: int) -> str:
    """Return a DIMM of the first NUMA node."""
    return f'<memory model="dimm"><target><size unit="MiB">{size_mib}</size><node>0</node></target></memory>'
