"""Isolated networks of a run: one for dumps to the dump server, one for each clone."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError
from .cloud_init import StaticNic
from .hypervisor.connection import Hypervisor
from .hypervisor.domain_xml import Nic, new_mac

# RFC 2544's range for testing devices, which sites do not use.
PREFIX_BITS = 22  # enough addresses for a run of many drills
SUBNETS = tuple(ipaddress.IPv4Network("198.18.0.0/15").subnets(new_prefix=PREFIX_BITS))
TRIES = 8


@dataclass(frozen=True, kw_only=True)
class Port:
    """A guest's network card and address on the network."""

    nic: Nic
    address: str

    @property
    def seed(self) -> StaticNic:
        """The card as cloud-init needs it."""
        return StaticNic(mac=self.nic.mac, address=f"{self.address}/{PREFIX_BITS}")


class IsolatedNetwork:
    """A network without DNS and routes, and without DHCP unless requested."""

    def __init__(self, name: str, subnet: ipaddress.IPv4Network, nic: Callable[[], Nic]) -> None:
        """NIC returns a new card on the network; the first address of SUBNET is the host's."""
        self.name, self._nic = name, nic
        _, first, *_, last = subnet.hosts()
        self._free = iter(range(int(first), int(last) + 1))

    def port(self) -> Port:
        """Return a new card and address; HostError if no address is left."""
        if (address := next(self._free, None)) is None:
            raise HostError(f"no address left on the network {self.name} for another guest of this run")
        return Port(nic=self._nic(), address=str(ipaddress.IPv4Address(address)))


def libvirt_network(hypervisor: Hypervisor, name: str, *, run: Path, dhcp: bool = False) -> IsolatedNetwork:
    """Start a transient network on a random free subnet; HostError after several that libvirt refuses.

    RUN is the directory of the run that owns it.
    """
    for left in reversed(range(TRIES)):
        subnet = secrets.choice(SUBNETS)
        own, first, *_, last = map(str, subnet.hosts())
        try:
            hypervisor.make_network(name, own, PREFIX_BITS, run=run, leases=(first, last) if dhcp else None)
            break
        except HostError:
            if not left:
                raise
    return IsolatedNetwork(name, subnet, lambda: Nic(mac=new_mac(), network=name))


def hub_network(name: str, port: int) -> IsolatedNetwork:
    """Return the network of a hub at a TCP port, which no other network of this host can collide with."""
    return IsolatedNetwork(name, SUBNETS[0], lambda: Nic(mac=new_mac(), hub_port=port))
