"""The feed behind `streamlearn produce`: lines become records, at their pace, until none is left.

Decides when to stop and what is then said. How a record reaches the brokers
is `ingest.produce`'s, which lines there are `rows`'s.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from streamlearn.cli.interrupt import Interrupt, Interrupted
from streamlearn.cli.meter import Meter
from streamlearn.cli.output import instant, size
from streamlearn.cli.pacing import Pace
from streamlearn.cli.rows import FieldMap, Lines, opened
from streamlearn.ingest.probe import REACH_S, Contact
from streamlearn.ingest.produce import Retention, Tally, TopicWriter, open_writer
from streamlearn.ports import Fatal, SourceRefused, SourceUnavailable, StreamlearnError

_TICK_S = 0.2
"""Longest wait between two looks at signals and acknowledgements."""
_ASK_S = 0.5
"""Wait for the topic's retention when everything is sent."""
_HOUR_S = 3600.0


@dataclass(slots=True, kw_only=True)
class Feed:
    """One file on its way into one topic."""

    file: str
    contact: Contact
    topic: str
    partition: int | None
    fields: FieldMap
    pace: Pace
    limit: int | None
    timeout_s: float = REACH_S
    """Wait for the brokers at the start."""
    seconds: float = 0.0
    """From the first record to the last acknowledgement."""
    blank: int = 0
    tally: Tally = field(default_factory=Tally)

    def run(self, interrupt: Interrupt) -> StreamlearnError | None:
        """Send everything, and return what stopped it on the way, if something did.

        Raises:
            ValueError: there is no such file, or a property is wrong; nothing was sent.
            SourceUnavailable, SourceRefused: the topic cannot be reached; nothing was sent.
        """
        with ExitStack() as closing:
            lines = closing.enter_context(opened(self.file))
            meter = Meter(f"{self.file} → {self.topic}")
            closing.enter_context(meter.shown())
            writer = open_writer(self.contact, self.topic, partition=self.partition, timeout_s=self.timeout_s)
            self.tally = writer.tally
            old = OldRecords(self.contact, self.topic, meter)
            began = time.monotonic()
            fault = self._guarded(lines, writer, meter, old, interrupt)
            self.seconds = time.monotonic() - began
            self.blank = lines.blank
            old.warn(_ASK_S)
        return fault

    def document(self) -> dict[str, Any]:
        """Return the closing as the one JSON object of `produce --json`."""
        return {
            "file": self.file,
            "topic": self.topic,
            "records": self.tally.records,
            "bytes": self.tally.bytes,
            "acknowledged": self.tally.acknowledged,
            "seconds": round(self.seconds, 3),
        }

    def summary(self, *, interrupted: bool) -> str:
        """Return the closing in words."""
        tally = self.tally
        whole = tally.acknowledged == tally.records
        acknowledged = "all" if whole else f"{tally.acknowledged:,}"
        sent = f"{tally.records:,} records ({size(tally.bytes)}) of {self.file} sent to topic {self.topic}"
        said = [f"{sent} in {self.seconds:.1f} s, {acknowledged} acknowledged"]
        if self.blank:
            said.append(f"{self.blank:,} blank line{'' if self.blank == 1 else 's'} left out")
        if interrupted:
            said.append("interrupted there")
        return "; ".join(said)

    def loss(self) -> str:
        """Return what was not delivered, in words."""
        lost = self.tally.records - self.tally.acknowledged
        why = self.tally.first_failure or "no broker has answered for them"
        return f"{lost:,} of {self.tally.records:,} records {'was' if lost == 1 else 'were'} not acknowledged ({why})"

    def _guarded(
        self, lines: Lines, writer: TopicWriter, meter: Meter, old: OldRecords, interrupt: Interrupt
    ) -> StreamlearnError | None:
        fault: StreamlearnError | None = None
        try:
            try:
                self._send(lines, writer, meter, old, interrupt)
            except SourceRefused:
                raise
            except Fatal as error:
                fault = error  # a line's; those before it are on their way
            writer.flush(lambda: self._show(lines, meter))
        except (SourceUnavailable, SourceRefused) as error:
            fault = error  # what is still on its way would meet the same end
        return fault

    def _send(self, lines: Lines, writer: TopicWriter, meter: Meter, old: OldRecords, interrupt: Interrupt) -> None:
        for line, value in _until_told(lines, self.limit, interrupt):
            record, own_time = self.fields.record(line, value)
            due = self.pace.due(own_time, time.monotonic())
            while interrupt.signal is None and (ahead := due - time.monotonic()) > 0:
                writer.serve(min(ahead, _TICK_S))
                self._show(lines, meter)
            while interrupt.signal is None and not writer.send(record):
                self._show(lines, meter)
            old.note(record.ts)
            self._show(lines, meter)

    def _show(self, lines: Lines, meter: Meter) -> None:
        whole, done = (self.limit, self.tally.records) if self.limit is not None else (lines.size, lines.position)
        meter.update(done / whole if whole else None, self.tally.records, self.tally.acknowledged)


def _until_told(lines: Lines, limit: int | None, interrupt: Interrupt) -> Iterator[tuple[int, bytes]]:
    rows = islice(lines, limit)
    while interrupt.signal is None:
        try:
            with interrupt.reading():
                row = next(rows, None)
        except Interrupted:
            return
        if row is None:
            return
        yield row


class OldRecords:
    """Warns of events that are older than their topic keeps records, which is by their own time stamps."""

    def __init__(self, contact: Contact, topic: str, meter: Meter) -> None:
        self._contact = contact
        self._topic = topic
        self._meter = meter
        self._now = time.time()
        self._oldest = math.inf
        self._retention: Retention | None = None
        self._warned = False

    def note(self, ts: float | None) -> None:
        """A record of event time `ts` was sent."""
        if ts is None or ts >= self._oldest or ts <= 0:
            return
        self._oldest = ts
        if self._retention is None and self._now - ts > _HOUR_S:
            self._retention = Retention(self._contact, self._topic)
        self.warn()

    def warn(self, wait_s: float = 0.0) -> None:
        """Say so once, when the brokers have told us what they keep."""
        if self._retention is None or self._warned:
            return
        kept = self._retention.seconds(wait_s)
        if kept is not None and self._now - self._oldest > kept:
            self._warned = True
            self._meter.warn(
                f"warning: topic {self._topic} keeps records for {kept / _HOUR_S:g} hours of their own time, and the "
                f"oldest sent is of {instant(self._oldest)}: the brokers will soon delete it. Set the topic's "
                "retention.ms to -1, or send with --no-ts"
            )
