"""How far a feed has come: a bar on a terminal, a plain line now and then elsewhere; on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 10.0
_REDRAW_S = 0.1


class Meter:
    """Shows records sent and acknowledged."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._began = self._said = time.monotonic()
        self._bar: tuple[Progress, TaskID] | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show a bar for as long as the block, where there is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        with progress:
            self._bar = (progress, progress.add_task(self._title, total=None, said="connecting"))
            yield
            self._bar = None

    def update(self, fraction: float | None, sent: int, acknowledged: int) -> None:
        """Show where the feed stands; cheap to call often.

        Args:
            fraction: of the whole, in [0, 1]; None where its end is not known.
        """
        now = time.monotonic()
        if now - self._said < (_LINE_EVERY_S if self._bar is None else _REDRAW_S):
            return
        self._said = now
        said = f"{sent:,} sent, {acknowledged:,} acknowledged, {acknowledged / (now - self._began):,.0f}/s"
        if self._bar is None:
            share = "" if fraction is None else f" {fraction:4.0%}"
            typer.echo(f"{self._title}:{share} {said}, {now - self._began:.0f} s", err=True)
        else:
            progress, task = self._bar
            progress.update(task, total=None if fraction is None else 1.0, completed=fraction or 0.0, said=said)

    def warn(self, text: str) -> None:
        """Say something without tearing the bar."""
        if self._bar is None:
            typer.echo(text, err=True)
        else:
            self._bar[0].console.print(text, style="yellow", highlight=False, soft_wrap=True, markup=False)
