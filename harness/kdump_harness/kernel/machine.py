"""The domain of a kernel drill: a direct boot, two serial lines and a disk for the vmcore."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from ..vm.hypervisor.domain_xml import DEVICES, TCG_CACHE, cpu_xml


@dataclass(frozen=True, kw_only=True)
class DirectBoot:
    """The files and the command line of a direct boot."""

    kernel: Path
    initrd: Path
    command_line: str
    dump_disk: Path  # raw


def domain_xml(
    name: str,
    boot: DirectBoot,
    *,
    accelerator: str,
    memory_mib: int,
    vcpus: int,
    cpu_level: int | None,
    devices: Iterable[str] = (),
) -> str:
    """Return the domain as XML; DEVICES are names in domain_xml.DEVICES."""
    kvm = accelerator == "kvm"
    return f"""<domain type="{"kvm" if kvm else "qemu"}">
  <name>{escape(name)}</name>
  <memory unit="MiB">{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os><type arch="x86_64" machine="q35">hvm</type>
    <kernel>{escape(str(boot.kernel))}</kernel>
    <initrd>{escape(str(boot.initrd))}</initrd>
    <cmdline>{escape(boot.command_line)}</cmdline>
  </os>
  <features><acpi/><apic/><vmcoreinfo state="on"/>{"" if kvm else TCG_CACHE}</features>
  {cpu_xml(kvm, cpu_level)}
  <clock offset="utc"/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>preserve</on_crash>
  <devices>
    <disk type="file" device="disk"><driver name="qemu" type="raw" cache="unsafe" discard="unmap"/>
      <source file={quoteattr(str(boot.dump_disk))}/><target dev="vda" bus="virtio"/></disk>
    <controller type="usb" model="none"/>
    <serial type="pty"><target port="0"/></serial>
    <serial type="pty"><target port="1"/></serial>
    <console type="pty"><target type="serial" port="0"/></console>
    <memballoon model="none"/>
    {"".join(DEVICES[device] for device in devices)}
  </devices>
</domain>
"""
