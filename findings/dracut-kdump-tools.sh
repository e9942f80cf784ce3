#!/bin/sh
# Debian sid: with dracut, which its kernels prefer, kdump-tools builds no capture initramfs and says nothing.
#
# The hook of kdump-tools ends with status 0, without output, where /usr/sbin/mkinitramfs is missing. That program is in
# initramfs-tools-core, which kdump-tools only recommends. The service then fails with "KDUMP_INITRD does not exist".
# Versions: kdump-tools 1:1.10.9, linux-image-7.2.13+deb14-cloud-amd64 7.2.13-1. Needs apt-get, curl, dpkg-deb and unshare.
set -eu

# The mirror of the host's own apt, unless KDUMP_HARNESS_MIRROR names one.
mirror=${KDUMP_HARNESS_MIRROR:-$(apt-get indextargets --no-release-info --format '$(SITE)' 'Created-By: Packages' |
    grep -v security | head -n 1)}
[ -n "$mirror" ] || { echo "no mirror: set KDUMP_HARNESS_MIRROR to that of a Debian archive" >&2; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
kernel=7.2.13+deb14-cloud-amd64
curl -fsSo kdump-tools.deb "$mirror/pool/main/k/kdump-tools/kdump-tools_1.10.9_amd64.deb"
curl -fsSo linux-image.deb "$mirror/pool/main/l/linux-signed-amd64/linux-image-${kernel}_7.2.13-1_amd64.deb"
dpkg-deb -x kdump-tools.deb tree

fails() {
    echo "changed: $1" >&2
    exit 1
}

expect() { # FILE FIELD PATTERN
    value=$(dpkg-deb -f "$1" "$2")
    echo "$1 $2: $value"
    echo "$value" | grep -Eq "$3" || fails "$2 of $1"
}

expect linux-image.deb Depends '(^|, )dracut \| initramfs-tools'
expect kdump-tools.deb Recommends 'initramfs-tools-core'
! dpkg-deb -f kdump-tools.deb Depends | grep -q initramfs || fails "kdump-tools depends on an initramfs generator"

# In a private mount namespace, so that a host with initramfs-tools is like one without.
status=0
# shellcheck disable=SC2016
said=$(unshare --map-root-user --mount sh -c '
    test ! -e /usr/sbin/mkinitramfs || mount --bind /dev/null /usr/sbin/mkinitramfs
    exec sh tree/etc/kernel/postinst.d/kdump-tools "$1"' - "$kernel" 2>&1) || status=$?
echo "the hook of kdump-tools for $kernel, without mkinitramfs: status $status, output '$said'"
[ "$status" = 0 ] && [ -z "$said" ] || fails "the hook says that it builds nothing"
