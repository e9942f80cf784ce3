"""The command line: the same drills for people at a terminal."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..base.errors import EXIT_BROKEN, EXIT_HOST, EXIT_OK, HarnessError
from ..distro.family import COMPRESS_FLAGS, load_families
from ..kdump.target import TARGETS
from ..kdump.trigger import load_triggers
from .verbs.fleet_options import add_fleet
from .verbs.history_options import HISTORY_HELP, add_history
from .verbs.report_options import add_report
from .verbs.schedule_options import add_schedule
from .verbs.store_options import add_store

EXIT_INTERRUPTED = 130
MAX_JOBS = 1000
KEEP = ("never", "failed", "always")  # which dumps of a run stay
URI_HELP = "the hypervisor, also of another host, as qemu+ssh://host/system (default: LIBVIRT_DEFAULT_URI, else qemu:///system)"
REMOTE_STATE_HELP = "where guests' files are on another host (default: shared or /var/tmp)"

Verbs = Any  # argparse keeps the type of its sub-parsers private


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Examples keep their lines; options tell a default that is worth telling."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and action.default not in (None, False, [], argparse.SUPPRESS) and action.option_strings:
            text += " (default: %(default)s)"
        return text


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status of the contract."""
    signal.signal(signal.SIGTERM, _terminate)
    arguments = None
    try:
        arguments = make_parser().parse_args(argv)
        # Late: the verbs bring libvirt, paramiko and numpy, which --help does not need.
        verbs = importlib.import_module(f"kdump_harness.{arguments.module}")
        return int(getattr(verbs, arguments.verb)(arguments))
    except HarnessError as error:
        print(f"kdump-harness: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        goes_on = hasattr(arguments, "resume") and not getattr(arguments, "bisect", False)
        further = "; --resume goes on with the rest" if goes_on else ""
        print(f"kdump-harness: interrupted; what was unfinished is removed{further}", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader went away (as in "| head"); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"kdump-harness: {where}{error.strerror or error}", file=sys.stderr)
        return EXIT_HOST if error.errno in (errno.ENOSPC, errno.EDQUOT) else EXIT_BROKEN


def _terminate(_signal: int, _frame: object) -> None:
    """SIGTERM ends a run the way Ctrl-C does: everything of ours is removed."""
    raise KeyboardInterrupt


def make_parser() -> argparse.ArgumentParser:
    """All verbs and options."""
    parser = argparse.ArgumentParser(
        prog="kdump-harness",
        description="Prove that kdump works: crash a throw-away guest, then judge the vmcore it leaves behind.",
        epilog="exit status: 0 verified, whole, fit; 1 the judged thing failed; 2 usage or a bad table;\n"
        "3 the host is unfit; 4 the harness or the guest broke before there was a verdict",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"kdump-harness {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_doctor(verbs)
    _add_images(verbs)
    _add_drill(verbs)
    _add_sweep(verbs)
    _add_size(verbs)
    _add_compare(verbs)
    _add_inspect(verbs)
    _add_diagnose(verbs)
    add_history(verbs, _add_json, Formatter)
    add_schedule(verbs, Formatter)
    add_fleet(verbs, Formatter)
    add_report(verbs, Formatter)
    add_store(verbs, _add_json, Formatter)
    _add_clean(verbs)
    return parser


def _verb(verbs: Verbs, name: str, help_text: str, epilog: str = "") -> Any:
    parser = verbs.add_parser(name, help=help_text, description=help_text, epilog=epilog, formatter_class=Formatter)
    parser.set_defaults(verb=name, module="cli.verbs.drill")
    return parser


def _add_run_options(parser: Any) -> None:
    parser.add_argument("--uri", help=URI_HELP)
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept (default: shared or /var/tmp)")
    parser.add_argument("--remote-state", type=Path, metavar="DIR", help=REMOTE_STATE_HELP)
    parser.add_argument("--evidence", type=Path, default=Path("evidence"), metavar="DIR", help="where evidence goes")
    parser.add_argument("--history", metavar="FILE", help=HISTORY_HELP)
    parser.add_argument(
        "--accelerator", default="auto", choices=("auto", "kvm", "tcg"), help="auto tries whether KVM works"
    )
    parser.add_argument("--timeout-factor", type=_positive, default=1.0, metavar="F", help="stretch all waits by F")
    parser.add_argument("-v", "--verbose", action="store_true", help="show the guest's console as it comes")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _add_filter(parser: Any) -> None:
    parser.add_argument("--level", type=int, metavar="N", help="dump level, 0 to 31 (default: the family's, 31)")
    parser.add_argument("--compress", metavar="C", help=f"one of {', '.join(COMPRESS_FLAGS)} (default: the family's)")


def _add_machine(parser: Any) -> None:
    parser.add_argument("--crashkernel", metavar="S", help="the reservation (default: the family's)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB", help="guest memory")
    parser.add_argument("--vcpus", type=int, default=2, metavar="N", help="guest processors")


def _add_budget(parser: Any) -> None:
    parser.add_argument("--budget", type=_positive, metavar="S", help="most seconds from the panic to the login prompt")


def _add_plot(parser: Any) -> None:
    parser.add_argument("--plot", metavar="FILE", help="write the plot here, too, as .svg, .png or .pdf")


def _add_many(parser: Any) -> None:
    """The end of the options of what drills many times."""
    parser.add_argument("--keep", choices=KEEP, default="failed", help="when vmcores stay in the evidence")
    _add_jobs(parser)
    _add_resume(parser)
    _add_run_options(parser)
    _add_json(parser)


def _add_jobs(parser: Any) -> None:
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N|auto",
        help="drills side by side, as far as memory and disk allow (default: auto, which also looks at the processors;"
        " 1 with -v)",
    )


def _add_resume(parser: Any) -> None:
    parser.add_argument(
        "--resume",
        nargs="?",
        const="last",
        metavar="RUN",
        help="go on with a run that was stopped, asked for the same: what it has is not drilled again (RUN: its"
        " directory in the evidence; default: the newest)",
    )


def _jobs(text: str) -> int | None:
    """A number of jobs; None for auto."""
    if text == "auto":
        return None
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_JOBS):
        raise argparse.ArgumentTypeError(f"{text} is no number of jobs (1 to {MAX_JOBS}, or auto)")
    return int(text)


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", metavar="FILE", help="write the full result as JSON (- for standard output)")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _count(text: str) -> int:
    if not (text.isdecimal() and len(text) < 7):
        raise argparse.ArgumentTypeError(f"{text} is no number of versions")
    return int(text)


def _add_doctor(verbs: Verbs) -> None:
    parser = _verb(verbs, "doctor", "Is this host fit? What it lacks, and the one command that mends it.")
    parser.add_argument("--uri", help=URI_HELP)
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept")
    parser.add_argument("--remote-state", type=Path, metavar="DIR", help=REMOTE_STATE_HELP)
    _add_json(parser)


def _add_images(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "images",
        "The catalogue: name, family, release, source, cached or not; and the cache of downloads.",
        "examples:\n  kdump-harness images --refresh    # exit 1: a row rotted or did not answer; 3: no network\n"
        "  kdump-harness images --fetch rocky-9 'alma-*'\n"
        "  kdump-harness images --prune --dry-run",
    )
    parser.add_argument("pattern", nargs="*", help="names or globs (default: all)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--refresh", action="store_true", help="ask whether each image still exists, and whether it is newer than ours"
    )
    action.add_argument("--fetch", action="store_true", help="download today's version of the images that are named")
    action.add_argument(
        "--prune", action="store_true", help="remove superseded and unfinished downloads, and those without a row"
    )
    parser.add_argument("--keep", type=_count, metavar="N", help="--prune: how many versions of each image stay (1)")
    parser.add_argument("--dry-run", action="store_true", help="--prune: only say what would be removed")
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept")
    _add_json(parser)


def _add_drill(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "drill",
        "One full drill: boot, arm, panic, capture, fetch, verify, recover.",
        "examples:\n  kdump-harness drill debian-12\n"
        "  kdump-harness drill debian-13 --crashkernel 512M --level 1 --compress lzo\n"
        "  kdump-harness drill debian-12 --kernel bookworm-backports --firmware uefi\n"
        "  kdump-harness drill debian-12 --kernel ./mybuild --makedumpfile trixie\n"
        "  kdump-harness drill debian-12 --trigger nmi --target nfs\n"
        "  kdump-harness drill ./my.qcow2 --family debian --as-is\n"
        "  kdump-harness drill --domain myserver    # a clone of a libvirt domain, which goes on undisturbed",
    )
    _add_subject(parser, domain=True)
    parser.add_argument(
        "--makedumpfile",
        metavar="M",
        help="another makedumpfile: a suite (trixie), makedumpfile=VERSION, PACKAGE/SUITE, or package files",
    )
    parser.add_argument("--trigger", default="sysrq-c", metavar="T", help=f"how to crash: {', '.join(load_triggers())}")
    parser.add_argument(
        "--target", metavar="T", help=f"where the dump goes: {', '.join(TARGETS)} (default: local; a clone's own)"
    )
    _add_filter(parser)
    parser.add_argument(
        "--crashkernel", metavar="S", help="the reservation; none or default are allowed (default: the family's)"
    )
    parser.add_argument("--memory", type=int, metavar="MIB", help="guest memory (default: 1024; as the domain has)")
    parser.add_argument("--vcpus", type=int, metavar="N", help="guest processors (default: 2; as the domain has)")
    _add_budget(parser)
    parser.add_argument(
        "--until",
        choices=("recovered", "saved"),
        default="recovered",
        help="saved: switch the guest off when the dump is written, and judge no reboot (ext4 only)",
    )
    parser.add_argument(
        "--oracle",
        action="store_true",
        help="compare the vmcore with the memory that the hypervisor saw (needs disk for the guest's memory)",
    )
    parser.add_argument(
        "--as-is", action="store_true", help="install and configure nothing; judge the guest by its own settings"
    )
    parser.add_argument(
        "--keep-mac", action="store_true", help="a clone keeps its MACs, which its network configuration may ask for"
    )
    parser.add_argument("--keep", choices=KEEP, default="failed", help="when the vmcore stays in the evidence")
    _add_run_options(parser)
    _add_json(parser)


def _add_sweep(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "sweep",
        "The dump's size and pages by level and compression: a few real crashes, the rest computed from them.",
        "examples:\n  kdump-harness sweep debian-12\n"
        "  kdump-harness sweep debian-12 --levels 0,1,17,31 --compress none,zlib,lzo --plot sizes.png\n"
        "  kdump-harness sweep ./my.qcow2 --family debian --real all",
    )
    _add_subject(parser)
    parser.add_argument("--levels", default="0,1,16,31", metavar="N,N", help="dump levels")
    parser.add_argument(
        "--compress", default="none,zlib,lzo", metavar="C,C", help=f"compressions, of {', '.join(COMPRESS_FLAGS)}"
    )
    parser.add_argument(
        "--real",
        default="2",
        metavar="N|all",
        help="how many real crashes; the other cells are computed from the first, which dumps everything",
    )
    _add_plot(parser)
    _add_machine(parser)
    _add_budget(parser)
    _add_many(parser)


def _add_size(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "size",
        "The smallest crashkernel= that really dumps, by real crashes, and one to recommend.",
        "examples:\n  kdump-harness size debian-12 --memory 1G,2G\n"
        "  kdump-harness size debian-13 --target nfs --plot sizing.png\n"
        "  kdump-harness size ./my.qcow2 --family redhat --memory 4G --crashkernel 512M",
    )
    parser.set_defaults(module="cli.verbs.size")
    _add_subject(parser)
    parser.add_argument("--memory", default="1G", metavar="S,S", help="memory sizes of the guest")
    parser.add_argument("--vcpus", default="2", metavar="N,N", help="numbers of its processors")
    parser.add_argument("--target", default="local", metavar="T,T", help=f"where dumps go, of {', '.join(TARGETS)}")
    parser.add_argument(
        "--crashkernel", metavar="S", help="the reservation that the search begins with (default: the family's)"
    )
    _add_filter(parser)
    parser.add_argument("--step", type=int, default=4, metavar="MIB", help="how well the edge is to be known")
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="N", help="how often both sides of the edge are tried"
    )
    parser.add_argument("--crashes", type=int, default=15, metavar="N", help="most crashes for each machine")
    parser.add_argument("--no-confirm", action="store_true", help="do not drill the recommendation from the power-on")
    _add_plot(parser)
    _add_many(parser)


def _add_compare(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "compare",
        "The same drills before and after a change, in turns; what got worse.",
        "examples:\n  kdump-harness compare debian-12 --kernel linux-image-amd64 --kernel bookworm-backports\n"
        "  kdump-harness compare debian-12 --kernel ./build    # against the image's own\n"
        "  kdump-harness compare debian-12 debian-13 --only smoke --max-slower 50%\n"
        "  kdump-harness compare debian-12 --bisect --kernel OLD --kernel MIDDLE --kernel NEW\n"
        "exit status: 1 for a regression, or a first bad one",
    )
    parser.set_defaults(module="cli.verbs.compare", kernel=None, packages=None)
    _add_image(parser)
    parser.add_argument("other", metavar="IMAGE", nargs="?", help="a second image, to compare with the first")
    parser.add_argument(
        "--kernel",
        metavar="K",
        action="append",
        default=[],
        dest="kernels",
        help="the old and the new kernel, or only the new: PACKAGE, PACKAGE/SUITE, a suite, package files, or the"
        " directory of a kernel",
    )
    parser.add_argument(
        "--makedumpfile",
        metavar="M",
        action="append",
        default=[],
        dest="makedumpfiles",
        help="the old and the new makedumpfile, or only the new: a suite, makedumpfile=VERSION, or package files",
    )
    parser.add_argument(
        "--packages",
        metavar="DIR",
        action="append",
        default=[],
        dest="packages_of",
        help="the old and the new package files, or only the new",
    )
    parser.add_argument(
        "--initramfs",
        metavar="FILE",
        action="append",
        default=[],
        help="the old and the new capture initramfs, or only the new",
    )
    parser.add_argument("--bisect", action="store_true", help="find the first bad one of a list, old ones first")
    parser.add_argument(
        "--scenario", metavar="S", action="append", default=[], help="drill this as well: nmi, ssh, nfs, oom, ..."
    )
    parser.add_argument("--only", metavar="S", action="append", default=[], help="drill this and nothing else")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds of all drills")
    parser.add_argument(
        "--most-rounds", type=int, default=5, metavar="N", help="rounds of drills whose difference may be noise"
    )
    parser.add_argument(
        "--max-slower", metavar="P", help="phases may take so much longer (default: 20%%, of emulated guests 50%%)"
    )
    parser.add_argument(
        "--max-larger", default="10%", metavar="P", help="dumps, pages kept and the memory needed may grow by so much"
    )
    parser.add_argument("--all", action="store_true", help="show what is the same, too")
    parser.add_argument("--junit", metavar="FILE", help="write the result as JUnit XML")
    parser.add_argument("--markdown", metavar="FILE", help="write the result for a merge request")
    _add_machine(parser)
    _add_many(parser)


def _add_subject(parser: Any, *, domain: bool = False) -> None:
    _add_image(parser, domain=domain)
    parser.add_argument(
        "--kernel",
        metavar="K",
        help="another kernel: PACKAGE, PACKAGE/SUITE, a Debian suite (bookworm-backports), package files, or a"
        " directory with vmlinuz and lib/modules/RELEASE as a build installs them (Debian family)",
    )
    parser.add_argument(
        "--packages", type=Path, metavar="DIR", help="install these .deb or .rpm files instead of the repositories'"
    )


def _add_image(parser: Any, *, domain: bool = False) -> None:
    what = parser.add_mutually_exclusive_group(required=True) if domain else parser
    what.add_argument(
        "image",
        nargs="?" if domain else None,
        metavar="IMAGE",
        help="a name of the catalogue, or a path to a qcow2 or raw file",
    )
    if domain:
        what.add_argument(
            "--domain",
            metavar="NAME",
            help="a machine of libvirt's, running or shut off: its clone is drilled, as it is, on a network of its own",
        )
    parser.add_argument("--family", metavar="F", help=f"of a file or a domain: {', '.join(load_families())}")
    parser.add_argument("--login", default="root", metavar="USER", help="of a file or a domain: who is reached by SSH")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="FILE",
        help="of a file or a domain without cloud-init: the private key that lets USER in",
    )
    parser.add_argument(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="of a file or a domain without cloud-init: has USER's password",
    )
    parser.add_argument(
        "--firmware",
        choices=("bios", "uefi", "uefi-secure"),
        help="uefi-secure is UEFI with Secure Boot (default: bios if it can)",
    )
    parser.add_argument(
        "--cpu",
        type=int,
        metavar="N",
        help="x86-64 level of the guest's processor, 1 to 3 (default: what the image needs; of a file all there is)",
    )


def _add_inspect(verbs: Verbs) -> None:
    parser = _verb(
        verbs,
        "inspect",
        "Everything about a dump file, and whether it is whole. No guest needed.",
        "examples:\n  kdump-harness inspect vmcore --triage\n"
        "  kdump-harness inspect vmcore --quick --triage --debuginfo ./vmlinux",
    )
    parser.add_argument("vmcore", metavar="VMCORE", nargs="+", help="the file, or all files of a split dump")
    parser.add_argument("--quick", action="store_true", help="do not read the pages")
    parser.add_argument("--dmesg", metavar="FILE", help="write the dump's kernel log (- for standard output)")
    parser.add_argument(
        "--triage", action="store_true", help="tell what crashed: task, stack, panic, taints; best with debug info"
    )
    parser.add_argument(
        "--debuginfo",
        type=Path,
        metavar="PATH",
        help="triage with this vmlinux, or one in this directory (default: the usual places, then debuginfod)",
    )
    parser.add_argument(
        "--debuginfo-package", action="store_true", help="triage; get Debian's -dbg package if nothing else is there"
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help="where downloaded debug info is kept")
    _add_json(parser)


def _add_diagnose(verbs: Verbs) -> None:
    parser = _verb(verbs, "diagnose", "What failed, where, and the remedy, from a console log alone.")
    parser.add_argument("log", metavar="CONSOLE.log", help="a console log, a journal's text, or a vmcore-dmesg.txt")
    parser.add_argument("--family", metavar="F", help="of the guest, when known")
    parser.add_argument("--explain", action="store_true", help="show which lines decided and what was rejected")
    _add_json(parser)


def _add_clean(verbs: Verbs) -> None:
    parser = _verb(verbs, "clean", "Removes what dead runs left behind; caches and evidence stay.")
    parser.add_argument("--uri", help=URI_HELP)
    parser.add_argument("--state", type=Path, metavar="DIR", help="where disks are kept")
    parser.add_argument("--remote-state", type=Path, metavar="DIR", help=REMOTE_STATE_HELP)
    parser.add_argument(
        "--caches",
        action="store_true",
        help="also remove cached downloads, built and armed disks; of another host's --uri, the copies there instead",
    )
    parser.add_argument(
        "--own",
        action="store_true",
        help="only domains of this state's dead runs: several states may share a host",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")
