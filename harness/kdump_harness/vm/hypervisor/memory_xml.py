"""Memory and processors of a domain in libvirt's XML: those at the power-on, and the room for more."""

from __future__ import annotations

from dataclasses import dataclass

# A DIMM is made of the memory blocks of Linux, which are 128 MiB on small x86 machines.
DIMM_BLOCK_MIB = 128
MAX_DIMMS = 16
_VIRTIO_BLOCK_MIB = 2


@dataclass(frozen=True, kw_only=True)
class Spare:
    """The room of a machine for memory and processors that are added while it runs."""

    dimms_mib: tuple[int, ...] = ()
    virtio_mem_mib: int = 0  # size of a virtio-mem device, which gives nothing at the power-on
    cpus: int = 0
    fewer_cpus: bool = False  # whether processors of the power-on can be removed

    @property
    def memory_mib(self) -> int:
        """All memory that can be added."""
        return sum(self.dimms_mib) + self.virtio_mem_mib


def memory_xml(memory_mib: int, dimms_mib: tuple[int, ...], spare: Spare = Spare()) -> str:
    """Return the elements for the whole memory; a domain has a slot for each of its memory devices."""
    total_mib = memory_mib + sum(dimms_mib)
    count = len(dimms_mib) + len(spare.dimms_mib) + bool(spare.virtio_mem_mib)
    most_mib = total_mib + spare.memory_mib
    slots = f'<maxMemory unit="MiB" slots="{count}">{most_mib}</maxMemory>' if count else ""
    return f'{slots}<memory unit="MiB">{total_mib + spare.virtio_mem_mib}</memory>'


def vcpu_xml(vcpus: int, spare: Spare = Spare()) -> str:
    """Return the element for the processors."""
    if not spare.cpus and not spare.fewer_cpus:
        return f"<vcpu>{vcpus}</vcpu>"
    most = vcpus + spare.cpus
    each = ""
    for number in range(most):
        leaves = "yes" if number >= vcpus or (spare.fewer_cpus and number) else "no"
        place = f'enabled="yes" order="{number + 1}"' if number < vcpus else 'enabled="no"'
        each += f'<vcpu id="{number}" hotpluggable="{leaves}" {place}/>'
    return f'<vcpu current="{vcpus}">{most}</vcpu><vcpus>{each}</vcpus>'


def numa_xml(memory_mib: int, vcpus: int, nodes: int = 1, spare_cpus: int = 0) -> str:
    """Return NUMA nodes that share the processors and the memory at the power-on; libvirt wants one for DIMMs.

    The last node has the processors that are added later.
    """
    cells = []
    for node in range(nodes):
        first, last = vcpus * node // nodes, vcpus * (node + 1) // nodes - 1
        last += spare_cpus if node == nodes - 1 else 0
        size_mib = memory_mib * (node + 1) // nodes - memory_mib * node // nodes
        cells.append(f'<cell id="{node}" cpus="{first}-{last}" memory="{size_mib}" unit="MiB"/>')
    return f"<numa>{''.join(cells)}</numa>"


def dimm_xml(size_mib: int) -> str:
    """Return a DIMM of the first NUMA node."""
    return f'<memory model="dimm"><target><size unit="MiB">{size_mib}</size><node>0</node></target></memory>'


def virtio_mem_xml(size_mib: int, requested_mib: int) -> str:
    """Return a virtio-mem device of the first NUMA node, which gives the requested part of its memory."""
    return (
        f'<memory model="virtio-mem"><target><size unit="MiB">{size_mib}</size><node>0</node>'
        f'<block unit="MiB">{_VIRTIO_BLOCK_MIB}</block><requested unit="MiB">{requested_mib}</requested>'
        "</target></memory>"
    )
