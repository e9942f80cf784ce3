#!/bin/sh
# Prepares a host: the packages of host.toml, a running libvirt, the shared state directory.
# Changes only what is missing. Run it as root, or as a user with sudo.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
state=${KDUMP_HARNESS_STATE:-/var/lib/kdump-harness}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

say() { echo "setup: $*" >&2; }

# A directory /run/systemd/system proves nothing: systemd-nspawn and other tools make it where systemd does not run.
systemd_runs() { systemctl show --property=Version 2>/dev/null | grep -q '^Version='; }

# Print the row of package_managers.toml for an ID of os-release.
row_of() {
    row=
    while IFS= read -r line; do
        case $line in
        name*) row=$(echo "$line" | cut -d '"' -f 2) ;;
        ids*\"$1\"*) echo "$row" && return ;;
        esac
    done <"$here/package_managers.toml"
}

# Print a key of a row.
setting() { sed -n "/^name .*\"$1\"/,/^\$/s/^$2 *= *\"\(.*\)\"\$/\1/p" "$here/package_managers.toml"; }

host=
# shellcheck disable=SC1090,SC2154
for id in $(. "${KDUMP_HARNESS_OS_RELEASE:-/etc/os-release}" 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}"); do
    host=${host:-$(row_of "$id")}
done
if [ "$host" = debian ]; then key=packages; else key=${host:-none}; fi

# Each package list of the table is one line, so that sed can read it before Python 3.11 is installed.
# Arguments are further tables.
packages=$(sed -n "s/^$key *= *\[\(.*\)\]/\1/p" "$here/host.toml" "$@" | tr -d '",')

if [ -z "$host" ]; then
    say "no package manager is known for this distribution: install what kdump-harness doctor misses"
else
    query=$(setting "$host" query) installed=$(setting "$host" installed)
    missing=
    for package in $packages make; do
        $query "$package" 2>/dev/null | grep -q "$installed" || missing="$missing $package"
    done
    if [ -n "$missing" ]; then
        say "installing$missing"
        # shellcheck disable=SC2046,SC2086
        [ -z "$(setting "$host" refresh)" ] || as_root $(setting "$host" refresh) >&2
        # shellcheck disable=SC2046,SC2086
        as_root $(setting "$host" quiet) $missing >&2
    fi
fi

# Without systemd-binfmt, the kernel does not know yet which emulator runs the programs of another architecture.
binfmt=/proc/sys/fs/binfmt_misc
for machine in $([ $# -eq 0 ] || sed -n 's/^machine *= *"\(.*\)"/\1/p' "$@"); do
    rule=/usr/lib/binfmt.d/qemu-$machine.conf
    if [ -e "$rule" ] && [ ! -e "$binfmt/qemu-$machine" ]; then
        say "registering QEMU's user mode emulation of $machine"
        [ -e $binfmt/register ] || as_root mount -t binfmt_misc binfmt_misc $binfmt
        as_root sh -c "cat $rule > $binfmt/register"
    fi
done

# Without udev, /dev/kvm keeps the kernel's mode 0600: root can use it, QEMU's user cannot. libvirt then discards its
# cached capabilities and probes QEMU again at every call, which takes a minute for each start of a guest.
if [ -c /dev/kvm ] && getent group kvm >/dev/null && [ "$(stat -c %a /dev/kvm)" = 600 ]; then
    say "giving /dev/kvm to the group kvm, as udev would"
    as_root chgrp kvm /dev/kvm
    as_root chmod 660 /dev/kvm
fi

# virtlogd writes the log of every domain; with systemd, its socket starts it.
if ! systemd_runs && ! pidof virtlogd >/dev/null; then
    say "starting virtlogd"
    as_root virtlogd -d
fi

# libvirtd is started by systemd, or directly where systemd does not run (containers, minimal machines).
if ! as_root virsh -q -c qemu:///system version >/dev/null 2>&1; then
    if systemd_runs && command -v virtqemud >/dev/null && ! command -v libvirtd >/dev/null; then
        say "starting the sockets of libvirt's daemons"
        as_root systemctl start virtlogd.socket virtqemud.socket virtnetworkd.socket virtstoraged.socket
    elif systemd_runs; then
        say "starting libvirtd"
        as_root systemctl start libvirtd
    elif command -v virtqemud >/dev/null && ! command -v libvirtd >/dev/null; then
        say "starting libvirt's daemons"
        for daemon in virtnetworkd virtstoraged virtqemud; do as_root "$daemon" -d; done
    else
        say "starting libvirtd"
        # Without a system bus polkit cannot authorise users of the socket, so its group does. The host's own
        # configuration comes first and wins.
        as_root mkdir -p /run/kdump-harness
        {
            cat /etc/libvirt/libvirtd.conf 2>/dev/null || true
            echo 'unix_sock_group = "libvirt"'
            echo 'unix_sock_rw_perms = "0770"'
            echo 'auth_unix_rw = "none"'
        } | as_root tee /run/kdump-harness/libvirtd.conf >/dev/null
        pidof libvirtd >/dev/null || as_root libvirtd -d -f /run/kdump-harness/libvirtd.conf
    fi
    tries=0
    until as_root virsh -q -c qemu:///system version >/dev/null 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 30 ]; then
            say "libvirt does not answer at qemu:///system after 30 s"
            exit 3
        fi
        sleep 1
    done
fi

# Members of the libvirt group share downloads and disks; QEMU's user needs search permission only.
if [ ! -d "$state" ]; then
    say "making $state for the libvirt group"
    as_root install -d -m 2775 -o root -g libvirt "$state"
fi

# libvirt's socket and the shared disks belong to the group; the Makefile uses a new membership at once by sg.
if [ "$(id -u)" -ne 0 ] && ! id -nG "$(id -un)" | tr ' ' '\n' | grep -qx libvirt; then
    say "adding $(id -un) to the group libvirt (in open sessions: log in again, or use sg libvirt)"
    as_root usermod -a -G libvirt "$(id -un)"
fi
