"""Each family's configuration is read as its tools read it, and written settings read back the same."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from kdump_harness.base.errors import UsageError
from kdump_harness.distro.config_file import COMPRESS_FLAGS, Collection, ConfigFile
from kdump_harness.distro.family import choose_release, find_family


def config_of(family: str, identity: str, version: str) -> ConfigFile:
    return choose_release(find_family(family), {"ID": identity, "VERSION_ID": version})[0].config


DEBIAN = config_of("debian", "debian", "12")
RHEL = config_of("redhat", "rhel", "10")
RHEL7 = config_of("redhat", "rhel", "7.9")
SUSE = config_of("suse", "sles", "16.0")
SUSE12 = config_of("suse", "sles", "12.5")

# The lines in force of the files as they are shipped, with some of the comments around them.
KDUMP_CONF = """\
# This file contains a series of commands to perform (in order) in the kdump
# kernel after a kernel crash in the crash kernel(1st kernel) has happened.
#
#raw /dev/vg/lv_kdump
#ext4 UUID=03138356-5e61-4ab3-b58e-27507ac41937
#ssh user@my.server.com
auto_reset_crashkernel yes
path /var/crash
core_collector makedumpfile -l --message-level 7 -d 31
#core_collector scp
#failure_action shell
"""
KDUMP_CONF_7 = """\
#net my.server.com:/export/tmp
path /var/crash
core_collector makedumpfile -l --message-level 1 -d 31
#default shell
"""
SYSCONFIG = """\
## Type:	string
## Default:	"auto"
KDUMP_CRASHKERNEL="auto"
KDUMP_UPDATE_BOOTLOADER="true"
KDUMP_CPUS=32
KDUMP_IMMEDIATE_REBOOT="true"
KDUMP_SAVEDIR="/var/crash"
KDUMP_KEEP_OLD_DUMPS=0
KDUMP_DUMPLEVEL=31
## Type:        list(,none,ELF,compressed,lzo,snappy,zstd,raw)
KDUMP_DUMPFORMAT="compressed"
KDUMP_SSH_IDENTITY=""
"""
SYSCONFIG_OLD = """\
KDUMP_CPUS=1
KDUMP_IMMEDIATE_REBOOT="yes"
KDUMP_SAVEDIR="file:///var/crash"
KDUMP_KEEP_OLD_DUMPS=5
KDUMP_DUMPLEVEL=31
KDUMP_DUMPFORMAT="compressed"
KDUMP_COPY_KERNEL="yes"
"""
SHIPPED = [(RHEL, KDUMP_CONF), (RHEL7, KDUMP_CONF_7), (SUSE, SYSCONFIG), (SUSE12, SYSCONFIG_OLD)]
IDS = ["rhel-10", "rhel-7", "sles-16", "sles-12"]
shipped = pytest.mark.parametrize(("config", "text"), SHIPPED, ids=IDS)


# ---------------------------------------------------------------- level and compression


REFUSED = "makedumpfile refuses the dump level '{}'"
NO_DUMP = "KDUMP_DUMPFORMAT is 'none', with which only the kernel log is saved"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KDUMP_CONF, Collection(31, "lzo")),
        ("", Collection(31, "lzo")),
        ("core_collector\n", Collection(31, "lzo")),
        ("core_collector makedumpfile -c --message-level 31 -d 31\n", Collection(31, "zlib")),
        ("core_collector makedumpfile -F -l --message-level 7 -d 31\n", Collection(31, "lzo")),
        ("core_collector   makedumpfile\t-z -d1   # small enough\n", Collection(1, "zstd")),
        ('core_collector "makedumpfile -p -d 17"\n', Collection(17, "snappy")),
        ("core_collector makedumpfile --message-level 7 -d 31\n", Collection(31, "none")),
        ("core_collector /usr/sbin/makedumpfile -l -d 11,31\n", Collection(11, "lzo")),
        ("core_collector makedumpfile -l -d 31 --num-threads=4\n", Collection(31, "lzo")),
        ("core_collector makedumpfile -E -d 31\n", Collection(31, "none", elf=True)),
        ("core_collector makedumpfile -l -d 0x1f\n", Collection(0, "lzo", misread="0x1f")),
        ("core_collector makedumpfile -l -dabc\n", Collection(0, "lzo", misread="abc")),
        ("core_collector makedumpfile -l -d 31x,17\n", Collection(31, "lzo", misread="31x")),
        ("core_collector makedumpfile -d abc -l -d 31\n", Collection(31, "lzo")),
        ("core_collector makedumpfile -l -d 32\n", Collection(32, "lzo", refused=REFUSED.format("32"))),
        ("core_collector makedumpfile -l -d 11,32\n", Collection(11, "lzo", refused=REFUSED.format("11,32"))),
        ("core_collector makedumpfile -l -d -1\n", Collection(-1, "lzo", refused=REFUSED.format("-1"))),
        ("core_collector makedumpfile -d 99 -l -d 31\n", Collection(31, "lzo", refused=REFUSED.format("99"))),
        (
            "core_collector makedumpfile --dump-dmesg\n",
            Collection(0, "none", refused="--dump-dmesg writes the kernel log only"),
        ),
        ("core_collector scp\n", Collection(0, "none", elf=True)),
        ("core_collector cp --sparse=always\n", Collection(0, "none", elf=True)),
        ("core_collector dd bs=1M\n", Collection(0, "none", elf=True)),
        ("  core_collector makedumpfile -c -d 1\n", Collection(1, "zlib")),
        ("#core_collector makedumpfile -c -d 1\n", Collection(31, "lzo")),
        ("core_collectors makedumpfile -c -d 1\n", Collection(31, "lzo")),
    ],
)
def test_the_core_collector_of_red_hat_is_read(text: str, expected: Collection) -> None:
    assert RHEL.core_collector(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SYSCONFIG, Collection(31, "zlib")),
        (SYSCONFIG_OLD, Collection(31, "zlib")),
        ("", Collection(31, "zlib")),
        ('KDUMP_DUMPLEVEL=""\nKDUMP_DUMPFORMAT=""\n', Collection(31, "zlib")),
        ('KDUMP_DUMPLEVEL="1"\nKDUMP_DUMPFORMAT="lzo"\n', Collection(1, "lzo")),
        ("KDUMP_DUMPLEVEL=0\nKDUMP_DUMPFORMAT=zstd\n", Collection(0, "zstd")),
        ("KDUMP_DUMPFORMAT='snappy' # -p\n", Collection(31, "snappy")),
        ("KDUMP_DUMPFORMAT=lzo\nKDUMP_DUMPFORMAT=compressed\n", Collection(31, "zlib")),
        ("KDUMP_DUMPFORMAT=ELF\n", Collection(31, "none", elf=True)),
        ("KDUMP_DUMPFORMAT=raw\n", Collection(0, "none", elf=True)),
        ("KDUMP_DUMPFORMAT=none\n", Collection(31, "none", refused=NO_DUMP)),
        ("KDUMP_DUMPLEVEL=32\n", Collection(0, "zlib", misread="32")),
        ("KDUMP_DUMPLEVEL=-1\n", Collection(0, "zlib", misread="-1")),
        ("KDUMP_DUMPLEVEL=all\n", Collection(0, "zlib", misread="all")),
        ("KDUMP_DUMPLEVEL=all\nKDUMP_DUMPFORMAT=raw\n", Collection(0, "none", elf=True)),
        ("#KDUMP_DUMPLEVEL=1\n", Collection(31, "zlib")),
        ("XKDUMP_DUMPLEVEL=1\n", Collection(31, "zlib")),
    ],
)
def test_level_and_format_of_suse_are_read(text: str, expected: Collection) -> None:
    assert SUSE.core_collector(text) == expected
    assert SUSE12.core_collector(text) == expected


@shipped
@pytest.mark.parametrize("level", [0, 1, 31])
@pytest.mark.parametrize("compress", COMPRESS_FLAGS)
def test_what_is_written_is_read_back(config: ConfigFile, text: str, level: int, compress: str) -> None:
    if compress not in config.compressions:
        with pytest.raises(UsageError, match=f"cannot ask for compression {compress}"):
            config.with_collection(text, level, compress)
        return
    after = config.with_collection(text, level, compress)
    assert config.core_collector(after) == Collection(level, compress)
    assert config.with_collection(after, level, compress) == after
    assert config.with_collection("", level, compress).count("\n") <= 2


@pytest.mark.parametrize(
    ("config", "text", "level", "compress", "lines"),
    [
        (RHEL, KDUMP_CONF, 31, "zlib", ["core_collector makedumpfile -c --message-level 7 -d 31"]),
        (RHEL, KDUMP_CONF, 31, "none", ["core_collector makedumpfile --message-level 7 -d 31"]),
        (RHEL7, KDUMP_CONF_7, 1, "lzo", ["core_collector makedumpfile -l --message-level 1 -d 1"]),
        (SUSE, SYSCONFIG, 1, "zstd", ['KDUMP_DUMPLEVEL="1"', 'KDUMP_DUMPFORMAT="zstd"']),
        (SUSE12, SYSCONFIG_OLD, 31, "lzo", ['KDUMP_DUMPFORMAT="lzo"']),
    ],
)
def test_only_the_lines_that_differ_are_replaced(
    config: ConfigFile, text: str, level: int, compress: str, lines: list[str]
) -> None:
    after = config.with_collection(text, level, compress)
    keys = {line.replace("=", " ").split()[0] for line in lines}
    kept = [line for line in text.splitlines() if line.replace("=", " ").split()[0] not in keys]
    assert after.splitlines() == kept + lines


@shipped
def test_a_configuration_that_fits_is_not_touched(config: ConfigFile, text: str) -> None:
    now = config.core_collector(text)
    assert config.with_collection(text, now.level, now.compress) is text


# ---------------------------------------------------------------- other settings


@pytest.mark.parametrize(
    ("config", "text", "settings", "added"),
    [
        (RHEL, KDUMP_CONF, {"on_failure": "dump_to_rootfs"}, ["failure_action dump_to_rootfs"]),
        (RHEL7, KDUMP_CONF_7, {"on_failure": "shell"}, ["default shell"]),
        (RHEL, KDUMP_CONF, {"on_success": "poweroff"}, ["final_action poweroff"]),
        (RHEL, KDUMP_CONF, {"directory": "/srv/vmcores"}, ["path /srv/vmcores"]),
        (RHEL, KDUMP_CONF, {"nfs": "10.0.2.100:/srv/dump"}, ["nfs 10.0.2.100:/srv/dump"]),
        (
            RHEL,
            KDUMP_CONF,
            {"ssh": "kdump@10.0.2.100", "ssh_key": "/root/.ssh/id_kdump"},
            ["ssh kdump@10.0.2.100", "sshkey /root/.ssh/id_kdump"],
        ),
        (RHEL, KDUMP_CONF, {"xfs": "UUID=1-2"}, ["xfs UUID=1-2"]),
        (RHEL, KDUMP_CONF, {"dracut": '--add-drivers "ext4"'}, ['dracut_args --add-drivers "ext4"']),
        (SUSE, SYSCONFIG, {"keep": "-1"}, ['KDUMP_KEEP_OLD_DUMPS="-1"']),
        (SUSE, SYSCONFIG, {"reserve": "crashkernel=256M"}, ['KDUMP_CRASHKERNEL="crashkernel=256M"']),
        (SUSE, SYSCONFIG, {"directory": "ssh://k@h:22/d"}, ['KDUMP_SAVEDIR="ssh://k@h:22/d"']),
        (SUSE12, SYSCONFIG_OLD, {"on_success": "no"}, ['KDUMP_IMMEDIATE_REBOOT="no"']),
        (DEBIAN, "", {"on_failure": "reboot -f"}, ['KDUMP_FAIL_CMD="reboot -f"']),
        (DEBIAN, "", {"arguments": 'a="b $c"'}, ["KDUMP_CMDLINE_APPEND='a=\"b $c\"'"]),
    ],
)
def test_a_setting_is_written_under_the_name_of_its_release(
    config: ConfigFile, text: str, settings: dict[str, str], added: list[str]
) -> None:
    after = config.edit(text, settings)
    assert [line for line in after.splitlines() if line not in text.splitlines()] == added
    assert {name: config.get(after, name) for name in settings} == settings
    assert config.edit(after, settings) is after


def test_a_setting_is_taken_out() -> None:
    """kdump.conf may name one target only."""
    after = RHEL.edit(KDUMP_CONF, {"ssh": "kdump@collector"})
    assert RHEL.edit(after, {"ssh": None, "nfs": None}) == KDUMP_CONF
    assert RHEL.edit(KDUMP_CONF, {"ssh": None}) is KDUMP_CONF
    assert RHEL.edit("nfs a:/b", {"nfs": None, "ssh": "k@c"}) == "ssh k@c\n"


@pytest.mark.parametrize("value", ["reboot -f", "$(id) `id` \\", 'with "quotes"', "a'b", "#no comment", "-l -d 31"])
def test_a_shell_reads_an_assignment_as_we_do(tmp_path: Path, value: str) -> None:
    path = tmp_path / "kdump"
    path.write_text(DEBIAN.edit("", {"on_failure": value}))
    script = f'. {path}; printf %s "$KDUMP_FAIL_CMD"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    assert read == value == DEBIAN.get(path.read_text(), "on_failure")


@pytest.mark.parametrize(
    ("config", "setting"), [(RHEL7, "on_success"), (SUSE12, "update_bootloader"), (DEBIAN, "virtiofs")]
)
def test_a_setting_that_the_release_does_not_have_is_refused(config: ConfigFile, setting: str) -> None:
    with pytest.raises(UsageError, match=f"{config.file} has no setting for {setting}"):
        config.edit("", {setting: "x"})


@pytest.mark.parametrize(
    ("config", "text", "expected"),
    [
        (RHEL, KDUMP_CONF, "/var/crash"),
        (RHEL, "", "/var/crash"),
        (RHEL, "path /srv/vmcores\n", "/srv/vmcores"),
        (SUSE, SYSCONFIG, "/var/crash"),
        (SUSE12, SYSCONFIG_OLD, "/var/crash"),
        (SUSE, 'KDUMP_SAVEDIR="file:///srv/dumps"\n', "/srv/dumps"),
        (SUSE, 'KDUMP_SAVEDIR="FILE:///srv/dumps"\n', "/srv/dumps"),
        (SUSE, 'KDUMP_SAVEDIR="nfs://10.0.2.100/srv"\n', None),
        (DEBIAN, 'KDUMP_COREDIR="/srv/dumps"\n', "/srv/dumps"),
    ],
)
def test_the_place_of_the_dumps_is_read(config: ConfigFile, text: str, expected: str | None) -> None:
    assert config.directory(text) == expected
