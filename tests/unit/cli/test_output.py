"""How data are shown."""

from __future__ import annotations

import pytest

from streamlearn.cli.output import instant


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (1_793_534_400.0, "2026-11-01T12:00:00Z"),
        (-62_135_596_800.0, "0001-01-01T00:00:00Z"),
        (253_402_300_800.0, "2.53402e+11 s"),
        (1.7e12, "1.7e+12 s"),
        (-1e20, "-1e+20 s"),
        (float("inf"), "inf s"),
        (float("nan"), "nan s"),
    ],
)
def test_any_time_can_be_shown(seconds: float, shown: str) -> None:
    """One dead letter from the year 55840 must not end a listing of the ledger."""
    assert instant(seconds) == shown
