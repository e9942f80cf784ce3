"""Dump level and compression have the effect that their names promise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kdump_harness.campaigns.sweep.result import Sweep
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.kdump.service import KdumpService
from kdump_harness.pytest_plugin import Verdict, pin_image
from kdump_harness.vm.guest import Guest

LEVELS = (0, 1, 16, 31)


@pytest.mark.slow
def test_levels_and_compressions(image: SystemUnderTest, sweep: Callable[..., Sweep]) -> None:
    """Each level with each compression gives a sound dump, and they fit together.

    All compressions that the family has a setting for are asked for; those that the guest's makedumpfile was built
    without (snappy and zstd, before Debian's 1.7.7) are refused by name. Left to itself it would write such a dump
    uncompressed and report success.
    """
    compressions = image.family.config.compressions
    found = sweep(levels=LEVELS, compressions=compressions)
    refused = found.refused()
    assert not {"none", "zlib", "lzo"} & set(refused), refused
    for name, why in refused.items():
        assert why == f"makedumpfile {found.makedumpfile} of this guest is built without {name}"
    assert {(cell.level, cell.compress) for cell in found.cells} >= {
        (level, name) for level in LEVELS for name in compressions
    }
    # A known issue of some levels excuses only these checks.
    if unexcused := found.failures(with_known=False):
        pytest.fail("\n".join([*unexcused, found.explain()]))
    assert found.ok, found.explain()


def test_a_dump_that_is_compressed_as_a_whole(image: SystemUnderTest, drill: Callable[..., Verdict]) -> None:
    """KDUMP_COMPRESSION of Debian's kdump-tools gives a dump that is unpacked and judged like any other."""
    if "packing" not in image.family.config.known:
        pytest.skip("kdump of this family does not compress the dump as a whole")

    def pack(_: Guest, service: KdumpService) -> None:
        service.configure({"packing": "gzip"})

    verdict = drill(before_crash=pack)
    assert verdict.verified, verdict.explain()
    assert "kdump compresses the dump as a whole: gzip" in verdict.remarks
    assert verdict.dump is not None
    assert verdict.dump["path"].endswith(".gz")


@pin_image("debian-12")
def test_settings_that_makedumpfile_does_not_obey(drill: Callable[..., Verdict]) -> None:
    """A level that is not a number and a compression that makedumpfile lacks are named, though it reports success."""

    def misconfigure(guest: Guest, _service: KdumpService) -> None:
        guest.shell.run("echo 'MAKEDUMP_ARGS=\"-p -d 0x1f\"' >> /etc/default/kdump-tools")

    verdict = drill(before_crash=misconfigure)
    failed = {check.name: check.seen for check in verdict.failed()}
    assert set(failed) == {"level", "compression"}, verdict.explain()
    assert failed["level"] == "0, as which makedumpfile reads '0x1f'"
    assert failed["compression"] == "none (makedumpfile was built without snappy)"
    said = verdict.makedumpfile_said or {}
    assert any("'-p' option is disabled" in warning for warning in said["warnings"]), said
