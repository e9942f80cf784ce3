"""The stack and instruction pointer of each CPU at the crash, from the NT_PRSTATUS notes."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from .formats.damage import VmcoreError
from .vmcore import Vmcore

# struct elf_prstatus (include/linux/elfcore.h): pr_pid at 32, pr_reg at 112, both alike on 64-bit machines.
_PID = Struct("<i")
_PID_AT = 32
_REGISTERS_AT = 112
_REGISTER = Struct("<Q")
# Which of the registers are the stack and the instruction pointer (user_regs_struct of each machine).
_STACK_AND_CODE = {"x86_64": (19, 16), "aarch64": (31, 32)}
_KERNEL_HALF = 1 << 63


@dataclass(frozen=True)
class CpuState:
    """One CPU at the moment of the crash."""

    cpu: int
    pid: int
    stack: int
    code: int

    @property
    def in_kernel(self) -> bool:
        """Return whether it ran kernel code; a CPU that was in user space says nothing of kernel memory."""
        return bool(self.stack & _KERNEL_HALF and self.code & _KERNEL_HALF)


def cpu_states(vmcore: Vmcore) -> tuple[CpuState, ...]:
    """Return every CPU that left its registers; none for a machine whose registers are not known here."""
    if vmcore.notes is None or vmcore.machine not in _STACK_AND_CODE:
        return ()
    places = [_REGISTERS_AT + 8 * index for index in _STACK_AND_CODE[vmcore.machine]]
    return tuple(
        CpuState(
            cpu,
            _PID.unpack_from(text, _PID_AT)[0],
            _REGISTER.unpack_from(text, places[0])[0],
            _REGISTER.unpack_from(text, places[1])[0],
        )
        for cpu, text in enumerate(vmcore.notes.prstatus)
        if len(text) >= max(places) + 8
    )


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
