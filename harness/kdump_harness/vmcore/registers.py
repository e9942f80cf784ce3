"""The stack and instruction pointer of each CPU at the crash, from the NT_PRSTATUS notes."""

from __future__ import annotations

from dataclasses import dataclass

from .formats.damage import VmcoreError
from .formats.machines import in_both_orders, machines
from .vmcore import Vmcore

# struct elf_prstatus (include/linux/elfcore.h): pr_pid at 32, pr_reg at 112, both alike on 64-bit machines.
_PID = in_both_orders("i")
_PID_AT = 32
_REGISTERS_AT = 112
_REGISTER = in_both_orders("Q")
_KERNEL_HALF = 1 << 63


@dataclass(frozen=True)
class CpuState:
    """One CPU at the moment of the crash."""

    cpu: int
    pid: int
    stack: int
    code: int
    in_kernel: bool  # a CPU that was in user space says nothing of kernel memory


def cpu_states(vmcore: Vmcore) -> tuple[CpuState, ...]:
    """Return every CPU that left its registers; none for a machine whose registers are not known here."""
    machine = machines().get(vmcore.machine)
    if vmcore.notes is None or machine is None:
        return ()
    pid, register = _PID[vmcore.byte_order], _REGISTER[vmcore.byte_order]
    places = [_REGISTERS_AT + 8 * index for index in (machine.stack, machine.code, machine.user_register)]
    found = []
    for cpu, text in enumerate(vmcore.notes.prstatus):
        if len(text) >= max(places) + 8:
            stack, code, user = (register.unpack_from(text, place)[0] for place in places)
            if machine.user_bits:
                in_kernel = bool(stack and code and not user & machine.user_bits)
            else:
                in_kernel = bool(stack & code & _KERNEL_HALF)
            found.append(CpuState(cpu, pid.unpack_from(text, _PID_AT)[0], stack, code, in_kernel))
    return tuple(found)


def unreadable_tasks(vmcore: Vmcore) -> list[str]:
    """Yield a sentence for each part of the crashed tasks' stacks and code that is not in the dump."""
    missing = []
    for state in cpu_states(vmcore):
        if not state.in_kernel:
            continue
        for what, address in (("stack", state.stack), ("code", state.code)):
            try:
                vmcore.read_virt(address, 8)
            except VmcoreError as error:
                missing.append(f"the {what} of CPU {state.cpu} at {address:#x} ({error})")
    return missing
