"""On a worker, a plugin of pytest: writes each report as a line of JSON, for the pytest that asked for the scenario."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "KDUMP_FLEET_REPORTS"


class Reports:
    """Where the reports go."""

    def __init__(self, config: Any, path: Path) -> None:
        self.config, self.path = config, path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Append one."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data, default=str) + "\n")


def pytest_configure(config: Any) -> None:
    """Only where a worker says so."""
    if path := os.environ.get(VARIABLE):
        config.pluginmanager.register(Reports(config, Path(path)), "kdump-fleet-reports")
