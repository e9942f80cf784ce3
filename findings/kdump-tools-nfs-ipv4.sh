#!/bin/sh
# Debian: kdump-tools cannot dump to an NFS server that has IPv6 addresses only.
#
# It mounts the server with the option tcp. mount.nfs then takes IPv4 addresses only, as if it were proto=tcp and not
# proto=tcp6, and does not find the server. Without the option it would take both. SSH has no such limit.
# Versions: kdump-tools 1:1.8.1 and 1:1.10.9, nfs-common 1:2.6.2-4+deb12u1. Needs apt-get, curl, dpkg-deb, unshare, ip and
# the libraries of Kerberos (libgssapi-krb5-2).
set -eu

# The mirror of the host's own apt, unless KDUMP_HARNESS_MIRROR names one.
mirror=${KDUMP_HARNESS_MIRROR:-$(apt-get indextargets --no-release-info --format '$(SITE)' 'Created-By: Packages' |
    grep -v security | head -n 1)}
[ -n "$mirror" ] || { echo "no mirror: set KDUMP_HARNESS_MIRROR to that of a Debian archive" >&2; exit 1; }
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cd "$place"
curl -fsSo old.deb "$mirror/pool/main/k/kdump-tools/kdump-tools_1.8.1_amd64.deb"
curl -fsSo new.deb "$mirror/pool/main/k/kdump-tools/kdump-tools_1.10.9_amd64.deb"
curl -fsSo nfs.deb "$mirror/pool/main/n/nfs-utils/nfs-common_2.6.2-4+deb12u1_amd64.deb"
curl -fsSo tirpc.deb "$mirror/pool/main/libt/libtirpc/libtirpc3_1.3.3+ds-1_amd64.deb"
for package in old new nfs tirpc; do dpkg-deb -x $package.deb $package; done

fails() {
    echo "changed: $1" >&2
    exit 1
}

for version in old new; do
    found=$(grep -h 'MOUNTOPTS="-o' $version/usr/sbin/kdump-config) || fails "the options of kdump-config"
    echo "kdump-tools: $found"
    case $found in *"-o tcp "*) ;; *) fails "kdump-tools gives other options" ;; esac
done

# A network without an NFS server: the address is looked up before anything is sent.
says() {
    LD_LIBRARY_PATH=$(echo "$place"/tirpc/*/x86_64-linux-gnu "$place"/tirpc/usr/lib/x86_64-linux-gnu | tr ' ' ':') \
        unshare --map-root-user --net sh -c "ip link set lo up
            timeout 10 nfs/sbin/mount.nfs -v -o nolock,soft,retry=0$1 '[::1]:/srv' /mnt" 2>&1 || true
}

said=$(says ,tcp)
echo "mount.nfs -o tcp: $(echo "$said" | grep resolve)"
echo "$said" | grep -q 'Failed to resolve server ::1' || fails "mount.nfs finds an IPv6 server with the option tcp"
for option in "" ,proto=tcp6; do
    said=$(says "$option")
    echo "mount.nfs${option:+ -o }${option#,}: $(echo "$said" | grep -m 1 'trying text-based options')"
    echo "$said" | grep -q 'addr=::1' || fails "mount.nfs does not find an IPv6 server${option:+ with }${option#,}"
done
