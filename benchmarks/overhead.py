"""Compares the time of a drill with the same boot, crash, capture, reboot and copy by QEMU and ssh alone.

Usage: python benchmarks/overhead.py [IMAGE] [-n PAIRS] [--smoke]

Both ways use the same armed disk and take turns (bare, drill, bare, drill, ...), so the ratio within a pair is
comparable on a noisy host. Needs the packages of a drill.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kdump_harness.base.verdict import Verdict
from kdump_harness.distro.family import find_family
from kdump_harness.drill.disks import SystemUnderTest, armed_disk
from kdump_harness.drill.plan import Plan
from kdump_harness.drill.session import run_drill
from kdump_harness.images.catalog import load_catalog
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.vm.cloud_init import make_key, write_seed
from kdump_harness.vm.run import Machine, Options, Run

PORT = 22522
PLAIN = KdumpConfig(crashkernel=None, level=None, compress=None)
KDUMP_LOADED = "test $(cat /sys/kernel/kexec_crash_loaded) = 1"
RATIO_AIM, RATIO_LIMIT = 1.05, 1.15
CPU_LIMIT_S = 3.0


class BareGuest:
    """A guest of QEMU alone, started from an armed disk."""

    def __init__(self, disk: Path, accelerator: str, directory: Path) -> None:
        self._directory, self._console = directory, directory / "console"
        overlay, seed, mac = directory / "overlay.qcow2", directory / "seed.iso", "52:54:00:12:34:56"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(disk), "-F", "qcow2", str(overlay))
        login, host = make_key("bench"), make_key("bench-host")
        write_seed(seed, name="bench", identity=f"bench-{time.time()}", mac=mac, user="root", login=login, host=host)
        key, known_hosts = directory / "key", directory / "known_hosts"
        key.write_text(login.private)
        key.chmod(0o600)
        known_hosts.write_text(f"[127.0.0.1]:{PORT} {host.public}\n")
        tcg = ["-accel", "tcg,thread=multi,tb-size=256", "-cpu", "qemu64"]
        kvm = ["-accel", "kvm", "-cpu", "host"]
        self.qemu = [
            "qemu-system-x86_64", "-machine", "q35", *(kvm if accelerator == "kvm" else tcg), "-m", "1024", "-smp", "2",
            "-display", "none",
            "-drive", f"file={overlay},if=virtio,cache=unsafe",
            "-drive", f"file={seed},if=virtio,format=raw,readonly=on",
            "-nic", f"user,model=virtio-net-pci,mac={mac},hostfwd=tcp:127.0.0.1:{PORT}-:22",
            "-device", "virtio-rng-pci",
            "-serial", f"file:{self._console}",
        ]  # fmt: skip
        options = ["-i", str(key), "-o", f"UserKnownHostsFile={known_hosts}", "-o", "BatchMode=yes"]
        options += ["-o", "ConnectTimeout=5"]
        self.ssh = ["ssh", "-p", str(PORT), *options, "root@127.0.0.1"]
        self.scp = ["scp", "-q", "-P", str(PORT), *options, "root@127.0.0.1:/var/crash/2*/dump.2*"]

    def crash(self) -> float:
        """Return the seconds from the start of QEMU to the end of the vmcore's copy."""
        started = time.monotonic()
        qemu = subprocess.Popen(self.qemu)
        try:
            self._wait_until_armed(logins=1)
            crash = [*self.ssh, "echo c > /proc/sysrq-trigger"]
            subprocess.Popen(crash, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self._wait_until_armed(logins=2)
            run(*self.scp, str(self._directory / "vmcore"))
            return time.monotonic() - started
        finally:
            qemu.kill()
            qemu.wait()
            (self._directory / "overlay.qcow2").unlink()

    def _wait_until_armed(self, logins: int) -> None:
        """Wait for that many login prompts on the serial console, then for a loaded capture kernel."""
        until(lambda: self._console.exists() and len(re.findall(rb"login: ", self._console.read_bytes())) >= logins)
        until(lambda: subprocess.run([*self.ssh, KDUMP_LOADED], capture_output=True, check=False).returncode == 0)


def run(*command: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(command, check=True)


def until(done: Callable[[], bool]) -> None:
    """Try twice a second until it succeeds; give up after ten minutes."""
    for _ in range(1200):
        if done():
            return
        time.sleep(0.5)
    sys.exit("gave up after ten minutes")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The figures of one bare run and one drill."""

    bare_s: float
    drill_s: float
    cpu_s: float  # processor time of the harness
    verified: bool

    @property
    def ratio(self) -> float:
        return self.drill_s / self.bare_s


def measure(bare: Callable[[], float], drill: Callable[[], Verdict]) -> Pair:
    """Run one pair and print its figures."""
    bare_s = bare()
    before_s, started = cpu_s(), time.monotonic()
    verdict = drill()
    pair = Pair(
        bare_s=bare_s,
        drill_s=time.monotonic() - started,
        cpu_s=cpu_s() - before_s,
        verified=verdict.verified,
    )
    size_mib = verdict.dump["size_bytes"] / (1 << 20) if verdict.dump else 0.0
    print(
        f"drill {pair.drill_s:.1f} s (verified: {pair.verified}), bare {bare_s:.1f} s, ratio {pair.ratio:.3f};"
        f" processor time of the harness {pair.cpu_s:.2f} s; {size_mib:.1f} MiB dump",
        flush=True,
    )
    return pair


def summarize(pairs: list[Pair]) -> bool:
    """Print the medians next to their limits; return True if every drill was verified."""
    ratio = statistics.median(pair.ratio for pair in pairs)
    used_s = statistics.median(pair.cpu_s for pair in pairs)
    print(f"overhead: median ratio {ratio:.3f} (aim {RATIO_AIM}, limit {RATIO_LIMIT})")
    print(f"processor time of the harness per drill: median {used_s:.2f} s (limit {CPU_LIMIT_S:.0f} s)")
    return all(pair.verified for pair in pairs)


def cpu_s() -> float:
    """Return the processor time of this process and its finished children."""
    both = (resource.getrusage(one) for one in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def smoke(subject: SystemUnderTest) -> int:
    """Check the command lines and the arithmetic without a guest."""
    Plan(subject=subject).check()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        run("qemu-img", "create", "-q", "-f", "qcow2", str(directory / "disk.qcow2"), "1M")
        guest = BareGuest(directory / "disk.qcow2", "tcg", directory)
        assert {"key", "known_hosts", "overlay.qcow2", "seed.iso"} <= {path.name for path in directory.iterdir()}
        assert guest.qemu[0] == "qemu-system-x86_64"
    verdict = Verdict(
        image=subject.name, family="debian", trigger="sysrq-c", target="local", accelerator="tcg", memory_mib=1, vcpus=1
    )
    assert measure(lambda: 1.0, lambda: verdict).bare_s == 1.0
    good = Pair(bare_s=100.0, drill_s=104.0, cpu_s=2.0, verified=True)
    failed = Pair(bare_s=100.0, drill_s=130.0, cpu_s=2.0, verified=False)
    assert summarize([good])
    assert not summarize([good, failed])
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Return 1 if a drill is not verified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", nargs="?", default="debian-12")
    parser.add_argument("-n", type=int, default=2, help="number of pairs (default: 2)")
    parser.add_argument("--smoke", action="store_true", help="check the benchmark itself in seconds, without a guest")
    options = parser.parse_args(arguments)
    image = load_catalog().find(options.image)
    subject = SystemUnderTest(name=image.name, family=find_family(image.family), image=image)
    if options.smoke:
        return smoke(subject)
    pairs = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        Run(Options(evidence=Path(scratch) / "evidence", quiet=True)) as harness_run,
    ):
        disk = armed_disk(harness_run, subject, Machine(), PLAIN)
        for number in range(options.n):
            directory = Path(scratch) / str(number)
            directory.mkdir()
            guest = BareGuest(disk.path, harness_run.accelerator, directory)
            pairs.append(measure(guest.crash, lambda: run_drill(harness_run, Plan(subject=subject))))
    return int(not summarize(pairs))


if __name__ == "__main__":
    sys.exit(main())
