"""The domain of a kernel drill: a direct boot, two serial lines and a disk for the vmcore."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from ..base.errors import UsageError
from ..distro.architecture import Architecture, find_architecture
from ..fallback.kinds import HYPERVISOR, PSTORE
from ..vm.hypervisor.domain_xml import DEVICES, TCG_CACHE, processor_xml
from ..vm.hypervisor.erst_xml import commandline_xml, erst_arguments
from ..vm.hypervisor.memory_xml import Spare, dimm_xml, numa_xml, vcpu_xml, virtio_mem_xml
from .layouts import Layout

WALL, INSTRUCTIONS = "wall", "instructions"  # clocks
# One instruction is 4 ns of the guest's time, and idle time passes at once.
_ICOUNT_SHIFT = 2
INSTRUCTIONS_PER_S = 1_000_000_000 >> _ICOUNT_SHIFT


@dataclass(frozen=True, kw_only=True)
class DirectBoot:
    """The files and the command line of a direct boot."""

    kernel: Path
    initrd: Path
    command_line: str
    dump_disk: Path  # raw
    erst: Path | None = None  # file with the records of an ACPI ERST device


@dataclass(frozen=True, kw_only=True)
class BareMachine:
    """The virtual hardware of a kernel drill."""

    accelerator: str
    memory_mib: int
    vcpus: int
    cpu_level: int | None
    devices: Iterable[str] = ()  # names in domain_xml.DEVICES
    layouts: tuple[Layout, ...] = ()
    clock: str = WALL
    architecture: Architecture = field(default_factory=lambda: find_architecture("amd64"))
    spare: Spare = field(default_factory=Spare)
    fallback: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise UsageError for hardware that does not exist."""
        if self.architecture.name != "amd64":
            if self.accelerator == "kvm":
                raise UsageError(f"a kernel for {self.architecture.name} needs --accelerator tcg")
            if self.cpu_level is not None:
                raise UsageError("--cpu is a level of x86-64 processors")
            if pc_only := [layout.name for layout in self.layouts if layout.la57 or layout.device or layout.dimm_mib]:
                raise UsageError(f"the layout {pc_only[0]} needs a machine for amd64")
            if self.spare != Spare():
                raise UsageError("--hotplug needs a machine for amd64")
            self._check_fallback()
        if self.clock == INSTRUCTIONS and self.vcpus != 1:
            raise UsageError(f"--clock instructions counts those of one processor: got {self.vcpus} (--vcpus 1)")
        if self.accelerator == "kvm":
            if self.clock == INSTRUCTIONS:
                raise UsageError("--clock instructions counts those of an emulated processor (--accelerator tcg)")
            for layout in self.layouts:
                if layout.emulated_only:
                    raise UsageError(f"the layout {layout.name} needs --accelerator tcg")
        if (nodes := self._most("nodes")) > self.vcpus:
            raise UsageError(f"{nodes} NUMA nodes need as many processors: got {self.vcpus}")
        if (keep := self._most("keep_mib")) >= self.memory_mib:
            raise UsageError(f"a balloon that leaves {keep} MiB needs a guest with more: got {self.memory_mib} MiB")

    def _check_fallback(self) -> None:
        """Raise UsageError for a record that the machine type cannot keep."""
        machine = self.architecture.machine_type
        if PSTORE in self.fallback:
            raise UsageError(f"--fallback {PSTORE}: the machine type {machine} has no ACPI ERST device")
        if HYPERVISOR in self.fallback and not self.architecture.vmcoreinfo:
            raise UsageError(f"--fallback {HYPERVISOR}: the machine type {machine} has no vmcoreinfo device")

    def _most(self, key: str) -> int:
        return max((getattr(layout, key) for layout in self.layouts), default=0)

    def xml(self, name: str, boot: DirectBoot) -> str:
        """Return the domain as XML."""
        kvm, architecture = self.accelerator == "kvm", self.architecture
        vmcoreinfo = '<vmcoreinfo state="on"/>' if architecture.vmcoreinfo else ""
        plug_mib, keep_mib = self._most("plug_mib"), self._most("keep_mib")
        dimms_mib = tuple(layout.dimm_mib for layout in self.layouts if layout.dimm_mib)
        spare = self.spare
        total_mib = self.memory_mib + plug_mib + sum(dimms_mib) + spare.virtio_mem_mib
        count = len(dimms_mib) + len(spare.dimms_mib) + bool(plug_mib) + bool(spare.virtio_mem_mib)
        nodes = max(self._most("nodes"), 1 if count else 0)
        most_mib = total_mib + sum(spare.dimms_mib)
        slots = f'<maxMemory unit="MiB" slots="{count}">{most_mib}</maxMemory>' if count else ""
        now = f'<currentMemory unit="MiB">{keep_mib}</currentMemory>' if keep_mib else ""
        numa = numa_xml(self.memory_mib, self.vcpus, nodes, spare.cpus) if nodes else ""
        la57 = any(layout.la57 for layout in self.layouts)
        cpu = processor_xml(architecture, kvm, self.cpu_level, numa, la57=la57)
        plug = virtio_mem_xml(plug_mib, plug_mib) if plug_mib else ""
        plug += virtio_mem_xml(spare.virtio_mem_mib, 0) if spare.virtio_mem_mib else ""
        icount = ("-icount", f"shift={_ICOUNT_SHIFT},sleep=off") if self.clock == INSTRUCTIONS else ()
        erst = erst_arguments(boot.erst) if boot.erst is not None else ()
        return f"""<domain type="{"kvm" if kvm else "qemu"}">
  <name>{escape(name)}</name>
  {slots}<memory unit="MiB">{total_mib}</memory>{now}
  {vcpu_xml(self.vcpus, spare)}
  <os><type arch="{architecture.machine}" machine="{architecture.machine_type}">hvm</type>
    <kernel>{escape(str(boot.kernel))}</kernel>
    <initrd>{escape(str(boot.initrd))}</initrd>
    <cmdline>{escape(boot.command_line)}</cmdline>
  </os>
  <features>{architecture.features}{vmcoreinfo}{"" if kvm else TCG_CACHE}</features>
  {cpu}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <disk type="file" device="disk"><driver name="qemu" type="raw" cache="unsafe" discard="unmap"/>
      <source file={quoteattr(str(boot.dump_disk))}/><target dev="vda" bus="virtio"/>
      {architecture.disk_address}</disk>
    <controller type="usb" model="none"/>
    <serial type="pty"><target port="0"/></serial>
    {architecture.control_xml}
    <console type="pty"><target type="serial" port="0"/></console>
    <memballoon model="{"virtio" if keep_mib else "none"}"/>
    {plug}{"".join(map(dimm_xml, dimms_mib))}{"".join(layout.device for layout in self.layouts)}
    {"".join(DEVICES[device] for device in self.devices)}
  </devices>
  {commandline_xml((*icount, *erst))}
</domain>
"""
