# Functions and variables that the shapes' scripts share. The scripts are run one after the other, by the same shell, in the
# order of the tables: from the disk, or the card, upwards. A family's own are in FAMILY.sh.
#
#   DISKS       devices of the storage so far; a script that builds on them leaves its own device there
#   DIRECTORY   directory of dumps
#   TYPE        type of the filesystem on the last device
#   SUBVOLUME   subvolume of that filesystem, mounted in its place
#   OPTIONS     its mount options
#   MDADM       file that names the arrays
#   BY_NAME     set if /etc/fstab has the device's path; by default it has the filesystem's UUID
set -e
TYPE=ext4 SUBVOLUME= OPTIONS= BY_NAME= MOUNTED=
MDADM=/etc/mdadm.conf
[ ! -d /etc/mdadm ] || MDADM=/etc/mdadm/mdadm.conf

# Make a filesystem on the last device, and mount it at $place.
make_filesystem() {
    MOUNTED=yes
    force=-f
    [ "$TYPE" != ext4 ] || force=-F
    "mkfs.$TYPE" -q $force $DISKS
    uuid=$(blkid -s UUID -o value $DISKS)
    place=$(mktemp -d)
    mount $DISKS "$place"
}

# Make a filesystem with the content of the directory, and mount it there, now and at each boot.
mount_dumps() {
    [ -n "$DISKS" ] && [ -z "$MOUNTED" ] || return 0
    make_filesystem
    if [ -n "$SUBVOLUME" ]; then
        btrfs subvolume create "$place/$SUBVOLUME"
        OPTIONS=subvol=$SUBVOLUME
    fi
    mkdir -p "$DIRECTORY"
    cp -a "$DIRECTORY/." "$place/$SUBVOLUME"
    umount "$place"
    device=UUID=$uuid
    [ -z "$BY_NAME" ] || device=$DISKS
    echo "$device $DIRECTORY $TYPE ${OPTIONS:-defaults} 0 2" >>/etc/fstab
    # The capture kernel of an emulated guest takes minutes to a device below several layers.
    if [ -z "$BY_NAME" ]; then
        mkdir -p /etc/systemd/system.conf.d
        printf '[Manager]\nDefaultDeviceTimeoutSec=15min\n' >/etc/systemd/system.conf.d/kdump-harness.conf
    fi
    systemctl daemon-reload
    mountpoint -q "$DIRECTORY" || mount "$DIRECTORY"
}
