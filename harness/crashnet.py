"""Networks of the run's own that lead nowhere: one that dumps travel over, one that clones are reached by."""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass
from pathlib import Path

from .domain import Hypervisor, Nic, new_mac
from .errors import HostError
from .seed import StaticNic

# RFC 2544's range for testing devices: no site uses it for anything else.
SUBNETS = tuple(f"198.{second}.{third}" for second in (18, 19) for third in range(256))
PREFIX_BITS = 24
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


class CrashNetwork:
    """A transient network without DNS and way out, and without DHCP unless it is asked for."""

    def __init__(self, hypervisor: Hypervisor, name: str, *, run: Path, dhcp: bool = False) -> None:
        """Start it on a subnet that nobody here uses; HostError where libvirt refuses all that were tried.

        run is the directory of the run that it is there for.
        """
        self.name = name
        self._numbers = itertools.count(2)
        for left in reversed(range(TRIES)):
            self._subnet = secrets.choice(SUBNETS)
            try:
                leases = (f"{self._subnet}.2", f"{self._subnet}.254") if dhcp else None
                hypervisor.make_network(name, f"{self._subnet}.1", PREFIX_BITS, run=run, leases=leases)
                return
            except HostError:
                if not left:
                    raise

    def port(self) -> Port:
        """A new place on it."""
        return Port(nic=Nic(mac=new_mac(), network=self.name), address=f"{self._subnet}.{next(self._numbers)}")
