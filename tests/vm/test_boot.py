"""A guest that will never come up is known by its own words, long before a deadline."""

from __future__ import annotations

import pytest
from kdump_harness.base.errors import WaitedInVain
from kdump_harness.vm.console import ByteQueue, Console
from kdump_harness.vm.guest import boot_trouble

# The screen of GRUB as it came over a serial line; its menu held no entry.
GRUB = (
    b"\x1b[H\x1b[J\x1b[1;1H\x1b[2;24HGNU GRUB  version 2.06-13+deb12u2\r\n\r\n\x1b[?25h"
    b"   Minimal BASH-like line editing is supported. For the first word, TAB   \r\n"
    b"   lists possible command completions. Anywhere else TAB lists possible   \r\n\r\n\r\ngrub> "
)


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (GRUB, "GRUB has nothing to boot"),
        (b"error: no such partition.\r\nEntering rescue mode...\r\ngrub rescue> ", "GRUB does not find its files"),
        (b"Booting from Hard Disk...\r\nNo bootable device.\r\n", "the firmware finds nothing to boot"),
        (b"BusyBox v1.35.0 built-in shell (ash)\r\n\r\n(initramfs) \x1b[6n", "the initramfs dropped to a shell"),
        (b"You are in emergency mode. After logging in, type\r\n", "the guest is in emergency mode"),
    ],
    ids=["menu", "rescue", "firmware", "initramfs", "emergency"],
)
def test_a_guest_that_cannot_boot_is_given_up_at_once(words: bytes, meaning: str) -> None:
    source = ByteQueue()
    source.put(words)
    with pytest.raises(WaitedInVain, match=meaning):
        Console("guest", source).wait_for("login prompt", "login: ", timeout_s=20, give_up=boot_trouble)
