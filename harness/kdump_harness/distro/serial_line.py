"""The file that keeps a login prompt on the serial line of a guest on a slow host.

systemd waits 90 s for the device of the line, such as /dev/ttyS0. On a slow host udev may need longer: the getty of
the line then fails and is not tried again, so no login prompt comes in this boot. A drop-in of the device unit works in
every release of systemd; the kernel argument systemd.default_device_timeout_sec= would also apply to disks whose
absence a drill must notice.
"""

from __future__ import annotations


def serial_line_files(device: str) -> dict[str, str]:
    """Return the texts of the files by their paths, for a line such as ttyS0."""
    return {f"etc/systemd/system/dev-{device}.device.d/kdump-harness.conf": "[Unit]\nJobRunningTimeoutSec=infinity\n"}
