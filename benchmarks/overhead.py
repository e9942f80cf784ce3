"""A drill against the same boot, crash, capture, reboot and copy by hand with QEMU and ssh, on the same armed disk.

Prints wall times in turn (A B A B ...), their ratio, and the harness's own CPU time. Needs what a drill needs.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdump_harness.distro.family import find_family
from kdump_harness.drill.disks import SystemUnderTest, armed_disk
from kdump_harness.drill.plan import Plan
from kdump_harness.drill.session import run_drill
from kdump_harness.images.catalog import load_catalog
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.vm.cloud_init import make_key, write_seed
from kdump_harness.vm.hosts.qemu_img import qemu_img
from kdump_harness.vm.run import Machine, Options, Run

PORT = 22522
PLAIN = KdumpConfig(crashkernel=None, level=None, compress=None)


def by_hand(disk: Path, accelerator: str, directory: Path) -> float:
    """Seconds from starting QEMU to having the vmcore here, as a person with a script would do it."""
    overlay, seed, console = directory / "overlay.qcow2", directory / "seed.iso", directory / "console"
    qemu_img("create", "-q", "-f", "qcow2", "-b", disk, "-F", "qcow2", overlay)
    mac = "52:54:00:12:34:56"
    login, host = make_key("bench"), make_key("bench-host")
    write_seed(seed, name="bench", identity=f"bench-{time.time()}", mac=mac, user="root", login=login, host=host)
    key = directory / "key"
    key.write_text(login.private)
    key.chmod(0o600)
    known = directory / "known_hosts"
    known.write_text(f"[127.0.0.1]:{PORT} {host.public}\n")
    tcg = ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64"]
    kvm = ["-accel", "kvm", "-cpu", "host"]
    command = [
        "qemu-system-x86_64", "-machine", "q35", *(kvm if accelerator == "kvm" else tcg), "-m", "1024", "-smp", "2",
        "-display", "none",
        "-drive", f"file={overlay},if=virtio,cache=unsafe",
        "-drive", f"file={seed},if=virtio,format=raw,readonly=on",
        "-nic", f"user,model=virtio-net-pci,mac={mac},hostfwd=tcp:127.0.0.1:{PORT}-:22",
        "-device", "virtio-rng-pci",
        "-serial", f"file:{console}",
    ]  # fmt: skip
    options = ["-i", str(key), "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"]
    ssh = ["ssh", "-p", str(PORT), *options, "root@127.0.0.1"]
    started = time.monotonic()
    qemu = subprocess.Popen(command)
    try:
        wait_for_logins(console, 1)
        until(lambda: run(*ssh, "test $(cat /sys/kernel/kexec_crash_loaded) = 1"))
        subprocess.Popen([*ssh, "echo c > /proc/sysrq-trigger"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_logins(console, 2)
        until(lambda: run(*ssh, "test $(cat /sys/kernel/kexec_crash_loaded) = 1"))
        scp = [
            "scp",
            "-q",
            "-P",
            str(PORT),
            *options,
            "root@127.0.0.1:/var/crash/2*/dump.2*",
            str(directory / "vmcore"),
        ]
        subprocess.run(scp, check=True)
        return time.monotonic() - started
    finally:
        qemu.kill()
        qemu.wait()
        overlay.unlink()


def run(*command: str) -> bool:
    """Whether a command succeeds."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def until(done: object) -> None:
    """Try until it works, for ten minutes."""
    assert callable(done)
    for _ in range(1200):
        if done():
            return
        time.sleep(0.5)
    sys.exit("gave up after ten minutes")


def wait_for_logins(console: Path, count: int) -> None:
    """Wait for the count-th login prompt on the serial line."""
    until(lambda: console.exists() and len(re.findall(rb"login: ", console.read_bytes())) >= count)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?", default="debian-12")
    parser.add_argument("-n", type=int, default=2, help="pairs (default: 2)")
    arguments = parser.parse_args()
    image = load_catalog().find(arguments.image)
    subject = SystemUnderTest(name=image.name, family=find_family(image.family), image=image)
    ratios, cpus = [], []
    with (
        tempfile.TemporaryDirectory() as scratch,
        Run(Options(evidence=Path(scratch) / "evidence", quiet=True)) as run_,
    ):
        disk = armed_disk(run_, subject, Machine(), PLAIN)
        for number in range(arguments.n):
            directory = Path(scratch) / str(number)
            directory.mkdir()
            hand_s = by_hand(disk.path, run_.accelerator, directory)
            before = cpu_s()
            started = time.monotonic()
            verdict = run_drill(run_, Plan(subject=subject))
            drill_s = time.monotonic() - started
            cpus.append(cpu_s() - before)
            lines = sum(1 for _ in (Path(verdict.evidence) / "console.log").open("rb"))
            size_mib = verdict.dump["size_bytes"] / (1 << 20) if verdict.dump else 0.0
            ratios.append(drill_s / hand_s)
            print(
                f"pair {number + 1}: drill {drill_s:.1f} s (verified: {verdict.verified}), by hand {hand_s:.1f} s,"
                f" ratio {ratios[-1]:.3f}; own CPU {cpus[-1]:.2f} s, {lines} console lines, {size_mib:.1f} MiB dump",
                flush=True,
            )
    print(f"overhead: median ratio {statistics.median(ratios):.3f} (aim 1.05, must 1.15)")
    print(f"own CPU per drill: median {statistics.median(cpus):.2f} s (must 3)")


def cpu_s() -> float:
    """CPU seconds of this process and its finished children."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


if __name__ == "__main__":
    main()
