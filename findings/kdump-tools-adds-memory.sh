#!/bin/sh
# Debian: the capture kernel adds the crashed kernel's DIMMs to its own memory, and writes into what it dumps.
#
# Kernels since Debian 13 (and of bookworm-backports) bring memory online that ACPI adds; Red Hat's and SUSE's kdump pass
# acpi_no_memhotplug to the capture kernel, kdump-tools does not. With a DIMM of 1 GiB page tables of the crashed kernel
# were overwritten (6.12.95), and makedumpfile ended with status 0.
# Versions: kdump-tools 1:1.10.9, linux-image-6.12.95+deb12-cloud-amd64 6.12.95-1~bpo12+1. Needs apt-get, curl and dpkg-deb.
set -eu

# The mirror of the host's own apt, unless KDUMP_HARNESS_MIRROR names one.
mirror=${KDUMP_HARNESS_MIRROR:-$(apt-get indextargets --no-release-info --format '$(SITE)' 'Created-By: Packages' |
    grep -v security | head -n 1)}
[ -n "$mirror" ] || { echo "no mirror: set KDUMP_HARNESS_MIRROR to that of a Debian archive" >&2; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
kernel=6.12.95+deb12-cloud-amd64
curl -fsSo kdump-tools.deb "$mirror/pool/main/k/kdump-tools/kdump-tools_1.10.9_amd64.deb"
curl -fsSo linux-image.deb "$mirror/pool/main/l/linux-signed-amd64/linux-image-${kernel}_6.12.95-1~bpo12+1_amd64.deb"
dpkg-deb -x kdump-tools.deb tree
dpkg-deb -x linux-image.deb tree

fails() {
    echo "changed: $1" >&2
    exit 1
}

for option in CONFIG_ACPI_HOTPLUG_MEMORY=y CONFIG_MEMORY_HOTPLUG_DEFAULT_ONLINE=y; do
    grep -x "$option" "tree/boot/config-$kernel" || fails "$option is not set in $kernel"
done

arguments=$(grep -rh 'reset_devices' tree/usr tree/etc | grep -m 1 'systemd.unit=kdump-tools-dump.service')
echo "kdump-tools: $arguments"
[ -n "$arguments" ] || fails "the arguments of the capture kernel"
! grep -rq acpi_no_memhotplug tree/usr/sbin tree/usr/share/kdump-tools tree/etc || fails "kdump-tools knows acpi_no_memhotplug"
echo "kdump-tools: acpi_no_memhotplug is not among them"
