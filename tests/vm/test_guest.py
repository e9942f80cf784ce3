"""Guests that boot or fail to boot, with a fake console and network, and the messages about them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kdump_harness.base.errors import GuestError, HostError, WaitedInVain
from kdump_harness.base.evidence import Evidence
from kdump_harness.vm import guest as guest_module
from kdump_harness.vm.console import ByteQueue
from kdump_harness.vm.guest import Guest
from kdump_harness.vm.hosts.guest_host import GuestHost
from kdump_harness.vm.hypervisor.domain import DomainEvents
from kdump_harness.vm.run import Options, Run
from kdump_harness.vm.shells.shell import Access, Shell

GRUB = b"\x1b[2J\x1b[1;1HBooting `Linux'\r\nLoading initial ramdisk ...\r\n"
BOOTED = b"[    0.000000] Linux version 6.12.0\r\n[    9.1] systemd[1]: Startup finished\r\nmine login: "


@pytest.fixture
def port() -> list[int]:
    """The one port by which guests are reached; nothing listens there yet."""
    return [1]


@pytest.fixture
def ssh_port(port: list[int]) -> Iterator[None]:
    """A server on this host with the banner of SSH, at the port of the guests."""
    listener = socket.create_server(("127.0.0.1", 0))

    def greet() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.sendall(b"SSH-2.0-test\r\n")
            connection.close()

    thread = threading.Thread(target=greet, daemon=True)
    thread.start()
    port[0] = listener.getsockname()[1]
    yield
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(timeout=60)


@pytest.fixture
def booting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port: list[int]) -> Any:
    """A guest whose console prints given bytes and is then silent; waits are short."""
    monkeypatch.setattr(guest_module, "SSH_LOOK_EVERY_S", 0.0)
    evidence = Evidence(tmp_path / "drill")

    def make(said: bytes, *, address: str | None = None, factor: float = 0.01) -> Guest:
        source = ByteQueue()
        domain: Any = SimpleNamespace(
            name="mine",
            events=DomainEvents(),
            address=lambda: address,
            ssh_port=port[0],
            open_console=lambda _sink: source,
        )
        guest = Guest(domain, user="root", access=Access(), host_key=None, evidence=evidence, timeout_factor=factor)
        source.put(said)
        return guest

    yield make
    evidence.close()


def test_a_prompt_is_enough(booting: Any) -> None:
    assert booting(BOOTED).wait_until_up()
    assert booting(BOOTED).wait_for_login().text == "mine login: "


@pytest.mark.usefixtures("ssh_port")
def test_a_guest_without_a_serial_console_is_up_when_ssh_answers(booting: Any) -> None:
    assert not booting(GRUB, address="127.0.0.1").wait_until_up()


def test_a_guest_that_has_an_address_may_be_silent_until_its_ssh_answers(
    booting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kdump-tools of Debian builds its initramfs before sshd starts: for minutes, when that is emulated."""
    guest = booting(GRUB, address="127.0.0.1")
    too_silent_s = 1.5 * guest_module.SILENCE_TIMEOUT_S * guest.factor
    monkeypatch.setattr(guest, "_ssh_answers", lambda _address: guest.console.silent_s > too_silent_s)
    assert not guest.wait_until_up()


@pytest.mark.usefixtures("ssh_port")
def test_a_drill_needs_the_serial_console_and_says_so(booting: Any) -> None:
    with pytest.raises(WaitedInVain) as error:
        booting(GRUB, address="127.0.0.1").wait_for_login()
    told = str(error.value)
    assert "the console has been silent for" in told
    assert "after 'Loading initial ramdisk ...'" in told
    assert "SSH answers at 127.0.0.1: the guest is up without a serial console" in told


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (None, "and it has not requested an address on the network"),
        ("127.0.0.1", "and SSH does not answer at 127.0.0.1 either"),
    ],
)
@pytest.mark.parametrize("how", ["wait_for_login", "wait_until_up"])
def test_a_guest_that_never_comes_up_is_told_from_one_without_a_console(
    booting: Any, address: str | None, told: str, how: str
) -> None:
    with pytest.raises(WaitedInVain) as error:
        getattr(booting(b"[    1.0] Freeing unused kernel memory\r\n", address=address), how)()
    assert "after '[    1.0] Freeing unused kernel memory'" in str(error.value)
    assert told in str(error.value)


def test_a_shell_of_the_initramfs_is_named_at_once(booting: Any) -> None:
    with pytest.raises(WaitedInVain, match="the initramfs dropped to a shell"):
        booting(b"BusyBox v1.35\r\n(initramfs) ", factor=60).wait_until_up()


LOST = (
    b"[    0.000000] Linux version 7.2.13\r\n"
    b"[ TIME ] Timed out waiting for device dev-ttyS0.device - /dev/ttyS0.\r\n"
    b"[DEPEND] Dependency failed for serial-getty@ttyS0.service - Serial Getty on ttyS0.\r\n"
    b"[  OK  ] Reached target multi-user.target - Multi-User System.\r\n"
)


@pytest.mark.usefixtures("ssh_port")
def test_a_guest_whose_serial_login_is_lost_is_reached_by_ssh_at_once(booting: Any) -> None:
    """systemd waits 90 s for the device; the network may come later than that."""
    guest = booting(LOST, factor=60)
    addresses = iter([None, None])
    guest.domain.address = lambda: next(addresses, "127.0.0.1")
    assert not guest.wait_until_up()


@pytest.mark.usefixtures("ssh_port")
def test_a_drill_names_a_lost_serial_login_at_once(booting: Any) -> None:
    with pytest.raises(WaitedInVain) as error:
        booting(LOST, address="127.0.0.1", factor=60).wait_for_login()
    told = str(error.value).splitlines()[0]
    assert "no login prompt on the serial console: systemd waited too short for the serial line" in told
    assert "JobRunningTimeoutSec=infinity" in told
    assert told.endswith("('[ TIME ] Timed out waiting for device dev-ttyS0.device - /dev/ttyS0.')")


def test_the_connection_to_a_guest_is_closed_whatever_ends_it(tmp_path: Path) -> None:
    done: list[str] = []
    run = Run(Options(quiet=True))
    run.host = cast(GuestHost, SimpleNamespace(connect=None, alive=lambda: True))
    domain: Any = SimpleNamespace(
        name="mine",
        events=DomainEvents(),
        xml=lambda: "<domain/>",
        open_console=lambda _sink: ByteQueue(),
        connection_lost=lambda: False,
        destroy=lambda: done.append("destroyed"),
    )
    evidence = Evidence(tmp_path / "drill")
    living = run._started(domain, evidence, user="root", access=Access(), host_key=None)

    def break_down(guest: Guest) -> None:
        guest._shell = cast(Shell, SimpleNamespace(close=lambda: done.append("closed")))
        raise GuestError("no login")

    with pytest.raises(GuestError, match="no login"), contextlib.closing(evidence), living as guest:
        break_down(guest)
    assert done == ["closed", "destroyed"]


def test_a_guest_that_qemu_stopped_for_a_full_disk_is_the_fault_of_the_host(tmp_path: Path) -> None:
    run = Run(Options(quiet=True))
    run.host = cast(GuestHost, SimpleNamespace(connect=None, alive=lambda: True, directory=tmp_path))
    console, events = ByteQueue(), DomainEvents()
    domain: Any = SimpleNamespace(
        name="mine",
        events=events,
        xml=lambda: "<domain/>",
        open_console=lambda _sink: console,
        connection_lost=lambda: False,
        end_lines=lambda: console.put(b""),
        destroy=lambda: None,
    )
    evidence = Evidence(tmp_path / "drill")
    living = run._started(domain, evidence, user="root", access=Access(), host_key=None)

    def fill_the_disk(guest: Guest) -> None:
        events.add("suspended/0")
        assert guest.console.read_line(timeout_s=0) is None
        run.raise_if_disk_full()
        events.add("suspended/2")
        with pytest.raises(HostError, match="mine: QEMU stopped it"):
            run.raise_if_disk_full()  # a drill makes no verdict then
        guest.console.read_line(timeout_s=0)

    stopped = pytest.raises(HostError, match="QEMU stopped it because its disk could not be written")
    with stopped as raised, contextlib.closing(evidence), living as guest:
        fill_the_disk(guest)
    assert str(tmp_path) in raised.value.args[0]


def test_a_guest_that_ends_in_the_background_is_waited_for_at_the_end_of_the_run(tmp_path: Path) -> None:
    """libvirt waits for QEMU's process, and a drill has its verdict by then."""
    go_on, done = threading.Event(), list[str]()
    run = Run(Options(quiet=True))
    run.host = cast(GuestHost, SimpleNamespace(connect=None, alive=lambda: True))
    run._ending = run._resources.enter_context(ThreadPoolExecutor(1))
    domain: Any = SimpleNamespace(
        name="mine",
        events=DomainEvents(),
        xml=lambda: "<domain/>",
        open_console=lambda _sink: ByteQueue(),
        destroy=lambda: done.append(f"destroyed after {go_on.wait(60)}"),
    )
    with contextlib.closing(Evidence(tmp_path / "drill")) as evidence:
        with run._started(domain, evidence, user="root", access=Access(), host_key=None) as guest:
            run.end(guest)
        assert not done
        go_on.set()
        run._resources.close()
    assert done == ["destroyed after True"]
