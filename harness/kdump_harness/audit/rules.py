"""The rules of an audit: each looks at the facts of a host and yields what speaks against a good vmcore."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..base.crashkernel import AUTO, WordRefused, amounts, main_word
from ..base.units import MIB
from ..campaigns.size.model import Request, load_table, shipped_model
from ..diagnosis import diagnose_text
from ..distro.family import fill
from ..drill.known_issues import DRILL, load_known_issues
from ..kdump.capture_image.judge import judge as judge_image
from .asking.questions import save_units, understood_names
from .facts import Facts
from .finding import Finding, failure, note, risk, span

# The first bytes of an initramfs: cpio archives, and what the kernel unpacks (lib/decompress.c).
_ARCHIVES = (
    "303730373031",
    "303730373032",
    "c771",
    "71c7",
    "1f8b",
    "1f9e",
    "425a68",
    "5d0000",
    "fd377a585a00",
    "894c5a",
    "02214c18",
    "28b52ffd",
)
_CLOCK_SLACK_S = 120  # between files that one installation writes
_MARGIN = 1.15  # the limit differs between boots, and machines have more devices than guests
_IN_USE_MIB = 24  # by a capture kernel itself, at least
_READABLE_BITS = 0o077


def loaded(facts: Facts) -> Iterator[Finding]:
    """Look whether a capture kernel is loaded, by the family's service, and stays so after a change."""
    state, service = facts.state, facts.service
    unit = facts.family.service
    enabled = service.get("UnitFileState", "")
    off, turn_on = _turned_off(facts)
    if not state.loaded:
        found = diagnose_text(
            facts.text("kernel_log") + "\n" + facts.text("says"),
            family=facts.family.name,
            facts={"kernel": state.kernel, "crashkernel": state.crashkernel or ""},
        )
        causes = [one for one in found.symptoms if one.severity == "failure"]
        specific = [one for one in causes if one.name != "service-not-started"]
        for cause in specific:
            yield failure(cause.name, cause.line.strip()[:300], meaning=cause.meaning, remedy=cause.remedy)
        if not specific and (state.reserved.fixed_bytes or state.fadump):
            if off:
                yield failure("service-not-started", f"{off}, with which {unit} loads nothing", remedy=turn_on)
                return
            active = service.get("ActiveState", "unknown")
            sign = "fadump/registered" if state.fadump else "kexec_crash_loaded"
            seen = f"{sign} is 0; {unit} is {active}, {enabled or 'unknown'}"
            yield failure("capture-kernel-unloaded" if active == "active" else "service-not-started", seen)
        return
    now, later = ("a capture kernel is loaded", "loads none")
    if state.fadump:
        now, later = ("fadump is registered", "may not register it")
    if enabled and enabled not in ("enabled", "enabled-runtime", "static", "generated", "indirect"):
        yield risk("service-not-started", f"{now}, and {unit} is {enabled}: the next boot {later}")
    if off:
        yield risk("service-not-started", f"{now}, and {off}: the next boot {later}", remedy=turn_on)
    yield from _before_change(facts)


def _before_change(facts: Facts) -> Iterator[Finding]:
    """Compare the files of the configuration with the time when the service loaded the capture kernel."""
    loaded_s, image = facts.loaded_s, facts.initramfs
    late = [file for file in facts.files("config_files") if loaded_s and file.changed_s > loaded_s + 1]
    # kdumpctl restart builds and loads without systemd, so the time of the service stays.
    by_hand = not facts.family.commands.arm.startswith("systemctl ")
    built_s = image.changed_s if image and by_hand else 0
    unknown = [file for file in late if facts.is_packed(file) and built_s > file.changed_s]
    for file in sorted(late, key=lambda file: (file not in unknown, file.changed_s))[-1:]:
        seen = f"{file.path} was changed {span(file.changed_s - (loaded_s or 0))} after kdump was loaded"
        if file in unknown:
            seen += f" by {facts.family.service}; the capture initramfs was built since, maybe by kdumpctl restart"
            yield note("loaded-before-change", seen)
        else:
            yield risk("loaded-before-change", seen)


def _turned_off(facts: Facts) -> tuple[str, str]:
    """Return the setting with which the service loads nothing, and the remedy; empty where it may load."""
    config = facts.family.config
    value = config.get(facts.config, "enabled") or ""
    if not config.off or not re.search(config.off, value):
        return "", ""
    key = config.keys["enabled"]
    return f"{key} is {value!r} in {config.file}", f"echo {key}=1 >> {{file}} && systemctl restart {{service}}"


def installed(facts: Facts) -> Iterator[Finding]:
    """Look whether kdump's packages are there."""
    if not is_installed(facts):
        unit = facts.family.service
        yield failure("kdump-not-installed", f"{unit} is not found, and {facts.family.config.file} does not exist")


def is_installed(facts: Facts) -> bool:
    """Return whether the machine has the family's kdump."""
    return facts.service.get("LoadState") == "loaded" or bool(list(facts.files("config_files")))


def load_disabled(facts: Facts) -> Iterator[Finding]:
    """Look for a setting that will forbid kexec."""
    line = next(reversed(facts.text("sysctl_files").splitlines()), "")
    if facts.state.loaded and line.split("=")[-1].strip() == "1":
        yield risk(
            "kexec-load-disabled", f"{line.strip()} in a file of sysctl.d: the next boot can load no capture kernel"
        )


def reservation(facts: Facts) -> Iterator[Finding]:
    """Look at the memory that is reserved now."""
    state = facts.state
    if not state.reserved.fixed_bytes:
        try:
            asked = amounts(state.crashkernel_words, facts.memory_mib, knows_cma=state.knows_cma)
            why = asked.remarks[0] if asked.remarks else "the kernel reserved nothing"
        except WordRefused as error:
            auto = facts.why_no_auto(state.kernel) if main_word(state.crashkernel_words) == AUTO else None
            if auto is None:
                yield failure("crashkernel-syntax-invalid", str(error))
                return
            why = auto or "the kernel reserved nothing by crashkernel=auto"
        if not state.crashkernel_words:
            why = "the command line has no crashkernel="
        yield failure("no-reserved-memory", f"{why}; kexec_crash_size is 0")
        return
    for remark in state.reservation_remarks(facts.memory_mib):
        yield risk("reservation-partial", remark)


def next_boot(facts: Facts) -> Iterator[Finding]:
    """Look at each entry of the boot loader: whether its kernel would reserve memory on this machine."""
    entries = [entry for entry in facts.entries if not entry.repair]
    if not entries:
        if "no boot loader configuration" in facts.text("entries"):
            yield risk(
                "no-boot-after-dump",
                "the boot loader has no configuration: the machine may not come back after the dump",
            )
        return
    without = []
    for entry in entries:
        if entry.fadump and facts.state.fadump:
            continue
        try:
            asked = amounts(entry.words, facts.memory_mib)
            why = "" if asked.main_mib else asked.remarks[0] if asked.remarks else "no crashkernel="
        except WordRefused as error:
            auto = facts.why_no_auto(entry.name) if main_word(entry.words) == AUTO else None
            why = str(error) if auto is None else auto
        if why:
            without.append(f"{entry.name}: {why}")
    if without and (facts.state.reserved.fixed_bytes or facts.state.fadump):
        more = f" (and {len(without) - 1} more of {len(entries)} entries)" if len(without) > 1 else ""
        remedy = "Add fadump=on to all entries of the boot loader" if facts.state.fadump else ""
        yield risk("next-boot-without-reservation", f"{without[0]}{more}", remedy=remedy)


def need(facts: Facts) -> Iterator[Finding]:
    """Compare the reservation with what the capture kernel must hold at once, and with the distribution's estimate."""
    main_bytes, initramfs = facts.state.reserved.main_bytes, facts.initramfs
    if not main_bytes:
        return
    reserved_mib, measured_mib = main_bytes // MIB, facts.family.too_small_mib
    if reserved_mib <= measured_mib:
        yield failure(
            "capture-oom",
            f"{reserved_mib} MiB are reserved; in guests of {facts.family.release}, {measured_mib} MiB were too small",
        )
        return
    if reserved_mib < measured_mib * _MARGIN:
        yield risk(
            "capture-oom",
            f"{reserved_mib} MiB are reserved, hardly more than the {measured_mib} MiB that were too small in guests of"
            f" {facts.family.release}",
        )
    if initramfs and facts.unpacked_bytes:
        least = initramfs.size_bytes + facts.unpacked_bytes + _IN_USE_MIB * MIB
        if main_bytes < least:
            yield failure(
                "capture-oom",
                f"{main_bytes // MIB} MiB are reserved; the capture initramfs needs {initramfs.size_bytes // MIB} MiB"
                f" packed and {facts.unpacked_bytes // MIB} MiB unpacked, and the kernel {_IN_USE_MIB} MiB or more",
            )
            return
    yield from _by_model(facts, reserved_mib)
    suggested = re.findall(facts.family.suggestion, facts.text("estimate")) if facts.family.suggestion else []
    if suggested and (wanted_mib := sum(map(int, suggested))) > main_bytes // MIB:
        yield note(
            "reservation-below-estimate",
            f"{main_bytes // MIB} MiB are reserved, the distribution's tool suggests {wanted_mib} MiB",
        )


def _by_model(facts: Facts, reserved_mib: int) -> Iterator[Finding]:
    """Compare the reservation with the least that the size model predicts for a machine like this."""
    image = facts.initramfs
    if image is None:
        return
    packed_mib = image.size_bytes / MIB
    userland = "kdump-utils" if facts.family.config.in_initramfs else "kdump-tools"
    named = {*facts.contents, facts.place.kind, userland}
    request = Request(
        memory_mib=facts.memory_mib,
        vcpus=facts.state.cpus,
        kernel=facts.state.kernel,
        packed_mib=packed_mib,
        unpacked_mib=max(packed_mib, facts.unpacked_bytes / MIB),  # where it could not be listed, at least that
        parts=tuple(part.name for part in load_table().part if part.name in named),
    )
    found = shipped_model().predict(request)
    if reserved_mib < found.low_mib:
        yield risk(
            "capture-oom",
            f"{reserved_mib} MiB are reserved; by the size model this machine needs {found.low_mib} to"
            f" {found.high_mib} MiB, most of it for {found.dominant.name}",
        )


def initramfs(facts: Facts) -> Iterator[Finding]:
    """Look at the capture initramfs: its age, its content, and the drivers that it needs."""
    image, state = facts.initramfs, facts.state
    if state.fadump:  # the machine's own initramfs starts the dump, too
        yield from _lacks(facts)
        return
    if image is None:
        if facts.root and state.loaded and facts.text("kernels"):
            yield risk(
                "capture-initramfs-not-built",
                f"{fill(facts.family.capture_initramfs[0], kernel=state.kernel)} does not exist",
            )
        return
    if image.first_bytes and not image.first_bytes.startswith(_ARCHIVES):
        yield failure("capture-init-failed", f"{image.path} is not an initramfs: it begins with {image.first_bytes}")
        return
    newer = [file for file in facts.files("kernel_files") if file.changed_s > image.changed_s + _CLOCK_SLACK_S]
    if facts.family.config.in_initramfs:
        # kdumpctl (check_files_modified) looks at the list of modules for the sake of extra_modules only.
        if not facts.family.config.get(facts.config, "modules"):
            newer = [file for file in newer if not file.path.endswith("/modules.dep")]
        packed = [file for file in facts.files("config_files") if facts.is_packed(file)]
        newer += [file for file in (*packed, *facts.files("key")) if file.changed_s > image.changed_s + 1]
    for file in newer:
        yield risk(
            "initramfs-outdated", f"{file.path} is {span(file.changed_s - image.changed_s)} newer than {image.path}"
        )
    yield from _lacks(facts)


def _lacks(facts: Facts) -> Iterator[Finding]:
    """Compare the capture initramfs with what it must reach."""
    for lack in judge_image(facts.image):
        reason = failure if lack.sure else risk
        yield reason(lack.symptom, str(lack), remedy=lack.remedy)


def capture_line(facts: Facts) -> Iterator[Finding]:
    """Look at the command line of the capture kernel."""
    if not facts.family.config.in_initramfs:
        yield from _root_device(facts)
    append = facts.capture_append.split()
    for word in facts.text("capture_default").split():
        if word.startswith("systemd.unit=") and append and word not in append:
            yield risk(
                "capture-unit-missing",
                f"{facts.family.capture_line.append} lacks {word}: the capture kernel starts the whole system",
            )
    if facts.state.acpi_memory and "acpi_no_memhotplug" not in facts.capture_arguments.split():
        yield risk(
            "capture-memory-taken",
            f"{facts.state.acpi_memory} ACPI memory devices, and no acpi_no_memhotplug for the capture kernel",
        )


def _root_device(facts: Facts) -> Iterator[Finding]:
    """Compare root= of a capture kernel that boots the whole system with the machine's disks."""
    roots = re.findall(r"(?<!\S)root=((?:PART)?UUID|LABEL)=\"?([^\s\"]+)", facts.capture_arguments)
    names = set(facts.text("devices").split())
    if roots and names and roots[-1][1].replace("/", r"\x2f") not in names:
        yield failure(
            "capture-no-root-device", f"root={'='.join(roots[-1])} of the capture kernel is not a disk of this machine"
        )


def configuration(facts: Facts) -> Iterator[Finding]:
    """Look at the configuration as the installed programs read it."""
    family, config = facts.family, facts.config
    if family.config.syntax == "assignment":
        said = facts.text("config_check")
        if said and "understood" not in said.split():
            yield failure("config-invalid", said.splitlines()[0][:300])
    else:
        for line in config.splitlines():
            name = line.split("#")[0].split(maxsplit=1)[:1]
            if name and name[0] not in understood_names(family.config):
                yield risk(
                    "config-invalid",
                    f"{family.config.file}: {line.strip()[:200]!r} is not a setting of {family.release or family.name}",
                )
    if facts.state.refused:
        yield failure("no-dump-configured", facts.state.refused)
    for remark in facts.state.collection_remarks():
        yield risk("collector-misread", remark)
    waits = family.config.get(config, "on_failure") or ""
    if family.config.waits and re.search(family.config.waits, waits):
        seen = f"{family.config.keys['on_failure']} is {waits!r}: after a failed dump the machine does not come back"
        if re.search("[;&|\"']", waits):
            seen += " (its words are run as they are, without a shell)"
        yield risk("kdump-emergency-shell", seen)
    if before := family.config.get(config, "before"):
        yield risk("program-before-dump", f"{family.config.keys['before']} runs {before!r} before the dump")
    for unit in save_units(family):
        for program in re.findall(r"^ExecStartPre=\{ path=(\S+)", facts.text(f"unit {unit}"), re.MULTILINE):
            yield risk("program-before-dump", f"{unit} runs {program} before the dump")


def makedumpfile(facts: Facts) -> Iterator[Finding]:
    """Compare makedumpfile with the kernel, by the table of known issues."""
    state = facts.state
    if state.makedumpfile is None:
        if not state.elf:
            said = facts.text("makedumpfile").split("\n")[0][:200]
            yield failure("makedumpfile-missing", said or "makedumpfile prints no version")
        return
    versions = {"kernel": state.kernel, "makedumpfile": state.makedumpfile}
    issues = [one for one in load_known_issues() if one.covers(**versions, level=state.level or 0, scenario=DRILL)]
    if not issues:
        return
    checks = " and ".join(dict.fromkeys(name for issue in issues for name in issue.failed_checks))
    trackers = ", ".join(dict.fromkeys(issue.tracker for issue in issues))
    seen = f"{checks} fails with makedumpfile {state.makedumpfile} and Linux {state.kernel} ({trackers})"
    # Other distributions may have the correction in an older version.
    drilled = any(issue.is_of(state.os_release.get("ID", "")) for issue in issues)
    yield failure("known-issue", seen) if drilled else risk("known-issue", seen)


def permissions(facts: Facts) -> Iterator[Finding]:
    """Look whether users of the machine may read a dump, and whether ssh accepts its key."""
    directory = re.match(r"([0-7]{3,4}) root$", facts.text("directory"))
    private = directory is not None and not int(directory[1], 8) & _READABLE_BITS
    for unit in save_units(facts.family):
        mask = re.search(r"^UMask=([0-7]+)$", facts.text(f"unit {unit}"), re.MULTILINE)
        if facts.place.kind == "local" and not private and mask and int(mask[1], 8) & _READABLE_BITS != _READABLE_BITS:
            yield risk("permissions", f"{unit} writes with umask {mask[1]}: every user may read the dump")
    readable = [dump for dump in facts.dumps("finished") if dump.mode & _READABLE_BITS]
    if readable and not private:
        newest = readable[-1]
        yield note("permissions", f"{newest.path} has mode {newest.mode:04o}")
    modes = re.findall(r"^([0-7]{3,4}) ", facts.text("key"), re.MULTILINE)
    if modes and not facts.place.password and all(int(mode, 8) & _READABLE_BITS for mode in modes):
        seen = f"{' '.join(facts.place.keys)} has mode {modes[0]}: ssh ignores a key that others may read"
        yield failure("ssh-auth-failed", seen)


def policies(facts: Facts) -> Iterator[Finding]:
    """Look at the settings of the running kernel that decide what becomes a panic, and what runs before the dump."""
    if facts.text("notifiers").strip() in ("Y", "1"):
        seen = "crash_kexec_post_notifiers is on: notifiers of the crashed kernel run before the dump"
        platform = facts.text("notifiers_by").split("\n")[0][:80]
        if platform:
            yield note("notifiers-before-dump", f"{seen}; the kernel itself sets it on {platform}")
        else:
            yield risk("notifiers-before-dump", seen)
    for setting, name in (
        ("kernel.panic_on_oops", "oops-no-panic"),
        ("kernel.sysrq", "sysrq-disabled"),
        ("kernel.unknown_nmi_panic", "nmi-no-panic"),
    ):
        if facts.sysctl.get(setting) == "0":
            yield note(name, f"{setting} is 0")
    for line in facts.text("watchdogs").splitlines():
        state, _, rest = line.partition("|")
        timeout, _, rest = rest.partition("|")
        module, _, identity = rest.partition("|")
        served = not module or not facts.contents or module.replace("-", "_") in facts.contents
        if state == "active" and not served:
            yield risk(
                "watchdog-reset",
                f"the watchdog {identity or module} runs ({timeout} s), and {module} is not in the capture initramfs",
            )


def _refuted(facts: Facts) -> str:
    """Return what the file next to the newest dump says against it, or nothing."""
    dumps, said = facts.family.dumps, facts.text("companion")
    if not dumps.companion:
        return ""
    if said.strip() == "absent":
        return f"{dumps.companion} is missing next to it, or empty"
    found = re.search(dumps.refuted, said)
    return f"{dumps.companion} says {found.group().strip()[:200]!r}" if found else ""


def past(facts: Facts) -> Iterator[Finding]:
    """Look at the last dump, and at the last drill of this machine."""
    finished, unfinished = facts.dumps("finished"), facts.dumps("unfinished")
    if unfinished and unfinished[-1].changed_s > max((dump.changed_s for dump in finished), default=0):
        yield risk("last-dump-unfinished", f"{unfinished[-1].path}: the last crash left no finished dump")
    empty = next((dump for dump in reversed(finished) if not dump.size_bytes), None)
    if empty:
        yield risk("last-dump-unfinished", f"{empty.path} is empty")
    if finished and (why := _refuted(facts)):
        yield risk("last-dump-unfinished", f"{finished.pop().path}: {why}")
    newest = facts.newest
    success = facts.success
    local_s = max((dump.changed_s for dump in finished if dump.size_bytes), default=0)
    success_s = max(success.at_s if success else 0, local_s)
    seen = success.seen if success and success.at_s >= local_s else "dump on this machine"
    if not success_s:
        yield note("never-tested", "no finished dump is there, and the history has no verified drill of this machine")
    elif newest and newest.changed_s > success_s:
        yield note(
            "changed-since-test", f"{newest.path} changed {span(newest.changed_s - success_s)} after the last {seen}"
        )
    elif success and success.firmware and success.firmware != facts.firmware:
        yield note(
            "changed-since-test", f"the firmware {success.firmware!r} became {facts.firmware!r} after the last {seen}"
        )


def access(facts: Facts) -> Iterator[Finding]:
    """Say where the audit could not look."""
    if not facts.root:
        yield risk("not-root", "sudo without a password is refused: what only root may read was not examined")
    if facts.remark:
        yield note("release-not-in-table", facts.remark)
