"""Networks of the run's own that lead nowhere: one that dumps travel over, one that clones are reached by."""

from __future__ import annotations

import ipaddress
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import HostError
from .cloud_init import StaticNic
from .hypervisor.connection import Hypervisor
from .hypervisor.domain_xml import Nic, new_mac

# RFC 2544's range for testing devices: no site uses it for anything else.
PREFIX_BITS = 22  # a run of many drills has a place for each of its guests
SUBNETS = tuple(ipaddress.IPv4Network("198.18.0.0/15").subnets(new_prefix=PREFIX_BITS))
TRIES = 8


@dataclass(frozen=True, kw_only=True)
class Port:
    """A guest's place on the network."""

    nic: Nic
    address: str

    @property
    def seed(self) -> StaticNic:
        """What cloud-init is told of it."""
        return StaticNic(mac=self.nic.mac, address=f"{self.address}/{PREFIX_BITS}")


class IsolatedNetwork:
    """A transient network without DNS and way out, and without DHCP unless it is asked for."""

    def __init__(self, hypervisor: Hypervisor, name: str, *, run: Path, dhcp: bool = False) -> None:
        """Start it on a subnet that nobody here uses; HostError where libvirt refuses all that were tried.

        run is the directory of the run that it is there for.
        """
        self.name = name
        for left in reversed(range(TRIES)):
            own, first, *_, last = secrets.choice(SUBNETS).hosts()
            self._free = iter(range(int(first), int(last) + 1))
            try:
                leases = (str(first), str(last)) if dhcp else None
                hypervisor.make_network(name, str(own), PREFIX_BITS, run=run, leases=leases)
                return
            except HostError:
                if not left:
                    raise

    def port(self) -> Port:
        """A new place on it; HostError when all have been given away."""
        if (address := next(self._free, None)) is None:
            raise HostError(f"the network {self.name} has no address left for one more guest of this run")
        return Port(nic=Nic(mac=new_mac(), network=self.name), address=str(ipaddress.IPv4Address(address)))
