"""Write docs/support.md from the families and the recorded drills, and record drills for it."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kdump_harness.base.errors import EXIT_OK, HarnessError, TableError, UsageError
from kdump_harness.distro.architecture import load_architectures
from kdump_harness.distro.family import SHOWN, Family, Release, fill, load_families
from records import HOW, KERNEL, Record, load_records, merge, read_result, required_today, table_path, write_records

_INTRODUCTION = """\
# Support

This page lists each supported distribution and release, and how it was tested. It is generated from
`harness/kdump_harness/distro/families/*.toml` and the recorded drills in `docs/drilled.toml` by
`python docs/generate/support_page.py`; change the tables, not the page. With `--record FILE...`
that command adds the drills of a `verdict.json` or a `matrix.json`.

The guest's `/etc/os-release` selects the row, not the name of the image. A release that no row
covers uses the nearest row; the drill says so, and its verdict has a remark.

The column "shown" says how a row was tested:

"""
_REST = """
"Not verified" means that a drill failed, or lacked a check that was required when it was recorded;
"Recorded drills" says which. A check that became required later does not change the result of an
older drill; the drill then has the number that is required today next to its own. Without a record,
the word comes from the family's table.

The tested code of redhat is kdump-utils 1.0.61, that of suse kdump 2.1.9 and 1.0.3. Each ran
unchanged in a Debian 12 guest with stand-ins for grubby, update-bootloader and entries of the rpm
database. The harness used their tools, read their consoles, and judged their dumps, good and broken
ones (recordings in `tests/data`). The harness also armed two of these guests:

- kdump-utils: configuration, kernel arguments by grubby's script (the source of Debian's GRUB
  menu), `kdumpctl rebuild`, and a boot with the reservation.
- kdump 2.1.9: configuration, reservation by openSUSE's update-bootloader (1.25, with Debian's
  grub-mkconfig), initramfs by its mkdumprd, loaded by its service at the next boot. Only rpm and
  zypper were stand-ins.

No image of these distributions has been drilled yet.
"""
_ARCHITECTURES = """
## Architectures

Dumps of five machines are read on any host, kernel drills ([kernel.md](kernel.md)) have guests of
four of them, and drills of images guests of three ([hosts.md](hosts.md#guests-of-other-architectures)).
Guests of other architectures are emulated. Whole drills went through UEFI, the signed shim, GRUB and
kdump-tools (Debian 13, arm64), and through SLOF, GRUB and kdump-tools (Debian 12, ppc64el); both guests
were armed again. Linux 6.1 of the latter, with two processors, saves the dump of a crash on processor 0
(`--trigger sysrq-c@0`). After one on processor 1 its capture kernel waits for the virtio disk without
end, in kernel drills as well; that of Linux 6.12 reads the disk.
The tables below have the drills; besides their dumps were read:

- **amd64**: samples of Linux 5.10, 6.12 and 7.2, and the drills below.
- **arm64**: pages of 16 and 64 KiB and addresses of 36 to 52 bits, by page tables that the tests
  write. The drills had pages of 4 KiB. `--oracle` compared 15,423 pages of 5.10: one differs, in a
  table of the interrupt controller.
- **ppc64el**: hash tables, by page tables that the tests write. The drills had radix tables and pages
  of 64 KiB (6.1, 6.12) and 4 KiB (7.2). `--oracle` compared 1,757 pages of 6.1 and 1,931 of 6.12: two
  differ in each, the first 64 KiB and a few bytes in which the hypervisor counts.
- **riscv64**: Sv39, Sv48 and Sv57, by page tables that the tests write. The guest below had Sv48.
- **s390x**: big-endian files that the tests write. Debian's kernels cannot dump there.

The pages of each class in dumps of four machines, by `inspect` and by makedumpfile's own report
(`-d 31`), are the same, and libkdumpfile 0.5.1 reads the same bytes of every page:

| machine | kernel | makedumpfile | free | cache | user | pages compared |
| --- | --- | --- | --- | --- | --- | --- |
| aarch64 | 5.10.0-32-cloud-arm64 | 1.6.8 | 114,224 | 1,392 | 33 | 15,423 |
| ppc64le | 6.1.0-50-powerpc64le | 1.7.2 | 9,288 | 151 | 9 | 1,817 |
| ppc64le | 6.12.95+deb12-powerpc64le-64k | 1.7.8 | 9,118 | 208 | 8 | by `--oracle` only |
| riscv64 | 7.2.13+deb14-riscv64 | b7587f1, after 1.7.9 | 68,243 | 5,513 | 27 | 57,289 |
| s390x | 6.1.0-50-s390x | 1.7.2 | 114,705 | 5,622 | 27 | 10,718 |

The guests of riscv64 and s390x had not crashed. QEMU 7.2 wrote their memory, and makedumpfile filtered
it on the host, with the VMCOREINFO that the memory has. makedumpfile 1.7.8 did not: it reads the
struct pages of riscv64 behind a huge page wrongly (its commit 863e2c4) and drops pages of the kernel.
"""
_RUN_HEAD = ("release", "image", "kernel", "makedumpfile", "on", "drill", "day", "result")
_UNRECORDED = {
    "image": "Drilled on the published image according to the table, without a record",
    "guest": "Drilled on a guest of its packages according to the table, without a record",
    "code": "Drilled with its kdump code in another guest only, without a record",
    "facts": "Never drilled, by documentation and source only",
}
_HEAD = ("release", "os-release", "packages", "configuration", "harness's reservation", "packaged reservation", "shown")


def support_page(families: Mapping[str, Family], records: Sequence[Record]) -> str:
    """Return the page in Markdown; TableError if a record is of a release that is not in the tables."""
    for record in (one for one in records if one.how != KERNEL):
        family = families.get(record.family)
        if family is None or record.release not in {release.name for release, _ in family.releases}:
            raise TableError(
                f"{table_path().name}: {record.image} of {record.date}: the family {record.family!r} has no"
                f" release {record.release!r}"
            )
    shown = "".join(f"- **{word}**: {meaning}\n" for word, meaning in SHOWN.items())
    return (
        _INTRODUCTION
        + shown
        + _REST
        + _ARCHITECTURES
        + _of_architectures(records)
        + "".join(
            _family(family, [record for record in records if record.family == family.name])
            for family in families.values()
        )
    )


def _of_architectures(records: Sequence[Record]) -> str:
    """Return the kernel drills of all architectures."""
    names = {one.machine: one.name for one in load_architectures().values()}
    kernels = sorted((one for one in records if one.how == KERNEL), key=lambda one: (names[one.arch], one.kernel))
    lines = ["", "Recorded kernel drills:", ""]
    head = ("architecture", *_RUN_HEAD[2:4], *_RUN_HEAD[5:])
    lines += [_row(head), _row("---" for _ in head)]
    lines += [_row((names[one.arch], *_run(one)[2:4], *_run(one)[5:])) for one in kernels]
    return "\n".join((*lines, ""))


def _family(family: Family, records: Sequence[Record]) -> str:
    """Return one family's part of the page."""
    rows = family.releases
    lines = ["", f"## {family.name}", "", f"Service `{family.service}`, configuration `{family.config.file}`.", ""]
    lines += [_row(_HEAD), _row("---" for _ in _HEAD)]
    lines += [_row(_cells(release, driven, records)) for release, driven in rows]
    lines += ["", *_really_run(family, records), ""]
    for title, commands in (
        ("Memory is reserved with", [(name(row), _reserve(row[1])) for row in rows]),
        ("The distribution's own reservation is requested with", [(name(row), _default(row[1])) for row in rows]),
        ("The capture initramfs is built with", [(name(row), _build(row[1])) for row in rows]),
        ("The service is restarted with", [(name(row), row[1].commands.arm) for row in rows]),
    ):
        lines += [f"{title}:", "", *_by_command(commands), ""]
    if notes := [f"- {name((release, driven))}: {driven.notes}" for release, driven in rows if driven.notes]:
        lines += ["Notes:", "", *notes, ""]
    return "\n".join(lines)


def name(row: tuple[Release, Family]) -> str:
    """Return the name of a row."""
    return row[0].name


def _reserve(family: Family) -> str:
    file = family.bootloader.file
    return (f"# with ARGUMENTS in {file}\n" if file else "") + family.bootloader.reserve.strip()


def _default(family: Family) -> str:
    return family.bootloader.default or f"{family.bootloader.reserve}  # its file has the size"


def _build(family: Family) -> str:
    return (
        family.commands.build if family.commands.build != "true" else "# none: the service builds it at the next boot"
    )


def _really_run(family: Family, records: Sequence[Record]) -> list[str]:
    """Return every recorded drill, and by name every release without one."""
    order = [release.name for release, _ in family.releases]
    lines = ["Recorded drills:", ""]
    if records:
        lines += [_row(_RUN_HEAD), _row("---" for _ in _RUN_HEAD)]
        lines += [_row(_run(record)) for record in sorted(records, key=lambda one: order.index(one.release))]
        lines += [""]
    drilled = {record.release for record in records}
    for word, meaning in _UNRECORDED.items():
        names = [
            release.name for release, _ in family.releases if release.name not in drilled and release.shown == word
        ]
        if names:
            lines += [f"{meaning}: {', '.join(names)}.", ""]
    return lines[:-1]


def _run(record: Record) -> tuple[str, ...]:
    if record.holds:
        result = f"verified, {record.checks} checks"
        if record.checks < (number := len(required_today(record.how))):
            result += f" ({number} are required today)"
    elif record.verified:
        result = (
            f"{record.checks} checks held; not made then: {', '.join(f'`{name}`' for name in record.unmade_checks)}"
        )
    else:
        why = [f"`{check}`" for check in record.failed_checks]
        why += [record.stopped_by] if record.stopped_by else []
        result = f"**not verified**, reached {record.reached}: {', '.join(why) or 'no check was made'}"
    if record.known_issue:
        issue = record.known_issue
        is_address = issue.startswith(("http://", "https://"))
        result += f" ([known issue]({issue}))" if is_address else f" (known issue: {issue})"
    drill = f"{record.trigger} → {record.target}, `-d {record.level}` {record.compress}"
    return (
        record.release,
        record.image,
        record.kernel,
        record.makedumpfile,
        record.how,
        f"{drill}, {'direct boot' if record.how == KERNEL else record.firmware}, {record.accelerator}",
        record.date.isoformat(),
        result,
    )


def shown_of(release: Release, records: Iterable[Record]) -> str:
    """Return how a row was tested: by its records, else by its table."""
    own = [record for record in records if record.release == release.name]
    if not own:
        return release.shown
    best = min(own, key=lambda record: (not record.holds, HOW.index(record.how)))
    return best.how if best.holds else f"{best.how}, not verified"


def _cells(release: Release, driven: Family, records: Sequence[Record]) -> tuple[str, ...]:
    if release.since:
        versions = release.since if release.since == release.until else f"{release.since} to {release.until}"
    else:
        versions = "rolling" if release.rolling else "any, by probe"
    return (
        release.name,
        f"{', '.join(release.ids)}: {versions}",
        ", ".join(driven.packages),
        "shell variables" if driven.config.syntax == "assignment" else "directives",
        driven.crashkernel,
        driven.bootloader.packaged or "by its tool",
        shown_of(release, records),
    )


def _by_command(commands: Iterable[tuple[str, str]]) -> list[str]:
    """Return each command once, with the releases that it is for."""
    releases: dict[str, list[str]] = {}
    for release, command in commands:
        releases.setdefault(fill(command, arguments="ARGUMENTS", kernel="KERNEL").strip(), []).append(release)
    if len(releases) == 1:
        return _code(next(iter(releases)))
    return [line for command, names in releases.items() for line in (f"{', '.join(names)}:", "", *_code(command), "")][
        :-1
    ]


def _code(command: str) -> list[str]:
    return ["```sh", command, "```"]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the page, or record drills."""
    parser = argparse.ArgumentParser(
        prog="python docs/generate/support_page.py",
        description="Print docs/support.md, or add drills to docs/drilled.toml, its source.",
    )
    parser.add_argument("--record", nargs="+", type=Path, metavar="FILE", help="verdict.json or matrix.json to add")
    parser.add_argument("--how", choices=HOW, help="kind of guest (default: from the verdict's disk)")
    parser.add_argument(
        "--release", metavar="ROW", help="row of the family's table, for old verdicts without a release"
    )
    parser.add_argument(
        "--date",
        type=datetime.date.fromisoformat,
        metavar="DAY",
        help="day of the drill, as 2026-11-22, for old verdicts without a date",
    )
    arguments = parser.parse_args(argv)
    try:
        if not arguments.record:
            sys.stdout.write(support_page(load_families(), load_records()))
            return EXIT_OK
        known = {"how": arguments.how, "release": arguments.release, "date": arguments.date}
        new = [record for path in arguments.record for record in read_result(path, known)]
        if not new:
            raise UsageError("these files have no drill to record")
        records = merge(load_records(), new)
        support_page(load_families(), records)  # raises for an unknown release before the table is written
        write_records(records)
        for record in new:
            sys.stderr.write(
                f"{record.image}, {record.release}: {record.how}, verified: {str(record.verified).lower()}\n"
            )
        sys.stderr.write("now: python docs/generate/support_page.py > docs/support.md\n")
        return EXIT_OK
    except HarnessError as error:
        sys.stderr.write(f"support_page: {error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
