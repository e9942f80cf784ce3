"""The package mirror of this host's own configuration."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from ..base.errors import HostError

# All suites of an archive have the same address, so that a host on bookworm can build bullseye or sid.
DEBIAN_SUITES = ("bullseye", "bookworm", "trixie", "forky", "sid", "stable", "oldstable", "testing", "unstable")
MIRROR_VARIABLE = "KDUMP_HARNESS_MIRROR"
SECURITY_VARIABLE = "KDUMP_HARNESS_SECURITY_MIRROR"


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """The Debian mirrors of this host."""

    archive: str
    security: str | None  # None if the host has no security archive; guests are then built without it

    def sources(self, *suites: str, security_suite: str, components: tuple[str, ...]) -> tuple[str, ...]:
        """Return the sources.list lines of a release, without empty suites, and without a missing security archive."""
        parts = " ".join(components)
        secure = [*filter(_is_security, suites), security_suite]
        lines = [f"deb {self.archive} {suite} {parts}" for suite in suites if suite and suite not in secure]
        if self.security is not None:
            lines += [f"deb {self.security} {suite} {parts}" for suite in secure if suite]
        return tuple(lines)


def _is_security(suite: str) -> bool:
    """Return whether a suite is in the security archive, for any release."""
    return suite.endswith(("-security", "/updates"))


def find_mirror() -> Mirror:
    """Return the Debian mirror of the environment, else of the host's apt; HostError if there is neither."""
    named = os.environ.get(MIRROR_VARIABLE)
    if named:
        return Mirror(archive=named.rstrip("/"), security=(os.environ.get(SECURITY_VARIABLE) or "").rstrip("/") or None)
    if shutil.which("apt-get") is None:
        raise HostError(f"no package mirror for building guests: this host has no apt (set {MIRROR_VARIABLE})")
    # Without its lists, which apt would otherwise read for a second of processor time.
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
    """Return the mirror from lines of "address suite"."""
    archive = security = None
    for line in listing.splitlines():
        address, _, suite = line.partition(" ")
        if suite.removesuffix("-updates").removesuffix("-backports") in DEBIAN_SUITES:
            archive = archive or address
        elif suite.removesuffix("-security").removesuffix("/updates") in DEBIAN_SUITES:
            security = security or address
    if archive is None:
        raise HostError(f"no package mirror for building guests: apt has no Debian mirror (set {MIRROR_VARIABLE})")
    return Mirror(archive=archive.rstrip("/"), security=security.rstrip("/") if security else None)
