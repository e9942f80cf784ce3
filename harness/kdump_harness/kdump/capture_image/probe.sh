# Describe the stack below root and below the dump target: sh probe.sh INITRAMFS DIRECTORY [ADDRESS PROTOCOL | DEVICE device].
# Each line: ROLE KIND VALUE...
image=$1
drivers() {  # ROLE DIRECTORY: those of a device and of all that it hangs on
    at=$2
    while [ -n "$at" ] && [ "$at" != /sys/devices ]; do
        [ ! -e "$at/driver/module" ] || echo "$1 driver $(basename "$(readlink -f "$at/driver/module")")"
        at=${at%/*}
    done
}

block() {  # ROLE NAME
    dir=$(readlink -f "/sys/class/block/$2") || return 0
    [ ! -e "$dir/partition" ] || dir=${dir%/*}
    if [ -e "$dir/dm/uuid" ]; then
        echo "$1 dm $(cat "$dir/dm/uuid")"
        case $(cat "$dir/dm/uuid") in CRYPT-*) luks "$1" "$(cat "$dir/dm/name")" "$dir" ;; esac
    fi
    if [ -s "$dir/md/level" ]; then
        echo "$1 md $(cat "$dir/md/level")"
        case $(cat "$dir/md/degraded" 2>/dev/null) in '' | 0) ;; *) echo "$1 md-degraded $(cat "$dir/md/level")" ;; esac
    fi
    drivers "$1" "$dir"
    case $dir in */nvme-subsystem/*)  # a disk of several paths, which are links to the controllers
        for path in "${dir%/*}"/nvme*; do
            [ ! -L "$path" ] || drivers "$1" "$(readlink -f "$path")"
        done ;;
    esac
    for below in "$dir"/slaves/*; do
        [ ! -e "$below" ] || block "$1" "${below##*/}"
    done
}

luks() {  # ROLE NAME DIRECTORY: the least memory that one of the keys takes, and where its key is at the next boot
    for below in "$3"/slaves/*; do
        dump=$(cryptsetup luksDump "/dev/${below##*/}" 2>/dev/null)
        kib=$(echo "$dump" | awk '$1 == "Memory:" {print $2}' | sort -n | head -n 1)
        [ -z "$kib" ] || echo "$1 luks-memory $kib"
        # clevis and systemd bind a key to a TPM or a server; the kernel may keep one for its capture kernel.
        echo "$dump" | grep -qE 'clevis|systemd-(tpm2|fido2|pkcs11)' && echo "$1 luks-token"
    done
    for key in /sys/kernel/config/crash_dm_crypt_keys/*/; do
        [ ! -e "$key" ] || echo "$1 luks-token"
    done
    key=$(awk -v name="$2" '$1 == name {print ($3 == "" || $3 == "-" ? "none" : $3); exit}' /etc/crypttab 2>/dev/null)
    auto=$(awk -v name="$2" '$1 == name && $4 ~ /(^|,)noauto(,|$)/ {print "noauto"}' /etc/crypttab 2>/dev/null)
    echo "$1 luks-key ${key:-absent} $auto"
}

network() {  # ROLE INTERFACE
    dir=/sys/class/net/$2
    [ -e "$dir" ] || return 0
    echo "$1 net $2 $(sed -n 's/^DEVTYPE=//p' "$dir/uevent")"
    [ ! -e "$dir/device" ] || drivers "$1" "$(readlink -f "$dir/device")"
    for below in "$dir"/lower_*; do
        [ ! -e "$below" ] || network "$1" "${below##*/lower_}"
    done
}

place() {  # ROLE DIRECTORY
    mounted=$(findmnt -n -o SOURCE,FSTYPE,TARGET -T "$2" | tail -n 1)
    [ -n "$mounted" ] || return 0  # in a chroot, / is no mount
    set -- "$1" $mounted
    source=${2%%\[*}
    echo "$1 fs $3"
    echo "$1 mount $4 $source"
    # With the blocks that are reserved for root, and without those that ext4 reserves for itself.
    kept=$(cat "/sys/fs/ext4/$(basename "$(readlink -f "$source")")/reserved_clusters" 2>/dev/null)
    kib=$(stat -f -c "(%f - ${kept:-0}) * %S / 1024" "$4" 2>/dev/null)
    [ -z "$kib" ] || echo "$1 free $(($kib))"
    # Memory, or another directory of the filesystem below, may be missing at the next boot: the dump has its place.
    below=$(findmnt -n -o SOURCE -T "${4%/*}/" | tail -n 1)
    case $3 in tmpfs | ramfs) below=$source ;; esac
    if [ "$4" != / ] && [ "$source" != "${below%%\[*}" ]; then
        case ,$(findmnt --fstab -n -o OPTIONS --mountpoint "$4"), in
            ,,) unit=$(systemctl show -p WantedBy -p RequiredBy "$(systemd-escape -p --suffix=mount "$4")" 2>/dev/null)
                case $unit in *fs.target*) ;; *) echo "$1 unmounted $4" ;; esac ;;
            *,x-systemd.automount,*) ;;  # mounted by the first access
            *,noauto,*) echo "$1 unmounted $4" ;;
        esac
    fi
    case $(findmnt --fstab -n -o SOURCE --mountpoint "$4") in
        /dev/md*)
            for file in /etc/mdadm/mdadm.conf /etc/mdadm.conf; do
                [ ! "$file" -nt "$image" ] || echo "$1 stale $file"
            done ;;
    esac
    [ ! -b "$source" ] || block "$1" "$(basename "$(readlink -f "$source")")"
}

device() {  # ROLE DEVICE: one that kdump mounts itself, so it may not be mounted now
    source=$(findfs "$2" 2>/dev/null || echo "$2")
    kind=$(blkid -o value -s TYPE "$source" 2>/dev/null)
    [ -z "$kind" ] || echo "$1 fs $kind"
    [ ! -b "$source" ] || block "$1" "$(basename "$(readlink -f "$source")")"
}

place root /
if [ "$(findmnt -n -o TARGET -T /tmp | tail -n 1)" = / ]; then
    case ,$(findmnt --fstab -n -o OPTIONS --mountpoint /), in *,ro,*) echo "root read-only /tmp" ;; esac
fi
if [ "${4-}" = device ]; then
    device target "$3"
elif [ -n "${3-}" ]; then
    [ -n "$(getent ahostsv4 "$3")" ] || [ -z "$(getent ahostsv6 "$3")" ] || echo "target server $4 inet6"
    address=$(getent ahosts "$3" | awk 'NR == 1 {print $1}')
    network target "$(ip route get "${address:-$3}" | sed -n 's/.* dev \([^ ]*\).*/\1/p' | head -n 1)"
else
    directory=$2
    while [ ! -e "$directory" ]; do directory=${directory%/*}; [ -n "$directory" ] || directory=/; done
    place target "$directory"
fi
for module in /sys/module/*/initstate; do
    [ ! -e "$module" ] || { module=${module%/initstate}; echo "- loaded ${module##*/}"; }
done
