# Functions and variables of the family debian, in addition to those of common.sh.
#
#   CARD        network interface that has the way to the dump server
#   ADDRESS     its address, with the length of the prefix; empty until take_cards
#   SUBNET      number of the network that the address belongs to
#   GATEWAY     router to the dump server, if there is one
CARD=eth1 ADDRESS= SUBNET=0 GATEWAY= LINKS=
INTERFACES=/etc/network/interfaces.d/kdump-harness

# Move the root filesystem to the last device, for the next boot. GRUB stays on the old disk, which has /boot.
move_root() {
    make_filesystem
    old=$(findmnt -n -o UUID /)
    if [ -e /etc/dumps.key ]; then
        sed -i 's/luks$/luks,initramfs/' /etc/crypttab
        printf 'KEYFILE_PATTERN=/etc/dumps.key\nUMASK=0077\n' >>/etc/cryptsetup-initramfs/conf-hook
    fi
    cp -ax /. "$place"
    mkdir "$place/old"
    {
        echo "UUID=$uuid / $TYPE defaults 0 1"
        echo "UUID=$old /old $(findmnt -n -o FSTYPE /) defaults 0 2"
        echo "/old/boot /boot none bind 0 0"
        awk '$2 != "/"' /etc/fstab
    } >"$place/etc/fstab"
    for directory in dev proc sys run boot; do mount --rbind "/$directory" "$place/$directory"; done
    chroot "$place" update-initramfs -u -k "$(uname -r)"
    sed -i "s/root=UUID=$old/root=UUID=$uuid/" /boot/grub/grub.cfg
    sync
}

# Take the cards to the dump server, and their address, from cloud-init, which would configure them at each boot.
take_cards() {
    [ -z "$ADDRESS" ] || return 0
    ADDRESS=$(ip -o -4 address show dev eth1 | awk '{print $4}')
    test -n "$ADDRESS"
    for card in /sys/class/net/eth[1-9]; do
        card=${card##*/}
        ifdown --force "$card" || true
        ip address flush dev "$card"
        for file in /etc/network/interfaces.d/*; do
            awk -v card="$card" '/^(auto|allow-hotplug|iface)/ {skip = ($2 == card)} !skip' "$file" >/tmp/interfaces
            cat /tmp/interfaces >"$file"
        done
    done
    echo 'network: {config: disabled}' >/etc/cloud/cloud.cfg.d/99-kdump-harness.cfg
}

# Add a network interface on the way to the dump server: NAME, and the lines of its stanza.
add_link() {
    take_cards
    printf 'auto %s\niface %s inet manual\n%s\n' "$1" "$1" "$2" >>$INTERFACES
    LINKS="$LINKS $1"
    CARD=$1
}

# Give the address to the last interface, and bring all of them up.
connect() {
    [ -n "$ADDRESS" ] || return 0
    kind=inet
    case $ADDRESS in *:*) kind=inet6 ;; esac
    printf 'auto %s\niface %s %s static\n    address %s\n' "$CARD" "$CARD" $kind "$ADDRESS" >>$INTERFACES
    [ -z "$GATEWAY" ] || echo "    up ip route add 198.51.100.0/24 via $GATEWAY" >>$INTERFACES
    for link in $LINKS "$CARD"; do ifup "$link"; done
}
