"""Bad input is one sentence and the exit status of the contract; what scripts read keeps its shape."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from help_texts import help_texts
from kdump_harness import __main__ as command
from kdump_harness.__main__ import VERBS as ALL_VERBS
from kdump_harness.__main__ import main, make_parser
from kdump_harness.base import tables
from kdump_harness.cli import parser
from kdump_harness.cli.verbs.size import parse_memories
from kdump_harness.drill.disks import probe_format
from kdump_harness.images.state import State
from kdump_harness.pytest_plugin import fixtures
from kdump_harness.vm.hypervisor import connection
from vmcore_factory import Kdump

DATA = Path(__file__).parents[1] / "data"
DUMP = DATA / "vmcore" / "zlib.kdump"
CONSOLE = DATA / "drills" / "debian-12-verified.log"
VERBS = ("doctor", "images", "drill", "kernel", "sweep", "inspect", "diagnose", "store", "clean")


@pytest.fixture(autouse=True)
def _away_from_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("KDUMP_HARNESS_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", f"qemu+unix:///system?socket={tmp_path}/nobody-listens")
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """Run a command line that must fail; return its sentence and the exit status."""

    def run(*argv: object) -> tuple[str, int]:
        status = main([str(argument) for argument in argv])
        out, err = capfd.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert err.startswith("kdump-harness: ")
        assert err.count("\n") == 1, err
        assert not (tmp_path / "evidence").exists()
        return err.removeprefix("kdump-harness: ").strip(), status

    return run


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["drill", "debain-12"], "unknown image 'debain-12' (did you mean debian-12"),
        (["drill", "plan9"], "unknown image 'plan9' (known: debian-11, "),
        (["drill", "./disk.qcow2"], "./disk.qcow2 is a file of an unknown family: give --family (debian"),
        (["drill", "./disk.qcow2", "--family", "debian"], "disk.qcow2 does not exist"),
        (["drill", "./disk.qcow2", "--family", "gentoo"], "unknown family 'gentoo' (known: debian"),
        (
            ["drill", "debian-12", "--family", "suse"],
            "debian-12 belongs to the family debian, not to suse: omit --family",
        ),
        (["drill", "debian-12", "--trigger", "sysrq"], "unknown trigger 'sysrq' (known: sysrq-c"),
        (["drill", "debian-12", "--target", "tape"], "unknown target 'tape' (known: local"),
        (["drill", "debian-12", "--memory", "64"], "invalid guest memory: got 64 MiB, expected 256 to "),
        (["drill", "debian-12", "--memory", "9999999"], "invalid guest memory: got 9999999 MiB, expected 256 to "),
        (["drill", "debian-12", "--vcpus", "0"], "invalid number of processors: got 0, expected 1 to 255"),
        (["drill", "debian-12", "--level", "32"], "dump level 32 does not exist (0 to 31; "),
        (["drill", "debian-12", "--level", "-1"], "dump level -1 does not exist (0 to 31; "),
        (["drill", "debian-12", "--compress", "brotli"], "unknown compression 'brotli' (known: none, zlib, "),
        (
            ["drill", "debian-12", "--crashkernel", "256 M"],
            "'256 M' cannot be a kernel argument: 'M' is not a value of",
        ),
        (
            ["drill", "debian-12", "--crashkernel", "256M,hihg"],
            "the kernel refuses crashkernel=256M,hihg: unrecognized",
        ),
        (["compare", "debian-12", "debian-13", "--crashkernel", "1G-:9G"], "the kernel refuses crashkernel=1G-:9G: "),
        (["sweep", "debian-12", "--crashkernel", "1G-:9M,cma"], "since only a plain size may have ,cma"),
        (["sweep", "debain-12"], "unknown image 'debain-12' (did you mean debian-12"),
        (["sweep", "debian-12", "--levels", "0,32"], "dump level '32' does not exist (0 to 31; "),
        (["sweep", "debian-12", "--levels", "0,"], "'0,' is not a list of levels (as in 0,1,16,31)"),
        (["sweep", "debian-12", "--compress", "zlib,brotli"], "unknown compression 'brotli' (known: none, zlib, "),
        (["sweep", "debian-12", "--real", "0"], "invalid number of real crashes: got '0', expected 1 to 160, or all"),
        (["sweep", "debian-12", "--plot", "sizes.txt"], "sizes.txt: a plot is written as .svg, .png, .pdf"),
        (["sweep", "debian-12", "--plot", "no/sizes.svg"], "no/sizes.svg cannot be written: "),
        (["sweep", "debian-12", "--crashkernel", "none"], "nothing to sweep: a guest without a reservation"),
        (["images", "gentoo-*"], "no image matches 'gentoo-*' (known: debian-11, "),
        (["images", "--refresh", "gentoo-*"], "no image matches 'gentoo-*' (known: debian-11, "),
        (["images", "--prune", "gentoo-*"], "no image in the catalogue or the cache matches 'gentoo-*'"),
        (["images", "--fetch"], "no images to fetch: name some"),
        (["images", "--dry-run"], "--dry-run needs --prune"),
        (["images", "--refresh", "--keep", "2"], "--keep needs --prune"),
        (["images", "--refresh", "--json", "no/such.json"], "no/such.json cannot be written: "),
        (["drill", "debian-12", "--cpu", "4"], "invalid x86-64 level: got 4, expected one of 1, 2, 3"),
        (["drill", "debian-12", "--keep-mac"], "--keep-mac is for --domain"),
        (["drill", "--domain", "my", "--kernel", "k"], "--kernel cannot go with --domain: a clone is judged"),
        (["drill", "--domain", "my", "--crashkernel", "1G"], "--crashkernel cannot go with --domain: a clone has the"),
        (
            ["drill", "--domain", "my", "--target", "nfs"],
            "--target cannot go with --domain: a clone dumps where it does",
        ),
        (["drill", "--domain", "my", "--as-is", "--target", "local"], "--target cannot go with --as-is"),
        (["inspect", "no-such-file"], "no-such-file"),
        (["inspect", "."], "."),
        (["diagnose", "no-such-file"], "no-such-file"),
        (["diagnose", "."], "."),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_named_in_one_sentence(refused: Any, argv: list[str], sentence: str) -> None:
    said, status = refused(*argv)
    assert sentence in said
    assert status == 2


@pytest.mark.parametrize("content", [b"", b"text\n" * 200, b"QFI", os.urandom(4096)[:510] + b"\0" * 600])
def test_a_file_that_is_not_a_disk_is_refused(refused: Any, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(content)
    said, status = refused("drill", path, "--family", "debian")
    assert said == f"{path} is neither a qcow2 image nor a bootable raw disk"
    assert status == 2
    assert path.read_bytes() == content


def test_a_directory_is_not_a_disk(refused: Any, tmp_path: Path) -> None:
    assert refused("drill", f"{tmp_path}/", "--family", "debian") == (f"{tmp_path} is not a regular file", 2)


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_a_qcow2_that_was_cut_short_or_has_lost_its_backing_file_is_refused(refused: Any, tmp_path: Path) -> None:
    raw, whole, on_top = tmp_path / "raw", tmp_path / "whole.qcow2", tmp_path / "top.qcow2"
    raw.write_bytes(os.urandom(1 << 20))
    qemu_img = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", on_top]
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, whole], check=True)
    subprocess.run(qemu_img, check=True)
    probe_format(whole)
    probe_format(on_top, [tmp_path])
    os.truncate(whole, 1 << 19)
    raw.unlink()
    said, status = refused("drill", whole, "--family", "debian")
    assert (said, status) == (
        f"{whole} is a damaged qcow2 image, perhaps cut short (qemu-img check shows more)",
        2,
    )
    said, status = refused("drill", on_top, "--family", "debian", "--allow-backing", tmp_path)
    assert (str(raw) in said, status) == (True, 2)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_disk_that_may_not_be_read_is_refused(refused: Any, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"QFI\xfb")
    path.chmod(0)
    said, status = refused("drill", path, "--family", "debian")
    assert "cannot be read (Permission denied)" in said
    assert status == 2


def test_a_broken_row_of_the_catalogue_is_named_by_file_row_and_key(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tables.data_path("images", "catalog.toml").read_text(encoding="utf-8")
    broken = tmp_path / "catalog.toml"
    broken.write_text(text.replace('release         = "12"', "release         = 12", 1), encoding="utf-8")
    monkeypatch.setattr(tables, "data_path", lambda *_parts: broken)
    for argv in (["drill", "debian-12"], ["images"]):
        said, status = refused(*argv)
        assert said == "catalog.toml: [[image]] debian-12: release must be a string, not 12"
        assert status == 2


def test_a_broken_table_of_triggers_is_a_sentence_too(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdump_harness.kdump import trigger

    (tmp_path / "triggers.toml").write_text("[[trigger]]\nname = 1\n", encoding="utf-8")
    really = tables.package_path
    monkeypatch.setattr(
        tables, "package_path", lambda *parts: tmp_path / parts[-1] if "triggers.toml" in parts else really(*parts)
    )
    trigger.shipped_triggers.cache_clear()
    try:
        said, status = refused("drill", "debian-12")
    finally:
        trigger.shipped_triggers.cache_clear()
    assert said == "triggers.toml: [[trigger]] 1: name must be a string, not 1"
    assert status == 2


def test_an_evidence_directory_that_cannot_be_written_is_known_before_work_begins(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        said, status = refused("drill", "debian-12", "--evidence", place)
        assert said.startswith(f"the evidence directory {place} cannot be written: ")
        assert said.endswith("(choose another with --evidence DIR)")
        assert status == 3
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_libvirt_that_does_not_run_is_a_host_error(refused: Any, tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/nobody"
    said, status = refused("drill", "debian-12", "--uri", uri)
    assert said.startswith(f"libvirt at {uri} does not answer: ")
    assert said.endswith("(run kdump-harness doctor to see how to start it)")
    assert status == 3
    assert list((tmp_path / "state" / "runs").iterdir()) == []


def test_a_libvirt_that_never_answers_is_given_up(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        said, status = refused("drill", "debian-12", "--uri", f"qemu+unix:///system?socket={tmp_path}/deaf")
    assert said.endswith("does not answer within 0 s")
    assert status == 3


def test_an_invalid_uri_is_a_usage_error(refused: Any) -> None:
    said, status = refused("drill", "debian-12", "--uri", "nonsense")
    assert said == "'nonsense' is not a libvirt URI, such as qemu:///system or qemu+ssh://host/system"
    assert status == 2


def test_a_state_directory_that_is_a_file_is_a_host_error(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    said, status = refused("images", "--state", tmp_path / "file")
    assert said.startswith(f"cannot use the state directory {tmp_path}/file: ")
    assert status == 3


def test_a_json_file_that_cannot_be_written_is_named(refused: Any, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out.json"
    assert refused("inspect", DUMP, "--json", target) == (
        f"{target} cannot be written: No such file or directory",
        2,
    )


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["frobnicate"],
        ["drill"],
        ["drill", "debian-12", "--domain", "my"],
        ["drill", "debian-12", "--memory", "much"],
        ["drill", "debian-12", "--level", "all"],
        ["drill", "debian-12", "--budget", "-1"],
        ["drill", "debian-12", "--timeout-factor", "nan"],
        ["drill", "debian-12", "--timeout-factor", "slow"],
        ["drill", "debian-12", "--keep", "sometimes"],
        ["drill", "debian-12", "--accelerator", "xen"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"kdump-harness[a-z ]*: error: .* \(see kdump-harness[a-z ]* --help\)\n", said)


@pytest.mark.parametrize(
    ("text", "size_mib"), [("2G", 2048), ("1536M", 1536), ("512MiB", 512), ("1024", 1024), ("1g", 1024)]
)
def test_a_size_of_memory_takes_units(text: str, size_mib: int) -> None:
    for verb in ("drill", "sweep", "compare"):
        assert make_parser(verb).parse_args([verb, "debian-12", "--memory", text]).memory == size_mib
    assert parse_memories(f"{text},4G") == (size_mib, 4096)
    assert make_parser("drill").parse_args(["drill", "debian-12", "--dimm", text]).dimm == [size_mib]
    assert make_parser("fleet").parse_args(["fleet", "worker", "lab", "--memory", text]).memory == size_mib


@pytest.mark.parametrize("text", ["", "0", "-1", "much", "2T", "1,5G", "99999999999"])
def test_a_bad_size_is_quoted_with_the_forms_that_are_taken(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["drill", "debian-12", f"--memory={text}"])
    assert f"invalid size: got {text}, expected as in 2G, 1536M, or 1536 for MiB" in capsys.readouterr().err


def test_the_help_of_each_verb_has_its_exit_statuses() -> None:
    known = tables.load_toml(Path(parser.__file__).with_name("exit_statuses.toml"))
    assert set(known) - {"every"} == set(ALL_VERBS)
    for verb in ALL_VERBS:
        paragraph = help_texts()[f"kdump-harness {verb}"].partition("exit status:\n")[2]
        listed = [line.split()[0] for line in paragraph.splitlines()]
        assert listed == sorted({**known["every"], **known[verb]}, key=int), verb


def test_a_number_that_must_be_positive_is_quoted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["drill", "debian-12", "--timeout-factor", "slow"])
    assert "slow is not a positive number" in capsys.readouterr().err


def test_bad_input_of_the_installed_command_shows_no_traceback(tmp_path: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "kdump_harness", "drill", "debain-12"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert made.returncode == 2
    assert made.stdout == ""
    assert made.stderr.startswith("kdump-harness: unknown image 'debain-12'")
    assert made.stderr.count("\n") == 1


# ---------------------------------------------------------------- help


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: kdump-harness {verb}" in capsys.readouterr().out


def test_the_help_names_every_verb_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(verb in text for verb in VERBS)
    assert "3  the host is unfit" in text


def test_help_and_parsing_bring_no_heavy_library() -> None:
    """--help must come at once; libvirt, paramiko and numpy take longer to import than it may."""
    script = "import sys, kdump_harness.__main__ as c; c.make_parser(); print(*sorted(sys.modules))"
    made = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    heavy = {"asyncio", "cryptography", "dask", "distributed", "libvirt", "numpy", "paramiko", "pycdlib", "rich"}
    assert not heavy & set(made.stdout.split())


# ---------------------------------------------------------------- what scripts read


def as_json(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[Any, int]:
    status = main([str(argument) for argument in (*argv, "--json", "-")])
    return json.loads(capsys.readouterr().out), status


def test_inspect_reports_that_a_good_dump_is_whole(capsys: pytest.CaptureFixture[str]) -> None:
    found, status = as_json(capsys, "inspect", DUMP)
    assert status == 0
    assert found["whole"] is True
    assert found["damage"] == []
    assert {"format", "level", "compression", "kernel", "crash_time", "pages_total", "pages_kept"} <= set(found)


def test_inspect_reports_kind_offset_and_page_frame_of_damage(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.kdump"
    cut.write_bytes(DUMP.read_bytes()[:-5000])
    found, status = as_json(capsys, "inspect", cut)
    assert status == 1
    assert found["whole"] is False
    assert found["damage"]
    for damage in found["damage"]:
        assert {"kind", "offset", "pfn", "message"} <= set(damage)


def test_inspect_of_an_empty_file_is_a_damaged_dump(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    found, status = as_json(capsys, "inspect", tmp_path / "empty")
    assert (status, found["whole"], found["size_bytes"]) == (1, False, 0)
    assert found["damage"]


def test_inspect_prints_the_same_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(DUMP)]) == 0
    assert capsys.readouterr().out.endswith("judgement: whole\n")


def test_inspect_judges_each_of_several_dumps_by_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The worst judgement is the exit status: damaged, then not judged, then whole."""
    cut, packed = tmp_path / "cut", tmp_path / "packed"
    cut.write_bytes(DUMP.read_bytes()[:-5000])
    packed.write_bytes(b"\x04\x22\x4d\x18" + bytes(99))
    for paths, judgements, wanted in (
        ((DUMP, DUMP), ["whole", "whole"], 0),
        ((packed, DUMP), ["not judged", "whole"], 5),
        ((packed, cut, DUMP), ["not judged", "damaged", "whole"], 1),
    ):
        found, status = as_json(capsys, "inspect", *paths)
        assert ([one["judgement"] for one in found], status) == (judgements, wanted)
        assert [one["path"] for one in found] == [str(path) for path in paths]
    assert main(["inspect", str(packed), str(DUMP)]) == 5
    text = capsys.readouterr().out
    assert "unsupported: the file is lz4-compressed (unpack it with lz4 -d first)\njudgement: not judged\n" in text
    assert main(["inspect", str(DUMP), str(tmp_path / "absent")]) == 2
    assert main(["inspect", str(DUMP), str(DUMP), "--dmesg", "-"]) == 2
    assert "--dmesg is for one dump: got 2" in capsys.readouterr().err


def test_inspect_reads_through_a_compressed_dump(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "dump.202611221011.gz"
    path.write_bytes(gzip.compress((DATA / "vmcore" / "logs" / "6.1.0.kdump").read_bytes()))
    found, status = as_json(capsys, "inspect", path, "--triage", "--dmesg", tmp_path / "log")
    assert (found["judgement"], found["packed"], found["path"], status) == ("whole", "gzip", str(path), 0)
    assert found["size_bytes"] == path.stat().st_size
    assert found["triage"]["panic"] == "Kernel panic - not syncing: sysrq triggered crash"
    assert "sysrq triggered crash" in (tmp_path / "log").read_text()
    path.write_bytes(path.read_bytes()[:-99])
    found, status = as_json(capsys, "inspect", path)
    assert (found["judgement"], found["packed"], found["damage"][0]["kind"], status) == (
        "damaged", "gzip", "truncated", 1,
    )  # fmt: skip


def test_inspect_finds_the_parts_of_split_dumps(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    parts = [tmp_path / f"part{number}" for number in range(4)]
    for number, frames in enumerate(((0, 20), (20, 64))):
        parts[number].write_bytes(Kdump(part=frames).build())
        parts[number + 2].write_bytes(Kdump(part=frames, more_vmcoreinfo="OF=ANOTHER\n").build())
    found, status = as_json(capsys, "inspect", parts[3], parts[0], DUMP, parts[1], parts[2])
    assert status == 0
    assert [(one["format"], one["judgement"]) for one in found] == [
        ("kdump-split", "whole"), ("kdump-split", "whole"), ("kdump", "whole"),
    ]  # fmt: skip
    found, status = as_json(capsys, "inspect", parts[0], parts[1], parts[0])
    assert (found["damage"][0]["message"].rpartition(": ")[2], status) == ("a part was given twice", 1)
    found, status = as_json(capsys, "inspect", parts[0])
    assert found["pages_kept"] == len(range(3, 20, 2))
    assert (found["damage"][0]["message"].rpartition(": ")[2], status) == ("other parts are missing", 1)


def test_inspect_writes_the_kernel_log(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    dump = DATA / "vmcore" / "logs" / "6.1.0.kdump"
    main(["inspect", str(dump), "--dmesg", str(tmp_path / "dmesg")])
    capsys.readouterr()
    assert "Kernel panic - not syncing: sysrq triggered crash" in (tmp_path / "dmesg").read_text(encoding="utf-8")


def test_diagnose_of_a_good_drill_has_no_failures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = CONSOLE.read_bytes()
    log = tmp_path / "console.log"
    log.write_bytes(text[: text.rindex(b"login: ") + len(b"login: ")])
    found, status = as_json(capsys, "diagnose", log)
    assert status == 0
    assert found["stage"] == "RECOVERED"
    assert [symptom for symptom in found["symptoms"] if symptom["severity"] == "failure"] == []


def test_diagnose_names_the_symptom_the_line_and_the_remedy(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = CONSOLE.read_bytes()
    head = text[: text.index(b"</TASK>")].replace(b" Kdump: loaded", b"")
    log = tmp_path / "console.log"
    log.write_bytes(head + b"</TASK>\r\n[   61.1] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\r\n")
    found, status = as_json(capsys, "diagnose", log)
    assert status == 1
    names = [symptom["name"] for symptom in found["symptoms"]]
    assert "panic-without-kdump" in names
    assert {"name", "severity", "stage", "line", "remedy"} <= set(found["symptoms"][0])


def test_images_lists_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    found, status = as_json(capsys, "images", "debian-*")
    assert status == 0
    assert [row["name"] for row in found] == ["debian-11", "debian-12", "debian-13", "debian-sid"]
    assert set(found[0]) == {
        "name", "family", "release", "source", "how", "cached", "cpu",
        "checksums", "checksum_form", "login", "firmware", "root_filesystem", "notes",
    }  # fmt: skip


@pytest.mark.parametrize("own", [True, False])
def test_clean_leaves_what_may_be_a_living_run_of_another_state(
    own: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state, other = State(tmp_path / "state"), State(tmp_path / "other")
    (state.directory / "runs" / "dead01").mkdir()
    (state.directory / "runs" / "dead01" / "lock").touch()
    removed: list[str] = []
    with other.run() as living:
        names = ("dead01", living.identity, "gone00")
        fake = SimpleNamespace(
            own_domains=lambda: tuple(one for name in names if (one := f"kdh-{name}-1-guest") not in removed),
            stale_networks=lambda living: tuple(f"kdh-{name}-crash" for name in ("dead01", "gone00")),
            copies=dict,
            disks_of=lambda name: (living.path / "disk.qcow2",) if living.identity in name else (),
            destroy_named=removed.append,
            remove_network=removed.append,
            logs=lambda: tuple(sorted(tmp_path.glob("kdh-*.log*"))),
            close=lambda: None,
        )
        for name in names:
            (tmp_path / f"kdh-{name}-1-guest.log").touch()
            (tmp_path / f"kdh-{name}-2-guest.log.0").touch()
        monkeypatch.setattr("kdump_harness.vm.hypervisor.connection.Hypervisor", lambda uri, **_: fake)
        assert main(["clean", "--state", str(state.directory), *(["--own"] if own else [])]) == 0
    gone = {"dead01"} if own else {"dead01", "gone00"}
    assert {path.name.split("-")[1] for path in tmp_path.glob("kdh-*.log*")} == set(names) - gone
    # Leftovers of unknown runs are removed for a person, and kept when a worker cleans up by itself (--own).
    known = ["kdh-dead01-1-guest", "kdh-dead01-crash"]
    assert sorted(removed) == sorted(known if own else [*known, "kdh-gone00-1-guest", "kdh-gone00-crash"])


def test_clean_says_that_domains_were_not_looked_at(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    left = tmp_path / "state" / "armed" / "k1.part"
    left.mkdir(parents=True)
    (tmp_path / "state" / "runs").mkdir()
    assert main(["clean", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert said.out == "would remove unfinished armed disk k1\n"
    assert said.err.startswith("kdump-harness: skipped the domains: libvirt at ")
    assert left.exists()
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "removed unfinished armed disk k1\n"
    assert not left.exists()
    assert main(["clean"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"


@pytest.mark.parametrize("handler", [command._terminate, fixtures._interrupt])
def test_a_second_sigterm_does_not_interrupt_the_cleanup(handler: Callable[[int, None], None]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(KeyboardInterrupt):
            handler(signal.SIGTERM, None)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
