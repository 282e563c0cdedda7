"""The ingest thread: polls without pause, refines, and fills a bounded buffer.

Above the high-water mark it holds fetching, below the low one it goes on, and
it polls in either case. Every offset becomes exactly one arrival. What ends the
thread is raised by `take()`, after everything before it was taken. Knows
nothing of Kafka: records come through the port.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import structlog

from streamlearn.config import Config
from streamlearn.core.events import Arrival, Progress, Record
from streamlearn.core.manifest import Origin
from streamlearn.ingest.buffer import Buffer
from streamlearn.ingest.lag import Lag
from streamlearn.ingest.limited import Limited
from streamlearn.ingest.lost_data import LostOffsets
from streamlearn.ingest.refine import Refiner
from streamlearn.ports import Chunker, Clock, Fatal, IntakeStatus, Records, SourceUnavailable, Telemetry

_log = structlog.get_logger(__name__)

_IDLE_S = 0.1
"""Longest wait for a record or for room, so that a stop is noticed."""
_PATIENCE_S = 1.0
"""How long the buffer must stay full before fetching pauses. Pausing throws away what was fetched ahead, which a
learner that is only a little slower than the stream should not pay for several times a second."""
_MEASURE_S = 2.0
"""Seconds between looks at the high-water marks; an answer older than a scrape would mislead."""
_MEASURE_AGAIN_S = 5.0
"""The same while the brokers do not answer."""


class Intake:
    """An `EventSource` over any `Records`."""

    def __init__(
        self,
        records: Records,
        refiner: Refiner,
        lost: LostOffsets,
        buffer: Buffer,
        *,
        tolerant: bool,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        self._records = records
        self._refiner = refiner
        self._lost = lost
        self._buffer = buffer
        self._tolerant = tolerant
        self._telemetry = telemetry
        self._clock = clock
        self._limited = Limited(every_s=30.0, monotonic=clock.monotonic)
        self._pending: deque[Record] = deque()
        self._reached: Progress = {}
        self._passable: dict[tuple[str, int], int] = {}
        self._begun: dict[tuple[str, int], int] = {}
        self._begun_ids: dict[tuple[str, int], str] = {}
        self._entries: tuple[str, ...] = ()
        self._recalled = Origin()
        self._trouble: str | None = None
        self._lag = Lag()
        self._paused = False
        self._progress: Progress = {}
        self._last_turn = self._measure_at = clock.monotonic()
        self._assigned = threading.Event()
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="ingest", daemon=True)

    # --- from the learner's thread ----------------------------------------------

    def recall(self, origin: Origin) -> None:
        """Take what the offsets that `start` will be given are offsets of; before `start`, if at all."""
        self._recalled = origin

    def start(self, progress: Progress) -> None:
        """Begin to read from `progress`, or behind the gap after it that was recalled; returns at once."""
        self._progress = {
            topic: {place: max(at, self._recalled.passed.get(topic, {}).get(place, 0)) for place, at in offsets.items()}
            for topic, offsets in progress.items()
        }
        self._thread.start()

    def take(self, timeout_s: float) -> Arrival | None:
        """Return the next arrival, or None after `timeout_s`.

        Raises:
            BaseException: whatever ended the ingest thread, once all arrivals before it are taken.
        """
        arrival = self._buffer.take(timeout_s)
        if arrival is None:
            self._check()
        return arrival

    def ends(self, should_stop: Callable[[], bool]) -> Progress:
        """Return the high-water marks of all partitions now; waits for the first assignment and out of outages.

        Returns nothing when closed or told to stop meanwhile; raises what ended the ingest thread.
        """
        while not self._stopping.is_set() and not should_stop():
            self._check()
            if self._assigned.wait(_IDLE_S):
                try:
                    return self._records.watermarks()
                except SourceUnavailable as error:
                    self._say_unavailable(error)
                    self._stopping.wait(_IDLE_S)
        return {}

    def caught_up(self, ends: Progress) -> bool:
        """Whether everything below `ends` has been taken (gaps at the end of a partition count as taken)."""
        # One look at what was put, before any at what was taken: the other
        # order could miss records put between the two. By partition, as a busy
        # stream never leaves the buffer empty.
        reached = self._reached
        return all(
            self._buffer.passed(topic, partition, end, reached=reached.get(topic, {}).get(partition, -1))
            for topic, offsets in ends.items()
            for partition, end in offsets.items()
        )

    def begun(self) -> Progress:
        """Return the offset at which reading began, of every partition known so far.

        What a first checkpoint must know of partitions without a record: with
        `kafka.start = "latest"`, a restart would skip what came meanwhile.
        """
        begun: Progress = {}
        for (topic, partition), offset in dict(self._begun).items():
            begun.setdefault(topic, {})[partition] = offset
        return begun

    def origin(self) -> Origin:
        """Return what the offsets of everything taken so far, and of `begun`, are offsets of.

        By partition: while records of a topic wait in the buffer, reading may
        have gone on in another of the same name.
        """
        recalled = {
            (topic, place): told for topic, ids in self._recalled.topic_ids.items() for place, told in ids.items()
        }
        topic_ids: dict[str, dict[int, str]] = {}
        # What was recalled holds until something is taken: progress still stands where it stood.
        for (topic, place), told in (dict(self._begun_ids) | recalled | self._buffer.topic_ids()).items():
            topic_ids.setdefault(topic, {})[place] = told
        return Origin(topic_ids=topic_ids, entries=self._entries, passed=self._passed())

    def _passed(self) -> Progress:
        """Return where all that was read has been taken and reading is beyond it; for the thread that takes."""
        # What was put first, as in `caught_up`.
        passable = self._passable
        taken, waiting = self._buffer.taken()
        passed: Progress = {}
        for (topic, place), offset in passable.items():
            if (topic, place) not in waiting and offset > taken.get((topic, place), self._begun[topic, place]):
                passed.setdefault(topic, {})[place] = offset
        for topic, offsets in self._recalled.passed.items():
            for place, offset in offsets.items():
                if (topic, place) not in taken:
                    passed.setdefault(topic, {}).setdefault(place, offset)
        return passed

    def status(self) -> IntakeStatus:
        """Return a cheap snapshot, from any thread; lag counts from what was taken."""
        return IntakeStatus(
            assigned=self._assigned.is_set(),
            buffered_records=self._buffer.records,
            buffered_bytes=self._buffer.bytes,
            paused=self._paused,
            lag_records=self._lag.told(self._buffer.waiting()),
            last_poll_age_s=max(self._clock.monotonic() - self._last_turn, 0.0),
            trouble=self._trouble,
        )

    def mirror(self, progress: Progress) -> None:
        """Show `progress` to lag tools; never raises."""
        self._records.mirror(progress)

    def close(self) -> None:
        """Stop the thread, leave the brokers; idempotent."""
        self._stopping.set()
        self._buffer.close()
        if self._thread.is_alive():
            self._thread.join()
        self._records.close()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    # --- in the ingest thread ------------------------------------------------------

    def _guarded(self) -> None:
        try:
            self._records.assign(self._progress, self._recalled)
            while not self._stopping.is_set():
                self._turn()
        except BaseException as failure:  # noqa: BLE001 - handed to the main thread, which ends the process
            self._failure = failure
            self._buffer.close()

    def _turn(self) -> None:
        """Come round once: refine what was fetched, then fetch or wait for room."""
        self._fill()
        if self._pending:
            self._wait_for_room()
        elif self._paused and self._buffer.wait_low(_IDLE_S):
            self._resume()
        if self._paused:
            # Nothing comes, but errors, statistics and new partitions do.
            self._pending.extend(self._records.poll(0.0))
        elif not self._pending:
            self._pending.extend(self._records.poll(_IDLE_S))
        self._last_turn = self._clock.monotonic()
        if self._last_turn >= self._measure_at:
            self._measure()

    def _fill(self) -> None:
        """Move what was fetched into the buffer while there is room."""
        while self._pending and not self._buffer.full and not self._stopping.is_set():
            self._accept(self._pending.popleft())
        if not self._pending:
            self._note_positions()

    def _accept(self, record: Record) -> None:
        # Before the position that its batch has moved already.
        self._begun.setdefault((record.topic, record.partition), record.offset)
        # Positions are noted between batches; meanwhile a topic made anew may have begun again from 0.
        if self._passable.get((record.topic, record.partition), 0) > record.offset:
            self._passable[record.topic, record.partition] = record.offset
        skipped = self._lost.before(record.topic, record.partition, record.offset)
        arrival = self._refiner.refine(record, skipped=skipped)
        if (rejection := arrival.rejection) is not None:
            self._telemetry.count("streamlearn_rejections_total", stage=rejection.stage, error=rejection.error)
            if not self._tolerant:
                raise Fatal(
                    f'errors.tolerance = "none", and {record.topic} partition {record.partition} offset '
                    f"{record.offset} is no event ({rejection.error}): {rejection.message}. The worker stopped before "
                    'it; mend the producer, or set errors.tolerance = "all" to pass it as a dead letter'
                )
        self._buffer.put(arrival, record.topic_id)

    def _note_positions(self) -> None:
        """Everything below the positions is in the buffer or taken."""
        self._reached = reached = self._records.positions()
        for topic, offsets in reached.items():
            for partition, offset in offsets.items():
                self._begun.setdefault((topic, partition), offset)
        origin = self._records.origin()
        for topic, ids in origin.topic_ids.items():
            for partition, told in ids.items():
                self._begun_ids.setdefault((topic, partition), told)
        self._entries = origin.entries
        # New, not changed: another thread may be reading the old one.
        self._passable = {
            (topic, partition): offset
            for topic, offsets in reached.items()
            for partition, offset in offsets.items()
            if not self._lost.untold(topic, partition)
        }
        # Last: whoever sees the assignment relies on where it began.
        if reached and not self._assigned.is_set():
            self._assigned.set()

    def _wait_for_room(self) -> None:
        if self._buffer.wait_not_full(_IDLE_S if self._paused else _PATIENCE_S) or self._paused:
            return
        self._records.pause()
        self._paused = True
        self._telemetry.gauge("streamlearn_ingest_paused", 1)

    def _resume(self) -> None:
        if self._stopping.is_set():
            return
        self._records.resume()
        self._paused = False
        self._telemetry.gauge("streamlearn_ingest_paused", 0)

    def _measure(self) -> None:
        """Refresh the lag and the gauges."""
        say = self._telemetry
        say.gauge("streamlearn_ingest_buffer_records", self._buffer.records)
        say.gauge("streamlearn_ingest_buffer_bytes", self._buffer.bytes)
        self._measure_at = self._clock.monotonic() + _MEASURE_S
        try:
            marks = self._records.watermarks() if self._assigned.is_set() else {}
        except SourceUnavailable as error:
            self._say_unavailable(error)
            self._trouble = f"the brokers do not answer, and nothing new comes meanwhile ({error})"
            self._measure_at = self._clock.monotonic() + _MEASURE_AGAIN_S
            return
        self._trouble = None
        self._lag.measure(marks, self._records.positions(), self._pending)

    def _say_unavailable(self, error: SourceUnavailable) -> None:
        if (held_back := self._limited.due("unavailable")) is not None:
            _log.warning("the brokers do not answer; waiting", reason=str(error), held_back=held_back)


def open_intake(
    config: Config, records: Records, lost: LostOffsets, chunker: Chunker, telemetry: Telemetry, clock: Clock
) -> Intake:
    """Wire an intake over `records` by the knobs of `[ingest]` and `[errors]`."""
    return Intake(
        records,
        Refiner(config.ingest, chunker, clock, near_duplicates=config.hygiene.near_duplicates),
        lost,
        Buffer(max_records=config.ingest.buffer_records, max_bytes=config.ingest.buffer_bytes),
        tolerant=config.errors.tolerance == "all",
        telemetry=telemetry,
        clock=clock,
    )
