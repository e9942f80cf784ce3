"""Signs of a stuck guest on its console, which end a wait long before a deadline."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from kdump_harness.base.errors import WaitedInVain
from kdump_harness.diagnosis.table import load_symptoms
from kdump_harness.vm.console import ByteQueue, Console
from kdump_harness.vm.console_signs import ConsoleSign, Where, console_signs, find_sign
from kdump_harness.vm.guest import boot_trouble

# A recorded screen of GRUB on a serial line; its menu has no entry.
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
        (b"ALERT!  UUID=ac5a does not exist.  Dropping to a shell!\r\n", "the initramfs dropped to a shell .'ALERT!"),
        (b"Entering emergency mode. Exit the shell to continue.\r\n", "dropped to dracut's emergency shell"),
        (b"You are in emergency mode. After logging in, type\r\n", "the guest is in emergency mode"),
    ],
    ids=["menu", "rescue", "firmware", "initramfs", "alert", "dracut", "emergency"],
)
def test_a_guest_that_cannot_boot_is_given_up_at_once(words: bytes, meaning: str) -> None:
    source = ByteQueue()
    source.put(words)
    with pytest.raises(WaitedInVain, match=meaning):
        Console("guest", source).wait_for("login prompt", "login: ", timeout_s=20, give_up=boot_trouble)


@pytest.mark.parametrize("sign", console_signs(), ids=lambda sign: sign.name)
def test_every_sign_is_found_where_it_counts_and_nowhere_else(sign: ConsoleSign) -> None:
    assert find_sign(sign.example) is sign
    for where in get_args(Where):
        assert find_sign(sign.example, where) is (sign if where in sign.where else None)
    assert set(sign.where) <= set(get_args(Where))
    assert sign.where


@pytest.mark.parametrize(
    # A shell after a complete dump, as configured, is not a symptom.
    "sign",
    [sign for sign in console_signs() if sign.name != "suse-no-reboot"],
    ids=lambda sign: sign.name,
)
def test_the_diagnosis_knows_every_sign(sign: ConsoleSign) -> None:
    name = "kdump-emergency-shell" if sign.shell else "serial-login-lost" if sign.up else "no-boot-after-dump"
    row = load_symptoms().row(name)
    assert any(re.search(pattern, sign.example) for pattern in row.patterns)
