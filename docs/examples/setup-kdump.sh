#!/bin/sh
# A site's own set-up of kdump on Debian: kdump-harness drill debian-12 --arm-with setup-kdump.sh
set -eu

apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends kdump-tools makedumpfile initramfs-tools-core
sed -i 's/^USE_KDUMP=.*/USE_KDUMP=1/' /etc/default/kdump-tools

# Dumps hold every secret of the machine, and kdump-config writes them with the umask that it finds.
mkdir -p /etc/systemd/system/kdump-tools-dump.service.d
printf '[Service]\nUMask=0077\n' > /etc/systemd/system/kdump-tools-dump.service.d/umask.conf

# The packaged file reserves too little for Debian's own initramfs.
# shellcheck disable=SC2016  # grub-mkconfig expands the variable
echo 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=288M"' > /etc/default/grub.d/kdump-tools.cfg
update-grub
/etc/kernel/postinst.d/kdump-tools "$(uname -r)"
