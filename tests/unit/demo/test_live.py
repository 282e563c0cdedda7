"""What a person is shown while the demo learns."""

from __future__ import annotations

import io

from rich.console import Console

from streamlearn.core.manifest import Score, Scores, Totals
from streamlearn.demo.live import View, sparkline
from streamlearn.reporter import Progressed


def score(nats: float) -> Score:
    return Score(nats_per_token=nats, bits_per_byte=nats, tokens=10)


def progressed(*, version: int = 0, base: float | None = 3.5) -> Progressed:
    return Progressed(
        totals=Totals(events=12, admitted=12, tokens=3456, steps=9),
        scores=Scores(live=score(3.25), base=score(base) if base is not None else None),
        tokens_per_s=432.1,
        step_tokens_per_s=470.0,
        lag_records=1981,
        newest_version=version,
        window_chunks=20,
        nats=((32.5, base * 10 if base is not None else None, 10),),
    )


def shown(*, terminal: bool, steps: list[Progressed], line_every_s: float = 0.0) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=100, color_system=None)
    view = View(console=console, minutes=3.0, title="streamlearn demo", line_every_s=line_every_s)
    with view.shown():
        for step in steps:
            view.on_step(step)
    return out.getvalue()


def test_a_pipe_gets_plain_lines_without_control_sequences() -> None:
    text = shown(terminal=False, steps=[progressed()])
    assert "\x1b" not in text
    assert "3,456 tokens learnt" in text
    assert "live 3.250  base 3.500  gain +0.250 nats/token" in text
    assert "lag 1,981 events" in text


def test_lines_come_now_and_then_but_every_version_has_one() -> None:
    steps = [progressed(), progressed(version=1), progressed(version=1), progressed(version=2)]
    lines = shown(terminal=False, steps=steps, line_every_s=1e9).splitlines()
    assert [line.split()[-1] for line in lines] == ["v000001", "v000002"]


def test_versions_of_earlier_runs_are_not_announced_as_new() -> None:
    out = io.StringIO()
    view = View(console=Console(file=out, width=100), minutes=3.0, title="demo", first_version=7)
    view.on_step(progressed(version=7))
    assert "published" not in out.getvalue()


def test_a_terminal_gets_a_panel_with_scores_gain_lag_and_versions() -> None:
    text = shown(terminal=True, steps=[progressed(), progressed(version=1)])
    for words in ("streamlearn demo", "3.500 nats/token", "+0.250", "1,981 events", "v000001 at 0:00", "bare step 470"):
        assert words in text


def test_before_the_base_has_scored_a_chunk_nothing_is_claimed() -> None:
    assert "not scored yet" in shown(terminal=False, steps=[progressed(base=None)])
    assert "gain" not in shown(terminal=True, steps=[progressed(base=None)])


def test_a_loss_is_drawn_at_the_bottom() -> None:
    assert sparkline([-1.0, 1.0]) == "▁█"
    assert sparkline([]) == ""
