"""The kernel that a user names, and the userland."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from kdump_harness.base.errors import CommandFailed, HostError, UsageError
from kdump_harness.base.progress import Progress
from kdump_harness.images.archive import Archive, PackageFile, digest, known_suite, unpack_deb
from kdump_harness.images.state import State
from kdump_harness.kernel import userland
from kdump_harness.kernel.build import run_build
from kdump_harness.kernel.source import KernelFiles, find_kernel
from kdump_harness.kernel.userland import PROGRAMS, UserlandRequest, make_userland
from kernel_factory import RELEASE, bzimage, deb, kernel_deb, kernel_directory

QUIET = Progress(quiet=True)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def test_a_bare_image_is_a_kernel_without_modules(tmp_path: Path, state: State) -> None:
    (tmp_path / "bzImage").write_bytes(bzimage("6.9.1-mine"))
    found = find_kernel(str(tmp_path / "bzImage"), state, QUIET)
    assert (found.release, found.modules, found.config, found.name) == ("6.9.1-mine", None, "", "kernel-bzImage")


def test_a_built_tree_has_its_modules_where_they_were_built(tmp_path: Path, state: State) -> None:
    tree = tmp_path / "linux"
    (tree / "arch/x86/boot").mkdir(parents=True)
    (tree / "arch/x86/boot/bzImage").write_bytes(bzimage("6.9.1"))
    (tree / ".config").write_text("CONFIG_X86_64=y\nCONFIG_CRASH_DUMP=y\nCONFIG_KEXEC=y\nCONFIG_PROC_VMCORE=y\n")
    (tree / "modules.order").touch()
    found = find_kernel(str(tree), state, QUIET)
    assert (found.modules, found.name) == (tree, "kernel-linux")
    (tree / ".config").write_text("CONFIG_X86_64=y\nCONFIG_KEXEC=y\nCONFIG_PROC_VMCORE=y\n")
    with pytest.raises(UsageError, match="CONFIG_CRASH_DUMP is not set"):
        find_kernel(str(tree), state, QUIET)


@pytest.mark.parametrize(
    ("suite", "architecture", "name"),
    [
        ("bookworm", "amd64", "debian-12"),
        ("bookworm-backports", "arm64", "arm64-debian-12"),
        ("bookworm", "ppc64el", "ppc64el-debian-12"),
        ("bookworm", "riscv64", "debian-12"),
        ("sid", "amd64", "debian-sid"),
    ],
)
def test_a_suite_has_the_row_of_its_architecture(suite: str, architecture: str, name: str) -> None:
    assert known_suite(suite, architecture).name == name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/nowhere/bzImage", "does not exist"),
        ("/nowhere/linux.deb", "does not exist"),
        ("trixie:", "does not name a kernel"),
        ("warty", "unknown suite 'warty'"),
    ],
)
def test_what_is_not_a_kernel_is_told(text: str, message: str, state: State) -> None:
    if shutil.which("apt-get") is None and "suite" in message:
        pytest.skip("this host has no apt")
    with pytest.raises(UsageError, match=message):
        find_kernel(text, state, QUIET)


def test_a_package_without_a_kernel_is_not_kept(tmp_path: Path, state: State) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("this host has no dpkg-deb")
    package = tmp_path / "makedumpfile.deb"
    package.write_bytes(deb(files={"usr/bin/makedumpfile": b"x"}))
    for _ in range(2):
        with pytest.raises(UsageError, match=r"makedumpfile\.deb is not a kernel: its packages have no vmlinuz"):
            find_kernel(str(package), state, QUIET)
    assert [path.suffix for path in (state.directory / "kernels").iterdir()] == [".lock"]
    package.write_bytes(kernel_deb())
    assert find_kernel(str(package), state, QUIET).release == RELEASE


def test_a_kernel_in_several_packages_is_put_together(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stub unpacks what the files name, as bsdtar unpacks an RPM package."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "bsdtar").write_text(
        '#!/bin/sh\ncp -r "$(cat "$3")/." "$5" || { echo "$3: not an archive" >&2; exit 1; }\n'
    )
    (tools / "bsdtar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    whole = kernel_directory(tmp_path / "whole", image=f"lib/modules/{RELEASE}/vmlinuz", config="")
    for part in ("core", "modules"):
        (tmp_path / f"kernel-{part}.rpm").write_text(str(tmp_path / part))
    shutil.copytree(whole, tmp_path / "core", ignore=shutil.ignore_patterns("kernel", "build"))
    shutil.copytree(whole, tmp_path / "modules", ignore=shutil.ignore_patterns("vmlinuz", "build"))
    asked = f"{tmp_path}/kernel-core.rpm,{tmp_path}/kernel-modules.rpm"
    found = find_kernel(asked, state, QUIET)
    assert found.release == RELEASE
    assert found.modules is not None
    assert list(found.modules.rglob("virtio_blk.ko*"))
    with pytest.raises(UsageError, match=r"missing\.rpm does not exist"):
        find_kernel(f"{asked},{tmp_path}/missing.rpm", state, QUIET)
    (tmp_path / "odd.rpm").write_text("/nowhere")
    with pytest.raises(UsageError, match=r"odd\.rpm cannot be unpacked: "):
        find_kernel(str(tmp_path / "odd.rpm"), state, QUIET)
    (tools / "bsdtar").unlink()
    (tmp_path / "odd.rpm").write_text("else")
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(HostError, match=r"the kernel of an \.rpm file needs bsdtar"):
        find_kernel(str(tmp_path / "odd.rpm"), state, QUIET)


def test_a_file_that_is_not_a_kernel_says_what_it_is(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmlinux").write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(UsageError, match="it is an ELF file, as vmlinux is"):
        find_kernel(str(tmp_path / "vmlinux"), state, QUIET)
    with pytest.raises(UsageError, match="has no kernel"):
        find_kernel(str(tmp_path), state, QUIET)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for an ordinary user
    for place in ("vmlinux", ""):
        with pytest.raises(UsageError, match=r"cannot be read \(no permission\)"):
            find_kernel(str(tmp_path / place), state, QUIET)
    with pytest.raises(UsageError, match="/dev/null is not a kernel: neither a file nor a directory"):
        find_kernel("/dev/null", state, QUIET)


def test_packages_that_a_suite_lacks_are_named(tmp_path: Path) -> None:
    archive = object.__new__(Archive)
    archive.suite, archive._progress, archive._select = "trixie", QUIET, ()

    class Apt:
        workdir = tmp_path

        def run(self, *_words: str, progress: Progress) -> str:
            return self.said

    archive._apt = Apt()  # type: ignore[assignment]
    Apt.said = "'http://x/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 10 SHA256:1\n"  # type: ignore[attr-defined]
    assert archive.closure("a") == (PackageFile("a", "a_1%3a2_amd64.deb", 10),)
    Apt.said = "E: Unable to locate package b"  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="trixie cannot give b: Unable to locate package b"):
        archive.closure("b")
    Apt.said = """The following packages have unmet dependencies:
 b : Depends: b-binary (= 7.0-1) but it is not going to be installed
     Depends: b-modules (= 7.0-1) but it is not installable
E: Unable to correct problems, you have held broken packages."""  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=r"cannot give b: it depends on b-modules \(= 7\.0-1\), which the suite"):
        archive.closure("b")


def test_what_packages_depend_on_is_kept_as_long_as_the_index(tmp_path: Path) -> None:
    archive = object.__new__(Archive)
    archive.suite, archive._progress, archive._select = "trixie", QUIET, ()
    asked = []

    class Apt:
        workdir = tmp_path

        def run(self, *words: str, progress: Progress) -> str:
            asked.append(words)
            return f"'http://x/a_{len(asked)}_amd64.deb' a_{len(asked)}_amd64.deb 10 SHA256:1\n"

    archive._apt = Apt()  # type: ignore[assignment]
    read = tmp_path / "read"
    read.touch()
    os.utime(read, (1, 1))
    assert archive.closure("a") == archive.closure("a") == (PackageFile("a", "a_1_amd64.deb", 10),)
    os.utime(read)  # the index is read again
    os.utime(tmp_path / "closure-a.json", (1, 1))
    assert archive.closure("a") == (PackageFile("a", "a_2_amd64.deb", 10),)
    (tmp_path / "closure-a.json").write_text("[{]")
    assert archive.closure("a") == (PackageFile("a", "a_3_amd64.deb", 10),)


def test_an_index_that_cannot_be_read_is_never_taken_for_read(tmp_path: Path) -> None:
    """The mirror does not answer: that is the host's fault, and an older index serves."""
    archive = object.__new__(Archive)
    archive.suite, archive._progress, archive._sources = "trixie", QUIET, "deb a\n"
    asked = 0
    said = "E: Failed to fetch http://127.0.0.1:1/InRelease Connection refused; E: Some index files failed to download."

    class Apt:
        workdir = tmp_path

        def run(self, *_words: str, progress: Progress) -> str:
            nonlocal asked
            asked += 1
            return said

    archive._apt = Apt()  # type: ignore[assignment]
    with pytest.raises(HostError, match=r"index of trixie cannot be read: Failed to fetch http\S+ Connection refused$"):
        archive._refresh()
    (tmp_path / "trixie/state/lists").mkdir(parents=True)
    (tmp_path / "trixie/state/lists/127.0.0.1:1_dists_trixie_InRelease").touch()
    archive._refresh()
    assert not (tmp_path / "read").exists()
    said = ""
    archive._refresh()
    assert (tmp_path / "read").exists()
    archive._refresh()
    assert asked == 3
    archive._sources = "deb a\ndeb b\n"  # the index of other sources is read again
    archive._refresh()
    assert asked == 4


def test_a_package_that_cannot_be_unpacked_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dpkg-deb").write_text('#!/bin/sh\necho "dpkg-deb: error: odd" >&2; echo "tar: $SAID" >&2; exit 2\n')
    (tmp_path / "dpkg-deb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SAID", "Unexpected EOF in archive")
    with pytest.raises(UsageError, match=r"a\.deb cannot be unpacked: dpkg-deb: error: odd$"):
        unpack_deb(Path("a.deb"), tmp_path)
    monkeypatch.setenv("SAID", "./boot/x: Cannot write: No space left on device")
    with pytest.raises(HostError, match=r"a\.deb cannot be unpacked: No space left on device \(free some"):
        unpack_deb(Path("a.deb"), tmp_path)


def test_a_host_without_apt_is_told(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostError, match="needs apt-get, which this host does not have"):
        Archive("trixie", state, QUIET)


def test_the_key_of_packages_is_their_versions() -> None:
    one, two = PackageFile("a", "a_1_amd64.deb", 1), PackageFile("a", "a_2_amd64.deb", 1)
    assert digest((one,)) == digest((one,)) != digest((two,))


def test_programs_of_the_user_come_with_their_libraries(state: State) -> None:
    """The three programs are this host's shell, so that no package is needed."""
    shell = str(Path("/bin/sh").resolve())
    instead = dict.fromkeys(("busybox", "kexec", "makedumpfile"), shell)
    made = make_userland(UserlandRequest(instead=instead), state, QUIET)
    paths = [entry.path for entry in made.entries]
    assert {"init", "bin/busybox", "bin/kexec", "bin/makedumpfile", "lib/libc.so.6"} <= set(paths)
    assert any(path.startswith(("lib64/ld-", "lib/ld-")) for path in paths)
    assert len(paths) == len(set(paths))


def test_programs_of_two_suites_have_their_own_libraries(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = str(Path("/bin/sh").resolve())
    root = tmp_path / "suite"
    made = make_userland(UserlandRequest(instead=dict.fromkeys(PROGRAMS, shell)), state, QUIET)
    for entry in made.entries:  # the same programs and libraries, as another suite built them
        if isinstance(entry.content, Path) and entry.path != "init":
            (root / entry.path).parent.mkdir(parents=True, exist_ok=True)
            (root / entry.path).write_bytes(entry.content.read_bytes() + b"\0")
    for program, (_, places) in PROGRAMS.items():
        (root / places[0]).parent.mkdir(parents=True, exist_ok=True)
        (root / places[0]).write_bytes((root / "bin" / program).read_bytes())
    monkeypatch.setattr(userland, "_unpacked", lambda *_: root)
    mixed = {
        entry.path: entry for entry in make_userland(UserlandRequest(instead={"kexec": shell}), state, QUIET).entries
    }
    assert mixed["lib/libc.so.6"].content == root / "lib/libc.so.6"
    assert mixed["opt/kexec/libc.so.6"].content != root / "lib/libc.so.6"
    for path, entry in mixed.items():
        if path.startswith("opt/"):
            assert isinstance(entry.content, Path)
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(entry.content.read_bytes())
            (tmp_path / path).chmod(0o755)
    script = mixed["bin/kexec"].content
    assert isinstance(script, bytes)
    words = script.decode().replace("/opt/", f"{tmp_path}/opt/")
    done = subprocess.run(["sh", "-c", words, "sh", "-c", "echo $0 runs", "it"], capture_output=True, check=True)
    assert done.stdout == b"it runs\n"


def test_a_program_that_is_none_is_refused(tmp_path: Path, state: State) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(UsageError, match="is not a program: it is not an ELF file"):
        make_userland(UserlandRequest(instead={"busybox": str(tmp_path / "script")}), state, QUIET)
    with pytest.raises(UsageError, match=r"\./missing does not exist"):
        make_userland(UserlandRequest(instead={"busybox": "./missing"}), state, QUIET)


def test_a_build_that_fails_shows_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    run_build("echo made > out", str(tmp_path), log=log, progress=QUIET)
    assert (tmp_path / "out").read_text() == "made\n"
    with pytest.raises(CommandFailed, match=r"ended with status 2: fatal: no rule"):
        run_build("echo 'fatal: no rule'; exit 2", str(tmp_path), log=log, progress=QUIET)
    said = "echo 'a.c:3:1: error: unknown type'; echo 'make: Error 2'; exit 2"
    with pytest.raises(CommandFailed, match=r"status 2: a\.c:3:1: error: unknown type\n"):
        run_build(said, str(tmp_path), log=log, progress=QUIET)
    with pytest.raises(UsageError, match="needs a directory"):
        run_build("true", str(log), log=log, progress=QUIET)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("trixie:linux-image-amd64", "kernel-trixie-linux-image-amd64"),
        ("/home/me/linux/", "kernel-linux"),
        (".", "kernel-6.1.0"),
    ],
)
def test_the_name_of_a_drill_is_what_the_user_named(asked: str, name: str) -> None:
    assert KernelFiles(asked=asked, image=Path("x"), release="6.1.0", modules=None, config="").name == name
