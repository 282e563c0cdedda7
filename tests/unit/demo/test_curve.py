"""The learning curve is what the ledger says, no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamlearn.core.events import Outcome
from streamlearn.core.manifest import EventLine, ScoreLine
from streamlearn.demo.curve import Curve, curve_of, draw, smooth


def score(tokens: int, live: float | None, base: float | None) -> ScoreLine:
    return ScoreLine(id="t:0:0", chunk=0, tokens=tokens, bytes=tokens * 4, nll=live, nll_base=base)


def event() -> EventLine:
    return EventLine(id="t:0:0", topic="t", partition=0, offset=0, ts=0.0, outcome=Outcome.ADMITTED)


def test_the_gain_is_over_chunks_that_both_scored() -> None:
    curve = curve_of(
        [event(), score(10, 20.0, 30.0), score(10, 1.0, None), score(10, None, 30.0), score(30, 60.0, 90.0)]
    )
    assert curve.tokens == 60
    assert [point.at for point in curve.points] == [10, 60]
    assert curve.gain == pytest.approx(40 / 40)


def test_the_last_fifth_is_of_tokens() -> None:
    curve = curve_of([score(80, 80.0, 80.0), score(20, 20.0, 60.0)])
    assert curve.gain == pytest.approx(0.4)
    assert curve.gain_last_fifth == pytest.approx(2.0)


def test_nothing_scored_is_no_gain_rather_than_zero() -> None:
    assert curve_of([event()]).gain is None
    assert curve_of([score(5, 1.0, None)]).gain_last_fifth is None


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0.1, 9), st.floats(0.1, 9)), min_size=1, max_size=60))
def test_smoothing_stays_within_what_was_measured(rows: list[tuple[int, float, float]]) -> None:
    curve = curve_of([score(tokens, live * tokens, base * tokens) for tokens, live, base in rows])
    at, live, base = smooth(curve.points)
    assert at == sorted(at)
    assert min(r[1] for r in rows) - 1e-6 <= min(live) <= max(live) <= max(r[1] for r in rows) + 1e-6
    assert min(r[2] for r in rows) - 1e-6 <= min(base) <= max(base) <= max(r[2] for r in rows) + 1e-6


def test_the_picture_is_a_png(tmp_path: Path) -> None:
    curve = curve_of([score(100, 300.0 - n, 350.0) for n in range(50)])
    draw(curve, [("v000001", 2500)], tmp_path / "curve.png", title="a model on a stream")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve to draw"):
        draw(Curve(points=(), tokens=0), [], tmp_path / "curve.png", title="")
