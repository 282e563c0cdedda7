"""What a person sees while the demo learns: a panel on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamlearn.core.manifest import version_name
from streamlearn.reporter import Progressed

_REDRAWS_PER_S = 4
_BARS = "▁▂▃▄▅▆▇█"
_FADE = 0.9
"""Of the gain's sparkline per sampled chunk: about the last ten."""


def clock(seconds: float) -> str:
    """Return minutes and seconds.

    >>> clock(83.4)
    '1:23'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


@dataclass
class View:
    """Collects what the worker reports and shows it now and then."""

    console: Console
    minutes: float
    title: str
    first_version: int = 0
    """Newest version before this run."""
    line_every_s: float = 10.0
    """Between two plain lines."""
    _began: float = field(default_factory=time.monotonic)
    _last: Progressed | None = None
    _said_at: float = 0.0
    _seen: dict[int, float] = field(default_factory=dict)
    _gains: list[float] = field(default_factory=list)
    _fading: tuple[float, float] = (0.0, 0.0)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show progress for as long as the block runs; its clock starts here."""
        self._began = self._said_at = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._panel, console=self.console, refresh_per_second=_REDRAWS_PER_S, transient=True):
            yield

    def on_step(self, progressed: Progressed) -> None:
        """Take what the worker says after a step; called in its thread."""
        self._last = progressed
        now = time.monotonic()
        for version in range(max(self.first_version, max(self._seen, default=0)) + 1, progressed.newest_version + 1):
            self._seen[version] = now - self._began
            if not self.console.is_terminal:
                self.console.print(
                    f"{clock(self._seen[version]):>6}  published {version_name(version)}", highlight=False
                )
        self._note_gain(progressed)
        if not self.console.is_terminal and now - self._said_at >= self.line_every_s:
            self._said_at = now
            self.console.print(self._line(progressed, now - self._began), highlight=False, soft_wrap=True)

    def _note_gain(self, progressed: Progressed) -> None:
        total, weight = self._fading
        for live, base, tokens in progressed.nats:
            if base is not None and tokens:
                total, weight = total * _FADE + base - live, weight * _FADE + tokens
                self._gains.append(total / weight)
        self._fading = total, weight

    def _line(self, at: Progressed, elapsed: float) -> str:
        return (
            f"{clock(elapsed):>6}  {at.totals.tokens:>8,} tokens learnt  {at.tokens_per_s:5.0f} tok/s  "
            f"{_scores(at)}  lag {at.lag_records:,} events"
        )

    def _panel(self) -> Panel:
        elapsed = time.monotonic() - self._began
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", justify="right")
        rows.add_column()
        bar = ProgressBar(total=self.minutes * 60.0, completed=min(elapsed, self.minutes * 60.0), width=48)
        rows.add_row(clock(elapsed), bar)
        if (at := self._last) is None:
            rows.add_row("", Text("waiting for the first step"))
        else:
            self._fill(rows, at)
        return Panel(Group(rows), title=self.title, title_align="left", border_style="blue", padding=(1, 2))

    def _fill(self, rows: Table, at: Progressed) -> None:
        rows.add_row(
            "learnt",
            f"{at.totals.tokens:,} tokens of {at.totals.admitted:,} events   "
            f"{at.tokens_per_s:.0f} tok/s (bare step {at.step_tokens_per_s:.0f})",
        )
        live, base = at.scores.live, at.scores.base
        if live is not None and base is not None:
            gain = base.nats_per_token - live.nats_per_token
            rows.add_row("frozen base", f"{base.nats_per_token:.3f} nats/token")
            rows.add_row("live model", f"[bold]{live.nats_per_token:.3f}[/] nats/token, scored before it learns")
            rows.add_row("gain", Text(f"{gain:+.3f}", style="bold green" if gain > 0 else "bold red"))
            rows.add_row("gain lately", Text(sparkline(self._gains[-48:]), style="blue"))
        rows.add_row("waiting", f"{at.lag_records:,} events   window {at.window_chunks:,} chunks")
        said = "  ".join(f"{version_name(v)} at {clock(t)}" for v, t in list(self._seen.items())[-4:])
        rows.add_row("versions", said or "none yet")


def sparkline(values: list[float]) -> str:
    """Return one bar a value, zero and below at the bottom.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▄█'
    """
    top = max([*values, 1e-9])
    return "".join(_BARS[min(int(max(value, 0.0) / top * (len(_BARS) - 1)), len(_BARS) - 1)] for value in values)


def _scores(at: Progressed) -> str:
    live, base = at.scores.live, at.scores.base
    if live is None or base is None:
        return "not scored yet"
    gain = base.nats_per_token - live.nats_per_token
    return f"live {live.nats_per_token:.3f}  base {base.nats_per_token:.3f}  gain {gain:+.3f} nats/token"
