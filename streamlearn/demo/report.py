"""How the demo closes: what was published, what it gained, what to try next."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamlearn.core.manifest import Manifest
from streamlearn.demo.curve import Curve
from streamlearn.demo.live import clock
from streamlearn.reporter import RunReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One prompt, continued three times."""

    prompt: str
    base: str
    newest: str
    real: str
    """How the text goes on in the stream."""
    learnt: bool
    """The text was learnt already; otherwise no model has seen it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything the closing shows."""

    report: RunReport
    versions: Sequence[Manifest]
    """Of the lineage, oldest first."""
    published: int
    """How many of them this run added."""
    curve: Curve
    picture: Path | None
    completion: Completion | None
    store: Path
    lineage: str
    exhausted: bool
    """The stream has no unlearnt row left."""

    @property
    def tokens_per_s(self) -> float:
        """Trained tokens a second of the whole worker, from ready to the last checkpoint."""
        return self.report.tokens_trained / max(self.report.seconds, 1e-9)

    @property
    def tokens_per_s_step(self) -> float:
        """Trained tokens a second of the bare step."""
        return self.report.tokens_trained / max(self.report.step_seconds, 1e-9)

    def document(self) -> dict[str, Any]:
        """Return the outcome as the one JSON object of `demo --json`."""
        scores = self.report.scores
        return {
            "seconds": round(self.report.seconds, 3),
            "tokens": self.report.tokens_trained,
            "tokens_per_s": round(self.tokens_per_s, 1),
            "tokens_per_s_step": round(self.tokens_per_s_step, 1),
            "versions": self.published,
            "gain_nats_per_token": _rounded(self.curve.gain),
            "gain_last_fifth": _rounded(self.curve.gain_last_fifth),
            "live": _rounded(scores.live.nats_per_token if scores.live else None),
            "base": _rounded(scores.base.nats_per_token if scores.base else None),
            "peak_rss_mb": round(peak_rss_mb(), 1),
            "store": str(self.store),
            "lineage": self.lineage,
        }


def peak_rss_mb() -> float:
    """Return the most memory this process has held, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def show(outcome: Outcome, console: Console) -> None:
    """Print the closing."""
    console.print()
    console.print(_versions(outcome.versions))
    console.print()
    console.print(_figures(outcome))
    if outcome.completion is not None:
        console.print()
        console.print(_completion(outcome.completion))
    console.print()
    if outcome.exhausted:
        console.print("The stream is exhausted: every row is learnt. Begin anew with --fresh.", style="yellow")
    console.print("Try next:", style="bold")
    for command in _next(outcome):
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def _versions(manifests: Sequence[Manifest]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title="Versions", title_justify="left")
    for column in ("version", "parent", "made at (UTC)"):
        table.add_column(column, no_wrap=True)
    for column in ("events", "tokens", "live", "base", "gain"):
        table.add_column(column, justify="right")
    for manifest in manifests:
        live, base = manifest.scores.live, manifest.scores.base
        gain = base.nats_per_token - live.nats_per_token if live and base else None
        table.add_row(
            manifest.version,
            manifest.parent or "–",
            manifest.created_at[:19].replace("T", " "),
            f"{manifest.totals.events:,}",
            f"{manifest.totals.tokens:,}",
            _nats(live.nats_per_token if live else None),
            _nats(base.nats_per_token if base else None),
            _nats(gain),
        )
    return table


def _figures(outcome: Outcome) -> Table:
    report, curve = outcome.report, outcome.curve
    ratio = report.step_seconds / max(report.seconds, 1e-9)
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", justify="right")
    rows.add_column()
    rows.add_row(
        "gain over the frozen base",
        Text.assemble(
            (_nats(curve.gain), "bold green"), f" nats/token, {_nats(curve.gain_last_fifth)} on the last fifth"
        ),
    )
    rows.add_row("", f"{len(curve.points):,} chunks, each scored by both before it was learnt")
    if outcome.versions:
        rows.add_row("champion", _champion(outcome.versions))
    rows.add_row("this run", f"{clock(report.seconds)} min, {report.tokens_trained:,} tokens, replay included")
    rows.add_row(
        "speed",
        f"{outcome.tokens_per_s:.0f} tok/s, bare step {outcome.tokens_per_s_step:.0f} tok/s (ratio {ratio:.2f})",
    )
    rows.add_row("peak memory", f"{peak_rss_mb():,.0f} MB")
    if outcome.picture is not None:
        rows.add_row("learning curve", str(outcome.picture))
    return rows


def _champion(manifests: Sequence[Manifest]) -> str:
    """Say which version serves, and why."""
    name = manifests[-1].judgement.champion
    rulings = [ruling for manifest in manifests for ruling in manifest.judgement.rulings if ruling.moves]
    if not rulings:
        return "the base, as no version has been compared for long enough"
    return f"{name or 'the base'}: {rulings[-1].reason}"


def _completion(completion: Completion) -> Panel:
    rows = Table.grid(padding=(0, 2))
    rows.add_column(style="dim", justify="right", no_wrap=True)
    rows.add_column()
    rows.add_row("prompt", Text(completion.prompt))
    rows.add_row("frozen base", Text(_flat(completion.base)))
    rows.add_row("newest version", Text(_flat(completion.newest), style="blue"))
    rows.add_row("in the stream", Text(_flat(completion.real), style="dim"))
    seen = "the last text learnt" if completion.learnt else "the next text of the stream, unseen by both"
    return Panel(rows, title=f"A prompt from {seen}", title_align="left", border_style="dim")


def _next(outcome: Outcome) -> list[str]:
    program = program_name()
    options = f"--store {_short(outcome.store)} --lineage {outcome.lineage}"
    newest = outcome.versions[-1].version if outcome.versions else "v000001"
    return [
        f"{program} versions {options}",
        f"{program} log {options}",
        f"{program} ledger {options} --version {newest} --limit 20",
        f"{program} pull {newest} ./{outcome.lineage}-{newest} {options}",
    ]


def program_name() -> str:
    """Return how this installation's `streamlearn` is called from here."""
    beside = Path(sys.executable).with_name("streamlearn")
    if shutil.which("streamlearn") or not beside.exists():
        return "streamlearn"
    return _short(beside)


def _short(path: Path) -> str:
    try:
        return f"./{path.relative_to(Path.cwd())}".removeprefix("././")
    except ValueError:
        return str(path)


def _flat(text: str) -> str:
    return " ".join(text.split())


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
