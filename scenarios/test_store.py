"""Guests of three releases send their dumps to one dump server, and a store takes them in."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kdump_harness import __main__ as command
from kdump_harness.cli.subject import find_subject
from kdump_harness.drill.disks import SystemUnderTest
from kdump_harness.drill.dump_server import DumpServer
from kdump_harness.drill.session import Session
from kdump_harness.pytest_plugin import Verdict, pin_image

OTHERS = {"debian-11": "nfs", "debian-13": "nfs"}
CHANGE = "CHG-17: kernel update"
MIB = 1 << 20


def run(*arguments: str | Path) -> int:
    """Run a command and return its exit status."""
    return command.main([str(argument) for argument in arguments])


def answer(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    """Run a command and return its JSON output."""
    capsys.readouterr()
    assert run(*arguments, "--json", "-") in (0, 1)
    return json.loads(capsys.readouterr().out)


@pin_image("debian-12")
@pytest.mark.slow
def test_three_machines_fill_one_store(
    drill: Callable[..., Verdict],
    drill_session: Callable[..., Session],
    collector: DumpServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dumps arrive by SSH and NFS; a truncated one is refused, one exceeds the policy and one is bundled."""
    session = drill_session(target="ssh", server=collector.server)
    verdicts = [session.drill(), session.drill()]  # one machine crashes twice
    for name, target in OTHERS.items():
        subject: SystemUnderTest = find_subject(name, family=None)
        verdicts.append(drill(subject=subject, target=target, server=collector.server, name=f"test_store/{name}"))
    for verdict in verdicts:
        assert verdict.dump is not None, verdict.explain()

    # Add a truncated dump, then copy the dump server's files to the host with the store.
    last = verdicts[-1].dump
    assert last is not None
    collector.server.shell.run(
        "cp -r %s %s && truncate -s -262144 %s",
        Path(last["path"]).parent, f"{collector.server.directory}/10.9.9.9-202611260101",
        f"{collector.server.directory}/10.9.9.9-202611260101/{Path(last['path']).name}",
    )  # fmt: skip
    collector.server.shell.save(f"tar -C {collector.server.directory} -cf - .", tmp_path / "arrived.tar")
    arrived = tmp_path / "arrived"
    with tarfile.open(tmp_path / "arrived.tar") as archive:
        archive.extractall(arrived, filter="tar")

    store = tmp_path / "store"
    outcomes = answer(capsys, "store", "add", arrived, "--store", store)
    stored = [one["dump"] for one in outcomes if one["outcome"] == "stored"]
    refused = [one for one in outcomes if one["outcome"] == "refused"]
    assert len(stored) == len(verdicts), outcomes
    assert len(refused) == 1, outcomes
    assert "10.9.9.9" in refused[0]["path"]

    for verdict in verdicts:
        mine = [one for one in stored if one["kernel"] == verdict.kernel]
        assert mine, (verdict.kernel, stored)
        for dump in mine:
            assert dump["host"].startswith(verdict.image), dump
            assert "sysrq" in dump["panic"], dump
            assert dump["state"] == "triaged", dump
    assert len({one["host"] for one in stored}) == 3

    patterns = answer(capsys, "store", "patterns", "--store", store)
    assert any(len(one["dumps"]) >= 3 for one in patterns), patterns

    pruned = answer(capsys, "store", "prune", "--keep-per-host", "1", "--store", store)
    assert len([one for one in pruned["decisions"] if not one["kept_because"]]) == 1
    left = answer(capsys, "store", "list", "--store", store)
    assert len(left) == 3
    assert len({one["host"] for one in left}) == 3

    bundle = tmp_path / "bundle.tar"
    chosen = next(one for one in left if one["host"].startswith("debian-12"))
    manifest = answer(
        capsys, "store", "bundle", chosen["id"], "--out", bundle, "--redact", "--change", CHANGE, "--store", store
    )
    _check_bundle(bundle, manifest)


def _check_bundle(bundle: Path, manifest: dict[str, Any]) -> None:
    """Assert that each file has the checksum in the bundle and that one is the vmcore."""
    with tarfile.open(bundle) as archive:
        names = {Path(member.name).name: member for member in archive.getmembers()}
        assert {"manifest.json", "SHA256SUMS", "vmcore", "kernel.log", "triage.txt"} <= set(names)
        sums = archive.extractfile(names["SHA256SUMS"])
        assert sums is not None
        for line in sums.read().decode().splitlines():
            checksum, name = line.split(maxsplit=1)
            part = archive.extractfile(names[Path(name.strip("* ")).name])
            assert part is not None
            assert hashlib.sha256(part.read()).hexdigest() == checksum, name
        change = next(member for name, member in names.items() if "change" in name)
        text = archive.extractfile(change)
        assert text is not None
        assert CHANGE in text.read().decode()
    assert manifest["files"]
