"""Kdump that the user's own script sets up in a guest, or a playbook of Ansible on this host."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from ..base.errors import NotArmed, UsageError
from ..vm.guest import Guest

PLACE = "/root/kdump-harness-arm"  # in a guest
TIMEOUT_S = 600.0  # unscaled
_PLAYBOOKS = (".yaml", ".yml")


def check_own_arming(file: Path) -> None:
    """Raise UsageError for a file that is missing, and for a playbook where Ansible is missing."""
    if not file.is_file():
        raise UsageError(f"--arm-with: {file} is not a file")
    if file.suffix in _PLAYBOOKS and shutil.which("ansible-playbook") is None:
        raise UsageError(f"--arm-with: {file.name} needs ansible-playbook (install ansible-core)")


def arm_by(guest: Guest, file: Path, on_line: Callable[[str], None]) -> None:
    """Run the script as root in the guest, or the playbook on this host. Raise NotArmed if it fails."""
    if file.suffix in _PLAYBOOKS:
        status, said = _play(guest, file, on_line)
    else:
        guest.shell.put(file, PLACE)
        timeout_s = TIMEOUT_S * guest.factor
        command = f"chmod 700 {PLACE} && {PLACE} 2>&1"
        ran = guest.shell.run(command, timeout_s=timeout_s, check=False, on_line=on_line)
        status, said = ran.status, ran.out
        guest.shell.run(f"rm {PLACE}")
    if status != 0:
        last = " | ".join(line.strip() for line in said.strip().splitlines()[-3:])
        raise NotArmed(f"{file.name} ended with status {status}", said=last or "nothing")


def _play(guest: Guest, playbook: Path, on_line: Callable[[str], None]) -> tuple[int, str]:
    """Run a playbook over the guest's SSH; return its exit status and its output."""
    with tempfile.TemporaryDirectory() as scratch:
        config = guest.write_ssh_config(Path(scratch))
        variables = {"ansible_ssh_common_args": f"-F {config}", "ansible_become": True}
        if guest.password:
            variables |= {"ansible_password": guest.password, "ansible_become_password": guest.password}
        (Path(scratch) / "variables.json").write_text(json.dumps(variables), encoding="utf-8")
        command = ["ansible-playbook", "-i", f"{guest.name},", "-e", f"@{scratch}/variables.json", str(playbook)]
        timeout_s, lines = TIMEOUT_S * guest.factor, []
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            timer = threading.Timer(timeout_s, process.terminate)  # also of a playbook that prints nothing
            timer.start()
            try:
                for line in process.stdout:
                    lines.append(line)
                    on_line(line.rstrip())
                status = process.wait()
            except BaseException:
                process.terminate()
                raise
            finally:
                timer.cancel()
        if status == -signal.SIGTERM:
            lines.append(f"it was ended, after at most {timeout_s:.0f} s")
        return status, "".join(lines)
