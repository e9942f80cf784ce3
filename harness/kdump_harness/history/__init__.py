"""History of drills and campaigns: recording, listing and comparison with the past."""

from .database import DEFAULT_NAME, History, RecordedRun, history_path
from .trend import Regression, regressions

__all__ = ["DEFAULT_NAME", "History", "RecordedRun", "Regression", "history_path", "regressions"]
