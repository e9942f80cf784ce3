"""The recipes in CONTRIBUTING.md name every place that a change must touch."""

from __future__ import annotations

import re

from kdump_harness.distro.family import find_family
from kdump_harness.images.catalog import load_catalog
from kdump_harness.images.mirror import DEBIAN_SUITES


def test_every_debian_suite_of_the_catalogue_is_known_to_the_mirror_and_the_family() -> None:
    images = (load_catalog().find(name) for name in load_catalog().names)
    suites = {image.build.suite for image in images if image.build is not None and image.family == "debian"}
    assert suites, "the catalogue builds no Debian image"
    known = find_family("debian").suites
    for suite in suites:
        assert suite in DEBIAN_SUITES, f"{suite}: add it to DEBIAN_SUITES in images/mirror.py"
        assert re.fullmatch(known, suite), f"{suite}: add it to suites in distro/families/debian.toml"
