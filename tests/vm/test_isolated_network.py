"""The isolated network for dumps, without a hypervisor."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faults
import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.vm.isolated_network import SUBNETS, TRIES, hub_network, libvirt_network


class Hypervisor:
    """A hypervisor that refuses the first networks."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.made: list[str] = []

    def make_network(
        self, name: str, address: str, prefix: int, *, run: Path, leases: tuple[str, str] | None = None
    ) -> None:
        if self.refusals:
            self.refusals -= 1
            raise HostError("the address is taken")
        self.made.append(f"{name} {address}/{prefix}" + (f" {leases[0]}-{leases[1]}" if leases else ""))


def test_each_guest_has_a_place_of_its_own() -> None:
    hypervisor: Any = Hypervisor(refusals=2)
    network = libvirt_network(hypervisor, "kdh-1-crash", run=Path("/state/runs/1"))
    (made,) = hypervisor.made
    subnet = ipaddress.IPv4Interface(made.split()[1]).network
    assert subnet in SUBNETS
    ports = [network.port() for _ in range(1021)]
    assert [ipaddress.IPv4Address(port.address) for port in ports] == list(subnet.hosts())[1:]
    first, second, *_ = ports
    assert first.nic.mac != second.nic.mac
    assert first.seed.address == f"{first.address}/22"
    assert 'network="kdh-1-crash"' in first.nic.xml()
    with pytest.raises(HostError, match="no address left on the network"):
        network.port()


def test_the_network_of_a_hub_gives_addresses_too() -> None:
    network = hub_network("kdh-1-crash", 4711)
    first, second = network.port(), network.port()
    assert (first.address, second.address) == ("198.18.0.2", "198.18.0.3")
    assert 'port="4711"' in first.nic.xml()


def test_a_host_without_a_free_subnet_is_told() -> None:
    hypervisor: Any = Hypervisor(refusals=TRIES)
    with pytest.raises(HostError, match="the address is taken"):
        libvirt_network(hypervisor, "kdh-1-crash", run=Path("/state/runs/1"))


def test_a_disk_that_fails_needs_its_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faults.shutil, "which", lambda _name: None)
    run: Any = SimpleNamespace(
        directory=SimpleNamespace(path=tmp_path), host=SimpleNamespace(require_local=lambda _what: None)
    )
    with pytest.raises(HostError, match="needs nbdkit"), faults.failing_disk(run, 1, serial="x"):
        pass
    assert not list(tmp_path.iterdir())
