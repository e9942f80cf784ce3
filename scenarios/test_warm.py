"""A drill on a guest restored from a snapshot has the same verdict as on a booted one."""

from __future__ import annotations

from collections.abc import Callable

from kdump_harness.drill.session import Session
from kdump_harness.pytest_plugin import Verdict

AGREES = (0.75, 1.33)  # ratios between the sizes of two dumps of the same guest


def test_warm_and_cold_verdicts_agree(drill: Callable[..., Verdict], drill_session: Callable[..., Session]) -> None:
    """Two restored guests and a booted one have the same outcome of every check."""
    cold = drill(cold=True)
    session = drill_session()
    assert session.save() is None
    warm = [session.drill(), session.drill()]
    assert not cold.warm
    for verdict in warm:
        assert verdict.warm
        assert {check.name: check.ok for check in verdict.checks} == {check.name: check.ok for check in cold.checks}
        for name in ("kernel", "makedumpfile", "crashkernel", "reserved_mib", "level", "compress", "reached"):
            assert getattr(verdict, name) == getattr(cold, name), name
        assert cold.dump is not None
        assert verdict.dump is not None
        assert AGREES[0] <= verdict.dump["pages_kept"] / cold.dump["pages_kept"] <= AGREES[1]
