from collections.abc import Callable

from kdump_harness.pytest_plugin import Verdict, pin_image


@pin_image("debian-12", "debian-13")
def test_a_small_reservation_still_dumps(kdump_drill: Callable[..., Verdict]) -> None:
    verdict = kdump_drill()
    assert verdict.verified, verdict.explain()
