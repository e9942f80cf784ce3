"""A plugin of pytest on a worker: writes each report as a line of JSON for the client's pytest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "KDUMP_FLEET_REPORTS"


class Reports:
    """The file of reports."""

    def __init__(self, config: Any, path: Path) -> None:
        self.config, self.path = config, path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Append a report."""
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data, default=str) + "\n")


def pytest_configure(config: Any) -> None:
    """Register the plugin if a worker set the variable."""
    if path := os.environ.get(VARIABLE):
        config.pluginmanager.register(Reports(config, Path(path)), "kdump-fleet-reports")
