"""How the disks of a domain are copied, and the remarks on its clone; a fake stands for libvirt."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from kdump_harness.base.errors import GuestError, HostError, NoVerdict, UsageError
from kdump_harness.cli.verbs import drill
from kdump_harness.distro.family import find_family
from kdump_harness.drill import clone
from kdump_harness.drill.clone import (
    Clone,
    CloneRequest,
    backup_xml,
    check_config,
    describe_domain,
    find_by_os_release,
    label_of,
)
from kdump_harness.drill.disks import BaseDisk, SystemUnderTest
from kdump_harness.drill.plan import Plan
from kdump_harness.images.state import State, is_held
from kdump_harness.kdump.service import KdumpConfig
from kdump_harness.vm import fsfreeze
from kdump_harness.vm.hypervisor.connection import Hypervisor
from kdump_harness.vm.hypervisor.source_description import OriginalDisk, SourceDescription
from kdump_harness.vm.hypervisor.source_domain import CopyJob, SourceDomain
from kdump_harness.vm.isolated_network import libvirt_network
from kdump_harness.vm.run import Machine
from source_domain_factory import SYSTEM, disk, read

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")


def refusal(code: int, said: str = "no") -> libvirt.libvirtError:
    error = libvirt.libvirtError("")
    error.err = (code, 0, said, 0, "", None, None, 0, 0)
    return error


# ---------------------------------------------------------------- which domain


class Listing:
    """A libvirt that knows some names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def listAllDomains(self, _flags: int = 0) -> list[Any]:  # noqa: N802  # libvirt's own name
        return [SimpleNamespace(name=lambda name=name: name) for name in self.names]

    def lookupByName(self, name: str) -> str:  # noqa: N802
        return f"handle of {name}"


def hypervisor(connection: Any) -> Hypervisor:
    made = object.__new__(Hypervisor)
    made._connection, made.uri, made._is_held = connection, "qemu:///system", is_held
    return made


def test_a_domain_is_found_by_its_name() -> None:
    assert hypervisor(Listing("web", "db")).find("db").name == "db"


@pytest.mark.parametrize(
    ("known", "name", "sentence"),
    [
        (("web", "db", "kdh-1-2-x"), "wbe", "no domain 'wbe' at qemu:///system (known: db, web)"),
        ((), "web", "no domain 'web' at qemu:///system (known: none)"),
        (("kdh-1-2-x",), "kdh-1-2-x", "kdh-1-2-x is a guest of kdump-harness: choose another domain"),
    ],
)
def test_another_name_is_refused_and_told_the_known_ones(known: tuple[str, ...], name: str, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        hypervisor(Listing(*known)).find(name)
    assert str(caught.value) == sentence


def test_a_domain_elsewhere_is_refused_without_asking_for_it() -> None:
    with pytest.raises(HostError, match=r"qemu\+ssh://nowhere.invalid/system is on another host"):
        describe_domain("qemu+ssh://nowhere.invalid/system", "web")


@pytest.mark.parametrize(
    ("name", "label"),
    [("web.example.org", "web-example-org"), ("_a b/..", "a-b"), ("ü", "clone"), ("w" * 99, "w" * 40)],
)
def test_a_name_becomes_a_part_of_other_names(name: str, label: str) -> None:
    assert label_of(name) == label


# ---------------------------------------------------------------- while it runs


class Handle:
    """A running libvirt domain whose copy job follows a script."""

    def __init__(self, *, copying_to: str = "", now: Any = None, last: Any = None) -> None:
        self.copying_to, self.now, self.last = copying_to, now or {"type": libvirt.VIR_DOMAIN_JOB_NONE}, last or {}
        self.aborted = 0

    def backupGetXMLDesc(self) -> str:  # noqa: N802
        if not self.copying_to:
            raise refusal(libvirt.VIR_ERR_NO_DOMAIN_BACKUP)
        return f'<domainbackup><disks><disk name="vda"><target file="{self.copying_to}"/></disk></disks></domainbackup>'

    def abortJob(self) -> None:  # noqa: N802
        self.aborted += 1

    def jobStats(self, flags: int = 0) -> Any:  # noqa: N802
        return self.last if flags else self.now

    def name(self) -> str:
        return "web"


def users_domain(handle: Any) -> SourceDomain:
    made = object.__new__(SourceDomain)
    made._handle, made.name = handle, "web"
    return made


def test_only_the_copying_that_is_ours_is_ended() -> None:
    for ours, ended in (("/run/ours.qcow2", 1), ("/backup/theirs.qcow2", 0), ("", 0)):
        handle = Handle(copying_to=ours)
        users_domain(handle).end_copy(Path("/run/ours.qcow2"))
        assert handle.aborted == ended, ours


def test_clean_is_told_what_is_being_copied_where() -> None:
    handles = [Handle(), Handle(copying_to="/run/ours.qcow2")]
    found = hypervisor(SimpleNamespace(listAllDomains=lambda _flags: handles)).copies()
    assert found == (("web", Path("/run/ours.qcow2")),)


@pytest.mark.parametrize(
    ("handle", "job"),
    [
        (
            Handle(now={"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "disk_processed": 5, "disk_total": 9}),
            CopyJob(ended=False, done_bytes=5, total_bytes=9),
        ),
        (Handle(last={"type": libvirt.VIR_DOMAIN_JOB_COMPLETED, "success": True}), CopyJob(ended=True)),
        (
            Handle(last={"type": libvirt.VIR_DOMAIN_JOB_COMPLETED, "success": False, "errmsg": "No space left"}),
            CopyJob(ended=True, error="No space left"),
        ),
        (
            Handle(last={"type": libvirt.VIR_DOMAIN_JOB_CANCELLED}),
            CopyJob(ended=True, error="the copying was aborted"),
        ),
    ],
)
def test_the_end_of_the_copying_is_told_from_its_failure(handle: Handle, job: CopyJob) -> None:
    assert users_domain(handle).copy_job() == job


def test_a_domain_that_stops_ends_the_copying() -> None:
    def gone(_flags: int = 0) -> Any:
        raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")

    job = users_domain(SimpleNamespace(jobStats=gone)).copy_job()
    assert job == CopyJob(ended=True, error="domain is not running")


def test_what_is_not_cloned_is_not_copied_either() -> None:
    """libvirt copies each disk that the order does not name to a path next to the original's file."""
    original = read(SYSTEM + disk("vdb") + disk("hda", device="cdrom") + disk("vdc", "<readonly/>"))
    order = ElementTree.fromstring(backup_xml(original, {"sda": Path("/r/1 & 2"), "vdb": Path("/r/2")}))
    assert order.get("mode") == "push"
    told = {one.get("name"): one for one in order.iterfind("disks/disk")}
    assert {name: one.get("backup") for name, one in told.items()} == {
        "sda": "yes",
        "vdb": "yes",
        "hda": "no",
        "vdc": "no",
    }
    target = told["sda"].find("target")
    assert target is not None
    assert target.get("file") == "/r/1 & 2"


class Freezing:
    """A domain that notes what is done to it."""

    def __init__(self, *, freezes: bool = True, copies: bool = True) -> None:
        self.freezes, self.copies = freezes, copies
        self.done: list[str] = []

    def freeze(self) -> None:
        self.done.append("freeze")
        if not self.freezes:
            raise GuestError("web: its guest agent does not freeze the filesystems: it sleeps")

    def begin_copy(self, _xml: str) -> None:
        self.done.append("begin")
        if not self.copies:
            raise HostError("web runs, and libvirt cannot copy its disks: busy")

    def thaw(self) -> None:
        self.done.append("thaw")


@pytest.mark.parametrize(
    ("domain", "wanted", "done", "frozen"),
    [
        (Freezing(), True, ["freeze", "begin", "thaw"], True),
        (Freezing(freezes=False), True, ["freeze", "begin", "thaw"], False),
        (Freezing(), False, ["begin"], False),
    ],
)
def test_writes_are_held_only_while_the_copying_begins(
    monkeypatch: pytest.MonkeyPatch, domain: Freezing, wanted: bool, done: list[str], frozen: bool
) -> None:
    monkeypatch.setattr(
        fsfreeze, "Hypervisor", lambda _uri: SimpleNamespace(find=lambda _name: domain, close=lambda: None)
    )
    begun = fsfreeze._freeze_and_begin("qemu:///system", "web", "<x/>", freeze=wanted)
    assert domain.done == done
    assert (begun.frozen_s is not None) is frozen
    assert bool(begun.why_not) is (wanted and not frozen)


def test_a_machine_goes_on_when_the_copying_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Freezing(copies=False)
    monkeypatch.setattr(
        fsfreeze, "Hypervisor", lambda _uri: SimpleNamespace(find=lambda _name: domain, close=lambda: None)
    )
    with pytest.raises(HostError, match="libvirt cannot copy its disks: busy"):
        fsfreeze._freeze_and_begin("qemu:///system", "web", "<x/>", freeze=True)
    assert domain.done == ["freeze", "begin", "thaw"]


class Narrator:
    """A progress that says nothing."""

    @contextlib.contextmanager
    def step(self, _text: str) -> Iterator[None]:
        yield

    def detail(self, _text: str) -> None:
        return

    def tick(self) -> None:
        return


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(clone, "LOOK_EVERY_S", 0.01)
    return SimpleNamespace(
        directory=SimpleNamespace(path=tmp_path), progress=Narrator(), hypervisor=SimpleNamespace(uri="qemu:///system")
    )


class Copying(Freezing):
    """A running domain whose copying takes a few looks."""

    def __init__(self, *jobs: CopyJob | BaseException) -> None:
        super().__init__()
        self.jobs, self.ended, self.name = list(jobs), [], "web"
        self.ended: list[Path]

    def copy_job(self) -> CopyJob:
        job = self.jobs.pop(0)
        if isinstance(job, BaseException):
            raise job
        return job

    def end_copy(self, file: Path) -> None:
        self.ended.append(file)


def copy_running(run: Any, domain: Any, begun: fsfreeze.Begun, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(clone, "begin_copy", lambda *_arguments, **_more: begun)
    return clone._copy_running(run, domain, read(), {"sda": Path("/run/1")})


def test_the_moment_of_the_copy_is_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    going, ended = CopyJob(ended=False), CopyJob(ended=True)
    for begun, said in (
        (fsfreeze.Begun(frozen_s=0.42), "copied while it ran, its filesystems frozen by the guest agent for 0.4 s"),
        (fsfreeze.Begun(why_not="it sleeps"), "copied while it ran, as after a power cut (it sleeps)"),
        (fsfreeze.Begun(), "as after a power cut (it has no guest agent to freeze its filesystems)"),
    ):
        domain = Copying(going, ended)
        assert said in copy_running(run, domain, begun, monkeypatch)
        assert domain.ended == []


def test_ctrl_c_ends_the_copying(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Copying(CopyJob(ended=False), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        copy_running(run, domain, fsfreeze.Begun(), monkeypatch)
    assert domain.ended == [Path("/run/1")]


def test_a_copying_that_fails_is_no_verdict(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Copying(CopyJob(ended=True, error="domain is not running"))
    with pytest.raises(NoVerdict, match="the disks of web could not be copied: domain is not running"):
        copy_running(run, domain, fsfreeze.Begun(), monkeypatch)


# ---------------------------------------------------------------- while it is shut off


@pytest.fixture
def shut_off(tmp_path: Path) -> SourceDescription:
    """A machine with one raw disk of some MiB."""
    path = tmp_path / "my.raw"
    with path.open("wb") as file:
        file.write(os.urandom(8 << 20))
        file.truncate(64 << 20)
    path.chmod(0o600)
    source = f'<source file="{path}"/>'
    return read(disk("vda", source=source).replace('type="qcow2"', 'type="raw"'))


def lifeless(*lives: int | None) -> Any:
    left = list(lives)
    return SimpleNamespace(name="my", life=lambda: left.pop(0) if left else None, is_saved=lambda: False)


def copy_shut_off(run: Any, domain: Any, original: SourceDescription, to: Path) -> str:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", to, "64M"], check=True)
    return clone._copy_shut_off(run, domain, original, {"vda": to})


@needs_qemu_img
def test_a_disk_of_a_machine_that_is_off_is_read_and_nothing_else(
    run: Any, shut_off: SourceDescription, tmp_path: Path
) -> None:
    source, to = shut_off.disks[0].source, tmp_path / "copy.qcow2"
    before, content = source.stat(), source.read_bytes()
    assert copy_shut_off(run, lifeless(), shut_off, to) == "copied while it was shut off"
    after = source.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns, after.st_mode, after.st_uid) == (
        before.st_mtime_ns, before.st_ctime_ns, before.st_mode, before.st_uid,
    )  # fmt: skip
    assert source.read_bytes() == content
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", source, to], check=True, capture_output=True)
    assert to.stat().st_blocks * 512 < 16 << 20, "holes stay holes"


@needs_qemu_img
def test_a_raw_disk_is_never_taken_for_what_a_guest_wrote_into_it(run: Any, tmp_path: Path) -> None:
    """Else a guest could have a file of the host's copied, by the header of an overlay in its first sector."""
    secret, source, to = tmp_path / "secret", tmp_path / "my.raw", tmp_path / "copy.qcow2"
    secret.write_bytes(b"secret!!" * (1 << 20))
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", source, "64M"], check=True)
    os.truncate(source, 64 << 20)
    original = read(disk("vda", source=f'<source file="{source}"/>').replace('type="qcow2"', 'type="raw"'))
    copy_shut_off(run, lifeless(), original, to)
    back = tmp_path / "back"
    subprocess.run(["qemu-img", "convert", "-O", "raw", to, back], check=True)
    assert back.read_bytes() == source.read_bytes()
    assert b"secret!!" not in back.read_bytes()


@needs_qemu_img
def test_a_machine_that_is_started_meanwhile_is_told(
    run: Any, shut_off: SourceDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoVerdict, match="my was started while its disks were being copied; drill it once more"):
        copy_shut_off(run, lifeless(5), shut_off, tmp_path / "copy.qcow2")


@needs_qemu_img
def test_a_disk_that_changes_meanwhile_is_told(
    run: Any, shut_off: SourceDescription, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = clone._convert

    def convert(*arguments: Any) -> None:
        real(*arguments)
        with shut_off.disks[0].source.open("r+b") as file:
            file.write(b"changed")

    monkeypatch.setattr(clone, "_convert", convert)
    with pytest.raises(NoVerdict, match="the disks of my changed while they were being copied"):
        copy_shut_off(run, lifeless(), shut_off, tmp_path / "copy.qcow2")


@needs_qemu_img
def test_a_disk_that_cannot_be_copied_is_named(run: Any, shut_off: SourceDescription, tmp_path: Path) -> None:
    path = shut_off.disks[0].source
    (broken,) = (OriginalDisk(target="vda", source=path, format="qcow2"),)
    with pytest.raises(UsageError, match=r"my is shut off, but its disk cannot be copied: .*Image is not in qcow2"):
        clone._check_unused("my", broken)
    path.unlink()
    with pytest.raises(UsageError, match=rf"my is shut off, and its disk {path} does not exist"):
        clone._capacity_bytes(lifeless(), shut_off.disks[0])


def test_room_is_needed_for_what_is_used_of_a_disk(tmp_path: Path) -> None:
    for name, used in (("top", 2), ("below", 3)):
        with (tmp_path / name).open("wb") as file:
            file.write(os.urandom(used << 20))
            file.truncate(64 << 20)
    one = OriginalDisk(target="vda", source=tmp_path / "top", format="qcow2", backing=(tmp_path / "below",))
    assert 5 <= clone._used_bytes(one) / (1 << 20) < 6


def test_a_clone_does_not_take_the_memory_that_its_original_needs() -> None:
    clone._check_memory("web", 1)
    with pytest.raises(HostError, match=r"a clone of web needs 1000000000 MiB of memory, \d+ MiB are free"):
        clone._check_memory("web", 10**9)


# ---------------------------------------------------------------- what is said of a clone


@pytest.mark.parametrize(
    ("os_release", "family"),
    [
        ({"ID": "debian"}, "debian"),
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "debian"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "redhat"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "suse"),
        ({"ID": "mine", "ID_LIKE": "fedora"}, "redhat"),
    ],
)
def test_a_clone_says_of_which_family_it_is(os_release: dict[str, str], family: str) -> None:
    assert find_by_os_release(os_release).name == family


def test_a_clone_of_no_family_is_told_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"the clone is Plan 9, not of a known family \(debian, redhat, suse\)"):
        find_by_os_release({"ID": "plan9", "PRETTY_NAME": "Plan 9"})


def made(**facts: Any) -> Clone:
    known: dict[str, Any] = {
        "original": read(),
        "base": BaseDisk(path=Path("/run/1"), format="qcow2", key="", packages=(), source="a copy of the domain my"),
        "machine": Machine(),
        "identity": None,
        "like": SimpleNamespace(seeded=True),
        "remarks": (),
    }
    return Clone(**{**known, **facts})


@pytest.mark.parametrize(
    ("family", "config", "said"),
    [
        ("debian", "USE_KDUMP=1\n", None),
        (
            "debian",
            'SSH="kdump@vault"\n',
            "sends dumps by SSH to kdump@vault, which the clone's network does not reach",
        ),
        ("redhat", "nfs vault:/crash\npath /dumps\n", "by NFS to vault:/crash"),
        ("redhat", "path /var/crash\n", None),
    ],
)
def test_a_kdump_whose_dumps_cannot_arrive_is_named(family: str, config: str, said: str | None) -> None:
    guest: Any = SimpleNamespace(shell=SimpleNamespace(read_text=lambda _path: config))
    told = made().dumps_away(guest, find_family(family))
    assert (told is None) if said is None else (told is not None and said in told and "--target local" in told)


@pytest.mark.parametrize(
    ("up", "address", "seeded", "lacks", "said"),
    [
        (True, None, True, "", "gives addresses by DHCP only, so a fixed address is of no use there"),
        (True, None, False, "", "nor is a configuration for the original's MAC (--keep-mac keeps it)"),
        (True, "198.18.0.2", True, "", "it has no key of the harness (use --login with --key or --password-file)"),
        (True, "198.18.0.2", False, "", "does the key or the password belong to the login?"),
        (False, None, True, "", "so a fixed address is of no use there"),
        (False, None, True, "the TPM", "the clone lacks the TPM, which its /etc/fstab may wait for"),
        (False, "198.18.0.2", True, "", "my: it fails"),
    ],
)
def test_a_clone_that_cannot_be_reached_is_told_what_to_try(
    up: bool, address: str | None, seeded: bool, lacks: str, said: str
) -> None:
    def fails() -> str:
        raise GuestError("my: it fails", see="console.log")

    guest: Any = SimpleNamespace(
        power_on=lambda: None,
        wait_until_up=(lambda: True) if up else fails,
        connect=fails,
        domain=SimpleNamespace(address=lambda: address),
    )
    original = replace(read(), left_out=(lacks,) if lacks else ())
    with pytest.raises(GuestError) as caught:
        made(original=original, like=SimpleNamespace(seeded=seeded)).boot(guest, lambda _text: None)
    assert str(caught.value).startswith("my: it fails")
    assert str(caught.value).partition("\n")[0].endswith(said)


class Silent:
    """A guest whose kernel uses its serial line only once configured to; `done` lists the calls."""

    def __init__(self, *boots: str) -> None:
        self.boots, self.done = list(boots), []
        self.done: list[str]
        self.name, self.factor, self.shell = "my", 1.0, self

    def power_on(self) -> None:
        return

    def wait_until_up(self) -> bool:
        return False

    def connect(self) -> str:
        return self.boots.pop(0)

    def boot_id(self) -> str:
        return "first"

    def read_text(self, _path: str) -> str:
        return "ID=debian\nVERSION_ID=12\n"

    def succeeds(self, _command: str) -> bool:
        return False

    def run(self, command: str, *_arguments: object, **_more: object) -> Any:
        self.done.append(command)
        return SimpleNamespace(
            out="=====harness os_release\nID=debian\nVERSION_ID=12\n=====harness makedumpfile\n", ok=True
        )

    def write_text(self, path: str, text: str) -> None:
        self.done.append(f"write {path}: {text}")

    def start(self, command: str) -> None:
        self.done.append(command)

    def close_shell(self) -> None:
        return

    def wait_for_login(self) -> None:
        self.done.append("login")


def test_a_clone_without_a_serial_console_is_given_one_and_boots_again() -> None:
    guest: Any = Silent("first", "second")
    remark = made().boot(guest, lambda _text: None)
    assert remark is not None
    assert remark.startswith("the original has no serial console: the clone's kernel got one (console=tty0")
    written, update, reboot, login = guest.done[-4:]
    assert "console=ttyS0,115200n8" in written
    assert "crashkernel" not in written, "the reservation stays the original's"
    assert (update, reboot, login) == ("update-grub", "systemctl reboot", "login")
    with pytest.raises(GuestError, match="my has a login prompt, but not rebooted"):
        made().boot(Silent("first", "first"), lambda _text: None)  # type: ignore[arg-type]


def test_uefi_variables_are_copied_or_said_to_be_new(run: Any, tmp_path: Path) -> None:
    theirs = tmp_path / "my_VARS.fd"
    theirs.write_bytes(b"variables")
    for nvram, firmware, copied, said in (
        (theirs, "uefi", b"variables", ""),
        (None, "uefi", None, "libvirt does not say where the original's are"),
        (tmp_path / "gone", "uefi-secure", None, "cannot be read (No such file or directory)"),
        (None, "bios", None, ""),
    ):
        remarks: list[str] = []
        copy = clone._copy_nvram(run, replace(read(), nvram=nvram, firmware=firmware), remarks)
        assert (copy.read_bytes() if copy is not None else None) == copied
        assert [remark for remark in remarks if said in remark] == remarks
        assert bool(remarks) is bool(said)


def test_what_a_clone_can_reach_is_told() -> None:
    for wish, said in (
        (CloneRequest(), "its network cards are on a network that leads nowhere, with a new MAC and another host name"),
        (CloneRequest(seeded=False, keep_macs=True), "with the original's MAC and the original's host name"),
    ):
        assert said in clone._network_remark(read(), wish)


def test_the_clones_network_gives_addresses_and_leads_nowhere() -> None:
    told: list[str] = []
    connection = SimpleNamespace(networkCreateXML=told.append)
    libvirt_network(hypervisor(connection), "kdh-abc123-clone2", run=Path("/a & b"), dhcp=True)
    network = ElementTree.fromstring(told[0])
    assert network.find("forward") is None
    assert [dns.get("enable") for dns in network.iterfind("dns")] == ["no"]
    assert network.find("ip/dhcp/range") is not None


def test_the_network_of_a_run_with_another_state_is_left_alone(tmp_path: Path) -> None:
    made: list[Any] = []

    def create(xml: str) -> None:
        name = str(ElementTree.fromstring(xml).findtext("name"))
        made.append(SimpleNamespace(name=lambda: name, XMLDesc=lambda: xml))

    connection = SimpleNamespace(networkCreateXML=create, listAllNetworks=lambda: made)
    for name, ports in (("kdh-ddd444-crash", ["a guest"]), ("default", [])):  # of an older version, of the user
        made.append(
            SimpleNamespace(
                name=lambda name=name: name, XMLDesc=lambda: "<network/>", listAllPorts=lambda ports=ports: ports
            )
        )
    with State(tmp_path / "other").run() as theirs:
        for name, run in (
            ("kdh-aaa111-crash", theirs.path),
            ("kdh-bbb222-crash", tmp_path),
            ("kdh-ccc333-crash", tmp_path),
        ):
            libvirt_network(hypervisor(connection), name, run=run)
        assert hypervisor(connection).stale_networks({"ccc333"}) == ("kdh-bbb222-crash",)
    assert hypervisor(connection).stale_networks({"ccc333"}) == ("kdh-aaa111-crash", "kdh-bbb222-crash")


def test_a_setting_that_no_family_has_is_refused_before_anything_is_copied() -> None:
    plain = KdumpConfig(crashkernel=None, level=None, compress="none")
    check_config(plain, None)
    with pytest.raises(UsageError, match="kdump of the family suse has no setting for compression none"):
        check_config(plain, find_family("suse"))
    with pytest.raises(UsageError, match="dump level 99 does not exist"):
        check_config(KdumpConfig(crashkernel=None, level=99, compress=None), None)


# ---------------------------------------------------------------- the plan


def test_a_family_that_nobody_knows_yet_refuses_nothing() -> None:
    subject = SystemUnderTest(name="my", family=find_family("suse"))
    config = KdumpConfig(crashkernel=None, level=None, compress="none")
    plan = Plan(subject=subject, config=config, clone=made())
    plan.check()
    assert plan.image == "domain:my"
    with pytest.raises(UsageError, match="kdump of the family suse has no setting for compression none"):
        Plan(subject=subject, config=config, clone=made(family=find_family("suse"))).check()


@pytest.mark.parametrize(
    ("options", "as_is", "target"),
    [([], True, "local"), (["--target", "local"], False, "local"), (["--level", "1"], False, "local")],
)
def test_a_clone_is_judged_as_it_is_unless_a_part_of_its_kdump_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], as_is: bool, target: str
) -> None:
    from kdump_harness.__main__ import make_parser

    plans: list[Plan] = []

    class Told(Exception):
        pass

    def told(_run: Any, plan: Plan, _arguments: Any) -> Plan:
        plans.append(plan)
        raise Told

    monkeypatch.setattr(clone, "describe_domain", lambda _uri, _name: read())
    monkeypatch.setattr("kdump_harness.vm.run.Run", lambda _options: contextlib.nullcontext())
    monkeypatch.setattr(drill, "_with_clone", told)
    arguments = make_parser().parse_args(["drill", "--domain", "my", "--evidence", str(tmp_path), *options])
    with pytest.raises(Told):
        drill.drill(arguments)
    assert (plans[0].as_is, plans[0].target, plans[0].name) == (as_is, target, "domain-my")
