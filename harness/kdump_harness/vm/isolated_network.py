"""Isolated networks of a run: one for dumps to the dump server, one for each clone."""

from __future__ import annotations

import ipaddress
import secrets
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
    """A transient network without DNS and routes, and without DHCP unless requested."""

    def __init__(self, hypervisor: Hypervisor, name: str, *, run: Path, dhcp: bool = False) -> None:
        """Start the network on a random free subnet; HostError after several that libvirt refuses.

        RUN is the directory of the run that owns it.
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
        """Return a new card and address; HostError if no address is left."""
        if (address := next(self._free, None)) is None:
            raise HostError(f"no address left on the network {self.name} for another guest of this run")
        return Port(nic=Nic(mac=new_mac(), network=self.name), address=str(ipaddress.IPv4Address(address)))
