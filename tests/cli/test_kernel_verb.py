"""The verb kernel refuses wrong options before it builds, downloads or boots anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from kdump_harness.__main__ import main
from kdump_harness.base.errors import CommandFailed, HostError, UsageError
from kdump_harness.vm import run as vm_run


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a run began")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(vm_run.Run, "__enter__", refuse)
    Path("m.toml").write_text('kernels = ["trixie"]\n', encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--trigger nope", "unknown trigger 'nope'"),
        ("--trigger nmi-ignored", "cannot be crashed by nmi-ignored"),
        ("--level 99", "dump level 99 does not exist"),
        ("--level 1,31", "--level: expected one number, got '1,31' (--matrix takes lists)"),
        ("--compress gzip", "unknown compression 'gzip'"),
        ("--layout odd", "unknown layout 'odd'"),
        ("--crashkernel 10G", "refuses crashkernel=10G: the machine has only 768 MiB"),
        ("--append a'b", "cannot be added to a command line"),
        ("--memory 64", "invalid guest memory: got 64 MiB"),
        ("--bad unknown", "unknown check 'unknown'"),
        ("--bad ,", "--bad: expected values separated by commas, got ','"),
        ("--bad pages,", "--bad: expected values separated by commas, got 'pages,'"),
        ("--second-kernel nosuch", "unknown suite 'nosuch'"),
        ("--userland nosuch", "unknown suite 'nosuch'"),
        ("--makedumpfile sid:", "unknown suite 'sid:'"),
        ("--matrix --makedumpfile trixie,nosuch", "unknown suite 'nosuch'"),
        ("--clock instructions --trigger nmi", "--clock instructions needs a trigger inside the guest"),
        ("--arch vax", "unknown architecture 'vax'"),
        ("--arch arm64 --trigger nmi", "nmi cannot crash a guest for arm64: QEMU has no NMI for it"),
        ("--resume", "--resume is for --matrix"),
        ("--crash-package nosuch", "unknown suite 'nosuch'"),
        (
            "--crash --debuginfo /nowhere/vmlinux",
            "/nowhere/vmlinux: the file or directory with debug info does not exist",
        ),
        ("--debuginfo /nowhere/vmlinux", "--debuginfo is for --crash, which is missing"),
        ("--matrix --crash", "--crash cannot go with --matrix"),
        ("--matrix --memory 768,64", "invalid guest memory: got 64 MiB"),
        ("--matrix --vcpus 0", "invalid number of processors: got 0"),
        ("--matrix --layout numa,odd", "unknown layout 'odd'"),
        ("--matrix --trigger nope", "unknown trigger 'nope'"),
        ("--matrix --clock instructions", "--clock cannot go with --matrix"),
        ("--matrix --load file", "--load cannot go with --matrix"),
        ("--matrix --makedumpfile trixie,", "--makedumpfile: expected values separated by commas, got 'trixie,'"),
        ("--matrix --cpu 3", "--cpu cannot go with --matrix"),
        ("--matrix m.toml", "KERNEL cannot go with --matrix FILE"),
    ],
)
def test_a_wrong_option_ends_before_the_build(
    options: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    build = [] if "--matrix" in options else ["--build", "touch built"]
    assert main(["kernel", str(tmp_path), *build, *options.split()]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert sentence in said
    assert not Path("built").exists()


@pytest.mark.parametrize("options", ["", "--git-bisect", "--matrix"])
def test_a_suite_that_is_not_known_ends_before_anything_starts(
    options: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for kernel in ("nosuch", "linux-image-amd64/nosuch", "nosuch:linux-image-amd64"):
        assert main(["kernel", kernel, *options.split()]) == (128 if options == "--git-bisect" else 2)
        assert "unknown suite 'nosuch' (known: " in " ".join(capsys.readouterr().err.split())


def test_a_build_needs_its_directory(capsys: pytest.CaptureFixture[str]) -> None:
    Path("bzImage").touch()
    for kernel in ("./missing", "bzImage"):
        for options, status in (((), 2), (("--git-bisect",), 128)):
            assert main(["kernel", kernel, "--build", "true", *options]) == status
            assert f"--build needs a directory to build in: {kernel}" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trixie --append a'b", '--append: "a\'b" cannot be added to a command line: it has a quote'),
        ("trixie --capture-append a --capture-append a\\b", "it has a backslash"),
        ("trixie --append crashkernel=1G", "--append cannot set crashkernel="),
        ("trixie --makedumpfile nosuch", "unknown suite 'nosuch'"),
        ("trixie --kernel nosuch", "unknown suite 'nosuch'"),
        ("trixie --kernel sid --crashkernel 10G", "refuses crashkernel=10G"),
        ("trixie --kernel sid --memory 64", "invalid guest memory: got 64 MiB"),
        ("trixie --kernel sid --rounds 0", "invalid rounds: got 0"),
        ("trixie --kernel sid --max-larger x", "invalid budget: got 'x'"),
        ("trixie --kernel sid --scenario tight --only tight", "the drill tight needs a whole system"),
        ("trixie --bisect --kernel nosuch", "unknown suite 'nosuch'"),
        ("--bisect --kernel sid", "nothing to bisect"),
    ],
)
def test_a_wrong_comparison_ends_before_anything_starts(
    words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "--bare", *words.split()]) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_an_option_beside_the_file_of_a_matrix_is_not_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--level 1", "--memory 1024", "--layout numa", "--makedumpfile sid", "--vcpus 1"):
        assert main(["kernel", "--matrix", "m.toml", *option.split()]) == 2
        assert f"{option.split()[0]} cannot go with --matrix FILE" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("options", "wrong", "status"),
    [
        ("--level 99", None, 128),
        ("--levl 1", None, 128),
        ("--load x", None, 128),
        ("--memory 1T", None, 128),
        ("second-kernel-too", None, 128),
        ("", HostError("libvirt does not answer"), 128),
        ("", PermissionError(13, "Permission denied", "state"), 128),
        ("", ValueError("a slip of the harness"), 128),
        ("", CommandFailed("the build ended with status 2"), 125),
        ("", UsageError("the kernel lacks CONFIG_KEXEC"), 125),
    ],
)
def test_an_error_never_calls_a_commit_bad(
    options: str, wrong: Exception | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enter(_run: object) -> None:
        assert wrong is not None
        raise wrong

    monkeypatch.setattr(vm_run.Run, "__enter__", enter)
    assert main(["kernel", ".", "--git-bisect", *options.split()]) == status


def test_an_interrupted_drill_does_not_offer_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def enter(_run: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vm_run.Run, "__enter__", enter)
    assert main(["kernel", "."]) == 130
    assert "--resume" not in capsys.readouterr().err
    assert main(["kernel", "--matrix", "m.toml"]) == 130
    assert "--resume continues the run" in capsys.readouterr().err
