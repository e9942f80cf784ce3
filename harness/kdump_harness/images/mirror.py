"""Finds the package mirror that this host itself is set up with."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from ..base.errors import HostError

# Suites of one archive are found under one address, so a host on bookworm can build bullseye or sid.
DEBIAN_SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "testing", "unstable")
MIRROR_VARIABLE = "KDUMP_HARNESS_MIRROR"
SECURITY_VARIABLE = "KDUMP_HARNESS_SECURITY_MIRROR"


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """Where Debian packages come from on this host."""

    archive: str
    security: str | None  # None: the host has no security archive, guests are built without

    def sources(self, *suites: str, security_suite: str, components: tuple[str, ...]) -> tuple[str, ...]:
        """The sources.list lines of a release; empty suites are left out, and security where the host has none."""
        parts = " ".join(components)
        secure = [*filter(_is_security, suites), security_suite]
        lines = [f"deb {self.archive} {suite} {parts}" for suite in suites if suite and suite not in secure]
        if self.security is not None:
            lines += [f"deb {self.security} {suite} {parts}" for suite in secure if suite]
        return tuple(lines)


def _is_security(suite: str) -> bool:
    """Whether this is a suite of the security archive, whatever release it is for."""
    return suite.endswith(("-security", "/updates"))


def find_mirror() -> Mirror:
    """The Debian mirror of the environment, else of the host's apt; HostError when there is neither."""
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return Mirror(archive=named.rstrip("/"), security=(os.environ.get(SECURITY_VARIABLE) or "").rstrip("/") or None)
    if shutil.which("apt-get") is None:
        raise HostError(
            f"no apt on this host, so no package mirror to build guests from (name one in {MIRROR_VARIABLE})"
        )
    # By its configuration alone: apt would first read all of its lists, which takes a second of processor time.
    with tempfile.TemporaryDirectory() as no_lists:
        listed = subprocess.run(
            [
                "apt-get", "indextargets", "--no-release-info",
                "-o", f"Dir::State::lists={no_lists}",
                "--format", "$(SITE) $(RELEASE)", "Created-By: Packages",
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
    return _from_listing(listed.stdout)


def _from_listing(listing: str) -> Mirror:
    """The mirror in lines of "address suite"."""
    archive = security = None
    for line in listing.splitlines():
        address, _, suite = line.partition(" ")
        if suite.removesuffix("-updates").removesuffix("-backports") in DEBIAN_SUITES:
            archive = archive or address
        elif suite.removesuffix("-security").removesuffix("/updates") in DEBIAN_SUITES:
            security = security or address
    if archive is None:
        raise HostError(f"apt on this host names no Debian mirror to build guests from (name one in {MIRROR_VARIABLE})")
    return Mirror(archive=archive.rstrip("/"), security=security.rstrip("/") if security else None)
