"""The lab's machines still dump, and their agent reports a missing licence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdump_harness.pytest_plugin import Verdict

AGENT = """
[Service]
ExecStartPre=/bin/sh -c 'echo "lab-agent: no licence for this machine" > /dev/kmsg'
"""


def test_the_lab_dumps(kdump_drill: Callable[..., Verdict]) -> None:
    def install_agent(guest: Any, _service: Any) -> None:
        place = "/etc/systemd/system/kdump-tools-dump.service.d"
        guest.shell.run(f"mkdir -p {place}")
        guest.shell.write_text(f"{place}/lab-agent.conf", AGENT)
        guest.shell.run("sync")

    verdict = kdump_drill(before_crash=install_agent)
    assert verdict.verified, verdict.explain()
    assert verdict.family == "lab"
    assert "lab-agent-licence" in {symptom["name"] for symptom in verdict.symptoms}
