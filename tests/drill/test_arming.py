"""A disk is armed step by step in the order that its family needs, with no guest here to do it."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import fake_run
from kdump_harness.base.clock import PhaseClock
from kdump_harness.base.errors import GuestError, NotArmed, UsageError
from kdump_harness.base.evidence import Evidence
from kdump_harness.base.progress import Progress
from kdump_harness.base.stage import Stage
from kdump_harness.cli.subject import find_subject
from kdump_harness.distro.family import choose_release, find_family
from kdump_harness.distro.packages import KernelChoice, LocalPackage, PackageChoice
from kdump_harness.drill import disks, session
from kdump_harness.drill.disks import ArmedDisk, BaseDisk, SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.drill.steps import Drill
from kdump_harness.images.catalog import load_catalog
from kdump_harness.kdump import own_arming
from kdump_harness.kdump.guest_state import GuestState
from kdump_harness.kdump.reserved_memory import AddressRange, ReservedMemory
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.kdump.target import FoundFile
from kdump_harness.vm.run import Machine

ROCKY_9 = 'ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.8"\nPRETTY_NAME="Rocky Linux 9.8"\n'
SLES_16 = 'ID="sles"\nID_LIKE="suse"\nVERSION_ID="16.0"\nPRETTY_NAME="SLES 16.0"\n'
DEBIAN_12 = 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n'
MAKEDUMPFILE = "makedumpfile: version 1.7.2 (released on 20 Oct 2022)\nlzo\tenabled\n"
CONFIG = KdumpConfig(crashkernel=None, level=None, compress=None)
DRILLS = Path(__file__).parents[1] / "data" / "drills"


class Guest:
    """Answers like a guest on which everything goes well, and remembers what it was asked."""

    factor = 1.0

    def __init__(self, os_release: str, *, read_only: bool = False) -> None:
        self.os_release, self.read_only = os_release, read_only
        self.asked: list[str] = []
        self.files: dict[str, str] = {}
        self.shell = self
        self.loaded = "1"
        self.cmdline = "quiet crashkernel=512M"
        self.config = ""  # of an installed kernel
        self.kernels = ["6.12.0"]  # what is listed, one time after the other

    def run(
        self, command: str, *arguments: object, timeout_s: float = 60.0, check: bool = True, on_line: Any = None
    ) -> Any:
        command = command % arguments if arguments else command
        self.asked.append(command)
        out, status = "", 0
        if "os-release" in command:
            out = f"=====harness os_release\n{self.os_release}=====harness makedumpfile\n{MAKEDUMPFILE}"
        elif "findmnt" in command:
            status = 0 if self.read_only else 1
        elif command.startswith(("rpm -q", "dpkg-query")):
            status = 1
        elif "crash_loaded" in command:
            out = self.loaded
        elif command == "uname -r":
            out = "6.12.0\n"
        elif command == "cat /proc/cmdline":
            out = self.cmdline
        elif "/etc/default/grub.d/*" in command:
            out = 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=384M-:128M"'
        elif "/boot/config-" in command:
            out = self.config
        elif "vmlinuz-" in command:
            out = self.kernels.pop(0) if len(self.kernels) > 1 else self.kernels[0]
        return SimpleNamespace(out=out, err="", status=status, ok=status == 0)

    def put(self, local: Path, path: str) -> None:
        self.asked.append(f"put {local} {path}")

    def succeeds(self, command: str, *arguments: object) -> bool:
        return bool(self.run(command, *arguments).ok)

    def read_text(self, path: str) -> str:
        return self.files.get(path, "")

    def write_text(self, path: str, text: str, *, mode: int = 0o644) -> None:
        self.asked.append(f"write {path}")
        self.files[path] = text


@pytest.fixture
def arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install and arm a disk of a guest; returns what was done, one list for each boot."""

    def take(
        guest: Guest, family: str, config: KdumpConfig = CONFIG, **chosen: Any
    ) -> tuple[dict[str, object], list[list[str]]]:
        boots: list[list[str]] = []

        @contextlib.contextmanager
        def booted(*_: object, ready: bool = False) -> Iterator[Guest]:
            guest.asked = []
            boots.append(guest.asked)
            yield guest

        monkeypatch.setattr(disks, "_booted", booted)
        monkeypatch.setattr(disks, "_shut_down", lambda _run, _guest: None)
        run: Any = SimpleNamespace(
            factor=1.0,
            progress=Progress(quiet=True),
            evidence=lambda name: Evidence(tmp_path / name),
            identity=lambda name: name,
        )
        subject = SystemUnderTest(name="mine", family=find_family(family), **chosen)
        kernel = disks._install(run, subject, Machine(), tmp_path / "disk", None)
        return disks._arm(run, subject, Machine(), tmp_path / "disk", config, kernel=kernel), boots

    return take


def order(done: list[str], *parts: str) -> list[int]:
    """Where each of the parts was first done."""
    return [next(number for number, command in enumerate(done) if part in command) for part in parts]


def test_red_hat_is_configured_before_its_initramfs_is_built(arm: Any) -> None:
    guest = Guest(ROCKY_9)
    guest.files["/etc/kdump.conf"] = "path /var/crash\nfailure_action shell\n"
    made, boots = arm(guest, "redhat")
    installing, first, second = boots
    steps = order(installing, "os-release", "systemctl mask --now dnf-makecache.timer", "dnf install")
    assert steps == sorted(steps)
    assert "dnf install -y kexec-tools grubby" in installing
    steps = order(first, "os-release", "systemctl enable", "write /etc/kdump.conf", "kdumpctl rebuild")
    assert steps == sorted(steps)
    # A setting that is the default is not written.
    assert guest.files["/etc/kdump.conf"] == "path /var/crash\nfailure_action reboot\n"
    assert any("crashkernel=256M" in command for command in first)
    assert made == {
        "subject": "mine",
        "release": "RHEL 9 and rebuilds",
        "kernel": "6.12.0",
        "crashkernel": "256M",
        "remarks": [],
    }
    assert any(command.startswith("cat /sys/kernel/kexec_crash_loaded") for command in second)


def test_level_and_compression_are_part_of_an_armed_disk_where_the_initramfs_has_them(arm: Any) -> None:
    guest = Guest(ROCKY_9)
    arm(guest, "redhat", KdumpConfig(crashkernel="512M", level=1, compress="zlib"))
    assert "core_collector makedumpfile -c --message-level 7 -d 1\n" in guest.files["/etc/kdump.conf"]


def test_naming_what_is_the_familys_anyway_arms_no_second_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs an emulated guest that builds by dracut a quarter of an hour."""
    keys: list[str] = []

    def make_once(_kind: str, key: str, *_: object, **__: object) -> None:
        keys.append(key)
        raise UsageError("that is all")

    base = BaseDisk(path=Path("base"), format="qcow2", key="of the base", packages=(), source="here")
    monkeypatch.setattr(disks, "installed_disk", lambda *_: base)
    run: Any = SimpleNamespace(
        fit=lambda machine, needs: machine,
        state=SimpleNamespace(make_once=make_once),
        progress=Progress(quiet=True),
    )
    subject = SystemUnderTest(name="mine", family=find_family("suse"))
    for level, compress in ((None, None), (31, None), (31, "zlib"), (1, None), (None, "lzo")):
        with pytest.raises(UsageError, match="that is all"):
            disks.armed_disk(run, subject, Machine(), KdumpConfig(crashkernel=None, level=level, compress=compress))
    assert keys[0] == keys[1] == keys[2]
    assert len(set(keys)) == 3


def test_debian_reads_its_configuration_when_it_dumps(arm: Any) -> None:
    guest = Guest(DEBIAN_12)
    _, boots = arm(guest, "debian", KdumpConfig(crashkernel=None, level=1, compress="lzo"))
    assert len(boots) == 3
    assert "/etc/default/kdump-tools" not in guest.files
    assert "crashkernel=256M" in guest.files["/etc/default/grub.d/zz-kdump-harness.cfg"]
    (script,) = (command for command in boots[1] if "update-grub" in command)
    assert "/etc/kernel/postinst.d/kdump-tools" in script


def test_suse_starts_nothing_before_the_reboot_that_brings_the_reservation(arm: Any) -> None:
    _, boots = arm(Guest(SLES_16), "suse")
    assert len(boots) == 3
    assert not [
        command for boot in boots[:2] for command in boot if "systemctl start" in command or "restart" in command
    ]
    (script,) = (command for command in boots[1] if "update-bootloader" in command)
    assert "mkdumprd -f" in script
    assert "crashkernel=320M" in script


def test_a_transactional_system_is_booted_with_its_packages_before_it_is_configured(arm: Any) -> None:
    made, boots = arm(Guest(SLES_16, read_only=True), "suse")
    installing, configuring, _ = boots
    assert "transactional-update --non-interactive pkg install kdump kexec-tools makedumpfile" in installing
    assert not [command for command in installing if "systemctl enable" in command]
    # A snapshot takes /etc as it is, so what is changed there comes first.
    steps = order(configuring, "systemctl enable", "write /etc/sysconfig/kdump", "run update-bootloader")
    assert steps == sorted(steps)
    assert made["release"] == "transactional systems"


PARTS = KdumpConfig(crashkernel="256M,high crashkernel=72M,low", level=None, compress=None)


def test_a_reservation_of_several_parts_is_armed_and_what_it_replaces_is_remarked(arm: Any) -> None:
    guest = Guest("ID=debian\nVERSION_ID=12")
    guest.cmdline = "quiet crashkernel=256M,high crashkernel=72M,low"
    disk, _ = arm(guest, "debian", PARTS)
    assert " crashkernel=256M,high crashkernel=72M,low" in guest.files["/etc/default/grub.d/zz-kdump-harness.cfg"]
    assert disk["remarks"] == ["--crashkernel replaces the guest's own crashkernel=384M-:128M"]


def test_a_boot_loader_that_starts_another_reservation_is_named(arm: Any) -> None:
    guest = Guest("ID=debian\nVERSION_ID=12")
    guest.cmdline = "quiet crashkernel=72M,low"
    sentence = (
        "crashkernel=256M,high crashkernel=72M,low was asked for, but the boot loader starts the kernel with"
        " crashkernel=72M,low"
    )
    with pytest.raises(GuestError, match=sentence):
        arm(guest, "debian", PARTS)


def test_cma_is_refused_before_the_boot_loader_is_changed(arm: Any) -> None:
    guest = Guest("ID=debian\nVERSION_ID=12")
    guest.config = "# CONFIG_CMA is not set"
    config = KdumpConfig(crashkernel="128M crashkernel=256M,cma", level=None, compress=None)
    with pytest.raises(UsageError, match=r"the kernel 6\.12\.0 cannot reserve crashkernel=256M,cma: it was built"):
        arm(guest, "debian", config)
    assert guest.files == {}


def test_a_reservation_of_none_is_not_awaited(arm: Any) -> None:
    guest = Guest(ROCKY_9)
    guest.loaded = "0"
    _, boots = arm(guest, "redhat", KdumpConfig(crashkernel="none", level=None, compress=None))
    assert not [command for command in boots[2] if "crash_loaded" in command]
    assert any("--remove-args='crashkernel'" in command for command in boots[1])


def test_the_kernel_that_is_asked_for_is_installed_chosen_and_seen_running(arm: Any) -> None:
    guest = Guest(DEBIAN_12)
    guest.kernels = ["6.1.0", "6.1.0\n6.12.0"]
    choice = KernelChoice(package="linux-image-amd64", suite="bookworm-backports", asked="bookworm-backports")
    made, boots = arm(guest, "debian", kernel=choice)
    assert made["kernel"] == "6.12.0"
    assert any("-t bookworm-backports linux-image-amd64" in command for command in boots[0])
    steps = order(boots[1], "zz-kdump-harness-kernel.cfg", "update-grub")
    assert steps == sorted(steps)
    assert any("gnulinux-6.12.0-advanced" in command for command in boots[1])


def test_another_kernel_than_the_one_that_was_asked_for_is_not_drilled(arm: Any) -> None:
    guest = Guest(DEBIAN_12)
    guest.kernels = ["6.1.0", "6.1.0\n6.11.0"]
    with pytest.raises(GuestError) as error:
        arm(guest, "debian", kernel=KernelChoice(package="linux-image-amd64", asked="linux-image-amd64"))
    assert str(error.value).startswith(
        "linux-image-amd64 was asked for, which is 6.11.0, but the boot loader starts 6.12.0"
    )


def test_a_kernel_of_a_suite_that_cannot_dump_is_refused_before_it_is_booted(arm: Any) -> None:
    guest = Guest(DEBIAN_12)
    guest.config = "CONFIG_X86_64=y\nCONFIG_KEXEC=y\n# CONFIG_CRASH_DUMP is not set\n"
    choice = KernelChoice(package="linux-image-amd64", suite="sid", asked="sid")
    with pytest.raises(UsageError) as error:
        arm(guest, "debian", kernel=choice)
    assert str(error.value).startswith(
        "6.12.0, the kernel of sid, cannot be drilled: its configuration says that CONFIG_CRASH_DUMP is not set"
    )


def test_other_packages_are_installed_in_a_guest_after_the_usual_ones(arm: Any) -> None:
    more = (
        PackageChoice(package="makedumpfile", suite="trixie", asked="trixie"),
        PackageChoice(files=(LocalPackage(name="crash.deb", sha256="", path=Path("crash.deb")),), asked="crash.deb"),
        PackageChoice(package="ucf", asked="ucf"),
    )
    _, boots = arm(Guest(DEBIAN_12), "debian", more=more)
    steps = order(
        boots[0],
        "install -y --no-install-recommends kdump-tools makedumpfile initramfs-tools-core",
        "-t trixie makedumpfile",
        "put crash.deb",
        "install -y --no-install-recommends ucf",
    )
    assert steps == sorted(steps)


def test_package_files_must_bring_all_that_kdump_needs(arm: Any) -> None:
    files = (LocalPackage(name="kdump-tools.deb", sha256="", path=Path("kdump-tools.deb")),)
    with pytest.raises(
        UsageError, match="the package files have no kdump-tools, makedumpfile, initramfs-tools-core, which kdump needs"
    ):
        arm(Guest(DEBIAN_12), "debian", files=files)


@pytest.mark.parametrize("name", load_catalog().names)
def test_every_image_of_the_catalogue_can_be_asked_for(name: str) -> None:
    subject = find_subject(name, family=None)
    row = load_catalog().find(name)
    assert subject.family is find_family(row.family, row.arch)
    Plan(subject=subject, machine=Machine(firmware=subject.firmware, architecture=subject.architecture)).check()


# ---------------------------------------------------------------- before the crash


class Stack:
    """A stack that says what was asked of it."""

    def __init__(self, family: str, identity: str, version: str, *, changes: bool) -> None:
        self.family, self.remark = choose_release(find_family(family), {"ID": identity, "VERSION_ID": version})
        self.changes = changes
        self.asked: list[str] = []
        self.marks: list[str] = []  # of the drill's clock when the state was read
        self.clock = PhaseClock()

    def set_core_collector(self, level: int, compress: str) -> bool:
        self.asked.append(f"collect {level} {compress}")
        return self.changes

    def state(self) -> GuestState:
        self.marks = list(self.clock.marks_s)
        return GuestState(
            boot_id="b", kernel="6.12.0", cmdline="crashkernel=256M", loaded=True,
            reserved=ReservedMemory(fixed=(AddressRange(0, 1 << 28),)),
            meminfo_kib={}, clock_s=0.0, os_release={}, makedumpfile="1.7.2", level=31, compress="lzo",
            hostname="g", directory="/srv/dumps",
        )  # fmt: skip

    def original_directory(self) -> str:
        return "/srv/dumps"

    def configure(self, settings: Any) -> bool:
        return False  # the target is what it was

    def image_facts(self, *_arguments: object) -> None:
        return None  # no capture initramfs to be listed

    def __getattr__(self, name: str) -> Any:
        return lambda: self.asked.append(name)


@pytest.fixture
def prepare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Take the steps before a crash."""
    monkeypatch.setattr(Drill, "_memory_state", lambda *_: SimpleNamespace(pages={}))

    def take(stack: Stack, **plan: Any) -> Any:
        run = fake_run()
        subject = SystemUnderTest(name="mine", family=find_family(stack.family.name))
        evidence = Evidence(tmp_path / "drill")
        steps = Drill(run, Plan(subject=subject, **plan), evidence)
        stack.clock = steps.clock
        guest: Any = Guest("")
        marked: list[str] = []
        state = stack.state
        monkeypatch.setattr(stack, "state", lambda: (marked.extend(steps.clock.marks_s), state())[1])
        steps._prepare(guest, stack)  # type: ignore[arg-type]
        evidence.close()
        assert "asked" in marked  # the harness's clock runs before the guest's is read: what follows may take any time
        assert any("/srv/dumps/" in command for command in guest.asked)  # where the configuration says
        return steps.verdict

    return take


@pytest.mark.parametrize(
    ("family", "identity", "version", "changes", "asked"),
    [
        ("debian", "debian", "12", True, ["identify", "collect 31 zlib", "wait_until_loaded"]),
        ("redhat", "rhel", "9.8", False, ["identify", "collect 31 lzo", "wait_until_loaded"]),
        ("redhat", "rhel", "9.8", True, ["identify", "collect 31 lzo", "arm", "wait_until_loaded"]),
        ("suse", "sles", "16.0", True, ["identify", "collect 31 zlib", "arm", "wait_until_loaded"]),
    ],
)
def test_a_changed_configuration_is_armed_anew_where_the_initramfs_has_a_copy(
    prepare: Any, family: str, identity: str, version: str, changes: bool, asked: list[str]
) -> None:
    stack = Stack(family, identity, version, changes=changes)
    verdict = prepare(stack)
    assert stack.asked == [*asked, "wait_until_booted"]
    assert verdict.release == stack.family.release
    assert verdict.remarks == []


def test_a_guest_as_it_is_found_is_only_awaited(prepare: Any) -> None:
    stack = Stack("suse", "sles", "16.0", changes=True)
    prepare(stack, as_is=True)
    assert stack.asked == ["identify", "settle", "wait_until_booted"]


def test_the_guests_clock_is_not_read_before_the_moment_that_it_is_counted_from(prepare: Any) -> None:
    stack = Stack("suse", "sles", "16.0", changes=False)
    prepare(stack)
    assert stack.marks == ["asked"]


def test_the_verdict_carries_the_remark_about_an_unknown_release(prepare: Any) -> None:
    verdict = prepare(Stack("redhat", "rhel", "11.0", changes=False))
    assert verdict.to_json()["remarks"] == [
        "rhel 11.0 is not in the table of the family redhat: driven as RHEL 10 and rebuilds, the nearest in it"
    ]


def test_a_plan_that_the_family_cannot_follow_is_refused_before_there_is_a_guest() -> None:
    config = KdumpConfig(crashkernel=None, level=None, compress="none")
    with pytest.raises(UsageError, match="family suse has no setting for compression none"):
        Plan(subject=SystemUnderTest(name="mine", family=find_family("suse")), config=config).check()


def arm_with(guest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str = "lab/arm.sh") -> BaseDisk:
    """Arm a disk by the user's script or playbook."""
    base = BaseDisk(path=Path("base"), format="raw", key="base", packages=(), source="built")
    monkeypatch.setattr(disks, "base_disk", lambda *_: base)

    @contextlib.contextmanager
    def booted(*_: object, keep_disk: bool) -> Iterator[Any]:
        yield guest
        assert keep_disk

    monkeypatch.setattr(disks, "_booted", booted)
    monkeypatch.setattr(disks, "_shut_down", lambda _run, _guest: guest.asked.append("shut down"))
    run: Any = SimpleNamespace(
        factor=1.0,
        progress=Progress(quiet=True),
        evidence=lambda name: Evidence(tmp_path / name),
        identity=lambda name: name,
        fit=lambda machine, needs: machine,
        overlay=lambda path, base_format: Path(f"overlay of {path}, {base_format}"),
    )
    subject = SystemUnderTest(name="mine", family=find_family("debian"))
    return disks.disk_armed_with(run, subject, Machine(), Path(file))


def test_the_users_script_arms_and_nothing_else_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(DEBIAN_12)
    disk = arm_with(guest, tmp_path, monkeypatch)
    place = own_arming.PLACE
    steps = (f"put lab/arm.sh {place}", f"chmod 700 {place} && {place} 2>&1", f"rm {place}", "shut down")
    assert guest.asked[-4:] == list(steps)
    assert guest.files == {}
    assert not [command for command in guest.asked if "install" in command or "systemctl enable" in command]
    assert (disk.path, disk.format, disk.source) == (Path("overlay of base, raw"), "qcow2", "built, armed by arm.sh")
    assert disk.key != arm_with(Guest(DEBIAN_12), tmp_path / "again", monkeypatch).key


def test_a_script_that_fails_is_the_reason_of_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Guest):
        def run(self, command: str, *arguments: object, **more: Any) -> Any:
            found = super().run(command, *arguments, **more)
            if command.startswith("chmod 700"):
                return SimpleNamespace(out="a\nb\nE: no such package\nexit\n", err="", status=100, ok=False)
            return found

    with pytest.raises(NotArmed) as error:
        arm_with(Failing(DEBIAN_12), tmp_path, monkeypatch)
    assert error.value.reason == "arm.sh ended with status 100"
    assert error.value.said == "b | E: no such package | exit"


@pytest.mark.parametrize("status", [0, 2])
def test_a_playbook_runs_on_this_host_over_the_guests_ssh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The stand-in of Ansible prints its arguments and the variables that it was given."""
    guest: Any = Guest(DEBIAN_12)
    guest.name, guest.password = "kdh-arm-mine", "secret"
    guest.write_ssh_config = lambda directory: Path(directory) / "ssh_config"
    (tmp_path / "ansible-playbook").write_text(
        f'#!/bin/sh\necho "$@"\ntest "$3" = -e && cat "${{4#@}}"\necho\necho failed=1\nexit {status}\n'
    )
    (tmp_path / "ansible-playbook").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    lines: list[str] = []
    monkeypatch.setattr(Progress, "detail", lambda _self, line: lines.append(line))
    if status:
        with pytest.raises(NotArmed, match=r"arm.yml ended with status 2.*failed=1"):
            arm_with(guest, tmp_path, monkeypatch, "lab/arm.yml")
    else:
        arm_with(guest, tmp_path, monkeypatch, "lab/arm.yml")
    words = lines[0].split()
    assert (words[:3], words[-1]) == (["-i", "kdh-arm-mine,", "-e"], "lab/arm.yml")
    variables = json.loads(lines[1])
    assert variables["ansible_ssh_common_args"].startswith("-F /")
    assert (variables["ansible_become"], variables["ansible_password"]) == (True, "secret")
    assert not Path(words[3].removeprefix("@")).exists()
    assert guest.files == {}


def test_a_playbook_that_prints_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guest: Any = Guest(DEBIAN_12)
    guest.name, guest.password = "kdh-arm-mine", None
    guest.write_ssh_config = lambda directory: Path(directory) / "ssh_config"
    (tmp_path / "ansible-playbook").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "ansible-playbook").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(own_arming, "TIMEOUT_S", 0.05)
    with pytest.raises(NotArmed, match=r"arm.yml ended with status -15.*it was ended, after at most"):
        arm_with(guest, tmp_path, monkeypatch, "lab/arm.yml")


def test_a_guest_that_is_armed_by_a_script_is_changed_by_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = SystemUnderTest(name="mine", family=find_family("debian"))
    script = tmp_path / "arm.sh"
    with pytest.raises(UsageError, match=r"--arm-with: .*/arm.sh is not a file"):
        Plan(subject=subject, as_is=True, arm_with=script).check()
    script.touch()
    Plan(subject=subject, as_is=True, arm_with=script).check()
    with pytest.raises(UsageError, match="--arm-with leaves the guest's target as it is"):
        Plan(subject=subject, as_is=True, arm_with=script, target="nfs").check()
    playbook = tmp_path / "arm.yml"
    playbook.touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"--arm-with: arm.yml needs ansible-playbook \(install ansible-core\)"):
        Plan(subject=subject, as_is=True, arm_with=playbook).check()


# ---------------------------------------------------------------- a kdump that cannot be armed

NOT_LOADED = (DRILLS / "suse-not-loaded.txt").read_text(encoding="utf-8")


def test_a_kdump_that_does_not_load_its_kernel_is_judged_without_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reservation was too small for kexec itself; that is kdump's failure and not the harness's."""

    def armed_disk(*_: object) -> None:
        error = NotArmed("kdump is not armed: kdump.service has failed", said=NOT_LOADED)
        error.state = Stack("suse", "sles", "16.0", changes=False).state()
        raise error

    monkeypatch.setattr(session, "armed_disk", armed_disk)
    run: Any = fake_run(
        fit=lambda machine, needs: machine,
        open_evidence=lambda: None,
        evidence=lambda name: Evidence(tmp_path / name), options=SimpleNamespace(keep="failed"),
    )  # fmt: skip
    plan = Plan(subject=SystemUnderTest(name="mine", family=find_family("suse")), config=CONFIG)
    verdict = session.run_drill(run, plan)
    assert (verdict.reached, verdict.verified) == (Stage.NOTHING, False)
    assert verdict.reason() == "kexec-load-bad-segments; kdump is not armed: kdump.service has failed"
    assert "Cannot assign requested address" in verdict.symptoms[0]["line"]
    assert (verdict.kernel, verdict.crashkernel, verdict.reserved_mib) == ("6.12.0", "256M", 256)
    assert (tmp_path / "mine" / "verdict.json").exists()
    assert (tmp_path / "mine" / "status.txt").read_text(encoding="utf-8").strip() == NOT_LOADED.strip()


def test_an_armed_disk_that_does_not_load_tells_the_guests_state(arm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_stack: object) -> None:
        raise NotArmed("kdump is not armed: kdump.service has failed", said=NOT_LOADED)

    monkeypatch.setattr(disks.KdumpService, "wait_until_loaded", refuse)
    monkeypatch.setattr(disks.KdumpService, "state", lambda _stack: "the state")
    with pytest.raises(NotArmed) as caught:
        arm(Guest(SLES_16), "suse")
    assert caught.value.state == "the state"
    assert caught.value.see is not None
    assert caught.value.exit_code == 4  # for those who asked for a disk and not for a verdict


def test_a_capture_initramfs_that_cannot_be_built_tells_the_guests_state(
    arm: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise NotArmed("kdump is not armed: 'kdumpctl rebuild' failed", said="mkdumprd: failed")

    monkeypatch.setattr(disks.KdumpService, "reserve_and_build", refuse)
    monkeypatch.setattr(disks.KdumpService, "state", lambda _stack: "the state")
    with pytest.raises(NotArmed) as caught:
        arm(Guest(ROCKY_9), "redhat")
    assert caught.value.state == "the state"


@pytest.mark.parametrize(
    ("complaints", "remarks"),
    [
        ("", []),
        (
            "dracut-install: ERROR: installing '/sbin/makedumpfile' to '/sbin/makedumpfile'\n",
            [
                "while the capture initramfs was built: dracut-install: ERROR: installing '/sbin/makedumpfile' to"
                " '/sbin/makedumpfile' (initramfs-build-failed)"
            ],
        ),
    ],
)
def test_an_initramfs_that_lacks_a_file_is_remarked_although_kdumpctl_is_content(
    arm: Any, monkeypatch: pytest.MonkeyPatch, complaints: str, remarks: list[str]
) -> None:
    """The status is 0 in both cases, as was seen of kdump-utils 1.0.61 with dracut 059."""
    recorded = (DRILLS.parent / "commands" / "kdumpctl.log").read_text(encoding="utf-8")
    said = recorded.partition("$ kdumpctl rebuild 2>&1\n")[2].partition("[0 after")[0]
    assert said.startswith("kdump: Rebuilding /boot/")
    monkeypatch.setattr(disks.KdumpService, "reserve_and_build", lambda *_, **__: said + complaints)
    made, _ = arm(Guest(ROCKY_9), "redhat")
    assert made["remarks"] == remarks


def test_every_drill_on_such_a_disk_carries_the_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = BaseDisk(path=tmp_path, format="qcow2", key="k", packages=(), source="mine.qcow2")
    armed = ArmedDisk(path=tmp_path, kernel="6.1.0", base=base, remarks=("while the capture initramfs was built: no",))
    monkeypatch.setattr(session, "armed_disk", lambda *_: armed)
    monkeypatch.setattr(Drill, "take", lambda drilled, *_, **__: drilled.verdict)
    run: Any = fake_run(
        fit=lambda machine, needs: machine,
        open_evidence=lambda: None,
        evidence=lambda name: Evidence(tmp_path / name), evidence_directory=tmp_path,
        host=SimpleNamespace(require_space=lambda *_: None), overlay=lambda path, base_format: path,
        guest=lambda *_, **__: contextlib.nullcontext(),
    )  # fmt: skip
    verdict = session.run_drill(
        run, Plan(subject=SystemUnderTest(name="mine", family=find_family("redhat")), config=CONFIG)
    )
    assert verdict.remarks == ["while the capture initramfs was built: no"]


# ---------------------------------------------------------------- after the crash


def test_what_kdump_wrote_beside_an_unfinished_dump_is_kept(tmp_path: Path) -> None:
    run = fake_run()
    evidence = Evidence(tmp_path / "drill")
    drilled = Drill(run, Plan(subject=SystemUnderTest(name="mine", family=find_family("suse"))), evidence)
    vmcore = FoundFile(
        path="/var/crash/now/vmcore", size_bytes=6_498_620, mode=0o600, owner="root", directory_mode=0o700,
        final=False, unfinished="README.txt: vmcore status: error while saving, return code: 134",
    )  # fmt: skip
    drilled.target = SimpleNamespace(
        look=lambda *_: {vmcore.path: vmcore}, dump_files=lambda system: system, trouble=""
    )  # type: ignore[assignment]

    class Shell:
        def run(self, *_: object, **__: object) -> Any:
            return SimpleNamespace(out="/var/crash/now/README.txt\n/var/crash/now/vmcore\n")

        def fetch(self, path: str, to: Path, **_: object) -> None:
            to.write_text(path, encoding="utf-8")

    guest: Any = SimpleNamespace(shell=Shell(), connect=lambda: "new boot")
    stack: Any = Stack("suse", "sles", "16.0", changes=False)
    facts: Any = SimpleNamespace(before=stack.state())
    drilled._recover(guest, stack, facts, {})
    evidence.close()
    assert (tmp_path / "drill" / "README.txt").exists()
    assert not (tmp_path / "drill" / "vmcore").exists()
    assert "return code: 134" in drilled.verdict.reason()
