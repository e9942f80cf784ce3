"""An ordinary log raises no alarm, and a line of an ordinary program does not spoil a verified drill."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdump_harness.base.stage import Stage
from kdump_harness.diagnosis import diagnose_text

DATA = Path(__file__).parents[1] / "data"
ARMED = """\
Nov 11 02:00:00 host kernel: Linux version 6.1.0-30-amd64 (builder@example) #1 SMP
Nov 11 02:00:00 host kernel: Command line: root=/dev/sda1 ro crashkernel=384M-:128M
Nov 11 02:00:12 host kdump-tools[812]: Starting kdump-tools:
Nov 11 02:00:12 host kdump-tools[830]: loaded kdump kernel.
Nov 11 02:00:14 host systemd[1]: Reached target multi-user.target - Multi-User System.
"""

# Each has words that kdump, or what it calls, prints too.
LINES = """\
sshd[700]: Connection reset by 192.0.2.9 port 40022 [preauth]
sshd[700]: kex_exchange_identification: read: Connection reset by peer
sshd[701]: error: Received disconnect from 192.0.2.9: Too many authentication failures [preauth]
sshd[703]: fatal: Write failed: Broken pipe [preauth]
git[900]: git@forge.example: Permission denied (publickey).
git[900]: Host key verification failed.
git[900]: Load key "/home/u/.ssh/id_ed25519": invalid format
backup[1200]: client_loop: send disconnect: Broken pipe
rsync[1201]: Connection to backup.example closed by remote host.
postfix/smtpd[321]: lost connection
java[1300]: # This output file may be truncated or incomplete.
convert[1301]: photo.heic: not a supported file format
apache2[1400]: Cannot load /usr/lib/apache2/modules/mod_php5.so into server
dockerd[1500]: failed to create /var/lib/docker/overlay2: permission denied
app[1501]: io_uring is not supported on this kernel
dnsmasq[1502]: Error parsing config file /etc/dnsmasq.conf
tool[1503]: Unknown dump mode
qemu[1504]: No kernel specified
dracut[1601]: dracut module 'ifcfg' cannot be found or installed.
dracut-install: ERROR: installing 'liblvm2cmd.so'
kernel: PEFILE: Unsigned PE binary
kernel: KVM internal error. Suberror: 1
kernel: KVM: entry failed, hardware error 0x80000021
ntpd[800]: ntp.example: Name or service not known
dhclient[801]: send_packet: Network is unreachable
ssh: connect to host nas.example port 22: Connection refused
check[803]: Unable to ping gateway
systemd[1]: Failed to start NetworkManager-wait-online.service - Network Manager Wait Online.
dpkg[950]: error writing to '/var/lib/dpkg/status-new': No space left on device
mysqld[55]: Disk quota exceeded
systemd-sulogin-shell[44]: You are in emergency mode. After logging in, type "journalctl -xb".
ALERT!  UUID=0000-1111 does not exist.  Dropping to a shell!
Entering rescue mode...
smbd[88]: Fatal error: cannot open the database
mount[77]: mount: /mnt/usb: wrong fs type, bad option, bad superblock on /dev/sdb1
cron[99]: fork: Cannot allocate memory
update-initramfs[7]: mkinitramfs failure cpio 141
backup[12]: /srv/kdump/archive.tar: No space left on device
java.net.NoRouteToHostException: No route to host
docker[9]: mounting failed
monitor[10]: Linux version 5.10.0 is installed
monitor[11]: Kernel panic - not syncing: seen on node 7
crond[12]: (root) CMD (kdumpctl status || mail -s 'Kdump is not operational' root)
agent[13]: item [kdump.status] became not supported: failed to load kdump kernel
alerts[14]: msg="makedumpfile Failed." rule=dumps
""".splitlines()

LOGS = {
    "ssh-server": """\
Dec  3 06:55:46 gate sshd[2400]: Invalid user oracle from 198.51.100.7
Dec  3 06:55:48 gate sshd[2400]: Failed password for invalid user oracle from 198.51.100.7 port 38926 ssh2
Dec  3 06:55:49 gate sshd[2400]: Connection reset by 198.51.100.7 port 38926 [preauth]
Dec  3 07:01:02 gate sshd[2455]: fatal: Write failed: Connection reset by peer [preauth]
""",
    "java-application": """\
2026-02-01 10:00:01,204 INFO [main] org.example.Server: started
2026-02-01 10:07:12,650 WARN [io-3] org.example.Client: java.net.NoRouteToHostException: No route to host
2026-02-01 10:07:12,651 ERROR [io-3] org.example.Client: java.net.SocketException: Network is unreachable
""",
    "jvm-crash": """\
#
# A fatal error has been detected by the Java Runtime Environment:
#  SIGSEGV (0xb) at pc=0x00007f1c5c0a0b5d, pid=4711, tid=4712
# No core dump will be written. Core dumps have been disabled.
# This output file may be truncated or incomplete.
""",
    "web-server": """\
[Sun Feb 01 04:47:44 2026] [error] mod_jk child workerEnv in error state 6
[Sun Feb 01 04:51:09 2026] [error] [client 203.0.113.4] Directory index forbidden by rule: /var/www/html/
httpd: Syntax error on line 56: Cannot load /etc/httpd/modules/mod_wsgi.so into server
""",
    "package-upgrade": """\
update-initramfs: Generating /boot/initrd.img-6.1.0-31-amd64
dracut: dracut module 'ifcfg' cannot be found or installed.
dracut-install: ERROR: installing 'liblvm2cmd.so'
gzip: stdout: No space left on device
E: mkinitramfs failure cpio 141 gzip 1
update-initramfs: failed for /boot/initrd.img-6.1.0-31-amd64 with 1.
""",
    "slow-nvme-board": """\
[   31.270112] nvme nvme0: I/O tag 17 (0011) opcode 0x2 (I/O Cmd) QID 3 timeout, aborting req_op:READ(0) size:4096
[   31.281001] nvme nvme0: Abort status: 0x0
""",
    "oops-of-a-desktop": """\
[   51.100001] BUG: unable to handle kernel paging request at ffffc900041d5000
[   51.100010] Oops: 0000 [#1] SMP
[   51.100020] Modules linked in: snd_hda_intel bluetooth uvcvideo iwlwifi nvidia(PO)
[   51.100030] CPU: 3 PID: 1822 Comm: Xorg Tainted: P           O 5.4.0-42-generic #46
""",
    "oom-of-a-small-machine": """\
[  611.000001] python3 invoked oom-killer: gfp_mask=0x140dca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0
[  611.000402] CPU: 0 PID: 911 Comm: python3 Not tainted 6.1.0-30-amd64 #1
[  611.000900] Out of memory: Killed process 911 (python3) total-vm:901236kB, anon-rss:401324kB
""",
    "hung-database": """\
[  242.900001] INFO: task postgres:1402 blocked for more than 120 seconds.
[  242.900015]       Not tainted 6.1.0-30-amd64 #1
""",
    "hypervisor-host": """\
Feb  3 11:00:01 virt7 kernel: kvm [4242]: vcpu0, guest rIP: 0xffffffff8106c6d6 disabled perfctr wrmsr
Feb  3 11:02:14 virt7 qemu-system-x86_64[4242]: KVM internal error. Suberror: 1
Feb  3 11:02:14 virt7 libvirtd[1200]: End of file while reading data: Input/output error
""",
    "broken-boot-loader": """\
GRUB loading.
error: unknown filesystem.
Entering rescue mode...
grub rescue>
""",
    "router": """\
Jul  4 00:00:11 ap dnsmasq[731]: Error parsing config file /etc/dnsmasq.d/lan.conf
Jul  4 00:00:12 ap ntpd[801]: error resolving pool 2.pool.ntp.example: Name or service not known
Jul  4 00:00:15 ap pppd[640]: Network is unreachable
""",
    "container-host": """\
time="2026-03-01T10:00:00Z" level=error msg="failed to create /var/lib/docker/overlay2/x: no space left on device"
Mar  1 10:00:01 node3 dockerd[900]: failed to create /run/containerd/x: Read-only file system
Mar  1 10:00:02 node3 kubelet[901]: unable to mount volume: mount failed: exit status 32
""",
    "week-with-kdump": ARMED + "\n".join(f"Nov 12 03:{at:02}:07 host {line}" for at, line in enumerate(LINES)) + "\n",
}


@pytest.mark.parametrize("name", LOGS)
def test_an_ordinary_log_is_not_called_a_failure(name: str) -> None:
    diagnosis = diagnose_text(LOGS[name])
    assert (diagnosis.failed, diagnosis.mode) == (False, "indeterminate"), diagnosis.explain()


@pytest.mark.parametrize("line", LINES)
def test_a_word_of_an_ordinary_program_decides_nothing(line: str) -> None:
    for log in (line, ARMED + "Nov 12 03:14:07 host " + line, ARMED.replace("kdump-tools[", "foo[") + line):
        diagnosis = diagnose_text(log + "\n")
        assert not diagnosis.failed, diagnosis.explain()


def test_an_ordinary_line_anywhere_in_a_verified_drill_changes_nothing() -> None:
    lines = (DATA / "drills" / "debian-12-verified.log").read_text(encoding="utf-8").splitlines()
    panic = next(at for at, line in enumerate(lines) if "Kernel panic - not syncing" in line)
    saved = next(at for at, line in enumerate(lines) if "saved vmcore in" in line)
    for number, line in enumerate(LINES):
        # Each place costs the scan of a whole console, so the lines take turns.
        at = (len(lines), panic - 2, saved + 1, saved - 3)[number % 4]
        diagnosis = diagnose_text("\n".join([*lines[:at], line, *lines[at:]]) + "\n")
        assert (diagnosis.mode, diagnosis.failed, diagnosis.stage) == ("ok", False, Stage.RECOVERED), (at, line)


def test_a_line_after_the_restart_does_not_take_back_a_saved_dump() -> None:
    text = (DATA / "drills" / "debian-12-verified.log").read_text(encoding="utf-8")
    saved = text[: text.index("reboot: machine restart")] + "reboot: machine restart\n"
    for line in LINES:
        diagnosis = diagnose_text(saved + line + "\n")
        assert diagnosis.stage is Stage.SAVED, (line, diagnosis.explain())


def test_the_same_words_count_where_kdump_is_at_work() -> None:
    begun = "Mar  1 10:00:00 sut systemd[1]: Starting Crash recovery kernel arming...\n"
    failing = "Mar  1 10:00:05 sut dracut-install[900]: dracut-install: ERROR: installing 'overlay'\n"
    stranger = failing.replace("dracut-install[", "builder[")
    ended = "Mar  1 10:00:06 sut kdumpctl[800]: kdump: Starting kdump: [OK]\n"
    assert diagnose_text(begun + failing).mode == "initramfs-build-failed"
    assert diagnose_text(begun + ended + failing).mode == "indeterminate"
    assert diagnose_text(begun + stranger).mode == "indeterminate"


@pytest.mark.parametrize("prefix", ["", "robot[12]: ", "Nov  1 10:00:00 host logger: ", "rc.local[3]: "])
def test_a_program_may_pass_on_what_kdump_says(prefix: str) -> None:
    assert diagnose_text(f"{prefix}kdumpctl[5]: kdump: Starting kdump: [FAILED]\n").failed


def test_early_time_stamps_are_a_presumption() -> None:
    diagnosis = diagnose_text(
        "[   15.186100] ata4.00: failed to IDENTIFY (device reports invalid type, err_mask=0x0)\n"
    )
    (symptom,) = diagnosis.symptoms
    assert (diagnosis.mode, symptom.severity, diagnosis.failed) == ("capture-storage-driver-failed", "warning", False)
    assert symptom.meaning.startswith("If this is a capture kernel's console")


def test_cause_and_consequence_on_one_line_are_judged_alike() -> None:
    line = "ALERT!  UUID=0000-1111 does not exist.  Dropping to a shell!\n"
    assert diagnose_text(line).symptoms == ()
    presumed = diagnose_text("[   40.000000] " + line)
    assert [symptom.name for symptom in presumed.symptoms] == ["capture-no-root-device", "kdump-emergency-shell"]
    assert {symptom.severity for symptom in presumed.symptoms} == {"warning"}
