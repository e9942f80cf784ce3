"""Memory and processors that are added and removed after the capture kernel was loaded."""

from __future__ import annotations

from collections.abc import Callable
from xml.etree import ElementTree

from ..base.clock import poll
from ..base.errors import GuestError, UsageError, WaitedInVain
from ..vm.guest import Guest
from ..vm.hypervisor.memory_xml import dimm_xml
from .hotplug_steps import CPU, VIRTIO_MEM, HotplugStep

# Unscaled, as for a guest under KVM on an idle machine.
PLUG_TIMEOUT_S = 20.0
LOOK_EVERY_S = 0.5
_BLOCKS = "/sys/devices/system/memory"
# Memory of the movable zone can be removed again.
_ONLINE_MEMORY = (
    f"for state in {_BLOCKS}/memory*/state; do"
    " [ $(cat $state) != offline ] || echo online_movable >$state || echo online >$state; done"
)
_ONLINE_BY_ITSELF = f"grep -q online {_BLOCKS}/auto_online_blocks || echo online >{_BLOCKS}/auto_online_blocks"
_ONLINE_MOVABLE = f"echo online_movable >{_BLOCKS}/auto_online_blocks"
_MEMORY = f"echo $(grep -lx online {_BLOCKS}/memory*/state | wc -l) $(cat {_BLOCKS}/block_size_bytes)"
_CPUS = "ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l; grep -c ^processor /proc/cpuinfo"
_POSSIBLE = "cat /sys/devices/system/cpu/possible"
_ONLINE_CPUS = "for online in /sys/devices/system/cpu/cpu*/online; do [ $(cat $online) = 1 ] || echo 1 >$online; done"
# udev's rules of kdump load the capture kernel anew, while the event is handled.
_SETTLE = "! command -v udevadm >/dev/null || udevadm settle --timeout %s"
_SETTLE_S = 120.0
_BY_KERNEL = "cat /sys/devices/system/%s/crash_hotplug 2>/dev/null || echo 0"


def plug(guest: Guest, steps: tuple[HotplugStep, ...], say: Callable[[str], None]) -> None:
    """Take the steps, each until the guest uses, or has given back, the memory or the processor."""
    _check_guest(guest, steps)
    removes = any(not step.add and step.thing != CPU for step in steps)
    guest.shell.run(_ONLINE_MOVABLE if removes else _ONLINE_BY_ITSELF, check=False)
    for step in steps:
        say(str(step))
        try:
            if step.thing == CPU:
                _change_cpu(guest, step)
            else:
                _change_memory(guest, step)
        except WaitedInVain as error:
            raise GuestError(f"{guest.name}: {step} failed: {error.args[0]}", see=guest.evidence.console_path) from None
    settle_s = _SETTLE_S * guest.factor
    guest.shell.run(_SETTLE % round(settle_s), timeout_s=settle_s + 30 * guest.factor, check=False)


def _check_guest(guest: Guest, steps: tuple[HotplugStep, ...]) -> None:
    """Raise UsageError for a kernel that cannot take a step."""
    cpus = most = _numbers(guest, _CPUS)[0]
    for step in steps:
        if step.thing == CPU:
            cpus += 1 if step.add else -1
            most = max(most, cpus)
        elif not guest.shell.succeeds(f"test -e {_BLOCKS}/block_size_bytes"):
            raise UsageError(f"--hotplug: {step.word} needs a kernel with memory hotplug, which this one lacks")
    possible = guest.shell.run(_POSSIBLE).out.strip()
    room = int(possible.rpartition("-")[2] or 0) + 1
    if most > room:
        raise UsageError(f"--hotplug: the guest's kernel has room for {room} processors, and add-cpu makes {most}")


def updated_by_kernel(guest: Guest, steps: tuple[HotplugStep, ...]) -> bool:
    """Return whether the kernel itself keeps the description of a loaded capture kernel up to date."""
    kinds = {"cpu" if step.thing == CPU else "memory" for step in steps}
    return all(guest.shell.run(_BY_KERNEL % kind).out.strip() == "1" for kind in sorted(kinds))


def _change_cpu(guest: Guest, step: HotplugStep) -> None:
    present, _ = _numbers(guest, _CPUS)
    wanted = present + (1 if step.add else -1)
    if not step.add:
        guest.shell.run("echo 0 >/sys/devices/system/cpu/cpu%s/online", str(present - 1))
    guest.domain.set_vcpus(wanted)

    def done() -> bool | None:
        if step.add:
            guest.shell.run(_ONLINE_CPUS, check=False)
        # The guest forgets a processor before the machine has lost it.
        return True if _numbers(guest, _CPUS) == [wanted, wanted] and guest.domain.vcpus() == wanted else None

    _wait(guest, f"{wanted} processors, in the guest and by libvirt", done)


def _change_memory(guest: Guest, step: HotplugStep) -> None:
    before_mib, domain = _memory_mib(guest), guest.domain
    devices = domain.memory_devices(step.thing)
    if step.thing == VIRTIO_MEM:
        requested = devices[-1].find("target/requested")
        assert requested is not None
        requested.text = str(int(requested.text or 0) + (step.mib << 10) if step.add else 0)
        domain.update(ElementTree.tostring(devices[-1], encoding="unicode"))
    elif step.add:
        domain.attach(dimm_xml(step.mib))
    else:
        domain.detach(ElementTree.tostring(devices[-1], encoding="unicode"))

    def done() -> bool | None:
        if step.add:
            guest.shell.run(_ONLINE_MEMORY, check=False)
            return True if _memory_mib(guest) == before_mib + step.mib else None
        now = domain.memory_devices(step.thing)
        gone = now[-1].findtext("target/current") == "0" if step.thing == VIRTIO_MEM else len(now) < len(devices)
        return True if gone else None

    _wait(guest, f"{before_mib + step.mib} MiB of memory" if step.add else f"the end of the {step.thing}", done)


def _wait(guest: Guest, what: str, done: Callable[[], bool | None]) -> None:
    poll(what, done, timeout_s=PLUG_TIMEOUT_S * guest.factor, every_s=LOOK_EVERY_S)


def _memory_mib(guest: Guest) -> int:
    """Return the memory that is online."""
    count, block = guest.shell.run(_MEMORY).out.split()
    return int(count) * int(block, 16) >> 20


def _numbers(guest: Guest, command: str) -> list[int]:
    return [int(word) for word in guest.shell.run(command).out.split()]
