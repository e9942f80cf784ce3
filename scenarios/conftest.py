"""The fixtures and options of scenarios under their short names."""

from kdump_harness.pytest_plugin.short_names import *  # noqa: F403
