"""A remedy is a command that can be run as it is, or a sentence; it never repeats the value that failed."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from kdump_harness.base import tables
from kdump_harness.base.crashkernel import amounts
from kdump_harness.configuration.own_tables import family_names
from kdump_harness.diagnosis import diagnose_text, load_symptoms
from kdump_harness.diagnosis.remedies import PLATFORMS, doubled, filled, main_size
from test_diagnosis_modes import ARMED_CRASH, CAPTURE_BOOT, CAPTURING, FIRST_BOOT, FIRST_KERNEL, IN_CAPTURE, USERSPACE

BLANK = re.compile(r"\b(DRIVER|TARGET|IMAGE|HOST|KERNEL|KEY|UNIT|FILE|NAME|SIZE|USER)\b|\.\.\.|[{}]")
OOM = "[    4.000000] swapper/0 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n"
LOAD = "Mar  1 10:00:00 sut kdumpctl[800]: kdump: "

FAMILIES = family_names()


def is_command(remedy: str) -> bool:
    """Return whether a remedy is to be run as it is: a sentence begins with a capital letter."""
    return not re.match(r"[A-Z][a-z]", remedy)


def all_remedies() -> dict[str, str]:
    """Return the remedies of all rows and variants, filled for each system from a log that shows no value."""
    found = {}
    for row in load_symptoms().rows:
        for number, texts in enumerate((row, *row.variant)):
            for system in (None, *FAMILIES, *PLATFORMS):
                signs = [system] if system in PLATFORMS else []
                families = (system,) if system in FAMILIES else ()
                remedy = filled(texts.remedy or row.remedy, texts.remedies, families=families, signs=signs, facts={})
                found[f"{row.name}-{number}-{system}"] = remedy
    return found


def test_no_remedy_has_a_blank_to_fill_in() -> None:
    blanks = {name: remedy for name, remedy in all_remedies().items() if BLANK.search(remedy) or not remedy}
    assert not blanks


def test_each_command_is_one_for_a_shell() -> None:
    commands = sorted({remedy for remedy in all_remedies().values() if is_command(remedy)})
    for command in commands:
        plain = re.sub(r"'[^']*'|   # .*", "", command)
        assert not re.search(r", | or |\bthe\b", plain), command
    script = "\n".join(f"f{number}() {{ {command}\n}}" for number, command in enumerate(commands))
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stderr


@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_the_remedy_for_each_wording_is_complete(family: str | None) -> None:
    for rows, before in ((FIRST_KERNEL, FIRST_BOOT), (IN_CAPTURE, CAPTURING + USERSPACE)):
        for lines in rows.values():
            for line in lines:
                for symptom in diagnose_text(f"{before}{line}\n", family=family).symptoms:
                    assert symptom.remedy, symptom
                    assert not BLANK.search(symptom.remedy), symptom


@pytest.mark.parametrize(
    ("given", "family", "wanted", "not_wanted"),
    [
        ("crashkernel=2G-4G:320M,4G-:512M", "debian", "crashkernel=256M", "2G-4G"),
        ("crashkernel=2G-64G:256M,64G-:512M", "redhat", "crashkernel=256M", "reset-crashkernel"),
        ("crashkernel=auto", "redhat", "grubby", "auto"),
        ("crashkernel=192M", "debian", "dmesg", "crashkernel=192M"),
        ("quiet", "suse", "grub2-mkconfig", "192M"),
    ],
)
def test_a_value_that_reserved_nothing_is_not_repeated(given: str, family: str, wanted: str, not_wanted: str) -> None:
    boot = FIRST_BOOT.replace("crashkernel=192M", given)
    (symptom,) = diagnose_text(boot + LOAD + "No memory reserved for crash kernel\n", family=family).symptoms
    assert symptom.name == "no-reserved-memory"
    assert wanted in symptom.remedy
    assert not_wanted not in symptom.remedy


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("BOOT_IMAGE=(hd0,gpt2)/ostree/fedora-1/vmlinuz root=UUID=1 ostree=/ostree/boot.1/fedora", "rpm-ostree kargs"),
        ("Linux version 6.1 sonic_platform=x86_64-example-r0", "config kdump memory"),
        ("BOOT_IMAGE=/vmlinuz init=/nix/store/abc-nixos-system/init", "configuration.nix"),
        ("transactional-update[900]: snapshot 7 is the default", "transactional-update run"),
    ],
)
def test_systems_that_are_images_get_their_own_commands(line: str, command: str) -> None:
    found = diagnose_text(f"{line}\n{LOAD}No memory reserved for crash kernel\n", family="redhat")
    assert command in found.symptoms[0].remedy


@pytest.mark.parametrize(
    ("given", "size", "more"),
    [
        ("256M", "256M", "512M"),
        ("2G-64G:256M,64G-:512M", "512M", "1024M"),
        ("256M,high crashkernel=72M,low", "256M", "512M,high crashkernel=72M,low"),
        ("128M crashkernel=256M,cma", "128M", "256M crashkernel=256M,cma"),
        ("auto", None, None),
    ],
)
def test_more_memory_is_more_of_the_main_part(given: str, size: str | None, more: str | None) -> None:
    assert (main_size(given), doubled(given)) == (size, more)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("crashkernel=72M,low crashkernel=128M,high", "--args='crashkernel=256M,high crashkernel=72M,low' &&"),
        ("crashkernel=384M-:128M crashkernel=256M,high", "--args='crashkernel=256M' &&"),  # the plain one counts
        ("crashkernel=128M crashkernel=256M,cma", "--args='crashkernel=256M crashkernel=256M,cma' &&"),
    ],
)
def test_a_remedy_keeps_the_other_parts_of_the_reservation(given: str, wanted: str) -> None:
    console = CAPTURING.replace("crashkernel=192M", given) + USERSPACE + OOM
    found = diagnose_text(console, family="redhat").symptoms[0]
    assert found.name == "capture-oom"
    assert wanted in found.remedy


def test_high_memory_is_advised_in_words_that_the_kernel_accepts() -> None:
    console = CAPTURING.replace("crashkernel=192M", "crashkernel=512M-:192M")
    low = "[    1.000000] software IO TLB: No low mem\n"
    symptom = next(one for one in diagnose_text(console + low).symptoms if one.name.startswith("capture-dma"))
    advised = re.findall(r"crashkernel=(\S+,(?:high|low))", symptom.remedy)
    assert amounts(advised, 1024).main_mib == 192


def test_a_driver_is_named_only_where_the_log_names_it() -> None:
    oops = "[    3.0] BUG: unable to handle page fault for address: ffff8c0000000000\n"
    fault = "[    3.1] RIP: 0010:mlx5_load+0x1d/0x90 [mlx5_core]\n"
    known = diagnose_text(CAPTURING + oops + fault, family="redhat").symptoms[0].remedy
    unknown = diagnose_text(CAPTURING + oops, family="redhat").symptoms[0].remedy
    assert "module_blacklist=mlx5_core" in known
    assert not is_command(unknown)


def test_a_fatal_hardware_error_is_not_blamed_on_a_driver() -> None:
    panic = "[    5.9] Kernel panic - not syncing: Fatal hardware error!\n[    5.9]  __ghes_panic.cold+0x21/0x21\n"
    (symptom,) = diagnose_text(CAPTURING + panic, family="redhat").symptoms
    assert symptom.name == "capture-panic"
    assert "hest_disable" in symptom.remedy
    assert "blacklist" not in symptom.remedy


def run_first_step(remedy: str, places: str, directory: Path) -> None:
    """Run the first step of a remedy, which edits files in PLACES, on those of a directory."""
    script = re.sub(places, str(directory), remedy.split(" && ")[0])
    assert not re.search(r"/(etc|usr)\b", script), script
    subprocess.run(["bash", "-c", script], check=True, timeout=20)


def test_a_larger_reservation_is_written_wherever_debian_has_one(tmp_path: Path) -> None:
    (tmp_path / "grub.d").mkdir()
    files = {
        "grub": "GRUB_CMDLINE_LINUX='crashkernel=96M'\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n",
        "grub.d/kdump-tools.cfg": 'GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT crashkernel=384M-:96M"\n',
        "grub.d/own.cfg": 'GRUB_CMDLINE_LINUX="crashkernel=96M quiet"\n',
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (symptom,) = diagnose_text(
        "Linux version 6.1\nCommand line: ro crashkernel=96M\n" + CAPTURING + "x invoked oom-killer: a\n",
        family="debian",
    ).symptoms
    run_first_step(symptom.remedy, "/etc/default", tmp_path)
    for name, text in files.items():
        wanted = text.replace("384M-:96M", "96M").replace("96M", "192M")
        assert (tmp_path / name).read_text(encoding="utf-8") == wanted, name


def test_the_line_that_forbids_loading_becomes_a_comment(tmp_path: Path) -> None:
    (symptom,) = diagnose_text(LOAD + "kernel.kexec_load_disabled = 1\n").symptoms
    hardening = tmp_path / "60-hardening.conf"
    hardening.write_text("kernel.kptr_restrict=2\n kernel.kexec_load_disabled = 1\n", encoding="utf-8")
    run_first_step(symptom.remedy, r"/(etc|usr/lib)/sysctl\.(d|conf)", tmp_path)
    assert hardening.read_text(encoding="utf-8") == "kernel.kptr_restrict=2\n#  kernel.kexec_load_disabled = 1\n"


# ---------------------------------------------------------------- one error, several causes


def test_a_load_that_is_not_permitted_has_several_causes_until_a_second_sign() -> None:
    refused = LOAD + "kexec_file_load failed: Operation not permitted\n" + LOAD + "Starting kdump: [FAILED]\n"
    doubtful = diagnose_text(refused)
    assert [symptom.name for symptom in doubtful.symptoms] == ["kexec-load-disabled"]
    assert "kexec_load_limit_panic" in doubtful.symptoms[0].meaning
    certain = diagnose_text(refused + "kernel.kexec_load_disabled = 1\n")
    assert "until the next boot" in certain.symptoms[0].meaning
    by_old_call = diagnose_text(refused.replace("_file", "") + "kernel.kexec_load_disabled = 1\n")
    assert [symptom.name for symptom in by_old_call.symptoms] == ["kexec-load-disabled"], by_old_call.explain()
    assert certain.symptoms[0].remedy == by_old_call.symptoms[0].remedy
    assert certain.symptoms[0].remedy.endswith("&& reboot")
    locked = diagnose_text("[ 1.0] Lockdown: kexec: kexec of unsigned images is restricted; see man x\n" + refused)
    assert locked.mode == "kexec-signature-rejected"


@pytest.mark.parametrize(
    ("sign", "said"),
    [
        ("+ kexec --load /root/bzImage --initrd=/root/initrd", "crashkernel= are not involved"),
        ("[ 1387.5] kexec_file: allocated 1817 DMA pages at 0x11b16e", "CMA"),
        ("image_size: 0", "misread"),
    ],
)
def test_segments_that_do_not_fit_are_not_always_cured_by_memory(sign: str, said: str) -> None:
    (symptom,) = diagnose_text(f"{sign}\nkexec_load failed: Cannot assign requested address\n").symptoms
    assert said in symptom.meaning
    assert "512M" not in symptom.remedy


# ---------------------------------------------------------------- progress, denials, consequences


def test_progress_is_not_a_cause() -> None:
    start = LOAD + "No kdump initial ramdisk found.\n" + LOAD + "Rebuilding /boot/initramfs-6.1kdump.img\n"
    failed = LOAD + "mkdumprd: failed to make kdump initrd\n" + LOAD + "Starting kdump: [FAILED]\n"
    assert diagnose_text(start).symptoms == ()
    assert [symptom.name for symptom in diagnose_text(start + failed).symptoms] == ["initramfs-build-failed"]


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Error: /boot/vmlinuz-6.1 not found", "capture-image-missing"),
        ("Error: (builtin) not found.", "config-invalid"),
        ("Error: mlx5_core not found.", "config-invalid"),
        ("/boot does not have write permission. Can not rebuild /boot/x", "initramfs-build-failed"),
        ("W: kdump-tools: Unable to create /var/lib/kdump/x/initramfs.conf", "initramfs-build-failed"),
        ("No kdump initial ramdisk found. Tried to locate /boot/initrd-6.4-kdump.", "capture-image-missing"),
    ],
)
def test_the_object_that_is_not_found_decides(line: str, name: str) -> None:
    assert diagnose_text(f"{LOAD}{line}\n").mode == name


def test_a_denial_of_selinux_is_a_cause_only_where_something_failed() -> None:
    denied = (
        'Mar  1 10:00:00 sut kernel: audit: type=1400 avc:  denied  { write } for  pid=5 comm="kexec"'
        " scontext=system_u:system_r:kdump_t:s0 tclass=file permissive=0\n"
    )
    assert not diagnose_text(denied).failed
    found = diagnose_text(denied + LOAD + "kexec: failed to load kdump kernel\n")
    assert [(symptom.name, symptom.severity) for symptom in found.symptoms] == [("selinux-denied", "failure")]
    assert diagnose_text(denied + LOAD + "kexec: loaded kdump kernel\n").symptoms == ()


def test_the_last_resort_yields_to_a_cause() -> None:
    other = LOAD + "kexec: failed to load kdump kernel\n"
    cause = "Mar  1 10:00:00 sut kdumpctl[9]: realloc(): invalid pointer\n"
    assert diagnose_text(other).mode == "kexec-load-failed-other"
    assert [symptom.name for symptom in diagnose_text(cause + other).symptoms] == ["kexec-crashed"]


# ---------------------------------------------------------------- the dump's own log


def test_a_log_that_ends_with_the_panic_may_be_the_dumps_own() -> None:
    log = FIRST_BOOT.replace("[  OK  ] Reached target network.target - Network.\n", "") + ARMED_CRASH
    said = diagnose_text(log.replace("sysrq: Trigger a crash", "hung_task: blocked tasks").replace("sysrq", "hung"))
    assert (said.mode, said.failed) == ("indeterminate", False)
    assert "dump's own" in said.symptoms[0].meaning
    jumped = log + "[  713.0] Starting crashdump kernel...\n[  713.1] Bye!\n"
    assert (diagnose_text(jumped).mode, diagnose_text(jumped).failed) == ("handoff-no-capture-boot", False)
    assert diagnose_text(jumped + "crash> bt\n").symptoms == ()
    assert diagnose_text("[  OK  ] Started foo.\n" + jumped).failed
    assert diagnose_text(log + CAPTURE_BOOT).mode == "capture-hung-early"


@pytest.mark.parametrize("followed", [False, True])
def test_an_empty_directory_of_dumps_says_nothing_for_certain(followed: bool) -> None:
    log = LOAD + "Starting kdump: [OK]\n# ls /var/crash\n" + ("127.0.0.1-2026-01-01-00:00:00\n" if followed else "")
    found = diagnose_text(log)
    assert (found.mode, found.failed) == ("indeterminate" if followed else "panic-not-captured-unknown", False)


def test_the_failures_made_on_purpose_expect_symptoms_of_the_table() -> None:
    names = {row.name for row in load_symptoms().rows}
    table = tomllib.loads(tables.data_path("scenarios", "sabotage.toml").read_text(encoding="utf-8"))
    for row in table["sabotage"]:
        expected = {*row["symptom"], *row.get("remedies", ()), *row.get("followed_by", ())} - {"first"}
        assert expected <= names, row["name"]
        # A sentence cannot be run: the row has the command that follows it.
        for name in row["symptom"] if row.get("guest") else ():
            remedy = load_symptoms().row(name).remedies.get("debian") or load_symptoms().row(name).remedy
            assert is_command(remedy) or name in row.get("followed_by", ()), (row["name"], name)


def test_a_reservation_of_an_earlier_boot_says_nothing_of_ranges_that_leave_the_machine_out() -> None:
    head = "[    0.000000] Linux version 6.1.0-57-cloud-amd64\n[    0.000000] Command line: ro crashkernel="
    before = f"{head}256M\n[    0.0] Reserving 256MB of memory at 608MB for crashkernel (System RAM: 1023MB)\n"
    before += "example login: \n[   90.000000] reboot: Restarting system\n"
    after = f"{head}2G-:256M\n[    0.000000] crashkernel size resulted in zero bytes\n"
    after += "[   77.1] kdump-tools[335]: Memory for crashkernel is not reserved\n"
    for facts in ({}, {"crashkernel": "2G-:256M"}):
        (symptom,) = diagnose_text(before + after, family="debian", facts=facts).symptoms
        assert symptom.name == "no-reserved-memory"
        assert symptom.remedy.endswith(
            " crashkernel=256M\"' > /etc/default/grub.d/kdump-tools.cfg && update-grub && reboot"
        )
