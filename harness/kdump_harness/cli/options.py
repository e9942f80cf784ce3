"""Options that several verbs share, and help texts that pytest's options share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import UsageError
from ..fallback.kinds import KINDS
from ..kdump.hotplug_steps import STEPS
from .types import events, jobs, mib, positive

if TYPE_CHECKING:
    from ..triage.crash import CrashRequest

KEEP = ("never", "failed", "always")  # values of --keep: when the dumps of a run stay
KEEP_HELP = "when vmcores stay in the evidence"
URI_HELP = (
    "libvirt URI of the hypervisor; qemu+ssh://host/system is another host (default: LIBVIRT_DEFAULT_URI, else"
    " qemu:///system, or qemu:///session where that refuses the user)"
)
STATE_HELP = (
    "directory of disks, downloads and the history (default: KDUMP_HARNESS_STATE, else a kdump-harness directory in"
    " /var/lib or /var/tmp)"
)
REMOTE_STATE_HELP = "directory of the guests' files on another host (default: as for --state)"
HISTORY_HELP = "file that records the runs (default: history.sqlite in the state directory; none records nothing)"
RESUME_HELP = (
    "continue an interrupted run with the same options; finished drills are not repeated (RUN: the run's directory in"
    " the evidence; default: the newest)"
)


def add_state(group: Any, text: str = STATE_HELP) -> None:
    """Add --state."""
    group.add_argument("--state", type=Path, metavar="DIR", help=text)


def add_host(group: Any) -> None:
    """Add the options that choose the guest host and its directories."""
    group.add_argument("--uri", help=URI_HELP)
    add_state(group)
    group.add_argument("--remote-state", type=Path, metavar="DIR", help=REMOTE_STATE_HELP)


def add_hook(group: Any, known: Sequence[str], default: Sequence[str], text: str) -> None:
    """Add the options of a command that is run at events; TEXT describes them."""
    group.add_argument(
        "--hook", metavar="COMMAND", help="command to run at the events of --hook-on, with JSON on its standard input"
    )
    group.add_argument("--hook-on", type=events(known), default=list(default), metavar="EVENTS", help=text)


def add_json(group: Any) -> None:
    """Add --json."""
    group.add_argument("--json", metavar="FILE", help="write the full result as JSON (- is standard output)")


def add_image(group: Any, *, domain: bool = False, optional: bool = False) -> None:
    """Add the options that choose the system under test; DOMAIN allows a domain instead of an image."""
    text = "name from the catalogue, or path of a qcow2 or raw disk image"
    system = "image file or domain" if domain else "image file"
    if domain:
        which = group.add_mutually_exclusive_group(required=True)
        which.add_argument("image", nargs="?", metavar="IMAGE", help=text)
        which.add_argument(
            "--domain",
            metavar="NAME",
            help="libvirt domain, running or shut off: a clone of it is drilled as it is, on an isolated network",
        )
        which.add_argument(
            "--host",
            metavar="USER@HOST",
            help="machine that exists, in a maintenance window: it is audited, crashed as it is, and judged",
        )
    else:
        group.add_argument("image", metavar="IMAGE", nargs="?" if optional else None, help=text)
    needed = "required for a file" if domain else "required for a file, unused otherwise"
    from ..distro.family import load_families

    families = ", ".join(load_families())
    group.add_argument("--family", metavar="F", help=f"distribution family of the {system} ({families}); {needed}")
    group.add_argument(
        "--allow-backing",
        type=Path,
        action="append",
        metavar="DIR",
        help="directory whose files a qcow2 image file may name as its backing files; repeatable (default: none)",
    )
    group.add_argument("--login", default="root", metavar="USER", help=f"SSH user of the {system}")
    group.add_argument(
        "--key", type=Path, metavar="FILE", help=f"private SSH key of USER, for a {_without_cloud_init(domain)}"
    )
    group.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help=f"file with the password of USER in its first line, for a {_without_cloud_init(domain)}",
    )
    group.add_argument(
        "--firmware",
        choices=("bios", "uefi", "uefi-secure", "slof"),
        help="firmware of the guest; uefi-secure is UEFI with Secure Boot, slof is for ppc64el (default: bios if the"
        " image supports it)",
    )
    group.add_argument(
        "--cpu",
        type=int,
        metavar="N",
        help="x86-64 level of the guest's processor, 1 to 3 (default: the level that the image needs; for a file the"
        " host's)",
    )


def add_arch(group: Any) -> None:
    """Add --arch of drills of images."""
    from ..distro.architecture import load_architectures

    known = ", ".join(name for name, one in load_architectures().items() if one.disk is not None)
    group.add_argument(
        "--arch",
        metavar="A",
        help=f"architecture of the guest ({known}); the image IMAGE for arm64 is the row arm64-IMAGE of the catalogue"
        " (default: the row's own; amd64 for a file)",
    )


def _without_cloud_init(domain: bool) -> str:
    return f"{'file or a domain' if domain else 'file'} without cloud-init"


def add_software(group: Any) -> None:
    """Add the options that install another kernel or other packages."""
    group.add_argument(
        "--kernel",
        metavar="K",
        help="kernel to install: PACKAGE, PACKAGE/SUITE, a Debian suite (bookworm-backports), package files, or a"
        " directory with vmlinuz and lib/modules/RELEASE from a kernel build (Debian family)",
    )
    group.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help="directory of .deb or .rpm files to install instead of those of repositories",
    )


def add_dimm(group: Any) -> None:
    """Add --dimm."""
    group.add_argument(
        "--dimm",
        type=mib,
        action="append",
        metavar="S",
        help="DIMM in addition to the memory, which the guest finds by ACPI (repeatable)",
    )


def add_hotplug(group: Any) -> None:
    """Add --hotplug."""
    group.add_argument(
        "--hotplug",
        default="",
        metavar="STEP,STEP",
        help=f"memory and processors to add and remove after kdump was armed, in this order: {STEPS}",
    )


def add_shape(group: Any) -> None:
    """Add --shape."""
    group.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME",
        help="storage, firmware or boot of real servers that the guest gets (docs/shapes.md has the names); repeatable",
    )


def add_guest_size(group: Any) -> None:
    """Add the guest's memory and processors."""
    group.add_argument(
        "--memory", type=mib, default=1024, metavar="S", help="memory of the guest, as 2G, 1536M, or a number of MiB"
    )
    group.add_argument("--vcpus", type=int, default=2, metavar="N", help="processors of the guest")


def add_crashkernel(group: Any, text: str = "crashkernel= value to reserve (default: the family's)") -> None:
    """Add --crashkernel."""
    parts = "; parts as in '256M,high crashkernel=72M,low' or '128M crashkernel=256M,cma'"
    group.add_argument("--crashkernel", metavar="S", help=text + parts)


def add_command_lines(group: Any) -> None:
    """Add the arguments of the kernels' command lines."""
    group.add_argument(
        "--append", default="", metavar="ARGS", help="more arguments for the first kernel, in the boot loader"
    )
    group.add_argument(
        "--capture-append",
        default="",
        metavar="ARGS",
        help="more arguments for the capture kernel, in kdump's own configuration",
    )


def add_fallback(group: Any) -> None:
    """Add --fallback."""
    group.add_argument(
        "--fallback",
        default="",
        metavar="R,R",
        help=f"other records of the crash that a failed drill keeps: {', '.join(KINDS)} (the panic record in an ACPI"
        " ERST device or in variables of UEFI, and the hypervisor's dump of the memory)",
    )


def add_filter(group: Any) -> None:
    """Add the dump level and the compression."""
    group.add_argument(
        "--level", type=int, metavar="N", help="dump level of makedumpfile, 0 to 31 (default: the family's, 31)"
    )
    from ..distro.family import COMPRESS_FLAGS

    names = ", ".join(COMPRESS_FLAGS)
    group.add_argument("--compress", metavar="C", help=f"compression of the dump: {names} (default: the family's)")


def add_trigger(group: Any) -> None:
    """Add the trigger."""
    from ..kdump.trigger import load_triggers

    group.add_argument(
        "--trigger", default="sysrq-c", metavar="T", help=f"way to crash the guest: {', '.join(load_triggers())}"
    )


def add_oracle(group: Any) -> None:
    """Add --oracle."""
    group.add_argument(
        "--oracle",
        action="store_true",
        help="compare the vmcore with the memory that the hypervisor saw (needs disk space for the guest's memory)",
    )


def add_budget(group: Any) -> None:
    """Add --budget."""
    group.add_argument(
        "--budget", type=positive, metavar="S", help="maximum seconds from the panic to the login prompt"
    )


def add_crash(group: Any, *, debuginfo: bool = True) -> None:
    """Add the options that choose the crash utility, and the debug info for it where no other option does."""
    group.add_argument(
        "--crash",
        action="store_true",
        help="let the crash utility of the kernel's distribution open the vmcore; it and the debug info of the kernel"
        " are downloaded once (Debian's, else those of this host)",
    )
    group.add_argument(
        "--crash-package",
        metavar="SUITE",
        help="other crash utility: a Debian suite, or the path of a program (implies --crash)",
    )
    if debuginfo:
        group.add_argument(
            "--debuginfo",
            type=Path,
            metavar="PATH",
            help="vmlinux, or a directory with one, for --crash (default: the usual places, then a download)",
        )


def crash_request(arguments: argparse.Namespace) -> CrashRequest | None:
    """Return the request for the crash utility, if the user made one; raise UsageError for an option without it."""
    from ..triage.crash import CrashRequest

    if arguments.crash or arguments.crash_package is not None:
        return CrashRequest(program=arguments.crash_package or "", debuginfo=arguments.debuginfo)
    if arguments.debuginfo is not None:
        raise UsageError("--debuginfo is for --crash, which is missing")
    return None


def add_plot(group: Any) -> None:
    """Add --plot."""
    group.add_argument("--plot", metavar="FILE", help="also write the plot to FILE (.svg, .png or .pdf)")


def add_run(group: Any) -> None:
    """Add the options of one run: its host, its evidence and its waits."""
    add_host(group)
    group.add_argument(
        "--evidence", type=Path, default=Path("evidence"), metavar="DIR", help="directory of the evidence"
    )
    group.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
    group.add_argument(
        "--accelerator",
        default="auto",
        choices=("auto", "kvm", "tcg"),
        help="accelerator of the guest; auto tries whether KVM works",
    )
    group.add_argument(
        "--timeout-factor", type=positive, default=1.0, metavar="F", help="multiply all time limits by F"
    )
    group.add_argument("-v", "--verbose", action="store_true", help="show the guest's serial console live")
    group.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def add_keep(group: Any) -> None:
    """Add --keep."""
    group.add_argument("--keep", choices=KEEP, default="failed", help=KEEP_HELP)


def add_campaign(group: Any) -> None:
    """Add the options of a run of many drills."""
    add_keep(group)
    group.add_argument(
        "--jobs",
        type=jobs,
        metavar="N|auto",
        help="maximum number of parallel drills; memory and disk limit it further (default: auto, which considers the"
        " processors, too; 1 with -v)",
    )
    group.add_argument("--resume", nargs="?", const="last", metavar="RUN", help=RESUME_HELP)
    add_run(group)
    add_json(group)
