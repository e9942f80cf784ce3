"""The recipes in CONTRIBUTING.md and the list in README.md name every place that a change must touch."""

from __future__ import annotations

import re
from pathlib import Path

from kdump_harness.distro.family import find_family
from kdump_harness.drill.checks import REQUIRED_CHECKS
from kdump_harness.images.catalog import load_catalog
from kdump_harness.images.mirror import DEBIAN_SUITES

ROOT = Path(__file__).parents[2]


def test_every_debian_suite_of_the_catalogue_is_known_to_the_mirror_and_the_family() -> None:
    suites = {
        image.build.suite for image in load_catalog().images if image.build is not None and image.family == "debian"
    }
    assert suites, "the catalogue builds no Debian image"
    known = find_family("debian").suites
    for suite in suites:
        assert suite in DEBIAN_SUITES, f"{suite}: add it to DEBIAN_SUITES in images/mirror.py"
        assert re.fullmatch(known, suite), f"{suite}: add it to suites in distro/families/debian.toml"


# The words of "Verified means" in README.md for each check that a drill needs.
WORDS = {
    "single-dump": "one new dump",
    "final-name": "under its final name",
    "permissions": "with mode 0600 and owner root",
    "format": "format, dump level and compression as configured",
    "level": "format, dump level and compression as configured",
    "compression": "format, dump level and compression as configured",
    "complete": "every page is there and readable",
    "filter": "exactly the pages that the dump level keeps",
    "pages": "exactly the pages that the dump level keeps",
    "kernel": "the VMCOREINFO of the kernel that crashed",
    "crash-time": "with a crash time inside this drill",
    "nonce": "this drill's nonce",
    "panic-text": "the trigger's panic message in the dump's own kernel log",
    "reboot-time": "login again within budget",
    "rebooted": "a new boot id",
    "rearmed": "kdump armed again",
}


def test_the_readme_says_what_each_required_check_means() -> None:
    _, _, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Verified means\n")
    section = " ".join(rest.partition("\n\nSimpler checks")[0].split())
    assert set(WORDS) == REQUIRED_CHECKS
    assert not {name: words for name, words in WORDS.items() if words not in section}
    assert section.count(" - ") == 7, "the list in README.md and WORDS belong together"
