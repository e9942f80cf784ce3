"""The domain of a kernel drill: a direct boot, two serial lines and a disk for the vmcore."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from ..base.errors import UsageError
from ..distro.architecture import Architecture, find_architecture
from ..vm.hypervisor.domain_xml import DEVICES, TCG_CACHE, cpu_xml
from ..vm.hypervisor.memory_xml import dimm_xml
from .layouts import Layout

WALL, INSTRUCTIONS = "wall", "instructions"  # clocks
# One instruction is 4 ns of the guest's time, and idle time passes at once.
_ICOUNT_SHIFT = 2
INSTRUCTIONS_PER_S = 1_000_000_000 >> _ICOUNT_SHIFT
_BLOCK_MIB = 2  # of virtio-mem


@dataclass(frozen=True, kw_only=True)
class DirectBoot:
    """The files and the command line of a direct boot."""

    kernel: Path
    initrd: Path
    command_line: str
    dump_disk: Path  # raw


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

    def check(self) -> None:
        """Raise UsageError for hardware that does not exist."""
        if self.architecture.name != "amd64":
            if self.accelerator == "kvm":
                raise UsageError(f"a kernel for {self.architecture.name} needs --accelerator tcg")
            if self.cpu_level is not None:
                raise UsageError("--cpu is a level of x86-64 processors")
            if pc_only := [layout.name for layout in self.layouts if layout.cpu or layout.device or layout.dimm_mib]:
                raise UsageError(f"the layout {pc_only[0]} needs a machine for amd64")
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

    def _most(self, key: str) -> int:
        return max((getattr(layout, key) for layout in self.layouts), default=0)

    def xml(self, name: str, boot: DirectBoot) -> str:
        """Return the domain as XML."""
        kvm, architecture = self.accelerator == "kvm", self.architecture
        vmcoreinfo = '<vmcoreinfo state="on"/>' if architecture.vmcoreinfo else ""
        plug_mib, keep_mib = self._most("plug_mib"), self._most("keep_mib")
        dimms_mib = tuple(layout.dimm_mib for layout in self.layouts if layout.dimm_mib)
        nodes = max(self._most("nodes"), 1 if plug_mib or dimms_mib else 0)
        total_mib = self.memory_mib + plug_mib + sum(dimms_mib)
        count = len(dimms_mib) + bool(plug_mib)
        slots = f'<maxMemory unit="MiB" slots="{count}">{total_mib}</maxMemory>' if count else ""
        now = f'<currentMemory unit="MiB">{keep_mib}</currentMemory>' if keep_mib else ""
        cpu = next((layout.cpu for layout in self.layouts if layout.cpu), "") or self._cpu_xml()
        numa = self._numa(nodes)
        if numa:
            cpu = (cpu or "<cpu/>").replace("</cpu>", f"{numa}</cpu>")
            cpu = cpu.replace("/>", f">{numa}</cpu>") if cpu.endswith("/>") else cpu
        plug = (
            f'<memory model="virtio-mem"><target><size unit="MiB">{plug_mib}</size><node>0</node>'
            f'<block unit="MiB">{_BLOCK_MIB}</block><requested unit="MiB">{plug_mib}</requested></target></memory>'
            if plug_mib
            else ""
        )
        icount = (
            f'<commandline xmlns="http://libvirt.org/schemas/domain/qemu/1.0"><arg value="-icount"/>'
            f'<arg value="shift={_ICOUNT_SHIFT},sleep=off"/></commandline>'
            if self.clock == INSTRUCTIONS
            else ""
        )
        return f"""<domain type="{"kvm" if kvm else "qemu"}">
  <name>{escape(name)}</name>
  {slots}<memory unit="MiB">{total_mib}</memory>{now}
  <vcpu>{self.vcpus}</vcpu>
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
      <source file={quoteattr(str(boot.dump_disk))}/><target dev="vda" bus="virtio"/></disk>
    <controller type="usb" model="none"/>
    <serial type="pty"><target port="0"/></serial>
    {architecture.control_xml}
    <console type="pty"><target type="serial" port="0"/></console>
    <memballoon model="{"virtio" if keep_mib else "none"}"/>
    {plug}{"".join(map(dimm_xml, dimms_mib))}{"".join(layout.device for layout in self.layouts)}
    {"".join(DEVICES[device] for device in self.devices)}
  </devices>
  {icount}
</domain>
"""

    def _cpu_xml(self) -> str:
        if self.architecture.name == "amd64":
            return cpu_xml(self.accelerator == "kvm", self.cpu_level)
        if model := self.architecture.cpu_model:
            return f'<cpu mode="custom" match="exact" check="none"><model fallback="forbid">{model}</model></cpu>'
        return ""

    def _numa(self, nodes: int) -> str:
        """Return the NUMA nodes, which share memory and processors."""
        if not nodes:
            return ""
        cells = []
        for node in range(nodes):
            first, last = self.vcpus * node // nodes, self.vcpus * (node + 1) // nodes - 1
            memory_mib = self.memory_mib * (node + 1) // nodes - self.memory_mib * node // nodes
            cells.append(f'<cell id="{node}" cpus="{first}-{last}" memory="{memory_mib}" unit="MiB"/>')
        return f"<numa>{''.join(cells)}</numa>"
