"""Each failure, in a small console with the words of its tools, gets its symptom."""

from __future__ import annotations

import pytest
from kdump_harness.base.stage import Stage
from kdump_harness.diagnosis import diagnose_text

FIRST_BOOT = """\
[    0.000000] Linux version 6.4.0-9-default (build@example) (gcc 13.2) #1 SMP
[    0.000000] Command line: BOOT_IMAGE=/boot/vmlinuz-6.4.0-9-default root=UUID=1234 ro console=ttyS0 crashkernel=192M
[    0.020000] Memory: 1907532K/2096612K available (16384K kernel code)
[    4.100000] systemd[1]: Reached target network.target - Network.
[  OK  ] Reached target network.target - Network.
"""
ARMED_CRASH = """\
[  712.100000] sysrq: Trigger a crash
[  712.110000] Kernel panic - not syncing: sysrq triggered crash
[  712.120000] CPU: 1 PID: 980 Comm: bash Kdump: loaded Not tainted 6.4.0-9-default #1
[  712.130000] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009)
[  712.140000] Call Trace:
[  712.150000]  panic+0x118/0x2f4
[  712.160000]  sysrq_handle_crash+0x16/0x20
"""
UNARMED_CRASH = ARMED_CRASH.replace("Kdump: loaded ", "")
CAPTURE_BOOT = """\
[    0.000000] Linux version 6.4.0-9-default (build@example) (gcc 13.2) #1 SMP
[    0.000000] Command line: elfcorehdr=0x6f000000 ro console=ttyS0 nr_cpus=1 reset_devices irqpoll
[    0.020000] Memory: 133752K/261560K available (16384K kernel code)
[    1.500000] Run /init as init process
"""
USERSPACE = "[    3.000000] systemd[1]: Starting dracut initqueue hook...\n"
REDHAT = (
    USERSPACE
    + """\
[    9.000000] kdump[301]: Kdump is using the default log level(3).
[    9.100000] kdump[310]: saving to /sysroot/var/crash/127.0.0.1-2026-01-01-00:00:00/
[    9.200000] kdump[311]: saving vmcore-dmesg.txt to /sysroot/var/crash/127.0.0.1-2026-01-01-00:00:00/
[    9.300000] kdump[312]: saving vmcore-dmesg.txt complete
[    9.400000] kdump[313]: saving vmcore
"""
)
REDHAT_SAVED = (
    REDHAT
    + """\
[   29.000000] kdump[320]: saving vmcore complete
[   29.100000] kdump[321]: Executing final action systemctl reboot -f
[   29.900000] reboot: Restarting system
"""
)
DEBIAN = """\
[    8.000000] kdump-tools[300]: Starting kdump-tools:
[    8.1] kdump-tools[305]: running makedumpfile -F -c -d 31 /proc/vmcore | compress > /var/crash/1/dump-incomplete.
"""
DEBIAN_SAVED = "[   20.000000] kdump-tools[305]: kdump-tools: saved vmcore in /var/crash/202601010000.\n"
NEXT_BOOT = FIRST_BOOT + "\nexample login: \n"
CRASHED = FIRST_BOOT + ARMED_CRASH
CAPTURING = CRASHED + CAPTURE_BOOT

FIRST_KERNEL = {
    "crashkernel-syntax-invalid": [
        "[    0.000000] crashkernel: Memory value expected",
        "[    0.000000] crashkernel: unrecognized char: x",
    ],
    "crashkernel-reservation-failed": [
        "[    0.010000] crashkernel reservation failed - No suitable area found.",
        "[    0.000000] cannot allocate crashkernel low memory (size:0x8000000).",
        "[    0.000000] Cannot reserve 256MB crashkernel low memory, please try smaller size.",
    ],
    "crashkernel-cma-failed": [
        "[    0.000000] crashkernel CMA reservation failed: 1024 MB requested, 768 MB reserved in 4 ranges",
        "[    0.000000] crashkernel CMA reservation not supported",
    ],
    "no-reserved-memory": [
        "[   20.1] kdumpctl[801]: kdump: No memory reserved for crash kernel",
        "Mar  1 10:00:00 sut load.sh[900]: No crashkernel memory reserved, Kdump cannot start.",
        "[   20.1] kdump-tools[480]: no crashkernel= parameter in the kernel cmdline ... failed!",
        'Please reserve memory by passing"crashkernel=X@Y" parameter to kernel',
    ],
    "service-not-started": [
        "kdump: Kdump is not operational",
        "/etc/default/kdump-tools: USE_KDUMP is not set or zero",
        "[   5.0] systemd[1]: kdump.service: ConditionKernelCommandLine=crashkernel was not met",
    ],
    "kexec-signature-rejected": [
        "kexec_file_load failed: Key was rejected by service",
        "kexec_load failed: Operation not permitted",
        "kexec unload failed: Permission denied",
        "[  120.1] Lockdown: kexec: kexec of unsigned images is restricted; see man kernel_lockdown.7",
        "[  120.1] kexec_file: Enforced kernel signature verification failed (-129).",
        "[  120.1] ima: impossible to appraise a kernel image without a file descriptor; try using",
    ],
    "kexec-load-disabled": ["kexec_file_load failed: Operation not permitted"],
    "kdumpctl-by-sudo": [
        "kdump: Probably you are using 'sudo kdumpctl' or 'sudo su', please retry with 'sudo -i kdumpctl'",
    ],
    "kexec-crashed": [
        "/usr/bin/kdumpctl: line 672: 661 Aborted                 (core dumped) $KEXEC $KEXEC_ARGS --initrd=$INITRD",
        "[   90.0] kexec[661]: segfault at 0 ip 000055d1 sp 00007ffe error 4 in kexec[55d1+4000]",
    ],
    "luks-target": [
        "kdump: kexec: failed to prepare for a LUKS target",
        "kdump: Device UUID=0f4c2c0d-7c4e-4d0a-9d5e-2f4b2f3b7a11 doesn't exist.",
    ],
    "config-invalid": [
        "kdump: Invalid kdump config option net foo",
        "kdump: Deprecated kdump config option: net. Refer to kdump.conf manpage for alternatives.",
        "KDUMP_SAVEDIR (ftp) is invalid",
        "kdump-tools[9]: /etc/default/kdump-tools: 9: KDUMP_CMDLINE_APPEND+=panic=1: not found",
        "kdumpctl[9]: /etc/sysconfig/kdump: line 12: syntax error near unexpected token",
        "kdump: Failed to get the driver of lo",
        "kdump: mkdumprd: Bad raw disk /dev/sdz",
    ],
    "ssh-preflight-failed": [
        'kdump: Could not create kdump@collector:/srv, you probably need to run "kdumpctl propagate"',
        "kdump: mkdir failed on kdump@collector:/srv",
    ],
    "capture-image-missing": [
        "kdump: Failed to detect kdump kernel location",
        "/etc/default/kdump-tools: KDUMP_KERNEL does not exist: /var/lib/kdump/vmlinuz",
        "Invalid symlink : /var/lib/kdump/vmlinuz",
    ],
    "capture-initramfs-not-built": [
        "/etc/default/kdump-tools: KDUMP_INITRD does not exist: /var/lib/kdump/initrd.img",
        "mkinitramfs is not installed, so kdump-tools builds no capture initramfs",
        "W: kdump-tools: dracut selected as the initramfs generator but /usr/bin/dracut was not found; skipping.",
    ],
    "initramfs-build-failed": [
        "kdump: mkdumprd: failed to make kdump initrd",
        "kdumpctl[800]: dracut: installkernel failed in module squash",
        "kdumpctl[800]: dracut-install: ERROR: installing 'overlay'",
    ],
    "kexec-load-bad-segments": [
        "Could not find a free area of memory of 0x2a8d000 bytes...",
        "locate_hole failed",
        "kexec_file_load failed: Cannot assign requested address",
        "ELF exec load failed",
    ],
    "kexec-load-unsupported": [
        "kexec_load failed: Function not implemented",
        "kdump: Kdump is not supported on this kernel",
        "kdump is not supported by this kernel ... failed!",
        "[  90.0] kexec_image: Error loading purgatory ret=-8",
    ],
    "kexec-load-busy": ["kexec_load failed: Device or resource busy"],
    "kexec-load-kcore-unreadable": ["Can't find kernel text map area from kcore"],
    "kexec-load-failed-other": [
        "kdump: kexec: failed to load kdump kernel",
        "failed to load kdump kernel ... failed!",
        "kexec failed.",
    ],
}

IN_CAPTURE = {
    "capture-oom": [
        "[    4.0] swapper/0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        "[    4.0] Out of memory: Killed process 310 (systemd-udevd) total-vm:30000kB",
        "[    4.0] Kernel panic - not syncing: System is deadlocked on memory",
        "[    1.0] Initramfs unpacking failed: write error",
        "[   20.0] qede: probe of 0000:05:00.1 failed with error -12",
        "prepare_bitmap2_buffer: Can't allocate memory for the 2nd bitmaps's buffer. Cannot allocate memory",
    ],
    "capture-init-failed": [
        "[    5.0] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00007f00",
        "/init: error while loading shared libraries: libsystemd.so: cannot open shared object file",
        "mount: unknown filesystem type 'overlay'",
        "dracut-squash-init: failed to setup loop device for /squash-root.img",
    ],
    "capture-panic": [
        "[    3.0] BUG: unable to handle page fault for address: ffff8c0000000000",
        "[    3.0] divide error: 0000 [#1] PREEMPT SMP NOPTI",
        "[    0.0] Internal error: Oops: 96000005 [#1] SMP",
        "[    3.0] Kernel panic - not syncing: Timeout: Not all CPUs entered broadcast exception handler",
        "[    3.0] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008",
        "[    3.0] Oops: Kernel access of bad area, sig: 11 [#1]",
    ],
    "capture-storage-driver-failed": [
        "[   15.0] ata1.00: failed to IDENTIFY (I/O error, err_mask=0x5)",
        "[   40.0] ata3: COMRESET failed (errno=-16)",
        "[   42.0] mpt3sas_cm0: fault_state(0x5854)!",
        "[   70.0] nvme nvme0: Device not ready; aborting reset, CSTS=0x1",
        "[   70.0] megaraid_sas 0000:03:00.0: FW in FAULT state!!",
        "[   20.0] ahci: probe of 0000:00:1f.2 failed with error -5",
    ],
    "capture-storage-driver-hung": [
        "[   63.0] systemd-udevd[180]: nvme0n1: Worker [190] processing SEQNUM=1193 is taking a long time",
        "[   63.0] nvme nvme0: I/O 5 QID 1 timeout, completion polled",
    ],
    "capture-driver-failed": ["[   20.0] mlx5_core 0000:05:00.1: probe with driver mlx5_core failed with error -110"],
    "capture-driver-hung": [
        "[   29.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [kworker/0:1:9]",
        "[  240.0] INFO: task kworker/0:1:9 blocked for more than 120 seconds.",
        "[   60.0] rcu: INFO: rcu_preempt self-detected stall on CPU",
        "[   63.0] systemd-udevd[180]: usb3: Worker [190] processing SEQNUM=1193 is taking a long time",
    ],
    "array-dirty-degraded": ["[   76.729867] md/raid:md127: cannot start dirty degraded array."],
    "luks-memory": [
        "[   73.7] __vm_enough_memory: pid: 362, comm: systemd-cryptse, no enough memory for the allocation",
        "systemd-cryptsetup[362]: Not enough available memory to open a keyslot.",
    ],
    "luks-not-opened": [
        "[FAILED] Failed to start \x1b[0;1;39msystemd-cr…\x1b[0m - Cryptography Setup for dumps.",
        "[   27.882589] systemd-cryptsetup[324]: Failed to activate, key file '/etc/dumps.key' missing.",
        "Please enter passphrase for disk dumps on /kdumproot/var/crash: (press TAB for no echo)",
        "Please unlock disk vda3_crypt: ",
    ],
    "no-temporary-files": [
        "kdump-tools[5]: copy_vmcoreinfo: Can't open the vmcoreinfo file(/tmp/vmcoreinfoyfNVVF). Read-only file system",
    ],
    "fstab-device-late": [
        "[DEPEND] Dependency failed for local-fs.target - Local File Systems.",
        "[DEPEND] Dependency failed for \x1b[0;1;39mloca…s.target\x1b[0m - Local File Systems.",
    ],
    "capture-no-root-device": [
        '[    3.0] VFS: Cannot open root device "sda2" or unknown-block(0,0): error -6',
        "[    3.0] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        "[  190.0] dracut-initqueue[290]: Warning: dracut-initqueue timeout - starting timeout scripts",
        "[  190.0] dracut-initqueue[290]: Warning: /dev/disk/by-uuid/1234 does not exist",
        "Gave up waiting for root file system device.  Common problems:",
        "ALERT!  /dev/vda2 does not exist.  Dropping to a shell!",
        "[   95.0] systemd[1]: dev-vda2.device: Job timed out: Timed out waiting for device /dev/vda2.",
    ],
    "capture-job-wait-device": ["[***   ] Job dev-disk-by\\x2duuid-12.device/start running (3min 12s / no limit)"],
    "proc-vmcore-missing": [
        "[   10.0] Kdump: vmcore not initialized",
        "[    1.0] Warning: Core image elf header not found",
        "Fatal error: /proc/vmcore does not exist; kdump initrd booted from non-kdump kernel?",
        "open_dump_memory: Can't open the dump memory(/proc/vmcore). No such file or directory",
    ],
    "network-not-ready": [
        "[  700.0] kdump[300]: Oops. The network still isn't ready after waiting 10mins.",
        "kdump-tools[305]: Network not reachable; will try 5 more times",
        "Error: Host not responding",
        "ssh: connect to host 192.0.2.9 port 22: Connection refused",
        "ping: connect: Network is unreachable",
    ],
    "nfs-mount-failed": [
        "mount.nfs: access denied by server while mounting 192.0.2.9:/srv",
        "[   90.0] nfs: server 192.0.2.9 not responding, timed out",
    ],
    "ssh-host-key": ["kdump.sh[310]: Host key verification failed."],
    "ssh-auth-failed": ["kdump.sh[310]: kdump@192.0.2.9: Permission denied (publickey,password)."],
    "target-no-space": [
        "write_buffer: Can't write the dump file(/var/crash/x/dump-incomplete). No space left on device",
        "cp: error writing '/var/crash/202601010000/vmcore-incomplete': No space left on device",
        "Remaining space (12 MB) less than KDUMP_FREE_DISK_SIZE (64 MB)",
        "Dump too large. Aborting. Check KDUMP_FREE_DISK_SIZE.",
    ],
    "target-io-error": [
        "[   40.0] I/O error, dev vdb, sector 20480 op 0x1:(WRITE) flags 0x0 phys_seg 1",
        "[   40.0] Buffer I/O error on dev vdb1, logical block 2560, lost async page write",
        '[   40.0] XFS (vdb1): metadata I/O error in "xfs_buf_ioend" at daddr 0x1 len 1 error 5',
        "[   40.0] EXT4-fs error (device vdb1): ext4_journal_check_start:83: comm cp: Detected aborted journal",
    ],
    "target-read-only": ["mkdir: cannot create directory '/var/crash/1': Read-only file system"],
    "target-mount-failed": [
        "[   12.0] kdump[310]: failed to dump to '/kdumproot/srv', it's not a mount point!",
        "[   12.0] kdump[310]: Failed to mount rootfs",
        "kdump: mounting failed (mount point: /kdumproot, option: rw)",
    ],
    "makedumpfile-missing": [
        "kdump-tools[310]: /usr/sbin/kdump-config: 814: makedumpfile: not found",
        "sh: makedumpfile: command not found",
    ],
    "makedumpfile-crashed": [
        "[   40.0] makedumpfile[469]: segfault at 0 ip 000055d1 sp 00007ffe error 4 in makedumpfile[55d1+4000]",
        "/kdump/kdump-save: line 297:   357 Aborted                 makedumpfile -F -d 31 /proc/vmcore > /tmp/fifo",
        "/lib/kdump-lib-initramfs.sh: line 98:   469 Segmentation fault      $CORE_COLLECTOR /proc/vmcore",
    ],
    "vmcore-read-error": [
        "cp: error reading '/proc/vmcore': Bad address",
        "read_from_vmcore: Can't read the dump memory(/proc/vmcore). Cannot allocate memory",
    ],
    "makedumpfile-failed": [
        "get_mem_map: Can't distinguish the memory type.",
        "[   12.0] kdump[310]: saving vmcore failed, exitcode:1",
        "Error: Failed saving vmcore",
        "kdump-tools[305]: kdump-tools: makedumpfile failed, falling back to 'cp' ... failed!",
    ],
    "dump-truncated": ["client_loop: send disconnect: Broken pipe", "kdump.sh[310]: lost connection"],
    "kdump-emergency-shell": [
        "Entering kdump emergency mode.",
        "Something failed. Running a debug shell.",
        "kdump:/# ",
    ],
}

WARNINGS = {
    "post-script-failed": [
        "[   31.0] kdump[310]: /usr/bin/emerg.sh exited with 1 status",
        "[   31.0] kdump[310]: /etc/kdump/post.d/note.sh exited with 2 status",
    ],
    "capture-allocation-failed": [
        "[   19.0] kworker/0:6: page allocation failure: order:6, mode:0x60c0c0(GFP_KERNEL), nodemask=(null)",
    ],
    "capture-dma-pool-alloc-failed": [
        "[    0.3] DMA: failed to allocate 128 KiB GFP_KERNEL|GFP_DMA pool for atomic allocation"
    ],
    "capture-pcie-errors": [
        "[    9.0] pcieport 0000:00:01.0: AER: Multiple Uncorrected (Non-Fatal) error received",
        "[    9.0] igb 0000:01:00.0:    [14] Completion Timeout     (First)",
    ],
    "capture-iommu-fault": [
        "[    3.0] DMAR: [DMA Read NO_PASID] Request device [03:00.0] fault addr 0x7e000000 [fault reason 0x06]"
    ],
}


def cases(table: dict[str, list[str]]) -> list[object]:
    """One test for each wording."""
    return [
        pytest.param(name, line, id=f"{name}-{at}") for name, lines in table.items() for at, line in enumerate(lines)
    ]


@pytest.mark.parametrize(("name", "line"), cases(FIRST_KERNEL))
def test_reasons_for_a_first_kernel_that_does_not_arm_are_named(name: str, line: str) -> None:
    diagnosis = diagnose_text(FIRST_BOOT + line + "\n")
    assert diagnosis.mode == name, diagnosis.explain()
    assert diagnosis.stage is Stage.NOTHING


@pytest.mark.parametrize(("name", "line"), cases(FIRST_KERNEL))
def test_it_is_named_without_any_context_too(name: str, line: str) -> None:
    diagnosis = diagnose_text(line + "\n")
    assert diagnosis.mode == name, diagnosis.explain()


@pytest.mark.parametrize(("name", "line"), cases(IN_CAPTURE))
def test_reasons_for_a_stopped_capture_kernel_are_named(name: str, line: str) -> None:
    diagnosis = diagnose_text(CAPTURING + USERSPACE + line + "\n")
    assert diagnosis.mode == name, diagnosis.explain()
    assert diagnosis.stage is Stage.CAPTURING


def test_a_capture_kernel_that_waits_for_a_passphrase_is_not_called_hung() -> None:
    asks = "Please enter passphrase for disk dumps on /kdump/mnt/var: (press TAB for no echo)\n"
    silent = (
        "kdump-harness: the console has been silent for 506 s while waiting for the capture kernel to save the vmcore\n"
    )
    assert diagnose_text(CAPTURING + USERSPACE + asks + silent).mode == "luks-not-opened"
    assert diagnose_text(CAPTURING + USERSPACE + silent).mode == "capture-job-hung"


@pytest.mark.parametrize(("name", "line"), cases(IN_CAPTURE))
def test_a_line_before_the_panic_does_not_name_the_capture(name: str, line: str) -> None:
    if line.startswith("["):
        diagnosis = diagnose_text(FIRST_BOOT + line + "\n" + ARMED_CRASH + CAPTURE_BOOT + REDHAT_SAVED + NEXT_BOOT)
        assert diagnosis.mode == "ok", diagnosis.explain()


@pytest.mark.parametrize(("name", "line"), cases(WARNINGS))
def test_a_warning_does_not_spoil_a_saved_dump(name: str, line: str) -> None:
    diagnosis = diagnose_text(CAPTURING + line + "\n" + REDHAT_SAVED)
    assert diagnosis.mode == "ok"
    assert [symptom.name for symptom in diagnosis.symptoms] == [name]
    assert diagnose_text(CAPTURING + USERSPACE + line + "\n").mode == name


IN_FIRST_KERNEL = {
    "elfcorehdr-not-updated": [
        "[  300.0] crash hp: update elfcorehdr elfsz 1024000 > memsz 917616",
        "[    0.5] kexec: number of Phdrs 70000 exceeds max",
        "[  300.0] crash hp: kexec_trylock() failed, kdump image may be inaccurate",
    ],
    "serial-login-lost": [
        "[ TIME ] Timed out waiting for device dev-ttyS0.device - /dev/ttyS0.",
        "[DEPEND] Dependency failed for serial-getty@ttyS0.service - Serial Getty on ttyS0.",
        "[DEPEND] Dependency failed for Serial Getty on ttyS0.",
    ],
}


@pytest.mark.parametrize(("name", "line"), cases(IN_FIRST_KERNEL))
def test_a_warning_of_the_first_kernel_is_no_failure_of_kdump(name: str, line: str) -> None:
    assert [one.name for one in diagnose_text(FIRST_BOOT + line + "\n").symptoms] == [name]
    assert diagnose_text(FIRST_BOOT + line + "\n" + ARMED_CRASH + CAPTURE_BOOT + REDHAT_SAVED + NEXT_BOOT).mode == "ok"
    # The serial line is not the disk that a capture kernel needs.
    assert not diagnose_text(CAPTURING + line + "\n" + REDHAT_SAVED).failed


SENDING = (
    USERSPACE
    + """\
[   31.000000] kdump-tools[410]: The dmesg log is saved to /tmp/dmesg.ssh.202601010000.
[   32.000000] kdump-tools[411]: sending makedumpfile -d 31 -F /proc/vmcore to kdump@c : /srv/crash/1/dump-incomplete.
"""
)


def test_a_dump_that_is_being_sent_when_the_console_ends_is_cut() -> None:
    found = diagnose_text(FIRST_BOOT + ARMED_CRASH + CAPTURE_BOOT + SENDING)
    assert (found.mode, found.stage) == ("poweroff-mid-dump", Stage.CAPTURING)


def test_a_guest_that_does_not_boot_after_its_dump_is_a_failure() -> None:
    grub = "GNU GRUB  version 2.06\n   Minimal BASH-like line editing is supported. For the first word, TAB\n"
    found = diagnose_text(FIRST_BOOT + ARMED_CRASH + CAPTURE_BOOT + REDHAT_SAVED + grub)
    assert (found.mode, found.stage) == ("no-boot-after-dump", Stage.SAVED)
    assert "update-grub" in found.symptoms[0].remedy


def test_a_hang_that_a_kernel_drill_outlived_is_not_a_failure() -> None:
    hang = "[  363.8] INFO: task tee:102 blocked for more than 120 seconds.\n"
    writing = CAPTURING + "kdump-harness: writing the vmcore to /dev/vda\n" + hang
    saved = diagnose_text(writing + "kdump-harness: the vmcore is saved\n")
    assert (saved.mode, saved.stage) == ("ok", Stage.SAVED), saved.explain()
    assert diagnose_text(writing + "kdump-harness: the vmcore failed: makedumpfile ended with status 1\n").failed
