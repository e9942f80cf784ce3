"""The registers of the CPUs, from the notes of a dump."""

from __future__ import annotations

import struct
from pathlib import Path

from kdump_harness.vmcore import open_vmcore
from kdump_harness.vmcore.formats import notes
from kdump_harness.vmcore.registers import cpu_states, unreadable_tasks
from vmcore_factory import Kdump, note


def prstatus(pid: int, stack: int, code: int) -> bytes:
    text = bytearray(336)
    struct.pack_into("<i", text, 32, pid)
    struct.pack_into("<Q", text, 112 + 8 * 16, code)
    struct.pack_into("<Q", text, 112 + 8 * 19, stack)
    return bytes(text)


def test_registers_of_each_cpu_are_kept() -> None:
    data = note(b"CORE", 1, prstatus(7, 1, 2)) + note(b"CORE", 1, prstatus(8, 3, 4))
    found = notes.parse(data)
    assert (found.cpus, len(found.prstatus)) == (2, 2)
    assert found.prstatus[1] == prstatus(8, 3, 4)


def test_registers_of_user_space_say_nothing_of_the_kernel(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(Kdump().build())  # its registers are zeros
    with open_vmcore(path) as vmcore:
        assert [state.in_kernel for state in cpu_states(vmcore)] == [False, False]
        assert unreadable_tasks(vmcore) == []


def test_a_stack_that_was_filtered_out_is_reported(tmp_path: Path) -> None:
    raw = Kdump().build()
    stack = 0xFFFF888000000000
    index = raw.index(note(b"CORE", 1, bytes(336)))
    path = tmp_path / "vmcore"
    register = prstatus(1, stack, stack)
    path.write_bytes(raw[: index + 20] + register + raw[index + 20 + len(register) :])
    with open_vmcore(path) as vmcore:
        missing = unreadable_tasks(vmcore)
    assert len(missing) == 2
    assert missing[0].startswith("the stack of CPU 0 at 0xffff888000000000")
