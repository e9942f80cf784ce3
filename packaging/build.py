"""Build the source distribution and the wheel, and of the former a .deb and an .rpm where the host has the tools.

Usage: python packaging/build.py [DIRECTORY]
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDS = tomllib.loads((ROOT / "harness/kdump_harness/vm/host.toml").read_text(encoding="utf-8"))["need"]
# By format: the directory or file of packaging/, the command, and the host's packages that have it.
TOOLS = {"deb": ("dh_virtualenv", "dpkg-dev dh-virtualenv"), "rpm": ("rpmbuild", "rpm-build")}


def recommended(key: str) -> str:
    """Return the packages that drills need, by the key of a family of hosts in host.toml."""
    needs = [need for need in NEEDS if need["name"] != "building libvirt-python"]
    return ", ".join(dict.fromkeys(package for need in needs for package in need.get(key, ())))


def fill(template: Path, to: Path, key: str) -> None:
    """Write a template with the project's version and the recommended packages."""
    text = template.read_text(encoding="utf-8")
    text = text.replace("@VERSION@", PROJECT["version"]).replace("@RECOMMENDS@", recommended(key))
    to.write_text(text, encoding="utf-8")
    shutil.copymode(template, to)


def build_deb(source: Path, out: Path) -> None:
    """Build a .deb of an unpacked source distribution."""
    with tempfile.TemporaryDirectory() as scratch, tarfile.open(source) as archive:
        archive.extractall(scratch, filter="data")
        (tree,) = Path(scratch).iterdir()
        shutil.copytree(ROOT / "packaging" / "debian", tree / "debian")
        fill(ROOT / "packaging" / "debian" / "control", tree / "debian" / "control", "packages")
        fill(ROOT / "packaging" / "debian" / "changelog", tree / "debian" / "changelog", "packages")
        subprocess.run(["dpkg-buildpackage", "-us", "-uc", "-b", "-d"], cwd=tree, check=True)
        for package in Path(scratch).glob("*.deb"):
            shutil.copy(package, out)


def build_rpm(source: Path, out: Path) -> None:
    """Build an .rpm of a source distribution."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = Path(scratch) / "kdump-harness.spec"
        fill(ROOT / "packaging" / "kdump-harness.spec", spec, "redhat")
        places = [f"--define=_topdir {scratch}", f"--define=_sourcedir {source.parent}", f"--define=_rpmdir {scratch}"]
        subprocess.run(["rpmbuild", "-bb", "--nodeps", *places, str(spec)], check=True)
        for package in Path(scratch).rglob("*.rpm"):
            shutil.copy(package, out)


def main() -> None:
    """Build into DIRECTORY, by default dist."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True)
    source = out / f"kdump_harness-{PROJECT['version']}.tar.gz"
    for name, build in (("deb", build_deb), ("rpm", build_rpm)):
        command, packages = TOOLS[name]
        if shutil.which(command) is None:
            print(f"no .{name}: this host has no {command} (install {packages})", file=sys.stderr)
            continue
        build(source, out)
    for path in sorted(out.iterdir()):
        print(path)


if __name__ == "__main__":
    main()
