"""The reaper destroys restored guests if the harness is killed, and only then."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest
from kdump_harness.base.errors import HostError
from kdump_harness.vm import reaper
from kdump_harness.vm.reaper import Reaper, wait_and_destroy


class FakeHypervisor:
    """A hypervisor that records the destroyed domains."""

    destroyed: list[str]

    def __init__(self, uri: str) -> None:
        if uri == "broken":
            raise HostError("libvirt does not answer")

    def destroy_named(self, name: str) -> None:
        self.destroyed.append(name)

    def close(self) -> None:
        return


@pytest.fixture
def destroyed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    FakeHypervisor.destroyed = []
    monkeypatch.setattr(reaper, "Hypervisor", FakeHypervisor)
    monkeypatch.setattr(reaper, "_EVERY_S", 0.0)
    return FakeHypervisor.destroyed


@pytest.mark.parametrize(
    ("said", "gone"),
    [
        ("kdh-1-a\nkdh-1-b\n", ["kdh-1-a", "kdh-1-b"]),
        ("kdh-1-a\nkdh-1-a\n", ["kdh-1-a"]),
        ("kdh-1-a\n/\n", []),
        ("", []),
    ],
)
def test_what_is_held_goes_unless_all_is_done(
    destroyed: list[str], monkeypatch: pytest.MonkeyPatch, said: str, gone: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    wait_and_destroy("qemu:///system")
    assert sorted(destroyed) == sorted(gone * reaper._LOOKS)


def test_a_guest_whose_restore_ends_after_our_death_goes_too(
    destroyed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("kdh-1-a\n"))
    wait_and_destroy("qemu:///system")
    assert destroyed == ["kdh-1-a"] * reaper._LOOKS


def test_a_libvirt_that_is_gone_as_well_is_no_traceback(
    destroyed: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("kdh-1-a\n"))
    wait_and_destroy("broken")
    assert not destroyed
    assert capsys.readouterr() == ("", "")


def test_the_process_ends_with_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process reads the names from a pipe without other writers."""
    program = "import sys; names = sys.stdin.read().split(); sys.exit(0 if names == ['kdh-1-a', '/'] else 1)"
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda _command, **options: popen([sys.executable, "-c", program], **options)
    )
    line = Reaper("qemu:///system")
    line.hold("kdh-1-a")
    line.close()
    assert line._process.returncode == 0
