"""The hub between network cards, with sockets in place of QEMU."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from kdump_harness.vm.hypervisor import hub as hub_module
from kdump_harness.vm.hypervisor.hub import MOST_FRAME_BYTES, Hub, owner_of


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    yield hub
    hub.close()


def card(hub: Hub) -> socket.socket:
    return socket.create_connection(("127.0.0.1", hub.port), timeout=60)


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4) + frame


def received(card: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (more := card.recv(size - len(found))):
        found += more
    return found


def greet(one: socket.socket, other: socket.socket) -> None:
    """Send frames until one arrives: both cards are connected."""
    other.settimeout(0.2)
    while True:
        one.sendall(framed(b"hello"))
        try:
            assert received(other, 9) == framed(b"hello")
            break
        except TimeoutError:
            continue
    other.settimeout(60)


def test_a_frame_reaches_all_other_cards_and_not_its_own(hub: Hub) -> None:
    with card(hub) as first, card(hub) as second, card(hub) as third:
        greet(first, second)
        greet(first, third)
        second.sendall(framed(b"from second")[:6])  # in two parts, as TCP may deliver it
        third.sendall(framed(b"x" * 1500))
        second.sendall(framed(b"from second")[6:])
        whole = {framed(b"from second"), framed(b"x" * 1500)}
        found = received(first, sum(map(len, whole)))
        assert found in (framed(b"from second") + framed(b"x" * 1500), framed(b"x" * 1500) + framed(b"from second"))
        third.settimeout(0.2)
        seen = b""
        with contextlib.suppress(TimeoutError):
            while more := third.recv(4096):
                seen += more
        assert seen.removeprefix(framed(b"hello") * seen.count(b"hello")) == framed(b"from second")  # not its own


def test_a_card_that_goes_away_does_not_disturb_the_others(hub: Hub) -> None:
    with card(hub) as first, card(hub) as second:
        greet(first, second)
        with card(hub) as broken:
            broken.sendall((MOST_FRAME_BYTES + 1).to_bytes(4))
            assert broken.recv(1) == b""
        card(hub).close()
        second.sendall(framed(b"still here"))
        assert received(first, 14) == framed(b"still here")


def test_a_hub_ends_without_a_word(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    with card(hub) as first, card(hub) as second:
        greet(first, second)
        hub.close()
        assert first.recv(1) == b""
    assert caplog.text + capfd.readouterr().err == ""


def test_a_process_of_another_user_is_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "owner_of", lambda _address, _port: os.getuid() + 1)
    with card(hub) as other:
        assert other.recv(1) == b""


def test_the_owner_of_a_connection_is_known(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert owner_of(*client.getsockname()) == os.getuid()
        port = client.getsockname()[1]
    assert owner_of("127.0.0.2", port) is None
    assert owner_of("127.0.0.1", port, tmp_path / "missing") is None
