"""The commands that an audit runs on a host: they read, and change nothing."""

from __future__ import annotations

import shlex
import zlib
from collections.abc import Mapping
from pathlib import PurePosixPath

from ...distro.config_file import ConfigFile
from ...distro.family import Family, fill
from ...kdump.capture_image.gather import probe_command
from ...kdump.guest_state import says_command, state_commands
from .place import Place

IDENTITY = {
    "system": "uname -s",
    "uid": "id -u",
    "kernel": "uname -r",
    "machine": "uname -m",
    "os_release": "cat /etc/os-release",
}
_FOUND = "yes"
_IMAGES = ("vmlinuz", "vmlinux", "image", "Image")  # of kernels in /boot, by machine and distribution

# The menu entries: GRUB's own, those of the Boot Loader Specification, and the line of unified images. Not read are the
# menus of zipl, of U-Boot and of a Raspberry Pi, and unified images that the firmware starts: they are only seen.
_ENTRIES = r"""
grep -hE '^[[:space:]]*linux(efi|16)?[[:space:]]' /boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/efi/EFI/*/grub.cfg
for entry in /boot/loader/entries/*.conf /boot/efi/loader/entries/*.conf /efi/loader/entries/*.conf; do
    [ -e "$entry" ] || continue
    echo "linux $(sed -n 's/^linux[[:space:]]*//p' "$entry") $(sed -n 's/^options[[:space:]]*//p' "$entry")"
done
grep -ahE '^kernelopts=' /boot/grub2/grubenv /boot/grub/grubenv
[ -e /etc/kernel/cmdline ] && ls /boot/efi/EFI/Linux/*.efi /efi/EFI/Linux/*.efi 2>/dev/null | grep -q . &&
    echo "linux unified-image $(cat /etc/kernel/cmdline)"
ls -d /boot/grub/grub.cfg /boot/grub2/grub.cfg /boot/loader/entries /boot/efi/loader /efi/loader \
    /etc/zipl.conf /boot/extlinux/extlinux.conf /boot/boot.scr /boot/firmware/config.txt \
    /boot/efi/EFI/Linux/*.efi /efi/EFI/Linux/*.efi 2>/dev/null | grep -q . ||
    echo "no boot loader configuration"
"""

# The size of the table of certificates (PE32+, data directory 4), which an image without a signature does not have.
# Images of s390x and ppc64le are not PE: they end with a signature as modules do (linux/module_signature.h), or do not.
_SIGNATURE = r"""
for image in %s; do
    [ -e "$image" ] || continue
    number() { od -An -tu4 -j "$1" -N 4 "$image" | tr -d ' '; }
    case $(od -An -tx1 -N 2 "$image" | tr -d ' ') in
        4d5a) echo "$image PE $(number $(($(number 60) + 24 + 112 + 36)))" ;;
        *) echo "$image appended $(tail -c 28 "$image" | grep -cx '~Module signature appended~')" ;;
    esac
    break
done"""

_WATCHDOGS = r"""
for dog in /sys/class/watchdog/watchdog*; do
    [ -e "$dog" ] || continue
    module=$(readlink -f "$dog/device/driver/module" 2>/dev/null)
    state=$(cat "$dog/state" 2>/dev/null || echo unknown)
    echo "$state|$(cat "$dog/timeout" 2>/dev/null)|${module##*/}|$(cat "$dog/identity" 2>/dev/null)"
done"""

# In the order of sysctl.d(5): by name, and of two files of one name that of the first directory. The last value counts.
# A link 99-sysctl.conf gives sysctl.conf its place; without it the file counts where no other one has the setting.
_SYSCTL_FILES = r"""
{
    [ -e /etc/sysctl.d/99-sysctl.conf ] || echo /etc/sysctl.conf
    for file in /etc/sysctl.d/*.conf /run/sysctl.d/*.conf /usr/local/lib/sysctl.d/*.conf /usr/lib/sysctl.d/*.conf; do
        echo "${file##*/} $file"
    done | LC_ALL=C sort -s -u -k 1,1 | cut -d' ' -f2-
} | tr '\n' '\0' | xargs -0 grep -hsE '^[[:space:]]*-?kernel[./]kexec_load_disabled[[:space:]]*='"""

# The platforms on which the kernel itself sets crash_kexec_post_notifiers: drivers/hv/hv_common.c (with the sysctl),
# arch/powerpc/kernel/fadump.c, arch/x86/virt/svm/sev.c.
_NOTIFIERS_BY = """
[ ! -e /proc/sys/kernel/hyperv_record_panic_msg ] || echo Hyper-V
! grep -qsx 1 /sys/kernel/fadump/enabled || echo fadump
! grep -qsx Y /sys/module/kvm_amd/parameters/sev_snp || echo 'hosts of SEV-SNP guests'"""

_GENERAL = {
    "kernel_log": "{ dmesg || journalctl -kb --no-pager; } 2>/dev/null |"
    " grep -iE 'command line|crashkernel|kexec|lockdown' | head -n 60",
    "sysctl": "sysctl kernel.panic_on_oops kernel.sysrq kernel.unknown_nmi_panic 2>/dev/null",
    "sysctl_files": _SYSCTL_FILES,
    "notifiers": "cat /sys/module/kernel/parameters/crash_kexec_post_notifiers",
    "notifiers_by": _NOTIFIERS_BY,
    "pstore": "cat /sys/module/pstore/parameters/backend;"
    " grep -lsa '^Panic#' /sys/fs/pstore/dmesg-* /var/lib/systemd/pstore/*/dmesg* /var/lib/systemd/pstore/*/*/dmesg* |"
    " xargs -r stat -c %Y | sort -n | tail -n 1",
    "lockdown": "cat /sys/kernel/security/lockdown; od -An -tx1 -j4 -N1 /sys/firmware/efi/efivars/SecureBoot-*",
    "watchdogs": _WATCHDOGS,
    "entries": _ENTRIES,
    "mounts": "cat /proc/self/mounts",
    "fstab": "cat /etc/fstab",
    "modules": "cut -d' ' -f1 /proc/modules",
    "boot_s": "sed -n 's/^btime //p' /proc/stat",
    "firmware": "cat /sys/class/dmi/id/bios_version /sys/class/dmi/id/bios_date",
    "devices": "ls /dev/disk/by-uuid /dev/disk/by-partuuid /dev/disk/by-label 2>/dev/null",
    "platform": "[ -e /run/ostree-booted ] && echo ostree; [ -e /etc/sonic ] && echo sonic;"
    " [ -e /etc/NIXOS ] && echo nixos",
}


def identity(families: Mapping[str, Family]) -> dict[str, str]:
    """Return the first questions: whose answers choose the family's row."""
    probes = {row.probe for family in families.values() for row, _ in family.releases if row.probe}
    return IDENTITY | {_name(probe): f"{probe} && echo {_FOUND}" for probe in sorted(probes)}


def holds(answers: Mapping[str, str], probe: str) -> bool:
    """Return whether a probe succeeded on the host."""
    return answers.get(_name(probe), "").endswith(_FOUND)


def _name(probe: str) -> str:
    """Return the name of a probe's answer, which is a word."""
    return f"probe {zlib.crc32(probe.encode()):08x}"


def about_kdump(family: Family, kernel: str) -> dict[str, str]:
    """Return the questions about a host of this row."""
    config, line = family.config, family.capture_line
    files = [config.file, *([line.file] if line.file and line.file != config.file else [])]
    images = [*(f"/boot/{name}-{kernel}" for name in _IMAGES), f"/lib/modules/{kernel}/vmlinuz"]
    commands = {
        "service": f"systemctl show {family.service} -p LoadState -p ActiveState -p UnitFileState -p Result"
        " -p ActiveEnterTimestampMonotonic",
        "kernels": _kernels(family),
        "initramfs": _initramfs(family),
        "kernel_files": f"stat -Lc '%Y %s %n' {shlex.join(images)} /lib/modules/{kernel}/modules.dep",
        "signature": _SIGNATURE % shlex.join(images),
        "config_files": f"stat -Lc '%Y %s %n' {shlex.join(files)}",
    }
    if line.file and line.file != config.file:
        commands["capture_line"] = f"cat {shlex.quote(line.file)}"
    if line.default:
        commands["capture_default"] = line.default
    for unit in save_units(family):
        commands[f"unit {unit}"] = f"systemctl show {unit} -p UMask -p ExecStartPre -p ExecCondition"
    if family.commands.estimate:
        commands["estimate"] = family.commands.estimate
    commands = {**state_commands(family), **_silent(_GENERAL | commands), "says": says_command(family)}
    if config.syntax == "assignment":
        commands["config_check"] = f"sh -n {shlex.quote(config.file)} && echo understood"
    return commands


def _silent(commands: Mapping[str, str]) -> dict[str, str]:
    """Return the commands without their error messages, which are not an answer."""
    return {name: f"{{ {command}\n}} 2>/dev/null" for name, command in commands.items()}


def save_units(family: Family) -> tuple[str, ...]:
    """Return the units whose drop-ins make the family's defaults safe."""
    parents = [PurePosixPath(path).parent.name for path in family.drop_ins]
    return tuple(dict.fromkeys(name.removesuffix(".d") for name in parents if name.endswith(".service.d")))


def _kernels(family: Family) -> str:
    """Return the command that lists the installed kernels, and the running one wherever its image is."""
    return f"{{ {family.commands.kernels}; uname -r; }} | sort -u"


def _initramfs(family: Family) -> str:
    """Return the command that lists the capture initramfs of each kernel: release, time, size, first bytes, path."""
    paths = " ".join(fill(path, kernel='"$k"') for path in family.capture_initramfs)  # the shell expands patterns
    return (
        f'for k in $({_kernels(family)}); do for f in {paths}; do [ ! -e "$f" ] || echo'
        ' "$k $(stat -Lc "%Y %s" "$f") $(head -c 6 "$f" | od -An -tx1 | tr -d " \\n") $f"; done; done'
    )


def about_place(family: Family, place: Place, initramfs: str) -> dict[str, str]:
    """Return the questions about the place of dumps, and about the capture initramfs that leads there."""
    quoted = shlex.quote(place.directory or "/var/crash")
    existing = f'd={quoted}; while [ ! -e "$d" ] && [ "$d" != / ]; do d=$(dirname "$d"); done'
    # A tag of virtiofs is not found as a disk, and nothing is said about it.
    reached = (place.device, "device") if place.device else (place.host, place.kind)
    commands = {
        "room": f'{existing}; df -Pk "$d"',
        "directory": f"stat -Lc '%a %U' {quoted}",
        "mount": f'{existing}; findmnt -no TARGET,SOURCE,FSTYPE,OPTIONS -T "$d" | tail -n 1',
        "mount_unit": f'{existing}; m=$(findmnt -no TARGET -T "$d" | tail -n 1);'
        ' systemctl show -p FragmentPath -- "$(systemd-escape -p --suffix=mount "$m")" 2>/dev/null',
        "stack": f"{probe_command(initramfs, place.directory or '/var/crash', *reached)} 2>/dev/null",
    }
    if place.kind == "local":
        patterns = {True: family.dumps.finished, False: family.dumps.unfinished}
        for final, globs in patterns.items():
            commands["finished" if final else "unfinished"] = _listing(
                [fill(glob, directory=place.directory) for glob in globs]
            )
        if family.dumps.companion:  # of the newest dump; one that cannot be read gives no answer
            commands["companion"] = (
                f"f=$({commands['finished']} | tail -n 1 | cut -d'|' -f4-); r=${{f%/*}}/{family.dumps.companion};"
                ' if [ -s "$r" ]; then head -c 4096 "$r" 2>/dev/null; else echo absent; fi'
            )
    if place.kind in ("ssh", "nfs"):
        commands["server_addresses"] = (
            f"n={shlex.quote(place.host)}; h=$(ssh -G -- \"$n\" 2>/dev/null | sed -n 's/^hostname //p');"
            ' getent ahosts "${h:-$n}" | cut -d" " -f1 | sort -u'
        )
        commands["own_addresses"] = "ip -o addr show | sed -n 's/.* inet6* \\([^ /]*\\).*/\\1/p'"
    if place.kind == "ssh":
        commands |= _about_ssh(place)
    elif place.kind == "nfs":
        commands["nfs"] = (
            "command -v mount.nfs || echo 'mount.nfs is not installed';"
            f" timeout 10 bash -c {shlex.quote(f'exec 3<>/dev/tcp/{place.host}/2049')} && echo reached"
        )
    elif place.kind == "device":
        device = shlex.quote(place.device)
        commands["device"] = (
            f'found=$(findfs {device} 2>/dev/null || ls {device}) && echo "$found" &&'
            ' { findmnt -rno TARGET,OPTIONS "$found" ||'
            ' findmnt --fstab -rno TARGET,OPTIONS --source "$found" | sed "s/^/fstab /"; }'
        )
    if initramfs and (contents := family.commands.contents):
        listing = fill(contents, initramfs=shlex.quote(initramfs))
        # Modules, programs, and keys: where Debian's cryptsetup puts them, or at their own paths.
        commands["contents"] = (
            "keys=$(awk '$3 ~ /^\\// { printf \" %s \", substr($3, 2) }' /etc/crypttab 2>/dev/null);"
            f' {listing} 2>/dev/null | awk -v keys="$keys" \'NF > 1 {{ bytes += $5;'
            ' name = $(NF - 1) == "->" ? $(NF - 2) : $NF } /\\.ko|bin\\/|lib\\/systemd\\/|cryptroot\\/keyfiles\\/./'
            ' || index(keys, " " name " ") { print name } END { print "bytes", bytes }\''
        )
    return commands


def _listing(globs: list[str]) -> str:
    return (
        f'for f in {" ".join(globs)}; do [ -e "$f" ] && stat -c \'%Y|%s|%a|%n\' "$f"; done | sort -n | tail -n 20'
        if globs
        else ":"
    )


def _about_ssh(place: Place) -> dict[str, str]:
    """Return the questions that log in to the dump server as kdump does, and write nothing there."""
    where = shlex.quote(place.directory)
    remote = (
        f'd={where}; while [ ! -e "$d" ] && [ "$d" != / ]; do d=$(dirname "$d"); done;'
        ' test -w "$d" && echo writable; df -Pk "$d"'
    )
    settings = {"BatchMode": "yes", "StrictHostKeyChecking": "yes", "UpdateHostKeys": "no", "ConnectTimeout": "10"}
    if place.port:
        settings["Port"] = place.port
    if place.host_key:
        settings["GlobalKnownHostsFile"] = "/dev/null"
    if place.host_key == "*":
        settings |= {"StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null"}
    options = [f"-o {shlex.quote(f'{name}={value}')}" for name, value in settings.items()]
    keys, start, end = shlex.join(place.keys), "", ""
    if len(place.keys) > 1:  # those that exist: ssh calls a missing one a problem, and kdump does not
        start = f'set --; for key in {keys}; do [ ! -e "$key" ] || set -- "$@" -i "$key"; done; '
        options = ['"$@"', *options]
    else:
        options = [f"-i {keys}", *options]
    if place.host_key not in ("", "*"):  # in a file for this login; /run is in memory
        line = shlex.quote(f"* {place.host_key}")
        start += f"known=$(mktemp -p /run || mktemp); printf '%s\\n' {line} > \"$known\"; "
        options.append('-o UserKnownHostsFile="$known"')
        end = '; rm -f "$known"'
    to = f"{' '.join(options)} {shlex.quote(place.host_with_user)}"
    login = f"echo pwd | sftp -b - {to}" if place.sftp else f"ssh -n {to} {shlex.quote(f'sh -c {shlex.quote(remote)}')}"
    return {"key": f"stat -Lc '%a %U' {keys}", "login": f'({start}{login}; echo "status $?"{end})'}


def understood_names(config: ConfigFile) -> frozenset[str]:
    """Return the names that a directive of the configuration may have."""
    return frozenset(filter(None, [*config.keys.values(), *config.old_keys.values(), *config.other_keys]))
